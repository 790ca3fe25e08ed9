package policy

import (
	"fmt"
	"net/netip"
	"strconv"
	"strings"
)

// Exactly matches only the prefix itself.
func Exactly(p netip.Prefix) PrefixRange { return PrefixRange{p, p.Bits(), p.Bits()} }

// OrLonger matches the prefix and everything within it.
func OrLonger(p netip.Prefix) PrefixRange { return PrefixRange{p, p.Bits(), p.Addr().BitLen()} }

// ParsePrefixRange reads "10.0.0.0/8", "10.0.0.0/8+" or "10.0.0.0/8{15,24}", the notation of BIRD.
func ParsePrefixRange(s string) (PrefixRange, error) {
	text, open := s, ""
	switch i := strings.IndexAny(s, "+{"); {
	case i < 0:
	case s[i:] == "+", s[i] == '{' && strings.HasSuffix(s, "}"):
		text, open = s[:i], s[i:]
	default:
		return PrefixRange{}, fmt.Errorf("%q is not a prefix range: want 10.0.0.0/8, 10.0.0.0/8+ or 10.0.0.0/8{15,24}", s)
	}
	p, err := netip.ParsePrefix(text)
	if err != nil || p.Addr().Is4In6() {
		return PrefixRange{}, fmt.Errorf("%q is not a prefix range: want 10.0.0.0/8, 10.0.0.0/8+ or 10.0.0.0/8{15,24}", s)
	}
	r := Exactly(p)
	switch {
	case open == "+":
		r = OrLonger(p)
	case open != "":
		low, high, ok := strings.Cut(open[1:len(open)-1], ",")
		r.Min, r.Max = length(low), length(high)
		if !ok || r.Min < 0 || r.Max < 0 {
			return PrefixRange{}, fmt.Errorf("%q: want two prefix lengths in the braces, as in 10.0.0.0/8{15,24}", s)
		}
	}
	return r, r.Validate()
}

// length reads a prefix length; -1 is no number.
func length(s string) int {
	n, err := strconv.ParseUint(strings.TrimSpace(s), 10, 8)
	if err != nil {
		return -1
	}
	return int(n)
}

// Validate finds host bits and impossible lengths.
func (r PrefixRange) Validate() error {
	switch p := r.Prefix; {
	case !p.IsValid():
		return fmt.Errorf("prefix range without a prefix")
	case p != p.Masked():
		return fmt.Errorf("%v has host bits set: did you mean %v?", p, p.Masked())
	case r.Min < p.Bits():
		return fmt.Errorf("%v: no prefix within %v is as short as /%d", r, p, r.Min)
	case r.Max < r.Min:
		return fmt.Errorf("%v: the smaller length comes first", r)
	case r.Max > p.Addr().BitLen():
		return fmt.Errorf("%v: the longest length is %d", r, p.Addr().BitLen())
	}
	return nil
}

// Contains reports whether the range matches p.
func (r PrefixRange) Contains(p netip.Prefix) bool {
	return p.Bits() >= r.Min && p.Bits() <= r.Max && r.Prefix.Contains(p.Addr())
}

func (r PrefixRange) String() string {
	switch {
	case r.Min == r.Prefix.Bits() && r.Max == r.Min:
		return r.Prefix.String()
	case r.Min == r.Prefix.Bits() && r.Max == r.Prefix.Addr().BitLen():
		return r.Prefix.String() + "+"
	}
	return fmt.Sprintf("%v{%d,%d}", r.Prefix, r.Min, r.Max)
}

// MarshalText implements encoding.TextMarshaler.
func (r PrefixRange) MarshalText() ([]byte, error) { return []byte(r.String()), nil }

// UnmarshalText implements encoding.TextUnmarshaler.
func (r *PrefixRange) UnmarshalText(text []byte) error {
	p, err := ParsePrefixRange(string(text))
	if err == nil {
		*r = p
	}
	return err
}

// prefixSet is a compiled list of ranges. A look-up costs one map access for each prefix length that occurs in the
// list, however many ranges there are.
type prefixSet struct {
	lengths [2][]int // of the ranges' prefixes, by family, ascending
	ranges  map[netip.Prefix][]span
}

// span is a range of prefix lengths, both included.
type span struct{ min, max uint8 }

func newPrefixSet(list []PrefixRange) *prefixSet {
	s := &prefixSet{ranges: make(map[netip.Prefix][]span, len(list))}
	var seen [2][129]bool
	for _, r := range list {
		seen[family(r.Prefix)][r.Prefix.Bits()] = true
		s.ranges[r.Prefix] = append(s.ranges[r.Prefix], span{uint8(r.Min), uint8(r.Max)})
	}
	for f := range seen {
		for bits, ok := range seen[f] {
			if ok {
				s.lengths[f] = append(s.lengths[f], bits)
			}
		}
	}
	return s
}

func family(p netip.Prefix) int {
	if p.Addr().Is4() {
		return 0
	}
	return 1
}

func (s *prefixSet) contains(p netip.Prefix) bool {
	n := p.Bits()
	for _, bits := range s.lengths[family(p)] {
		if bits > n {
			return false
		}
		outer, err := p.Addr().Prefix(bits)
		if err != nil {
			return false
		}
		for _, r := range s.ranges[outer] {
			if n >= int(r.min) && n <= int(r.max) {
				return true
			}
		}
	}
	return false
}
