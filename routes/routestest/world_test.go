package routestest_test

import (
	"net/netip"
	"testing"

	"sitewire/routes"
	"sitewire/routes/routestest"
)

// TestWorld runs the conformance suite on the fake.
func TestWorld(t *testing.T) {
	routestest.TestFIB(t, func(t *testing.T) routestest.FIBUnderTest {
		w := routestest.NewWorld(map[string][]string{"sw-a": {"a"}, "sw-b": {"b"}}, map[string]netip.Prefix{
			"eth0": netip.MustParsePrefix("192.168.1.0/24"),
		})
		w.Connect("eth0", netip.MustParsePrefix("2001:db8:ffff::/64"))
		return routestest.FIBUnderTest{
			FIB:      w.FIB(),
			Devices:  []string{"sw-a", "sw-b"},
			LAN:      "eth0",
			Network4: netip.MustParsePrefix("192.168.1.0/24"),
			Network6: netip.MustParsePrefix("2001:db8:ffff::/64"),
			Gateway4: netip.MustParseAddr("192.168.1.2"),
			Gateway6: netip.MustParseAddr("2001:db8:ffff::2"),
			Lose:     func(_ *testing.T, r routes.Route) { w.Lose(r.Prefix) },
			Switcher: w.Switcher(),
			Leads:    func(_ *testing.T, a netip.Addr) string { return w.Leads(a) },
		}
	})
}

func TestWorldPrints(t *testing.T) {
	w := routestest.NewWorld(map[string][]string{"sw-a": {"a"}, "hub": {"c", "d"}}, map[string]netip.Prefix{
		"eth0": netip.MustParsePrefix("192.168.1.0/24"),
	})
	p := netip.MustParsePrefix
	for _, a := range []struct{ device, peer string }{{"hub", "c"}, {"hub", "d"}, {"sw-a", "a"}} {
		w.PutAllowed(routes.AllowedIP{Device: a.device, Prefix: p("10.1.0.0/16"), Peer: a.peer})
	}
	w.PutRoute(routes.Route{Prefix: p("10.1.0.0/16"), Hops: []routes.Hop{{Device: "hub"}, {Device: "sw-a"}}})
	w.PutRoute(routes.Route{Prefix: p("0.0.0.0/0"), Hops: []routes.Hop{{Device: "eth0", Via: netip.MustParseAddr("fe80::1")}}})
	w.PutRoute(routes.Route{Prefix: p("172.20.0.0/16"), Type: routes.Unreachable})
	want := `default via inet6 fe80::1 dev eth0 proto sitewire
10.1.0.0/16 proto sitewire
	nexthop dev hub weight 1
	nexthop dev sw-a weight 1
unreachable 172.20.0.0/16 proto sitewire
hub	c	(none)
hub	d	10.1.0.0/16
sw-a	a	10.1.0.0/16
`
	if got := w.String(); got != want {
		t.Errorf("got:\n%s\nwant:\n%s", got, want)
	}
}
