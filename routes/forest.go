package routes

import (
	"encoding/binary"
	"iter"
	"math/bits"
	"math/rand/v2"
	"net/netip"
	"slices"
	"sync"
)

// forest is a table by prefix for one owner, who publishes versions that others read and that never change. A persistent
// trie copies whole nodes with all their leaves for each change (measured: 25 to 50 microseconds); the versions here are a
// hash tree that grows with what is in it, in which a change copies little and in which only exact prefixes can be found.
//
// What is published and never looked at is never copied: see later.
type forest[V keyed] struct {
	// mu is held while the owner changes something, and by those who want a version. The owner reads without it.
	mu      sync.Mutex
	version *version[V] // the newest
	// ours says that version was not published yet. Parts of it are ours if they are of this epoch.
	ours  bool
	epoch uint64
}

// Sizes of the hash tree. The root doubles when leaves hold more than leafSize entries on average.
const (
	versionRoot = 256 // at first
	versionMid  = 16
	leafSize    = 4
)

// version is a published state of a forest. Immutable.
type version[V keyed] struct {
	// seed is random: what neighbours announce cannot be made to collide.
	seed [2]uint64
	// root has a power of two of parts. One that has not been written to since the root was doubled is there twice.
	root []*versionPart[V]
	size int
}

// versionPart holds the entries whose hash ends in the number of its first place in the root.
type versionPart[V keyed] struct {
	leaves [versionMid][]V
	span   int // number of places in the root when the part was made: a place and all that are span apart share it
	// The rest is for the owner: when the part was made, and which leaves are not shared with earlier versions.
	epoch uint64
	own   uint16
}

// keyed is what a forest has for a prefix: it says for which.
type keyed interface{ key() netip.Prefix }

func newForest[V keyed]() *forest[V] {
	seed := [2]uint64{rand.Uint64(), rand.Uint64()}
	return &forest[V]{version: &version[V]{seed: seed, root: make([]*versionPart[V], versionRoot)}}
}

func (v *version[V]) place(p netip.Prefix) (root, mid int) {
	h := v.hash(p)
	return int(h / versionMid % uint64(len(v.root))), int(h % versionMid)
}

// hash multiplies the halves of a prefix, and what comes out of that, with secret numbers.
func (v *version[V]) hash(p netip.Prefix) uint64 {
	var high, low uint64
	if p.Addr().Is4() {
		a := p.Addr().As4()
		low = uint64(binary.BigEndian.Uint32(a[:]))
	} else {
		a := p.Addr().As16()
		high, low = binary.BigEndian.Uint64(a[:8]), binary.BigEndian.Uint64(a[8:])
	}
	h, l := bits.Mul64(high^v.seed[0], low^v.seed[1])
	h, l = bits.Mul64(h^l^uint64(p.Bits())^v.seed[1], v.seed[0]|1)
	return h ^ l
}

// get returns the value of exactly this prefix.
func (v *version[V]) get(p netip.Prefix) (value V, ok bool) {
	if v.size == 0 {
		return value, false
	}
	r, m := v.place(p)
	if v.root[r] != nil {
		for _, e := range v.root[r].leaves[m] {
			if e.key() == p {
				return e, true
			}
		}
	}
	return value, false
}

// all returns all entries in no order.
func (v *version[V]) all() iter.Seq2[netip.Prefix, V] {
	return func(yield func(netip.Prefix, V) bool) {
		for r, part := range v.root {
			if part == nil || r >= part.span {
				continue
			}
			for _, leaf := range part.leaves {
				for _, e := range leaf {
					if !yield(e.key(), e) {
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
	f.mu.Lock()
	defer f.mu.Unlock()
	leaf := f.leaf(p)
	for i, e := range *leaf {
		if e.key() == p {
			(*leaf)[i] = value
			return
		}
	}
	*leaf = append(*leaf, value)
	f.version.size++
}

// add is set for a prefix that is known not to be there: it looks at none that are.
func (f *forest[V]) add(p netip.Prefix, value V) {
	f.mu.Lock()
	defer f.mu.Unlock()
	leaf := f.leaf(p)
	*leaf = append(*leaf, value)
	f.version.size++
}

func (f *forest[V]) remove(p netip.Prefix) {
	if _, ok := f.version.get(p); !ok {
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	leaf := f.leaf(p)
	*leaf = slices.DeleteFunc(*leaf, func(e V) bool { return e.key() == p })
	f.version.size--
}

// leaf returns the prefix's leaf in a version of our own, to be modified in place.
func (f *forest[V]) leaf(p netip.Prefix) *[]V {
	if !f.ours {
		own := *f.version
		own.root = slices.Clone(own.root)
		f.version, f.ours = &own, true
		f.epoch++
	}
	v := f.version
	if v.size >= leafSize*versionMid*len(v.root) {
		v.root = slices.Concat(v.root, v.root)
	}
	r, m := v.place(p)
	part := f.part(r)
	if part.own&(1<<m) == 0 {
		part.own |= 1 << m
		room := len(part.leaves[m]) + 1
		if room == 1 {
			room = leafSize // a table that comes in fills it
		}
		part.leaves[m] = append(make([]V, 0, room), part.leaves[m]...)
	}
	return &part.leaves[m]
}

// part returns the part of a place in the root, made for this version, with what belongs to that place alone.
func (f *forest[V]) part(r int) *versionPart[V] {
	v := f.version
	old := v.root[r]
	if old != nil && old.epoch == f.epoch && old.span == len(v.root) {
		return old
	}
	span := len(v.root)
	switch {
	case old == nil:
		v.root[r] = &versionPart[V]{span: span, epoch: f.epoch}
	case old.span == span:
		own := *old
		own.epoch, own.own = f.epoch, 0
		v.root[r] = &own
	default: // the root was doubled since
		for at := r % old.span; at < span; at += old.span {
			v.root[at] = &versionPart[V]{span: span, epoch: f.epoch, own: ^uint16(0)}
		}
		for m, leaf := range old.leaves {
			for _, e := range leaf {
				at, _ := v.place(e.key())
				own := &v.root[at].leaves[m]
				if *own == nil {
					*own = make([]V, 0, leafSize)
				}
				*own = append(*own, e)
			}
		}
	}
	return v.root[r]
}

// amend makes a change to what was set in an epoch, if that is in no version yet that others read, and tells whether it did.
func (f *forest[V]) amend(epoch uint64, change func()) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if !f.ours || f.epoch != epoch {
		return false
	}
	change()
	return true
}

// publish returns the present version, which from now on does not change. Anybody may call it.
func (f *forest[V]) publish() *version[V] {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.ours = false
	return f.version
}

// published is a version of a forest for those who may look at it.
type published[V keyed] struct {
	once sync.Once
	of   *forest[V]
	v    *version[V]
}

// now is the present version.
func (f *forest[V]) now() *published[V] { return &published[V]{v: f.publish()} }

// later is the version that is the present one when somebody looks for the first time. While a table comes in, a version for
// each batch would have nearly all of the tree copied again and again, and nobody looks.
func (f *forest[V]) later() *published[V] { return &published[V]{of: f} }

// get returns the version, the same one each time. Anybody may call it.
func (p *published[V]) get() *version[V] {
	p.once.Do(func() {
		if p.of != nil {
			p.v, p.of = p.of.publish(), nil
		}
	})
	return p.v
}

// union returns the prefixes of both, each once, sorted.
func union[A, B keyed](a *version[A], b *version[B]) []netip.Prefix {
	out := a.sorted()
	n := len(out)
	for p := range b.all() {
		if _, both := a.get(p); !both {
			out = append(out, p)
		}
	}
	if len(out) > n {
		slices.SortFunc(out, netip.Prefix.Compare)
	}
	return out
}

// merge joins two sorted lists of prefixes, each prefix once in either.
func merge(a, b []netip.Prefix) []netip.Prefix {
	if len(b) == 0 {
		return a
	}
	out := make([]netip.Prefix, 0, len(a)+len(b))
	for len(a) > 0 && len(b) > 0 {
		switch c := a[0].Compare(b[0]); {
		case c < 0:
			out, a = append(out, a[0]), a[1:]
		case c > 0:
			out, b = append(out, b[0]), b[1:]
		default:
			out, a, b = append(out, a[0]), a[1:], b[1:]
		}
	}
	return append(append(out, a...), b...)
}
