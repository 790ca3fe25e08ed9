package bgp

import (
	"fmt"
	"net/netip"
	"runtime/pprof"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"sitewire/bgp/bgptest"
	"sitewire/routes"
)

func TestRoutesFlow(t *testing.T) {
	l := startLab(t, Config{
		ASN: ownASN, RouterID: routerID,
		Neighbours: []Neighbour{passive("a", 2, 65001, accepting()), passive("b", 3, 65002, accepting())},
		Announce: []Announcement{
			{Prefix: netip.MustParsePrefix("10.1.0.0/16"), Communities: []string{"65000:7", "65000:1:2"}},
			{Prefix: netip.MustParsePrefix("fd42::/32")},
		},
	})
	a, b := l.peer(2, 65001), l.peer(3, 65002)

	r := l.gets(a, "10.1.0.0/16")
	if len(r.NextHop) != 1 || r.NextHop[0] != speaker || len(r.ASPath) != 1 || r.ASPath[0] != ownASN || len(r.Communities) != 1 || len(r.Large) != 1 {
		t.Errorf("own route came as %+v", r)
	}
	if r := l.gets(a, "fd42::/32"); len(r.NextHop) != 1 || r.NextHop[0] != netip.MustParseAddr("fd00::1") {
		t.Errorf("own IPv6 route over IPv4 came as %+v", r)
	}

	announce(t, a, from4(2, 65001, 7), "10.2.0.0/16", "10.3.0.0/16")
	l.feed.wait(t, "path and best path", func() bool {
		return l.feed.path("a", "10.2.0.0/16") != nil && l.feed.bestOf("10.2.0.0/16") == "a" && l.feed.bestOf("10.3.0.0/16") == "a"
	})
	l.feed.mu.Lock()
	p := l.feed.path("a", "10.2.0.0/16")
	if p.NextHop != hop4(2) || p.Rejected != "" || p.Session != 1 || p.Received.IsZero() || p.Attrs.Origin != "igp" || len(p.Attrs.ASPath) != 2 {
		t.Errorf("path %+v %+v", p, p.Attrs)
	}
	if c := l.feed.best[netip.MustParsePrefix("10.2.0.0/16")][0]; c.NextHop != p.NextHop || c.At.Before(p.Received) || !c.Replace {
		t.Errorf("best %+v", c)
	}
	if l.feed.bestOf("10.1.0.0/16") != "" || len(l.feed.best[netip.MustParsePrefix("10.1.0.0/16")]) != 1 {
		t.Error("own route is not among the best")
	}
	l.feed.mu.Unlock()
	if r := l.gets(b, "10.2.0.0/16"); len(r.ASPath) != 3 || r.ASPath[0] != ownASN {
		t.Errorf("onward %+v", r)
	}

	withdraw(t, a, "10.2.0.0/16")
	l.absent(b, "10.2.0.0/16")
	l.feed.wait(t, "withdrawal", func() bool { return l.feed.path("a", "10.2.0.0/16") == nil && l.feed.bestOf("10.2.0.0/16") == "" })

	if err := a.EndOfRIB(false); err != nil {
		t.Fatal(err)
	}
	l.feed.wait(t, "end of RIB", func() bool { return l.feed.eor["a ipv4"] == 1 })
	s := l.session("a", "counted", func(s Session) bool { return s.IPv4.EOR && s.IPv4.Received == 1 && s.IPv4.Accepted == 1 })
	if s.State != Established || s.Establishments != 1 || s.RemoteRouterID.String() != "10.0.253.233" || s.Peer != "a" || s.Tunnel {
		t.Errorf("session %+v", s)
	}
	if n := l.Snapshot().Prefixes; n[routes.IPv4] != 2 || n[routes.IPv6] != 1 {
		t.Errorf("%v prefixes", n)
	}

	a.Close()
	l.absent(b, "10.3.0.0/16")
	l.feed.wait(t, "session lost", func() bool { return l.feed.path("a", "10.3.0.0/16") == nil && l.feed.bestOf("10.3.0.0/16") == "" })
	l.session("a", "down", func(s Session) bool { return s.State != Established && s.Downs["read_failed"] == 1 })
	// GoBGP alone would turn it away for five seconds.
	l.peer(2, 65001)
	l.session("a", "up again", func(s Session) bool { return s.State == Established && s.Establishments == 2 })
}

// A path of long ago that is the best one again because a better one went is decided then: convergence must not count its age.
func TestSecondBestIsDecidedWhenTheBestGoes(t *testing.T) {
	l := newLab(t, passive("a", 2, 65001, accepting()), passive("b", 3, 65002, accepting()))
	a, b := l.peer(2, 65001), l.peer(3, 65002)
	const prefix = "10.2.0.0/16"
	announce(t, b, from4(3, 65002, 7), prefix)
	l.feed.wait(t, "the longer path", func() bool { return l.feed.bestOf(prefix) == "b" })
	announce(t, a, from4(2, 65001), prefix)
	l.feed.wait(t, "the shorter path", func() bool { return l.feed.bestOf(prefix) == "a" })
	before := time.Now()
	withdraw(t, a, prefix)
	l.feed.wait(t, "the longer path again", func() bool { return l.feed.bestOf(prefix) == "b" })
	l.feed.mu.Lock()
	defer l.feed.mu.Unlock()
	if c := l.feed.best[netip.MustParsePrefix(prefix)][0]; c.At.Before(before) {
		t.Errorf("decided %v before the better path went: %+v", before.Sub(c.At), c)
	}
}

// Routes that change while a session comes up must reach it all the same, and those that go must go there too.
func TestChangesWhileComingUp(t *testing.T) {
	l := newLab(t, passive("a", 2, 65001, accepting()), passive("b", 3, 65002, accepting()))
	a := l.peer(2, 65001)
	// The more there is to send, the longer it takes to come up.
	table := bgptest.NewTable(3000, 65001, hop4(2), 1)
	if err := table.Send(a); err != nil {
		t.Fatal(err)
	}
	l.session("a", "complete", func(s Session) bool { return s.IPv4.Accepted == len(table.Prefixes) })
	want := map[netip.Prefix]string{}
	for _, p := range table.Prefixes {
		want[p] = ""
	}
	for round := range 4 {
		var stop atomic.Bool
		stopped := make(chan struct{})
		go func() { // each prefix changes once: a later change would mend what an earlier one lost
			defer close(stopped)
			for i := 0; i < 500 && !stop.Load(); i++ {
				gone, p := table.Prefixes[round*500+i], netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(round), byte(i / 250), byte(i % 250)}), 32)
				delete(want, gone)
				want[p] = ""
				u := from4(2, 65001)
				u.Prefixes = []netip.Prefix{p}
				if a.Announce(u) != nil || a.Withdraw(gone) != nil {
					return
				}
				time.Sleep(200 * time.Microsecond)
			}
		}()
		b := l.peer(3, 65002)
		l.session("b", "up", func(s Session) bool { return s.State == Established })
		stop.Store(true)
		select {
		case <-stopped:
		case <-time.After(patient):
			pprof.Lookup("goroutine").WriteTo(t.Output(), 2)
			t.Fatalf("round %d: an UPDATE was not taken within %v", round, patient)
		}
		if !l.eventually(fmt.Sprint("round ", round, ": what b was sent"), func() string {
			got := map[netip.Prefix]string{}
			for p := range b.Routes() {
				got[p] = ""
			}
			return diff(want, got)
		}) {
			return
		}
		b.Close()
	}
}

func TestWithdrawAgain(t *testing.T) {
	l := newLab(t, passive("b", 3, 65002, accepting()))
	b := l.peer(3, 65002)
	for _, s := range []string{"10.7.0.0/16", "fd07::/32"} {
		p := netip.MustParsePrefix(s)
		l.eventually(s, func() string { // once the session is up for GoBGP as well
			if err := l.do(l.context(), func(lo *loop) error { return lo.withdrawAgain([]netip.Prefix{p}) }); err != nil {
				t.Fatal(err)
			}
			if b.Withdrawn(p) == 0 {
				return "not withdrawn"
			}
			return ""
		})
	}
	l.feed.mu.Lock()
	defer l.feed.mu.Unlock()
	if seen := slices.DeleteFunc(slices.Clone(l.feed.order), func(s string) bool { return s == "reachable b true" }); len(seen) != 0 {
		t.Errorf("the feed saw it: %v", seen)
	}
}
