package fib

import (
	"net/netip"
	"strings"
	"testing"

	"sitewire/routes"
	"sitewire/routes/routestest"
)

// TestConformance runs the suite that every FIB must pass against the kernel: without nexthop objects, with them, and where
// rows with objects say nothing else.
func TestConformance(t *testing.T) {
	t.Run("plain", func(t *testing.T) { conform(t, Options{NoObjects: true}, "1") })
	t.Run("objects", func(t *testing.T) { conform(t, Options{}, "1") })
	t.Run("objects only", func(t *testing.T) { conform(t, Options{}, "0") })
}

func conform(t *testing.T, o Options, compat string) {
	routestest.TestFIB(t, func(t *testing.T) routestest.FIBUnderTest {
		r := newRig(t, o)
		r.compat(compat)
		u := routestest.FIBUnderTest{
			FIB:      r.fib,
			Devices:  []string{"tun0", "tun1"},
			LAN:      "eth0",
			Network4: p("198.51.100.0/24"), Network6: p("2001:db8:1::/64"),
			Gateway4: ip("198.51.100.9"), Gateway6: ip("2001:db8:1::9"),
			Foreign: func(t *testing.T, x routes.Route) {
				on(r, t).ip("route add " + foreignArgs(x))
			},
			ForeignThere: func(t *testing.T, x routes.Route) bool {
				return len(on(r, t).ip("route show "+foreignArgs(x))) > 0
			},
			Lose: func(t *testing.T, x routes.Route) {
				r := on(r, t)
				r.ip(familyFlag(x.Prefix) + " route del " + x.Prefix.String() + " proto 83")
				r.settle() // the FIB's view knows
			},
			Leads: func(t *testing.T, a netip.Addr) string { return on(r, t).leads(a) },
		}
		if !o.NoObjects {
			r.needObjects()
			u.Switcher = r.fib
		}
		return u
	})
}

// on is the rig with its failures reported to t.
func on(r *rig, t *testing.T) *rig {
	c := *r
	c.T = t
	return &c
}

func familyFlag(prefix netip.Prefix) string {
	if prefix.Addr().Is6() {
		return "-6"
	}
	return "-4"
}

// foreignArgs are the arguments of ip-route(8) for a route over devices that another routing daemon could have written.
func foreignArgs(x routes.Route) string {
	words := []string{x.Prefix.String()}
	for _, h := range x.Hops {
		words = append(words, "dev", h.Device)
	}
	return strings.Join(append(words, "proto", "bird", "metric", "32"), " ")
}
