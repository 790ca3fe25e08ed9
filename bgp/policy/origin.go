package policy

import (
	"fmt"
	"net/netip"
	"slices"
)

// Validity of a route's origin (RFC 6811 section 2).
type Validity uint8

// Values of Validity.
const (
	// NotFound: nothing says who may originate the prefix.
	NotFound Validity = iota
	// Valid: a payload covers the prefix, is meant for that length, and names the origin.
	Valid
	// Invalid: payloads cover the prefix, and none of them allows this origin or this length.
	Invalid
)

// DefaultTable is the table of payloads that a rule asks when it names none.
const DefaultTable = "default"

// maxTables bounds the tables that the rules of one policy ask: each costs a look-up for every route.
const maxTables = 4

// Validities lists them.
func Validities() []Validity { return []Validity{NotFound, Valid, Invalid} }

func (v Validity) String() string {
	switch v {
	case NotFound:
		return "not-found"
	case Valid:
		return "valid"
	case Invalid:
		return "invalid"
	}
	return fmt.Sprintf("Validity(%d)", v)
}

// MarshalText implements encoding.TextMarshaler.
func (v Validity) MarshalText() ([]byte, error) { return []byte(v.String()), nil }

// UnmarshalText implements encoding.TextUnmarshaler.
func (v *Validity) UnmarshalText(text []byte) error {
	for _, x := range Validities() {
		if x.String() == string(text) {
			*v = x
			return nil
		}
	}
	return fmt.Errorf("%q is not a validity: want valid, invalid or not-found", text)
}

// Origins answers who may originate what, from named tables of validated ROA payloads.
type Origins interface {
	// Validate judges an origin; NoOrigin matches no payload. It is false if there is no such table: nobody said where to
	// get it from, so that rules which ask it match nothing.
	Validate(table string, p netip.Prefix, origin uint32) (Validity, bool)
}

// NoOrigin stands for the origin of a path that has none: its last segment is a set (RFC 6811 section 2). AS 0 does as
// well, because no payload for it ever matches (RFC 6483 section 4).
const NoOrigin = 0

// Origin returns the AS that a received route comes from, for its validation.
func (r *Route) Origin(c *Context) uint32 {
	switch {
	case r.ASSet:
		return NoOrigin
	case len(r.ASPath) == 0:
		return c.LocalASN // of iBGP
	}
	return r.ASPath[len(r.ASPath)-1]
}

// RPKITables lists the tables that the import rules ask, sorted.
func (p *Policy) RPKITables() []string {
	if p == nil {
		return nil
	}
	var out []string
	for i := range p.Import {
		if t := p.Import[i].Match.Table(); t != "" && !slices.Contains(out, t) {
			out = append(out, t)
		}
	}
	slices.Sort(out)
	return out
}

// Table is the table that the match asks; empty if it does not ask for a validity.
func (m *Match) Table() string {
	switch {
	case len(m.RPKI) == 0:
		return ""
	case m.RPKITable == "":
		return DefaultTable
	}
	return m.RPKITable
}

// validity reports whether the match's condition on the origin holds for the route as it was received.
func (m *Match) validity(received *Route, c *Context) bool {
	table := m.Table()
	if table == "" {
		return true
	}
	if c.Origins == nil {
		return false
	}
	v, ok := c.Origins.Validate(table, received.Prefix, received.Origin(c))
	return ok && slices.Contains(m.RPKI, v)
}
