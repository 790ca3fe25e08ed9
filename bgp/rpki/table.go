package rpki

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"sort"

	"sitewire/bgp/policy"
)

// MaxVRPs bounds the payloads of one source: three times what all of the Internet's registries had in 2026.
const MaxVRPs = 2_000_000

// VRP is a validated ROA payload: ASN may originate Prefix and what lies within it, up to MaxLength.
type VRP struct {
	Prefix    netip.Prefix
	ASN       uint32
	MaxLength uint8
}

// NewVRP checks the parts of a payload (RFC 6482 section 3.3): no host bits, and a maximum length that the prefix can have.
func NewVRP(p netip.Prefix, maxLength int, asn uint32) (VRP, error) {
	switch {
	case !p.IsValid() || p.Addr().Is4In6() || p != p.Masked():
		return VRP{}, fmt.Errorf("%v is not a prefix without host bits", p)
	case maxLength < p.Bits() || maxLength > p.Addr().BitLen():
		return VRP{}, fmt.Errorf("%v: maximum length %d is not between %d and %d", p, maxLength, p.Bits(), p.Addr().BitLen())
	}
	return VRP{Prefix: p, ASN: asn, MaxLength: uint8(maxLength)}, nil
}

func (v VRP) String() string { return fmt.Sprintf("%v max %d AS%d", v.Prefix, v.MaxLength, v.ASN) }

// compareVRPs puts payloads of one family and prefix length together, by address: a look-up searches within each length.
func compareVRPs(a, b VRP) int {
	x, y := a.Prefix, b.Prefix
	if c := cmp.Compare(family(x), family(y)); c != 0 {
		return c
	}
	if c := cmp.Compare(x.Bits(), y.Bits()); c != 0 {
		return c
	}
	if c := x.Addr().Compare(y.Addr()); c != 0 {
		return c
	}
	return cmp.Or(cmp.Compare(a.ASN, b.ASN), cmp.Compare(a.MaxLength, b.MaxLength))
}

// Table is a set of payloads. Immutable. A look-up costs a binary search for each prefix length that occurs in it.
type Table struct {
	vrps    []VRP       // sorted, without repetitions
	lengths [2][]length // of their prefixes by family, ascending
}

// length is the part of a table whose prefixes are of one length.
type length struct {
	bits int
	vrps []VRP
}

// TableOf makes a table of payloads in any order.
func TableOf(list ...VRP) *Table { return NewTable(sorted(slices.Clone(list))) }

// NewTable makes a table of sorted lists, which it may keep.
func NewTable(sorted ...[]VRP) *Table {
	t := &Table{}
	for _, list := range sorted {
		switch {
		case len(t.vrps) == 0:
			t.vrps = list
		case len(list) > 0:
			t.vrps = slices.Concat(t.vrps, list)
			slices.SortFunc(t.vrps, compareVRPs)
			t.vrps = slices.Compact(t.vrps)
		}
	}
	for rest := t.vrps; len(rest) > 0; {
		f, bits := family(rest[0].Prefix), rest[0].Prefix.Bits()
		n := sort.Search(len(rest), func(i int) bool { return family(rest[i].Prefix) != f || rest[i].Prefix.Bits() != bits })
		t.lengths[f] = append(t.lengths[f], length{bits, rest[:n]})
		rest = rest[n:]
	}
	return t
}

// Len is the number of payloads.
func (t *Table) Len() int { return len(t.vrps) }

func family(p netip.Prefix) int {
	if p.Addr().Is4() {
		return 0
	}
	return 1
}

// Covering lists the payloads whose prefix contains p, short ones first: what decides on p.
func (t *Table) Covering(p netip.Prefix) []VRP {
	var out []VRP
	t.covering(p, func(v VRP) bool { out = append(out, v); return true })
	return out
}

// covering hands them to f until it returns false.
func (t *Table) covering(p netip.Prefix, f func(VRP) bool) {
	for _, l := range t.lengths[family(p)] {
		if l.bits > p.Bits() {
			return
		}
		outer := netip.PrefixFrom(p.Addr(), l.bits).Masked().Addr()
		i := sort.Search(len(l.vrps), func(i int) bool { return !l.vrps[i].Prefix.Addr().Less(outer) })
		for ; i < len(l.vrps) && l.vrps[i].Prefix.Addr() == outer; i++ {
			if !f(l.vrps[i]) {
				return
			}
		}
	}
}

// Covers reports whether a payload's prefix contains p.
func (t *Table) Covers(p netip.Prefix) (found bool) {
	t.covering(p, func(VRP) bool { found = true; return false })
	return found
}

// Validate judges the origin of a route (RFC 6811 section 2.1). A payload for AS 0 covers and never matches.
func (t *Table) Validate(p netip.Prefix, origin uint32) policy.Validity {
	out := policy.NotFound
	t.covering(p, func(v VRP) bool {
		out = policy.Invalid
		if v.ASN == origin && origin != policy.NoOrigin && p.Bits() <= int(v.MaxLength) {
			out = policy.Valid
		}
		return out != policy.Valid
	})
	return out
}

// difference is a table of the payloads that are in one of two sorted lists and not in the other.
func difference(a, b []VRP) *Table {
	var out []VRP
	for len(a) > 0 || len(b) > 0 {
		switch {
		case len(b) == 0 || len(a) > 0 && compareVRPs(a[0], b[0]) < 0:
			out, a = append(out, a[0]), a[1:]
		case len(a) == 0 || compareVRPs(a[0], b[0]) > 0:
			out, b = append(out, b[0]), b[1:]
		default:
			a, b = a[1:], b[1:]
		}
	}
	return NewTable(out)
}

// Set holds the tables by name. Immutable; nil has none.
type Set struct{ tables map[string]*Table }

// NewSet makes a set of tables.
func NewSet(tables map[string]*Table) *Set { return &Set{tables} }

// Table returns a table by name; nil if nothing was configured to fill it.
func (s *Set) Table(name string) *Table {
	if s == nil {
		return nil
	}
	return s.tables[name]
}

// Validate implements policy.Origins.
func (s *Set) Validate(table string, p netip.Prefix, origin uint32) (policy.Validity, bool) {
	t := s.Table(table)
	if t == nil {
		return policy.NotFound, false
	}
	return t.Validate(p, origin), true
}

// Changes tells which prefixes may be judged differently by another set, in any of these tables.
func (s *Set) Changes(other *Set, tables []string) func(netip.Prefix) bool {
	var changed []*Table
	for _, name := range tables {
		a, b := s.Table(name), other.Table(name)
		if (a == nil) != (b == nil) {
			return func(netip.Prefix) bool { return true }
		}
		if a != b {
			changed = append(changed, difference(a.vrps, b.vrps))
		}
	}
	return func(p netip.Prefix) bool {
		return slices.ContainsFunc(changed, func(t *Table) bool { return t.Covers(p) })
	}
}
