// Package prefixmap is a map by prefix for tables of a million.
//
// Job: hold values by netip.Prefix in a third of the room, and with keys that garbage collection does not look at.
// Owner: whoever made the Map; no locks.
// Invariants: a key is the prefix exactly, masked or not; IPv4-mapped IPv6 prefixes are IPv6, and zones have no place.
//
// A netip.Prefix has 32 bytes and a pointer. A key here has 4 bytes (IPv4, a map for each length) or 24 (IPv6) and none: a map
// whose values have no pointers either is skipped by collections.
package prefixmap

import (
	"encoding/binary"
	"iter"
	"net/netip"
)

// Map is a map by prefix. The zero value is empty and ready.
type Map[V any] struct {
	four *[33]map[uint32]V // by length
	six  map[key6]V
}

type key6 struct {
	high, low uint64
	bits      uint8
}

func fourOf(p netip.Prefix) uint32 {
	a := p.Addr().As4()
	return binary.BigEndian.Uint32(a[:])
}

func sixOf(p netip.Prefix) key6 {
	a := p.Addr().As16()
	return key6{binary.BigEndian.Uint64(a[:8]), binary.BigEndian.Uint64(a[8:]), uint8(p.Bits())}
}

func prefix4(k uint32, bits int) netip.Prefix {
	var a [4]byte
	binary.BigEndian.PutUint32(a[:], k)
	return netip.PrefixFrom(netip.AddrFrom4(a), bits)
}

func prefix6(k key6) netip.Prefix {
	var a [16]byte
	binary.BigEndian.PutUint64(a[:8], k.high)
	binary.BigEndian.PutUint64(a[8:], k.low)
	return netip.PrefixFrom(netip.AddrFrom16(a), int(k.bits))
}

// Get returns the value of exactly this prefix.
func (m *Map[V]) Get(p netip.Prefix) (v V, ok bool) {
	if !p.Addr().Is4() {
		v, ok = m.six[sixOf(p)]
	} else if m.four != nil {
		v, ok = m.four[p.Bits()][fourOf(p)]
	}
	return v, ok
}

// Set stores a value. The prefix must be valid.
func (m *Map[V]) Set(p netip.Prefix, v V) {
	if p.Addr().Is4() {
		if m.four == nil {
			m.four = new([33]map[uint32]V)
		}
		of := &m.four[p.Bits()]
		if *of == nil {
			*of = map[uint32]V{}
		}
		(*of)[fourOf(p)] = v
		return
	}
	if m.six == nil {
		m.six = map[key6]V{}
	}
	m.six[sixOf(p)] = v
}

// Delete removes a prefix that may be there.
func (m *Map[V]) Delete(p netip.Prefix) {
	if !p.Addr().Is4() {
		delete(m.six, sixOf(p))
	} else if m.four != nil {
		delete(m.four[p.Bits()], fourOf(p))
	}
}

// Len is the number of prefixes.
func (m *Map[V]) Len() int {
	n := len(m.six)
	if m.four != nil {
		for _, of := range m.four {
			n += len(of)
		}
	}
	return n
}

// Clear removes all. The room stays.
func (m *Map[V]) Clear() {
	if m.four != nil {
		for _, of := range m.four {
			clear(of)
		}
	}
	clear(m.six)
}

// All returns all prefixes and values, in no order. The map may be changed meanwhile, as a range over a map allows.
func (m *Map[V]) All() iter.Seq2[netip.Prefix, V] {
	return func(yield func(netip.Prefix, V) bool) {
		if m.four != nil {
			for bits, of := range m.four {
				for k, v := range of {
					if !yield(prefix4(k, bits), v) {
						return
					}
				}
			}
		}
		for k, v := range m.six {
			if !yield(prefix6(k), v) {
				return
			}
		}
	}
}
