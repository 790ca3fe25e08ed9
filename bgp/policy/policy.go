// Package policy says what may come in from a BGP neighbour and go out to it, as data, and evaluates it.
//
// Job: rules, their evaluation with the name of the deciding rule, the fixed refusals, and the built-in profiles.
// Owner: nobody; values are immutable once the configuration is loaded.
// Inputs: the configuration file; routes as plain values.
// Outputs: verdicts that say which rule decided and how the attributes change.
// Invariants: pure; no GoBGP type; a policy without rules accepts nothing (RFC 8212).
package policy

import "net/netip"

// PrefixRange matches prefixes that lie within Prefix and whose length is between Min and Max (both included).
// In the file: "10.0.0.0/8" (exact), "10.0.0.0/8{15,24}", "10.0.0.0/8+" (that and longer).
type PrefixRange struct {
	Prefix   netip.Prefix
	Min, Max int
}

// Action of a rule.
type Action uint8

// What a matching rule does. The zero value rejects, so that a forgotten action lets nothing through.
const (
	Reject Action = iota
	Accept
	// Next applies the changes and goes on to the next rule.
	Next
)

// Match lists conditions; all that are given must hold. An empty Match holds for every route.
type Match struct {
	// Prefixes: any one of them.
	Prefixes []PrefixRange `json:"prefixes,omitempty"`
	// Communities: any one of them is on the route. "64511:24", "64511:1:2" (large), or a well-known name
	// (no-export, no-advertise, blackhole, graceful-shutdown).
	Communities []string `json:"communities,omitempty"`
	// ASPath is a regular expression over the AS path in the notation of BIRD and FRR's `_` ("^64512_", "_666$").
	ASPath string `json:"as_path,omitempty"`
	// OriginAS: the last AS of the path is one of them.
	OriginAS []uint32 `json:"origin_as,omitempty"`
	// ASPathMin and ASPathMax bound the length of the AS path; 0 is no bound.
	ASPathMin int `json:"as_path_min,omitempty"`
	ASPathMax int `json:"as_path_max,omitempty"`
	// Family is "ipv4", "ipv6" or empty.
	Family string `json:"family,omitempty"`
	// Source, for export: "own" (announced by this site), "tunnel" (learned behind a tunnel), "lan" (learned from a
	// neighbour that is not behind a tunnel), or empty.
	Source string `json:"source,omitempty"`
	// RPKI, for import: the origin's validity is one of these, in the table RPKITable (empty is DefaultTable). Without
	// a source for the table nothing matches.
	RPKI      []Validity `json:"rpki,omitempty"`
	RPKITable string     `json:"rpki_table,omitempty"`
}

// Set lists the changes that an accepting or Next rule makes; nil and empty mean no change.
type Set struct {
	LocalPref         *uint32  `json:"local_pref,omitempty"`
	MED               *uint32  `json:"med,omitempty"`
	Prepend           int      `json:"prepend,omitempty"` // own ASN, this many more times
	AddCommunities    []string `json:"add_communities,omitempty"`
	RemoveCommunities []string `json:"remove_communities,omitempty"` // values, "64511:*", or "*"
	NextHopSelf       bool     `json:"next_hop_self,omitempty"`
}

// Rule is one step of a policy.
type Rule struct {
	Name   string `json:"name"`
	Match  Match  `json:"match,omitzero"`
	Action Action `json:"action"`
	Set    Set    `json:"set,omitzero"`
}

// Policy is a named pair of rule lists. The first accepting or rejecting match decides; no match rejects.
// Compile it before it is shared between goroutines.
type Policy struct {
	Name   string `json:"name"`
	Import []Rule `json:"import"`
	Export []Rule `json:"export"`
	// AllowDefault lets 0.0.0.0/0 and ::/0 reach the import rules; otherwise they are refused before.
	AllowDefault bool `json:"allow_default,omitempty"`
	// AllowThirdPartyNextHop accepts next hops that are not the neighbour's own address.
	AllowThirdPartyNextHop bool `json:"allow_third_party_next_hop,omitempty"`
	// AllowOwnParts lets prefixes within our own, longer than them, reach the import rules: for neighbours inside the
	// site, and for hubs that announce an aggregate of their branches. Our own prefixes themselves stay refused.
	AllowOwnParts bool `json:"allow_own_parts,omitempty"`
	// MaxASPath is the longest AS path accepted; 0 means 64.
	MaxASPath int `json:"max_as_path,omitempty"`
	// MaxPrefixes limits the accepted prefixes of a family: over it further ones are refused and the session stays.
	// 0 is no limit. WarnAt is the share in percent at which a warning is logged; 0 means 80.
	MaxPrefixes4 int `json:"max_prefixes_ipv4,omitempty"`
	MaxPrefixes6 int `json:"max_prefixes_ipv6,omitempty"`
	WarnAt       int `json:"warn_at,omitempty"`

	compiled *program // set by Compile
}

// Route is what rules see.
type Route struct {
	Prefix netip.Prefix
	// ASPath from the neighbour to the origin; members of sets are listed like any other.
	ASPath []uint32
	// NextHop as received. `::` stands for the neighbour's own link-local address, which GoBGP does not pass on. In a
	// Verdict an invalid NextHop is the address that we speak from.
	NextHop     netip.Addr
	Communities []string // standard and large, in the notation of Match.Communities
	LocalPref   uint32
	MED         uint32
	Source      string // as Match.Source
	// ASSet says that the path has a set or a confederation segment: no payload matches its origin.
	ASSet bool
}

// Context is what the fixed refusals need to know about the session and about this site.
type Context struct {
	LocalASN     uint32
	NeighbourASN uint32
	// Neighbour is the session's remote address; NextHops are further addresses that are the neighbour's own
	// (its IPv4 address in the tunnel).
	Neighbour netip.Addr
	NextHops  []netip.Addr
	// Own are the prefixes of this site, refused when they or parts of them come in.
	Own []netip.Prefix
	// Endpoints are the outer addresses of all tunnels; a prefix that covers one is refused (a default route that
	// was asked for excepted: the firewall mark protects the underlay there).
	Endpoints []netip.Addr
	// Origins for rules that ask for an origin's validity; nil has no tables.
	Origins Origins
}

// Verdict is the outcome of an evaluation.
type Verdict struct {
	Accepted bool `json:"accepted"`
	// Rule is the deciding rule's name, or the reason of a fixed refusal: one of the constants below.
	Rule string `json:"rule"`
	// Route as the rules left it; as it came if it was not accepted.
	Route Route `json:"-"`
}

// Reasons of fixed refusals, in Verdict.Rule. No rule may have such a name.
const (
	NoPolicy      = "no_policy"       // RFC 8212: neither direction without a policy
	InvalidPolicy = "invalid_policy"  // a policy that Compile refuses: nothing passes
	NoRule        = "no_rule"         // no rule accepted or rejected it
	Martian       = "martian"         // RFC 7454 section 6.1.1: not routable between sites
	DefaultRoute  = "default_route"   // 0.0.0.0/0, ::/0, or a prefix so short that it can only be a part of one
	OwnPrefix     = "own_prefix"      // RFC 7454 section 6.1.4: ours, or within ours
	CoversTunnel  = "covers_endpoint" // would route a tunnel's packets into a tunnel
	ASPathLength  = "as_path_length"  // longer than MaxASPath
	ASZero        = "as_zero"         // RFC 7607
	FirstAS       = "first_as"        // RFC 4271 section 6.3: the path does not begin with the neighbour
	ASLoop        = "as_loop"         // RFC 4271 section 9.1.2: our ASN is in the path
	NextHop       = "next_hop"        // RFC 7454 section 9: not the neighbour's own address
	NoAdvertise   = "no_advertise"    // RFC 1997
	NoExport      = "no_export"       // RFC 1997: learned with no-export or local-as, towards another AS
)

// Reasons lists the reasons of fixed refusals.
func Reasons() []string {
	return []string{
		NoPolicy, InvalidPolicy, NoRule, Martian, DefaultRoute, OwnPrefix, CoversTunnel, ASPathLength, ASZero,
		FirstAS, ASLoop, NextHop, NoAdvertise, NoExport,
	}
}
