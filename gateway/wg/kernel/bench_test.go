package kernel

import (
	"fmt"
	"net/netip"
	"testing"
	"time"

	"sitewire/gateway/wg"
	"sitewire/topologies/netns/nstest"
)

// The benchmarks need a kernel with the module, as the tests named TestKernel do.

// benchDevice has peers with entries spread evenly over them, peer after peer.
func benchDevice(b *testing.B, peers, entries int, o Options) (d *Device, keys []wg.PublicKey, list []wg.AllowedIP) {
	b.Helper()
	nstest.Need(b, wireguard)
	d = openIn(b, nstest.NS(b, fmt.Sprintf("bench-%d-%d", peers, entries)), config("wg0", "self"), o)
	var delta wg.Delta
	for i := range peers {
		key, err := wg.NewPresharedKey() // as good as a public one, and much quicker
		must(b, err)
		keys = append(keys, wg.PublicKey(key))
		delta.SetPeers = append(delta.SetPeers, wg.PeerConfig{PublicKey: keys[i]})
	}
	for i := range entries {
		p := netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)}), 32)
		list = append(list, wg.AllowedIP{Prefix: p, Peer: keys[i*peers/entries]})
	}
	must(b, d.Apply(b.Context(), delta))
	return d, keys, list
}

// rate reports entries per second of the timed part.
func rate(b *testing.B, n int, took time.Duration) {
	b.ReportMetric(float64(n)*float64(b.N)/took.Seconds(), "entries/s")
}

// BenchmarkKernelAllowedIPs adds, moves and removes 100,000 entries, in one delta each.
func BenchmarkKernelAllowedIPs(b *testing.B) {
	d, keys, list := benchDevice(b, 2, 100_000, Options{})
	var add, move, remove time.Duration
	for b.Loop() {
		start := time.Now()
		must(b, d.Apply(b.Context(), wg.Delta{Allow: list}))
		add += time.Since(start)
		moved := make([]wg.AllowedIP, len(list))
		for i, a := range list {
			moved[i] = wg.AllowedIP{Prefix: a.Prefix, Peer: keys[1]}
			if a.Peer == keys[1] {
				moved[i].Peer = keys[0]
			}
		}
		start = time.Now()
		must(b, d.Apply(b.Context(), wg.Delta{Allow: moved}))
		move += time.Since(start)
		start = time.Now()
		must(b, d.Apply(b.Context(), wg.Delta{Disallow: moved}))
		remove += time.Since(start)
	}
	for name, took := range map[string]time.Duration{"added/s": add, "moved/s": move, "removed/s": remove} {
		b.ReportMetric(float64(len(list))*float64(b.N)/took.Seconds(), name)
	}
	b.Logf("Linux removes single entries: %t", d.known.removes)
}

// BenchmarkKernelOneEntry adds and removes one entry of a device with few, and with many.
func BenchmarkKernelOneEntry(b *testing.B) {
	for _, n := range []int{10, 10_000} {
		b.Run(fmt.Sprintf("entries=%d", n), func(b *testing.B) {
			d, _, list := benchDevice(b, 1, n, Options{})
			must(b, d.Apply(b.Context(), wg.Delta{Allow: list}))
			one := list[:1]
			for b.Loop() {
				must(b, d.Apply(b.Context(), wg.Delta{Disallow: one}))
				must(b, d.Apply(b.Context(), wg.Delta{Allow: one}))
			}
		})
	}
}

// BenchmarkKernelRead polls the peers, and lists the entries, of devices of three sizes.
func BenchmarkKernelRead(b *testing.B) {
	for _, size := range []struct{ peers, entries int }{{1, 1000}, {1000, 10_000}, {1000, 100_000}} {
		d, _, list := benchDevice(b, size.peers, size.entries, Options{MaxAge: time.Nanosecond}) // asks the kernel each time
		must(b, d.Apply(b.Context(), wg.Delta{Allow: list}))
		b.Run(fmt.Sprintf("Stats/peers=%d/entries=%d", size.peers, size.entries), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if stats, err := d.Stats(b.Context()); err != nil || len(stats) != size.peers {
					b.Fatal(len(stats), err)
				}
			}
			rate(b, size.entries, b.Elapsed())
		})
		b.Run(fmt.Sprintf("AllowedIPs/peers=%d/entries=%d", size.peers, size.entries), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if list, err := d.AllowedIPs(b.Context()); err != nil || len(list) != size.entries {
					b.Fatal(len(list), err)
				}
			}
			rate(b, size.entries, b.Elapsed())
		})
		must(b, d.Close(true))
	}
}
