package wg

import (
	"net/netip"
	"time"
)

// TunnelState is what liveness says of a tunnel. A WireGuard link itself never goes down.
type TunnelState string

// States of a tunnel.
const (
	TunnelNew   TunnelState = "new"   // no handshake yet
	TunnelUp    TunnelState = "up"    // heard from within the peer's dead_after
	TunnelStale TunnelState = "stale" // silent for longer, but nothing was expected: no keepalive and nothing sent
	TunnelDown  TunnelState = "down"  // silent although something was expected, or the device is gone
)

// Tunnel is a snapshot of one peer's tunnel.
type Tunnel struct {
	Peer      string      `json:"peer"`
	Site      string      `json:"site,omitempty"`
	Device    string      `json:"device"`
	Backend   string      `json:"backend"`
	PublicKey PublicKey   `json:"public_key"`
	PSK       bool        `json:"preshared_key"`
	State     TunnelState `json:"state"`
	Reason    string      `json:"reason"`
	Since     time.Time   `json:"since"`
	// Endpoint in use now; invalid if none is known.
	Endpoint      netip.AddrPort `json:"endpoint,omitzero"`
	LastHandshake time.Time      `json:"last_handshake,omitzero"`
	// LastReceive is when the poll last saw authenticated bytes arrive.
	LastReceive         time.Time     `json:"last_receive,omitzero"`
	ReceiveBytes        uint64        `json:"receive_bytes"`
	TransmitBytes       uint64        `json:"transmit_bytes"`
	PersistentKeepalive time.Duration `json:"-"`
	MTU                 int           `json:"mtu"`
	// Counters since the peer was configured.
	Handshakes         uint64 `json:"handshakes"`
	EndpointChanges    uint64 `json:"endpoint_changes"`
	Resolutions        uint64 `json:"endpoint_resolutions"`
	ResolutionFailures uint64 `json:"endpoint_resolution_failures"`
}

// Alive reports whether routes through the tunnel make sense: it is up, or idle without being expected to speak.
func (t *Tunnel) Alive() bool { return t.State == TunnelUp || t.State == TunnelStale }

// LinkCounters are what the kernel counts of a device: packets inside its tunnels, of all its peers.
type LinkCounters struct {
	ReceivePackets, ReceiveErrors, ReceiveDrops    uint64
	TransmitPackets, TransmitErrors, TransmitDrops uint64
}
