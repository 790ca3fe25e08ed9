package routes_test

import (
	"context"
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

// A route through one tunnel has the way in reserve that would be chosen without the tunnel; its death is one operation, and
// the prefixes follow.
func TestBackupPlan(t *testing.T) {
	d := newDesk(t, routes.Policy{})
	d.table.UseBackups()
	d.run(d.table.SetPolicy(office()))
	d.path("ams", "10.2.0.0/16", "")
	d.best("10.2.0.0/16", "nyc")
	d.want(`
		allow 10.2.0.0/16 peer ams dev sw-ams
		allow 10.2.0.0/16 peer nyc dev sw-nyc
		install 10.2.0.0/16 dev sw-nyc backup dev sw-ams`)

	// A peer of a shared device does not own the prefix before it has the best path. A router on the LAN needs nothing.
	d.path("c", "10.3.0.0/16", "")
	d.best("10.3.0.0/16", "nyc")
	d.path("edge", "10.4.0.0/16", "192.168.1.9")
	d.best("10.4.0.0/16", "nyc")
	d.want(`
		allow 10.3.0.0/16 peer nyc dev sw-nyc
		allow 10.4.0.0/16 peer nyc dev sw-nyc
		install 10.3.0.0/16 dev sw-nyc
		install 10.4.0.0/16 dev sw-nyc backup via 192.168.1.9 dev eth0`)
	// Nor is there one for a route through a shared device or several devices.
	d.path("nyc", "10.5.0.0/16", "")
	d.best("10.5.0.0/16", "c")
	d.path("edge", "10.6.0.0/16", "192.168.1.9")
	d.best("10.6.0.0/16", "ams", "nyc")
	d.want(`
		allow 10.5.0.0/16 peer c dev hub
		allow 10.5.0.0/16 peer nyc dev sw-nyc
		allow 10.6.0.0/16 peer ams dev sw-ams
		allow 10.6.0.0/16 peer nyc dev sw-nyc
		install 10.5.0.0/16 dev hub
		install 10.6.0.0/16 nexthop dev sw-ams nexthop dev sw-nyc`)

	d.feed.PutDead("nyc", routes.LossTunnel)
	d.want(`
		divert dev sw-nyc
		allow 10.3.0.0/16 peer c dev hub
		install 10.2.0.0/16 dev sw-ams
		install 10.3.0.0/16 dev hub
		install 10.4.0.0/16 via 192.168.1.9 dev eth0
		install 10.6.0.0/16 dev sw-ams backup via 192.168.1.9 dev eth0`)
	d.feed.PutAlive("nyc", true)
	d.want(`
		install 10.2.0.0/16 dev sw-nyc backup dev sw-ams
		install 10.3.0.0/16 dev sw-nyc
		install 10.4.0.0/16 dev sw-nyc backup via 192.168.1.9 dev eth0
		install 10.6.0.0/16 nexthop dev sw-ams nexthop dev sw-nyc
		disallow 10.3.0.0/16 peer c dev hub
		restore dev sw-nyc`)

	// The way in reserve is replaced before its peer loses the prefix.
	d.path("edge", "10.2.0.0/16", "192.168.1.9")
	d.feed.PutPath("ams", pfx("10.2.0.0/16"), nil)
	d.want(`
		install 10.2.0.0/16 dev sw-nyc backup via 192.168.1.9 dev eth0
		disallow 10.2.0.0/16 peer ams dev sw-ams`)
}

// What is unreachable by BFD counts as lost though BGP has not withdrawn anything: the tunnel if all neighbours behind it
// are, else the neighbour's paths.
func TestUnreachableNeighbour(t *testing.T) {
	p := office()
	p.Neighbours = append(p.Neighbours, routes.Neighbour{Name: "nyc-6", Peer: "nyc"})
	d := newDesk(t, routes.Policy{})
	d.table.UseBackups()
	d.run(d.table.SetPolicy(p))
	for _, x := range []string{"10.2.0.0/16", "2001:db8:2::/48"} {
		d.path("ams", x, "")
	}
	d.best("10.2.0.0/16", "nyc")
	d.best("2001:db8:2::/48", "nyc-6")
	d.run(d.table.Apply(d.feed.Take()))

	d.feed.PutReachable("nyc", false)
	d.want("install 10.2.0.0/16 dev sw-ams")
	d.feed.PutReachable("nyc-6", false)
	d.want("divert dev sw-nyc\ninstall 2001:db8:2::/48 dev sw-ams")
	d.feed.PutReachable("nyc-6", true)
	d.want("install 2001:db8:2::/48 dev sw-nyc backup dev sw-ams\nrestore dev sw-nyc")
	d.feed.PutReachable("nyc", true)
	d.want("install 10.2.0.0/16 dev sw-nyc backup dev sw-ams")

	// A neighbour that is switched off will not say that it is back.
	d.feed.PutReachable("nyc", false)
	d.want("install 10.2.0.0/16 dev sw-ams")
	p.Neighbours[0].Disabled = true
	if got := d.run(d.table.SetPolicy(p)); !cmp.Equal(got, lines("install 10.2.0.0/16 dev sw-nyc backup dev sw-ams")) {
		t.Errorf("without the session: %q", got)
	}
}

// pic is a syncer with a Switcher whose prefixes nyc announces, and ams too, which is second.
func pic(t *testing.T, prefixes ...string) *bench {
	t.Helper()
	w, p := twoTunnels()
	b := &bench{t: t, world: w, feed: routes.NewFeed(), switcher: w.Switcher()}
	p.ReconcileEvery = time.Hour
	b.begin(p, ip("10.1.0.1"), ip("10.2.0.1"))
	b.feed.PutAlive("nyc", true)
	b.feed.PutAlive("ams", true)
	for _, x := range prefixes {
		b.feed.PutPath("ams", pfx(x), &routes.Path{Received: time.Now(), Session: 1})
		b.learn("nyc", x)
	}
	b.settle()
	b.world.Journal()
	return b
}

// The tunnel dies, BGP converges, the tunnel comes back: one operation moves everything, before anything else; what
// follows rewrites the routes under way; the last operation lets the device carry packets again.
func TestDivert(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := pic(t, "10.1.0.0/16", "10.2.0.0/16")
		defer b.stop()
		b.feed.PutDead("nyc", routes.LossTunnel)
		b.settle()
		b.did(`
			divert dev sw-nyc
			install 10.1.0.0/16 dev sw-ams
			install 10.2.0.0/16 dev sw-ams`)

		// It returns before BGP has noticed anything.
		b.feed.PutAlive("nyc", true)
		b.settle()
		b.did(`
			install 10.1.0.0/16 dev sw-nyc backup dev sw-ams
			install 10.2.0.0/16 dev sw-nyc backup dev sw-ams
			restore dev sw-nyc`)

		// It dies again, BGP notices and forgets nyc, and then it returns: nothing moves until BGP says so.
		b.feed.PutDead("nyc", routes.LossTunnel)
		b.settle()
		b.forget("nyc", "10.1.0.0/16")
		b.learn("ams", "10.1.0.0/16")
		b.forget("nyc", "10.2.0.0/16")
		b.learn("ams", "10.2.0.0/16")
		b.settle()
		b.world.Journal()
		b.feed.PutAlive("nyc", true)
		b.settle()
		b.did("restore dev sw-nyc")
		b.learn("nyc", "10.1.0.0/16")
		b.settle()
		b.did(`
			allow 10.1.0.0/16 peer nyc dev sw-nyc
			install 10.1.0.0/16 dev sw-nyc backup dev sw-ams`)
	})
}

// What cannot be written is written later; a route whose backup cannot be had is installed all the same.
func TestDivertFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := pic(t, "10.1.0.0/16")
		defer b.stop()
		var broken atomic.Value
		broken.Store(routes.Divert)
		b.world.OnFault(func(op routes.Op) routestest.Fault {
			if op.Kind == broken.Load() && (op.Kind != routes.Allow || op.Allowed.Peer == "ams") {
				return routestest.Fault{Err: routestest.ErrInjected}
			}
			return routestest.Fault{}
		})
		b.feed.PutDead("nyc", routes.LossTunnel)
		b.settle()
		b.did("install 10.1.0.0/16 dev sw-ams") // as without a Switcher
		broken.Store(routes.Restore)
		time.Sleep(time.Second)
		synctest.Wait()
		b.did("divert dev sw-nyc")
		b.feed.PutAlive("nyc", true)
		b.settle()
		b.did("install 10.1.0.0/16 dev sw-nyc backup dev sw-ams")
		if n := b.syncer.Snapshot().Failures[routes.Restore]; n == 0 {
			t.Error("no failure counted")
		}
		broken.Store(routes.Allow)
		time.Sleep(time.Second)
		synctest.Wait()
		b.did("restore dev sw-nyc")

		b.backup("ams", "10.2.0.0/16")
		b.learn("nyc", "10.2.0.0/16")
		b.settle()
		b.did("allow 10.2.0.0/16 peer nyc dev sw-nyc\ninstall 10.2.0.0/16 dev sw-nyc")
		broken.Store(routes.OpKinds)
		time.Sleep(time.Second)
		synctest.Wait()
		b.did("allow 10.2.0.0/16 peer ams dev sw-ams\ninstall 10.2.0.0/16 dev sw-nyc backup dev sw-ams")
	})
}

// slow is a FIB that takes its time for everything.
type slow struct {
	routes.FIB
	busy chan struct{}
}

func (s slow) Write(ctx context.Context, ops []routes.Op) []error {
	if len(ops) > 0 && strings.HasPrefix(ops[0].Route.Prefix.String(), "10.9.") {
		close(s.busy)
		time.Sleep(3 * time.Second)
	}
	return s.FIB.Write(ctx, ops)
}

// A diversion does not wait for a syncer that is at work, and one that comes after the tunnel has returned is ended.
func TestDivertBesideWork(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, p := twoTunnels()
		fib := slow{w.FIB(), make(chan struct{})}
		feed := routes.NewFeed()
		s := routes.New(routes.Options{FIB: fib, Tunnels: w.Tunnels(), Feed: feed, Switcher: w.Switcher()})
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan struct{})
		go func() { defer close(ended); s.Run(ctx) }()
		defer func() { cancel(); <-ended }()
		if err := s.SetPolicy(ctx, p); err != nil {
			t.Fatal(err)
		}
		put := func(n, prefix string) {
			feed.PutPath(n, pfx(prefix), &routes.Path{Received: time.Now(), Session: 1})
			if n == "nyc" {
				feed.PutBest(routes.BestChange{Prefix: pfx(prefix), Neighbour: n, Replace: true, At: time.Now()})
			}
		}
		put("ams", "10.1.0.0/16")
		put("nyc", "10.1.0.0/16")
		time.Sleep(time.Second)
		synctest.Wait()

		put("nyc", "10.9.0.0/16")
		<-fib.busy
		w.Journal()
		feed.PutDead("nyc", routes.LossTunnel)
		synctest.Wait() // no time has passed
		if got := w.Journal(); !slices.Equal(got, []string{"divert dev sw-nyc"}) {
			t.Fatalf("while the FIB was busy: %q", got)
		}
		// By the time that the syncer hears of it, it is over.
		feed.PutAlive("nyc", true)
		time.Sleep(10 * time.Second)
		synctest.Wait()
		if got := w.Journal(); !slices.Equal(got, []string{"install 10.9.0.0/16 dev sw-nyc", "restore dev sw-nyc"}) {
			t.Fatalf("afterwards: %q", got)
		}
	})
}

// A new process does not know what the one before it has diverted: it leaves that so until the peer is known to be alive.
func TestDivertedBefore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := pic(t, "10.1.0.0/16")
		b.feed.PutDead("nyc", routes.LossTunnel)
		b.settle()
		b.stop()
		b.feed = routes.NewFeed()
		b.start()
		defer func() { b.stop() }()
		_, p := twoTunnels()
		b.policy(p)
		b.settle()
		if got := b.world.Diverted(); !slices.Equal(got, []string{"sw-nyc"}) {
			t.Errorf("diverted after the start: %q", got)
		}
		b.world.Journal()
		b.feed.PutAlive("nyc", true)
		b.settle()
		b.did("restore dev sw-nyc")
		if err := b.syncer.Teardown(t.Context()); err != nil {
			t.Fatal(err)
		}
	})
}
