package routes

import (
	"context"
	"net/netip"
	"slices"
	"time"
)

// Pace of removing superfluous allowed-IPs: from a moment after the last larger change on, and so little at a time that changes do
// not wait for it.
const (
	tidyAfter = 5 * time.Second
	tidyEvery = 50 * time.Millisecond
	tidyAtOne = 2000
	// tidyNot is how many prefixes make a change that tidying keeps out of the way of.
	tidyNot = 256
)

// spareEntries are the prefixes whose entries may be superfluous because others cover them. It costs nothing to leave those
// there for a while, and something to put them back when the covering ones go again.
//
// Owner: the Syncer. Memory: at most twice the number of prefixes with an entry.
type spareEntries struct {
	list   []netip.Prefix
	sorted int // the first ones are sorted, each once
	due    time.Time
}

// add notes prefixes that a change of so many has left.
func (e *spareEntries) add(list []netip.Prefix, changed int, now time.Time) {
	e.list = append(e.list, list...)
	if len(e.list) > 2*e.sorted+1024 {
		e.compact()
	}
	if len(e.list) > 0 && (e.due.IsZero() || changed > tidyNot) {
		e.due = now.Add(tidyAfter)
	}
}

func (e *spareEntries) compact() {
	slices.SortFunc(e.list, netip.Prefix.Compare)
	e.list = slices.Compact(e.list)
	e.sorted = len(e.list)
}

// tidy removes some superfluous allowed-IPs.
func (s *Syncer) tidy(ctx context.Context) {
	e := &s.spares
	e.compact()
	n := min(tidyAtOne, len(e.list))
	now := make([]netip.Prefix, 0, n)
	var later []netip.Prefix
	for _, p := range e.list[:n] {
		if s.retries.get(p) != nil {
			later = append(later, p) // what does not work comes first
		} else {
			now = append(now, p)
		}
	}
	e.list, e.sorted, e.due = e.list[n:], e.sorted-n, time.Time{}
	if ops := spares(s.snapshot, s.ledger, now); len(ops) > 0 {
		s.settle(s.toDo(now, nil), s.execute(ctx, pieces(ops), nil))
		s.publish(time.Now())
	}
	if len(e.list) > 0 {
		e.due = time.Now().Add(tidyEvery)
	} else if len(later) > 0 {
		e.due = time.Now().Add(tidyAfter)
	}
	if e.list = append(e.list, later...); len(e.list) == 0 {
		e.list = nil // the memory of a table's worth
	}
}
