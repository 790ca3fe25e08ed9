package routestest

import (
	"net/netip"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"sitewire/routes"
)

// FIBUnderTest is a FIB with what a test may use: fresh, empty, and nobody else's.
type FIBUnderTest struct {
	routes.FIB
	// Devices are at least two interfaces that are up, point to point, and have no IPv4 or global IPv6 address.
	Devices []string
	// LAN is an interface that is up, with Networks on link, in which the Gateways are.
	LAN                string
	Network4, Network6 netip.Prefix
	Gateway4, Gateway6 netip.Addr
	// Foreign adds a route that is not ours (other protocol number, other metric) to our table, and tells whether it is
	// still there. Nil skips what needs it.
	Foreign      func(t *testing.T, r routes.Route)
	ForeignThere func(t *testing.T, r routes.Route) bool
	// Lose removes one of our routes behind the FIB's back. Nil skips what needs it.
	Lose func(t *testing.T, r routes.Route)
	// Switcher of the FIB; nil if it has none.
	Switcher routes.Switcher
	// Leads tells through which device packets to an address leave. It comes with Switcher.
	Leads func(t *testing.T, a netip.Addr) string
}

// TestFIB is what every FIB must do. open returns a new one for each case.
func TestFIB(t *testing.T, open func(t *testing.T) FIBUnderTest) {
	for _, c := range []struct {
		name string
		run  func(f *fibCase)
	}{
		{"empty", func(f *fibCase) { f.lists() }},
		{"device", func(f *fibCase) { f.roundTrip("10.2.0.0/16", f.dev(0)); f.roundTrip("2001:db8:2::/48", f.dev(1)) }},
		{"default route", func(f *fibCase) { f.roundTrip("0.0.0.0/0", f.dev(0)); f.roundTrip("::/0", f.dev(0)) }},
		{"host route", func(f *fibCase) { f.roundTrip("10.2.0.1/32", f.dev(0)); f.roundTrip("2001:db8::1/128", f.dev(0)) }},
		{"gateway", func(f *fibCase) {
			f.roundTrip("10.3.0.0/16", routes.Hop{Device: f.LAN, Via: f.Gateway4})
			f.roundTrip("2001:db8:3::/48", routes.Hop{Device: f.LAN, Via: f.Gateway6})
		}},
		{"IPv4 through an IPv6 gateway", func(f *fibCase) { f.roundTrip("10.4.0.0/16", routes.Hop{Device: f.LAN, Via: f.Gateway6}) }},
		{"link-local gateway", func(f *fibCase) {
			ll := routes.Hop{Device: f.LAN, Via: netip.MustParseAddr("fe80::1234")}
			f.roundTrip("10.5.0.0/16", ll)
			f.roundTrip("2001:db8:5::/48", ll)
		}},
		{"multipath", func(f *fibCase) {
			f.roundTrip("10.6.0.0/16", f.dev(0), f.dev(1))
			f.roundTrip("10.7.0.0/16", f.dev(0), routes.Hop{Device: f.LAN, Via: f.Gateway4})
			f.roundTrip("2001:db8:6::/48", f.dev(0), f.dev(1))
		}},
		{"replace", (*fibCase).replace},
		{"unreachable", (*fibCase).unreachable},
		{"idempotent", (*fibCase).idempotent},
		{"errors are each one's own", (*fibCase).errors},
		{"many", (*fibCase).many},
		{"connected", (*fibCase).connected},
		{"foreign routes stay", (*fibCase).foreign},
		{"lost routes come back", (*fibCase).lost},
		{"divert", (*fibCase).divert},
		{"divert to a router", (*fibCase).divertToRouter},
		{"divert one of several", (*fibCase).divertOne},
		{"divert everything", (*fibCase).divertAll},
		{"divert, then write", (*fibCase).divertFirst},
		{"backup changes", (*fibCase).backupChanges},
		{"divert many", (*fibCase).divertMany},
	} {
		t.Run(c.name, func(t *testing.T) { c.run(&fibCase{FIBUnderTest: open(t), t: t}) })
	}
}

type fibCase struct {
	FIBUnderTest
	t *testing.T
}

func (f *fibCase) dev(i int) routes.Hop { return routes.Hop{Device: f.Devices[i]} }

func route(prefix string, hops ...routes.Hop) routes.Route {
	return routes.Route{Prefix: netip.MustParsePrefix(prefix), Hops: routes.CanonicalHops(slices.Clone(hops))}
}

func unreachable(prefix string) routes.Route {
	return routes.Route{Prefix: netip.MustParsePrefix(prefix), Type: routes.Unreachable}
}

func install(rs ...routes.Route) (ops []routes.Op) {
	for _, r := range rs {
		ops = append(ops, routes.Op{Kind: routes.Install, Route: r})
	}
	return ops
}

func withdraw(rs ...routes.Route) (ops []routes.Op) {
	for _, r := range rs {
		ops = append(ops, routes.Op{Kind: routes.Withdraw, Route: r})
	}
	return ops
}

// write runs operations that must all succeed.
func (f *fibCase) write(ops ...routes.Op) {
	f.t.Helper()
	errs := f.Write(f.t.Context(), ops)
	if len(errs) != len(ops) {
		f.t.Fatalf("%d results for %d operations", len(errs), len(ops))
	}
	for i, err := range errs {
		if err != nil {
			f.t.Fatalf("%s: %v", ops[i], err)
		}
	}
}

// lists checks what List returns.
func (f *fibCase) lists(want ...routes.Route) {
	f.t.Helper()
	got, err := f.List(f.t.Context())
	if err != nil {
		f.t.Fatal(err)
	}
	if diff := cmp.Diff(text(want), text(got)); diff != "" {
		f.t.Fatalf("routes (-want +got):\n%s", diff)
	}
}

func text(rs []routes.Route) []string {
	rs = slices.Clone(rs)
	slices.SortFunc(rs, compareRoutes)
	out := make([]string, len(rs))
	for i, r := range rs {
		r.Hops = routes.CanonicalHops(slices.Clone(r.Hops))
		out[i] = r.String()
	}
	return out
}

func (f *fibCase) roundTrip(prefix string, hops ...routes.Hop) {
	f.t.Helper()
	r := route(prefix, hops...)
	f.write(install(r)...)
	f.lists(r)
	f.write(withdraw(r)...)
	f.lists()
}

func (f *fibCase) replace() {
	for _, p := range []string{"10.8.0.0/16", "2001:db8:8::/48"} {
		last := routes.Route{}
		for _, hops := range [][]routes.Hop{{f.dev(0)}, {f.dev(1)}, {f.dev(0), f.dev(1)}, {f.dev(1)}, {f.dev(0), f.dev(1)}, {{Device: f.LAN, Via: f.Gateway6}}} {
			last = route(p, hops...)
			f.write(install(last)...)
			f.lists(last)
		}
		f.write(withdraw(last)...)
		f.lists()
	}
}

// unreachable routes stand beside unicast ones of the same prefix, which beat them.
func (f *fibCase) unreachable() {
	for _, p := range []string{"10.9.0.0/16", "2001:db8:9::/48"} {
		u, r := unreachable(p), route(p, f.dev(0))
		f.write(install(u)...)
		f.lists(u)
		f.write(install(r)...)
		f.lists(r, u)
		f.write(withdraw(u)...)
		f.lists(r)
		f.write(install(u)...)
		f.write(withdraw(r)...)
		f.lists(u)
		f.write(withdraw(u)...)
		f.lists()
	}
}

func (f *fibCase) idempotent() {
	for _, p := range []string{"10.10.0.0/16", "2001:db8:10::/48"} {
		r, m := route(p, f.dev(0)), route(p, f.dev(0), f.dev(1))
		f.write(install(r, r)...)
		f.lists(r)
		f.write(install(m)...)
		f.write(install(m)...)
		f.lists(m)
		f.write(withdraw(m, m)...)
		f.lists()
		f.write(withdraw(m)...)
	}
}

func (f *fibCase) errors() {
	good, bad, also := route("10.11.0.0/16", f.dev(0)), route("10.12.0.0/16", routes.Hop{Device: "no-such-dev"}), route("2001:db8:11::/48", f.dev(1))
	ops := install(good, bad, also)
	errs := f.Write(f.t.Context(), ops)
	if len(errs) != 3 || errs[0] != nil || errs[1] == nil || errs[2] != nil {
		f.t.Fatalf("results %v, want an error for the second only", errs)
	}
	f.lists(good, also)
}

// many is more than fits in a message or a system call.
func (f *fibCase) many() {
	var rs []routes.Route
	for i := range 3000 {
		p := netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(i >> 8), byte(i), 0}), 24)
		rs = append(rs, routes.Route{Prefix: p, Hops: []routes.Hop{f.dev(i % 2)}})
	}
	f.write(install(rs...)...)
	f.lists(rs...)
	// Half of them move and half go, in one write.
	f.write(append(install(moved(rs[:1500], f.dev(0))...), withdraw(rs[1500:]...)...)...)
	f.lists(moved(rs[:1500], f.dev(0))...)
}

func moved(rs []routes.Route, to routes.Hop) []routes.Route {
	out := slices.Clone(rs)
	for i := range out {
		out[i].Hops = []routes.Hop{to}
	}
	return out
}

func (f *fibCase) connected() {
	f.write(install(route("10.13.0.0/16", f.dev(0)))...)
	nets, err := f.Connected(f.t.Context())
	if err != nil {
		f.t.Fatal(err)
	}
	got := text(nets)
	for _, p := range []netip.Prefix{f.Network4, f.Network6} {
		if want := (routes.Route{Prefix: p, Hops: []routes.Hop{{Device: f.LAN}}}).String(); !slices.Contains(got, want) {
			f.t.Errorf("connected networks %q lack %q", got, want)
		}
	}
	if slices.ContainsFunc(nets, func(r routes.Route) bool { return r.Prefix == netip.MustParsePrefix("10.13.0.0/16") }) {
		f.t.Error("a route of ours counts as connected")
	}
}

func (f *fibCase) foreign() {
	if f.Foreign == nil {
		f.t.Skip("this FIB cannot have foreign routes")
	}
	theirs, ours := route("10.14.0.0/16", f.dev(1)), route("10.14.0.0/16", f.dev(0))
	f.Foreign(f.t, theirs)
	f.lists()
	f.write(install(ours)...)
	f.lists(ours)
	f.write(withdraw(ours)...)
	f.write(withdraw(ours)...)
	f.lists()
	if !f.ForeignThere(f.t, theirs) {
		f.t.Error("the foreign route is gone")
	}
}

func (f *fibCase) lost() {
	if f.Lose == nil {
		f.t.Skip("this FIB cannot lose routes")
	}
	r := route("10.15.0.0/16", f.dev(0))
	f.write(install(r)...)
	f.Lose(f.t, r)
	f.lists()
	f.write(install(r)...)
	f.lists(r)
	f.Lose(f.t, r)
	f.write(withdraw(r)...)
	f.lists()
}
