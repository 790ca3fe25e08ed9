package routes

import (
	"net/netip"
	"time"
)

// Defaults of Policy.
const (
	DefaultSweepAfter     = 2 * time.Minute
	DefaultReconcileEvery = 30 * time.Second
)

// Mode says where a peer's allowed-IPs come from.
type Mode uint8

// Modes of allowed-IPs.
const (
	// Learned: own device: every prefix with an accepted path from the peer, best or not (RFC 3704 section 2.3);
	// shared device: the prefixes whose best path is through the peer.
	Learned Mode = iota
	// Any: 0.0.0.0/0 and ::/0.
	Any
	// List: exactly Peer.Prefixes.
	List
)

// Peer is what the syncer must know of a tunnel peer.
type Peer struct {
	Name   string
	Device string
	// Shared says that the device has, or may have, other peers.
	Shared bool
	Mode   Mode
	// Tunnel are the peer's own addresses in the tunnel, as host prefixes: always allowed, except under Any (which
	// covers them), and installed as routes only when Shared and not link-local.
	Tunnel []netip.Prefix
	// Prefixes of a peer in mode List: allowed always.
	Prefixes []netip.Prefix
	// Static says that Prefixes are routed to the peer while it is alive (a peer without BGP).
	Static bool
}

// Neighbour tells how routes learned from a BGP neighbour leave this router.
type Neighbour struct {
	Name string
	// Peer is the tunnel peer it is behind; empty for a neighbour on the LAN, whose next hops are used as they are.
	Peer string
	// Recursive says that next hops may be further away than one hop (iBGP, multihop): they are resolved through our
	// own table and the connected networks.
	Recursive bool
	// Families that the session carries: the first sync waits for End-of-RIB in each of them. Empty is both.
	Families []Family
	// Disabled says that there is no session: the first sync does not wait for it.
	Disabled bool
}

// Policy is what the configuration says of routes. Immutable once handed over.
type Policy struct {
	Peers      []Peer
	Neighbours []Neighbour
	// Own prefixes are announced by us: never installed from BGP. With Unreachable they are installed as unreachable
	// routes of a metric that every other route beats, so that packets for absent parts do not loop.
	Own         []netip.Prefix
	Unreachable bool
	// MaxPaths of one route; 0 and 1 mean a single path.
	MaxPaths int
	// MaxRoutes that are installed in a family; further ones are kept, shown as refused, and counted. 0 is no limit.
	MaxRoutes int
	// CompressAbove is how many allowed-IPs a device may have before they are compressed (see the package comment); 0 is
	// never. They are written in full again when there are less than half as many.
	CompressAbove int
	// SweepAfter bounds the wait for End-of-RIB of all neighbours before leftovers of an earlier run are swept; 0 means
	// DefaultSweepAfter.
	SweepAfter time.Duration
	// ReconcileEvery is the period of the full comparison with the kernel and the devices; 0 means
	// DefaultReconcileEvery.
	ReconcileEvery time.Duration
}
