package gateway

import (
	"net/netip"
	"slices"

	"sitewire/bgp"
	"sitewire/gateway/config"
	"sitewire/gateway/host"
	"sitewire/gateway/wg"
	"sitewire/routes"
)

// This file turns a configuration, and what the tunnels are like now, into what the parts of the gateway are told.
// All of it is pure: the gateway's loop computes it again whenever something changed, and the parts find the
// differences.

// rulePriority is where our policy rules begin: before the kernel's own rule for the main table (32766).
const rulePriority = 20763

// deviceSpecs lists the devices with their peers, sorted by name.
func deviceSpecs(c *config.Config) []deviceSpec {
	byName := map[string]*deviceSpec{}
	for _, p := range c.Peers {
		d := byName[p.Device]
		if d == nil {
			d = &deviceSpec{Backend: string(c.WireGuard.Backend), DeviceConfig: wg.DeviceConfig{
				Name:         p.Device,
				PrivateKey:   p.PrivateKey,
				FirewallMark: c.WireGuard.FirewallMark,
				ListenPort:   p.ListenPort,
				MTU:          p.MTU,
			}}
			if p.Shared {
				d.ListenPort, d.MTU = c.WireGuard.ListenPort, c.WireGuard.MTU
			}
			byName[p.Device] = d
		}
		d.Addresses = append(d.Addresses, addresses(p)...)
		spec := peerSpec{
			PeerConfig: wg.PeerConfig{
				Name:                p.Name,
				PublicKey:           p.PublicKey,
				PresharedKey:        p.PresharedKey,
				PersistentKeepalive: p.Keepalive,
			},
			Site:      p.Name,
			Pin:       p.PinEndpoint,
			DeadAfter: p.DeadAfter,
		}
		for _, e := range p.Endpoints {
			spec.Endpoints = append(spec.Endpoints, e.String())
		}
		d.Peers = append(d.Peers, spec)
	}
	out := make([]deviceSpec, 0, len(byName))
	for _, d := range byName {
		slices.SortFunc(d.Addresses, host.Address.Compare)
		d.Addresses = slices.Compact(d.Addresses)
		out = append(out, *d)
	}
	slices.SortFunc(out, func(a, b deviceSpec) int { return compareStrings(a.Name, b.Name) })
	return out
}

// addresses of our end of the tunnel to p. On a device of its own the peer's address is the other end of the
// address (as `ip address add A peer B`), so that it is on link; on a shared device the syncer routes it.
func addresses(p *config.Peer) (out []host.Address) {
	remotes := p.Tunnel.Remotes()
	for _, local := range p.Tunnel.Locals() {
		a := host.Address{Local: netip.PrefixFrom(local, local.BitLen())}
		if local.IsLinkLocalUnicast() {
			a.Local = netip.PrefixFrom(local, 64)
		} else if !p.Shared {
			for _, r := range remotes {
				if r.Is4() == local.Is4() && !r.IsLinkLocalUnicast() {
					a.Peer = netip.PrefixFrom(r, r.BitLen())
				}
			}
		}
		out = append(out, a)
	}
	return out
}

// routesPolicy is what the syncer is told.
func routesPolicy(c *config.Config) routes.Policy {
	p := routes.Policy{
		Unreachable:    c.Routes.Unreachable,
		MaxPaths:       c.BGP.MaxPaths,
		MaxRoutes:      c.Routes.MaxRoutes,
		CompressAbove:  c.Routes.CompressAbove,
		SweepAfter:     c.Routes.SweepAfter,
		ReconcileEvery: c.Routes.ReconcileEvery,
	}
	for _, a := range c.Announce {
		p.Own = append(p.Own, a.Prefix)
	}
	for _, cp := range c.Peers {
		peer := routes.Peer{
			Name:     cp.Name,
			Device:   cp.Device,
			Shared:   cp.Shared,
			Prefixes: cp.Prefixes,
			Static:   cp.ASN == 0,
		}
		switch cp.Mode {
		case config.Any:
			peer.Mode = routes.Any
		case config.List:
			peer.Mode = routes.List
		case config.Learned:
			peer.Mode = routes.Learned
		}
		for _, r := range cp.Tunnel.Remotes() {
			peer.Tunnel = append(peer.Tunnel, netip.PrefixFrom(r.WithZone(""), r.BitLen()))
		}
		p.Peers = append(p.Peers, peer)
		for _, s := range cp.Sessions {
			p.Neighbours = append(p.Neighbours, routes.Neighbour{Name: s.Name, Peer: cp.Name, Families: families(s), Disabled: s.Disabled})
		}
	}
	for _, n := range c.Neighbours {
		p.Neighbours = append(p.Neighbours, routes.Neighbour{
			Name:      n.Name,
			Families:  families(n.Session),
			Disabled:  n.Session.Disabled,
			Recursive: n.Session.Multihop > 0 || n.Session.ASN == c.ASN,
		})
	}
	return p
}

func families(s *config.Session) (out []routes.Family) {
	if s.IPv4 {
		out = append(out, routes.IPv4)
	}
	if s.IPv6 {
		out = append(out, routes.IPv6)
	}
	return out
}

// speakerConfig is what the speaker is told, with tunnels as they are now: prefixes of peers without BGP are
// announced while their tunnel is alive.
func speakerConfig(c *config.Config, tunnels []wg.Tunnel) bgp.Config {
	out := bgp.Config{
		ASN:             c.ASN,
		RouterID:        c.RouterID,
		ListenPort:      c.BGP.Port,
		ListenAddresses: c.BGP.Listen,
		MaxPaths:        c.BGP.MaxPaths,
		Endpoints:       endpoints(tunnels),
		RestartTime:     c.BGP.RestartTime,
		Monitored:       c.Metrics.Monitored,
	}
	if c.ASN == 0 { // there is nobody to speak to, and nobody to hear these: a private ASN (RFC 6996), and an address of none (RFC 5737)
		out.ASN, out.RouterID, out.ListenPort = 64512, netip.AddrFrom4([4]byte{192, 0, 2, 1}), -1
	}
	for _, a := range c.Announce {
		out.Announce = append(out.Announce, bgp.Announcement{Prefix: a.Prefix, Communities: a.Communities})
		out.Own = append(out.Own, a.Prefix)
	}
	alive := map[string]bool{}
	for _, t := range tunnels {
		alive[t.Peer] = t.Alive() // an idle one too: without the announcement nothing would ever wake it
	}
	for _, p := range c.Peers {
		if p.ASN == 0 {
			for _, prefix := range p.Prefixes {
				out.Own = append(out.Own, prefix)
				if alive[p.Name] {
					out.Announce = append(out.Announce, bgp.Announcement{Prefix: prefix})
				}
			}
		}
		for _, s := range p.Sessions {
			n := neighbour(s)
			// Nobody can call a device without a port of its own, so the other end has no endpoint for us, and its session waits.
			n.Waits = p.ListenPort == 0 && len(p.Endpoints) > 0
			out.Neighbours = append(out.Neighbours, n)
		}
	}
	for _, n := range c.Neighbours {
		out.Neighbours = append(out.Neighbours, neighbour(n.Session))
	}
	return out
}

func neighbour(s *config.Session) bgp.Neighbour {
	n := bgp.Neighbour{
		Name: s.Name, Peer: s.Peer,
		Address: s.Address, LocalAddress: s.LocalAddress,
		LocalIPv4: s.LocalIPv4, RemoteIPv4: s.RemoteIPv4,
		LocalIPv6: s.LocalIPv6, RemoteIPv6: s.RemoteIPv6,
		ASN: s.ASN, LocalASN: s.LocalASN,
		Disabled: s.Disabled,
		Passive:  s.Passive, Port: s.Port,
		IPv4: s.IPv4, IPv6: s.IPv6,
		Multihop: s.Multihop,
		Password: s.Password.Reveal(),
		HoldTime: s.HoldTime, Keepalive: s.Keepalive, ConnectRetry: s.ConnectRetry,
		GracefulRestart:      s.GracefulRestart,
		RouteReflectorClient: s.RouteReflectorClient,
		Policy:               s.Policy,
		BFD:                  bgp.BFD{Interval: s.BFD.Interval, Multiplier: s.BFD.Multiplier},
	}
	if n.SendHoldTime = s.SendHoldTime; s.SendHoldTime < 0 {
		n.SendHoldTime = bgp.SendHoldOff
	}
	switch s.ExtendedNextHop {
	case config.ENHOn:
		n.ExtendedNextHop = bgp.ENHOn
	case config.ENHOff:
		n.ExtendedNextHop = bgp.ENHOff
	}
	return n
}

// rulesConfig keeps WireGuard's own packets out of the tunnels.
func rulesConfig(c *config.Config) host.RulesConfig {
	return host.RulesConfig{Mark: c.WireGuard.FirewallMark, Table: c.Routes.Table, Priority: rulePriority}
}

// firewallConfig guards the BGP port, lets BFD in from one hop away only, and clamps TCP's segment size in the tunnels.
func firewallConfig(c *config.Config) host.FirewallConfig {
	f := host.FirewallConfig{BGPPort: uint16(max(c.BGP.Port, 0)), ClampMSS: true}
	for _, d := range deviceSpecs(c) {
		f.TunnelDevices = append(f.TunnelDevices, d.Name)
	}
	for _, n := range c.Neighbours {
		f.LANNeighbours = append(f.LANNeighbours, n.Session.Address.WithZone(""))
		f.BFD = f.BFD || n.Session.BFD.On()
	}
	for _, p := range c.Peers {
		f.BFD = f.BFD || slices.ContainsFunc(p.Sessions, func(s *config.Session) bool { return s.BFD.On() })
	}
	return f
}
