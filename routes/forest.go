package routes

import (
	"hash/maphash"
	"iter"
	"net/netip"
	"slices"

	"github.com/gaissmai/bart"
)

// forest is a table by prefix for one owner, who asks about covering and covered prefixes, and publishes versions that
// others read and that never change. A persistent trie would do both, but copies whole nodes with all their leaves for
// each change (measured: 25 to 50 microseconds); the trie here is modified in place, and the versions are a hash tree
// in which a change copies little and in which only exact prefixes can be found.
type forest[V any] struct {
	live    *bart.Table[V] // the owner's
	version *version[V]
	// ours says that version was not published yet, and mids which of its parts were not.
	ours bool
	mids [versionRoot]bool
}

// Sizes of the hash tree: 32,768 leaves of a few entries each, whatever is in it.
const (
	versionRoot = 512
	versionMid  = 64
)

// version is a published state of a forest. Immutable.
type version[V any] struct {
	// seed is random: what neighbours announce cannot be made to collide.
	seed maphash.Seed
	root [versionRoot]*versionPart[V]
	size int
}

type versionPart[V any] [versionMid][]versionEntry[V]

type versionEntry[V any] struct {
	prefix netip.Prefix
	value  V
}

func newForest[V any]() *forest[V] {
	return &forest[V]{live: new(bart.Table[V]), version: &version[V]{seed: maphash.MakeSeed()}}
}

func (v *version[V]) place(p netip.Prefix) (root, mid int) {
	h := maphash.Comparable(v.seed, p)
	return int(h % versionRoot), int(h / versionRoot % versionMid)
}

// get returns the value of exactly this prefix.
func (v *version[V]) get(p netip.Prefix) (value V, ok bool) {
	if v.size == 0 {
		return value, false
	}
	r, m := v.place(p)
	if v.root[r] != nil {
		for _, e := range v.root[r][m] {
			if e.prefix == p {
				return e.value, true
			}
		}
	}
	return value, false
}

// all returns all entries in no order.
func (v *version[V]) all() iter.Seq2[netip.Prefix, V] {
	return func(yield func(netip.Prefix, V) bool) {
		for _, part := range v.root {
			if part == nil {
				continue
			}
			for _, leaf := range part {
				for _, e := range leaf {
					if !yield(e.prefix, e.value) {
						return
					}
				}
			}
		}
	}
}

// sorted returns all prefixes in order.
func (v *version[V]) sorted() []netip.Prefix {
	out := make([]netip.Prefix, 0, v.size)
	for p := range v.all() {
		out = append(out, p)
	}
	slices.SortFunc(out, netip.Prefix.Compare)
	return out
}

func (f *forest[V]) set(p netip.Prefix, value V) {
	f.live.Insert(p, value)
	leaf := f.leaf(p)
	i := slices.IndexFunc(*leaf, func(e versionEntry[V]) bool { return e.prefix == p })
	if i < 0 {
		*leaf = append(slices.Clip(*leaf), versionEntry[V]{p, value})
		f.version.size++
		return
	}
	*leaf = slices.Clone(*leaf)
	(*leaf)[i].value = value
}

func (f *forest[V]) remove(p netip.Prefix) {
	if _, ok := f.live.Get(p); !ok {
		return
	}
	f.live.Delete(p)
	leaf := f.leaf(p)
	*leaf = slices.DeleteFunc(slices.Clone(*leaf), func(e versionEntry[V]) bool { return e.prefix == p })
	f.version.size--
}

// leaf returns the prefix's leaf in a version of our own; the leaf itself may still be shared.
func (f *forest[V]) leaf(p netip.Prefix) *[]versionEntry[V] {
	if !f.ours {
		own := *f.version
		f.version, f.ours = &own, true
		clear(f.mids[:])
	}
	r, m := f.version.place(p)
	if !f.mids[r] {
		own := new(versionPart[V])
		if old := f.version.root[r]; old != nil {
			*own = *old
		}
		f.version.root[r], f.mids[r] = own, true
	}
	return &f.version.root[r][m]
}

// publish returns the present version, which from now on does not change.
func (f *forest[V]) publish() *version[V] {
	f.ours = false
	return f.version
}

// union returns the prefixes of both, each once, sorted.
func union[A, B any](a *version[A], b *bart.Table[B]) []netip.Prefix {
	out := a.sorted()
	n := len(out)
	for p := range b.AllSorted() {
		if _, both := a.get(p); !both {
			out = append(out, p)
		}
	}
	if len(out) > n && n > 0 {
		slices.SortFunc(out, netip.Prefix.Compare)
	}
	return out
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
