package metrics

import (
	"strconv"

	"sitewire/gateway/wg"
)

// tunnelMetrics is the group of WireGuard tunnels.
type tunnelMetrics struct {
	info, endpoint, up, handshake, handshakes, receive, transmit *metric
	endpointChanges, resolutions, resolutionFailures             *metric
	keepalive, mtu                                               *metric
}

func newTunnelMetrics(c *catalogue, endpointInfo bool) *tunnelMetrics {
	c.group("Tunnels")
	t := &tunnelMetrics{
		info:               c.gauge("tunnel_info", "Always 1; the labels tell what the tunnel is.", "peer", "site", "device", "public_key", "backend", "psk"),
		up:                 c.gauge("tunnel_up", "1 while the peer is heard from, or is silent where nothing was expected from it.", "peer"),
		handshake:          c.gauge("tunnel_last_handshake_timestamp_seconds", "Unix time of the last handshake; 0 if there was none.", "peer"),
		handshakes:         c.counter("tunnel_handshakes_total", "Handshakes seen: sampled, so that two within a sample count once.", "peer"),
		receive:            c.counter("tunnel_receive_bytes_total", "Bytes received from the peer, WireGuard's own included.", "peer"),
		transmit:           c.counter("tunnel_transmit_bytes_total", "Bytes sent to the peer, WireGuard's own included.", "peer"),
		endpointChanges:    c.counter("tunnel_endpoint_changes_total", "Changes of the peer's outer address, by roaming, NAT or DNS.", "peer"),
		resolutions:        c.counter("tunnel_endpoint_resolutions_total", "Look-ups of the peer's host names.", "peer"),
		resolutionFailures: c.counter("tunnel_endpoint_resolution_failures_total", "Look-ups of the peer's host names that failed.", "peer"),
		keepalive:          c.gauge("tunnel_persistent_keepalive_seconds", "Configured interval of keepalives; 0 is off.", "peer"),
		mtu:                c.gauge("device_mtu_bytes", "MTU of the WireGuard device.", "device"),
	}
	if endpointInfo {
		t.endpoint = c.gauge("tunnel_endpoint_info", "Always 1; the outer address of the peer. Only if asked for.", "peer", "endpoint")
	}
	return t
}

func (t *tunnelMetrics) collect(e *emitter, s *scrape) {
	devices := make(map[string]bool, len(s.tunnels))
	for i := range s.tunnels {
		x := &s.tunnels[i]
		t.tunnel(e, x)
		if !devices[x.Device] { // peers may share a device
			devices[x.Device] = true
			e.gauge(t.mtu, float64(x.MTU), x.Device)
		}
	}
}

func (t *tunnelMetrics) tunnel(e *emitter, x *wg.Tunnel) {
	e.gauge(t.info, 1, x.Peer, x.Site, x.Device, x.PublicKey.String(), x.Backend, strconv.FormatBool(x.PSK))
	if t.endpoint != nil && x.Endpoint.IsValid() {
		e.gauge(t.endpoint, 1, x.Peer, x.Endpoint.String())
	}
	e.flag(t.up, x.Alive(), x.Peer)
	e.time(t.handshake, x.LastHandshake, x.Peer)
	e.counter(t.handshakes, x.Handshakes, x.Peer)
	e.counter(t.receive, x.ReceiveBytes, x.Peer)
	e.counter(t.transmit, x.TransmitBytes, x.Peer)
	e.counter(t.endpointChanges, x.EndpointChanges, x.Peer)
	e.counter(t.resolutions, x.Resolutions, x.Peer)
	e.counter(t.resolutionFailures, x.ResolutionFailures, x.Peer)
	e.gauge(t.keepalive, x.PersistentKeepalive.Seconds(), x.Peer)
}
