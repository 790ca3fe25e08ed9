package routes_test

import (
	"context"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"sitewire/routes"
	"sitewire/routes/routestest"
)

func pfx(s string) netip.Prefix { return netip.MustParsePrefix(s) }
func ip(s string) netip.Addr    { return netip.MustParseAddr(s) }

// bench is a running syncer over a fake world. Use it inside synctest.
type bench struct {
	t       *testing.T
	world   *routestest.World
	feed    *routes.Feed
	syncer  *routes.Syncer
	packets *routestest.Continuity
	stop    func()
	// switcher is that of the world, or nil.
	switcher routes.Switcher
	held     time.Time // the instant in which what is put gathers
}

// newBench starts a syncer under a policy. Every operation is checked: see routestest.Watch.
func newBench(t *testing.T, w *routestest.World, p routes.Policy, probes ...netip.Addr) *bench {
	t.Helper()
	b := &bench{t: t, world: w, feed: routes.NewFeed()}
	b.begin(p, probes...)
	return b
}

func (b *bench) begin(p routes.Policy, probes ...netip.Addr) {
	b.t.Helper()
	b.packets = routestest.Watch(b.world, probes, func(err error) { b.t.Error(err) })
	b.start()
	b.policy(p)
}

// start runs a new syncer; the world stays.
func (b *bench) start() {
	b.syncer = routes.New(routes.Options{FIB: b.world.FIB(), Tunnels: b.world.Tunnels(), Feed: b.feed, Switcher: b.switcher})
	ctx, cancel := context.WithCancel(b.t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		b.syncer.Run(ctx)
	}()
	b.stop = func() { cancel(); <-done }
}

func (b *bench) policy(p routes.Policy) {
	b.t.Helper()
	if err := b.syncer.SetPolicy(b.t.Context(), p); err != nil {
		b.t.Fatal(err)
	}
}

// settle waits for what was put to be done, and checks what happened to packets meanwhile.
func (b *bench) settle() {
	b.t.Helper()
	time.Sleep(3 * time.Millisecond) // the fold window; the bubble's clock is not ours
	synctest.Wait()
	if err := b.packets.End(); err != nil {
		b.t.Error(err)
	}
	b.packets.Begin()
}

// hold makes everything that is put in this instant one batch: the syncer has just taken one, and gathers until the
// bubble's clock moves on.
func (b *bench) hold() {
	if now := time.Now(); !now.Equal(b.held) {
		b.feed.PutAlive("nobody", true)
		synctest.Wait()
		b.held = now
	}
}

// did compares the operations since the last call with lines of text.
func (b *bench) did(want string) {
	b.t.Helper()
	if diff := cmp.Diff(lines(want), b.world.Journal()); diff != "" {
		b.t.Errorf("operations (-want +got):\n%s", diff)
	}
}

func lines(s string) []string {
	var out []string
	for l := range strings.Lines(s) {
		if l = strings.TrimSpace(l); l != "" {
			out = append(out, l)
		}
	}
	return out
}

// learn puts a path and makes it the best one.
func (b *bench) learn(neighbour, prefix string) {
	b.hold()
	now := time.Now()
	b.feed.PutPath(neighbour, pfx(prefix), &routes.Path{Received: now, Session: 1})
	b.feed.PutBest(routes.BestChange{Prefix: pfx(prefix), Neighbour: neighbour, Replace: true, At: now})
}

// backup puts a path that is not the best one.
func (b *bench) backup(neighbour, prefix string) {
	b.hold()
	b.feed.PutPath(neighbour, pfx(prefix), &routes.Path{Received: time.Now(), Session: 1})
}

// forget withdraws a path that is the only best one.
func (b *bench) forget(neighbour, prefix string) {
	b.hold()
	b.feed.PutPath(neighbour, pfx(prefix), nil)
	b.feed.PutBest(routes.BestChange{Prefix: pfx(prefix), Neighbour: neighbour, Withdrawn: true, At: time.Now()})
}

// twoTunnels is a policy with a device for each of two peers.
func twoTunnels() (*routestest.World, routes.Policy) {
	return routestest.NewWorld(map[string][]string{"sw-nyc": {"nyc"}, "sw-ams": {"ams"}}, nil), routes.Policy{
		Peers: []routes.Peer{
			{Name: "nyc", Device: "sw-nyc", Tunnel: []netip.Prefix{pfx("fe80::2/128")}},
			{Name: "ams", Device: "sw-ams", Tunnel: []netip.Prefix{pfx("fe80::2/128")}},
		},
		Neighbours: []routes.Neighbour{{Name: "nyc", Peer: "nyc"}, {Name: "ams", Peer: "ams"}},
	}
}

func TestAddMoveRemove(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, p := twoTunnels()
		b := newBench(t, w, p, ip("10.2.0.1"))
		defer b.stop()
		b.did(`
			allow fe80::2/128 peer ams dev sw-ams
			allow fe80::2/128 peer nyc dev sw-nyc`)

		b.learn("nyc", "10.2.0.0/16")
		b.settle()
		b.did(`
			allow 10.2.0.0/16 peer nyc dev sw-nyc
			install 10.2.0.0/16 dev sw-nyc`)

		b.backup("ams", "10.2.0.0/16")
		b.settle()
		b.did(`allow 10.2.0.0/16 peer ams dev sw-ams`)

		b.learn("ams", "10.2.0.0/16")
		b.settle()
		b.did(`install 10.2.0.0/16 dev sw-ams`)

		b.feed.PutPath("nyc", pfx("10.2.0.0/16"), nil)
		b.settle()
		b.did(`disallow 10.2.0.0/16 peer nyc dev sw-nyc`)

		b.forget("ams", "10.2.0.0/16")
		b.settle()
		b.did(`
			withdraw 10.2.0.0/16 dev sw-ams
			disallow 10.2.0.0/16 peer ams dev sw-ams`)
		if left := w.Routes(); len(left) > 0 {
			t.Errorf("routes left: %v", left)
		}
		select {
		case <-b.syncer.Ready():
		default:
			t.Error("not ready")
		}
		st := b.syncer.Snapshot()
		if got := st.Convergence[routes.Announced][routes.IPv4].Count; got != 1 {
			t.Errorf("announcements measured: %d, want 1", got)
		}
		if st.Pending != 0 || !st.OldestPending.IsZero() {
			t.Errorf("pending %d since %v", st.Pending, st.OldestPending)
		}
		if !slices.Equal(st.Awaiting, []string{"neighbour ams", "neighbour nyc"}) {
			t.Errorf("awaiting %v", st.Awaiting)
		}
	})
}

// explain adds what was done to a failure, for those who have to find out why.
func (b *bench) explain() {
	if b.t.Failed() {
		b.t.Logf("operations so far:\n%s\nnow:\n%s", strings.Join(b.world.Journal(), "\n"), b.world)
	}
}
