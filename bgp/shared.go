package bgp

import (
	"iter"
	"net/netip"

	"sitewire/routes/prefixmap"
)

// shared holds values by prefix, for tables of a million. Prefixes that are set one after the other to the same value share
// it, as those of an UPDATE do: of a prefix there is only a number, which collections do not look at. The zero value is
// empty and ready.
type shared[V comparable] struct {
	numbers prefixmap.Map[uint32]
	slots   []slot[V] // by number; the first is for what is not there
	free    []uint32
	last    uint32 // set last; it may be free again
}

type slot[V comparable] struct {
	value V
	uses  uint32 // prefixes with this value
}

func (s *shared[V]) len() int { return s.numbers.Len() }

// find returns the number of a prefix's value; 0 if it has none.
func (s *shared[V]) find(p netip.Prefix) uint32 {
	i, _ := s.numbers.Get(p)
	return i
}

// value returns the one with this number; that of 0 is the zero value.
func (s *shared[V]) value(i uint32) V {
	if i == 0 {
		var none V
		return none
	}
	return s.slots[i].value
}

func (s *shared[V]) get(p netip.Prefix) (V, bool) {
	i := s.find(p)
	return s.value(i), i != 0
}

// replace sets the value of a prefix that has the one with number was.
func (s *shared[V]) replace(p netip.Prefix, was uint32, v V) {
	if was != 0 && s.slots[was].value == v {
		return
	}
	s.numbers.Set(p, s.number(v))
	s.release(was)
}

// remove takes away the value of a prefix, which has this number.
func (s *shared[V]) remove(p netip.Prefix, was uint32) {
	if was != 0 {
		s.numbers.Delete(p)
		s.release(was)
	}
}

// number finds a place for one more use of a value.
func (s *shared[V]) number(v V) uint32 {
	if s.slots == nil {
		s.slots = make([]slot[V], 1)
	}
	if have := &s.slots[s.last]; s.last == 0 || have.uses == 0 || have.value != v {
		if n := len(s.free); n > 0 {
			s.last, s.free = s.free[n-1], s.free[:n-1]
		} else {
			s.last = uint32(len(s.slots))
			s.slots = append(s.slots, slot[V]{})
		}
		s.slots[s.last].value = v
	}
	s.slots[s.last].uses++
	return s.last
}

func (s *shared[V]) release(i uint32) {
	if i == 0 {
		return
	}
	if s.slots[i].uses--; s.slots[i].uses == 0 {
		s.slots[i] = slot[V]{}
		s.free = append(s.free, i)
	}
}

// all returns the prefixes and their values, in no order. They may be changed meanwhile.
func (s *shared[V]) all() iter.Seq2[netip.Prefix, V] {
	return func(yield func(netip.Prefix, V) bool) {
		for p, i := range s.numbers.All() {
			if !yield(p, s.slots[i].value) {
				return
			}
		}
	}
}
