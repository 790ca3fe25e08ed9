package bgp

import (
	"encoding/binary"
	"math/rand/v2"
	"net/netip"
	"runtime"
	"testing"
	"time"

	"github.com/osrg/gobgp/v4/pkg/apiutil"
	"github.com/osrg/gobgp/v4/pkg/packet/bgp"

	"sitewire/bgp/policy"
)

// BenchmarkView hands a table of one neighbour to the view as GoBGP does: an UPDATE before policy, then a best path for each
// of its prefixes. "held" is what the view keeps for a route.
func BenchmarkView(b *testing.B) {
	const n, perUpdate = 120_000, 6
	p, _ := policy.Profile("full")
	cfg := passive("a", 2, 65001, p)
	random := rand.New(rand.NewPCG(1, 2))
	prefixes := make([]netip.Prefix, n)
	for i := range prefixes {
		var a [4]byte
		binary.BigEndian.PutUint32(a[:], 20<<24+uint32(i)<<8)
		prefixes[i] = netip.PrefixFrom(netip.AddrFrom4(a), 24)
	}
	var held uint64
	for b.Loop() {
		b.StopTimer()
		v := newView(&counter{}, func() {})
		v.setConfig(Config{ASN: ownASN, RouterID: routerID, Neighbours: []Neighbour{cfg}})
		v.byAddr[cfg.Address].state = Established
		before := live()
		b.StartTimer()
		for i := 0; i < n; i += perUpdate {
			path := append(make([]uint32, 0, 7), 65001)
			for range 3 + random.IntN(4) {
				path = append(path, 1000+random.Uint32N(60000))
			}
			communities := make([]uint32, random.IntN(4))
			for j := range communities {
				communities[j] = (1000+random.Uint32N(60000))<<16 | random.Uint32N(1000)
			}
			hop, _ := bgp.NewPathAttributeNextHop(hop4(2))
			attrs := []bgp.PathAttributeInterface{
				bgp.NewPathAttributeOrigin(0), bgp.NewPathAttributeAsPath([]bgp.AsPathParamInterface{bgp.NewAs4PathParam(bgp.BGP_ASPATH_ATTR_TYPE_SEQ, path)}),
				hop, bgp.NewPathAttributeCommunities(communities),
			}
			var update []*apiutil.Path
			for _, p := range prefixes[i : i+perUpdate] {
				nlri, err := bgp.NewIPAddrPrefix(p)
				if err != nil {
					b.Fatal(err)
				}
				update = append(update, &apiutil.Path{Nlri: nlri, Attrs: attrs, PeerAddress: cfg.Address})
			}
			now := time.Now()
			v.onUpdate(update, now)
			for _, p := range update {
				v.onBest([]*apiutil.Path{p}, now)
			}
		}
		b.StopTimer()
		held = live() - before
		if v.paths[0] != n || v.prefixes[0] != n {
			b.Fatalf("%d paths, %d best ones", v.paths[0], v.prefixes[0])
		}
		b.StartTimer()
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/n, "ns/route")
	b.ReportMetric(float64(held)/n, "held-bytes/route")
}

// live is how many bytes a collection leaves.
func live() uint64 {
	var m runtime.MemStats
	runtime.GC()
	runtime.GC()
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}
