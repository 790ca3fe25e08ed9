// Package host is what the gateway asks of the machine apart from WireGuard devices and routes.
//
// Job: addresses and settings of tunnel devices, the policy rules that keep encrypted packets out of the tunnels, the firewall table, and
// questions: is forwarding on, how large may a packet to an endpoint be.
// Owner: the gateway's tasks. A Host keeps the addresses that it set and nothing else; its methods may be called from several goroutines.
// Inputs: the ...Config values, each a complete description of what should be.
// Outputs: rtnetlink, nftables and /proc/sys/net of the calling thread's network namespace.
// Invariants: every Set is idempotent and changes only what differs, so it can be called again and again to mend what others broke. Only what
// carries our protocol number (addresses, rules, routes of the underlay table), our firewall table and the settings of devices that the
// caller names are ever changed. Add before delete.
//
// # Rules: how encrypted packets stay out of the tunnels
//
// A learned route that covers a tunnel's endpoint would lead the tunnel into itself (a few packets become hundreds of thousands). WireGuard's
// sockets mark what they send, and rules give marked packets another way. Which rules depends on where the learned routes live.
//
// In the main table (table 254, what operators of dn42 and BIRD do; the other routes' metrics decide as usual):
//
//	P    from all fwmark MARK lookup main suppress_ifgroup TUNNELS
//	P+1  from all fwmark MARK lookup UNDERLAY
//	P+2  from all fwmark MARK unreachable
//
// A marked packet uses the main table, except that an answer "through a tunnel" does not count (SetLink puts tunnel devices into a device
// group). Then the default routes of the underlay decide, of which the table UNDERLAY has copies: so a default route may be learned
// through a tunnel. Without any the packet is refused. So a packet may be lost while its endpoint is covered, but it does not loop. (The
// kernel judges a multipath route by its first hop, so mixed routes over tunnels and LAN must not cover endpoints: import policy refuses them.)
//
// In a table of their own (table N):
//
//	P    from all lookup main suppress_prefixlength 0
//	P+1  not from all fwmark MARK lookup N
//
// Whatever the main table knows better than by its default route wins: a learned 10.0.0.0/8 cannot take away a connected 10.1.0.0/16, nor a route
// that the administrator made. The price: a learned prefix inside a larger static one of the main table is not used. Learned routes, a
// default route too, win over the default route of the main table. Marked packets do not see table N at all.
//
// Both families get the same rules. Without a mark there is no guard: none of the rules in the first case, P+1 for all packets in the second.
package host

import (
	"errors"
	"log/slog"
	"sync"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Defaults of Options.
const (
	// DefaultProtocol marks our addresses, rules and underlay routes. It is the number that marks the routes, too.
	DefaultProtocol = 83
	// DefaultGroup is the device group of tunnels; "SW" in ASCII.
	DefaultGroup = 0x5357
	// DefaultUnderlay is the table with copies of the underlay's default routes.
	DefaultUnderlay = 0x5357
)

// Options of a Host. Zero values mean the defaults above.
type Options struct {
	Protocol uint8
	Group    uint32
	Underlay uint32
	Log      *slog.Logger // nil is silent
}

// Host is this machine.
type Host struct {
	protocol uint8
	group    uint32
	underlay uint32
	log      *slog.Logger

	counters *counters

	mu sync.Mutex
	// rulesSet is what SetRules last put in place, and links what SetLink did, by name. wallSet says that SetFirewall did.
	rulesSet *RulesConfig
	wallSet  bool
	links    map[string]linkLeft
	// set are the addresses that SetLink gave to a device: kernels before 5.18 do not keep the protocol of an address.
	set map[string]map[Address]bool
}

// New makes a Host. It touches nothing.
func New(o Options) *Host {
	h := &Host{protocol: o.Protocol, group: o.Group, underlay: o.Underlay, log: o.Log, set: map[string]map[Address]bool{}, links: map[string]linkLeft{}, counters: newCounters()}
	if h.protocol == 0 {
		h.protocol = DefaultProtocol
	}
	if h.group == 0 {
		h.group = DefaultGroup
	}
	if h.underlay == 0 {
		h.underlay = DefaultUnderlay
	}
	if h.log == nil {
		h.log = slog.New(slog.DiscardHandler)
	}
	return h
}

// families are those of rules and routes; a kernel without IPv6 lacks the second.
var families = [...]int{unix.AF_INET, unix.AF_INET6}

// whole lists something of the kernel until nothing changed meanwhile: a list that was interrupted may lack what was there all the time. On a
// machine where many devices come at once that is common.
func whole[T any](list func() ([]T, error)) (out []T, err error) {
	const tries = 20
	for range tries {
		if out, err = list(); !errors.Is(err, netlink.ErrDumpInterrupted) {
			break
		}
	}
	return out, err
}
