package gateway

import (
	"net/netip"
	"time"

	"sitewire/bgp"
	"sitewire/gateway/wg"
	"sitewire/routes"
)

// APIVersion of everything that the API returns. Fields may be added within a version, never changed.
const APIVersion = "v1"

// Status is the answer of GET /v1/status. Health comes first.
type Status struct {
	APIVersion string `json:"api_version"`
	// Health is "ok" or "degraded"; Problems say why, worst first.
	Health    string        `json:"health"`
	Problems  []Problem     `json:"problems"`
	Site      string        `json:"site"`
	Version   string        `json:"version"`
	ASN       uint32        `json:"asn,omitempty"`
	RouterID  string        `json:"router_id,omitempty"`
	Started   time.Time     `json:"started"`
	Now       time.Time     `json:"now"`
	Config    ConfigInfo    `json:"config"`
	WireGuard WireGuardInfo `json:"wireguard"`
	Tunnels   Tally         `json:"tunnels"`
	Sessions  Tally         `json:"sessions"`
	// Routes programmed, by family ("ipv4", "ipv6"), and changes decided but not acknowledged yet.
	Routes  map[string]int `json:"routes"`
	Pending int            `json:"pending_changes"`
	// Synced says that every neighbour sent End-of-RIB (or the wait ended) and the kernel is as it should be.
	Synced bool `json:"synced"`
}

// ConfigInfo tells which configuration is in force.
type ConfigInfo struct {
	Path       string    `json:"path"`
	Hash       string    `json:"hash"`
	Generation uint64    `json:"generation"`
	Applied    time.Time `json:"applied"`
	// LastError is why the last reload was refused; empty if it was not.
	LastError string `json:"last_error,omitempty"`
	// RestartRequired names settings that were changed in the file and take effect only at the next start.
	RestartRequired []string `json:"restart_required,omitempty"`
}

// WireGuardInfo tells which WireGuard carries the tunnels, "kernel" or "userspace", and why that one was chosen.
type WireGuardInfo struct {
	Backend string `json:"backend"`
	Reason  string `json:"reason"`
}

// Tally is how many of all are up. Those that are disabled are not among all.
type Tally struct {
	Up       int `json:"up"`
	All      int `json:"all"`
	Disabled int `json:"disabled,omitempty"`
}

// Problem is something that an operator should look at.
type Problem struct {
	// Subject is the peer, neighbour or part concerned; What is wrong; Fix is what to do next.
	Subject string `json:"subject"`
	What    string `json:"what"`
	Fix     string `json:"fix,omitempty"`
}

// Peers is the answer of GET /v1/peers: tunnels with their sessions and what they carry.
type Peers struct {
	APIVersion string `json:"api_version"`
	Peers      []Peer `json:"peers"`
}

// Peer is one tunnel with everything that hangs on it.
type Peer struct {
	wg.Tunnel
	ASN        uint32         `json:"asn,omitempty"`
	Mode       string         `json:"allowed_ips_mode"`
	Sessions   []bgp.Session  `json:"sessions,omitempty"`
	AllowedIPs map[string]int `json:"allowed_ips"` // programmed, by family
	Routes     map[string]int `json:"routes"`      // best routes through it, by family
	Probe      *Probe         `json:"probe,omitempty"`
}

// Probe is what echoes through a tunnel found. A peer without one is not probed. Times are in seconds.
type Probe struct {
	Interval float64 `json:"interval_seconds"`
	// Sent and Lost count since the peer was configured: echoes whose outcome is known.
	Sent uint64 `json:"sent"`
	Lost uint64 `json:"lost"`
	// The last echoes, at most probe.RecentEchoes of them, and the round-trip times of their answers; zero without one.
	Recent     int     `json:"recent"`
	RecentLost int     `json:"recent_lost"`
	RTT        float64 `json:"rtt_seconds,omitempty"` // of the last answer
	RTTMin     float64 `json:"rtt_min_seconds,omitempty"`
	RTTMean    float64 `json:"rtt_mean_seconds,omitempty"`
	RTTMax     float64 `json:"rtt_max_seconds,omitempty"`
	// PathMTU is the largest packet that gets through, in bytes; 0 is unknown.
	PathMTU int `json:"path_mtu,omitempty"`
	// Error is why the last echo could not be sent.
	Error string `json:"error,omitempty"`
}

// Sessions is the answer of GET /v1/bgp.
type Sessions struct {
	APIVersion string        `json:"api_version"`
	ASN        uint32        `json:"asn"`
	RouterID   netip.Addr    `json:"router_id,omitzero"`
	Sessions   []bgp.Session `json:"sessions"`
}

// Routes is the answer of GET /v1/routes.
type Routes struct {
	APIVersion string      `json:"api_version"`
	Routes     []RouteInfo `json:"routes"`
	// Diversions at present, whatever routes were asked for.
	Diversions []Diversion `json:"diversions,omitempty"`
}

// Diversion is a tunnel whose routes take their other ways all at once, because it is lost.
type Diversion struct {
	Device string    `json:"device"`
	Peer   string    `json:"peer,omitempty"`
	Since  time.Time `json:"since"`
	// To is how many routes went to which device at that moment. Several devices have commas between them.
	To map[string]int `json:"to"`
}

// RouteInfo is a prefix with all that is known of it.
type RouteInfo struct {
	Prefix netip.Prefix `json:"prefix"`
	// Installed is the kernel route as written and acknowledged ("dev sw-nyc"), empty if there is none; Reason says
	// why there is none, or what keeps it from being written.
	Installed string `json:"installed,omitempty"`
	Reason    string `json:"reason,omitempty"`
	// Diverted is where packets go in place of Installed, because of a diversion, until the route is written anew.
	Diverted string `json:"diverted,omitempty"`
	// Source is bgp, static, tunnel or own.
	Source string     `json:"source"`
	Paths  []PathInfo `json:"paths,omitempty"`
	// AllowedOn says which peers own the prefix, on which device.
	AllowedOn []routes.AllowedIP `json:"allowed_ips,omitempty"`
	// Changed is when the route last changed, and Took how long from the UPDATE to the kernel's acknowledgement, in
	// seconds.
	Changed time.Time `json:"changed,omitzero"`
	Took    float64   `json:"took_seconds,omitempty"`
}

// PathInfo is one path of a prefix.
type PathInfo struct {
	Neighbour string        `json:"neighbour"`
	Best      bool          `json:"best"`
	NextHop   netip.Addr    `json:"next_hop,omitzero"`
	Rejected  string        `json:"rejected,omitempty"`
	Attrs     *routes.Attrs `json:"attributes,omitempty"`
	Received  time.Time     `json:"received,omitzero"`
	// Origins are the validities of its origin, in explanations and only if there are sources of payloads.
	Origins []OriginInfo `json:"origins,omitempty"`
}

// Explanation is the answer of GET /v1/explain?address=A: what happens to traffic to and from an address.
type Explanation struct {
	APIVersion string     `json:"api_version"`
	Address    netip.Addr `json:"address"`
	// Summary is the answer in a sentence.
	Summary string `json:"summary"`
	// Matches are the prefixes that contain the address, longest first; the first installed one carries traffic to it.
	Matches []RouteInfo `json:"matches"`
	// From says which tunnels packets with this source are accepted from.
	From []routes.AllowedIP `json:"accepted_from"`
	// Tunnels are those that the matches name.
	Tunnels []wg.Tunnel `json:"tunnels,omitempty"`
	// Diversions of those tunnels.
	Diversions []Diversion `json:"diversions,omitempty"`
	// Kernel is the route that the kernel uses for packets of this machine to the address, whoever wrote it; empty if
	// there is none. KernelOurs says that it is one of ours.
	Kernel     string `json:"kernel,omitempty"`
	KernelOurs bool   `json:"kernel_ours"`
	// Own is the announced prefix of this site that contains the address, if any.
	Own netip.Prefix `json:"own,omitzero"`
}

// Diff is the answer of GET /v1/diff: what a reload would do.
type Diff struct {
	APIVersion string   `json:"api_version"`
	Changes    []string `json:"changes"`
	// RestartRequired names changed settings for whose sake a reload would be refused.
	RestartRequired []string `json:"restart_required,omitempty"`
	Warnings        []string `json:"warnings,omitempty"`
}

// Reload is the answer of POST /v1/reload.
type Reload struct {
	APIVersion string     `json:"api_version"`
	Changes    []string   `json:"changes"`
	Config     ConfigInfo `json:"config"`
}

// APIError is the body of every answer that is not 2xx.
type APIError struct {
	Error string `json:"error"`
}
