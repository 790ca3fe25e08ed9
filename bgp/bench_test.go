package bgp

import (
	"context"
	"net/netip"
	"sync/atomic"
	"testing"
	"time"

	"sitewire/bgp/bgptest"
	"sitewire/bgp/policy"
	"sitewire/routes"
)

// counter is a Sink that only counts.
type counter struct{ paths, best atomic.Int64 }

func (c *counter) PutPath(string, netip.Prefix, *routes.Path) { c.paths.Add(1) }
func (c *counter) PutBest(changes ...routes.BestChange)       { c.best.Add(int64(len(changes))) }
func (c *counter) PutEndOfRIB(string, routes.Family, uint32)  {}
func (c *counter) PutLoss(string, routes.LossKind, time.Time) {}

func (c *counter) PutReachable(string, bool) {}

// BenchmarkReceive takes a table in from one neighbour, through policy, to the last best path in the Sink.
func BenchmarkReceive(b *testing.B) {
	const n = 20000
	for _, name := range []string{"full", "dn42"} {
		b.Run(name, func(b *testing.B) {
			p, _ := policy.Profile(name)
			if name == "dn42" { // its rules, on a table that they do not let through
				p.Import[len(p.Import)-1].Match.Prefixes = append(p.Import[len(p.Import)-1].Match.Prefixes, policy.OrLonger(netip.MustParsePrefix("0.0.0.0/0")))
				p.MaxPrefixes4 = 0
			}
			sink := &counter{}
			s := New(Options{Sink: sink, Config: Config{ASN: ownASN, RouterID: routerID, ListenPort: 17917, Neighbours: []Neighbour{passive("a", 2, 65001, p)}}})
			ctx, cancel := context.WithCancel(b.Context())
			done := make(chan error, 1)
			go func() { done <- s.Run(ctx, nil) }()
			defer func() { cancel(); <-done }()
			<-s.Ready()
			peer, err := bgptest.Dial(ctx, bgptest.Options{Local: netip.AddrFrom4([4]byte{127, 0, 0, 2}), Remote: netip.AddrPortFrom(speaker, 17917), ASN: 65001, IPv4: true})
			if err != nil {
				b.Fatal(err)
			}
			defer peer.Close()
			table := bgptest.NewTable(n, 65001, hop4(2), 7)
			wait := func(best int64) {
				for deadline := time.Now().Add(time.Minute); sink.best.Load() < best; time.Sleep(100 * time.Microsecond) {
					if time.Now().After(deadline) {
						b.Fatalf("%d of %d best paths", sink.best.Load(), best)
					}
				}
			}
			var total int64
			for b.Loop() {
				if err := table.Send(peer); err != nil {
					b.Fatal(err)
				}
				total += n
				wait(total)
				b.StopTimer()
				for i := 0; i < n; i += 500 {
					if err := peer.Withdraw(table.Prefixes[i : i+500]...); err != nil {
						b.Fatal(err)
					}
				}
				total += n
				wait(total)
				b.StartTimer()
			}
			b.ReportMetric(float64(b.Elapsed().Microseconds())/float64(b.N)/n, "µs/route")
		})
	}
}
