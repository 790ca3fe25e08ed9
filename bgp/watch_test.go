package bgp

import (
	"context"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"sitewire/bgp/bfd"
)

// TestBFDEndsSession: what BFD tells ends a session at once, with the reason, and its routes; it comes back by itself.
func TestBFDEndsSession(t *testing.T) {
	l := newLab(t, passive("a", 2, 65001, accepting()))
	a := l.peer(2, 65001)
	announce(t, a, from4(2, 65001), "10.2.0.0/16")
	l.feed.wait(t, "route", func() bool { return l.feed.bestOf("10.2.0.0/16") == "a" })

	l.view.bfdFailed(bfd.Failure{Remote: hop4(9), Diagnostic: bfd.DetectionTimeExpired}) // nobody's
	l.view.bfdFailed(bfd.Failure{Remote: l.config.Neighbours[0].Address, Diagnostic: bfd.DetectionTimeExpired})
	time.Sleep(100 * time.Millisecond)
	if s := l.Snapshot().Sessions[0]; s.State != Established {
		t.Fatalf("a session without BFD ended: %+v", s)
	}

	c := l.config
	c.Neighbours = slices.Clone(c.Neighbours)
	c.Neighbours[0].BFD = BFD{Interval: time.Second, Multiplier: 3}
	if err := l.Set(l.context(), c); err != nil {
		t.Fatal(err)
	}
	s := l.session("a", "BFD", func(s Session) bool { return s.BFD != nil })
	if s.State != Established || s.Establishments != 1 {
		t.Errorf("%+v: BFD began, and the session is not the one of before", s)
	}
	l.view.bfdFailed(bfd.Failure{Remote: c.Neighbours[0].Address, Diagnostic: bfd.DetectionTimeExpired})
	s = l.session("a", "end", func(s Session) bool { return s.State != Established })
	if s.Downs["bfd_down"] != 1 || s.LastError != "BFD: control detection time expired" {
		t.Errorf("downs %v, last error %q", s.Downs, s.LastError)
	}
	l.feed.wait(t, "no route", func() bool { return l.feed.bestOf("10.2.0.0/16") == "" })
	l.peer(2, 65001)
	if s := l.session("a", "second session", func(s Session) bool { return s.State == Established }); s.Downs["bfd_down"] != 1 {
		t.Errorf("downs %v", s.Downs)
	}
	// The tunnel's routes move at once; what GoBGP withdraws prefix by prefix comes after that.
	l.feed.wait(t, "word that it is back", func() bool { return slices.Index(l.feed.order, "reachable a false") >= 0 && l.feed.reachable["a"] })
	l.feed.mu.Lock()
	defer l.feed.mu.Unlock()
	at := func(event string) int { return slices.Index(l.feed.order, event) }
	if lost, cut, gone := at("lost a bfd"), at("reachable a false"), at("gone a 10.2.0.0/16"); lost < 0 || lost > cut || cut > gone {
		t.Errorf("in this order: %q", l.feed.order)
	}
}

func TestBFDOverHops(t *testing.T) {
	n := passive("a", 2, 65001, accepting())
	n.BFD, n.Multihop = BFD{Interval: time.Second, Multiplier: 3}, 4
	if err := Validate(Config{ASN: ownASN, RouterID: routerID, Neighbours: []Neighbour{n}}); err == nil || !strings.Contains(err.Error(), "multihop") {
		t.Errorf("%v, want it refused", err)
	}
}

// TestMonitored: exactly the prefixes of the list are told about, as they come, go out and go away.
func TestMonitored(t *testing.T) {
	wide, narrow, own := netip.MustParsePrefix("10.2.0.0/16"), netip.MustParsePrefix("10.2.0.0/17"), netip.MustParsePrefix("10.1.0.0/16")
	l := startLab(t, Config{
		ASN: ownASN, RouterID: routerID, Monitored: []netip.Prefix{narrow, wide, own},
		Neighbours: []Neighbour{passive("a", 2, 65001, accepting()), passive("b", 3, 65002, accepting())},
		Announce:   []Announcement{{Prefix: own}},
	})
	a := l.peer(2, 65001)
	l.peer(3, 65002)
	announce(t, a, from4(2, 65001), "10.2.0.0/16")
	want := func(name string, list ...Monitored) {
		t.Helper()
		l.session(name, "monitored prefixes", func(s Session) bool { return slices.Equal(s.Monitored, list) })
	}
	want("a", Monitored{narrow, false, false}, Monitored{wide, true, false}, Monitored{own, false, true})
	want("b", Monitored{narrow, false, false}, Monitored{wide, false, true}, Monitored{own, false, true})
	withdraw(t, a, "10.2.0.0/16")
	want("a", Monitored{narrow, false, false}, Monitored{wide, false, false}, Monitored{own, false, true})
}

// A counter does not go back when a session gets another connection, nor when the figures of one are missing for a while.
func TestTCP(t *testing.T) {
	v := newView(newFeed(), func() {})
	ll, other := netip.MustParseAddr("fe80::2%wg0"), netip.MustParseAddr("fe80::2%wg1")
	us := netip.MustParseAddr("fe80::1")
	v.setConfig(Config{ASN: ownASN, RouterID: routerID, Neighbours: []Neighbour{
		{Name: "a", Address: ll, LocalAddress: us.WithZone("wg0"), ASN: 65001, IPv6: true}, {Name: "b", Address: other, LocalAddress: us.WithZone("wg1"), ASN: 65002, IPv6: true},
	}})
	for _, n := range v.order {
		n.state = Established
	}
	conn := func(device string, local, remote uint16, retransmits uint64) Connection {
		return Connection{
			Local: netip.AddrPortFrom(us.WithZone(device), local), Remote: netip.AddrPortFrom(ll.WithZone(device), remote),
			RTT: 30 * time.Millisecond, Retransmits: retransmits,
		}
	}
	for _, step := range []struct {
		list []Connection
		want uint64
	}{
		{[]Connection{conn("wg1", 40000, 179, 9), conn("wg0", 40000, 22, 99), conn("wg0", 40001, 179, 2)}, 2},
		{[]Connection{conn("wg0", 40001, 179, 5)}, 5},
		{nil, 5},
		{[]Connection{conn("wg0", 179, 50000, 1)}, 6},
		{[]Connection{conn("wg0", 179, 50000, 4)}, 9},
	} {
		v.setTCP(step.list, time.Now())
		if got := v.byName["a"].tcp.snapshot(Established); got == nil || got.Retransmits != step.want || got.RTT != 0.03 {
			t.Errorf("after %v: %+v, want %d retransmissions", step.list, got, step.want)
		}
	}
	if got := v.byName["b"].tcp.snapshot(Established); got.Retransmits != 9 {
		t.Errorf("the other device's: %+v, want 9", got)
	}
	if got := v.byName["a"].tcp.snapshot(Idle); got.RTT != 0 || got.Retransmits != 9 {
		t.Errorf("while it is down: %+v", got)
	}
	if got := (&tcpState{}).snapshot(Established); got != nil {
		t.Errorf("never asked: %+v", got)
	}
}

// TestTCPIsAsked: a running speaker asks about its sessions soon after they come up.
func TestTCPIsAsked(t *testing.T) {
	c := Config{ASN: ownASN, RouterID: routerID, Neighbours: []Neighbour{passive("a", 2, 65001, accepting())}}
	l := startLabWith(t, c, func(o *Options) {
		port := uint16(o.Config.ListenPort)
		o.Connections = func(context.Context) ([]Connection, error) {
			return []Connection{{Local: netip.AddrPortFrom(speaker, port), Remote: netip.AddrPortFrom(o.Config.Neighbours[0].Address, 1), RTT: time.Millisecond, Retransmits: 3}}, nil
		}
	})
	l.peer(2, 65001)
	l.session("a", "TCP figures", func(s Session) bool { return s.TCP != nil && *s.TCP == TCP{RTT: 0.001, Retransmits: 3} })
}
