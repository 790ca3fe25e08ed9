package gateway

import (
	"fmt"
	"net/netip"
	"time"

	"sitewire/gateway/config"
	"sitewire/gateway/probe"
	"sitewire/gateway/wg"
)

// setProbes tells the prober which tunnels there are and how they are now.
func (g *Gateway) setProbes(cfg *config.Config, ts []wg.Tunnel) {
	if g.o.Prober != nil {
		g.o.Prober.Set(probeTargets(cfg, ts))
	}
}

// probeTargets lists all peers. A tunnel that has not come up yet is not probed: there is nothing to measure, and whoever
// waits for a site that is not built yet needs no losses.
func probeTargets(cfg *config.Config, ts []wg.Tunnel) []probe.Target {
	byPeer := make(map[string]*wg.Tunnel, len(ts))
	for i := range ts {
		byPeer[ts[i].Peer] = &ts[i]
	}
	out := make([]probe.Target, 0, len(cfg.Peers))
	for _, p := range cfg.Peers {
		target := probe.Target{Peer: p.Name, Device: p.Device, Interval: p.Probe, Timeout: min(cfg.Probe.Timeout, p.Probe), PathMTU: cfg.Probe.MTU}
		target.Local, target.Remote = tunnelEnds(p.Tunnel)
		if t := byPeer[p.Name]; t != nil {
			target.Met, target.Up, target.MTU = t.State != wg.TunnelNew, t.State == wg.TunnelUp, t.MTU
		}
		out = append(out, target)
	}
	return out
}

// tunnelEnds chooses the addresses to probe between: those that BGP uses, if there are several.
func tunnelEnds(t config.Tunnel) (local, remote netip.Addr) {
	for _, x := range [][2]netip.Addr{{t.Local, t.Remote}, {t.LocalIPv6, t.RemoteIPv6}, {t.LocalIPv4, t.RemoteIPv4}} {
		if x[0].IsValid() && x[1].IsValid() {
			return x[0], x[1]
		}
	}
	return netip.Addr{}, netip.Addr{}
}

// probes returns what was found, by peer.
func (g *Gateway) probes() map[string]*probe.Stats {
	if g.o.Prober == nil {
		return nil
	}
	out := map[string]*probe.Stats{}
	for _, s := range g.o.Prober.Snapshot() {
		out[s.Peer] = s
	}
	return out
}

// probeView is nil for a peer that is not probed.
func probeView(interval time.Duration, s *probe.Stats) *Probe {
	if s == nil || interval == 0 {
		return nil
	}
	r := s.Recent
	return &Probe{
		Interval: interval.Seconds(),
		Sent:     s.Sent, Lost: s.Lost, Recent: r.Echoes, RecentLost: r.Lost,
		RTT: r.Last.Seconds(), RTTMin: r.Min.Seconds(), RTTMean: r.Mean.Seconds(), RTTMax: r.Max.Seconds(),
		PathMTU: s.PathMTU, Error: s.Error,
	}
}

// probeProblems are those of a tunnel that is up and yet does not carry everything.
func probeProblems(t wg.Tunnel, s *probe.Stats) (out []Problem) {
	const (
		loss   = 0.05 // as in the alert SitewireTunnelPacketLoss
		enough = 3    // losses to speak of
	)
	if s == nil {
		return nil
	}
	if r := s.Recent; r.Lost >= enough && r.Loss() > loss {
		fix := "look at the path to " + endpointText(t) + " and at the load of both ends; sitewire peers " + t.Peer
		switch {
		case s.Error != "":
			fix = "echoes cannot be sent: " + s.Error
		case r.Lost == r.Echoes:
			fix = "does the other end answer pings to its tunnel address? If it never does: probe: off for this peer"
		}
		out = append(out, Problem{t.Peer, fmt.Sprintf("%d of the last %d echoes through the tunnel were lost", r.Lost, r.Echoes), fix})
	}
	if s.PathMTU > 0 && s.PathMTU < t.MTU {
		out = append(out, Problem{t.Peer, fmt.Sprintf("packets over %d bytes do not get through the tunnel, whose MTU is %d", s.PathMTU, t.MTU),
			fmt.Sprintf("write mtu: %d for this peer, here and at the other end", max(s.PathMTU, 1280))})
	}
	return out
}
