package routes_test

import (
	"context"
	"fmt"
	"net/netip"
	"testing"
	"time"

	"sitewire/routes"
)

const benchPeers = 40

// fleet is a policy with a device for each of many peers.
func fleet() routes.Policy {
	var p routes.Policy
	for i := range benchPeers {
		name := fmt.Sprintf("peer%02d", i)
		p.Peers = append(p.Peers, routes.Peer{Name: name, Device: "sw-" + name})
		p.Neighbours = append(p.Neighbours, routes.Neighbour{Name: name, Peer: name})
	}
	return p
}

func nth(i int) netip.Prefix {
	return netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)}), 32)
}

// announce feeds n prefixes, each with a path from several peers, the first of which is best.
func announce(f *routes.Feed, n, paths int) {
	now := time.Now()
	for i := range n {
		for j := range paths {
			f.PutPath(fmt.Sprintf("peer%02d", (i+j)%benchPeers), nth(i), &routes.Path{Received: now})
		}
		f.PutBest(routes.BestChange{Prefix: nth(i), Neighbour: fmt.Sprintf("peer%02d", i%benchPeers), Replace: true, At: now})
	}
}

// BenchmarkChange is one best-path change among 3,000 prefixes with a path from each of 40 peers: fold, decide, plan and
// note, without the writes.
func BenchmarkChange(b *testing.B) {
	for _, n := range []int{3000, 30_000} {
		b.Run(fmt.Sprintf("prefixes=%d", n), func(b *testing.B) {
			table, ledger, feed := routes.NewTable(), routes.NewLedger(), routes.NewFeed()
			table.SetPolicy(fleet())
			announce(feed, n, benchPeers*3000/n)
			u := table.Apply(feed.Take())
			for _, op := range routes.Plan(u.Snapshot, ledger) {
				ledger.Done(op, time.Time{}, 0)
			}
			i, ops := 0, 0
			for b.Loop() {
				i++
				feed.PutBest(routes.BestChange{Prefix: nth(i % n), Neighbour: fmt.Sprintf("peer%02d", (i+i/n)%benchPeers), Replace: true})
				batch := feed.Take()
				u := table.Apply(batch)
				feed.Reuse(batch)
				for _, op := range routes.PlanPrefixes(u.Snapshot, ledger, u.Changed()) {
					ledger.Done(op, time.Time{}, 0)
					ops++
				}
			}
			b.ReportMetric(float64(ops)/float64(b.N), "ops/change")
		})
	}
}

// BenchmarkLoad is the first table of a peer with 100,000 prefixes: decide, plan and note.
func BenchmarkLoad(b *testing.B) {
	const n = 100_000
	for b.Loop() {
		b.StopTimer()
		table, ledger, feed := routes.NewTable(), routes.NewLedger(), routes.NewFeed()
		table.SetPolicy(fleet())
		announce(feed, n, 1)
		b.StartTimer()
		u := table.Apply(feed.Take())
		for _, op := range routes.PlanPrefixes(u.Snapshot, ledger, u.Changed()) {
			ledger.Done(op, time.Time{}, 0)
		}
	}
	b.ReportMetric(float64(n)*float64(b.N)/b.Elapsed().Seconds(), "prefixes/s")
}

// instant is a FIB and a set of tunnels that do everything at once and remember nothing.
type instant struct {
	done chan struct{}
}

func (i instant) Write(_ context.Context, ops []routes.Op) []error {
	for _, op := range ops {
		if op.Kind == routes.Install {
			select {
			case i.done <- struct{}{}:
			default:
			}
		}
	}
	return make([]error, len(ops))
}
func (instant) List(context.Context) ([]routes.Route, error)      { return nil, nil }
func (instant) Connected(context.Context) ([]routes.Route, error) { return nil, nil }
func (instant) Changed() <-chan struct{}                          { return nil }

type instantTunnels struct{ instant }

func (instantTunnels) List(context.Context) ([]routes.AllowedIP, error) { return nil, nil }

// BenchmarkConvergence is the way of one change through a running Syncer, from the Feed to the return of FIB.Write,
// after a pause as in a quiet network.
func BenchmarkConvergence(b *testing.B) {
	world := instant{make(chan struct{}, 1)}
	feed := routes.NewFeed()
	s := routes.New(routes.Options{FIB: world, Tunnels: instantTunnels{world}, Feed: feed})
	ctx, cancel := context.WithCancel(b.Context())
	defer cancel()
	go s.Run(ctx)
	p := fleet()
	p.ReconcileEvery = time.Hour
	if err := s.SetPolicy(ctx, p); err != nil {
		b.Fatal(err)
	}
	announce(feed, 3000, benchPeers)
	for s.Snapshot().Installed.Routes[0] < 3000 {
		time.Sleep(time.Millisecond)
	}
	select {
	case <-world.done:
	default:
	}
	i := 0
	for b.Loop() {
		b.StopTimer()
		time.Sleep(3 * time.Millisecond) // out of the fold window
		i++
		change := routes.BestChange{Prefix: nth(i % 3000), Neighbour: fmt.Sprintf("peer%02d", (i+1+i/3000)%benchPeers), Replace: true, At: time.Now()}
		b.StartTimer()
		feed.PutBest(change)
		<-world.done
	}
}
