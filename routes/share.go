package routes

// share keeps one copy of the small slices that most rows have in common: the way to a peer, the peer as the only owner,
// and the neighbour as the only member. A million routes of one neighbour are a million rows that say the same.
//
// Owner: the Table or the Ledger that has it. What it hands out is never modified.
type share struct {
	ways   map[Way]sharedWay
	owners map[Owner][]Owner
	best   map[member][]member
	held   map[heldIP][]heldIP
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
