package config

import (
	"slices"

	"sitewire/bgp/policy"
)

// checkPrepend refuses export rules that prepend towards a neighbour of our own AS: it finds its own number in the path,
// and drops the route as a loop (RFC 4271 section 9.1.2).
func (r *raw) checkPrepend(d *decoder) {
	check := func(s *Session) {
		if s.Policy == nil || s.ASN != s.LocalASN {
			return
		}
		for i := range s.Policy.Export {
			rule := &s.Policy.Export[i]
			if rule.Set.Prepend > 0 {
				d.hintf(r.prependAt(d, rule), "give that neighbour a policy of its own, and set local_pref, which its AS compares first",
					"rule %s prepends our ASN, and %s is in our AS: it would take the route for a loop", rule.Name, s.Name)
			}
		}
	}
	for _, p := range r.Peers {
		for _, s := range p.Sessions {
			check(s)
		}
	}
	for _, n := range r.Neighbours {
		check(n.Session)
	}
}

// prependAt is where a rule says prepend, be it in the policy itself or in one that it extends.
func (r *raw) prependAt(d *decoder, rule *policy.Rule) *node {
	for _, e := range r.policies {
		if i := slices.IndexFunc(e.v.exports, func(x *rawRule) bool { return x.Name == rule.Name && x.Set.Prepend == rule.Set.Prepend }); i >= 0 {
			return d.at(&e.v.exports[i].Set.Prepend, e.at)
		}
	}
	return d.at()
}
