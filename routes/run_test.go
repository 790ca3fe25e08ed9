package routes_test

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"sitewire/routes"
	"sitewire/routes/routestest"
)

// inBubble runs f with a bench over two tunnels, each with its own device.
func inBubble(t *testing.T, f func(*testing.T, *bench, routes.Policy)) {
	synctest.Test(t, func(t *testing.T) {
		w, p := twoTunnels()
		p.Peers[0].Tunnel, p.Peers[1].Tunnel = nil, nil
		b := newBench(t, w, p, ip("10.2.0.1"), ip("10.3.0.1"))
		defer func() { b.stop() }()
		f(t, b, p)
	})
}

// told makes all neighbours say that they have told everything, and waits for the sweep.
func (b *bench) told() {
	for _, n := range []string{"nyc", "ams"} {
		b.feed.PutEndOfRIB(n, routes.IPv4, 1)
		b.feed.PutEndOfRIB(n, routes.IPv6, 1)
	}
	time.Sleep(2 * time.Second)
	b.settle()
}

func TestAdoptAndSweep(t *testing.T) {
	inBubble(t, func(t *testing.T, b *bench, p routes.Policy) {
		b.learn("nyc", "10.2.0.0/16")
		b.learn("nyc", "10.3.0.0/16")
		b.learn("nyc", "10.4.0.0/16")
		b.settle()
		b.stop()
		b.world.Journal()

		// A new process. The world is as the old one left it; nothing is touched that BGP may yet confirm.
		b.feed = routes.NewFeed()
		b.start()
		b.policy(p)
		b.settle()
		b.did("")
		if i, ok := b.syncer.Snapshot().Lookup(ip("10.2.0.1")); !ok || !i.Adopted || i.InstalledString() != "dev sw-nyc" {
			t.Errorf("adopted route: %+v", i)
		}
		b.learn("nyc", "10.2.0.0/16")
		b.learn("ams", "10.3.0.0/16")
		b.settle()
		b.did(`
			allow 10.3.0.0/16 peer ams dev sw-ams
			install 10.3.0.0/16 dev sw-ams`)
		b.feed.PutEndOfRIB("nyc", routes.IPv4, 1)
		b.feed.PutEndOfRIB("nyc", routes.IPv6, 1)
		b.feed.PutEndOfRIB("ams", routes.IPv4, 1)
		time.Sleep(time.Minute)
		b.settle()
		b.did("")
		if got := b.syncer.Snapshot().Awaiting; !slices.Equal(got, []string{"neighbour ams"}) {
			t.Errorf("awaiting %q", got)
		}
		p.Neighbours = slices.Clone(p.Neighbours)
		for i := range p.Neighbours {
			p.Neighbours[i].Disabled = p.Neighbours[i].Name == "ams"
		}
		b.policy(p)
		b.settle()
		if got := b.syncer.Snapshot().Awaiting; len(got) > 0 {
			t.Errorf("awaiting %q, of which nothing will come", got)
		}
		p.Neighbours = slices.Clone(p.Neighbours)
		for i := range p.Neighbours {
			p.Neighbours[i].Disabled = false
		}
		b.policy(p)
		b.feed.PutEndOfRIB("ams", routes.IPv6, 1)
		time.Sleep(1100 * time.Millisecond)
		b.settle()
		b.did(`
			withdraw 10.4.0.0/16 dev sw-nyc
			disallow 10.3.0.0/16 peer nyc dev sw-nyc
			disallow 10.4.0.0/16 peer nyc dev sw-nyc`)
		if b.syncer.Snapshot().Synced.IsZero() {
			t.Error("not synced")
		}
	})
}

func TestSweepTimeout(t *testing.T) {
	inBubble(t, func(t *testing.T, b *bench, p routes.Policy) {
		b.learn("nyc", "10.2.0.0/16")
		b.settle()
		b.stop()
		b.world.Journal()
		b.feed = routes.NewFeed()
		b.start()
		p.SweepAfter = 10 * time.Second
		b.policy(p)
		time.Sleep(9 * time.Second)
		b.settle()
		b.did("")
		time.Sleep(2 * time.Second)
		b.settle()
		b.did("withdraw 10.2.0.0/16 dev sw-nyc\ndisallow 10.2.0.0/16 peer nyc dev sw-nyc")
	})
}

func TestFailedAllowHoldsInstall(t *testing.T) {
	inBubble(t, func(t *testing.T, b *bench, _ routes.Policy) {
		attempts := 0 // only the syncer looks at it
		b.world.OnFault(func(op routes.Op) routestest.Fault {
			if op.Kind == routes.Allow && attempts < 4 {
				attempts++
				return routestest.Fault{Err: routestest.ErrInjected}
			}
			return routestest.Fault{}
		})
		start := time.Now()
		b.learn("nyc", "10.2.0.0/16")
		b.settle()
		b.did("")
		st := b.syncer.Snapshot()
		i, ok := st.Get(pfx("10.2.0.0/16"))
		if !ok || i.Failure == nil || !errors.Is(i.Failure.Err, routestest.ErrInjected) ||
			i.Failure.Op != "allow 10.2.0.0/16 peer nyc dev sw-nyc" || i.Failure.Attempts != 1 {
			t.Errorf("failure: %+v", i.Failure)
		}
		if st.Pending != 1 || st.OldestPending.Before(start) || st.OldestPending.IsZero() {
			t.Errorf("pending %d since %v", st.Pending, st.OldestPending)
		}
		// 50 + 100 + 200 + 400 ms of backoff.
		time.Sleep(740 * time.Millisecond)
		b.settle()
		b.did("")
		time.Sleep(20 * time.Millisecond)
		b.settle()
		b.did("allow 10.2.0.0/16 peer nyc dev sw-nyc\ninstall 10.2.0.0/16 dev sw-nyc")
		st = b.syncer.Snapshot()
		if i, _ := st.Get(pfx("10.2.0.0/16")); i.Failure != nil || i.Took < 750*time.Millisecond || i.Took > 770*time.Millisecond {
			t.Errorf("took %v, failure %+v", i.Took, i.Failure)
		}
		if st.Pending != 0 || st.Retries != 4 || st.Failures[routes.Allow] != 4 {
			t.Errorf("pending %d, retries %d, failures %v", st.Pending, st.Retries, st.Failures)
		}
	})
}

func TestFailedWithdrawHoldsDisallow(t *testing.T) {
	inBubble(t, func(t *testing.T, b *bench, _ routes.Policy) {
		b.learn("nyc", "10.2.0.0/16")
		b.settle()
		b.world.Journal()
		b.world.OnFault(func(op routes.Op) routestest.Fault {
			if op.Kind == routes.Withdraw {
				return routestest.Fault{Err: routestest.ErrInjected}
			}
			return routestest.Fault{}
		})
		b.forget("nyc", "10.2.0.0/16")
		b.settle()
		b.did("")
		b.world.OnFault(nil)
		time.Sleep(time.Second)
		b.settle()
		b.did("withdraw 10.2.0.0/16 dev sw-nyc\ndisallow 10.2.0.0/16 peer nyc dev sw-nyc")
	})
}

func TestLastBackoffIsBounded(t *testing.T) {
	inBubble(t, func(t *testing.T, b *bench, _ routes.Policy) {
		var n atomic.Int32
		b.world.OnFault(func(routes.Op) routestest.Fault { n.Add(1); return routestest.Fault{Err: routestest.ErrInjected} })
		b.learn("nyc", "10.2.0.0/16")
		time.Sleep(10 * time.Minute)
		synctest.Wait()
		before := n.Load()
		time.Sleep(10 * time.Minute)
		synctest.Wait()
		if got := n.Load() - before; got < 19 || got > 21 { // every 30 s
			t.Errorf("%d attempts in 10 minutes", got)
		}
		b.world.OnFault(nil)
		time.Sleep(31 * time.Second)
		b.settle()
		if len(b.world.Routes()) != 1 {
			t.Error("not installed")
		}
	})
}

// TestFirstChangeAtOnce: after a pause nothing waits; in a burst changes gather for 2 ms.
func TestFirstChangeAtOnce(t *testing.T) {
	inBubble(t, func(t *testing.T, b *bench, _ routes.Policy) {
		time.Sleep(time.Second)
		start := time.Now()
		b.feed.PutBest(routes.BestChange{Prefix: pfx("10.2.0.0/16"), Neighbour: "nyc", Replace: true, At: start})
		synctest.Wait()
		b.did("allow 10.2.0.0/16 peer nyc dev sw-nyc\ninstall 10.2.0.0/16 dev sw-nyc")
		if waited := time.Since(start); waited != 0 {
			t.Errorf("waited %v", waited)
		}
		b.learn("nyc", "10.3.0.0/16")
		synctest.Wait()
		b.did("")
		b.forget("nyc", "10.3.0.0/16")
		b.learn("nyc", "10.4.0.0/16")
		time.Sleep(1900 * time.Microsecond)
		synctest.Wait()
		b.did("")
		time.Sleep(200 * time.Microsecond)
		synctest.Wait()
		b.did("allow 10.4.0.0/16 peer nyc dev sw-nyc\ninstall 10.4.0.0/16 dev sw-nyc")
	})
}

func TestDrift(t *testing.T) {
	inBubble(t, func(t *testing.T, b *bench, _ routes.Policy) {
		b.told()
		for _, p := range []string{"10.2.0.0/16", "10.3.0.0/16", "10.4.0.0/16"} {
			b.learn("nyc", p)
		}
		b.backup("ams", "10.2.0.0/16")
		b.settle()
		b.world.Journal()
		w := b.world
		w.Lose(pfx("10.2.0.0/16"))                                                                                       // route_missing
		w.PutRoute(routes.Route{Prefix: pfx("10.3.0.0/16"), Hops: []routes.Hop{{Device: "sw-ams"}, {Device: "sw-nyc"}}}) // route_changed
		w.PutRoute(routes.Route{Prefix: pfx("10.9.0.0/16"), Hops: []routes.Hop{{Device: "sw-ams"}}})                     // route_extra
		w.AddDevice("sw-nyc", "stranger")
		w.PutAllowed(routes.AllowedIP{Device: "sw-nyc", Prefix: pfx("10.4.0.0/16"), Peer: "stranger"}) // allowed_ip_wrong_peer
		w.PutAllowed(routes.AllowedIP{Device: "sw-ams", Prefix: pfx("10.2.0.0/16")})                   // allowed_ip_missing
		w.PutAllowed(routes.AllowedIP{Device: "sw-ams", Prefix: pfx("10.77.0.0/16"), Peer: "ams"})     // allowed_ip_extra
		w.After(nil)                                                                                   // what others break is not the syncer's doing
		time.Sleep(routes.DefaultReconcileEvery)
		synctest.Wait()
		b.did(`
			allow 10.2.0.0/16 peer ams dev sw-ams
			allow 10.4.0.0/16 peer nyc dev sw-nyc
			install 10.2.0.0/16 dev sw-nyc
			install 10.3.0.0/16 dev sw-nyc
			withdraw 10.9.0.0/16 dev sw-ams`)
		st := b.syncer.Snapshot()
		if diff := cmp.Diff([routes.DriftKinds]uint64{1, 1, 1, 1, 1, 1}, st.DriftDetected); diff != "" {
			t.Errorf("detected: %s", diff)
		}
		if diff := cmp.Diff([routes.DriftKinds]uint64{1, 1, 1, 1, 0, 1}, st.DriftRepaired); diff != "" {
			t.Errorf("repaired: %s", diff)
		}
		foreign := []routes.AllowedIP{{Device: "sw-ams", Prefix: pfx("10.77.0.0/16"), Peer: "ams"}}
		if diff := cmp.Diff(foreign, st.Foreign, cmp.Comparer(func(a, b netip.Prefix) bool { return a == b })); diff != "" {
			t.Errorf("foreign: %s", diff)
		}
		if st.DriftUnresolved[routes.AllowedIPExtra] != 1 {
			t.Errorf("unresolved: %v", st.DriftUnresolved)
		}
		// It is counted once, and learning the prefix makes it ours.
		time.Sleep(routes.DefaultReconcileEvery)
		synctest.Wait()
		b.did("")
		if n := b.syncer.Snapshot().DriftDetected[routes.AllowedIPExtra]; n != 1 {
			t.Errorf("foreign entry counted %d times", n)
		}
		b.learn("ams", "10.77.0.0/16")
		b.settle()
		b.forget("ams", "10.77.0.0/16")
		time.Sleep(routes.DefaultReconcileEvery)
		synctest.Wait()
		if st := b.syncer.Snapshot(); st.DriftUnresolved != ([routes.DriftKinds]int{}) {
			t.Errorf("unresolved: %v", st.DriftUnresolved)
		}
	})
}

// TestKernelNotification: what the kernel lost comes back within 100 ms of a notification, and a storm of notifications
// does not become a storm of dumps.
func TestKernelNotification(t *testing.T) {
	inBubble(t, func(t *testing.T, b *bench, _ routes.Policy) {
		b.told()
		b.learn("nyc", "10.2.0.0/16")
		b.settle()
		b.world.Journal()
		b.world.Lose(pfx("10.2.0.0/16"))
		b.world.Notify()
		time.Sleep(100 * time.Millisecond)
		synctest.Wait()
		b.did("install 10.2.0.0/16 dev sw-nyc")
		before := b.syncer.Snapshot().Reconciles[routes.OnKernel]
		for range 1000 {
			b.world.Notify()
			time.Sleep(time.Millisecond)
		}
		synctest.Wait()
		if n := b.syncer.Snapshot().Reconciles[routes.OnKernel] - before; n < 5 || n > 21 {
			t.Errorf("%d dumps in a second", n)
		}
	})
}

func TestPolicyChange(t *testing.T) {
	inBubble(t, func(t *testing.T, b *bench, p routes.Policy) {
		b.told()
		b.learn("nyc", "10.2.0.0/16")
		b.learn("ams", "10.3.0.0/16")
		b.settle()
		b.world.Journal()
		without := p
		without.Peers, without.Neighbours = p.Peers[:1], p.Neighbours[:1]
		b.policy(without)
		b.did("withdraw 10.3.0.0/16 dev sw-ams\ndisallow 10.3.0.0/16 peer ams dev sw-ams")
		// The device went with the configuration, and what it held is not drift.
		b.world.RemoveDevice("sw-nyc")
		b.policy(routes.Policy{})
		b.did("")
		if st := b.syncer.Snapshot(); st.DriftDetected != ([routes.DriftKinds]uint64{}) {
			t.Errorf("drift: %v", st.DriftDetected)
		}
		b.world.AddDevice("sw-nyc", "nyc")
		b.policy(p)
		b.did(`
			allow 10.2.0.0/16 peer nyc dev sw-nyc
			allow 10.3.0.0/16 peer ams dev sw-ams
			install 10.2.0.0/16 dev sw-nyc
			install 10.3.0.0/16 dev sw-ams`)
	})
}

func TestTeardown(t *testing.T) {
	for _, running := range []bool{true, false} {
		inBubble(t, func(t *testing.T, b *bench, p routes.Policy) {
			b.learn("nyc", "10.2.0.0/16")
			b.settle()
			b.world.PutAllowed(routes.AllowedIP{Device: "sw-ams", Prefix: pfx("10.77.0.0/16"), Peer: "ams"})
			b.world.Journal()
			if !running {
				b.stop()
			}
			if err := b.syncer.Teardown(t.Context()); err != nil {
				t.Fatal(err)
			}
			b.did("withdraw 10.2.0.0/16 dev sw-nyc\ndisallow 10.2.0.0/16 peer nyc dev sw-nyc")
			b.learn("nyc", "10.3.0.0/16")
			time.Sleep(time.Hour)
			synctest.Wait()
			b.did("")
			if !running {
				return
			}
			b.packets.Begin()
			b.policy(p) // it can go on
			b.settle()
			b.did(`
				allow 10.2.0.0/16 peer nyc dev sw-nyc
				allow 10.3.0.0/16 peer nyc dev sw-nyc
				install 10.2.0.0/16 dev sw-nyc
				install 10.3.0.0/16 dev sw-nyc`)
		})
	}
}

func TestTeardownReportsWhatStayed(t *testing.T) {
	inBubble(t, func(t *testing.T, b *bench, _ routes.Policy) {
		b.learn("nyc", "10.2.0.0/16")
		b.settle()
		b.world.OnFault(func(routes.Op) routestest.Fault { return routestest.Fault{Err: routestest.ErrInjected} })
		err := b.syncer.Teardown(t.Context())
		if !errors.Is(err, routestest.ErrInjected) || !strings.Contains(err.Error(), "withdraw 10.2.0.0/16 dev sw-nyc") {
			t.Errorf("error %v", err)
		}
	})
}

// blindFIB cannot be read at first.
type blindFIB struct {
	routes.FIB
	err atomic.Pointer[error]
}

func (f *blindFIB) List(ctx context.Context) ([]routes.Route, error) {
	if err := f.err.Load(); err != nil {
		return nil, *err
	}
	return f.FIB.List(ctx)
}

// TestNothingUnseen: nothing is written before the kernel was read; the first policy says what is wrong.
func TestNothingUnseen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, p := twoTunnels()
		fib, blind := &blindFIB{FIB: w.FIB()}, errors.New("operation not permitted")
		fib.err.Store(&blind)
		s := routes.New(routes.Options{FIB: fib, Tunnels: w.Tunnels(), Feed: routes.NewFeed()})
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- s.Run(ctx) }()
		if err := s.SetPolicy(t.Context(), p); !errors.Is(err, blind) {
			t.Errorf("error %v", err)
		}
		if j := w.Journal(); len(j) > 0 {
			t.Errorf("written unseen: %q", j)
		}
		synctest.Wait()
		fib.err.Store(nil)
		<-s.Ready()
		if j := w.Journal(); len(j) != 2 {
			t.Errorf("operations %q", j)
		}
		cancel()
		if err := <-done; !errors.Is(err, context.Canceled) {
			t.Errorf("Run: %v", err)
		}
	})
}

func TestStatusExplains(t *testing.T) {
	inBubble(t, func(t *testing.T, b *bench, _ routes.Policy) {
		attrs := &routes.Attrs{ASPath: []uint32{64512}, Origin: "igp"}
		read := time.Now()
		time.Sleep(3 * time.Millisecond)
		b.hold() // 2 ms more
		b.feed.PutPath("nyc", pfx("10.2.0.0/16"), &routes.Path{Received: read, Attrs: attrs})
		b.feed.PutPath("ams", pfx("10.2.0.0/16"), &routes.Path{Received: read, Rejected: "prefix_limit"})
		b.feed.PutPath("ams", pfx("10.2.3.0/24"), &routes.Path{Received: read, Rejected: "too_specific"})
		b.feed.PutBest(routes.BestChange{Prefix: pfx("10.2.0.0/16"), Neighbour: "nyc", Replace: true, At: time.Now()})
		b.settle()
		st := b.syncer.Snapshot()
		i, ok := st.Lookup(ip("10.2.3.4"))
		if !ok || i.Prefix != pfx("10.2.0.0/16") || i.InstalledString() != "dev sw-nyc" || i.Source != routes.BGP || i.Took != 5*time.Millisecond {
			t.Errorf("lookup: %+v", i)
		}
		if len(i.Paths) != 2 || i.Paths[0].Neighbour != "ams" || i.Paths[0].Best || i.Paths[0].Path.Rejected != "prefix_limit" ||
			!i.Paths[1].Best || i.Paths[1].Path.Attrs != attrs {
			t.Errorf("paths: %+v", i.Paths)
		}
		if want := []routes.AllowedIP{{Device: "sw-nyc", Prefix: pfx("10.2.0.0/16"), Peer: "nyc"}}; !slices.Equal(st.Owners(ip("10.2.3.4")), want) {
			t.Errorf("owners: %v", st.Owners(ip("10.2.3.4")))
		}
		var covering []string
		for c := range st.Covering(ip("10.2.3.4")) {
			covering = append(covering, c.Prefix.String())
		}
		if !slices.Equal(covering, []string{"10.2.3.0/24", "10.2.0.0/16"}) {
			t.Errorf("covering: %q", covering)
		}
		n := 0
		for range st.Routes() {
			n++
		}
		if n != 2 {
			t.Errorf("%d prefixes listed", n)
		}
		if st.Desired.Paths != [2]int{3, 0} || st.Desired.Prefixes != [2]int{2, 0} || st.Installed.Routes != [2]int{1, 0} {
			t.Errorf("counts: %+v %+v", st.Desired, st.Installed)
		}
		h := st.Convergence[routes.Announced][routes.IPv4]
		if h.Count != 1 || h.Counts[2] != 1 || h.Sum != 0.005 {
			t.Errorf("convergence: %+v", h)
		}
		if d := st.Stages[routes.StageDecide]; d.Count != 1 || d.Sum != 0.003 {
			t.Errorf("decide: %+v", d)
		}
	})
}

// TestPlanThatIsBrokenOff: what a plan did not come to, because its context ended, is done afterwards and did not fail.
func TestPlanThatIsBrokenOff(t *testing.T) {
	inBubble(t, func(t *testing.T, b *bench, p routes.Policy) {
		b.learn("nyc", "10.2.0.0/16")
		b.settle()
		b.did(`
			allow 10.2.0.0/16 peer nyc dev sw-nyc
			install 10.2.0.0/16 dev sw-nyc`)
		b.feed.PutAlive("ams", true)
		p.Peers[1].Mode, p.Peers[1].Static, p.Peers[1].Prefixes = routes.List, true, []netip.Prefix{pfx("10.3.0.0/24")}
		ctx, cancel := context.WithCancel(t.Context())
		b.world.After(func(routes.Op) {
			cancel()
			time.Sleep(time.Millisecond) // until it is known everywhere
		})
		if err := b.syncer.SetPolicy(ctx, p); !errors.Is(err, context.Canceled) {
			t.Errorf("SetPolicy: %v", err)
		}
		b.settle()
		b.did(`
			allow 10.3.0.0/24 peer ams dev sw-ams
			install 10.3.0.0/24 dev sw-ams`)
		if st := b.syncer.Snapshot(); st.Pending != 0 {
			t.Errorf("%d pending", st.Pending)
		}
	})
}
