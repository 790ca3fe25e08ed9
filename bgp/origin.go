package bgp

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"github.com/osrg/gobgp/v4/api"

	"sitewire/bgp/policy"
	"sitewire/bgp/rpki"
	"sitewire/routes"
)

// Origin validation is ours: GoBGP has one table of payloads, fed by its own RTR client, and rules may ask several. We
// validate what a neighbour sends, and tell GoBGP the outcome as sets of prefixes of that neighbour, as we do with single
// refusals: a statement notes the outcome on the route, and rules ask for the note. Until GoBGP has been told, a route
// counts as not-found there; the feed knows better from the first moment on.

// tagKind names one of the sets of prefixes of a neighbour: those that table judges so.
type tagKind struct {
	table    string
	validity policy.Validity
}

// disputed is the set of prefixes that neighbours with the same link-local address on two devices announce with different
// validities: GoBGP cannot tell the two apart, and takes neither.
var disputed = tagKind{table: "/disputed"}

func (k tagKind) String() string { return fmt.Sprintf("%v-%s", k.validity, k.table) }

// verdicts are the validities of a path in up to four tables, in the order of its neighbour's; two bits each: 0 is that
// there is no such table.
type verdicts uint8

func (v verdicts) of(i int) (policy.Validity, bool) {
	n := v >> (2 * i) & 3
	return policy.Validity(max(n, 1) - 1), n != 0
}

// validate judges the origin of a path in the tables that its neighbour's policy asks.
func (n *neighbour) validate(p netip.Prefix, from *received) verdicts {
	if len(n.tables) == 0 || n.context.Origins == nil {
		return 0
	}
	r := from.route(p, netip.Addr{}, "")
	origin := r.Origin(&n.context)
	var out verdicts
	for i, t := range n.tables {
		if v, ok := n.context.Origins.Validate(t, p, origin); ok {
			out |= verdicts(v+1) << (2 * i)
		}
	}
	return out
}

// origins returns the set for policies; a nil *rpki.Set in the interface would not be nil.
func origins(s *rpki.Set) policy.Origins {
	if s == nil {
		return nil
	}
	return s
}

// outcomes returns which validities in which tables a policy's rules tell apart: of each table valid, invalid, or both.
func outcomes(p *policy.Policy) map[tagKind]bool {
	out := map[tagKind]bool{}
	if p == nil {
		return out
	}
	for i := range p.Import {
		m := &p.Import[i].Match
		for _, v := range m.RPKI {
			if v != policy.Invalid { // not-found is neither
				out[tagKind{m.Table(), policy.Valid}] = true
			}
			if v != policy.Valid {
				out[tagKind{m.Table(), policy.Invalid}] = true
			}
		}
	}
	return out
}

// tag puts the prefix into the sets that its path belongs to, and takes it out of the others. gone says that there is no
// path any more. An invalid origin stays noted then, so that one which comes and goes is not taken for a moment each time.
func (v *view) tag(n *neighbour, f routes.Family, p netip.Prefix, now verdicts, dispute, gone bool) {
	const remembered = 1000 // beyond the paths that are there
	t := &n.in[f]
	for kind := range n.kinds {
		i := slices.Index(n.tables, kind.table)
		validity, ok := now.of(i)
		on := ok && validity == kind.validity && !gone
		if gone && kind.validity == policy.Invalid && len(n.siblings) == 0 && len(t.tagged[kind]) < t.entries.len()+remembered {
			continue
		}
		v.setTag(n, f, p, kind, on)
	}
	v.setTag(n, f, p, disputed, dispute && !gone)
}

func (v *view) setTag(n *neighbour, f routes.Family, p netip.Prefix, kind tagKind, on bool) {
	t := &n.in[f]
	if _, is := t.tagged[kind][p]; is == on {
		return
	}
	if on {
		if t.tagged == nil {
			t.tagged = map[tagKind]map[netip.Prefix]struct{}{}
		}
		if t.tagged[kind] == nil {
			t.tagged[kind] = map[netip.Prefix]struct{}{}
		}
		t.tagged[kind][p] = struct{}{}
		if !n.everTagged[kind] {
			if n.everTagged == nil {
				n.everTagged = map[tagKind]bool{}
			}
			n.everTagged[kind], v.recompile = true, true
		}
	} else {
		delete(t.tagged[kind], p)
	}
	v.refused[refusal{n.bare, p, kind}] = struct{}{}
	v.wake()
}

// forgetTags drops what tag remembers of paths that are gone: a new configuration or new payloads may judge otherwise.
// Sets that no rule asks for any more go too.
func (v *view) forgetTags(n *neighbour) {
	for f := range n.in {
		t := &n.in[f]
		for kind, set := range t.tagged {
			for p := range set {
				if t.entries.find(p) == 0 || kind != disputed && !n.kinds[kind] {
					v.setTag(n, routes.Family(f), p, kind, false)
				}
			}
		}
	}
}

// disputes reports whether a neighbour with the same address announces the prefix with another validity.
func (n *neighbour) disputes(f routes.Family, p netip.Prefix, mine verdicts) bool {
	return slices.ContainsFunc(n.siblings, func(s *neighbour) bool {
		e, ok := s.in[f].entries.get(p)
		return ok && e.verdicts != mine
	})
}

// rejudgeSiblings has neighbours with the same address look at the dispute again.
func (v *view) rejudgeSiblings(n *neighbour, f routes.Family, p netip.Prefix) {
	for _, s := range n.siblings {
		if e, ok := s.in[f].entries.get(p); ok {
			v.put(s, f, p, e)
		}
	}
}

// revalidate judges again what new payloads touch. The neighbour's context has them already.
func (v *view) revalidate(n *neighbour, touched func(netip.Prefix) bool) {
	for f := range n.in {
		t := &n.in[f]
		var list []netip.Prefix
		for p, e := range t.entries.all() {
			if touched(p) && n.validate(p, e.from) != e.verdicts {
				list = append(list, p)
			}
		}
		slices.SortFunc(list, netip.Prefix.Compare)
		for _, p := range list {
			e, _ := t.entries.get(p)
			v.put(n, routes.Family(f), p, e)
		}
	}
}

// originNote is the community that notes an outcome of one of the tables on a route inside GoBGP.
func (c *compiler) originNote(kind tagKind) uint32 {
	i := slices.Index(c.tables, kind.table)
	return uint32(markOrigin + i*len(policy.Validities()) + int(kind.validity))
}

// useTables numbers the tables that rules ask and that somebody fills.
func (c *compiler) useTables(members []member) {
	for _, m := range members {
		for _, t := range m.policy.RPKITables() {
			if m.origins.Table(t) != nil && !slices.Contains(c.tables, t) {
				c.tables = append(c.tables, t)
			}
		}
	}
	slices.Sort(c.tables)
	if len(c.tables) > maxOriginTables {
		c.errs = append(c.errs, fmt.Errorf("policies ask %d tables of rpki: at most %d", len(c.tables), maxOriginTables))
		c.tables = c.tables[:maxOriginTables]
	}
}

// origins appends the statements that note validities on what comes in.
func (c *compiler) origins(members []member) {
	for _, m := range members {
		kinds := slices.SortedFunc(maps.Keys(m.tagged), func(a, b tagKind) int { return strings.Compare(a.String(), b.String()) })
		for _, kind := range kinds {
			if kind != disputed && !slices.Contains(c.tables, kind.table) {
				continue
			}
			act := reject()
			if kind != disputed {
				act = &api.Actions{Community: addition(standard(c.originNote(kind)))}
			}
			for f := range families {
				set := setOf(refusal{address: m.address, kind: kind}, routes.Family(f), m.tagged[kind])
				c.addSet(set)
				c.add(in, []netip.Addr{m.address}, &api.Conditions{PrefixSet: &api.MatchSet{Type: anyOf, Name: set.Name}}, act)
			}
		}
	}
	for _, table := range c.tables {
		var to []netip.Addr
		for _, m := range members {
			if asksNotFound(m.policy, table) {
				to = append(to, m.address)
			}
		}
		if len(to) == 0 {
			continue
		}
		noted := c.set(api.DefinedType_DEFINED_TYPE_COMMUNITY, api.MatchSet_TYPE_INVERT,
			exactly(standard(c.originNote(tagKind{table, policy.Valid}))), exactly(standard(c.originNote(tagKind{table, policy.Invalid}))))
		c.add(in, to, &api.Conditions{CommunitySet: noted},
			&api.Actions{Community: addition(standard(c.originNote(tagKind{table, policy.NotFound})))})
	}
}

func asksNotFound(p *policy.Policy, table string) bool {
	return p != nil && slices.ContainsFunc(p.Import, func(r policy.Rule) bool {
		return r.Match.Table() == table && slices.Contains(r.Match.RPKI, policy.NotFound)
	})
}

// originCondition is a pattern over communities that holds for the validities of a rule. It is false if nobody fills
// the table: then the rule matches nothing.
func (c *compiler) originCondition(m *policy.Match) (string, bool) {
	if !slices.Contains(c.tables, m.Table()) {
		return "", false
	}
	var pattern strings.Builder
	for i, v := range m.RPKI {
		if i > 0 {
			pattern.WriteString("|")
		}
		pattern.WriteString(exactly(standard(c.originNote(tagKind{m.Table(), v}))))
	}
	return "(" + pattern.String() + ")", true
}
