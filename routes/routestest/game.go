package routestest

import (
	"net/netip"
	"time"

	"sitewire/routes"
)

// Dice decide what a Game does. *rand.Rand and *Bytes are Dice.
type Dice interface {
	// IntN returns a number from 0 to n-1.
	IntN(n int) int
}

// Bytes are dice that come up as written: for fuzzing. After the last byte they show 0.
type Bytes struct{ Left []byte }

// IntN implements Dice.
func (b *Bytes) IntN(n int) int {
	if len(b.Left) == 0 {
		return 0
	}
	x := b.Left[0]
	b.Left = b.Left[1:]
	return int(x) % n
}

// Game makes up a small network, and then things that happen in it. The same dice make the same game.
type Game struct {
	dice     Dice
	sessions map[string]uint32
	now      time.Time
}

// NewGame returns a game that starts at a time.
func NewGame(d Dice, now time.Time) *Game {
	return &Game{dice: d, sessions: make(map[string]uint32), now: now}
}

// The fixed parts of the network.
func gameDevices() map[string][]string {
	return map[string][]string{"sw-a": {"a"}, "sw-b": {"b"}, "hub": {"c", "d", "e"}, "sw-f": {"f"}, "sw-g": {"g"}}
}

func gamePrefixes() []netip.Prefix {
	return parsed(netip.MustParsePrefix,
		"0.0.0.0/0", "10.0.0.0/8", "10.1.0.0/16", "10.1.1.0/24", "10.1.1.0/25", "10.1.1.128/25", "10.1.0.0/24", "10.2.0.0/16", "10.2.3.0/24",
		"172.20.0.0/16", "172.20.5.0/24", "192.0.2.0/24", "10.64.0.3/32",
		"::/0", "2001:db8::/32", "2001:db8:1::/48", "fd42::/16")
}

func gameHops() []netip.Addr {
	return append(parsed(netip.MustParseAddr,
		"192.168.1.2", "192.168.1.3", "fe80::2%eth0", "10.1.1.5", "10.1.1.200", "10.2.3.4", "10.64.0.3", "10.64.0.4",
		"172.20.5.9", "203.0.113.9", "fe80::a%sw-a", "2001:db8:1::9", "fe80::7", "fe80::b%hub"), netip.Addr{})
}

func gameNeighbours() []string {
	return []string{"a", "b", "c", "d", "e", "f", "g", "core", "edge", "rr", ""}
}

func parsed[T any](parse func(string) T, ss ...string) []T {
	out := make([]T, len(ss))
	for i, s := range ss {
		out[i] = parse(s)
	}
	return out
}

func pick[T any](d Dice, from []T) T { return from[d.IntN(len(from))] }

// Chance is true one time in n.
func (g *Game) Chance(n int) bool { return g.dice.IntN(n) == n-1 }

// World of the game.
func (g *Game) World() *World {
	return NewWorld(gameDevices(), map[string]netip.Prefix{"eth0": netip.MustParsePrefix("192.168.1.0/24")})
}

// Probes are addresses in and beside all prefixes of the game.
func (g *Game) Probes() []netip.Addr {
	var out []netip.Addr
	for _, p := range gamePrefixes() {
		out = append(out, p.Addr().Next())
	}
	return append(out, parsed(netip.MustParseAddr, "10.1.1.200", "10.200.0.1", "2001:db8:1::9")...)
}

// Policy makes up a policy. MaxRoutes is never set: which routes are in then depends on the past.
func (g *Game) Policy() routes.Policy {
	d := g.dice
	host := netip.MustParsePrefix
	p := routes.Policy{
		Peers: []routes.Peer{
			{Name: "a", Device: "sw-a", Tunnel: []netip.Prefix{host("fe80::a/128")}},
			{Name: "b", Device: "sw-b", Tunnel: []netip.Prefix{host("10.64.0.2/32"), host("fe80::a/128")}},
			{Name: "c", Device: "hub", Shared: true, Tunnel: []netip.Prefix{host("10.64.0.3/32"), host("fe80::b/128")}},
			{Name: "d", Device: "hub", Shared: true, Tunnel: []netip.Prefix{host("10.64.0.4/32")}},
			{Name: "e", Device: "hub", Shared: true, Mode: routes.List, Static: true},
			{Name: "f", Device: "sw-f", Mode: routes.List, Static: d.IntN(2) == 0},
			{Name: "g", Device: "sw-g", Mode: routes.Any, Tunnel: []netip.Prefix{host("10.64.0.7/32")}},
		},
		MaxPaths:    d.IntN(4),
		Unreachable: d.IntN(2) == 0,
		Own:         []netip.Prefix{host("172.20.0.0/16")},

		CompressAbove: pick(d, []int{0, 1, 4}),
	}
	for i := range p.Peers {
		if x := &p.Peers[i]; x.Mode == routes.List {
			for range 1 + d.IntN(3) {
				x.Prefixes = append(x.Prefixes, pick(d, gamePrefixes()))
			}
		}
	}
	for _, n := range gameNeighbours() {
		switch n {
		case "":
		case "core":
			p.Neighbours = append(p.Neighbours, routes.Neighbour{Name: n, Recursive: true})
		case "edge":
			p.Neighbours = append(p.Neighbours, routes.Neighbour{Name: n})
		case "rr":
			p.Neighbours = append(p.Neighbours, routes.Neighbour{Name: n, Peer: "a", Recursive: true})
		default:
			p.Neighbours = append(p.Neighbours, routes.Neighbour{Name: n, Peer: n, Recursive: d.IntN(6) == 0})
		}
	}
	// Something of it may be missing; not peer a, whose device is the zone of a next hop.
	if d.IntN(3) == 0 {
		i := 1 + d.IntN(len(p.Peers)-1)
		p.Peers = append(p.Peers[:i:i], p.Peers[i+1:]...)
	}
	if d.IntN(3) == 0 {
		i := d.IntN(len(p.Neighbours))
		p.Neighbours = append(p.Neighbours[:i:i], p.Neighbours[i+1:]...)
	}
	return p
}

// Step makes one thing happen and tells all sinks.
func (g *Game) Step(sinks ...Sink) {
	d := g.dice
	g.now = g.now.Add(time.Millisecond)
	n, p := pick(d, gameNeighbours()), pick(d, gamePrefixes())
	switch d.IntN(13) {
	case 0, 1, 2:
		path := g.path(n)
		each(sinks, func(s Sink) { s.PutPath(n, p, path) })
	case 3:
		each(sinks, func(s Sink) { s.PutPath(n, p, nil) })
	case 4, 5, 6:
		// As BGP would: a path that is the best one.
		path := g.path(n)
		path.Rejected = ""
		c := routes.BestChange{Prefix: p, Neighbour: n, NextHop: path.NextHop, Replace: d.IntN(2) == 0, At: g.now}
		each(sinks, func(s Sink) { s.PutPath(n, p, path); s.PutBest(c) })
	case 7:
		each(sinks, func(s Sink) {
			s.PutPath(n, p, nil)
			s.PutBest(routes.BestChange{Prefix: p, Neighbour: n, Withdrawn: true, At: g.now})
		})
	case 8:
		var cs []routes.BestChange
		for range 1 + d.IntN(4) {
			cs = append(cs, routes.BestChange{
				Prefix: pick(d, gamePrefixes()), Neighbour: pick(d, gameNeighbours()), NextHop: pick(d, gameHops()),
				Withdrawn: d.IntN(3) == 0, Replace: d.IntN(4) == 0, At: g.now,
			})
		}
		each(sinks, func(s Sink) { s.PutBest(cs...) })
	case 9:
		peer, is := pick(d, gameNeighbours()[:7]), d.IntN(2) == 0
		each(sinks, func(s Sink) { s.PutAlive(peer, is) })
	case 10:
		// A new session, and later the end of what it had to say.
		if d.IntN(2) == 0 {
			g.sessions[n]++
		} else {
			f := routes.Family(d.IntN(2))
			each(sinks, func(s Sink) { s.PutEndOfRIB(n, f, g.sessions[n]) })
		}
	case 11:
		if d.IntN(4) == 0 {
			each(sinks, func(s Sink) { s.PutNeighbourGone(n) })
		}
	case 12:
		is := d.IntN(2) == 0
		each(sinks, func(s Sink) { s.PutReachable(n, is) })
	}
}

func each(sinks []Sink, f func(Sink)) {
	for _, s := range sinks {
		f(s)
	}
}

func (g *Game) path(n string) *routes.Path {
	d := g.dice
	p := &routes.Path{NextHop: pick(d, gameHops()), Session: g.sessions[n], Received: g.now}
	if d.IntN(5) == 0 {
		p.Rejected = "too_specific"
	}
	if d.IntN(2) == 0 {
		p.Attrs = &routes.Attrs{
			LocalPref: uint32(d.IntN(2)) * 100, ASPath: make([]uint32, d.IntN(3)), MED: uint32(d.IntN(2)),
			Origin: pick(d, []string{"igp", "egp", "incomplete"}),
		}
	}
	return p
}
