package bgp

import (
	"encoding/binary"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"sitewire/routes"
)

// lossesOf waits until the kind of a loss was told, and returns all that was told of the neighbour's losses.
func (l *lab) lossesOf(name string, kind routes.LossKind) (out []routes.Loss) {
	l.t.Helper()
	l.feed.wait(l.t, "a loss of "+name, func() bool {
		out = slices.DeleteFunc(slices.Clone(l.feed.losses), func(x routes.Loss) bool { return x.Of != name })
		return slices.ContainsFunc(out, func(x routes.Loss) bool { return x.Kind == kind })
	})
	return out
}

// TestLoss: a lost session is told of before the paths go, once more when it is known why, and with one time.
func TestLoss(t *testing.T) {
	for name, c := range map[string]struct {
		end  func(l *lab, close func(), notify func(code, subcode byte) error)
		kind routes.LossKind
	}{
		"connection":    {func(_ *lab, end func(), _ func(_, _ byte) error) { end() }, routes.LossLink},
		"shutdown":      {func(_ *lab, _ func(), notify func(_, _ byte) error) { _ = notify(6, 2) }, routes.LossAdmin},
		"their timer":   {func(_ *lab, _ func(), notify func(_, _ byte) error) { _ = notify(4, 0) }, routes.LossHoldTimer},
		"dead tunnel":   {func(l *lab, _ func(), _ func(_, _ byte) error) { l.SetLiveness("nyc", false) }, routes.LossTunnel},
		"configuration": {func(l *lab, _ func(), _ func(_, _ byte) error) { l.set(func(c *Config) { c.Neighbours = nil }) }, routes.LossAdmin},
	} {
		t.Run(name, func(t *testing.T) {
			l := newLab(t, passive("nyc", 2, 65001, accepting()))
			p := l.peer(2, 65001)
			announce(t, p, from4(2, 65001), "10.1.0.0/16", "10.2.0.0/16")
			l.feed.wait(t, "the paths", func() bool { return len(l.feed.paths["nyc"]) == 2 })
			before := time.Now()
			c.end(l, p.Close, p.Notify)
			l.feed.wait(t, "their end", func() bool { return len(l.feed.paths["nyc"]) == 0 })
			told := l.lossesOf("nyc", c.kind)
			for _, x := range told {
				if !x.At.Equal(told[0].At) || x.At.Before(before.Add(-time.Second)) || x.Kind != c.kind && x.Kind != routes.LossUnknown {
					t.Errorf("told of %+v, first %+v", x, told[0])
				}
			}
			l.feed.mu.Lock()
			defer l.feed.mu.Unlock()
			at := func(what string) int {
				return slices.IndexFunc(l.feed.order, func(s string) bool { return strings.HasPrefix(s, what) })
			}
			if at("lost nyc") < 0 || at("lost nyc") > at("gone nyc") {
				t.Errorf("in this order: %q", l.feed.order)
			}
		})
	}
}

// TestWithdrawalIsNoLoss: what a neighbour withdraws is not lost, also not in an UPDATE that announces as well.
func TestWithdrawalIsNoLoss(t *testing.T) {
	l := newLab(t, passive("nyc", 2, 65001, accepting()))
	p := l.peer(2, 65001)
	announce(t, p, from4(2, 65001), "10.1.0.0/16", "10.2.0.0/16")
	l.feed.wait(t, "the paths", func() bool { return len(l.feed.paths["nyc"]) == 2 })
	withdraw(t, p, "10.1.0.0/16")

	u := from4(2, 65001)
	u.Prefixes = append(u.Prefixes, netip.MustParsePrefix("10.3.0.0/16"))
	const header, withdrawn = 19, 3 // bytes: of the message's header, and of one /16 in the withdrawn routes
	b := u.Encode()
	b = slices.Concat(b[:header], []byte{0, withdrawn, 16, 10, 2}, b[header+2:])
	binary.BigEndian.PutUint16(b[16:], uint16(len(b)))
	if err := p.Send(b); err != nil {
		t.Fatal(err)
	}
	l.feed.wait(t, "the change", func() bool { return len(l.feed.paths["nyc"]) == 1 && len(l.feed.best) == 1 })
	l.feed.mu.Lock()
	defer l.feed.mu.Unlock()
	if len(l.feed.losses) > 0 {
		t.Errorf("losses: %v", l.feed.losses)
	}
}
