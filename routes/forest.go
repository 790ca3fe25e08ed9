package routes

import (
	"net/netip"
	"slices"

	"github.com/gaissmai/bart"
)

// forest is a prefix table whose published versions never change. A small change copies the few nodes that it touches;
// a big one copies all of them once and then works in place, which is several times cheaper for each prefix.
type forest[V any] struct {
	t       *bart.Table[V]
	private bool // t was not published yet: it may be modified
}

func newForest[V any]() forest[V] { return forest[V]{t: new(bart.Table[V])} }

// expect prepares for n changes.
func (f *forest[V]) expect(n int) {
	if !f.private && n > 64 && n > f.t.Size()/8 {
		f.t, f.private = f.t.Clone(), true
	}
}

func (f *forest[V]) set(p netip.Prefix, v V) {
	if f.private {
		f.t.Insert(p, v)
		return
	}
	f.t = f.t.InsertPersist(p, v)
}

func (f *forest[V]) remove(p netip.Prefix) {
	if f.private {
		f.t.Delete(p)
		return
	}
	f.t = f.t.DeletePersist(p)
}

// publish returns the present version, which from now on does not change.
func (f *forest[V]) publish() *bart.Table[V] {
	f.private = false
	return f.t
}

// merge joins two sorted lists of prefixes.
func merge(a, b []netip.Prefix) []netip.Prefix {
	if len(b) == 0 {
		return a
	}
	out := slices.Concat(a, b)
	slices.SortFunc(out, netip.Prefix.Compare)
	return slices.Compact(out)
}
