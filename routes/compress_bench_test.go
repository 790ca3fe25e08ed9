package routes_test

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"runtime"
	"testing"
	"time"

	"sitewire/bgp/bgptest"
	"sitewire/routes"
)

// BenchmarkCompress loads tables with and without compression: decide, plan and note, without the writes. It reports the entries
// that are left, the operations that the load took, the memory that a prefix takes in the Table and the Ledger, and what a change
// of one prefix costs afterwards.
func BenchmarkCompress(b *testing.B) {
	hop := netip.MustParseAddr("fe80::2")
	spoke := func(i int) int { return i / 8 % benchPeers }
	var blocks []netip.Prefix // eight /24 next to each other for each spoke
	for i := range 8000 {
		blocks = append(blocks, netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(i >> 8), byte(i), 0}), 24))
	}
	anybody := rand.New(rand.NewPCG(5, 6))
	for _, table := range []struct {
		name     string
		prefixes []netip.Prefix
		owner    func(int) int
		shared   bool
	}{
		{"internet/one_peer", bgptest.NewTable(1_000_000, 65001, hop, 7).Prefixes, func(int) int { return 0 }, false},
		{"internet/40_peers_on_a_device", bgptest.NewTable(1_000_000, 65001, hop, 7).Prefixes, func(int) int { return anybody.IntN(benchPeers) }, true},
		{"spokes/1000_with_8", blocks, spoke, true},
	} {
		for _, above := range []int{0, 4096} {
			b.Run(fmt.Sprintf("%s/above=%d", table.name, above), func(b *testing.B) {
				p := fleet()
				p.CompressAbove = above
				for i := range p.Peers {
					if table.shared {
						p.Peers[i].Device, p.Peers[i].Shared = "hub", true
					}
				}
				var before, after runtime.MemStats
				var allows, gone, spare, changes int
				var change time.Duration
				for b.Loop() {
					b.StopTimer()
					runtime.GC()
					runtime.ReadMemStats(&before)
					t, ledger, feed := routes.NewTable(), routes.NewLedger(), routes.NewFeed()
					t.Compress()
					t.SetPolicy(p)
					note := func(u *routes.Update) {
						for _, op := range routes.PlanPrefixes(u.Snapshot, ledger, u.Changed()) {
							switch op.Kind {
							case routes.Allow:
								allows++
							case routes.Disallow:
								gone++
							}
							ledger.Done(op, time.Time{}, 0)
						}
					}
					put := func(q netip.Prefix, who int) {
						name := fmt.Sprintf("peer%02d", who)
						feed.PutPath(name, q, &routes.Path{})
						feed.PutBest(routes.BestChange{Prefix: q, Neighbour: name, Replace: true})
					}
					b.StartTimer()
					allows, gone = 0, 0
					for i, q := range table.prefixes {
						put(q, table.owner(i))
						if i%10_000 == 9999 || i == len(table.prefixes)-1 {
							note(t.Apply(feed.Take()))
						}
					}
					b.StopTimer()
					spare = len(routes.Spares(t, ledger))
					runtime.GC()
					runtime.ReadMemStats(&after)
					loaded := [2]int{allows, gone}
					start := time.Now()
					for i := range 2000 {
						put(table.prefixes[i*3], table.owner(i*3)+1)
						note(t.Apply(feed.Take()))
					}
					change, changes = time.Since(start)/2000, allows+gone-loaded[0]-loaded[1]
					allows, gone = loaded[0], loaded[1]
					runtime.KeepAlive(ledger)
					b.StartTimer()
				}
				n := float64(len(table.prefixes))
				b.ReportMetric(100*float64(allows-gone-spare)/n, "%left")
				b.ReportMetric(float64(allows)/n, "allows/prefix")
				b.ReportMetric(float64(gone+spare)/n, "disallows/prefix")
				b.ReportMetric(float64(after.HeapAlloc-before.HeapAlloc)/n, "B/prefix")
				b.ReportMetric(float64(change.Nanoseconds()), "ns/change")
				b.ReportMetric(float64(changes)/2000, "ops/change")
			})
		}
	}
}
