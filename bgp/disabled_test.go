package bgp

import (
	"context"
	"net/netip"
	"strings"
	"testing"
	"time"

	"sitewire/bgp/bgptest"
	"sitewire/routes"
)

// A neighbour that is disabled is told so, its routes go, and the other sessions stay as they are; enabled, it comes back.
func TestDisabled(t *testing.T) {
	for name, c := range map[string]struct {
		restart    bool // graceful restart, with the N bit of RFC 8538, which asks for a Hard Reset
		subcode    byte
		downReason string
	}{
		"plain":            {false, 2, "Administrative Shutdown"},
		"graceful restart": {true, 9, "Hard Reset"},
	} {
		t.Run(name, func(t *testing.T) {
			if c.restart {
				staleMark(t)
			}
			a := passive("a", 2, 65001, accepting())
			a.GracefulRestart = c.restart
			l := newLab(t, a, passive("b", 3, 65002, accepting()))
			o := l.options(2, 65001)
			if c.restart {
				o.GracefulRestart, o.RestartNotification = 60, true
			}
			pa, pb := l.dial(o), l.peer(3, 65002)
			for _, name := range []string{"a", "b"} {
				l.session(name, "up", func(s Session) bool { return s.State == Established })
			}
			announce(t, pa, from4(2, 65001), "10.2.0.0/16")
			l.gets(pb, "10.2.0.0/16")

			disable := func(on bool) { l.set(func(c *Config) { c.Neighbours[0].Disabled = on }) }
			disable(true)
			l.ended(pa)
			if code, sub, ok := pa.Notification(); !ok || code != 6 || sub != c.subcode {
				t.Errorf("the neighbour was told %d/%d (%v), want 6/%d", code, sub, ok, c.subcode)
			}
			l.absent(pb, "10.2.0.0/16")
			l.feed.wait(t, "withdrawal", func() bool { return l.feed.path("a", "10.2.0.0/16") == nil && l.feed.bestOf("10.2.0.0/16") == "" })
			s := l.session("a", "down", func(s Session) bool { return s.State == Idle && s.Downs[downAdmin] == 1 })
			if !s.AdminDown || len(s.Downs) != 1 || !strings.Contains(s.LastError, c.downReason) {
				t.Errorf("session %+v", s)
			}
			l.feed.mu.Lock()
			for _, loss := range l.feed.losses {
				if loss.Kind != routes.LossAdmin {
					t.Errorf("loss by %v", loss.Kind)
				}
			}
			l.feed.mu.Unlock()
			// It may knock as it likes.
			ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
			defer cancel()
			if p, err := bgptest.Dial(ctx, o); err == nil {
				p.Close()
				t.Error("a disabled neighbour got a session")
			}
			if err := l.Reset(l.context(), "a", false); err == nil || !strings.Contains(err.Error(), "enabled: true") {
				t.Errorf("reset: %v", err)
			}

			disable(false)
			pa = l.dial(o)
			announce(t, pa, from4(2, 65001), "10.2.0.0/16")
			l.gets(pb, "10.2.0.0/16")
			if s := l.session("a", "up", func(s Session) bool { return s.State == Established }); s.AdminDown || s.Establishments != 2 {
				t.Errorf("session %+v", s)
			}
			l.session("b", "untouched", func(s Session) bool { return s.State == Established && s.Establishments == 1 })
		})
	}
}

// Disabled and enabled at once, the session begins anew and stays.
func TestDisabledForAMoment(t *testing.T) {
	l := newLab(t, passive("a", 2, 65001, accepting()))
	p := l.peer(2, 65001)
	l.session("a", "up", func(s Session) bool { return s.State == Established })
	for _, on := range []bool{true, false} {
		l.set(func(c *Config) { c.Neighbours[0].Disabled = on })
	}
	l.ended(p)
	p = l.peer(2, 65001)
	announce(t, p, from4(2, 65001), "10.2.0.0/16")
	l.feed.wait(t, "best path", func() bool { return l.feed.bestOf("10.2.0.0/16") == "a" })
	l.session("a", "up", func(s Session) bool { return s.State == Established && s.Establishments == 2 })
}

// One that is disabled from the start is listed, and its policy does not keep anything from others.
func TestDisabledFromTheStart(t *testing.T) {
	a := passive("a", 2, 65001, accepting())
	a.Disabled = true
	l := startLab(t, Config{ASN: ownASN, RouterID: routerID, Neighbours: []Neighbour{a, passive("b", 3, 65002, accepting())},
		Announce: []Announcement{{Prefix: netip.MustParsePrefix("10.1.0.0/16")}}})
	b := l.peer(3, 65002)
	l.gets(b, "10.1.0.0/16")
	s := l.session("a", "listed", func(s Session) bool { return s.AdminDown })
	if s.State != Idle || len(s.Downs) != 0 || s.LastError != "" {
		t.Errorf("session %+v", s)
	}
}
