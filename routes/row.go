package routes

import (
	"cmp"
	"net/netip"
	"slices"
	"strings"
)

func compareNames(a, b string) int { return strings.Compare(a, b) }

// Source says where a route comes from.
type Source uint8

// Sources of routes.
const (
	NoSource Source = iota // there is no route
	BGP
	Static // configured prefix of a peer
	Tunnel // tunnel address of a peer of a shared device
	Own    // unreachable route for an announced prefix
)

func (s Source) String() string {
	switch s {
	case BGP:
		return "bgp"
	case Static:
		return "static"
	case Tunnel:
		return "tunnel"
	case Own:
		return "own"
	case NoSource:
	}
	return ""
}

// State says why there is a route for a prefix, or none.
type State uint8

// States of a prefix.
const (
	NoBest     State = iota // no best path
	Selected                // there is a route
	Unresolved              // no next hop resolves
	Refused                 // by a rule of this package: own prefix, another peer's prefix, limit
	Down                    // the tunnel is dead
	Local                   // the best path is our own
)

// Row is what is desired for a prefix, and the paths it follows from. Immutable.
type Row struct {
	Prefix netip.Prefix
	*Decision
	*known
}

// known is what BGP says of a prefix. Rows of the same UPDATE share one. Immutable, but in a draft.
type known struct {
	paths []rpath  // by neighbour
	best  []member // by neighbour
}

// Decision is what follows from the paths of a prefix. Rows that say the same share one. Immutable.
type Decision struct {
	// State and Reason say why there is no route; Reason is empty if there is one.
	State  State
	Reason string
	Source Source
	// Ways out of the desired route, sorted as its hops; empty if there is none.
	Ways []Way
	// Backup is the way that packets take from the moment when the tunnel of the only way is lost; nil if there is none, or
	// no Switcher.
	Backup *Way
	// Discard wants an unreachable route beside, for a prefix of our own.
	Discard bool
	// Owners are the desired allowed-IPs, sorted by device: one for each device at most.
	Owners []Owner
	// conflicts are the devices on which more than one peer wants the prefix.
	conflicts []string
	// hops of Ways and of Backup.
	hops, backupHops []Hop
}

// undecided is that of a prefix of which nothing is known.
var undecided = &Decision{}

func newRow(p netip.Prefix) *Row { return &Row{Prefix: p, Decision: undecided, known: new(known)} }

func (r *Row) key() netip.Prefix { return r.Prefix }

// Way is a hop and who is behind it.
type Way struct {
	Hop Hop
	// Peer that the packets go to; empty where the hop is not a tunnel.
	Peer string
	// Label of the neighbour that announced the path, or the peer.
	Label string
}

// Owner is a peer that owns a prefix on a device.
type Owner struct{ Device, Peer string }

// rpath is a neighbour's path.
type rpath struct {
	from *neighbour
	path *Path
}

// member of a best set. A nil from.name ("") is a path of our own.
type member struct {
	from    *neighbour
	nextHop netip.Addr
}

// Route that is desired; ok is false if there is none.
func (r *Row) Route() (_ Route, ok bool) {
	return Route{Prefix: r.Prefix, Hops: r.hops, Backup: r.backupHops}, len(r.hops) > 0
}

func (r *Row) empty() bool {
	return len(r.paths) == 0 && len(r.best) == 0 && len(r.Ways) == 0 && len(r.Owners) == 0 && !r.Discard
}

func (r *Row) owner(device string) (string, bool) {
	i, ok := slices.BinarySearchFunc(r.Owners, device, func(o Owner, d string) int { return cmp.Compare(o.Device, d) })
	if !ok {
		return "", false
	}
	return r.Owners[i].Peer, true
}

// sameWanted tells whether two rows want the same of the kernel and the devices. Either may be nil.
func sameWanted(a, b *Row) bool {
	if a == nil || b == nil {
		return (a == nil || !a.wants()) && (b == nil || !b.wants())
	}
	return a.Decision == b.Decision || a.Discard == b.Discard && slices.Equal(a.Ways, b.Ways) &&
		slices.Equal(a.Owners, b.Owners) && slices.Equal(a.backupHops, b.backupHops)
}

func (r *Row) wants() bool { return len(r.Ways) > 0 || len(r.Owners) > 0 || r.Discard }

// Snapshot is the desired state of everything. Immutable; consecutive ones share what did not change. In that of a Status the
// rows are as new as when somebody looks at the first of them.
type Snapshot struct {
	rows *published[*Row]
	// devices tells of those that one peer has to itself whether it can be reached; of the others nothing. lost are those
	// where it cannot be.
	devices map[string]liveness
	lost    []string
	Counts  Counts
	// compression is the Table's: it is for the Table's goroutine, and says what belongs to its newest snapshot.
	compression *compression
}

// Counts of a Snapshot. The maps are shared between snapshots: read only. Arrays are indexed by Family.
type Counts struct {
	Paths    [2]int // accepted or not
	Prefixes [2]int // with at least one path
	// Routes that are desired, by family, source and label; one of several ways counts under each of them.
	Routes map[RouteKey]int
	// Without a route, though there is a best path.
	Unresolved, Refused, Down [2]int
	// AllowedIPs that are desired.
	AllowedIPs map[PeerFamily]int
	// Conflicts are prefixes that more than one peer of a device wants, by device.
	Conflicts map[string]int
}

// RouteKey is what routes are counted by.
type RouteKey struct {
	Family Family
	Source Source
	// Label is the peer, or the neighbour on the LAN; empty for Own.
	Label string
}

// PeerFamily is what allowed-IPs are counted by.
type PeerFamily struct {
	Peer   string
	Family Family
}

// Get returns the row of a prefix; nil if nothing is known of it.
func (s *Snapshot) Get(p netip.Prefix) *Row {
	r, _ := s.rows.get().get(p)
	return r
}

// Len is the number of rows.
func (s *Snapshot) Len() int { return s.rows.get().size }

// Rows returns all rows, IPv4 first, in order.
func (s *Snapshot) Rows() func(yield func(*Row) bool) {
	return func(yield func(*Row) bool) {
		for _, p := range s.rows.get().sorted() {
			if !yield(s.Get(p)) {
				return
			}
		}
	}
}
