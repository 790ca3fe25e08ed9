package routes

import (
	"net/netip"
	"time"
)

// Attrs are the BGP attributes of a path, for explanations and listings. Shared between paths; never modified.
type Attrs struct {
	ASPath           []uint32 `json:"as_path"`
	Origin           string   `json:"origin"` // igp, egp, incomplete
	LocalPref        uint32   `json:"local_pref"`
	MED              uint32   `json:"med"`
	Communities      []string `json:"communities,omitempty"`       // "64511:24"
	LargeCommunities []string `json:"large_communities,omitempty"` // "4242420001:100:1"
}

// Path is one BGP path for a prefix, from one neighbour, as import policy left it.
type Path struct {
	// NextHop to use: the session's peer address where the neighbour is behind a tunnel (the received next hop of a
	// link-local session is not usable), else the received one; link-local addresses carry their zone.
	NextHop netip.Addr
	// Rejected is why import policy or a fixed refusal turned the path down; empty for an accepted path.
	Rejected string
	// Attrs after import policy.
	Attrs *Attrs
	// Received is when the UPDATE was read from the session, with nanoseconds.
	Received time.Time
	// Session counts the neighbour's sessions, so that what a restarted neighbour did not announce again can be told.
	Session uint32
}

// BestChange changes the set of best paths of a prefix by one member. Changes handed to Feed.PutBest together take
// effect together.
type BestChange struct {
	Prefix    netip.Prefix
	Neighbour string     // "" for a path of our own
	NextHop   netip.Addr // as in Path
	// Withdrawn removes the member. Otherwise it is added, or takes the place of the whole set if Replace.
	Withdrawn, Replace bool
	// At is when the change was decided. When the UPDATE behind it was read is in the Path.
	At time.Time
}

// Family is an address family of routes.
type Family uint8

// The two families, in the order in which they are always shown.
const (
	IPv4 Family = iota
	IPv6
)

// FamilyOf returns the family of a prefix.
func FamilyOf(p netip.Prefix) Family {
	if p.Addr().Is4() {
		return IPv4
	}
	return IPv6
}

func (f Family) String() string {
	if f == IPv4 {
		return "ipv4"
	}
	return "ipv6"
}
