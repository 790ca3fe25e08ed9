package routes_test

import (
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"sitewire/routes"
	"sitewire/routes/routestest"
)

// desk is a Table with a Ledger, without a world: every plan succeeds.
type desk struct {
	t      *testing.T
	table  *routes.Table
	ledger *routes.Ledger
	snap   *routes.Snapshot
	feed   *routes.Feed
}

func newDesk(t *testing.T, p routes.Policy) *desk {
	d := &desk{t: t, table: routes.NewTable(), ledger: routes.NewLedger(), feed: routes.NewFeed()}
	d.ledger.Sweep()
	d.table.SetConnected([]routes.Route{
		{Prefix: pfx("192.168.1.0/24"), Hops: []routes.Hop{{Device: "eth0"}}},
		{Prefix: pfx("10.0.0.1/32"), Hops: []routes.Hop{{Device: "sw-ams"}}},
	})
	d.run(d.table.SetPolicy(p))
	return d
}

func (d *desk) run(u *routes.Update) []string {
	d.snap = u.Snapshot
	ops := routes.PlanPrefixes(u.Snapshot, d.ledger, u.Changed())
	for _, op := range ops {
		d.ledger.Done(op, time.Time{}, 0)
	}
	return printed(ops)
}

// want takes in what was fed and compares the plan.
func (d *desk) want(plan string) {
	d.t.Helper()
	if diff := cmp.Diff(lines(plan), d.run(d.table.Apply(d.feed.Take()))); diff != "" {
		d.t.Errorf("plan (-want +got):\n%s", diff)
	}
}

// reason checks why there is no route.
func (d *desk) reason(prefix string, state routes.State, why string) {
	d.t.Helper()
	r := d.snap.Get(pfx(prefix))
	if r == nil {
		d.t.Fatalf("nothing is known of %s", prefix)
	}
	if r.State != state || r.Reason != why {
		d.t.Errorf("%s: state %d, %q; want %d, %q", prefix, r.State, r.Reason, state, why)
	}
}

func (d *desk) path(neighbour, prefix, nextHop string) {
	p := &routes.Path{}
	if nextHop != "" {
		p.NextHop = ip(nextHop)
	}
	d.feed.PutPath(neighbour, pfx(prefix), p)
}

// best makes the neighbours' paths (each "neighbour" or "neighbour nexthop") the best ones.
func (d *desk) best(prefix string, members ...string) {
	cs := []routes.BestChange{{Prefix: pfx(prefix), Replace: true, Withdrawn: true}}
	for _, m := range members {
		n, hop, _ := strings.Cut(m, " ")
		d.path(n, prefix, hop)
		c := routes.BestChange{Prefix: pfx(prefix), Neighbour: n}
		if hop != "" {
			c.NextHop = ip(hop)
		}
		cs = append(cs, c)
	}
	d.feed.PutBest(cs...)
}

// office has a device each for nyc and ams, a hub device for c and d, and LAN neighbours core (recursive) and edge.
func office() routes.Policy {
	return routes.Policy{
		Peers: []routes.Peer{
			{Name: "nyc", Device: "sw-nyc"},
			{Name: "ams", Device: "sw-ams"},
			{Name: "c", Device: "hub", Shared: true},
			{Name: "d", Device: "hub", Shared: true},
		},
		Neighbours: []routes.Neighbour{
			{Name: "nyc", Peer: "nyc"}, {Name: "ams", Peer: "ams"}, {Name: "c", Peer: "c"}, {Name: "d", Peer: "d"},
			{Name: "core", Recursive: true}, {Name: "edge"},
		},
		Own:      []netip.Prefix{pfx("172.20.0.0/16")},
		MaxPaths: 4,
	}
}

func TestMoveWithinDevice(t *testing.T) {
	d := newDesk(t, office())
	d.best("10.2.0.0/16", "c")
	d.want("allow 10.2.0.0/16 peer c dev hub\ninstall 10.2.0.0/16 dev hub")
	d.best("10.2.0.0/16", "d")
	d.want("allow 10.2.0.0/16 peer d dev hub")
	// Both are best: one owner and one hop, the same whoever was first.
	d.best("10.2.0.0/16", "d", "c")
	d.want("allow 10.2.0.0/16 peer c dev hub")
	if n := d.snap.Counts.Conflicts["hub"]; n != 1 {
		t.Errorf("conflicts on hub: %d, want 1", n)
	}
}

func TestMoveBetweenDevices(t *testing.T) {
	d := newDesk(t, office())
	d.best("10.2.0.0/16", "c")
	d.want("allow 10.2.0.0/16 peer c dev hub\ninstall 10.2.0.0/16 dev hub")
	d.best("10.2.0.0/16", "nyc")
	d.want(`
		allow 10.2.0.0/16 peer nyc dev sw-nyc
		install 10.2.0.0/16 dev sw-nyc
		disallow 10.2.0.0/16 peer c dev hub`)
}

func TestMultipath(t *testing.T) {
	d := newDesk(t, office())
	d.best("10.2.0.0/16", "nyc", "ams", "edge 192.168.1.9")
	d.want(`
		allow 10.2.0.0/16 peer ams dev sw-ams
		allow 10.2.0.0/16 peer nyc dev sw-nyc
		install 10.2.0.0/16 nexthop via 192.168.1.9 dev eth0 nexthop dev sw-ams nexthop dev sw-nyc`)
	d.feed.PutBest(routes.BestChange{Prefix: pfx("10.2.0.0/16"), Neighbour: "ams", Withdrawn: true})
	d.want("install 10.2.0.0/16 nexthop via 192.168.1.9 dev eth0 nexthop dev sw-nyc")
	p := office()
	p.MaxPaths = 1
	if got := d.run(d.table.SetPolicy(p)); !cmp.Equal(got, lines("install 10.2.0.0/16 via 192.168.1.9 dev eth0")) {
		t.Errorf("with one path: %q", got)
	}
}

func TestStaticFollowsLiveness(t *testing.T) {
	p := office()
	p.Peers = append(p.Peers,
		routes.Peer{Name: "store", Device: "sw-store", Mode: routes.List, Static: true, Prefixes: []netip.Prefix{pfx("10.17.0.0/24")}},
		routes.Peer{Name: "store2", Device: "sw-store2", Mode: routes.List, Static: true, Prefixes: []netip.Prefix{pfx("10.17.0.0/24")}})
	d := newDesk(t, p)
	if len(d.ledger.Ops()) != 2 {
		t.Errorf("lists are allowed from the start: %q", printed(d.ledger.Ops()))
	}
	d.want("") // never heard of: not alive
	d.feed.PutAlive("store", true)
	d.want("install 10.17.0.0/24 dev sw-store")
	d.best("10.17.0.0/24", "nyc") // what is configured beats what is learned
	d.want("allow 10.17.0.0/24 peer nyc dev sw-nyc")
	d.feed.PutAlive("store2", true)
	d.want("")
	d.feed.PutAlive("store", false)
	d.want("install 10.17.0.0/24 dev sw-store2")
	d.feed.PutAlive("store2", false)
	d.want("install 10.17.0.0/24 dev sw-nyc")
}

func TestDeadTunnel(t *testing.T) {
	d := newDesk(t, office())
	d.best("10.2.0.0/16", "nyc")
	d.best("10.3.0.0/16", "nyc")
	d.path("ams", "10.3.0.0/16", "")
	d.best("10.4.0.0/16", "c")
	d.path("d", "10.4.0.0/16", "")
	d.want(`
		allow 10.2.0.0/16 peer nyc dev sw-nyc
		allow 10.3.0.0/16 peer ams dev sw-ams
		allow 10.3.0.0/16 peer nyc dev sw-nyc
		allow 10.4.0.0/16 peer c dev hub
		install 10.2.0.0/16 dev sw-nyc
		install 10.3.0.0/16 dev sw-nyc
		install 10.4.0.0/16 dev hub`)
	// Another path stands in where there is one; what the peer may send stays accepted.
	d.feed.PutAlive("nyc", false)
	d.want("install 10.3.0.0/16 dev sw-ams\nwithdraw 10.2.0.0/16 dev sw-nyc")
	d.reason("10.2.0.0/16", routes.Down, "peer nyc is down")
	d.feed.PutAlive("c", false)
	d.want("allow 10.4.0.0/16 peer d dev hub")
	d.feed.PutAlive("nyc", true)
	d.want("install 10.2.0.0/16 dev sw-nyc\ninstall 10.3.0.0/16 dev sw-nyc")
}

func TestRecursion(t *testing.T) {
	d := newDesk(t, office())
	d.best("10.8.0.0/16", "core 10.9.9.9")
	d.want("")
	d.reason("10.8.0.0/16", routes.Unresolved, "next hop 10.9.9.9 unresolved")
	d.best("0.0.0.0/0", "nyc") // the default route resolves nothing
	d.want("allow 0.0.0.0/0 peer nyc dev sw-nyc\ninstall 0.0.0.0/0 dev sw-nyc")
	d.best("10.9.0.0/16", "nyc")
	d.want(`
		allow 10.8.0.0/16 peer nyc dev sw-nyc
		allow 10.9.0.0/16 peer nyc dev sw-nyc
		install 10.8.0.0/16 dev sw-nyc
		install 10.9.0.0/16 dev sw-nyc`)
	d.best("10.9.9.0/24", "edge 192.168.1.7") // a longer match
	d.want(`
		install 10.8.0.0/16 via 192.168.1.7 dev eth0
		install 10.9.9.0/24 via 192.168.1.7 dev eth0
		disallow 10.8.0.0/16 peer nyc dev sw-nyc`)
	// A route that was found by recursion resolves no other, least of all itself.
	d.best("10.7.0.0/16", "core 10.8.0.1")
	d.best("10.6.0.0/16", "core 10.6.0.1")
	d.want("")
	d.reason("10.7.0.0/16", routes.Unresolved, "next hop 10.8.0.1 unresolved")
	d.reason("10.6.0.0/16", routes.Unresolved, "next hop 10.6.0.1 unresolved")
	d.best("10.5.0.0/16", "core 172.20.9.9")
	d.want("")
	d.reason("10.5.0.0/16", routes.Unresolved, "next hop 172.20.9.9 is in our own prefix 172.20.0.0/16 and on no connected network")
}

func TestNextHops(t *testing.T) {
	d := newDesk(t, office())
	d.best("10.2.0.0/16", "edge 192.168.1.9")
	d.best("10.3.0.0/16", "edge fe80::9%eth0")
	d.best("10.4.0.0/16", "edge 10.9.9.9")
	d.best("10.5.0.0/16", "edge fe80::9")
	d.best("10.6.0.0/16", "edge 10.0.0.1") // on link on a tunnel's device
	d.best("2001:db8::/32", "edge fe80::9%eth0")
	d.want(`
		allow 10.6.0.0/16 peer ams dev sw-ams
		install 10.2.0.0/16 via 192.168.1.9 dev eth0
		install 10.3.0.0/16 via inet6 fe80::9 dev eth0
		install 10.6.0.0/16 dev sw-ams
		install 2001:db8::/32 via fe80::9 dev eth0`)
	d.reason("10.4.0.0/16", routes.Unresolved, "next hop 10.9.9.9 unresolved")
	d.reason("10.5.0.0/16", routes.Unresolved, "link-local next hop fe80::9 without a zone")
	got := d.run(d.table.SetConnected(nil))
	want := lines(`
		withdraw 10.2.0.0/16 via 192.168.1.9 dev eth0
		withdraw 10.6.0.0/16 dev sw-ams
		disallow 10.6.0.0/16 peer ams dev sw-ams`)
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("without networks (-want +got):\n%s", diff)
	}
}

func TestConflicts(t *testing.T) {
	p := office()
	p.Peers = append(p.Peers, routes.Peer{Name: "e", Device: "hub", Shared: true, Mode: routes.List, Prefixes: []netip.Prefix{pfx("10.2.0.0/16")}})
	p.Neighbours = append(p.Neighbours, routes.Neighbour{Name: "e", Peer: "e"})
	d := newDesk(t, p)
	d.best("10.2.0.0/16", "c") // a neighbour cannot take what was given to another peer
	d.want("")
	d.reason("10.2.0.0/16", routes.Refused, "10.2.0.0/16 belongs to peer e on dev hub")
	if n := d.snap.Counts.Conflicts["hub"]; n != 1 {
		t.Errorf("conflicts on hub: %d, want 1", n)
	}
	d.best("10.2.0.0/16", "e")
	d.want("install 10.2.0.0/16 dev hub")
	d.best("10.2.1.0/24", "e")
	d.want("")
	d.reason("10.2.1.0/24", routes.Refused, "not in the allowed_ips of peer e")
	d.best("172.20.0.0/16", "nyc")
	d.want("")
	d.reason("172.20.0.0/16", routes.Refused, "our own prefix")
	d.best("10.30.0.0/16", "nyc", "")
	d.want("allow 10.30.0.0/16 peer nyc dev sw-nyc")
	d.reason("10.30.0.0/16", routes.Local, "originated here")
}

func TestModes(t *testing.T) {
	p := routes.Policy{
		Peers: []routes.Peer{
			{Name: "any", Device: "sw-any", Mode: routes.Any, Tunnel: []netip.Prefix{pfx("fe80::2/128")}},
			{Name: "list", Device: "sw-list", Mode: routes.List, Prefixes: []netip.Prefix{pfx("10.0.0.0/8")}},
			{Name: "h", Device: "hub", Shared: true, Tunnel: []netip.Prefix{pfx("10.64.0.2/32"), pfx("fe80::3/128")}},
		},
		Neighbours:  []routes.Neighbour{{Name: "any", Peer: "any"}, {Name: "list", Peer: "list"}},
		Own:         []netip.Prefix{pfx("172.20.0.0/16")},
		Unreachable: true,
	}
	table := routes.NewTable()
	u := table.SetPolicy(p)
	want := lines(`
		allow 0.0.0.0/0 peer any dev sw-any
		allow 10.0.0.0/8 peer list dev sw-list
		allow 10.64.0.2/32 peer h dev hub
		allow ::/0 peer any dev sw-any
		allow fe80::3/128 peer h dev hub
		install 10.64.0.2/32 dev hub
		install unreachable 172.20.0.0/16`)
	if diff := cmp.Diff(want, printed(routes.Plan(u.Snapshot, routes.NewLedger()))); diff != "" {
		t.Errorf("plan (-want +got):\n%s", diff)
	}
	d := newDesk(t, p)
	d.best("11.0.0.0/8", "any")
	d.best("10.1.0.0/16", "list")
	d.best("11.1.0.0/16", "list")
	d.want("install 10.1.0.0/16 dev sw-list\ninstall 11.0.0.0/8 dev sw-any")
	d.reason("11.1.0.0/16", routes.Refused, "not in the allowed_ips of peer list")
}

func TestMaxRoutes(t *testing.T) {
	p := office()
	p.MaxRoutes = 2
	d := newDesk(t, p)
	for _, x := range []string{"10.3.0.0/16", "10.2.0.0/16", "10.1.0.0/16", "2001:db8::/32"} {
		d.best(x, "nyc")
		d.run(d.table.Apply(d.feed.Take()))
	}
	d.reason("10.1.0.0/16", routes.Refused, "the limit of installed routes is reached")
	if n := d.snap.Counts.Refused; n != [2]int{1, 0} {
		t.Errorf("refused %v", n)
	}
	d.best("10.3.0.0/16") // makes room
	d.feed.PutPath("nyc", pfx("10.3.0.0/16"), nil)
	d.want(`
		install 10.1.0.0/16 dev sw-nyc
		withdraw 10.3.0.0/16 dev sw-nyc
		disallow 10.3.0.0/16 peer nyc dev sw-nyc`)
	p.MaxRoutes = 1
	if got, want := d.run(d.table.SetPolicy(p)), lines("withdraw 10.2.0.0/16 dev sw-nyc"); !cmp.Equal(got, want) {
		t.Errorf("lower limit: %q, want %q", got, want)
	}
	p.MaxRoutes = 0
	if got, want := d.run(d.table.SetPolicy(p)), lines("install 10.2.0.0/16 dev sw-nyc"); !cmp.Equal(got, want) {
		t.Errorf("no limit: %q, want %q", got, want)
	}
}

func TestEndOfRIBDropsStalePaths(t *testing.T) {
	d := newDesk(t, office())
	old, fresh := &routes.Path{Session: 1}, &routes.Path{Session: 2}
	d.feed.PutPath("nyc", pfx("10.1.0.0/16"), old)
	d.feed.PutPath("nyc", pfx("10.2.0.0/16"), old)
	d.feed.PutPath("nyc", pfx("2001:db8::/32"), old)
	d.want(`
		allow 10.1.0.0/16 peer nyc dev sw-nyc
		allow 10.2.0.0/16 peer nyc dev sw-nyc
		allow 2001:db8::/32 peer nyc dev sw-nyc`)
	d.feed.PutPath("nyc", pfx("10.2.0.0/16"), fresh)
	d.want("")
	d.feed.PutEndOfRIB("nyc", routes.IPv4, 2)
	d.want("disallow 10.1.0.0/16 peer nyc dev sw-nyc")
	d.feed.PutNeighbourGone("nyc")
	d.want("disallow 10.2.0.0/16 peer nyc dev sw-nyc\ndisallow 2001:db8::/32 peer nyc dev sw-nyc")
}

func TestOpString(t *testing.T) {
	w := routestest.Strings([]routes.Route{
		{Prefix: pfx("0.0.0.0/0"), Hops: []routes.Hop{{Device: "eth0", Via: ip("192.0.2.1")}}},
		{Prefix: pfx("10.2.0.0/16"), Hops: []routes.Hop{{Device: "a"}, {Device: "b"}}},
		{Prefix: pfx("10.3.0.0/16"), Type: routes.Unreachable},
	}, nil)
	want := "0.0.0.0/0 via 192.0.2.1 dev eth0\n10.2.0.0/16 nexthop dev a nexthop dev b\nunreachable 10.3.0.0/16\n"
	if w != want {
		t.Errorf("got %q, want %q", w, want)
	}
}
