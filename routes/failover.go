package routes

import (
	"net/netip"
	"slices"
	"time"

	"github.com/gaissmai/bart"
)

// Times of measuring a failover. It is over some time after the last replacement, since BGP hands best paths on one after
// the other; longer while there are prefixes that nothing has replaced yet.
const (
	failoverQuiet = time.Second
	failoverWait  = 5 * time.Second
	// failoverLimit is when a loss that nothing has replaced is given up.
	failoverLimit = time.Minute
	// oneLoss is how close together two reports about the same peer are about the same loss.
	oneLoss = time.Second
)

// failovers measure how long it takes from noticing a loss to the acknowledgement of the last route that replaces one
// that led there.
//
// Owner: the Syncer. Memory: a bit for each prefix without a route, for at most failoverLimit after the loss, and longer only
// while something is pending because of it.
type failovers struct {
	open map[string]*failover // by Loss.Of
	took [LossKinds]Histogram
}

// failover is one that is not over.
type failover struct {
	loss     Loss
	without  bart.Lite // prefixes whose route went and that have no other yet
	replaced bool
	last     time.Time // acknowledgement of the last replacement
	due      time.Time // when it is over, unless something happens
}

// begin notes a loss, or learns more of one.
func (s *failovers) begin(l Loss) {
	if f := s.open[l.Of]; f != nil && l.At.Sub(f.loss.At).Abs() <= oneLoss {
		if f.loss.Kind == LossUnknown {
			f.loss.Kind = l.Kind
		}
		return
	}
	s.end(l.Of)
	if s.open == nil {
		s.open = make(map[string]*failover)
	}
	s.open[l.Of] = &failover{loss: l, due: l.At.Add(failoverLimit)}
}

// end counts a failover if there was any.
func (s *failovers) end(of string) {
	if f := s.open[of]; f != nil && f.replaced && f.loss.Kind != LossUnknown {
		s.took[f.loss.Kind].Observe(f.last.Sub(f.loss.At))
	}
	delete(s.open, of)
}

// withdrawn notes that a route went because of a loss.
func (s *failovers) withdrawn(p netip.Prefix, l Loss) {
	if f := s.open[l.Of]; f != nil && l.happened() {
		f.without.Insert(p)
	}
}

// installed notes that a route came, by these ways. It replaces what was lost if its cause is a loss, or if there was none
// since; unless it leads to where it did before.
func (s *failovers) installed(p netip.Prefix, l Loss, ways []Way, at time.Time) {
	for of, f := range s.open {
		was := f.without.Get(p)
		f.without.Delete(p)
		back := slices.ContainsFunc(ways, func(w Way) bool { return w.Peer == of || w.Label == of })
		if back || !was && l.Of != of {
			continue
		}
		f.replaced, f.last = true, at
		f.due = at.Add(failoverWait)
		if f.without.Size() == 0 {
			f.due = at.Add(failoverQuiet)
		}
	}
}

// next is when the first one is over; zero if there is none.
func (s *failovers) next() time.Time {
	var first time.Time
	for _, f := range s.open {
		if first.IsZero() || f.due.Before(first) {
			first = f.due
		}
	}
	return first
}

// expire ends those that are over. One for which something is pending goes on.
func (s *failovers) expire(now time.Time, pending func(Loss) bool) (ended bool) {
	for of, f := range s.open {
		switch {
		case now.Before(f.due):
		case pending(f.loss):
			f.due = now.Add(failoverWait)
		default:
			s.end(of)
			ended = true
		}
	}
	return ended
}

// waits tells whether something is decided because of a loss and not acknowledged.
func (w *pending) waits(l Loss) bool {
	for _, x := range w.byPrefix {
		if x.cause.Loss.Of == l.Of && x.cause.Loss.happened() {
			return true
		}
	}
	return false
}
