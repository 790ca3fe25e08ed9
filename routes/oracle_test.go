package routes_test

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"sitewire/routes"
	"sitewire/routes/routestest"
)

// seed makes the random tests repeat what a failed run printed.
var seed = flag.Uint64("seed", 0, "seed of the random tests; 0 takes a new one")

func newSeed(t testing.TB) uint64 {
	s := *seed
	if s == 0 {
		s = rand.Uint64()
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("repeat with -seed=%d", s)
		}
	})
	return s
}

func dice(seed, stream uint64) *rand.Rand { return rand.New(rand.NewPCG(seed, stream)) }

// origin is when games begin that need no clock.
func origin() time.Time { return time.Unix(1_000_000_000, 0) }

// wanted renders what a snapshot wants, as the oracle does.
func wanted(s *routes.Snapshot) string {
	var list []routes.Route
	var allowed []routes.AllowedIP
	for r := range s.Rows() {
		if x, ok := r.Route(); ok {
			list = append(list, x)
		}
		if r.Discard {
			list = append(list, routes.Route{Prefix: r.Prefix, Type: routes.Unreachable})
		}
		for _, o := range r.Owners {
			allowed = append(allowed, routes.AllowedIP{Device: o.Device, Prefix: r.Prefix, Peer: o.Peer})
		}
	}
	slices.SortStableFunc(allowed, func(a, b routes.AllowedIP) int {
		if a.Device != b.Device {
			if a.Device < b.Device {
				return -1
			}
			return 1
		}
		return a.Prefix.Compare(b.Prefix)
	})
	return routestest.Strings(list, allowed)
}

// play runs a game against a Table, and after each batch compares the outcome with the oracle's, the incremental plan
// with the full one, and the counts with a recount.
func play(t testing.TB, d routestest.Dice, steps int, backups bool) {
	start := origin()
	game := routestest.NewGame(d, start)
	world := game.World()
	nets, err := world.FIB().Connected(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	policy := game.Policy()
	oracle := routestest.NewOracle(policy, nil)
	table, feed, ledger := routes.NewTable(), routes.NewFeed(), routes.NewLedger()
	ledger.Sweep()
	if oracle.Backups = backups; backups {
		table.UseBackups()
	}
	finish := func(what string, u *routes.Update) {
		t.Helper()
		list, allowed := oracle.Desired()
		if diff := cmp.Diff(routestest.Strings(list, allowed), wanted(u.Snapshot)); diff != "" {
			t.Fatalf("%s: desired (-oracle +table):\n%s", what, diff)
		}
		ops := routes.PlanPrefixes(u.Snapshot, ledger, u.Changed())
		if diff := cmp.Diff(printed(routes.Plan(u.Snapshot, ledger)), printed(ops)); diff != "" {
			t.Fatalf("%s: plan (-full +incremental):\n%s", what, diff)
		}
		for _, op := range ops {
			ledger.Done(op, start, 0)
		}
		recount(t, u.Snapshot)
	}
	finish("policy", table.SetPolicy(policy))
	oracle.Connected = nets
	finish("connected", table.SetConnected(nets))
	for i := range steps {
		switch {
		case game.Chance(40):
			oracle.SetPolicy(game.Policy())
			finish(fmt.Sprintf("step %d, policy", i), table.SetPolicy(oracle.Policy))
		case game.Chance(40):
			if oracle.Connected = nets; game.Chance(2) {
				oracle.Connected = nil
			}
			finish(fmt.Sprintf("step %d, connected", i), table.SetConnected(oracle.Connected))
		default:
			for game.Step(feed, oracle); game.Chance(2); { // several in one batch: the feed folds
				game.Step(feed, oracle)
			}
			finish(fmt.Sprintf("step %d", i), table.Apply(feed.Take()))
		}
	}
}

func printed(ops []routes.Op) []string {
	var out []string
	for _, op := range ops {
		out = append(out, op.String())
	}
	return out
}

// recount compares the counts of a snapshot, which are kept step by step, with the rows.
func recount(t testing.TB, s *routes.Snapshot) {
	t.Helper()
	byRoute, byPeer := map[routes.RouteKey]int{}, map[routes.PeerFamily]int{}
	for r := range s.Rows() {
		f := routes.FamilyOf(r.Prefix)
		labels := map[string]bool{}
		for _, w := range r.Ways {
			labels[w.Label] = true
		}
		for l := range labels {
			byRoute[routes.RouteKey{Family: f, Source: r.Source, Label: l}]++
		}
		if r.Discard {
			byRoute[routes.RouteKey{Family: f, Source: routes.Own}]++
		}
		for _, o := range r.Owners {
			byPeer[routes.PeerFamily{Peer: o.Peer, Family: f}]++
		}
	}
	if diff := cmp.Diff(byRoute, s.Counts.Routes); diff != "" {
		t.Fatalf("counts of routes (-recounted +kept):\n%s", diff)
	}
	if diff := cmp.Diff(byPeer, s.Counts.AllowedIPs); diff != "" {
		t.Fatalf("counts of allowed-IPs (-recounted +kept):\n%s", diff)
	}
}

func TestTableAgainstOracle(t *testing.T) {
	s := newSeed(t)
	for round := range uint64(15) {
		play(t, dice(s, round), 150, round%2 == 1)
	}
}

func FuzzTable(f *testing.F) {
	for i := range uint64(8) {
		d, b := dice(1, i), make([]byte, 600+i%2)
		for j := range b {
			b[j] = byte(d.IntN(256))
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		play(t, &routestest.Bytes{Left: b}, min(len(b)/6, 200), len(b)%2 == 1)
	})
}
