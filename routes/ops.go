package routes

import (
	"context"
	"net/netip"
)

// RouteType is what the kernel does with packets of a route.
type RouteType uint8

// Types of routes; the names are those of ip-route(8).
const (
	Unicast RouteType = iota
	Unreachable
)

// Hop is one way out of a route. At least one field is set.
type Hop struct {
	// Device to send through; may be empty if Via says enough (an address on a connected network).
	Device string
	// Via is the next router, of either family; invalid on a tunnel, where the allowed-IPs choose the peer.
	Via netip.Addr
}

// Route is a row of the kernel's table as this program writes it. Table, metric, protocol number and preferred
// source are the same for all rows of a family and belong to the FIB.
type Route struct {
	Prefix netip.Prefix
	Type   RouteType
	// Hops in canonical order (sorted, no duplicates): more than one is a multipath route.
	Hops []Hop
	// Backup takes over while every device of Hops is diverted (see Switcher). It is only ever set where there is a Switcher.
	Backup []Hop
}

// AllowedIP says that a peer owns a prefix on a device. Names, not keys.
type AllowedIP struct {
	Device string       `json:"device"`
	Prefix netip.Prefix `json:"prefix"`
	Peer   string       `json:"peer"`
}

// OpKind is the kind of an Op. The order of the constants is the order in which a plan runs.
type OpKind uint8

// Kinds of operations.
const (
	Divert   OpKind = iota // let the routes through the device take their other ways, all at once
	Allow                  // give the prefix to the peer, or move it there
	Install                // add the route, or replace it in place
	Withdraw               // remove the route
	Disallow               // take the prefix from the peer
	Restore                // end a diversion
	OpKinds                // their number
)

// Op is one change of the world outside. It prints as one line (see String), it is idempotent, and it is the only
// way in which the syncer changes anything.
type Op struct {
	Kind    OpKind
	Allowed AllowedIP // for Allow and Disallow
	Route   Route     // for Install and Withdraw
	Device  string    // for Divert and Restore
}

// FIB is the kernel's routing table, seen through one table number and one protocol number.
type FIB interface {
	// Write runs Install and Withdraw operations, in order and in as few system calls as it can. The result has one
	// entry for each op; nil is success, and "exists" and "not found" are success.
	Write(ctx context.Context, ops []Op) []error
	// List returns every route with our protocol number in our table, whoever put it there.
	List(ctx context.Context) ([]Route, error)
	// Connected returns the networks that are on link, with their devices: for next hops that need resolving.
	Connected(ctx context.Context) ([]Route, error)
	// Changed is signalled (capacity one, no data) when the kernel's routes, links or addresses may have changed
	// otherwise than by Write, and when notifications were lost.
	Changed() <-chan struct{}
}

// Switcher moves all routes through a device at once. A FIB has one where routes can share what says where they lead:
// the kernel's nexthop objects.
//
// While a device is diverted, routes that were or are written with it among their Hops lead through the other hops; those
// that have no other hop lead through their Backup, and those without a usable one stay as they are.
type Switcher interface {
	// Switch runs Divert and Restore operations; results as for FIB.Write. It may be called while FIB.Write and FIB.List
	// run, and does not wait for them.
	Switch(ctx context.Context, ops []Op) []error
	// Tidy removes what no route uses any more.
	Tidy(ctx context.Context) error
}

// Tunnels are the devices' allowed-IPs.
type Tunnels interface {
	// Write runs Allow and Disallow operations, in order, batched by device; results as for FIB.Write.
	Write(ctx context.Context, ops []Op) []error
	// List returns what every peer of every device owns now. Peers that the configuration does not know are named by
	// their public key.
	List(ctx context.Context) ([]AllowedIP, error)
}

// Exact may be implemented by Tunnels where it is not so of all devices.
type Exact interface {
	// Exact tells whether the device takes an allowed-IP away without losing a packet that another entry takes over. Others get
	// every prefix written: see Policy.CompressAbove.
	Exact(device string) bool
}
