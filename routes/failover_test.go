package routes_test

import (
	"net/netip"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"sitewire/routes"
	"sitewire/routes/routestest"
)

// twoWays is a syncer whose prefixes nyc announces, and ams too, which is second.
func twoWays(t *testing.T, prefixes ...string) *bench {
	t.Helper()
	w := routestest.NewWorld(map[string][]string{"sw-nyc": {"nyc"}, "sw-ams": {"ams"}}, nil)
	b := newBench(t, w, routes.Policy{
		Peers:      []routes.Peer{{Name: "nyc", Device: "sw-nyc"}, {Name: "ams", Device: "sw-ams"}},
		Neighbours: []routes.Neighbour{{Name: "nyc", Peer: "nyc"}, {Name: "ams", Peer: "ams"}},
	})
	for _, p := range prefixes {
		b.feed.PutPath("nyc", pfx(p), &routes.Path{NextHop: ip("fe80::2%sw-nyc"), Received: time.Now(), Session: 1})
		b.feed.PutPath("ams", pfx(p), &routes.Path{NextHop: ip("fe80::3%sw-ams"), Received: time.Now(), Session: 1})
		b.feed.PutBest(best("nyc", p))
	}
	b.settle()
	return b
}

func best(neighbour, prefix string) routes.BestChange {
	hop := map[string]string{"nyc": "fe80::2%sw-nyc", "ams": "fe80::3%sw-ams"}[neighbour]
	return routes.BestChange{Prefix: pfx(prefix), Neighbour: neighbour, NextHop: ip(hop), Replace: true, At: time.Now()}
}

// took is what was measured, by kind, with how many there were.
func (b *bench) took(kind routes.LossKind) (sum time.Duration, n uint64) {
	h := b.syncer.Snapshot().Failover[kind]
	return time.Duration(h.Sum*float64(time.Second) + 0.5), h.Count
}

func (b *bench) wantFailover(what string, kind routes.LossKind, n uint64, low, high time.Duration) {
	b.t.Helper()
	if sum, got := b.took(kind); got != n || n > 0 && (sum < low || sum > high) {
		b.t.Errorf("%s: %d %s failovers that took %s, want %d of %s to %s", what, got, kind, sum, n, low, high)
	}
	for k := range routes.LossKinds {
		if _, got := b.took(k); k != kind && got > 0 {
			b.t.Errorf("%s: %d failovers of kind %s", what, got, k)
		}
	}
}

// A session is lost: BGP tells of the withdrawals, then of other best paths one by one, and last of why. The failover
// lasts from when the loss was noticed to the last of them, and is counted when no more come.
func TestFailoverOfSession(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := twoWays(t, "10.1.0.0/16", "10.2.0.0/16", "10.3.0.0/16")
		defer b.stop()
		lost := time.Now()
		time.Sleep(10 * time.Millisecond)
		b.feed.PutLoss("nyc", routes.LossUnknown, lost)
		for _, p := range []string{"10.1.0.0/16", "10.2.0.0/16", "10.3.0.0/16"} {
			b.feed.PutPath("nyc", pfx(p), nil)
		}
		b.feed.PutBest(best("ams", "10.1.0.0/16"))
		b.settle()
		time.Sleep(100 * time.Millisecond)
		b.feed.PutBest(best("ams", "10.2.0.0/16"))
		b.settle()
		b.feed.PutLoss("nyc", routes.LossHoldTimer, lost)
		b.feed.PutBest(routes.BestChange{Prefix: pfx("10.3.0.0/16"), Neighbour: "nyc", Replace: true, Withdrawn: true, At: time.Now()})
		b.settle()
		b.wantFailover("at once", routes.LossHoldTimer, 0, 0, 0)
		time.Sleep(10 * time.Second)
		synctest.Wait()
		b.wantFailover("later", routes.LossHoldTimer, 1, 110*time.Millisecond, 120*time.Millisecond)
		// The withdrawal has no UPDATE: it is timed from the loss as well.
		if h := b.syncer.Snapshot().Convergence[routes.Withdrawn][routes.IPv4]; h.Count != 1 || h.Sum < 0.113 || h.Sum > 0.13 {
			t.Errorf("withdrawal: %d that took %g s, want one of some 115 ms", h.Count, h.Sum)
		}
		time.Sleep(2 * time.Minute)
		b.wantFailover("in the end", routes.LossHoldTimer, 1, 110*time.Millisecond, 120*time.Millisecond)
	})
}

// A tunnel dies: the next best path stands in at once, where there is one. What BGP does about it later is the same loss.
func TestFailoverOfTunnel(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := twoWays(t, "10.1.0.0/16")
		defer b.stop()
		late := "10.2.0.0/16" // ams announces it only when nyc is gone
		b.feed.PutPath("nyc", pfx(late), &routes.Path{NextHop: ip("fe80::2%sw-nyc"), Received: time.Now(), Session: 1})
		b.feed.PutBest(best("nyc", late))
		b.feed.PutAlive("nyc", true)
		b.settle()
		b.feed.PutAlive("nyc", false)
		b.settle()
		if i, _ := b.syncer.Snapshot().Get(pfx("10.1.0.0/16")); i.InstalledString() != "dev sw-ams" {
			t.Errorf("the route leads to %q", i.InstalledString())
		}
		time.Sleep(200 * time.Millisecond)
		b.feed.PutLoss("nyc", routes.LossTunnel, time.Now())
		for _, p := range []string{"10.1.0.0/16", late} {
			b.feed.PutPath("nyc", pfx(p), nil)
			b.feed.PutPath("ams", pfx(p), &routes.Path{NextHop: ip("fe80::3%sw-ams"), Received: time.Now(), Session: 1})
			b.feed.PutBest(best("ams", p))
		}
		b.settle()
		b.wantFailover("more may come", routes.LossTunnel, 0, 0, 0)
		time.Sleep(2 * time.Second)
		synctest.Wait()
		b.wantFailover("replaced", routes.LossTunnel, 1, 200*time.Millisecond, 210*time.Millisecond)
	})
}

// What nothing replaces, what comes back the same way, and what is replaced without a loss, are no failovers.
func TestNoFailover(t *testing.T) {
	for name, happens := range map[string]func(b *bench){
		"nothing else": func(b *bench) {
			b.feed.PutPath("ams", pfx("10.1.0.0/16"), nil)
			b.feed.PutLoss("nyc", routes.LossLink, time.Now())
			b.feed.PutPath("nyc", pfx("10.1.0.0/16"), nil)
			b.feed.PutBest(routes.BestChange{Prefix: pfx("10.1.0.0/16"), Neighbour: "nyc", Withdrawn: true, At: time.Now()})
		},
		"the tunnel lives again": func(b *bench) {
			b.feed.PutPath("ams", pfx("10.1.0.0/16"), nil)
			b.feed.PutAlive("nyc", false)
			b.settle()
			b.feed.PutAlive("nyc", true)
		},
		"another path is better": func(b *bench) {
			b.feed.PutPath("ams", pfx("10.1.0.0/16"), &routes.Path{NextHop: ip("fe80::3%sw-ams"), Received: time.Now(), Session: 1})
			b.feed.PutBest(best("ams", "10.1.0.0/16"))
		},
		"the session is back, and then another path is better": func(b *bench) {
			b.feed.PutLoss("nyc", routes.LossLink, time.Now())
			b.settle()
			b.feed.PutPath("nyc", pfx("10.1.0.0/16"), &routes.Path{NextHop: ip("fe80::2%sw-nyc"), Received: time.Now(), Session: 2})
			b.settle()
			b.feed.PutBest(best("ams", "10.1.0.0/16"))
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := twoWays(t, "10.1.0.0/16")
				defer b.stop()
				happens(b)
				b.settle()
				time.Sleep(2 * time.Minute)
				synctest.Wait()
				b.wantFailover(name, routes.LossLink, 0, 0, 0)
			})
		})
	}
}

// A failover is not over while the kernel refuses a route of it.
func TestFailoverPending(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := twoWays(t, "10.1.0.0/16", "10.2.0.0/16")
		defer b.stop()
		var refuse atomic.Bool
		refuse.Store(true)
		b.world.OnFault(func(op routes.Op) (f routestest.Fault) {
			if refuse.Load() && op.Kind == routes.Install && op.Route.Prefix == pfx("10.2.0.0/16") {
				f.Err = routestest.ErrInjected
			}
			return f
		})
		lost := time.Now()
		b.feed.PutLoss("nyc", routes.LossBFD, lost)
		for _, p := range []string{"10.1.0.0/16", "10.2.0.0/16"} {
			b.feed.PutPath("nyc", pfx(p), nil)
			b.feed.PutBest(best("ams", p))
		}
		b.settle()
		time.Sleep(20 * time.Second)
		synctest.Wait()
		b.wantFailover("refused", routes.LossBFD, 0, 0, 0)
		refuse.Store(false)
		time.Sleep(2 * time.Minute)
		synctest.Wait()
		b.wantFailover("taken", routes.LossBFD, 1, 20*time.Second, 40*time.Second)
	})
}

// A network that was on link goes, and another neighbour's path stands in: that counts from the kernel's notification,
// the time included in which others gather.
func TestFailoverOfLink(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := routestest.NewWorld(map[string][]string{"sw-ams": {"ams"}}, map[string]netip.Prefix{"eth0": pfx("10.0.0.0/24")})
		b := newBench(t, w, routes.Policy{
			Peers:      []routes.Peer{{Name: "ams", Device: "sw-ams"}},
			Neighbours: []routes.Neighbour{{Name: "core"}, {Name: "ams", Peer: "ams"}},
		})
		defer b.stop()
		b.feed.PutPath("core", pfx("10.1.0.0/16"), &routes.Path{NextHop: ip("10.0.0.2"), Received: time.Now(), Session: 1})
		b.feed.PutPath("ams", pfx("10.1.0.0/16"), &routes.Path{NextHop: ip("fe80::3%sw-ams"), Received: time.Now(), Session: 1})
		b.feed.PutBest(routes.BestChange{Prefix: pfx("10.1.0.0/16"), Neighbour: "core", NextHop: ip("10.0.0.2"), Replace: true, At: time.Now()})
		b.settle()
		w.Disconnect("eth0")
		w.Notify()
		time.Sleep(time.Second)
		b.settle()
		b.feed.PutBest(best("ams", "10.1.0.0/16"))
		b.settle()
		time.Sleep(10 * time.Second)
		synctest.Wait()
		b.wantFailover("link", routes.LossLink, 1, 50*time.Millisecond, 60*time.Millisecond)
	})
}
