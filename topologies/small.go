package topologies

import "time"

// pair is the smallest network: two sites and the internet between them.
func pair(int) *Network {
	b := newNetwork("pair", "two sites, one tunnel",
		"Two gateways, each with a LAN. The tunnel has no addresses to plan: BGP runs over IPv6 link-local addresses that follow from the "+
			"keys, and IPv4 routes have IPv6 next hops (RFC 8950).")
	internet := b.node("internet", Router, "")
	fra, nyc := b.site("fra", Gateway, 1), b.site("nyc", Gateway, 2)
	b.tunnel(End{Node: fra, Address: b.uplink(fra, internet), Policy: "branch"}, End{Node: nyc, Address: b.uplink(nyc, internet), Policy: "branch"})
	b.outage(nyc, "fra-host", "nyc-host")
	return b.Network
}

// triangle is a full mesh of three sites.
func triangle(int) *Network {
	b := newNetwork("triangle", "three sites, a line and a tunnel between each two",
		"Each site reaches each other one directly, and over the third when the line between them is cut: each announces what it learned "+
			"from the others, and BGP prefers the shorter path. BFD notices a dead line within 1.5 s, where BGP alone would take its hold time.")
	fra, nyc, sin := b.site("fra", Gateway, 1), b.site("nyc", Gateway, 2), b.site("sin", Gateway, 3)
	for _, pair := range [][2]*Node{{fra, nyc}, {nyc, sin}, {sin, fra}} {
		x, y := b.line(pair[0], pair[1])
		b.tunnel(End{Node: pair[0], Address: x, Policy: "full"}, End{Node: pair[1], Address: y, Policy: "full"}).BFD = true
	}
	b.Scenarios = []*Scenario{{
		Name: "the line between fra and nyc is cut", Cut: b.Links[3:4], From: b.Node("fra-host"), To: b.Node("nyc-host"), Within: 5 * time.Second,
	}}
	return b.Network
}
