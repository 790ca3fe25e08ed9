package routes

import (
	"maps"
	"slices"
)

// counting keeps Counts in step with the rows. Published maps are not modified: the first change copies them. Changes that
// are alike and follow each other are counted together: call flush at the end.
type counting struct {
	c                              *Counts
	ownRoutes, ownAllowed, ownRest bool

	from, to *Decision
	family   Family
	n        int
}

// move counts a row instead of the one before. Either may be nil.
func (k *counting) move(old, row *Row) {
	f, from := FamilyOf(row.Prefix), undecided
	if old != nil {
		from = old.Decision
		k.paths(f, old, -1)
	}
	k.paths(f, row, +1)
	if from == row.Decision {
		return
	}
	if k.from != from || k.to != row.Decision || k.family != f {
		k.flush()
		k.from, k.to, k.family = from, row.Decision, f
	}
	k.n++
}

// flush counts what was moved.
func (k *counting) flush() {
	if k.n == 0 {
		return
	}
	from, to, n := k.from, k.to, k.n
	k.n = 0
	k.state(from, -n)
	k.state(to, +n)
	if !slices.Equal(from.Ways, to.Ways) || from.Source != to.Source || from.Discard != to.Discard {
		own(&k.c.Routes, &k.ownRoutes)
		k.routes(from, -n)
		k.routes(to, +n)
	}
	if !slices.Equal(from.Owners, to.Owners) {
		own(&k.c.AllowedIPs, &k.ownAllowed)
		k.owners(from, -n)
		k.owners(to, +n)
	}
	if !slices.Equal(from.conflicts, to.conflicts) {
		own(&k.c.Conflicts, &k.ownRest)
		for _, d := range from.conflicts {
			tally(k.c.Conflicts, d, -n)
		}
		for _, d := range to.conflicts {
			tally(k.c.Conflicts, d, +n)
		}
	}
}

func own[M ~map[K]V, K comparable, V any](m *M, done *bool) {
	if !*done {
		*m, *done = maps.Clone(*m), true
	}
}

func (k *counting) paths(f Family, r *Row, n int) {
	k.c.Paths[f] += n * len(r.paths)
	if len(r.paths) > 0 {
		k.c.Prefixes[f] += n
	}
}

func (k *counting) state(d *Decision, n int) {
	switch d.State {
	case Unresolved:
		k.c.Unresolved[k.family] += n
	case Refused:
		k.c.Refused[k.family] += n
	case Down:
		k.c.Down[k.family] += n
	case NoBest, Selected, Local:
	}
}

func (k *counting) routes(d *Decision, n int) {
	for i, w := range d.Ways {
		if !slices.ContainsFunc(d.Ways[:i], func(x Way) bool { return x.Label == w.Label }) {
			tally(k.c.Routes, RouteKey{k.family, d.Source, w.Label}, n)
		}
	}
	if d.Discard {
		tally(k.c.Routes, RouteKey{k.family, Own, ""}, n)
	}
}

func (k *counting) owners(d *Decision, n int) {
	for _, o := range d.Owners {
		tally(k.c.AllowedIPs, PeerFamily{o.Peer, k.family}, n)
	}
}

// tally adds to a count and forgets it at zero.
func tally[K comparable](m map[K]int, k K, n int) {
	if m[k] += n; m[k] == 0 {
		delete(m, k)
	}
}
