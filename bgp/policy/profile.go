package policy

import (
	"net/netip"
	"slices"
)

// Limits of the built-in profiles, in prefixes of a family.
const (
	dn42MaxPrefixes = 9000 // the wiki's import limit
	hubMaxPrefixes  = 100  // of one branch
)

// RPKIInvalid is the name of the rule of profiles that refuses invalid origins.
const RPKIInvalid = "rpki_invalid"

// dn42MaxASPath is the loosest of the caps in use: the whole network is far smaller.
const dn42MaxASPath = 25

// Profiles returns the names of the built-in policies, sorted.
func Profiles() []string { return []string{"branch", "dn42", "full", "hub", "lan"} }

// Profile returns a built-in policy, compiled. Each call gives a new one, which the caller may change.
// docs/configuration.md explains them rule by rule.
func Profile(name string) (*Policy, bool) {
	var p *Policy
	switch name {
	case "dn42":
		p = dn42()
	case "branch":
		p = &Policy{
			Import: []Rule{gracefulShutdown(), ignoreBlackhole(), acceptAll("rest")},
			Export: []Rule{from(SourceOwn), from(SourceLAN)},
		}
	case "hub":
		p = &Policy{
			Import:       []Rule{gracefulShutdown(), ignoreBlackhole(), acceptAll("rest")},
			Export:       []Rule{acceptAll("all")},
			MaxPrefixes4: hubMaxPrefixes,
			MaxPrefixes6: hubMaxPrefixes,
		}
	case "lan":
		p = &Policy{
			Import:        []Rule{gracefulShutdown(), acceptAll("rest")},
			Export:        []Rule{acceptAll("all")},
			AllowOwnParts: true,
		}
	case "full":
		p = &Policy{
			Import:       []Rule{gracefulShutdown(), ignoreBlackhole(), acceptAll("rest")},
			Export:       []Rule{acceptAll("all")},
			AllowDefault: true,
		}
	default:
		return nil, false
	}
	p.Name = name
	if err := p.Compile(); err != nil {
		panic(err) // the data above is wrong, and the tests load every profile
	}
	return p, true
}

// dn42 is the registry's filter (data/filter.txt and filter6.txt), whose first matching row decides: the two denied
// networks come first, and the permitted rows do not contradict each other.
func dn42() *Policy {
	permitted := ranges(
		"172.20.0.0/24{28,32}", "172.21.0.0/24{28,32}", "172.22.0.0/24{28,32}", "172.23.0.0/24{28,32}", // anycast
		"172.20.0.0/14{21,29}", // dn42
		"10.100.0.0/14+",       // ChaosVPN
		"10.127.0.0/16+",       // NeoNetwork
		"10.0.0.0/8{15,24}",    // ICVPN, Freifunk
		"172.31.0.0/16+",       // ChaosVPN
		"fd00::/8{44,64}",
	)
	denied := Rule{
		Name:   "registry-denied",
		Match:  Match{Prefixes: ranges("172.22.166.0/24+", "fdd6:6302:7c04::/48+")},
		Action: Reject,
	}
	own := Rule{Name: "own", Match: Match{Source: SourceOwn, Prefixes: permitted}, Action: Accept}
	transit := Rule{Name: "transit", Match: Match{Source: SourceTunnel, Prefixes: slices.Clone(permitted)}, Action: Accept}
	return &Policy{
		Import: []Rule{
			denied, originInvalid(), gracefulShutdown(), ignoreBlackhole(),
			{Name: "dn42", Match: Match{Prefixes: slices.Clone(permitted)}, Action: Accept},
		},
		Export:       []Rule{denied, own, transit},
		MaxASPath:    dn42MaxASPath,
		MaxPrefixes4: dn42MaxPrefixes,
		MaxPrefixes6: dn42MaxPrefixes,
	}
}

// gracefulShutdown makes a route the last choice while its announcer is about to go (RFC 8326 section 4).
func gracefulShutdown() Rule {
	return Rule{
		Name:   "graceful-shutdown",
		Match:  Match{Communities: []string{"graceful-shutdown"}},
		Set:    Set{LocalPref: new(uint32(0))},
		Action: Next,
	}
}

// ignoreBlackhole strips a request that we do not honour, so that we do not pass it on either (RFC 7999 section 3.2).
func ignoreBlackhole() Rule {
	return Rule{
		Name:   "ignore-blackhole",
		Match:  Match{Communities: []string{"blackhole"}},
		Set:    Set{RemoveCommunities: []string{"blackhole"}},
		Action: Next,
	}
}

// originInvalid refuses what somebody else has the right to originate. It refuses nothing without a source of payloads.
func originInvalid() Rule {
	return Rule{Name: RPKIInvalid, Match: Match{RPKI: []Validity{Invalid}}, Action: Reject}
}

func acceptAll(name string) Rule { return Rule{Name: name, Action: Accept} }

func from(source string) Rule {
	return Rule{Name: source, Match: Match{Source: source}, Action: Accept}
}

func ranges(texts ...string) []PrefixRange {
	out := make([]PrefixRange, len(texts))
	for i, s := range texts {
		r, err := ParsePrefixRange(s)
		if err != nil {
			panic(err) // as in Profile
		}
		out[i] = r
	}
	return out
}

// Clone returns a copy that shares nothing with p and is not compiled.
func (p *Policy) Clone() *Policy {
	c := *p
	c.compiled = nil
	c.Import, c.Export = cloneRules(p.Import), cloneRules(p.Export)
	return &c
}

func cloneRules(rules []Rule) []Rule {
	out := slices.Clone(rules)
	for i := range out {
		m, s := &out[i].Match, &out[i].Set
		m.Prefixes = slices.Clone(m.Prefixes)
		m.Communities = slices.Clone(m.Communities)
		m.OriginAS = slices.Clone(m.OriginAS)
		m.RPKI = slices.Clone(m.RPKI)
		s.AddCommunities = slices.Clone(s.AddCommunities)
		s.RemoveCommunities = slices.Clone(s.RemoveCommunities)
		if s.LocalPref != nil {
			s.LocalPref = new(*s.LocalPref)
		}
		if s.MED != nil {
			s.MED = new(*s.MED)
		}
	}
	return out
}

// MatchesPrefix reports whether one of the ranges contains the prefix. For long lists compile a policy instead.
func MatchesPrefix(list []PrefixRange, p netip.Prefix) bool {
	return slices.ContainsFunc(list, func(r PrefixRange) bool { return r.Contains(p) })
}
