package routes_test

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"sitewire/routes"
	"sitewire/routes/routestest"
)

// chaos is a game with a syncer in a bubble.
type chaos struct {
	*bench
	game   *routestest.Game
	oracle *routestest.Oracle
	dice   *rand.Rand
}

func newChaos(t *testing.T, seed, stream uint64) *chaos {
	d := dice(seed, stream)
	game := routestest.NewGame(d, time.Now())
	w := game.World()
	nets, err := w.FIB().Connected(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	policy := game.Policy()
	policy.SweepAfter = 20 * time.Second
	c := &chaos{
		bench:  &bench{t: t, world: w, feed: routes.NewFeed()},
		game:   game,
		oracle: routestest.NewOracle(policy, nets),
		dice:   d,
	}
	if stream%2 == 1 { // half of the games have a kernel with nexthop objects
		c.switcher, c.oracle.Backups = w.Switcher(), true
	}
	c.begin(policy, game.Probes()...)
	return c
}

// agree checks that the world is as the oracle wants it.
func (c *chaos) agree(when string) {
	c.t.Helper()
	list, allowed := c.oracle.Desired()
	have := c.world.Allowed()
	if c.oracle.Policy.CompressAbove > 0 {
		if err := routestest.SameOwners(allowed, have); err != nil {
			c.t.Fatalf("%s: by the oracle and in the world: %v\n%s", when, err, routestest.Strings(nil, have))
		}
		have = allowed
	}
	if diff := cmp.Diff(routestest.Strings(list, allowed), routestest.Strings(c.world.Routes(), have)); diff != "" {
		c.t.Fatalf("%s: (-oracle +world):\n%s", when, diff)
	}
	if c.switcher == nil {
		return
	}
	diverted := c.world.Diverted()
	for _, d := range []string{"sw-a", "sw-b", "hub", "sw-f", "sw-g"} {
		is := slices.Contains(diverted, d)
		if dead, alive := c.oracle.Dead(d); is && alive || !is && dead {
			c.t.Fatalf("%s: dev %s: diverted %t, its peer dead %t, alive %t", when, d, is, dead, alive)
		}
	}
}

// TestNoPacketLost: whatever BGP, tunnels and the operator do, after each single operation every route has a peer
// behind it, and what stays reachable is never unreachable in between.
func TestNoPacketLost(t *testing.T) {
	s := newSeed(t)
	for stream := range uint64(10) {
		synctest.Test(t, func(t *testing.T) {
			c := newChaos(t, s, stream)
			defer func() { c.stop(); c.explain() }()
			for i := range 120 {
				if c.dice.IntN(30) == 0 {
					c.oracle.SetPolicy(c.game.Policy())
					c.policy(c.oracle.Policy)
				} else {
					c.hold()
					for range 1 + c.dice.IntN(4) {
						c.game.Step(c.feed, c.oracle)
					}
				}
				c.settle()
				c.agree(fmt.Sprintf("stream %d, step %d", stream, i))
				if t.Failed() {
					t.FailNow()
				}
			}
		})
	}
}

// TestFaults: operations fail, take effect all the same or not, routes vanish, others write; nothing is ever installed
// without a peer behind it, and when the faults end all is as it should be.
func TestFaults(t *testing.T) {
	s := newSeed(t)
	for stream := range uint64(10) {
		synctest.Test(t, func(t *testing.T) {
			c := newChaos(t, s, stream)
			defer func() { c.stop(); c.explain() }()
			time.Sleep(30 * time.Second) // past the sweep: what is lost then is drift
			faults := dice(s, stream+1000)
			for i := range 10 {
				c.world.OnFault(func(routes.Op) routestest.Fault {
					if faults.IntN(4) == 0 {
						return routestest.Fault{Err: routestest.ErrInjected, Done: faults.IntN(2) == 0}
					}
					return routestest.Fault{}
				})
				for range 10 {
					c.hold()
					c.game.Step(c.feed, c.oracle)
					time.Sleep(time.Duration(c.dice.IntN(200)) * time.Millisecond)
					if c.dice.IntN(5) == 0 {
						c.loseSomething()
					}
				}
				c.world.OnFault(nil)
				time.Sleep(2 * time.Minute) // longer than the longest retry and two reconciles
				synctest.Wait()
				c.agree(fmt.Sprintf("stream %d, round %d", stream, i))
				st := c.syncer.Snapshot()
				if st.Pending != 0 || !st.OldestPending.IsZero() {
					t.Fatalf("stream %d, round %d: pending %d since %v", stream, i, st.Pending, st.OldestPending)
				}
				if st.DriftUnresolved != ([routes.DriftKinds]int{}) {
					t.Fatalf("stream %d, round %d: drift unresolved: %v, foreign %v", stream, i, st.DriftUnresolved, st.Foreign)
				}
				if t.Failed() {
					t.FailNow()
				}
			}
		})
	}
}

// loseSomething makes the kernel forget, or somebody write with our protocol number. (That somebody takes an allowed-IP
// away would break a route for a moment, which Check would rightly report.)
func (c *chaos) loseSomething() {
	list := c.world.Routes()
	if len(list) == 0 {
		return
	}
	r := list[c.dice.IntN(len(list))]
	if c.dice.IntN(2) == 0 {
		c.world.Lose(r.Prefix)
	} else {
		r.Prefix = pfx("198.51.100.0/24")
		r.Type, r.Hops, r.Backup = routes.Unicast, []routes.Hop{{Device: "eth0"}}, nil
		c.world.PutRoute(r)
	}
	if c.dice.IntN(2) == 0 {
		c.world.Notify()
	}
}

// TestCrash: the process dies after any operation; the next one adopts what is there and ends up where it should.
func TestCrash(t *testing.T) {
	s := newSeed(t)
	for stream := range uint64(4) {
		for k := 0; ; k++ {
			crashed := false
			synctest.Test(t, func(t *testing.T) { crashed = crash(t, s, stream, k) })
			if t.Failed() {
				t.Fatalf("stream %d, crash after operation %d", stream, k)
			}
			if !crashed {
				break
			}
		}
	}
}

// crash plays a game whose last batch is cut short after k operations, then starts again. It returns whether there were
// more than k.
func crash(t *testing.T, seed, stream uint64, k int) bool {
	c := newChaos(t, seed, stream)
	defer func() { c.stop() }()
	all := routes.NewFeed() // what the next process will hear
	c.hold()
	for range 40 {
		c.game.Step(c.feed, c.oracle, all)
	}
	c.settle()
	c.world.Journal()
	c.world.CrashAfter(k)
	c.hold()
	for range 15 {
		c.game.Step(c.feed, c.oracle, all)
	}
	c.settle()
	crashed := len(c.world.Journal()) == k
	c.stop()
	c.world.CrashAfter(-1)

	c.feed = all
	c.start()
	c.policy(c.oracle.Policy)
	c.settle()
	time.Sleep(30 * time.Second) // past SweepAfter
	c.settle()
	c.agree(fmt.Sprintf("after a crash at %d", k))
	return crashed
}
