package routes

import (
	"maps"
	"slices"
)

// counting keeps Counts in step with the rows. Published maps are not modified: the first change copies them.
type counting struct {
	c                              *Counts
	ownRoutes, ownAllowed, ownRest bool
}

// move counts a row instead of the one before. Either may be nil.
func (k *counting) move(old, row *Row) {
	if old == nil {
		old = &Row{Prefix: row.Prefix, Decision: undecided}
	}
	k.scalars(old, -1)
	k.scalars(row, +1)
	if old.Decision == row.Decision {
		return
	}
	if !slices.Equal(old.Ways, row.Ways) || old.Source != row.Source || old.Discard != row.Discard {
		own(&k.c.Routes, &k.ownRoutes)
		k.routes(old, -1)
		k.routes(row, +1)
	}
	if !slices.Equal(old.Owners, row.Owners) {
		own(&k.c.AllowedIPs, &k.ownAllowed)
		k.owners(old, -1)
		k.owners(row, +1)
	}
	if !slices.Equal(old.conflicts, row.conflicts) {
		own(&k.c.Conflicts, &k.ownRest)
		for _, d := range old.conflicts {
			tally(k.c.Conflicts, d, -1)
		}
		for _, d := range row.conflicts {
			tally(k.c.Conflicts, d, +1)
		}
	}
}

func own[M ~map[K]V, K comparable, V any](m *M, done *bool) {
	if !*done {
		*m, *done = maps.Clone(*m), true
	}
}

func (k *counting) scalars(r *Row, n int) {
	f, c := FamilyOf(r.Prefix), k.c
	c.Paths[f] += n * len(r.paths)
	if len(r.paths) > 0 {
		c.Prefixes[f] += n
	}
	switch r.State {
	case Unresolved:
		c.Unresolved[f] += n
	case Refused:
		c.Refused[f] += n
	case Down:
		c.Down[f] += n
	case NoBest, Selected, Local:
	}
}

func (k *counting) routes(r *Row, n int) {
	f := FamilyOf(r.Prefix)
	for i, w := range r.Ways {
		if !slices.ContainsFunc(r.Ways[:i], func(x Way) bool { return x.Label == w.Label }) {
			tally(k.c.Routes, RouteKey{f, r.Source, w.Label}, n)
		}
	}
	if r.Discard {
		tally(k.c.Routes, RouteKey{f, Own, ""}, n)
	}
}

func (k *counting) owners(r *Row, n int) {
	for _, o := range r.Owners {
		tally(k.c.AllowedIPs, PeerFamily{o.Peer, FamilyOf(r.Prefix)}, n)
	}
}

// tally adds to a count and forgets it at zero.
func tally[K comparable](m map[K]int, k K, n int) {
	if m[k] += n; m[k] == 0 {
		delete(m, k)
	}
}
