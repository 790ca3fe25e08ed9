package fib

import (
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"sitewire/routes"
	"sitewire/topologies/netns/nstest"
)

// BenchmarkWrite puts 20,000 IPv4 routes in, replaces and removes them, by the FIB and by vishvananda/netlink one at a time through one
// handle. The ratio of the two in one run is what counts.
func BenchmarkWrite(b *testing.B) {
	const n = 20_000
	nstest.Need(b, nstest.TUN)
	ns := nstest.NS(b, "bench")
	tun := &netlink.Tuntap{LinkAttrs: netlink.LinkAttrs{Name: "tun0"}, Mode: netlink.TUNTAP_MODE_TUN, Queues: 1}
	if err := ns.Do(func() error { return netlink.LinkAdd(tun) }); err != nil {
		b.Fatal(err)
	}
	for _, fd := range tun.Fds {
		b.Cleanup(func() { fd.Close() })
	}
	if err := ns.Up("tun0"); err != nil {
		b.Fatal(err)
	}
	index, err := ns.Index("tun0")
	if err != nil {
		b.Fatal(err)
	}
	f := New(Options{})
	if err := ns.Do(func() error { return f.Open(b.Context()) }); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { f.Close() })

	prefix := func(i int) netip.Prefix {
		return netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(i >> 8), byte(i), 0}), 24)
	}
	ops := func(kind routes.OpKind) []routes.Op {
		out := make([]routes.Op, n)
		for i := range out {
			out[i] = routes.Op{Kind: kind, Route: routes.Route{Prefix: prefix(i), Hops: []routes.Hop{{Device: "tun0"}}}}
		}
		return out
	}
	write := func(kind routes.OpKind) func() {
		list := ops(kind)
		return func() {
			for i, err := range f.Write(b.Context(), list) {
				if err != nil {
					b.Fatalf("%v: %v", list[i].Route, err)
				}
			}
		}
	}
	each := func(do func(*netlink.Route) error) func() {
		list := make([]netlink.Route, n)
		for i := range list {
			p := prefix(i)
			list[i] = netlink.Route{
				Dst: &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(24, 32)}, LinkIndex: index, Scope: netlink.SCOPE_LINK,
				Protocol: DefaultProtocol, Priority: DefaultMetric,
			}
		}
		return func() {
			for i := range list {
				if err := do(&list[i]); err != nil {
					b.Fatal(err)
				}
			}
		}
	}
	steps := []struct {
		name       string
		ours, peer func()
	}{
		{"add", write(routes.Install), each(ns.Netlink().RouteReplace)},
		{"replace", write(routes.Install), each(ns.Netlink().RouteReplace)},
		{"delete", write(routes.Withdraw), each(ns.Netlink().RouteDel)},
	}
	spent := map[string]time.Duration{}
	rounds := 0
	for b.Loop() {
		rounds++
		for _, s := range steps {
			start := time.Now()
			s.peer()
			spent["one by one, "+s.name] += time.Since(start)
		}
		for _, s := range steps {
			start := time.Now()
			s.ours()
			spent["batched, "+s.name] += time.Since(start)
		}
	}
	for _, s := range steps {
		ours, peer := spent["batched, "+s.name], spent["one by one, "+s.name]
		b.ReportMetric(float64(rounds*n)/ours.Seconds(), s.name+"-routes/s")
		b.ReportMetric(float64(peer)/float64(ours), s.name+"-ratio")
	}
}

// BenchmarkList reads 100,000 routes.
func BenchmarkList(b *testing.B) {
	const n = 100_000
	ns := nstest.NS(b, "bench")
	f := New(Options{})
	if err := ns.Do(func() error { return f.Open(b.Context()) }); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { f.Close() })
	ops := make([]routes.Op, n)
	for i := range ops {
		a := netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)})
		ops[i] = routes.Op{Kind: routes.Install, Route: routes.Route{Prefix: netip.PrefixFrom(a, 32), Hops: []routes.Hop{{Device: "lo"}}}}
	}
	for _, err := range f.Write(b.Context(), ops) {
		if err != nil {
			b.Fatal(err)
		}
	}
	for b.Loop() {
		list, err := f.List(b.Context())
		if err != nil || len(list) != n {
			b.Fatal(len(list), err)
		}
	}
	b.ReportMetric(float64(n*b.N)/b.Elapsed().Seconds(), "routes/s")
}
