package topologies

// pair is the smallest network: two sites and the internet between them.
func pair(int) *Network {
	b := newNetwork("pair", "two sites, one tunnel",
		"Two gateways, each with a LAN. The tunnel has no addresses to plan: BGP runs over IPv6 link-local addresses that follow from the "+
			"keys, and IPv4 routes have IPv6 next hops (RFC 8950).")
	internet := b.node("internet", Router, "")
	fra, nyc := b.site("fra", Gateway, 1), b.site("nyc", Gateway, 2)
	b.tunnel(End{Node: fra, Address: b.uplink(fra, internet), Policy: "branch"}, End{Node: nyc, Address: b.uplink(nyc, internet), Policy: "branch"})
	b.Try = []Try{
		{"Who are the peers?", "sitewire peers", ""},
		{"How does a packet get to the other LAN?", "sitewire explain 10.2.0.10", ""},
	}
	return b.Network
}

// triangle is a full mesh of three sites.
func triangle(int) *Network {
	b := newNetwork("triangle", "three sites, a tunnel between each two",
		"Each site reaches each other one directly, and over the third when the direct path is cut: each announces what it learned from "+
			"the others, and BGP's path length prefers the direct path.")
	internet := b.node("internet", Router, "")
	fra, nyc, sin := b.site("fra", Gateway, 1), b.site("nyc", Gateway, 2), b.site("sin", Gateway, 3)
	x, y, z := b.uplink(fra, internet), b.uplink(nyc, internet), b.uplink(sin, internet)
	full := func(n *Node, e End) End { e.Node, e.Policy = n, "full"; return e }
	b.tunnel(full(fra, End{Address: x}), full(nyc, End{Address: y}))
	b.tunnel(full(nyc, End{Address: y}), full(sin, End{Address: z}))
	b.tunnel(full(sin, End{Address: z}), full(fra, End{Address: x}))
	return b.Network
}
