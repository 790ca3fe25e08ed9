package kernel

import (
	"fmt"
	"testing"

	"sitewire/gateway/wg"
	"sitewire/gateway/wg/wgtest"
	"sitewire/topologies/netns/nstest"
)

// What this package itself does for an entry, without the kernel; see beside_test.go for the whole.

// BenchmarkWriteEntries packs entries into messages that nobody reads.
func BenchmarkWriteEntries(b *testing.B) {
	var m message
	list := block(0, 2000, wgtest.Peer("a").PublicKey)
	for b.Loop() {
		m.reset(fakeIndex)
		m.beginPeer(list[0].Peer, peerUpdateOnly)
		for _, a := range list {
			m.addAllowed(a.Prefix, 0)
		}
	}
	b.ReportMetric(float64(len(list)*b.N)/b.Elapsed().Seconds(), "entries/s")
}

// BenchmarkReadEntries takes a message of a dump apart, with and without its entries.
func BenchmarkReadEntries(b *testing.B) {
	w := &dumpWriter{limit: 1000}
	w.begin()
	w.peer(&fakePeer{stats: wg.PeerStats{PublicKey: wgtest.Peer("a").PublicKey}}, false)
	list := block(0, 1000, wgtest.Peer("a").PublicKey)
	for _, a := range list {
		w.allowed(a.Prefix)
	}
	msg := w.end()
	for _, wanted := range []bool{true, false} {
		b.Run(fmt.Sprintf("wanted=%t", wanted), func(b *testing.B) {
			s := state{allowed: make([]wg.AllowedIP, 0, len(list))}
			for b.Loop() {
				s.reset(wanted)
				must(b, s.add(msg))
			}
			b.ReportMetric(float64(len(list)*b.N)/b.Elapsed().Seconds(), "entries/s")
		})
	}
}

// BenchmarkKernelOneEntry removes and adds one entry of a device with few, and with many. It needs a kernel with the module.
func BenchmarkKernelOneEntry(b *testing.B) {
	nstest.Need(b, wireguard)
	for _, n := range []int{10, 10_000} {
		b.Run(fmt.Sprintf("entries=%d", n), func(b *testing.B) {
			d := openIn(b, nstest.NS(b, fmt.Sprintf("one-%d", n)), config("wg0", "self"), Options{})
			list := block(0, n, wgtest.Peer("a").PublicKey)
			must(b, d.Apply(b.Context(), wg.Delta{SetPeers: []wg.PeerConfig{wgtest.Peer("a")}, Allow: list}))
			one := list[:1]
			must(b, d.Apply(b.Context(), wg.Delta{Disallow: one})) // asks what the kernel can do, and reads the device where it must
			for b.Loop() {
				must(b, d.Apply(b.Context(), wg.Delta{Allow: one}))
				must(b, d.Apply(b.Context(), wg.Delta{Disallow: one}))
			}
		})
	}
}
