package bgp

import (
	"net/netip"
	"time"

	"sitewire/bgp/bfd"
	"sitewire/bgp/policy"
	"sitewire/bgp/rpki"
	"sitewire/routes"
)

// ENH says whether IPv4 routes with IPv6 next hops may go to a neighbour (RFC 8950).
type ENH uint8

// SendHoldOff as a Neighbour.SendHoldTime lets a session be that nobody reads at the other end.
const SendHoldOff time.Duration = -1

// Values of Neighbour.ExtendedNextHop.
const (
	// ENHAuto reads the neighbour's capabilities once the session is up and holds IPv4 back until then.
	ENHAuto ENH = iota
	ENHOn
	ENHOff
)

// Neighbour describes a BGP neighbour.
type Neighbour struct {
	// Name as configured. For a neighbour behind a tunnel it is the peer's name (with a suffix where a peer has two
	// sessions: "nyc/ipv4").
	Name string
	// Peer is the tunnel peer it is behind, empty on the LAN. It is the `peer` label, with Name where empty.
	Peer string
	// Address of the neighbour; link-local with its zone, which is the device.
	Address netip.Addr
	// LocalAddress to speak from; invalid lets the kernel choose.
	LocalAddress netip.Addr
	// LocalIPv4 and RemoteIPv4 are the tunnel's IPv4 addresses where the session itself runs over IPv6: the next hop
	// we give to a neighbour without extended next hop, and the one it may give to us. Invalid if there are none.
	LocalIPv4, RemoteIPv4 netip.Addr
	// LocalIPv6 and RemoteIPv6, likewise, where a session over IPv4 carries IPv6.
	LocalIPv6, RemoteIPv6 netip.Addr
	ASN                   uint32
	// Disabled runs no session: the neighbour is listed, told of an administrative shutdown, and not connected to.
	Disabled bool
	// LocalASN to show to this neighbour; 0 is the speaker's.
	LocalASN uint32
	// Passive never dials. Port is the remote port to dial, 0 is 179.
	Passive bool
	Port    uint16
	// Waits says that the neighbour does not dial, as far as we know: then there is nobody to give way to when the session starts.
	Waits bool
	// IPv4 and IPv6 say which families to offer.
	IPv4, IPv6      bool
	ExtendedNextHop ENH
	// Multihop is the TTL of an eBGP session over more than one hop; 0 is a direct neighbour.
	Multihop uint8
	// Password for TCP MD5 (RFC 2385); secret.
	Password string
	// HoldTime and Keepalive; 0 means 90 s and a third of the hold time.
	HoldTime, Keepalive time.Duration
	// SendHoldTime is how long the neighbour may read nothing of what we send before the session ends (RFC 9687); 0 means the greater of
	// 8 minutes and twice the negotiated hold time, SendHoldOff never. It needs Options.Connections.
	SendHoldTime time.Duration
	// ConnectRetry between dials; 0 means 5 s.
	ConnectRetry time.Duration
	// GracefulRestart offers RFC 4724 in both roles.
	GracefulRestart bool
	// RouteReflectorClient makes the iBGP neighbour a client.
	RouteReflectorClient bool
	// Policy for both directions; nil exchanges nothing (RFC 8212).
	Policy *policy.Policy
	// BFD watches the way to the neighbour, which must be one hop away (RFC 5881).
	BFD BFD
}

// BFD says how a neighbour is watched; the zero value does not.
type BFD struct {
	// Interval between packets; the neighbour may ask for a longer one. Multiplier is how many may be missing.
	Interval   time.Duration
	Multiplier uint8
}

// On tells whether there is to be a BFD session.
func (b BFD) On() bool { return b.Interval > 0 }

// Announcement is a prefix of our own to originate.
type Announcement struct {
	Prefix      netip.Prefix
	Communities []string
}

// Config is everything that the speaker is told. Immutable once handed over.
type Config struct {
	ASN      uint32
	RouterID netip.Addr
	// ListenPort for incoming sessions; 0 is 179 and -1 no listener. ListenAddresses are fixed for the life of the
	// speaker; empty is every address (the firewall then guards the port).
	ListenPort      int
	ListenAddresses []netip.Addr
	// MaxPaths above 1 turns multipath on.
	MaxPaths   int
	Neighbours []Neighbour
	Announce   []Announcement
	// Monitored prefixes, of which each Session tells whether they came in and went out. A short list: asking costs a
	// walk through the table for each neighbour.
	Monitored []netip.Prefix
	// Own prefixes of the site and outer Endpoints of tunnels, for the fixed refusals.
	Own       []netip.Prefix
	Endpoints []netip.Addr
	// Origins for rules that ask for an origin's validity; nil has no tables. A new set has routes judged again that it
	// touches.
	Origins *rpki.Set
	// DeferralTime bounds how long a restarting speaker waits for End-of-RIB (RFC 4724 section 4.1); 0 means 10 s.
	DeferralTime time.Duration
	// RestartTime that we ask of helpers; 0 means 120 s.
	RestartTime time.Duration
	// KeepForwarding says that forwarding goes on after the process ends, and another one is to follow soon: the speaker then
	// ends without telling its neighbours (see Speaker.Run).
	KeepForwarding bool
}

// State of a session, numbered as in BGP4-MIB (RFC 4273): 1 idle … 6 established.
type State uint8

// States of a session.
const (
	Idle State = iota + 1
	Connect
	Active
	OpenSent
	OpenConfirm
	Established
)

func (s State) String() string {
	switch s {
	case Idle:
		return "Idle"
	case Connect:
		return "Connect"
	case Active:
		return "Active"
	case OpenSent:
		return "OpenSent"
	case OpenConfirm:
		return "OpenConfirm"
	case Established:
		return "Established"
	}
	return "Unknown"
}

// MarshalText implements encoding.TextMarshaler.
func (s State) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// UnmarshalText implements encoding.TextUnmarshaler; what it does not know is 0.
func (s *State) UnmarshalText(text []byte) error {
	*s = 0
	for x := Idle; x <= Established; x++ {
		if x.String() == string(text) {
			*s = x
		}
	}
	return nil
}

// Counts of prefixes of one family of a session.
type Counts struct {
	Received   int            `json:"received"` // before policy
	Accepted   int            `json:"accepted"` // after policy
	Advertised int            `json:"advertised"`
	Rejected   map[string]int `json:"rejected,omitempty"` // by reason or rule; gauge
	Limit      int            `json:"limit,omitempty"`
	EOR        bool           `json:"end_of_rib"`
	Stale      int            `json:"stale,omitempty"`
}

// Messages counts messages of one direction.
type Messages struct {
	Open         uint64 `json:"open"`
	Update       uint64 `json:"update"`
	Notification uint64 `json:"notification"`
	Keepalive    uint64 `json:"keepalive"`
	RouteRefresh uint64 `json:"route_refresh"`
	Withdrawn    uint64 `json:"withdrawn_prefixes"`
}

// Session is a snapshot of a neighbour's session.
type Session struct {
	Name           string     `json:"name"`
	Peer           string     `json:"peer"` // the label: tunnel peer, or Name on the LAN
	Tunnel         bool       `json:"tunnel"`
	Address        netip.Addr `json:"address"`
	ASN            uint32     `json:"asn"`
	RemoteRouterID netip.Addr `json:"router_id,omitzero"`
	State          State      `json:"state"`
	// AdminDown says that the session is configured not to run.
	AdminDown      bool              `json:"admin_down,omitempty"`
	Since          time.Time         `json:"since"` // of the state
	EstablishedAt  time.Time         `json:"established_at,omitzero"`
	Establishments uint64            `json:"establishments"`
	Downs          map[string]uint64 `json:"downs,omitempty"` // by reason
	LastDown       time.Time         `json:"last_down,omitzero"`
	// LastError is the last NOTIFICATION or reason in words, with its direction: "received Cease/Administrative Reset".
	LastError string        `json:"last_error,omitempty"`
	HoldTime  time.Duration `json:"-"` // negotiated
	// ExtendedNextHop says whether the neighbour announced the capability; meaningful when established.
	ExtendedNextHop bool `json:"extended_next_hop"`
	// Warnings name what silently would not work: IPv4 held back for want of a next hop, no policy, prefix limit.
	Warnings       []string `json:"warnings,omitempty"`
	IPv4           *Counts  `json:"ipv4,omitempty"` // nil: not offered
	IPv6           *Counts  `json:"ipv6,omitempty"`
	Received, Sent Messages `json:"-"`
	OutQueue       int      `json:"out_queue"`
	// BFD is nil for sessions without.
	BFD *BFDStatus `json:"bfd,omitempty"`
	// Monitored prefixes in the order of the configuration.
	Monitored []Monitored `json:"monitored,omitempty"`
	// TCP is nil until the kernel was asked, and where it cannot be.
	TCP *TCP `json:"tcp,omitempty"`
}

// BFDStatus is that of a neighbour's BFD session. While the BGP session is not Established it does not run and is AdminDown.
type BFDStatus struct {
	State bfd.State `json:"state"`
	Since time.Time `json:"since,omitzero"`
	// Interval in seconds and Multiplier as configured.
	Interval   float64 `json:"interval_seconds"`
	Multiplier uint8   `json:"multiplier"`
	// DetectionTime negotiated, in seconds; 0 until the neighbour was heard.
	DetectionTime float64 `json:"detection_time_seconds"`
	// Diagnostic of the last time that the session left Up, in the words of RFC 5880.
	Diagnostic string `json:"diagnostic"`
	// Downs counts those times by diagnostic.
	Downs       map[string]uint64 `json:"downs,omitempty"`
	Received    uint64            `json:"received_packets"`
	Transmitted uint64            `json:"transmitted_packets"`
}

// Monitored tells of a monitored prefix, exactly this one, and a session.
type Monitored struct {
	Prefix netip.Prefix `json:"prefix"`
	// Received, before policy; Advertised, as of at most a minute or so ago.
	Received   bool `json:"received"`
	Advertised bool `json:"advertised"`
}

// TCP is what the kernel knows about a session's connection.
type TCP struct {
	// RTT is the smoothed round-trip time in seconds; 0 while the session is not Established.
	RTT float64 `json:"rtt_seconds"`
	// Retransmits counts segments sent again, over all connections of the session so far.
	Retransmits uint64 `json:"retransmits"`
}

// Snapshot is the speaker's view of all sessions, refreshed on events and at most every few seconds; immutable. Counters of
// messages may be pollRest old when nothing but keepalives goes back and forth.
type Snapshot struct {
	// Time at which this was so: of the last change, or of the last poll of GoBGP's counters, at most pollRest apart unless
	// something is stuck.
	Time     time.Time
	Sessions []Session // in the order of the configuration
	// NotificationsSent and NotificationsReceived by "code/subcode" in words, by neighbour name.
	NotificationsSent, NotificationsReceived map[string]map[string]uint64
	// BFDDropped counts received BFD packets that did nothing, by reason; nil without any BFD session.
	BFDDropped map[string]uint64
	// Calls says how long calls into GoBGP took; each stops all receiving while it runs.
	Calls Latency
	// Paths and Prefixes of the Loc-RIB by family (index routes.IPv4, routes.IPv6).
	Paths, Prefixes [2]int
}

// Latency is a histogram of durations.
type Latency struct {
	// Counts has one more entry than LatencyBounds: of those not longer than each bound, not cumulative, and the rest.
	Counts [6]uint64
	Sum    time.Duration
	Max    time.Duration
	// Fine counts them by their order of magnitude.
	Fine routes.Fine
}

// copied returns a Latency that later calls of Observe do not change.
func (l *Latency) copied() Latency {
	c := *l
	c.Fine = l.Fine.Copy()
	return c
}

// LatencyBounds are the upper bounds of the buckets of a Latency.
func LatencyBounds() [5]time.Duration {
	return [5]time.Duration{time.Millisecond, 10 * time.Millisecond, 100 * time.Millisecond, 500 * time.Millisecond, 2 * time.Second}
}

// Observe counts a duration.
func (l *Latency) Observe(d time.Duration) {
	i := 0
	for _, b := range LatencyBounds() {
		if d > b {
			i++
		}
	}
	l.Counts[i]++
	l.Sum += d
	l.Max = max(l.Max, d)
	l.Fine.Observe(d)
}
