package routes_test

import (
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"

	"sitewire/routes"
	"sitewire/routes/routestest"
)

// TestFeedFolds: a batch has one outcome for each key, in whatever order things came.
func TestFeedFolds(t *testing.T) {
	p := pfx("10.2.0.0/16")
	add := func(n, hop string) routes.BestChange {
		return routes.BestChange{Prefix: p, Neighbour: n, NextHop: ip(hop)}
	}
	gone := func(n, hop string) routes.BestChange {
		return routes.BestChange{Prefix: p, Neighbour: n, NextHop: ip(hop), Withdrawn: true}
	}
	only := func(c routes.BestChange) routes.BestChange { c.Replace = true; return c }
	for _, c := range []struct {
		name    string
		changes []routes.BestChange
		want    string // next hops on the LAN that are installed
	}{
		{"add", []routes.BestChange{add("x", "192.168.1.1"), add("y", "192.168.1.2")}, "nexthop via 192.168.1.1 dev eth0 nexthop via 192.168.1.2 dev eth0"},
		{"replace", []routes.BestChange{add("x", "192.168.1.1"), only(add("y", "192.168.1.2"))}, "via 192.168.1.2 dev eth0"},
		{"withdraw", []routes.BestChange{add("x", "192.168.1.1"), add("y", "192.168.1.2"), gone("x", "192.168.1.1")}, "via 192.168.1.2 dev eth0"},
		{"another next hop", []routes.BestChange{add("x", "192.168.1.1"), add("x", "192.168.1.3")}, "via 192.168.1.3 dev eth0"},
		{"the old one goes late", []routes.BestChange{add("x", "192.168.1.1"), add("x", "192.168.1.3"), gone("x", "192.168.1.1")}, "via 192.168.1.3 dev eth0"},
		{"all go", []routes.BestChange{add("x", "192.168.1.1"), {Prefix: p, Replace: true, Withdrawn: true}}, ""},
		{"replace after all", []routes.BestChange{add("x", "192.168.1.1"), gone("x", "192.168.1.1"), only(add("x", "192.168.1.4")), add("y", "192.168.1.2")}, "nexthop via 192.168.1.2 dev eth0 nexthop via 192.168.1.4 dev eth0"},
	} {
		t.Run(c.name, func(t *testing.T) {
			policy := routes.Policy{Neighbours: []routes.Neighbour{{Name: "x"}, {Name: "y"}}, MaxPaths: 4}
			nets := []routes.Route{{Prefix: pfx("192.168.1.0/24"), Hops: []routes.Hop{{Device: "eth0"}}}}
			// One call, one batch of several calls, and a batch for each must come to the same.
			for _, how := range []string{"one call", "one batch", "batches"} {
				table, feed := routes.NewTable(), routes.NewFeed()
				table.SetPolicy(policy)
				u := table.SetConnected(nets)
				if how == "one call" {
					feed.PutBest(c.changes...)
				}
				for _, x := range c.changes {
					if how != "one call" {
						feed.PutBest(x)
					}
					if how == "batches" {
						u = table.Apply(feed.Take())
					}
				}
				if how != "batches" {
					u = table.Apply(feed.Take())
				}
				got := ""
				if r := u.Snapshot.Get(p); r != nil {
					x, _ := r.Route()
					got = routes.HopsString(p, x.Hops)
				}
				if got != c.want {
					t.Errorf("%s: %q, want %q", how, got, c.want)
				}
			}
		})
	}
}

func TestFeedWakes(t *testing.T) {
	f := routes.NewFeed()
	for range 3 {
		f.PutAlive("nyc", true) // never blocks, though nobody reads
	}
	<-f.Wake()
	select {
	case <-f.Wake():
		t.Error("woken twice")
	default:
	}
	if b := f.Take(); b.Empty() {
		t.Error("nothing taken")
	}
	if b := f.Take(); !b.Empty() {
		t.Error("taken twice")
	}
}

// FuzzFeed: one big batch and many small ones come to the same.
func FuzzFeed(f *testing.F) {
	for i := range uint64(4) {
		d, b := dice(2, i), make([]byte, 300)
		for j := range b {
			b[j] = byte(d.IntN(256))
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		d := &routestest.Bytes{Left: b}
		game := routestest.NewGame(d, origin())
		policy := game.Policy()
		big, small := routes.NewTable(), routes.NewTable()
		big.SetPolicy(policy)
		small.SetPolicy(policy)
		whole, parts := routes.NewFeed(), routes.NewFeed()
		var last *routes.Update
		for range min(len(b)/4, 300) + 1 {
			game.Step(whole, parts)
			last = small.Apply(parts.Take())
		}
		if diff := cmp.Diff(wanted(last.Snapshot), wanted(big.Apply(whole.Take()).Snapshot)); diff != "" {
			t.Fatalf("(-many batches +one):\n%s", diff)
		}
	})
}

// TestSnapshotsDoNotChange: a snapshot shows what it showed, whatever happens later.
func TestSnapshotsDoNotChange(t *testing.T) {
	s := newSeed(t)
	game := routestest.NewGame(dice(s, 0), origin())
	table, feed := routes.NewTable(), routes.NewFeed()
	type shown struct {
		snap *routes.Snapshot
		text string
		size int
	}
	u := table.SetPolicy(game.Policy())
	var all []shown
	for range 300 {
		all = append(all, shown{u.Snapshot, wanted(u.Snapshot), u.Snapshot.Len()})
		game.Step(feed)
		u = table.Apply(feed.Take())
	}
	for i, x := range all {
		if got := wanted(x.snap); got != x.text || x.snap.Len() != x.size {
			t.Fatalf("snapshot %d changed:\n%s", i, cmp.Diff(x.text, got))
		}
		recount(t, x.snap)
	}
	if p := (netip.Prefix{}); u.Snapshot.Get(p) != nil {
		t.Error("something is known of no prefix")
	}
}
