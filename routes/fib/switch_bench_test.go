package fib

import (
	"context"
	"fmt"
	"net/netip"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"sitewire/routes"
	"sitewire/topologies/netns"
	"sitewire/topologies/netns/nstest"
)

// BenchmarkSwitch moves all routes of a tunnel to another one: by the object that they share, until the kernel has answered
// and until packets go the other way, and by writing each of them. With compat=1 the kernel notifies of each route.
func BenchmarkSwitch(b *testing.B) {
	for _, c := range []struct {
		family string
		n      int
	}{{"IPv4", 100_000}, {"IPv4", 1_000_000}, {"IPv6", 100_000}} {
		for _, compat := range []string{"0", "1"} {
			b.Run(fmt.Sprintf("%s/routes=%d/compat=%s", c.family, c.n, compat), func(b *testing.B) {
				if c.n > 100_000 && testing.Short() {
					b.Skip("takes a minute and 0.5 GiB")
				}
				benchSwitch(b, c.family == "IPv6", c.n, compat)
			})
		}
	}
}

// twoTunnels is a namespace with tun0 and tun1.
func twoTunnels(b *testing.B, compat string) *netns.NS {
	b.Helper()
	nstest.Need(b, nstest.TUN)
	ns := nstest.NS(b, "bench")
	for _, name := range []string{"tun0", "tun1"} {
		tun := &netlink.Tuntap{LinkAttrs: netlink.LinkAttrs{Name: name}, Mode: netlink.TUNTAP_MODE_TUN, Queues: 1}
		if err := ns.Do(func() error { return netlink.LinkAdd(tun) }); err != nil {
			b.Fatal(err)
		}
		for _, fd := range tun.Fds {
			b.Cleanup(func() { fd.Close() })
		}
		if err := ns.Up(name); err != nil {
			b.Fatal(err)
		}
	}
	nstest.Run(b, ns, "sysctl", "-qw", "net.ipv4.nexthop_compat_mode="+compat, "net.ipv6.route.max_size=2147483647")
	return ns
}

func nth(six bool, i int) netip.Prefix {
	if six {
		return netip.PrefixFrom(netip.AddrFrom16([16]byte{0x20, 1, 0xd, 0xb8, byte(i >> 16), byte(i >> 8), byte(i)}), 56)
	}
	return netip.PrefixFrom(netip.AddrFrom4([4]byte{10 + byte(i>>20), byte(i >> 12), byte(i >> 4), byte(i << 4)}), 28)
}

func benchSwitch(b *testing.B, six bool, n int, compat string) {
	ns := twoTunnels(b, compat)
	f := New(Options{})
	if err := ns.Do(func() error { return f.Open(b.Context()) }); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { f.Close() })
	if !f.CanSwitch() {
		b.Skip("SKIP-REASON kind=kernel name=nexthop-objects fix=\"use Linux 5.3 or later\" why=\"the kernel refused one\"")
	}
	prefix := func(i int) netip.Prefix { return nth(six, i) }
	// write has every route lead through tun0 or through tun1, each with the other one for a backup.
	ops := make([]routes.Op, n)
	write := func(through int) {
		hops, backup := []routes.Hop{dev(fmt.Sprintf("tun%d", through))}, []routes.Hop{dev(fmt.Sprintf("tun%d", 1-through))}
		for i := range ops {
			ops[i] = routes.Op{Kind: routes.Install, Route: routes.Route{Prefix: prefix(i), Hops: hops, Backup: backup}}
		}
		for i, err := range f.Write(b.Context(), ops) {
			if err != nil {
				b.Fatalf("%v: %v", ops[i].Route, err)
			}
		}
	}
	write(0)
	var acked, moved, rewritten time.Duration
	rounds := 0
	for b.Loop() {
		for i, kind := range []routes.OpKind{routes.Divert, routes.Restore} {
			rounds++
			seen := leadsElsewhere(b, ns, prefix(n-1).Addr().Next())
			start := time.Now()
			if err := f.Switch(b.Context(), []routes.Op{{Kind: kind, Device: "tun0"}})[0]; err != nil {
				b.Fatal(err)
			}
			acked += time.Since(start)
			moved += (<-seen).Sub(start)
			if i == 1 {
				for _, through := range []int{1, 0} {
					start = time.Now()
					write(through)
					rewritten += time.Since(start)
				}
			}
		}
	}
	ms := func(d time.Duration) float64 { return d.Seconds() * 1000 / float64(rounds) }
	b.ReportMetric(ms(acked), "switch-ms")
	b.ReportMetric(ms(moved), "packets-ms")
	b.ReportMetric(ms(rewritten), "rewrite-ms")
	b.ReportMetric(0, "ns/op")
}

// leadsElsewhere tells when packets to an address leave through another device than now. It asks the kernel all the time,
// which IPv4 and IPv6 answer without waiting for whoever changes routes.
func leadsElsewhere(b *testing.B, ns *netns.NS, a netip.Addr) <-chan time.Time {
	b.Helper()
	var h *netlink.Handle
	if err := ns.Do(func() (err error) { h, err = netlink.NewHandle(); return err }); err != nil {
		b.Fatal(err)
	}
	through := func() int {
		r, err := h.RouteGet(a.AsSlice())
		if err != nil || len(r) == 0 {
			return 0
		}
		return r[0].LinkIndex
	}
	was, out := through(), make(chan time.Time, 1)
	go func() {
		defer h.Close()
		for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); {
			if now := through(); now != 0 && now != was {
				break
			}
		}
		out <- time.Now()
	}()
	return out
}

// anyTunnels do what they are told.
type anyTunnels struct{}

func (anyTunnels) Write(_ context.Context, ops []routes.Op) []error { return make([]error, len(ops)) }
func (anyTunnels) List(context.Context) ([]routes.AllowedIP, error) { return nil, nil }

// BenchmarkTunnelLost is the whole way from the word that a tunnel is dead to the kernel: until packets to the last of 100,000
// IPv4 prefixes go the other way, and until the syncer has written what follows. Without objects that is one and the same.
func BenchmarkTunnelLost(b *testing.B) {
	for _, objects := range []bool{true, false} {
		b.Run(fmt.Sprintf("objects=%t", objects), func(b *testing.B) { benchLost(b, objects) })
	}
}

func benchLost(b *testing.B, objects bool) {
	const n = 100_000
	ns := twoTunnels(b, "1")
	f := New(Options{NoObjects: !objects})
	if err := ns.Do(func() error { return f.Open(b.Context()) }); err != nil {
		b.Fatal(err)
	}
	o := routes.Options{FIB: f, Tunnels: anyTunnels{}, Feed: routes.NewFeed()}
	if f.CanSwitch() {
		o.Switcher = f
	}
	s := routes.New(o)
	ctx, cancel := context.WithCancel(b.Context())
	ended := make(chan struct{})
	go func() { defer close(ended); s.Run(ctx) }()
	b.Cleanup(func() { cancel(); <-ended; f.Close() })
	policy := routes.Policy{
		Peers:          []routes.Peer{{Name: "a", Device: "tun0"}, {Name: "b", Device: "tun1"}},
		Neighbours:     []routes.Neighbour{{Name: "a", Peer: "a"}, {Name: "b", Peer: "b"}},
		ReconcileEvery: time.Hour,
	}
	if err := s.SetPolicy(ctx, policy); err != nil {
		b.Fatal(err)
	}
	for i := range n {
		for _, name := range []string{"a", "b"} {
			o.Feed.PutPath(name, nth(false, i), &routes.Path{Received: time.Now()})
		}
		o.Feed.PutBest(routes.BestChange{Prefix: nth(false, i), Neighbour: "a", Replace: true, At: time.Now()})
	}
	o.Feed.PutAlive("a", true)
	o.Feed.PutAlive("b", true)
	// done waits until all routes are written, through a device.
	done := func(device string) {
		for {
			st := s.Snapshot()
			first, _ := st.Get(nth(false, 0))
			last, _ := st.Get(nth(false, n-1))
			if st.Pending == 0 && first.InstalledString() == "dev "+device && last.InstalledString() == "dev "+device {
				return
			}
			time.Sleep(time.Millisecond)
		}
	}
	done("tun0")
	var moved, settled time.Duration
	rounds := 0
	for b.Loop() {
		rounds++
		time.Sleep(100 * time.Millisecond)
		seen, start := leadsElsewhere(b, ns, nth(false, n-1).Addr().Next()), time.Now()
		o.Feed.PutDead("a", routes.LossTunnel)
		moved += (<-seen).Sub(start)
		done("tun1")
		settled += time.Since(start)
		o.Feed.PutAlive("a", true)
		done("tun0")
	}
	b.ReportMetric(moved.Seconds()*1000/float64(rounds), "packets-ms")
	b.ReportMetric(settled.Seconds()*1000/float64(rounds), "settled-ms")
	b.ReportMetric(0, "ns/op")
}
