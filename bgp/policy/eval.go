package policy

import (
	"net/netip"
	"slices"
)

// EvalImport decides whether a route from the neighbour is accepted: the fixed refusals first, then the rules.
// A nil policy refuses everything.
func (p *Policy) EvalImport(r Route, c *Context) Verdict {
	return p.eval(r, c, true)
}

// EvalExport decides whether a route may go to the neighbour, and as what.
func (p *Policy) EvalExport(r Route, c *Context) Verdict {
	return p.eval(r, c, false)
}

func (p *Policy) eval(r Route, c *Context, in bool) Verdict {
	if p == nil {
		return Verdict{Rule: NoPolicy, Route: r}
	}
	prog := p.compiled
	if prog == nil {
		var err error
		if prog, err = p.program(); err != nil {
			return Verdict{Rule: InvalidPolicy, Route: r}
		}
	}
	var reason string
	steps := prog.exports
	if in {
		steps, reason = prog.imports, p.refuseImport(&r, c)
	} else {
		reason = p.refuseExport(&r, c)
	}
	if reason != "" {
		return Verdict{Rule: reason, Route: r}
	}
	out := r
	for i := range steps {
		s := &steps[i]
		if !s.matches(&out) || !s.rule.Match.validity(&r, c) {
			continue
		}
		if s.rule.Action == Reject {
			return Verdict{Rule: s.rule.Name, Route: r}
		}
		s.apply(&out, c)
		if s.rule.Action == Accept {
			return Verdict{Accepted: true, Rule: s.rule.Name, Route: out}
		}
	}
	return Verdict{Rule: NoRule, Route: r}
}

func (s *step) matches(r *Route) bool {
	m := &s.rule.Match
	n := len(r.ASPath)
	switch {
	case m.Family == FamilyIPv4 && !r.Prefix.Addr().Is4(), m.Family == FamilyIPv6 && r.Prefix.Addr().Is4():
		return false
	case m.Source != "" && m.Source != r.Source:
		return false
	case n < m.ASPathMin, m.ASPathMax > 0 && n > m.ASPathMax:
		return false
	case s.prefixes != nil && !s.prefixes.contains(r.Prefix):
		return false
	case m.OriginAS != nil && (n == 0 || !slices.Contains(m.OriginAS, r.ASPath[n-1])):
		return false
	case s.communities != nil && !carries(r.Communities, s.communities):
		return false
	case s.path != nil && !s.path.Match(r.ASPath):
		return false
	}
	return true
}

// apply makes the rule's changes. It never writes into the slices of the route, which the caller may share.
func (s *step) apply(r *Route, c *Context) {
	set := &s.rule.Set
	if set.LocalPref != nil {
		r.LocalPref = *set.LocalPref
	}
	if set.MED != nil {
		r.MED = *set.MED
	}
	if set.Prepend > 0 {
		path := make([]uint32, 0, set.Prepend+len(r.ASPath))
		for range set.Prepend {
			path = append(path, c.LocalASN)
		}
		r.ASPath = append(path, r.ASPath...)
	}
	if len(s.remove) > 0 {
		r.Communities = slices.DeleteFunc(slices.Clone(r.Communities), func(have string) bool {
			return carries([]string{have}, s.remove)
		})
	}
	if len(s.add) > 0 {
		r.Communities = slices.Clone(r.Communities)
		for _, a := range s.add {
			if !slices.ContainsFunc(r.Communities, func(have string) bool { return canonical(have) == a }) {
				r.Communities = append(r.Communities, a)
			}
		}
	}
	if set.NextHopSelf {
		r.NextHop = netip.Addr{}
	}
}
