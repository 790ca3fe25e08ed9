package fib

import (
	"testing"

	"sitewire/routes"
)

// get wants the kernel to use a route for an address.
func (r *rig) get(a, want string, ours bool) {
	r.Helper()
	var got KernelRoute
	err := r.ns.Do(func() (err error) {
		got, err = r.fib.Get(r.Context(), ip(a))
		return err
	})
	if err != nil || got.Text != want || got.Ours != ours {
		r.Errorf("%s: %q, ours %v, %v; want %q, ours %v", a, got.Text, got.Ours, err, want, ours)
	}
}

// TestGet: the kernel's own answer shows a foreign route that beats ours.
func TestGet(t *testing.T) {
	r := newRig(t, Options{})
	get := r.get
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

// TestGetShared: of routes that share an object each is told from the others, with the ways that packets take now.
func TestGetShared(t *testing.T) {
	for _, compat := range []string{"1", "0"} {
		t.Run("compat="+compat, func(t *testing.T) {
			r := newRig(t, Options{})
			r.needObjects()
			r.compat(compat)
			r.write(backed("10.1.0.0/16", dev("tun0"), dev("tun1")), backed("10.1.2.0/24", dev("tun0"), dev("tun1")),
				backed("2001:db8:7::/48", dev("tun0"), dev("tun1")), backed("2001:db8:7:1::/64", dev("tun0"), dev("tun1")),
				backed("2001:db8:8::/48", dev("tun0"), dev("tun1")), install("2001:db8:9::/48", dev("tun0"), dev("tun1")))
			for _, through := range []string{"tun0", "tun1"} {
				r.get("10.1.3.1", "10.1.0.0/16 dev "+through+" proto 83 metric 512", true)
				r.get("10.1.2.1", "10.1.2.0/24 dev "+through+" proto 83 metric 512", true)
				r.get("2001:db8:7::1", "2001:db8:7::/48 dev "+through+" proto 83 metric 512", true)
				r.get("2001:db8:7:1::1", "2001:db8:7:1::/64 dev "+through+" proto 83 metric 512", true)
				r.get("2001:db8:8::1", "2001:db8:8::/48 dev "+through+" proto 83 metric 512", true)
				if through == "tun0" {
					r.get("2001:db8:9::1", "2001:db8:9::/48 nexthop dev tun0 nexthop dev tun1 proto 83 metric 512", true)
				}
				r.switches(routes.Divert, "tun0")
			}
			r.get("2001:db8:9::1", "2001:db8:9::/48 dev tun1 proto 83 metric 512", true)
			// What others write comes first where it is more specific.
			r.ip("-6 route add 2001:db8:7:1::/80 dev eth0 proto static metric 9")
			r.get("2001:db8:7:1::1", "2001:db8:7:1::/80 dev eth0 proto static metric 9", false)
			r.ip("-6 nexthop add id 7 dev eth0 proto static")
			r.ip("-6 route add 2001:db8:7:2::/64 nhid 7 proto static metric 9")
			r.ip("-6 route add 2001:db8:7:2:1::/80 nhid 7 proto static metric 9")
			r.get("2001:db8:7:2:1::1", "2001:db8:7:2:1::/80 dev eth0 proto static metric 9", false)
			r.get("2001:db8:7:2:2::1", "2001:db8:7:2::/64 dev eth0 proto static metric 9", false)
		})
	}
}
