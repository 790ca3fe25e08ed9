package bgp

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/osrg/gobgp/v4/api"

	"sitewire/bgp/policy"
	"sitewire/routes"
)

// rules appends the statements of a policy's rules for these neighbours. For imports source is known.
func (c *compiler) rules(dir int, m member, to []netip.Addr, source string) {
	rules := m.policy.Export
	if dir == in {
		rules = m.policy.Import
	}
	for i := range rules {
		if i >= maxRules {
			c.errs = append(c.errs, fmt.Errorf("policy %s: more than %d rules", m.policy.Name, maxRules))
			return
		}
		if err := c.rule(dir, m, to, source, &rules[i], uint32(markRule+i)); err != nil {
			c.errs = append(c.errs, fmt.Errorf("policy %s: rule %s: %w", m.policy.Name, rules[i].Name, err))
		}
	}
}

// rule appends the statements of one rule: for each way in which its conditions can hold, one statement with all its
// actions. Where that would act twice, or where an action undoes a condition of the next statement, the conditions
// leave a mark on the route and the actions ask for the mark.
func (c *compiler) rule(dir int, m member, to []netip.Addr, source string, r *policy.Rule, mark uint32) error {
	conds, err := c.conditions(dir, m, source, r)
	if err != nil {
		return err
	}
	if len(conds) == 0 {
		return nil
	}
	if r.Action == policy.Reject {
		for _, cond := range conds {
			c.add(dir, to, cond, reject())
		}
		return nil
	}
	strip := dir == exp && r.Action == policy.Accept && (c.tags != sourceTags{} || len(c.tables) > 0)
	stages := c.stages(dir, m, &r.Set)
	if r.Action == policy.Next && len(stages) == 0 {
		return nil
	}
	if len(stages)+btoi(strip) <= 1 && (len(conds) == 1 || r.Action == policy.Accept) {
		act := &api.Actions{}
		if len(stages) == 1 {
			act = stages[0].actions
		} else if strip {
			act.Community = removal(marksPattern)
		}
		if r.Action == policy.Accept {
			act.RouteAction = api.RouteAction_ROUTE_ACTION_ACCEPT
		}
		for _, cond := range conds {
			c.add(dir, to, cond, act)
		}
		return nil
	}
	for _, cond := range conds {
		c.add(dir, to, cond, &api.Actions{Community: addition(standard(mark))})
	}
	marked := func(only []*api.Family) *api.Conditions {
		return &api.Conditions{
			CommunitySet: c.set(api.DefinedType_DEFINED_TYPE_COMMUNITY, anyOf, exactly(standard(mark))),
			AfiSafiIn:    only,
		}
	}
	for _, s := range stages {
		c.add(dir, to, marked(s.only), s.actions)
	}
	last := &api.Actions{Community: removal(exactly(standard(mark)))}
	if strip {
		last.Community = removal(marksPattern)
	}
	if r.Action == policy.Accept {
		last.RouteAction = api.RouteAction_ROUTE_ACTION_ACCEPT
	}
	c.add(dir, to, marked(nil), last)
	return nil
}

// conditions returns the ways in which a rule can match, as conditions of statements: none if it never does.
func (c *compiler) conditions(dir int, m member, source string, r *policy.Rule) ([]*api.Conditions, error) {
	match := &r.Match
	base := api.Conditions{}
	types := []api.Conditions_RouteType{api.Conditions_ROUTE_TYPE_UNSPECIFIED}
	var tag string
	switch {
	case match.Source == "":
	case dir == in && match.Source != source:
		return nil, nil
	case dir == in:
	case match.Source == policy.SourceOwn:
		types[0] = api.Conditions_ROUTE_TYPE_LOCAL
	case match.Source == policy.SourceTunnel && len(match.Communities) > 0:
		tag = exactly(standard(markTunnel))
	case match.Source == policy.SourceTunnel:
		types, base.CommunitySet = c.learned, c.fromTunnel()
	case match.Source == policy.SourceLAN:
		tag = exactly(standard(markLAN))
	}
	if dir == in && match.Table() != "" { // there the source is known, and needs no tag
		origin, ok := c.originCondition(match)
		if !ok {
			return nil, nil
		}
		tag = origin
	}
	if err := c.pathConditions(dir, m, match, &base); err != nil {
		return nil, err
	}
	if match.OriginAS != nil && len(match.OriginAS) == 0 {
		return nil, nil
	}
	// GoBGP sees two kinds of communities and sets of one family, where a rule has one list of either.
	std, large := communityPatterns(match.Communities)
	type kind struct{ std, large []string }
	kinds := []kind{{}}
	if len(match.Communities) > 0 {
		kinds = nil
		if len(std) > 0 {
			kinds = append(kinds, kind{std: std})
		}
		if len(large) > 0 {
			kinds = append(kinds, kind{large: large})
		}
	}
	var out []*api.Conditions
	for _, family := range c.byFamily(dir, m, r) {
		for n := range len(kinds) * len(types) {
			k := kinds[n%len(kinds)]
			cond := &api.Conditions{
				RouteType: types[n/len(kinds)], AsPathSet: base.AsPathSet, AsPathLength: base.AsPathLength,
				PrefixSet: family.PrefixSet, AfiSafiIn: family.AfiSafiIn, CommunitySet: base.CommunitySet,
			}
			switch {
			case k.std != nil && tag != "":
				cond.CommunitySet = c.set(api.DefinedType_DEFINED_TYPE_COMMUNITY, api.MatchSet_TYPE_ALL, tag, "("+strings.Join(k.std, "|")+")")
			case k.std != nil:
				cond.CommunitySet = c.set(api.DefinedType_DEFINED_TYPE_COMMUNITY, anyOf, k.std...)
			case tag != "":
				cond.CommunitySet = c.set(api.DefinedType_DEFINED_TYPE_COMMUNITY, anyOf, tag)
			}
			if k.large != nil {
				cond.LargeCommunitySet = c.set(api.DefinedType_DEFINED_TYPE_LARGE_COMMUNITY, anyOf, k.large...)
			}
			out = append(out, cond)
		}
	}
	return out, nil
}

// byFamily returns the conditions on the prefix, one for each family that the rule speaks of.
func (c *compiler) byFamily(dir int, m member, r *policy.Rule) []*api.Conditions {
	match := &r.Match
	var out []*api.Conditions
	for f := range families {
		family := routes.Family(f)
		if match.Family != "" && match.Family != family.String() {
			continue
		}
		if match.Prefixes == nil {
			out = append(out, &api.Conditions{AfiSafiIn: afi(family)})
		} else if part := ofFamily(match.Prefixes, family); len(part) > 0 {
			out = append(out, &api.Conditions{PrefixSet: &api.MatchSet{Type: anyOf, Name: c.prefixes(family, part)}})
		}
	}
	if match.Family == "" && match.Prefixes == nil {
		return []*api.Conditions{{}}
	}
	return out
}

// pathConditions sets the conditions on the AS path. Towards eBGP neighbours GoBGP has put our ASN in front already.
func (c *compiler) pathConditions(dir int, m member, match *policy.Match, cond *api.Conditions) error {
	behind := dir == exp && !m.internal
	var all []string
	expr := func(e string) error {
		if !behind {
			all = append(all, plainPath(e))
			return nil
		}
		e, err := behindOwn(e, m.localASN)
		all = append(all, e)
		return err
	}
	if match.ASPath != "" {
		if err := expr(match.ASPath); err != nil {
			return err
		}
	}
	if len(match.OriginAS) > 0 {
		list := make([]string, len(match.OriginAS))
		for i, asn := range match.OriginAS {
			list[i] = strconv.FormatUint(uint64(asn), 10)
		}
		if err := expr("_(" + strings.Join(list, "|") + ")$"); err != nil {
			return err
		}
	}
	shift := btoi(behind)
	switch {
	case match.ASPathMin > 0:
		cond.AsPathLength = &api.AsPathLength{Type: api.Comparison_COMPARISON_GE, Length: uint32(match.ASPathMin + shift)}
		if match.ASPathMax > 0 {
			// One comparison to a statement: the other bound is text.
			longest := min(match.ASPathMax+shift, 900)
			all = append(all, fmt.Sprintf(`^([0-9]+( [0-9]+){0,%d})?$`, longest-1))
		}
	case match.ASPathMax > 0:
		cond.AsPathLength = &api.AsPathLength{Type: api.Comparison_COMPARISON_LE, Length: uint32(match.ASPathMax + shift)}
	}
	if len(all) > 0 {
		cond.AsPathSet = c.set(api.DefinedType_DEFINED_TYPE_AS_PATH, api.MatchSet_TYPE_ALL, all...)
	}
	return nil
}

// stage is what one statement of a rule does, perhaps for one family only.
type stage struct {
	actions *api.Actions
	only    []*api.Family
}

// stages returns what a rule does, as actions of one statement each: GoBGP either adds or removes communities in one.
// What is added is removed before, so that nothing is there twice; for large communities that also makes GoBGP copy
// the slice to which it appends.
func (c *compiler) stages(dir int, m member, set *policy.Set) []stage {
	first, second := &api.Actions{}, &api.Actions{}
	used := false
	if set.LocalPref != nil {
		first.LocalPref, used = &api.LocalPrefAction{Value: max(*set.LocalPref, minLocalPref)}, true
	}
	if set.MED != nil {
		first.Med, used = &api.MedAction{Type: api.MedAction_TYPE_REPLACE, Value: int64(*set.MED)}, true
	}
	if set.Prepend > 0 {
		first.AsPrepend, used = &api.AsPrependAction{Asn: m.localASN, Repeat: uint32(set.Prepend)}, true
	}
	var hops []stage
	if set.NextHopSelf && dir == exp && m.internal { // an eBGP neighbour gets our address anyway
		first.Nexthop, used = &api.NexthopAction{Self: true}, true
		for f, hop := range m.hop {
			if hop.IsValid() {
				hops = append(hops, stage{&api.Actions{Nexthop: &api.NexthopAction{Address: hop.String()}}, afi(routes.Family(f))})
			}
		}
	}
	std, large := communityPatterns(set.RemoveCommunities)
	addStd, addLarge := communityPatterns(set.AddCommunities)
	if list := slices.Concat(std, addStd); len(list) > 0 {
		first.Community, used = removal(list...), true
	}
	if list := slices.Concat(large, addLarge); len(list) > 0 {
		first.LargeCommunity, used = removal(list...), true
	}
	if !used {
		return nil
	}
	out := []stage{{actions: first}}
	if len(addStd) > 0 {
		second.Community = addition(literals(addStd)...)
	}
	if len(addLarge) > 0 {
		second.LargeCommunity = addition(literals(addLarge)...)
	}
	if len(addStd)+len(addLarge) > 0 {
		out = append(out, stage{actions: second})
	}
	return append(out, hops...)
}

// literals undoes exactly, and drops repetitions.
func literals(patterns []string) []string {
	var out []string
	for _, p := range patterns {
		if l := strings.Trim(p, "^$"); !slices.Contains(out, l) {
			out = append(out, l)
		}
	}
	return out
}

func removal(list ...string) *api.CommunityAction {
	return &api.CommunityAction{Type: api.CommunityAction_TYPE_REMOVE, Communities: list}
}

func addition(list ...string) *api.CommunityAction {
	return &api.CommunityAction{Type: api.CommunityAction_TYPE_ADD, Communities: list}
}

func btoi(b bool) int {
	if b {
		return 1
	}
	return 0
}
