package fib

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"sitewire/routes"
)

// backed is an install with a backup.
func backed(prefix string, hop, backup routes.Hop) routes.Op {
	op := install(prefix, hop)
	op.Route.Backup = []routes.Hop{backup}
	return op
}

func (r *rig) switches(kind routes.OpKind, device string) {
	r.Helper()
	if err := r.fib.Switch(r.Context(), []routes.Op{{Kind: kind, Device: device}})[0]; err != nil {
		r.Fatal(err)
	}
}

// groups are the groups of our protocol that ip(8) shows, with their devices for ids.
func (r *rig) groups() []string {
	r.Helper()
	device, list := map[string]string{}, []string(nil)
	lines := r.ip("nexthop show proto 83")
	for _, l := range lines {
		if w := strings.Fields(l); !slices.Contains(w, "group") {
			device[w[1]] = strings.Join(w[2:], " ")
		}
	}
	for _, l := range lines {
		if w := strings.Fields(l); slices.Contains(w, "group") {
			var to []string
			for id := range strings.SplitSeq(w[3], "/") {
				d, _, _ := strings.Cut(device[id], " scope")
				to = append(to, d)
			}
			var n uint32
			fmt.Sscan(w[1], &n)
			list = append(list, fmt.Sprintf("%x: %s", n, strings.Join(to, ", ")))
		}
	}
	slices.Sort(list)
	return list
}

func (r *rig) wantGroups(what string, want ...string) {
	r.Helper()
	if diff := cmp.Diff(want, r.groups()); diff != "" {
		r.Fatalf("%s: groups (-want +got):\n%s", what, diff)
	}
}

// TestSharedForms shows what routes that share an object look like, and what a diversion does to them.
func TestSharedForms(t *testing.T) {
	r := newRig(t, Options{})
	r.needObjects()
	r.write(install("10.1.0.0/16", dev("tun0")),
		backed("10.2.0.0/16", dev("tun0"), dev("tun1")), backed("10.3.0.0/16", dev("tun0"), dev("tun1")),
		backed("10.4.0.0/16", dev("tun0"), via("2001:db8:1::9", "eth0")),
		install("10.5.0.0/16", dev("tun0"), dev("tun1")), backed("2001:db8:7::/48", dev("tun1"), dev("tun0")))
	r.shown("route show proto 83",
		"10.1.0.0/16 dev tun0 scope link metric 512",
		"10.2.0.0/16 nhid 1392513026 dev tun0 metric 512", // 0x53001002
		"10.3.0.0/16 nhid 1392513026 dev tun0 metric 512",
		"10.4.0.0/16 nhid 1392513027 dev tun0 metric 512",
		"10.5.0.0/16 nhid 1392525312 metric 512", "nexthop dev tun0 weight 1", "nexthop dev tun1 weight 1")
	r.shown("-6 route show proto 83", "2001:db8:7::/48 nhid 1392529414 metric 512 pref medium", "nexthop dev tun1 weight 1")
	sets := []string{"53001000: dev tun0", "53002000: dev tun1", "53003000: via 2001:db8:1::9 dev eth0", "53004000: dev tun0, dev tun1",
		"53005000: dev tun1", "53006000: dev tun0"}
	r.wantGroups("written", slices.Sorted(slices.Values(append([]string{"53001002: dev tun0", "53001003: dev tun0", "53005006: dev tun1"}, sets...)))...)

	r.switches(routes.Divert, "tun0")
	sets[3] = "53004000: dev tun1" // the one route with several hops
	r.wantGroups("diverted", slices.Sorted(slices.Values(append([]string{"53001002: dev tun1", "53001003: via 2001:db8:1::9 dev eth0", "53005006: dev tun1"}, sets...)))...)
	r.switches(routes.Restore, "tun0")
	sets[3] = "53004000: dev tun0, dev tun1"
	r.wantGroups("restored", slices.Sorted(slices.Values(append([]string{"53001002: dev tun0", "53001003: dev tun0", "53005006: dev tun1"}, sets...)))...)

	// What is not used goes, also with a list only.
	r.write(withdraw("10.3.0.0/16"), withdraw("10.4.0.0/16"), withdraw("10.5.0.0/16"), withdraw("2001:db8:7::/48"))
	two := backed("10.2.0.0/16", dev("tun0"), dev("tun1")).Route
	r.listed(route("10.1.0.0/16", dev("tun0")), two)
	r.wantGroups("tidy", "53001000: dev tun0", "53001002: dev tun0", "53002000: dev tun1")
	r.write(withdraw("10.2.0.0/16"))
	if err := r.fib.Tidy(t.Context()); err != nil {
		t.Fatal(err)
	}
	r.shown("nexthop show proto 83")
	// And comes again.
	r.write(routes.Op{Kind: routes.Install, Route: two})
	r.listed(route("10.1.0.0/16", dev("tun0")), two)
}

// TestObjectsOfEarlierRun: another process lists what it finds as it was written, leaves diverted what is diverted, and
// ends the diversion when it is told to.
func TestObjectsOfEarlierRun(t *testing.T) {
	r := newRig(t, Options{})
	r.needObjects()
	a, b, c := backed("10.2.0.0/16", dev("tun0"), dev("tun1")), backed("2001:db8:7::/48", dev("tun0"), dev("tun1")), install("10.5.0.0/16", dev("tun0"), dev("tun1"))
	r.write(a, b, c)
	r.switches(routes.Divert, "tun0")
	before := r.groups()
	r.fib = r.open(Options{})
	r.listed(a.Route, routes.Route{Prefix: p("10.5.0.0/16"), Hops: []routes.Hop{dev("tun1")}}, b.Route) // of several hops only the rest is known
	r.wantGroups("found", before...)
	if got := r.leads(ip("10.2.0.1")); got != "tun1" {
		t.Errorf("diverted packets leave through %s", got)
	}
	r.write(a, b, c)
	if got := r.leads(ip("10.2.0.1")); got != "tun1" {
		t.Errorf("diverted packets leave through %s once written again", got)
	}
	r.switches(routes.Restore, "tun0")
	if four, six := r.leads(ip("10.2.0.1")), r.leads(ip("2001:db8:7::1")); four != "tun0" || six != "tun0" {
		t.Errorf("restored packets leave through %s and %s", four, six)
	}
	r.listed(a.Route, c.Route, b.Route)
}

// TestObjectsFlushed: when a link goes down, its objects go with the routes that use them, and the kernel says nothing. The
// list shows it, and what is written then is whole.
func TestObjectsFlushed(t *testing.T) {
	r := newRig(t, Options{})
	r.needObjects()
	ops := []routes.Op{
		backed("10.1.0.0/16", dev("tun0"), dev("tun1")), backed("10.2.0.0/16", dev("tun1"), dev("tun0")),
		install("10.3.0.0/16", dev("tun0"), dev("tun1")), backed("2001:db8:7::/48", dev("tun0"), dev("tun1")),
	}
	r.write(ops...)
	r.settle()
	if err := r.ns.Down("tun0"); err != nil {
		t.Fatal(err)
	}
	r.changed()
	// A group of several ways loses one; groups are gone with their only way. Nobody can tell any more what the backup of the
	// second route was, so it is listed without.
	r.listed(route("10.2.0.0/16", dev("tun1")), route("10.3.0.0/16", dev("tun1")))
	r.write(install("10.1.0.0/16", dev("tun1")), install("10.2.0.0/16", dev("tun1")), install("10.3.0.0/16", dev("tun1")))
	r.listed(route("10.1.0.0/16", dev("tun1")), route("10.2.0.0/16", dev("tun1")), route("10.3.0.0/16", dev("tun1")))
	if err := r.ns.Up("tun0"); err != nil {
		t.Fatal(err)
	}
	r.changed()
	r.write(ops...)
	r.listed(ops[0].Route, ops[1].Route, ops[2].Route, ops[3].Route)
	// Without a list between: the objects are thought to be there, and are not.
	if err := r.ns.Down("tun0"); err != nil {
		t.Fatal(err)
	}
	if err := r.ns.Up("tun0"); err != nil {
		t.Fatal(err)
	}
	r.changed()
	r.switches(routes.Divert, "tun0")
	r.switches(routes.Restore, "tun0")
	r.write(ops...)
	r.listed(ops[0].Route, ops[1].Route, ops[2].Route, ops[3].Route)
}

// TestObjectsOfOthers stay, also where they have ids of ours.
func TestObjectsOfOthers(t *testing.T) {
	r := newRig(t, Options{})
	r.needObjects()
	r.ip("nexthop add id 1375731713 dev tun1 proto bird")         // 0x52000001, our first way
	r.ip("nexthop add id 1392513024 group 1375731713 proto bird") // 0x53001000, our first set
	r.ip("nexthop add id 7 dev tun0 proto 83")                    // our protocol, not our id
	r.ip("route add 10.9.0.0/16 nhid 1392513024 proto bird metric 7")
	op := backed("10.1.0.0/16", dev("tun0"), dev("tun1"))
	r.write(op) // nothing was known of those
	r.listed(op.Route)
	r.switches(routes.Divert, "tun0")
	if got := r.leads(ip("10.1.0.1")); got != "tun1" {
		t.Errorf("packets leave through %s", got)
	}
	r.write(withdraw("10.1.0.0/16"))
	r.listed()
	r.shown("nexthop show", "id 7 dev tun0 scope host proto 83", "id 1375731713 dev tun1 scope host proto bird", "id 1392513024 group 1375731713 proto bird")
	r.shown("route show 10.9.0.0/16", "10.9.0.0/16 nhid 1392513024 dev tun1 proto bird metric 7")

	// A route of our protocol that uses theirs is none that we would write.
	r.ip("route add 10.8.0.0/16 nhid 7 proto 83 metric 512")
	r.listed(route("10.8.0.0/16", dev("tun0")))
	r.compat("0")
	list, err := r.fib.List(t.Context())
	if err != nil || len(list) != 1 || slices.Equal(list[0].Hops, []routes.Hop{dev("tun0")}) {
		t.Errorf("a row that says nothing but an id of somebody: %v, %v", list, err)
	}
}

// TestNoObject: where an object cannot be had the route is written all the same, and counts as what was asked for.
func TestNoObject(t *testing.T) {
	r := newRig(t, Options{})
	r.needObjects()
	r.ip("link set eth0 down")
	r.settle()
	op := backed("10.1.0.0/16", dev("tun0"), via("fe80::9", "eth0"))
	r.write(op)
	r.shown("route show proto 83", "10.1.0.0/16 dev tun0 scope link metric 512")
	r.listed(op.Route)
	r.switches(routes.Divert, "tun0")
	r.switches(routes.Restore, "tun0")
	r.ip("link set eth0 up")
	r.settle()
	r.write(op)
	if got := r.ip("route show proto 83"); !strings.Contains(got[0], "nhid") {
		t.Errorf("written again: %q", got)
	}
	r.listed(op.Route)
}

// TestSwitchBesideWrite: diversions come while routes are written, and what is written is as if they had come before.
func TestSwitchBesideWrite(t *testing.T) {
	r := newRig(t, Options{})
	r.needObjects()
	const n = 20_000
	ops := make([]routes.Op, n)
	for i := range ops {
		ops[i] = backed("10.0.0.0/8", dev(fmt.Sprintf("tun%d", i%2)), dev(fmt.Sprintf("tun%d", 1-i%2)))
		ops[i].Route.Prefix = netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(i >> 8), byte(i), 0}), 24)
	}
	done := make(chan []error)
	go func() { done <- r.fib.Write(t.Context(), ops) }()
	for i := range 400 {
		r.switches([]routes.OpKind{routes.Divert, routes.Restore}[i%2], "tun0")
	}
	r.switches(routes.Divert, "tun1")
	for i, err := range <-done {
		if err != nil {
			t.Fatalf("%v: %v", ops[i], err)
		}
	}
	for i := 0; i < n; i += 1999 {
		if got := r.leads(ops[i].Route.Prefix.Addr().Next()); got != "tun0" {
			t.Errorf("%v leads to %s", ops[i].Route, got)
		}
	}
	list, err := r.fib.List(t.Context())
	if err != nil || len(list) != n {
		t.Fatalf("%d routes, %v", len(list), err)
	}
}
