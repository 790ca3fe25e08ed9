package routes

import "slices"

// share keeps one copy of what most rows have in common: the way to a peer, the peer as the only owner, the neighbour as the
// only member, and what is decided and installed. A million routes of one neighbour are a million rows that say the same.
//
// Owner: the Table or the Ledger that has it. What it hands out is never modified.
type share struct {
	ways   map[Way]sharedWay
	owners map[Owner][]Owner
	best   map[member][]member
	last   struct { // what was asked for last, and often is next
		known *known
		best  []member
	}
	held      map[heldIP][]heldIP
	decisions sharing[decisionKey, Decision]
	holdings  sharing[holdingKey, holding]
}

// sharing is what is shared by what says the same.
type sharing[K comparable, V any] struct {
	of map[K]*V
	// last are the ones asked for last, the newest first: the next is nearly always one of them.
	last [2]struct {
		key K
		v   *V
	}
}

type sharedWay struct {
	ways []Way
	hops []Hop
}

// mostShared bounds each map: next hops on a LAN may be many. Beyond it sharing begins anew.
const mostShared = 4096

// one returns the slice of only this element, the same one each time.
func one[E comparable](m *map[E][]E, e E) []E {
	if s, ok := (*m)[e]; ok {
		return s
	}
	if *m == nil || len(*m) >= mostShared {
		*m = make(map[E][]E)
	}
	s := []E{e}
	(*m)[e] = s
	return s
}

// member returns the set of only this member.
func (s *share) member(m member) []member {
	if l := s.last.best; len(l) != 1 || l[0] != m {
		s.last.best = one(&s.best, m)
	}
	return s.last.best
}

// known returns what a draft knows, for its row: that of the row before or of another prefix of the UPDATE, if it is the same.
func (s *share) known(d *draft) *known {
	if k := &d.known; d.old != nil && slices.Equal(k.paths, d.old.paths) && slices.Equal(k.best, d.old.best) {
		return d.old.known
	} else if l := s.last.known; l == nil || !slices.Equal(k.paths, l.paths) || !slices.Equal(k.best, l.best) {
		s.last.known = d.keep()
	}
	return s.last.known
}

// keep returns a copy of what is known, for good.
func (d *draft) keep() *known {
	if !d.ownPaths {
		own := d.known
		return &own
	}
	if len(d.known.paths) != 1 {
		return &known{slices.Clone(d.known.paths), d.known.best}
	}
	own := &struct {
		known
		path [1]rpath
	}{d.known, [1]rpath{d.known.paths[0]}}
	own.paths = own.path[:]
	return &own.known
}

// way returns the slices of only this way and its hop.
func (s *share) way(w Way) ([]Way, []Hop) {
	x, ok := s.ways[w]
	if !ok {
		if s.ways == nil || len(s.ways) >= mostShared {
			s.ways = make(map[Way]sharedWay)
		}
		x = sharedWay{[]Way{w}, []Hop{w.Hop}}
		s.ways[w] = x
	}
	return x.ways, x.hops
}

// decisionKey tells decisions with one way and one owner at most apart: their slices are shared, so that their places say
// what is in them.
type decisionKey struct {
	state   State
	reason  string
	source  Source
	discard bool
	way     *Way
	backup  *Way
	owner   *Owner
}

// decision returns a copy of d, the same one each time if it is a simple one.
func (s *share) decision(d *Decision) *Decision {
	if len(d.Ways) > 1 || len(d.Owners) > 1 || len(d.conflicts) > 0 {
		own := *d
		return &own
	}
	return s.decisions.one(decisionKey{d.State, d.Reason, d.Source, d.Discard, first(d.Ways), d.Backup, first(d.Owners)}, d)
}

// holdingKey is decisionKey for what is held.
type holdingKey struct {
	hops, backup   *Hop
	route, discard mark
	allowed        *heldIP
}

// holding returns a copy of h, the same one each time if it is a simple one.
func (s *share) holding(h *holding) *holding {
	if len(h.hops) > 1 || len(h.backup) > 1 || len(h.maybe) > 0 || len(h.allowed) > 1 || h.failure != nil {
		own := *h
		return &own
	}
	return s.holdings.one(holdingKey{first(h.hops), first(h.backup), h.route, h.discard, first(h.allowed)}, h)
}

// first returns the place of the first element; nil if there is none.
func first[E any](s []E) *E {
	if len(s) == 0 {
		return nil
	}
	return &s[0]
}

// one returns what there is for the key, or takes a copy of v in.
func (s *sharing[K, V]) one(k K, v *V) *V {
	for i := range s.last {
		if l := &s.last[i]; l.v != nil && l.key == k {
			return l.v
		}
	}
	have, ok := s.of[k]
	if !ok {
		if s.of == nil || len(s.of) >= mostShared {
			s.of = make(map[K]*V)
		}
		own := *v
		have = &own
		s.of[k] = have
	}
	s.last[1] = s.last[0]
	s.last[0].key, s.last[0].v = k, have
	return have
}
