package bgp

import (
	"net/netip"
	"time"
)

// A speaker that starts with many neighbours hears of each prefix from many of them, and its best path changes with each
// better one. Told at once, every change would go to every neighbour: with 40 neighbours of dn42 that is most of the work
// of a start, and it delays the routes. So at a start nothing is announced until the tables are in, and then each best path
// once. RFC 4724 section 4.1 has a restarted speaker do the same; GoBGP can, but only together with the R and F bits in its
// OPEN, which are a lie at a cold start.
const (
	// gatherFrom is how many neighbours make it worth while.
	gatherFrom = 8
	// gatherQuiet is how long nothing has come in from neighbours, all of whose sessions are up, when the tables are taken to be in.
	gatherQuiet = 200 * time.Millisecond
	// gatherLimit after the first session came up announcements begin, whatever is missing.
	gatherLimit = 5 * time.Second
	// gatherMost bounds prefixes times neighbours: to announce them stops all receiving, and large tables take longer than the limit anyway.
	gatherMost = 250_000
	// gatherEvery is the time between looks.
	gatherEvery = 20 * time.Millisecond
)

// gathering is the state of the wait. Owner: the loop.
type gathering struct {
	on      bool
	firstUp time.Time // zero before the first session
	events  uint64    // view.events when last looked at
	since   time.Time // that they are the same
}

// begin waits if there is reason to. A restarted speaker is held back by GoBGP.
func (g *gathering) begin(c Config, restarted bool) {
	running := 0
	for i := range c.Neighbours {
		running += btoi(!c.Neighbours[i].Disabled)
	}
	g.on = !restarted && running >= gatherFrom
}

// gather ends the wait when it is time, and has the policies made anew.
func (l *loop) gather(now time.Time) {
	g := &l.gathering
	if !g.on {
		return
	}
	if events := l.view.events.Load(); events != g.events || g.since.IsZero() {
		g.events, g.since = events, now
	}
	up, prefixes, missing := l.view.gathered(l.view.wanted())
	if g.firstUp.IsZero() {
		if up == 0 {
			return
		}
		g.firstUp = now
	}
	switch {
	case missing == 0 && now.Sub(g.since) >= gatherQuiet:
	case now.Sub(g.firstUp) >= gatherLimit:
	case prefixes*(up+missing) > gatherMost:
	default:
		return
	}
	g.on = false
	l.log.Info("announcements begin", "prefixes", prefixes, "sessions", up, "missing", missing, "after", now.Sub(g.firstUp).Round(time.Millisecond))
	l.view.mu.Lock()
	l.view.recompile = true
	l.view.mu.Unlock()
}

// gathered counts sessions that are up, prefixes with a best path, and wanted sessions that are not up.
func (v *view) gathered(want map[netip.Addr]Neighbour) (up, prefixes, missing int) {
	v.mu.Lock()
	defer v.mu.Unlock()
	for address := range want {
		if n := v.byAddr[address]; n != nil && n.state == Established {
			up++
		} else {
			missing++
		}
	}
	return up, v.prefixes[0] + v.prefixes[1], missing
}
