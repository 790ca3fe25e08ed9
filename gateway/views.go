package gateway

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"sitewire/bgp"
	"sitewire/gateway/config"
	"sitewire/gateway/probe"
	"sitewire/gateway/wg"
	"sitewire/routes"
)

// Status is the gateway at a glance.
func (g *Gateway) Status() Status {
	f := g.current.Load()
	ts, speaker, table := g.Tunnels(), g.Sessions(), g.Routing()
	s := Status{
		APIVersion: APIVersion,
		Problems:   append(problems(f, ts, speaker, table, g.probes()), rpkiProblems(g.Origins(), g.started, time.Now())...),
		Health:     "ok",
		Site:       f.cfg.Site,
		Version:    g.o.Version,
		ASN:        f.cfg.ASN,
		Started:    g.started,
		Now:        time.Now(),
		Config:     f.info,
		Tunnels:    Tally{All: len(ts)},
		Routes:     byFamily(table.Installed.Routes),
		Pending:    table.Pending,
		Synced:     !table.Synced.IsZero() && table.Pending == 0,
	}
	if b, err := g.o.Backend(string(f.cfg.WireGuard.Backend)); err == nil {
		s.WireGuard = WireGuardInfo{Backend: b.Name, Reason: b.Reason}
	}
	if f.cfg.RouterID.IsValid() {
		s.RouterID = f.cfg.RouterID.String()
	}
	for _, t := range ts {
		if t.Alive() {
			s.Tunnels.Up++
		}
	}
	for _, x := range speaker.Sessions {
		switch {
		case x.AdminDown:
			s.Sessions.Disabled++
			continue
		case x.State == bgp.Established:
			s.Sessions.Up++
		}
		s.Sessions.All++
	}
	if len(s.Problems) > 0 {
		s.Health = "degraded"
	}
	return s
}

// byFamily names the entries of an array that is indexed by routes.Family.
func byFamily[T any](n [2]T) map[string]T {
	return map[string]T{routes.IPv4.String(): n[routes.IPv4], routes.IPv6.String(): n[routes.IPv6]}
}

// problems lists what an operator should look at, with the cause rather than its effects: a session behind a tunnel
// that is down is not mentioned.
func problems(f *inForce, ts []wg.Tunnel, speaker *bgp.Snapshot, table *routes.Status, probes map[string]*probe.Stats) []Problem {
	out := []Problem{}
	add := func(subject, what, fix string) { out = append(out, Problem{subject, what, fix}) }
	switch keys := f.info.RestartRequired; {
	case len(keys) > 0:
		add("configuration", "the last reload was refused: "+strings.Join(keys, ", ")+" cannot change while running; the older configuration is in force", "restart sitewire to apply the file")
	case f.info.LastError != "":
		add("configuration", "the last reload was refused; the older configuration is in force", "sitewire check "+f.info.Path)
	}
	alive := map[string]bool{"": true}
	for _, t := range ts {
		alive[t.Peer] = t.Alive()
		switch t.State {
		case wg.TunnelNew:
			fix := "check both public keys, the preshared key and that UDP reaches the other end"
			switch {
			case t.Endpoint.IsValid():
			case t.Resolutions > 0:
				fix = "check the name in `endpoint`, and this machine's name servers"
			default:
				fix = "the peer has no endpoint here: the other end must call, or give it an `endpoint`"
			}
			add(t.Peer, "tunnel has not come up: "+t.Reason, fix)
		case wg.TunnelDown:
			add(t.Peer, fmt.Sprintf("tunnel is down since %s: %s", t.Since.Format(time.RFC3339), t.Reason),
				"look at the other end and at the path to "+endpointText(t))
		case wg.TunnelUp:
			out = append(out, probeProblems(t, probes[t.Peer])...)
		}
	}
	for _, s := range speaker.Sessions {
		if s.AdminDown {
			continue
		}
		if s.State != bgp.Established {
			if behind := s.Peer; !s.Tunnel || alive[behind] {
				what := fmt.Sprintf("BGP session is %s", s.State)
				if s.LastError != "" {
					what += ": " + s.LastError
				}
				add(s.Name, what, "sitewire bgp "+s.Name)
			}
			continue
		}
		for _, w := range s.Warnings {
			add(s.Name, w, "")
		}
	}
	if n := table.Pending; n > 0 && time.Since(table.OldestPending) > 30*time.Second {
		add("routes", fmt.Sprintf("%d changes have waited for the kernel since %s", n, table.OldestPending.Format(time.RFC3339)), "sitewire routes shows the reason at each")
	}
	return out
}

func endpointText(t wg.Tunnel) string {
	if t.Endpoint.IsValid() {
		return t.Endpoint.String()
	}
	return "it (no endpoint known)"
}

// Peers lists tunnels with what hangs on them.
func (g *Gateway) Peers() Peers {
	cfg, speaker, table, probes := g.Config(), g.Sessions(), g.Routing(), g.probes()
	out := Peers{APIVersion: APIVersion, Peers: []Peer{}}
	for _, t := range g.Tunnels() {
		p := Peer{Tunnel: t, AllowedIPs: byFamily(allowedIPs(table, t.Peer)), Routes: byFamily(routesVia(table, t.Peer))}
		if i := slices.IndexFunc(cfg.Peers, func(c *config.Peer) bool { return c.Name == t.Peer }); i >= 0 {
			p.ASN, p.Mode = cfg.Peers[i].ASN, string(cfg.Peers[i].Mode)
			p.Probe = probeView(cfg.Peers[i].Probe, probes[t.Peer])
		}
		for _, s := range speaker.Sessions {
			if s.Tunnel && s.Peer == t.Peer {
				p.Sessions = append(p.Sessions, s)
			}
		}
		out.Peers = append(out.Peers, p)
	}
	slices.SortFunc(out.Peers, func(a, b Peer) int { return cmp.Compare(a.Peer, b.Peer) })
	return out
}

// BGP lists the sessions.
func (g *Gateway) BGP() Sessions {
	cfg := g.Config()
	return Sessions{APIVersion: APIVersion, ASN: cfg.ASN, RouterID: cfg.RouterID, Sessions: append([]bgp.Session{}, g.Sessions().Sessions...)}
}

func compareStrings(a, b string) int { return strings.Compare(a, b) }

// allowedIPs counts what the peer owns, by family.
func allowedIPs(table *routes.Status, peer string) (n [2]int) {
	for _, f := range []routes.Family{routes.IPv4, routes.IPv6} {
		n[f] = table.Installed.AllowedIPs[routes.PeerFamily{Peer: peer, Family: f}]
	}
	return n
}

// routesVia counts the desired routes through the peer, by family.
func routesVia(table *routes.Status, peer string) (n [2]int) {
	for k, count := range table.Desired.Routes {
		if k.Label == peer {
			n[k.Family] += count
		}
	}
	return n
}
