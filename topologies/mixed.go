package topologies

import "net/netip"

// lanCore is two sites whose gateways are not their core routers.
func lanCore(int) *Network {
	b := newNetwork("lan-core", "gateways beside the core routers of their LANs",
		"The gateway is one more router of the site: it learns the site's prefixes by BGP from the core router, BIRD here and FRR there, and "+
			"tells it what the tunnels reach. No static route anywhere.")
	internet := b.node("internet", Router, "")
	var gateways [2]*Node
	var outer [2]netip.Addr
	for i, s := range []struct {
		name string
		role Role
	}{{"fra", BIRD}, {"nyc", FRR}} {
		number := i + 1
		g := b.node(s.name, Gateway, s.name)
		core := b.node(s.name+"-core", s.role, s.name)
		g.ASN, core.ASN = 4200000000+uint32(number), 4200000010+uint32(number)
		b.lan(core, number, lan4(number), lan6(number))
		net4, net6 := lan4(20+number), lan6(20+number)
		l := b.cable(g, both(net4, net6, 1), core, both(net4, net6, 2))
		g.RouterID = host(net4, 1)
		g.Announce = []netip.Prefix{net4, net6}
		b.Sessions = append(b.Sessions, &Session{A: l.A, B: l.B, PolicyA: "lan"})
		gateways[i], outer[i] = g, b.uplink(g, internet)
	}
	b.tunnel(End{Node: gateways[0], Address: outer[0], Policy: "full"}, End{Node: gateways[1], Address: outer[1], Policy: "full"})
	b.outage(gateways[1], "fra-host", "nyc-host")
	return b.Network
}

// mixed is what a network looks like after some years.
func mixed(int) *Network {
	b := newNetwork("mixed", "BGP, a site with a dynamic address, and one without BGP",
		"The headquarters has a branch with BGP whose address nobody knows beforehand, a partner that runs BIRD behind wireguard-go, and a "+
			"store with plain WireGuard: its prefixes are configured at the headquarters, and announced only while its tunnel is alive.")
	internet := b.node("internet", Router, "")
	hq := b.site("hq", Gateway, 1)
	branch := b.site("branch", Gateway, 2)
	partner := b.site("partner", BIRD, 3)
	store := b.site("store", WireGuard, 4)
	store.ASN = 0
	outer := b.uplink(hq, internet)
	b.uplink(branch, internet)
	partnerOuter := b.uplink(partner, internet)
	b.uplink(store, internet)
	b.tunnel(End{Node: hq, Address: outer, Policy: "hub"}, End{Node: branch, Policy: "branch"})
	b.tunnel(End{Node: hq, Address: outer, Policy: "full", Inner: addr("fe80::1")},
		End{Node: partner, Address: partnerOuter, Inner: addr("fe80::2")})
	allowed := []string{}
	for _, p := range store.Announce {
		allowed = append(allowed, p.String())
	}
	b.tunnel(End{Node: hq, Address: outer, AllowedIPs: allowed}, End{Node: store})
	b.outage(hq, "store-host", "hq-host")
	b.renumber(branch, internet, "hq-host", "branch-host")
	return b.Network
}

// dn42 is a corner of dn42: five autonomous systems.
func dn42(int) *Network {
	b := newNetwork("dn42", "five autonomous systems, as in dn42",
		"Two sitewires, two BIRDs and an FRR peer as people do in dn42, and a gobgpd collects what one of them sees: a tunnel for each peering, BGP over link-local addresses, routes with "+
			"IPv6 next hops where both ends can (RFC 8950), and with IPv4 next hops where one cannot. Routing is asymmetric on purpose, so "+
			"allowed-IPs are `any`.")
	internet := b.node("internet", Router, "")
	as := func(name string, role Role, number int) (*Node, netip.Addr) {
		n := b.node(name, role, name)
		n.ASN = 4242420000 + uint32(number)
		// What the registry gives out: a /27, and a /48 of which the LAN has the first /64.
		net4, net6 := netip.PrefixFrom(netip.AddrFrom4([4]byte{172, 20, byte(number), 0}), 27), prefix6([8]uint16{0xfd42, uint16(number)}, 48)
		b.lan(n, number, net4, netip.PrefixFrom(net6.Addr(), 64))
		n.Announce = []netip.Prefix{net4, net6}
		return n, b.uplink(n, internet)
	}
	fra, fraOuter := as("fra", Gateway, 1)
	nyc, nycOuter := as("nyc", Gateway, 2)
	ams, amsOuter := as("ams", BIRD, 3)
	osl, oslOuter := as("osl", BIRD, 4)
	par, parOuter := as("par", FRR, 5)
	end := func(n *Node, outer netip.Addr, inner string) End {
		e := End{Node: n, Address: outer, Inner: addr(inner)}
		if n.Role == Gateway {
			e.Policy, e.AllowedIPs = "dn42", []string{"any"}
		}
		return e
	}
	b.tunnel(end(fra, fraOuter, "fe80::1"), end(nyc, nycOuter, "fe80::2"))
	b.tunnel(end(fra, fraOuter, "fe80::1"), end(ams, amsOuter, "fe80::3"))
	b.tunnel(end(nyc, nycOuter, "fe80::2"), end(par, parOuter, "fe80::5"))
	x, y := end(nyc, nycOuter, "fe80::2"), end(osl, oslOuter, "fe80::4")
	x.Inner4, y.Inner4 = addr("172.20.2.1"), addr("172.20.4.1")
	b.tunnel(x, y).NoExtendedNextHop = true
	b.tunnel(end(ams, amsOuter, "fe80::3"), end(osl, oslOuter, "fe80::4"))

	// Its link is not announced: nobody has to reach it.
	collector := b.node("collector", GoBGP, "fra")
	collector.ASN, collector.RouterID = 64512, addr("192.0.2.2")
	net4, net6 := netip.MustParsePrefix("192.0.2.0/24"), prefix6([8]uint16{0x2001, 0xdb8, 0xffff}, 64)
	l := b.cable(fra, both(net4, net6, 1), collector, both(net4, net6, 2))
	b.Sessions = append(b.Sessions, &Session{A: l.A, B: l.B, PolicyA: "lan"})

	b.outage(nyc, "par-host", "fra-host")
	return b.Network
}

func addr(s string) netip.Addr { return netip.MustParseAddr(s) }
