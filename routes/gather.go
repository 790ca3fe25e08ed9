package routes

import (
	"iter"
	"net/netip"

	"sitewire/routes/prefixmap"
)

// gathered has a T for each of some prefixes, in the order in which they came. The places of what is in it do not change, and its
// room is used again.
type gathered[T any] struct {
	at     prefixmap.Map[int32]
	blocks []*[gatheredBlock]T
	n      int
}

const (
	gatheredBlock = 64
	// gatheredLittle is for how many prefixes room is kept in any case.
	gatheredLittle = 1 << 11
)

func (g *gathered[T]) nth(i int) *T { return &g.blocks[i/gatheredBlock][i%gatheredBlock] }

// get returns what there is for a prefix; nil if there is nothing.
func (g *gathered[T]) get(p netip.Prefix) *T {
	if i, ok := g.at.Get(p); ok {
		return g.nth(int(i))
	}
	return nil
}

// add makes a place for a prefix that has none. It is zero.
func (g *gathered[T]) add(p netip.Prefix) *T {
	if g.n == len(g.blocks)*gatheredBlock {
		g.blocks = append(g.blocks, new([gatheredBlock]T))
	}
	g.at.Set(p, int32(g.n))
	g.n++
	return g.nth(g.n - 1)
}

// all returns everything in order, also what is added meanwhile.
func (g *gathered[T]) all() iter.Seq[*T] {
	return func(yield func(*T) bool) {
		for i := 0; i < g.n; i++ {
			if !yield(g.nth(i)) {
				return
			}
		}
	}
}

// clear removes everything. The room stays unless it is much more than was needed.
func (g *gathered[T]) clear() {
	if room := len(g.blocks) * gatheredBlock; room > gatheredLittle && !(room <= mostKept && g.n >= room/8) {
		*g = gathered[T]{}
		return
	}
	for i := 0; i < g.n; i += gatheredBlock {
		clear(g.blocks[i/gatheredBlock][:])
	}
	g.at.Clear()
	g.n = 0
}
