package fib

import (
	"net/netip"
	"testing"

	"sitewire/routes"
)

// TestGet: the kernel's own answer shows a foreign route that beats ours.
func TestGet(t *testing.T) {
	r := newRig(t, Options{})
	get := func(a, want string, ours bool) {
		t.Helper()
		var got KernelRoute
		err := r.ns.Do(func() (err error) {
			got, err = r.fib.Get(t.Context(), netip.MustParseAddr(a))
			return err
		})
		if err != nil || got.Text != want || got.Ours != ours {
			t.Errorf("%s: %q, ours %v, %v; want %q, ours %v", a, got.Text, got.Ours, err, want, ours)
		}
	}
	get("10.1.2.3", "", false)
	for _, err := range r.fib.Write(t.Context(), []routes.Op{
		{Kind: routes.Install, Route: routes.Route{Prefix: p("10.1.0.0/16"), Hops: []routes.Hop{{Device: "tun0"}}}},
		{Kind: routes.Install, Route: routes.Route{Prefix: p("fd00:1::/48"), Hops: []routes.Hop{{Device: "tun1"}}}},
	}) {
		if err != nil {
			t.Fatal(err)
		}
	}
	get("10.1.2.3", "10.1.0.0/16 dev tun0 proto 83 metric 512", true)
	get("fd00:1::3", "fd00:1::/48 dev tun1 proto 83 metric 512", true)
	get("198.51.100.7", "198.51.100.0/24 dev eth0 proto kernel", false)
	r.ip("route add 10.1.2.0/24 dev tun1 proto static")
	get("10.1.2.3", "10.1.2.0/24 dev tun1 proto static", false)
}
