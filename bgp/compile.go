package bgp

import (
	"errors"
	"fmt"
	"hash/fnv"
	"iter"
	"net/netip"
	"reflect"
	"slices"
	"strings"

	"github.com/osrg/gobgp/v4/api"

	"sitewire/bgp/policy"
	"sitewire/bgp/rpki"
	"sitewire/routes"
)

// This file turns policies into GoBGP's: two global lists of statements, "in" and "out", whose default is to reject.
// A statement matches neighbours by address, without the zone: that is all that GoBGP can do. What a neighbour's
// statements cannot say (next hops, refused prefixes) is told to GoBGP as sets of refused prefixes.

const (
	policyIn  = "in"
	policyOut = "out"
	// minLocalPref stands for 0, which GoBGP cannot set.
	minLocalPref = 1
)

// member is what the compiler knows of a neighbour, or of several with the same address but for the zone.
type member struct {
	address  netip.Addr // without zone
	policy   *policy.Policy
	asns     []uint32 // of the neighbours with this address
	localASN uint32
	internal bool
	tunnel   bool
	// hold keeps a family from being announced; hop is the next hop to give in it, if it is not the session's.
	hold [2]bool
	hop  [2]netip.Addr
	// refused prefixes; nil if there never were any.
	refused map[netip.Prefix]struct{}
	// tagged prefixes by the set that they are in, of sets that ever had a member; origins has the tables.
	tagged  map[tagKind]map[netip.Prefix]struct{}
	origins *rpki.Set
	// closed families accept only these prefixes.
	closed [2]map[netip.Prefix]struct{}
}

// compiled is the outcome: what GoBGP is told, and a fingerprint of what concerns each neighbour, so that only those
// are evaluated again for whom something changed.
type compiled struct {
	request *api.SetPoliciesRequest
	in, out map[netip.Addr]uint64
}

type compiler struct {
	sets    map[string]*api.DefinedSet
	names   []string // of sets, in order of appearance
	lists   [2][]*api.Statement
	prints  [2]map[netip.Addr]uint64
	common  [2]uint64
	all     []netip.Addr               // of members
	learned []api.Conditions_RouteType // those of routes that are not our own
	tags    sourceTags
	tables  []string // of payloads, that import rules ask for and somebody fills
	errs    []error
}

// sourceTags tells which routes are marked with their source on the way in. Those from the LAN are, if anything asks for sources:
// what is learned and has no such mark came through a tunnel. That a rule wants both a tunnel and communities cannot be said
// so, because GoBGP's statements have one condition on communities: then tunnels are marked too.
type sourceTags struct{ lan, tunnel bool }

// tagging decides which tags are needed.
func tagging(members []member) sourceTags {
	asked, both, lan := false, false, false
	for _, m := range members {
		asked, lan = asked || m.internal, lan || !m.tunnel
		if m.policy == nil {
			continue
		}
		for i := range m.policy.Export {
			match := &m.policy.Export[i].Match
			learned := match.Source == policy.SourceTunnel || match.Source == policy.SourceLAN
			asked = asked || learned
			both = both || match.Source == policy.SourceTunnel && len(match.Communities) > 0
		}
	}
	return sourceTags{lan: asked && lan, tunnel: both}
}

// compile translates the policies of the members. own and endpoints are for the fixed refusals. Silent announces nothing.
func compile(members []member, own []netip.Prefix, endpoints []netip.Addr, silent bool) (*compiled, error) {
	c := &compiler{sets: map[string]*api.DefinedSet{}, all: addresses(members), tags: tagging(members)}
	c.prints = [2]map[netip.Addr]uint64{{}, {}}
	c.learned = []api.Conditions_RouteType{api.Conditions_ROUTE_TYPE_EXTERNAL}
	if slices.ContainsFunc(members, func(m member) bool { return m.internal }) {
		c.learned = append(c.learned, api.Conditions_ROUTE_TYPE_INTERNAL)
	}
	if err := prependable(members); err != nil {
		return nil, err
	}
	c.useTables(members)
	c.imports(members, own, endpoints)
	if silent {
		c.add(exp, nil, &api.Conditions{}, reject())
	}
	c.exports(members)
	if err := errors.Join(c.errs...); err != nil {
		return nil, err
	}
	out := &compiled{request: &api.SetPoliciesRequest{}, in: map[netip.Addr]uint64{}, out: map[netip.Addr]uint64{}}
	for _, n := range c.names {
		out.request.DefinedSets = append(out.request.DefinedSets, c.sets[n])
	}
	for d, name := range []string{policyIn, policyOut} {
		out.request.Policies = append(out.request.Policies, &api.Policy{Name: name, Statements: c.lists[d]})
		for i, s := range c.lists[d] {
			s.Name = fmt.Sprintf("%s-%d", name, i)
		}
	}
	for _, m := range members {
		out.in[m.address] = c.prints[in][m.address] ^ c.common[in]
		out.out[m.address] = c.prints[exp][m.address] ^ c.common[exp]
	}
	return out, nil
}

// Directions, as indices.
const (
	in = iota
	exp
)

func (c *compiler) imports(members []member, own []netip.Prefix, endpoints []netip.Addr) {
	c.add(in, nil, &api.Conditions{RouteType: api.Conditions_ROUTE_TYPE_LOCAL}, accept())
	c.add(in, nil, &api.Conditions{CommunitySet: c.set(api.DefinedType_DEFINED_TYPE_COMMUNITY, anyOf, marksPattern)},
		&api.Actions{Community: &api.CommunityAction{Type: api.CommunityAction_TYPE_REMOVE, Communities: []string{marksPattern}}})
	for _, m := range members {
		if m.refused != nil {
			for f := range families {
				set := setOf(refusal{address: m.address}, routes.Family(f), m.refused)
				c.addSet(set)
				c.add(in, []netip.Addr{m.address}, &api.Conditions{PrefixSet: &api.MatchSet{Type: anyOf, Name: set.Name}}, reject())
			}
		}
		for f, allowed := range m.closed {
			if allowed != nil {
				c.add(in, []netip.Addr{m.address}, &api.Conditions{
					AfiSafiIn: afi(routes.Family(f)),
					PrefixSet: &api.MatchSet{Type: api.MatchSet_TYPE_INVERT, Name: c.prefixes(routes.Family(f), exact(allowed, routes.Family(f)))},
				}, reject())
			}
		}
	}
	c.origins(members)
	never := policy.Martians() // and what covers the tunnels' ends
	for _, e := range endpoints {
		for p := range covering(e) {
			never = append(never, policy.Exactly(p))
		}
	}
	// Endpoints change with handshakes, and concern few routes: the view finds those, and their neighbours.
	print := c.common[in]
	c.refuse(nil, never)
	c.common[in] = print
	c.add(in, nil, &api.Conditions{AsPathSet: c.set(api.DefinedType_DEFINED_TYPE_AS_PATH, anyOf, "_0_")}, reject())
	for _, g := range group(members, func(m member) string { return fmt.Sprint(m.internal, m.asns) }) {
		if m := g[0]; !m.internal {
			first := make([]string, len(m.asns))
			for i, asn := range m.asns {
				first[i] = fmt.Sprintf("^%d_", asn)
			}
			c.add(in, addresses(g), &api.Conditions{AsPathSet: c.set(api.DefinedType_DEFINED_TYPE_AS_PATH, api.MatchSet_TYPE_INVERT, first...)}, reject())
		}
	}
	for _, g := range samePolicy(members, func(m member) string { return fmt.Sprint(m.tunnel, m.localASN, m.internal) }) {
		c.importGroup(g, own)
	}
}

// covering yields the prefixes that would take packets to a tunnel's end into a tunnel: all that contain it but default routes.
func covering(e netip.Addr) iter.Seq[netip.Prefix] {
	return func(yield func(netip.Prefix) bool) {
		e := e.WithZone("").Unmap()
		shortest := 8
		if e.Is6() {
			shortest = 7
		}
		for bits := shortest; bits <= e.BitLen(); bits++ {
			if p, err := e.Prefix(bits); err == nil && !yield(p) {
				return
			}
		}
	}
}

func (c *compiler) importGroup(g []member, own []netip.Prefix) {
	m, to := g[0], addresses(g)
	p := m.policy
	if p == nil || len(p.Import) == 0 {
		return // the default rejects
	}
	var refused []policy.PrefixRange
	if !p.AllowDefault {
		refused = append(refused,
			policy.PrefixRange{Prefix: netip.PrefixFrom(netip.IPv4Unspecified(), 0), Min: 0, Max: 7},
			policy.PrefixRange{Prefix: netip.PrefixFrom(netip.IPv6Unspecified(), 0), Min: 0, Max: 6})
	}
	for _, o := range own {
		r := policy.Exactly(o)
		if short := o.Bits() < 7 || o.Addr().Is4() && o.Bits() < 8; !p.AllowOwnParts && !short {
			r = policy.OrLonger(o)
		}
		refused = append(refused, r)
	}
	c.refuse(to, refused)
	c.add(in, to, &api.Conditions{AsPathSet: c.set(api.DefinedType_DEFINED_TYPE_AS_PATH, anyOf, fmt.Sprintf("_%d_", m.localASN))}, reject())
	longest := p.MaxASPath
	if longest == 0 {
		longest = policy.DefaultMaxASPath
	}
	c.add(in, to, &api.Conditions{AsPathLength: &api.AsPathLength{Type: api.Comparison_COMPARISON_GE, Length: uint32(longest) + 1}}, reject())
	source, mark, tagged := policy.SourceLAN, uint32(markLAN), c.tags.lan
	if m.tunnel {
		source, mark, tagged = policy.SourceTunnel, markTunnel, c.tags.tunnel
	}
	if tagged {
		c.add(in, to, &api.Conditions{}, &api.Actions{Community: &api.CommunityAction{Type: api.CommunityAction_TYPE_ADD, Communities: []string{standard(mark)}}})
	}
	c.rules(in, m, to, source)
}

func (c *compiler) exports(members []member) {
	external := slices.DeleteFunc(slices.Clone(members), func(m member) bool { return m.internal })
	internal := slices.DeleteFunc(slices.Clone(members), func(m member) bool { return !m.internal })
	c.add(exp, nil, &api.Conditions{CommunitySet: c.set(api.DefinedType_DEFINED_TYPE_COMMUNITY, anyOf, exactly(standard(markNowhere)))}, reject())
	// When a route changes into one that is rejected, GoBGP asks whether the policy lets the old one pass, to see
	// whether it has to be withdrawn: and that one without our ASN in front. No route that goes out is like that; say
	// yes, and have it withdrawn.
	for _, g := range group(external, func(m member) string { return fmt.Sprint(m.localASN) }) {
		c.add(exp, addresses(g), &api.Conditions{
			AsPathSet: c.set(api.DefinedType_DEFINED_TYPE_AS_PATH, api.MatchSet_TYPE_INVERT, fmt.Sprintf("^%d_", g[0].localASN)),
		}, accept())
	}
	c.refuseOut(policy.Martians())
	for _, learned := range c.learned {
		c.add(exp, nil, &api.Conditions{RouteType: learned, CommunitySet: c.set(api.DefinedType_DEFINED_TYPE_COMMUNITY, anyOf, "^65535:65282$")}, reject())
	}
	if to := addresses(external); len(to) > 0 {
		for _, learned := range c.learned {
			c.add(exp, to, &api.Conditions{
				RouteType:    learned,
				CommunitySet: c.set(api.DefinedType_DEFINED_TYPE_COMMUNITY, anyOf, "^65535:65281$", "^65535:65283$"),
			}, reject())
		}
	}
	// A next hop behind a tunnel means nothing to an iBGP neighbour: we are the next hop.
	if to := addresses(internal); len(to) > 0 {
		for _, learned := range c.learned {
			c.add(exp, to, &api.Conditions{RouteType: learned, CommunitySet: c.fromTunnel()}, &api.Actions{Nexthop: &api.NexthopAction{Self: true}})
		}
	}
	for f := range families {
		var held []netip.Addr
		for _, m := range members {
			if m.hold[f] {
				held = append(held, m.address)
			}
		}
		if len(held) > 0 {
			c.add(exp, held, &api.Conditions{AfiSafiIn: afi(routes.Family(f))}, reject())
		}
		for _, g := range group(members, func(m member) string { return m.hop[f].String() }) {
			if hop := g[0].hop[f]; hop.IsValid() {
				c.add(exp, addresses(g), &api.Conditions{AfiSafiIn: afi(routes.Family(f))}, &api.Actions{Nexthop: &api.NexthopAction{Address: hop.String()}})
			}
		}
	}
	for _, g := range samePolicy(members, func(m member) string {
		if m.internal { // only there does a rule choose the next hop
			return fmt.Sprint(m.localASN, m.hop)
		}
		return fmt.Sprint(m.localASN, " external")
	}) {
		if m := g[0]; m.policy != nil {
			c.rules(exp, m, addresses(g), "")
		}
	}
}

// refuse rejects prefixes on the way in; refuseOut on the way out.
func (c *compiler) refuse(from []netip.Addr, list []policy.PrefixRange) {
	c.rejectRanges(in, from, list)
}

func (c *compiler) refuseOut(list []policy.PrefixRange) { c.rejectRanges(exp, nil, list) }

func (c *compiler) rejectRanges(dir int, who []netip.Addr, list []policy.PrefixRange) {
	for f := range families {
		if part := ofFamily(list, routes.Family(f)); len(part) > 0 {
			c.add(dir, who, &api.Conditions{PrefixSet: &api.MatchSet{Type: anyOf, Name: c.prefixes(routes.Family(f), part)}}, reject())
		}
	}
}

// fromTunnel matches what came through a tunnel, among routes that are not our own.
func (c *compiler) fromTunnel() *api.MatchSet {
	return c.set(api.DefinedType_DEFINED_TYPE_COMMUNITY, api.MatchSet_TYPE_INVERT, exactly(standard(markLAN)))
}

// add appends a statement for these neighbours, or for all if there are none.
func (c *compiler) add(dir int, who []netip.Addr, cond *api.Conditions, act *api.Actions) {
	print := fingerprint(cond.String(), act.String())
	if who == nil {
		c.common[dir] = c.common[dir]*31 + print
	} else {
		for _, a := range who {
			c.prints[dir][a] = c.prints[dir][a]*31 + print
		}
		cond.NeighborSet = c.neighbours(who)
	}
	c.lists[dir] = append(c.lists[dir], &api.Statement{Conditions: cond, Actions: act})
}

func accept() *api.Actions { return &api.Actions{RouteAction: api.RouteAction_ROUTE_ACTION_ACCEPT} }
func reject() *api.Actions { return &api.Actions{RouteAction: api.RouteAction_ROUTE_ACTION_REJECT} }

const anyOf = api.MatchSet_TYPE_ANY

// set returns a match on a set with this content; equal sets are one.
func (c *compiler) set(kind api.DefinedType, match api.MatchSet_Type, list ...string) *api.MatchSet {
	name := fmt.Sprintf("%d-%x", kind, fingerprint(list...))
	c.addSet(&api.DefinedSet{DefinedType: kind, Name: name, List: list})
	return &api.MatchSet{Type: match, Name: name}
}

// neighbours matches some of the members' addresses; nil matches all. GoBGP compares with one after the other for each route, so
// of many the others are named.
func (c *compiler) neighbours(who []netip.Addr) *api.MatchSet {
	match := anyOf
	if len(who) == len(c.all) {
		return nil
	}
	if 2*len(who) > len(c.all) {
		match = api.MatchSet_TYPE_INVERT
		who = slices.DeleteFunc(slices.Clone(c.all), func(a netip.Addr) bool { return slices.Contains(who, a) })
	}
	list := make([]string, len(who))
	for i, a := range who {
		list[i] = netip.PrefixFrom(a, a.BitLen()).String()
	}
	return c.set(api.DefinedType_DEFINED_TYPE_NEIGHBOR, match, list...)
}

func (c *compiler) addSet(s *api.DefinedSet) {
	if c.sets[s.Name] == nil {
		c.sets[s.Name] = s
		c.names = append(c.names, s.Name)
	}
}

// prefixes returns the name of a set of ranges of one family.
func (c *compiler) prefixes(f routes.Family, list []policy.PrefixRange) string {
	set := &api.DefinedSet{DefinedType: api.DefinedType_DEFINED_TYPE_PREFIX}
	text := []string{f.String()}
	for _, r := range list {
		set.Prefixes = append(set.Prefixes, apiPrefix(r))
		text = append(text, r.String())
	}
	set.Name = fmt.Sprintf("prefixes-%x", fingerprint(text...))
	c.addSet(set)
	return set.Name
}

func apiPrefix(r policy.PrefixRange) *api.Prefix {
	return &api.Prefix{IpPrefix: r.Prefix.String(), MaskLengthMin: uint32(r.Min), MaskLengthMax: uint32(r.Max)}
}

// setOf is a set of prefixes of an address: of the kind and family. It is changed in place later on.
func setOf(r refusal, f routes.Family, prefixes map[netip.Prefix]struct{}) *api.DefinedSet {
	name := fmt.Sprintf("refused-%v-%v", r.address, f)
	if r.kind != (tagKind{}) {
		name = fmt.Sprintf("origin-%v-%v-%v", r.kind, r.address, f)
	}
	set := &api.DefinedSet{DefinedType: api.DefinedType_DEFINED_TYPE_PREFIX, Name: name}
	for _, r := range exact(prefixes, f) {
		set.Prefixes = append(set.Prefixes, apiPrefix(r))
	}
	return set
}

func exact(set map[netip.Prefix]struct{}, f routes.Family) []policy.PrefixRange {
	var list []policy.PrefixRange
	for p := range set {
		if routes.FamilyOf(p) == f {
			list = append(list, policy.Exactly(p))
		}
	}
	slices.SortFunc(list, func(a, b policy.PrefixRange) int { return a.Prefix.Compare(b.Prefix) })
	return list
}

func ofFamily(list []policy.PrefixRange, f routes.Family) []policy.PrefixRange {
	return slices.DeleteFunc(slices.Clone(list), func(r policy.PrefixRange) bool { return routes.FamilyOf(r.Prefix) != f })
}

func afi(f routes.Family) []*api.Family {
	if f == routes.IPv4 {
		return []*api.Family{{Afi: api.Family_AFI_IP, Safi: api.Family_SAFI_UNICAST}}
	}
	return []*api.Family{{Afi: api.Family_AFI_IP6, Safi: api.Family_SAFI_UNICAST}}
}

func fingerprint(text ...string) uint64 {
	h := fnv.New64a()
	h.Write([]byte(strings.Join(text, "\x00")))
	return h.Sum64()
}

func addresses(g []member) []netip.Addr {
	list := make([]netip.Addr, len(g))
	for i, m := range g {
		list[i] = m.address
	}
	return list
}

// group splits members by key, in order of first appearance.
func group(members []member, key func(member) string) [][]member {
	var out [][]member
	index := map[string]int{}
	for _, m := range members {
		k := key(m)
		i, ok := index[k]
		if !ok {
			i = len(out)
			index[k] = i
			out = append(out, nil)
		}
		out[i] = append(out[i], m)
	}
	return out
}

// samePolicy is group by equal policies, and by key.
func samePolicy(members []member, key func(member) string) [][]member {
	var seen []*policy.Policy
	return group(members, func(m member) string {
		i := slices.IndexFunc(seen, func(p *policy.Policy) bool { return equalPolicy(p, m.policy) })
		if i < 0 {
			i = len(seen)
			seen = append(seen, m.policy)
		}
		return fmt.Sprint(i, " ", key(m))
	})
}

// equalPolicy reports whether two policies do the same under the same name.
func equalPolicy(a, b *policy.Policy) bool {
	if a == nil || b == nil || a == b {
		return a == b
	}
	return reflect.DeepEqual(a.Clone(), b.Clone())
}

// prependable refuses what would leave routes behind at an eBGP neighbour: once an import rule has put our own ASN into
// paths, the old and the new form of a route (see exports) can no longer be told apart, which matters where export
// rules look at the path.
func prependable(members []member) error {
	var prepends, looks string
	for _, m := range members {
		if m.policy == nil {
			continue
		}
		for _, r := range m.policy.Import {
			if r.Set.Prepend > 0 {
				prepends = fmt.Sprintf("import rule %s of policy %s", r.Name, m.policy.Name)
			}
		}
		for _, r := range m.policy.Export {
			if c := &r.Match; !m.internal && (c.ASPath != "" || c.OriginAS != nil || c.ASPathMin > 0 || c.ASPathMax > 0) {
				looks = fmt.Sprintf("export rule %s of policy %s", r.Name, m.policy.Name)
			}
		}
	}
	if prepends != "" && looks != "" {
		return fmt.Errorf("%s prepends our ASN and %s matches AS paths: GoBGP cannot do both; prepend on export, or set local_pref on import", prepends, looks)
	}
	return nil
}
