// Package config turns sitewire.yaml into a Config.
//
// Job: read the file and its conf.d, find every mistake at once and say where it is; defaults, canonical print,
// differences between two configurations, and the JSON Schema of the file.
// Owner: nobody; a *Config is immutable once Load returned it, and may be shared between goroutines.
// Inputs: one YAML file, conf.d/*.yaml beside it, and what ${file:}, ${cred:} and ${env:} name.
// Outputs: *Config with final values (defaults filled, names resolved), Errors with positions, Warnings.
// Invariants: a Config that Load returns is complete and consistent; no secret in any error, warning or print; the
// same files give the same Config in whatever order maps are written; nothing is touched but the files named.
package config

import (
	"fmt"
	"log/slog"
	"net/netip"
	"strconv"
	"time"

	"sitewire/bgp/policy"
	"sitewire/gateway/wg"
)

// Config is the whole configuration of a gateway, with every default filled in.
type Config struct {
	// Path of the main file, and Files, all files read, in the order in which they were merged.
	Path  string
	Files []string

	// Site is the name of this site, for people: logs, metrics, status.
	Site string
	// ASN of this site; 0 if no peer and no neighbour speaks BGP.
	ASN uint32
	// RouterID is the BGP identifier (RFC 6286): an IPv4 address, not 0.0.0.0; invalid if ASN is 0.
	RouterID netip.Addr
	// Announce are the prefixes of this site, sorted.
	Announce []Announcement

	Log       Log
	StateDir  string // directory for keys and saved state
	Socket    string // path of the status API's unix socket
	Metrics   Metrics
	WireGuard WireGuard
	Probe     Probe
	BGP       BGP
	RPKI      RPKI
	Routes    Routes

	// Policies defined by the file, and the built-in ones that it uses, by name.
	Policies map[string]*policy.Policy
	// Peers and Neighbours, sorted by name.
	Peers      []*Peer
	Neighbours []*Neighbour

	// Warnings are things that are allowed and probably not meant.
	Warnings []Warning
}

// Announcement is a prefix of our own.
type Announcement struct {
	Prefix netip.Prefix
	// Communities to originate it with, in the notation of policy.Match.
	Communities []string
}

// Log says what is logged and how.
type Log struct {
	Level  slog.Level
	Format string // "text" or "json"
}

// Metrics says where Prometheus scrapes.
type Metrics struct {
	// Listen is host:port; empty turns the listener off.
	Listen string
	// WebConfig is the path of the file that asks for TLS and passwords; empty is neither.
	WebConfig string
	// Monitored prefixes, of which the metrics tell whether each session receives and is sent them.
	Monitored []netip.Prefix
	// DeviceCounters asks for the kernel's packet counters of tunnel devices, EndpointInfo for the outer addresses of peers.
	DeviceCounters, EndpointInfo bool
}

// Backend names an implementation of WireGuard.
type Backend string

// Backends.
const (
	BackendAuto      Backend = "auto" // the kernel's if it has it, else userspace
	BackendKernel    Backend = "kernel"
	BackendUserspace Backend = "userspace"
)

// WireGuard is what all devices have in common, and the shared device.
type WireGuard struct {
	Backend    Backend
	PrivateKey wg.Secret
	// PublicKey belongs to PrivateKey.
	PublicKey wg.PublicKey
	// Device is the name of the device that peers share; empty if every peer has its own.
	Device string
	// ListenPort of the shared device; 0 if there is none.
	ListenPort uint16
	// FirewallMark on encrypted packets, so that a rule keeps them out of the tunnels.
	FirewallMark uint32
	// MTU of devices whose peer does not say otherwise, in bytes; 0 means from the path to the endpoint.
	MTU int
	// StatsShare is the share of the time, in percent, that reading the statistics of a kernel device may take.
	StatsShare int
}

// Probe says how tunnels are probed with echoes.
type Probe struct {
	// Interval between two echoes to a peer that does not say otherwise; 0 is off. Timeout is when one counts as lost.
	Interval, Timeout time.Duration
	// MTU looks for the largest packet that gets through each tunnel.
	MTU bool
}

// BGP is what all sessions have in common.
type BGP struct {
	// Port to listen on; -1 does not listen.
	Port int
	// Listen are the addresses to listen on; empty is every address.
	Listen []netip.Addr
	// HoldTime, Keepalive and ConnectRetry are the defaults of sessions.
	HoldTime, Keepalive, ConnectRetry time.Duration
	// SendHoldTime, likewise, is after how long without reading anything a neighbour's session ends (RFC 9687); 0 leaves it to the hold time,
	// negative is off.
	SendHoldTime time.Duration
	// GracefulRestart offers RFC 4724 to every neighbour; RestartTime is what helpers are asked to wait.
	GracefulRestart bool
	RestartTime     time.Duration
	// MaxPaths of one route, at least 1.
	MaxPaths int
	// BFD of sessions that do not say otherwise.
	BFD BFD
}

// Routes says how routes are written to the kernel.
type Routes struct {
	Table    uint32 // routing table number; 254 is main
	Metric   uint32 // priority of our routes; lower wins
	Protocol uint8  // rtm_protocol that marks our routes
	// SourceIPv4 and SourceIPv6 are the preferred sources of our routes; invalid leaves the choice to the kernel.
	SourceIPv4, SourceIPv6 netip.Addr
	// Unreachable installs unreachable routes for the announced prefixes, so that packets for absent parts do not loop.
	Unreachable bool
	// NexthopObjects lets routes through tunnels share the kernel's nexthop objects, where it has them; NexthopCompatOff sets
	// net.ipv4.nexthop_compat_mode to 0 for them, which is a setting of the whole namespace.
	NexthopObjects, NexthopCompatOff bool
	// MaxRoutes to install in a family; 0 is no limit.
	MaxRoutes int
	// CompressAbove is how many allowed-IPs a device may have before they are compressed; 0 is never.
	CompressAbove int
	// ReconcileEvery is the period of the full comparison with the kernel; SweepAfter is how long leftovers of an
	// earlier run stay while neighbours have not sent End-of-RIB.
	ReconcileEvery, SweepAfter time.Duration
}

// Mode says where a peer's allowed-IPs come from.
type Mode string

// Modes of allowed-IPs (see docs/configuration.md).
const (
	Learned Mode = "learned"
	Any     Mode = "any"
	List    Mode = "list"
)

// Peer is a remote gateway at the other end of a tunnel.
type Peer struct {
	Name, Description string
	PublicKey         wg.PublicKey
	PresharedKey      wg.Secret // zero: none
	// PrivateKey of the device that the peer lives on, and OwnKey, the public key that belongs to it: WireGuard's, unless the peer's own
	// device has another.
	PrivateKey wg.Secret
	OwnKey     wg.PublicKey
	// Endpoints to try, in order; empty waits for the peer to call.
	Endpoints []Endpoint
	// PinEndpoint keeps the configured endpoint when the peer's packets come from elsewhere.
	PinEndpoint bool
	// Device the peer lives on; Shared if it is WireGuard.Device.
	Device string
	Shared bool
	// ListenPort of the peer's own device; 0 lets the kernel choose. On a shared device it is that device's.
	ListenPort uint16
	// MTU of the peer's own device in bytes; 0 means from the path to the endpoint.
	MTU int
	// Keepalive is WireGuard's persistent keepalive; 0 is off.
	Keepalive time.Duration
	// DeadAfter is how long a tunnel may be silent before it counts as dead; WireGuard's own limit is 180 s
	// (wg.RejectAfterTime). Less needs keepalives from the other end.
	DeadAfter time.Duration
	// Probe is the interval of echoes through the tunnel; 0 sends none.
	Probe  time.Duration
	Tunnel Tunnel
	// Mode of the allowed-IPs; Prefixes are those of mode List.
	Mode     Mode
	Prefixes []netip.Prefix
	// ASN of the peer; 0 does not speak BGP.
	ASN uint32
	// Sessions with the peer: none without an ASN, two if IPv4 and IPv6 are split.
	Sessions []*Session
	// Policy of the sessions; nil exchanges nothing (RFC 8212).
	Policy *policy.Policy
}

// Tunnel are the inner addresses of a tunnel. Those without a prefix length are host addresses; the zone of
// link-local ones is not set (it is Peer.Device).
type Tunnel struct {
	// Local and Remote are the addresses that BGP speaks between: IPv6 link-local unless configured otherwise.
	Local, Remote netip.Addr
	// Derived says that Local and Remote follow from the public keys (see LinkLocal).
	Derived bool
	// Further addresses of either family; invalid if there are none.
	LocalIPv4, RemoteIPv4 netip.Addr
	LocalIPv6, RemoteIPv6 netip.Addr
}

// Locals returns our addresses in the tunnel, without duplicates.
func (t Tunnel) Locals() []netip.Addr { return known(t.Local, t.LocalIPv4, t.LocalIPv6) }

// Remotes returns the peer's addresses in the tunnel, without duplicates.
func (t Tunnel) Remotes() []netip.Addr { return known(t.Remote, t.RemoteIPv4, t.RemoteIPv6) }

func known(addrs ...netip.Addr) (out []netip.Addr) {
	seen := map[netip.Addr]bool{{}: true}
	for _, a := range addrs {
		if !seen[a] {
			seen[a] = true
			out = append(out, a)
		}
	}
	return out
}

// Endpoint is the outer address of a peer: a host name or an IP address, and a UDP port.
type Endpoint struct {
	Host string
	Port uint16
}

// AddrPort returns the endpoint if its host is an IP address.
func (e Endpoint) AddrPort() (netip.AddrPort, bool) {
	a, err := netip.ParseAddr(e.Host)
	return netip.AddrPortFrom(a, e.Port), err == nil
}

// String is the form of the file, with brackets around IPv6.
func (e Endpoint) String() string {
	if a, err := netip.ParseAddr(e.Host); err == nil {
		return netip.AddrPortFrom(a, e.Port).String()
	}
	return e.Host + ":" + strconv.Itoa(int(e.Port))
}

// ExtendedNextHop says whether IPv4 routes with IPv6 next hops are exchanged (RFC 8950).
type ExtendedNextHop string

// Values of Session.ExtendedNextHop.
const (
	ENHAuto ExtendedNextHop = "auto" // as the neighbour's capabilities say
	ENHOn   ExtendedNextHop = "on"
	ENHOff  ExtendedNextHop = "off"
)

// Session is one BGP session, to a tunnel peer or to a neighbour on the LAN.
type Session struct {
	// Name is the peer's or neighbour's; "nyc/ipv4" and "nyc/ipv6" where a peer has two sessions.
	Name string
	// Peer is the tunnel peer's name; empty on the LAN.
	Peer string
	// Address of the neighbour and LocalAddress to speak from; link-local ones carry the device as their zone. An
	// invalid LocalAddress leaves the choice to the kernel.
	Address, LocalAddress netip.Addr
	// Addresses of the tunnel that serve as next hops of the family that the session does not run over; invalid if
	// there are none.
	LocalIPv4, RemoteIPv4 netip.Addr
	LocalIPv6, RemoteIPv6 netip.Addr
	// Disabled configures everything and runs nothing: the session is listed as administratively down.
	Disabled bool
	// ASN of the neighbour, and the one we show it.
	ASN, LocalASN uint32
	// Passive never dials. Port is the one to dial.
	Passive bool
	Port    uint16
	// IPv4 and IPv6 say which families are offered.
	IPv4, IPv6      bool
	ExtendedNextHop ExtendedNextHop
	// Multihop is the TTL of an eBGP session over more than one hop; 0 is a direct neighbour.
	Multihop uint8
	// Password of TCP MD5 (RFC 2385).
	Password                          Password
	HoldTime, Keepalive, ConnectRetry time.Duration
	// SendHoldTime as in BGP.
	SendHoldTime         time.Duration
	GracefulRestart      bool
	RouteReflectorClient bool
	// BFD watches the way to the neighbour.
	BFD BFD
	// Policy of both directions; nil exchanges nothing (RFC 8212).
	Policy *policy.Policy
}

// Neighbour is a BGP speaker that is not at the other end of a tunnel.
type Neighbour struct {
	Name, Description string
	Session           *Session
}

// Password is a secret text. Every way of printing it gives "***"; only Reveal shows it.
type Password string

// Reveal returns the text, for the socket option.
func (p Password) Reveal() string { return string(p) }

func (p Password) String() string {
	if p == "" {
		return ""
	}
	return hidden
}

// GoString implements fmt.GoStringer with the hidden form.
func (p Password) GoString() string { return p.String() }

// Format implements fmt.Formatter, so that no verb prints the text.
func (p Password) Format(f fmt.State, _ rune) { fmt.Fprint(f, p.String()) }

// MarshalText implements encoding.TextMarshaler with the hidden form.
func (p Password) MarshalText() ([]byte, error) { return []byte(p.String()), nil }

// LogValue implements slog.LogValuer with the hidden form.
func (p Password) LogValue() slog.Value { return slog.StringValue(p.String()) }

// hidden is what a set secret prints as, as in package wg.
const hidden = "***"

// Warning is something that is allowed and probably not meant.
type Warning struct {
	File         string
	Line, Column int
	Message      string
}

func (w Warning) String() string {
	return position(w.File, w.Line, w.Column) + "warning: " + w.Message
}

// position prints "file:line:column: ", as compilers do; parts that are not known are left out.
func position(file string, line, column int) string {
	switch {
	case file == "":
		return ""
	case line == 0:
		return file + ": "
	}
	return fmt.Sprintf("%s:%d:%d: ", file, line, column)
}
