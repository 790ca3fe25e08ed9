package bgp

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"sitewire/bgp/bgptest"
	"sitewire/bgp/policy"
)

func TestDefaultDeny(t *testing.T) {
	l := startLab(t, Config{
		ASN: ownASN, RouterID: routerID, Neighbours: []Neighbour{passive("a", 2, 65001, nil), passive("b", 3, 65002, accepting())},
		Announce: []Announcement{{Prefix: netip.MustParsePrefix("10.1.0.0/16")}},
	})
	a, b := l.peer(2, 65001), l.peer(3, 65002)
	announce(t, a, from4(2, 65001), "10.2.0.0/16")
	announce(t, b, from4(3, 65002), "10.3.0.0/16")
	l.feed.wait(t, "verdict", func() bool {
		p := l.feed.path("a", "10.2.0.0/16")
		return p != nil && p.Rejected == policy.NoPolicy
	})
	l.feed.wait(t, "the other one's best path", func() bool { return l.feed.bestOf("10.3.0.0/16") == "b" })
	l.gets(b, "10.1.0.0/16")
	if r := a.Routes(); len(r) != 0 {
		t.Errorf("a neighbour without policy was sent %v", r)
	}
	if r := b.Routes(); len(r) != 1 {
		t.Errorf("b was sent %v", r)
	}
	l.session("a", "warned of", func(s Session) bool {
		return slices.ContainsFunc(s.Warnings, func(w string) bool { return strings.Contains(w, "RFC 8212") }) && s.IPv4.Rejected[policy.NoPolicy] == 1
	})
}

func TestPrefixLimitDegrades(t *testing.T) {
	limited := accepting()
	limited.MaxPrefixes4 = 3
	l := newLab(t, passive("a", 2, 65001, limited), passive("b", 3, 65002, accepting()))
	a, b := l.peer(2, 65001), l.peer(3, 65002)
	prefixes := make([]string, 6)
	for i := range prefixes {
		prefixes[i] = fmt.Sprintf("10.%d.0.0/16", 10+i)
		announce(t, a, from4(2, 65001), prefixes[i])
	}
	s := l.session("a", "over its limit", func(s Session) bool {
		return s.IPv4.Received == 6 && s.IPv4.Rejected[PrefixLimit] == 3 && s.IPv4.Accepted == 3
	})
	if s.State != Established || s.IPv4.Limit != 3 || !slices.ContainsFunc(s.Warnings, func(w string) bool { return strings.Contains(w, "limit of 3 reached") }) {
		t.Errorf("session %+v", s)
	}
	for _, p := range prefixes[:3] {
		l.gets(b, p)
	}
	for _, p := range prefixes[3:] {
		l.absent(b, p)
		l.feed.wait(t, p+" refused", func() bool { return l.feed.verdict("a", p) == PrefixLimit && l.feed.bestOf(p) == "" })
	}
	// Room lets one in, and only one.
	withdraw(t, a, prefixes[0])
	l.gets(b, prefixes[3])
	l.session("a", "full again", func(s Session) bool { return s.IPv4.Accepted == 3 && s.IPv4.Rejected[PrefixLimit] == 2 })
	withdraw(t, a, prefixes[1], prefixes[2])
	l.gets(b, prefixes[4])
	l.gets(b, prefixes[5])
	l.session("a", "within its limit", func(s Session) bool { return s.IPv4.Accepted == 3 && s.IPv4.Rejected[PrefixLimit] == 0 })
	if got := l.Snapshot().Sessions[0]; got.Establishments != 1 {
		t.Errorf("the limit cost the session: %+v", got)
	}
}

func TestImplicitWithdrawByLoop(t *testing.T) {
	l := newLab(t, passive("a", 2, 65001, accepting()), passive("b", 3, 65002, accepting()))
	a, b := l.peer(2, 65001), l.peer(3, 65002)
	announce(t, a, from4(2, 65001), "10.2.0.0/16")
	l.gets(b, "10.2.0.0/16")
	// The same prefix through ourselves replaces the path; GoBGP alone would keep the old one.
	announce(t, a, from4(2, 65001, ownASN, 65003), "10.2.0.0/16")
	l.absent(b, "10.2.0.0/16")
	l.feed.wait(t, "loop", func() bool {
		return l.feed.verdict("a", "10.2.0.0/16") == policy.ASLoop && l.feed.bestOf("10.2.0.0/16") == ""
	})
}

func TestSetKeepsSessions(t *testing.T) {
	l := newLab(t, passive("a", 2, 65001, accepting()), passive("b", 3, 65002, accepting()))
	a, b := l.peer(2, 65001), l.peer(3, 65002)
	announce(t, a, from4(2, 65001), "10.2.0.0/16")
	l.gets(b, "10.2.0.0/16")

	l.set(func(c *Config) { c.Neighbours = append(c.Neighbours, passive("c", 4, 65003, accepting())) })
	c := l.peer(4, 65003)
	l.gets(c, "10.2.0.0/16")

	// A policy alone: what it now rejects goes, on the running session.
	l.set(func(c *Config) {
		p := accepting()
		p.Import = append([]policy.Rule{{Name: "not-these", Match: policy.Match{Prefixes: []policy.PrefixRange{policy.OrLonger(netip.MustParsePrefix("10.2.0.0/16"))}}}}, p.Import...)
		c.Neighbours[0].Policy = p
	})
	l.absent(b, "10.2.0.0/16")
	l.feed.wait(t, "rejection", func() bool {
		return l.feed.verdict("a", "10.2.0.0/16") == "not-these" && l.feed.bestOf("10.2.0.0/16") == ""
	})
	l.set(func(c *Config) { c.Neighbours[0].Policy = accepting() })
	l.gets(b, "10.2.0.0/16")
	l.gets(c, "10.2.0.0/16")

	// An export policy, too.
	l.set(func(c *Config) { c.Neighbours[1].Policy = &policy.Policy{Name: "mute", Import: accepting().Import} })
	l.absent(b, "10.2.0.0/16")

	// Announcements come and go.
	if err := l.SetAnnouncements(l.context(), []Announcement{{Prefix: netip.MustParsePrefix("10.1.0.0/16")}}); err != nil {
		t.Fatal(err)
	}
	l.gets(c, "10.1.0.0/16")
	if err := l.SetAnnouncements(l.context(), nil); err != nil {
		t.Fatal(err)
	}
	l.absent(c, "10.1.0.0/16")

	// A changed timer needs a new session, of that neighbour.
	l.set(func(c *Config) { c.Neighbours[2].HoldTime = 30 * time.Second })
	l.ended(c)
	l.set(func(c *Config) { c.Neighbours = slices.Delete(slices.Clone(c.Neighbours), 1, 2) })
	l.ended(b)
	if code, sub, ok := b.Notification(); !ok || code != 6 || sub != 3 {
		t.Errorf("removed neighbour got %d/%d %v", code, sub, ok)
	}
	for _, s := range l.Snapshot().Sessions {
		if s.Name == "a" && (s.State != Established || s.Establishments != 1) {
			t.Errorf("a lost its session: %+v", s)
		}
	}
	for _, change := range []func(*Config){
		func(c *Config) { c.ASN++ }, func(c *Config) { c.ListenPort++ }, func(c *Config) { c.MaxPaths = 4 },
	} {
		c := l.config
		change(&c)
		if err := l.Set(l.context(), c); !errors.Is(err, ErrRestart) {
			t.Errorf("Set: %v, want ErrRestart", err)
		}
	}
}

func TestLiveness(t *testing.T) {
	n := passive("nyc/ipv4", 2, 65001, accepting())
	n.Peer = "nyc"
	n.GracefulRestart = true
	l := newLab(t, n)
	o := l.options(2, 65001)
	o.GracefulRestart = 60
	a := l.dial(o)
	announce(t, a, from4(2, 65001), "10.2.0.0/16")
	l.feed.wait(t, "best path", func() bool { return l.feed.bestOf("10.2.0.0/16") == "nyc/ipv4" })
	l.feed.mu.Lock()
	if hop := l.feed.path("nyc/ipv4", "10.2.0.0/16").NextHop; hop != n.Address {
		t.Errorf("behind a tunnel the next hop is the neighbour, not %v", hop)
	}
	l.feed.mu.Unlock()
	l.SetLiveness("nyc", false)
	// Graceful restart does not keep routes through a tunnel that is dead.
	l.feed.wait(t, "withdrawal", func() bool {
		return l.feed.path("nyc/ipv4", "10.2.0.0/16") == nil && l.feed.bestOf("10.2.0.0/16") == ""
	})
	l.ended(a)
	l.session("nyc/ipv4", "down for the tunnel", func(s Session) bool {
		return s.Downs[downTunnel] == 1 && s.State != Established && s.Tunnel && s.Peer == "nyc"
	})
	begin := time.Now()
	l.SetLiveness("nyc", true)
	l.dial(o)
	l.session("nyc/ipv4", "up", func(s Session) bool { return s.State == Established })
	if d := time.Since(begin); d > 3*time.Second {
		t.Errorf("back after %v: GoBGP's idle time has returned", d)
	}
}

func TestGracefulRestartLeftovers(t *testing.T) {
	staleMark(t)
	n := passive("a", 2, 65001, accepting())
	n.GracefulRestart = true
	l := newLab(t, n)
	o := l.options(2, 65001)
	o.GracefulRestart = 60
	a := l.dial(o)
	announce(t, a, from4(2, 65001), "10.2.0.0/16", "10.3.0.0/16")
	for _, v6 := range []bool{false, true} {
		if err := a.EndOfRIB(v6); err != nil {
			t.Fatal(err)
		}
	}
	l.feed.wait(t, "paths", func() bool { return l.feed.bestOf("10.3.0.0/16") == "a" && l.feed.eor["a ipv6"] == 1 })
	a.Close()
	l.session("a", "stale", func(s Session) bool { return s.State != Established && s.IPv4.Stale == 2 })
	l.feed.mu.Lock()
	if l.feed.path("a", "10.2.0.0/16") == nil || l.feed.bestOf("10.2.0.0/16") != "a" {
		t.Error("a helper keeps the routes")
	}
	l.feed.mu.Unlock()
	o.Restarting = true
	b := l.dial(o)
	announce(t, b, from4(2, 65001), "10.2.0.0/16")
	l.feed.wait(t, "new path", func() bool {
		p := l.feed.path("a", "10.2.0.0/16")
		return p != nil && p.Session == 2
	})
	if err := b.EndOfRIB(false); err != nil {
		t.Fatal(err)
	}
	if err := b.EndOfRIB(true); err != nil {
		t.Fatal(err)
	}
	l.feed.wait(t, "leftovers gone", func() bool {
		return l.feed.eor["a ipv4"] == 2 && l.feed.path("a", "10.3.0.0/16") == nil && l.feed.bestOf("10.3.0.0/16") == "" && l.feed.bestOf("10.2.0.0/16") == "a"
	})
	l.session("a", "clean", func(s Session) bool { return s.IPv4.Stale == 0 && s.IPv4.Received == 1 })
}

// Over IPv6 transport, IPv4 goes to those who announce extended next hop, with a next hop of ours to others, or not.
func TestExtendedNextHop(t *testing.T) {
	v6 := netip.MustParseAddr("::1")
	neighbour := func(enh ENH, local string) Neighbour {
		n := Neighbour{Name: "a", Address: v6, LocalAddress: v6, ASN: 65001, Passive: true, IPv4: true, IPv6: true, Policy: accepting(), ExtendedNextHop: enh, Peer: "a", RemoteIPv4: hop4(2), RemoteIPv6: hop6(2)}
		if local != "" {
			n.LocalIPv4 = netip.MustParseAddr(local)
		}
		return n
	}
	tests := []struct {
		name     string
		capable  bool
		enh      ENH
		local    string
		hop      string // empty: held back
		announce []netip.Addr
	}{
		{"auto, announced", true, ENHAuto, "", "::1", []netip.Addr{hop6(2), netip.MustParseAddr("fe80::2")}},
		{"auto, not announced", false, ENHAuto, "", "", []netip.Addr{hop4(2)}},
		{"auto, not announced, IPv4 in the tunnel", false, ENHAuto, "10.9.9.1", "10.9.9.1", []netip.Addr{hop4(2)}},
		{"off, announced", true, ENHOff, "", "", []netip.Addr{hop4(2)}},
		{"off, IPv4 in the tunnel", true, ENHOff, "10.9.9.1", "10.9.9.1", []netip.Addr{hop4(2)}},
		{"on, not announced", false, ENHOn, "", "::1", []netip.Addr{netip.IPv6Unspecified(), netip.MustParseAddr("fe80::2")}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			l := startLab(t, Config{
				ASN: ownASN, RouterID: routerID, Neighbours: []Neighbour{neighbour(tt.enh, tt.local)},
				Announce: []Announcement{{Prefix: netip.MustParsePrefix("10.1.0.0/16")}, {Prefix: netip.MustParsePrefix("fd42::/32")}},
			})
			p := l.dial(bgptest.Options{Local: v6, Remote: netip.AddrPortFrom(v6, l.port), ASN: 65001, IPv4: true, IPv6: true, ExtendedNextHop: tt.capable})
			l.gets(p, "fd42::/32")
			s := l.session("a", "up", func(s Session) bool { return s.State == Established })
			if s.ExtendedNextHop != tt.capable {
				t.Errorf("capability read as %v", s.ExtendedNextHop)
			}
			held := slices.ContainsFunc(s.Warnings, func(w string) bool { return strings.HasPrefix(w, "IPv4 held back") })
			if held != (tt.hop == "") {
				t.Errorf("warnings %q", s.Warnings)
			}
			if tt.hop != "" {
				if r := l.gets(p, "10.1.0.0/16"); len(r.NextHop) != 1 || r.NextHop[0] != netip.MustParseAddr(tt.hop) {
					t.Errorf("next hop %v, want %v", r.NextHop, tt.hop)
				}
			}
			// What comes in is good in any form, and goes to the neighbour.
			announce(t, p, bgptest.Update{ASPath: []uint32{65001}, NextHop: tt.announce}, "10.2.0.0/16")
			announce(t, p, bgptest.Update{ASPath: []uint32{65001}, NextHop: []netip.Addr{netip.IPv6Unspecified(), netip.MustParseAddr("fe80::2")}}, "fd43::/32")
			for _, q := range []string{"10.2.0.0/16", "fd43::/32"} {
				l.feed.wait(t, q, func() bool {
					p := l.feed.path("a", q)
					return p != nil && p.NextHop == v6 && p.Rejected == "" && l.feed.bestOf(q) == "a"
				})
			}
			if _, ok := p.Routes()[netip.MustParsePrefix("10.1.0.0/16")]; ok && tt.hop == "" {
				t.Error("IPv4 was sent")
			}
		})
	}
}

func TestMultipath(t *testing.T) {
	l := startLab(t, Config{ASN: ownASN, RouterID: routerID, MaxPaths: 4, Neighbours: []Neighbour{passive("a", 2, 65001, accepting()), passive("b", 3, 65002, accepting())}})
	a, b := l.peer(2, 65001), l.peer(3, 65002)
	announce(t, a, from4(2, 65001), "10.2.0.0/16")
	announce(t, b, from4(3, 65002), "10.2.0.0/16")
	l.feed.wait(t, "two best paths", func() bool { return l.feed.bestOf("10.2.0.0/16") == "a b" })
	withdraw(t, a, "10.2.0.0/16")
	l.feed.wait(t, "one", func() bool { return l.feed.bestOf("10.2.0.0/16") == "b" })
}

func TestReset(t *testing.T) {
	l := newLab(t, passive("a", 2, 65001, accepting()))
	a := l.peer(2, 65001)
	l.session("a", "up", func(s Session) bool { return s.State == Established })
	if err := l.Reset(l.context(), "a", true); err != nil {
		t.Fatal(err)
	}
	if err := l.Reset(l.context(), "nobody", true); err == nil {
		t.Error("reset of nobody")
	}
	if err := l.Reset(l.context(), "a", false); err != nil {
		t.Fatal(err)
	}
	l.ended(a)
	l.peer(2, 65001)
	l.session("a", "up again", func(s Session) bool { return s.State == Established && s.Downs[downReset] == 1 })
}

func TestRoutes(t *testing.T) {
	p := accepting()
	p.Import = append([]policy.Rule{{Name: "no", Match: policy.Match{ASPath: "_666_"}}}, p.Import...)
	l := startLab(t, Config{
		ASN: ownASN, RouterID: routerID, Neighbours: []Neighbour{passive("a", 2, 65001, p), passive("b", 3, 65002, p)},
		Announce: []Announcement{{Prefix: netip.MustParsePrefix("10.1.0.0/16"), Communities: []string{"no-export"}}},
	})
	a, b := l.peer(2, 65001), l.peer(3, 65002)
	announce(t, a, from4(2, 65001), "10.2.0.0/16", "10.2.3.0/24")
	announce(t, a, from4(2, 65001, 666), "10.4.0.0/16")
	l.gets(b, "10.2.3.0/24")
	l.feed.wait(t, "all of it", func() bool {
		return l.feed.path("a", "10.4.0.0/16") != nil && l.feed.bestOf("10.2.0.0/16") == "a" && l.feed.bestOf("10.2.3.0/24") == "a"
	})
	// GoBGP sends before it tells us that the session is up.
	l.session("b", "up", func(s Session) bool { return s.State == Established })
	list := func(f Filter) string {
		t.Helper()
		got, total, err := l.Routes(l.context(), f)
		if err != nil {
			t.Fatal(err)
		}
		var out []string
		for _, e := range got {
			out = append(out, strings.Join(strings.Fields(fmt.Sprint(e.Prefix, " ", e.Neighbour, " ", e.Rejected, " ", e.Rule)), " "))
		}
		return fmt.Sprint(total, ": ", strings.Join(out, ", "))
	}
	for _, tt := range []struct {
		f    Filter
		want string
	}{
		{Filter{Neighbour: "a"}, "3: 10.2.0.0/16 a all, 10.2.3.0/24 a all, 10.4.0.0/16 a no"},
		{Filter{Direction: DirAccepted, Limit: 1}, "2: 10.2.0.0/16 a all"},
		{Filter{Direction: DirRejected}, "1: 10.4.0.0/16 a no"},
		{Filter{Direction: DirBest}, "3: 10.1.0.0/16, 10.2.0.0/16 a all, 10.2.3.0/24 a all"},
		{Filter{Direction: DirBest, Prefix: netip.MustParsePrefix("10.2.0.0/16"), Longer: true}, "2: 10.2.0.0/16 a all, 10.2.3.0/24 a all"},
		{Filter{Direction: DirReceived, Prefix: netip.MustParsePrefix("10.2.3.0/24")}, "1: 10.2.3.0/24 a all"},
		{Filter{Neighbour: "b", Direction: DirAdvertised}, "3: 10.1.0.0/16 b, 10.2.0.0/16 b, 10.2.3.0/24 b"},
		{Filter{Neighbour: "b", Direction: DirAdvertised, Prefix: netip.MustParsePrefix("10.2.3.0/24")}, "1: 10.2.3.0/24 b"},
		{Filter{Neighbour: "b"}, "0: "},
	} {
		if got := list(tt.f); got != tt.want {
			t.Errorf("%+v:\n got %s\nwant %s", tt.f, got, tt.want)
		}
	}
	for _, f := range []Filter{{Neighbour: "x"}, {Direction: "sideways"}, {Direction: DirAdvertised}} {
		if _, _, err := l.Routes(l.context(), f); err == nil {
			t.Errorf("%+v: no error", f)
		}
	}
}

// A session that is not Established announces nothing, whatever GoBGP counted last.
func TestAdvertisedWhileDown(t *testing.T) {
	for state, want := range map[State]int{Established: 7, Idle: 0, Active: 0} {
		n := &neighbour{}
		n.state = state
		n.in[0].offered = true
		n.polled.advertised[0] = 7
		if got := n.snapshot().IPv4.Advertised; got != want {
			t.Errorf("%v: %d, want %d", state, got, want)
		}
	}
}
