package bgp

import (
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/osrg/gobgp/v4/pkg/packet/bgp"

	"sitewire/bgp/policy"
	"sitewire/routes"
)

// defaultLocalPref is what GoBGP, BIRD and FRR compare with where a path has no LOCAL_PREF.
const defaultLocalPref = 100

// received are the attributes of an UPDATE as they came in: shared by its prefixes, never modified.
type received struct {
	attrs       routes.Attrs
	communities []string // standard, then large: both of those of attrs
	nextHop     netip.Addr
	// at is when the UPDATE was read, and generation in which of the neighbour's sessions.
	at         time.Time
	generation uint32
	asSet      bool // the path has an AS_SET or a confederation segment (RFC 9774)
}

// wordLimit bounds how many communities are remembered as text; beyond it remembering begins anew.
const wordLimit = 1 << 16

// words are communities as text. Few different ones are carried by many routes.
type words map[uint32]string

func (w *words) of(c uint32) string {
	if s, ok := (*w)[c]; ok {
		return s
	}
	if *w == nil || len(*w) >= wordLimit {
		*w = words{}
	}
	s := standard(c)
	(*w)[c] = s
	return s
}

// readAttrs reads what we use of a path's attributes. LOCAL_PREF counts only from iBGP neighbours (RFC 4271
// section 5.1.5). Communities of ours that mark routes inside GoBGP are left out.
func (w *words) readAttrs(list []bgp.PathAttributeInterface, internal bool) *received {
	r := &received{attrs: routes.Attrs{Origin: "incomplete", LocalPref: defaultLocalPref}}
	var large *bgp.PathAttributeLargeCommunities
	for _, a := range list {
		switch a := a.(type) {
		case *bgp.PathAttributeOrigin:
			switch a.Value {
			case bgp.BGP_ORIGIN_ATTR_TYPE_IGP:
				r.attrs.Origin = "igp"
			case bgp.BGP_ORIGIN_ATTR_TYPE_EGP:
				r.attrs.Origin = "egp"
			}
		case *bgp.PathAttributeAsPath:
			for _, seg := range a.Value {
				r.asSet = r.asSet || seg.GetType() != bgp.BGP_ASPATH_ATTR_TYPE_SEQ
				r.attrs.ASPath = append(r.attrs.ASPath, seg.GetAS()...)
			}
		case *bgp.PathAttributeNextHop:
			r.nextHop = a.Value
		case *bgp.PathAttributeMpReachNLRI:
			r.nextHop = a.Nexthop
		case *bgp.PathAttributeMultiExitDisc:
			r.attrs.MED = a.Value
		case *bgp.PathAttributeLocalPref:
			if internal {
				r.attrs.LocalPref = a.Value
			}
		case *bgp.PathAttributeCommunities:
			r.communities = slices.Grow(r.communities, len(a.Value))
			for _, c := range a.Value {
				if !isMark(c) {
					r.communities = append(r.communities, w.of(c))
				}
			}
		case *bgp.PathAttributeLargeCommunities:
			large = a
		}
	}
	r.communities = slices.Clip(r.communities)
	r.attrs.Communities = r.communities
	if large != nil && len(large.Values) > 0 {
		for _, c := range large.Values {
			r.communities = append(r.communities, c.String())
		}
		n := len(r.attrs.Communities)
		r.attrs.Communities, r.attrs.LargeCommunities = slices.Clip(r.communities[:n]), slices.Clip(r.communities[n:])
	}
	return r
}

func newAttrs(origin string, path []uint32, communities []string, localPref, med uint32) *routes.Attrs {
	a := &routes.Attrs{ASPath: path, Origin: origin, LocalPref: localPref, MED: med}
	if !slices.ContainsFunc(communities, func(c string) bool { return strings.Count(c, ":") == 2 }) {
		a.Communities = slices.Clip(communities)
		return a
	}
	for _, c := range communities {
		if strings.Count(c, ":") == 2 {
			a.LargeCommunities = append(a.LargeCommunities, c)
		} else {
			a.Communities = append(a.Communities, c)
		}
	}
	return a
}

func standard(c uint32) string {
	return strconv.FormatUint(uint64(c>>16), 10) + ":" + strconv.FormatUint(uint64(c&0xffff), 10)
}

// route is the received path as the policy sees it.
func (r *received) route(p netip.Prefix, hop netip.Addr, source string) policy.Route {
	return policy.Route{
		Prefix: p, ASPath: r.attrs.ASPath, NextHop: hop, Communities: r.communities,
		LocalPref: r.attrs.LocalPref, MED: r.attrs.MED, Source: source, ASSet: r.asSet,
	}
}

// after returns the attributes as the policy left them: the received ones if it changed nothing, the previous ones if
// it did the same as for the prefix before.
func (r *received) after(out *policy.Route, previous *routes.Attrs) *routes.Attrs {
	if out.LocalPref == 0 && r.attrs.LocalPref != 0 {
		out.LocalPref = minLocalPref
	}
	if out.LocalPref == r.attrs.LocalPref && out.MED == r.attrs.MED && slices.Equal(out.ASPath, r.attrs.ASPath) && slices.Equal(out.Communities, r.communities) {
		return &r.attrs
	}
	if p := previous; p != nil && p.Origin == r.attrs.Origin && out.LocalPref == p.LocalPref && out.MED == p.MED &&
		slices.Equal(out.ASPath, p.ASPath) && len(out.Communities) == len(p.Communities)+len(p.LargeCommunities) {
		if next := newAttrs(p.Origin, p.ASPath, out.Communities, p.LocalPref, p.MED); slices.Equal(next.Communities, p.Communities) &&
			slices.Equal(next.LargeCommunities, p.LargeCommunities) {
			return p
		}
	}
	return newAttrs(r.attrs.Origin, out.ASPath, out.Communities, out.LocalPref, out.MED)
}

// sameAttrs reports whether two paths come with the very same attributes, as the prefixes of an UPDATE do: GoBGP hands
// out pointers to them. Only MP_REACH_NLRI is made anew for each prefix.
func sameAttrs(a, b []bgp.PathAttributeInterface) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range a {
		if a[i] == b[i] {
			continue
		}
		x, ok := a[i].(*bgp.PathAttributeMpReachNLRI)
		y, too := b[i].(*bgp.PathAttributeMpReachNLRI)
		if !ok || !too || x.Nexthop != y.Nexthop {
			return false
		}
	}
	return true
}

// prefixOf returns the prefix of an IPv4 or IPv6 unicast path, unmasked host bits cleared.
func prefixOf(n bgp.NLRI) (netip.Prefix, bool) {
	p, ok := n.(*bgp.IPAddrPrefix)
	if !ok || !p.Prefix.IsValid() {
		return netip.Prefix{}, false
	}
	return p.Prefix.Masked(), true
}

// families in GoBGP's numbers, by routes.Family.
var families = [2]bgp.Family{routes.IPv4: bgp.RF_IPv4_UC, routes.IPv6: bgp.RF_IPv6_UC}

func familyOf(f bgp.Family) (routes.Family, bool) {
	i := slices.Index(families[:], f)
	return routes.Family(max(i, 0)), i >= 0
}
