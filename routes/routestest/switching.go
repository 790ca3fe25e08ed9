package routestest

import (
	"net/netip"

	"sitewire/routes"
)

// The part of TestFIB about routes.Switcher.

// switching is the two families in which each case runs.
var switching = []string{"10.20.0.0/16", "2001:db8:20::/48"}

// needSwitcher skips the case if the FIB has none.
func (f *fibCase) needSwitcher() {
	f.t.Helper()
	if f.Switcher == nil {
		f.t.Skip("this FIB has no Switcher")
	}
}

func (f *fibCase) switches(kind routes.OpKind, devices ...string) {
	f.t.Helper()
	var ops []routes.Op
	for _, d := range devices {
		ops = append(ops, routes.Op{Kind: kind, Device: d})
	}
	errs := f.Switcher.Switch(f.t.Context(), ops)
	if len(errs) != len(ops) {
		f.t.Fatalf("%d results for %d operations", len(errs), len(ops))
	}
	for i, err := range errs {
		if err != nil {
			f.t.Fatalf("%s: %v", ops[i], err)
		}
	}
}

func (f *fibCase) leads(prefix, device string) {
	f.t.Helper()
	if got := f.Leads(f.t, netip.MustParsePrefix(prefix).Addr().Next()); got != device {
		f.t.Fatalf("packets to %s leave through %q, want %q", prefix, got, device)
	}
}

func backed(r routes.Route, backup routes.Hop) routes.Route {
	r.Backup = routes.CanonicalHops([]routes.Hop{backup})
	return r
}

// divert and back, each twice: the listing stays what was written.
func (f *fibCase) divert() {
	f.needSwitcher()
	for _, p := range switching {
		r, alone := backed(route(p, f.dev(0)), f.dev(1)), route("10.21.0.0/16", f.dev(0))
		f.write(install(r, alone)...)
		f.lists(r, alone)
		f.leads(p, f.Devices[0])
		for range 2 {
			f.switches(routes.Divert, f.Devices[0])
			f.leads(p, f.Devices[1])
			f.leads("10.21.0.0/16", f.Devices[0]) // it has nowhere else to go
			f.lists(r, alone)
		}
		for range 2 {
			f.switches(routes.Restore, f.Devices[0])
			f.leads(p, f.Devices[0])
			f.lists(r, alone)
		}
		f.switches(routes.Divert, "no-such-dev")
		f.switches(routes.Restore, "no-such-dev")
		f.write(withdraw(r, alone)...)
		f.lists()
		if err := f.Switcher.Tidy(f.t.Context()); err != nil {
			f.t.Fatal(err)
		}
	}
}

func (f *fibCase) divertToRouter() {
	f.needSwitcher()
	for _, c := range []struct {
		prefix string
		via    netip.Addr
	}{
		{"10.22.0.0/16", f.Gateway4},
		{"10.23.0.0/16", f.Gateway6},
		{"10.24.0.0/16", netip.MustParseAddr("fe80::1234")},
		{"10.25.0.0/16", netip.MustParseAddr("203.0.113.1")}, // on no connected network
		{"2001:db8:22::/48", f.Gateway6},
	} {
		r := backed(route(c.prefix, f.dev(0)), routes.Hop{Device: f.LAN, Via: c.via})
		f.write(install(r)...)
		f.lists(r)
		f.switches(routes.Divert, f.Devices[0])
		f.leads(c.prefix, f.LAN)
		f.lists(r)
		f.switches(routes.Restore, f.Devices[0])
		f.leads(c.prefix, f.Devices[0])
		f.write(withdraw(r)...)
		f.lists()
	}
}

// divertOne takes one way out of a multipath route.
func (f *fibCase) divertOne() {
	f.needSwitcher()
	for _, p := range switching {
		r := route(p, f.dev(0), f.dev(1))
		f.write(install(r)...)
		for i := range 2 {
			f.switches(routes.Divert, f.Devices[i])
			f.leads(p, f.Devices[1-i])
			f.lists(r)
			f.switches(routes.Restore, f.Devices[i])
			f.lists(r)
		}
		f.write(withdraw(r)...)
	}
}

// divertAll leaves routes alone that have nowhere to go.
func (f *fibCase) divertAll() {
	f.needSwitcher()
	for _, p := range switching {
		r := backed(route(p, f.dev(0)), f.dev(1))
		f.write(install(r)...)
		f.switches(routes.Divert, f.Devices[0], f.Devices[1])
		f.leads(p, f.Devices[0])
		f.lists(r)
		f.switches(routes.Restore, f.Devices[1])
		f.leads(p, f.Devices[1])
		f.switches(routes.Restore, f.Devices[0])
		f.leads(p, f.Devices[0])
		f.write(withdraw(r)...)
	}
}

// divertFirst writes routes through a device that is diverted already.
func (f *fibCase) divertFirst() {
	f.needSwitcher()
	f.switches(routes.Divert, f.Devices[0])
	var rs []routes.Route
	for _, p := range switching {
		r := backed(route(p, f.dev(0)), f.dev(1))
		rs = append(rs, r)
		f.write(install(r)...)
		f.leads(p, f.Devices[1])
		f.lists(rs...)
	}
	f.switches(routes.Restore, f.Devices[0])
	for _, p := range switching {
		f.leads(p, f.Devices[0])
	}
}

// backupChanges goes through forms of a route with and without backup, and from each to each.
func (f *fibCase) backupChanges() {
	f.needSwitcher()
	for _, p := range switching {
		gateway := f.Gateway4
		if netip.MustParsePrefix(p).Addr().Is6() {
			gateway = f.Gateway6
		}
		forms := []routes.Route{
			route(p, f.dev(0)), backed(route(p, f.dev(0)), f.dev(1)), backed(route(p, f.dev(1)), f.dev(0)), route(p, f.dev(0), f.dev(1)),
			backed(route(p, f.dev(0)), routes.Hop{Device: f.LAN, Via: gateway}), route(p, routes.Hop{Device: f.LAN, Via: gateway}),
		}
		for _, from := range forms {
			for _, to := range forms {
				f.write(install(from)...)
				f.lists(from)
				f.write(install(to)...)
				f.lists(to)
				f.write(install(from, to, from)...)
				f.lists(from)
			}
		}
		f.write(withdraw(forms[0])...)
		f.lists()
	}
}

// divertMany moves more routes than fit in a write, of two pairs.
func (f *fibCase) divertMany() {
	f.needSwitcher()
	var rs []routes.Route
	for i := range 3000 {
		p := netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(i >> 8), byte(i), 0}), 24)
		rs = append(rs, routes.Route{Prefix: p, Hops: []routes.Hop{f.dev(i % 2)}, Backup: []routes.Hop{f.dev(1 - i%2)}})
	}
	f.write(install(rs...)...)
	f.lists(rs...)
	f.switches(routes.Divert, f.Devices[0])
	for i := 0; i < len(rs); i += 97 {
		f.leads(rs[i].Prefix.String(), f.Devices[1])
	}
	f.lists(rs...)
	f.switches(routes.Restore, f.Devices[0])
	for i := 0; i < len(rs); i += 97 {
		f.leads(rs[i].Prefix.String(), f.Devices[i%2])
	}
	f.write(withdraw(rs...)...)
	f.lists()
}
