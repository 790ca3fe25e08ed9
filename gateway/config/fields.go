package config

import (
	"log/slog"
	"net/netip"
	"time"

	"sitewire/bgp/policy"
	"sitewire/gateway/wg"
)

// The tables below are the file format: reading, messages, the JSON Schema and the reference in
// docs/configuration.md all come from them.

// raw is the file as it was read, before names are resolved and defaults depend on each other.
type raw struct {
	Config
	announce    []*rawAnnounce
	peers       []entry[*rawPeer]
	neighbours  []entry[*rawNeighbour]
	policies    []entry[*rawPolicy]
	prefixLists []entry[[]policy.PrefixRange]
	rpki        rawRPKI
}

type rawAnnounce struct {
	Announcement
	at *node
}

type rawPeer struct {
	Peer
	device  string
	allowed rawAllowed
	policy  string
	bgp     rawSession
}

type rawAllowed struct {
	mode     Mode
	prefixes []located[netip.Prefix]
}

type rawNeighbour struct {
	description           string
	address, localAddress netip.Addr
	policy                string
	session               rawSession
}

// rawSession is what a peer's bgp block and a neighbour have in common.
type rawSession struct {
	enabled                           bool
	asn, localASN                     uint32
	shape                             string
	families                          []string
	extendedNextHop                   ExtendedNextHop
	passive                           bool
	port                              uint16
	multihop                          uint8
	password                          Password
	holdTime, keepalive, connectRetry time.Duration
	sendHoldTime                      time.Duration
	routeReflectorClient              bool
	bfd                               BFD
}

type rawPolicy struct {
	policy.Policy
	extends          string
	imports, exports []*rawRule
}

type rawRule struct {
	policy.Rule
	action      policy.Action
	prefixLists []located[string]
}

// Words of the file that have no type of their own.
const (
	shapeSingle = "single"
	shapeSplit  = "split"

	deviceOwn = "own"

	modeExtended = Mode("extended")
)

func topObject() object[raw] {
	return object[raw]{name: "the configuration", doc: "The whole file.", fields: []field[raw]{
		key("site", nameKind("a name"), func(c *raw) *string { return &c.Site }, "", "Name of this site, for people: it is in the metrics, the logs and the status page.").must(),
		key("asn", asnKind(), func(c *raw) *uint32 { return &c.ASN }, "", "AS number of this site. Needed as soon as a peer or neighbour has one.").atStart(),
		key("router_id", addrKind("an IPv4 address", is4), func(c *raw) *netip.Addr { return &c.RouterID }, "`routes.source_ipv4`, else the first usable address of the first announced IPv4 prefix", "BGP identifier. It must differ between all routers that share neighbours (RFC 6286).").atStart(),
		key("announce", list(announceKind()), func(c *raw) *[]*rawAnnounce { return &c.announce }, "nothing", "Prefixes of this site: announced to the neighbours whose export policy lets them, and refused when they come in."),
		section("log", logObject(), func(c *raw) *Log { return &c.Log }, "What is logged and how."),
		key("state_dir", pathKind(), func(c *raw) *string { return &c.StateDir }, "/var/lib/sitewire", "Directory for state that survives a restart."),
		key("socket", pathKind(), func(c *raw) *string { return &c.Socket }, "/run/sitewire/sitewire.sock", "Unix socket of the status API, which the command line talks to.").atStart(),
		section("metrics", metricsObject(), func(c *raw) *Metrics { return &c.Metrics }, "Prometheus."),
		section("wireguard", wireguardObject(), func(c *raw) *WireGuard { return &c.WireGuard }, "What all tunnels have in common."),
		section("probe", probeObject(), func(c *raw) *Probe { return &c.Probe }, "Echoes through the tunnels, which measure loss and delay."),
		section("bgp", bgpObject(), func(c *raw) *BGP { return &c.BGP }, "What all BGP sessions have in common."),
		section("rpki", rpkiObject(), func(c *raw) *rawRPKI { return &c.rpki }, "Where to learn who may originate which prefixes, for rules that match `rpki`."),
		section("routes", routesObject(), func(c *raw) *Routes { return &c.Routes }, "How routes are written to the kernel."),
		key("prefix_lists", named("prefix ranges", list(rangeKind())), func(c *raw) *[]entry[[]policy.PrefixRange] { return &c.prefixLists }, "none", "Named lists of prefix ranges, for the rules of policies."),
		key("policies", named("policies", policyObject().kind(func() *rawPolicy { return &rawPolicy{} })), func(c *raw) *[]entry[*rawPolicy] { return &c.policies }, "none", "Policies beside the built-in ones (branch, dn42, full, hub, lan)."),
		key("peers", named("peers", peerObject().kind(func() *rawPeer { return &rawPeer{} })), func(c *raw) *[]entry[*rawPeer] { return &c.peers }, "none", "Remote gateways, each behind a WireGuard tunnel."),
		key("neighbours", named("neighbours", neighbourObject().kind(func() *rawNeighbour { return &rawNeighbour{} })), func(c *raw) *[]entry[*rawNeighbour] { return &c.neighbours }, "none", "BGP speakers that are not behind a tunnel: the site's own routers, route reflectors, collectors."),
	}}
}

func pathKind() kind[string] {
	return text("an absolute path", pattern(`^/`), func(s string) (string, error) {
		if len(s) < 2 || s[0] != '/' || len(s) > 4096 {
			return "", errWant
		}
		return s, nil
	})
}

// relativePathKind is a path that may start at the directory of the file that it stands in.
func relativePathKind() kind[string] {
	return text("a path", pattern(`.`), func(s string) (string, error) {
		if s == "" || len(s) > 4096 {
			return "", errWant
		}
		return s, nil
	})
}

func logObject() object[Log] {
	return object[Log]{name: "log", fields: []field[Log]{
		key("level", levelKind(), func(l *Log) *slog.Level { return &l.Level }, "info", "Least important message to log."),
		key("format", oneOf("text", "json"), func(l *Log) *string { return &l.Format }, "text", "Form of the lines.").atStart(),
	}}
}

func metricsObject() object[Metrics] {
	listen := text("an address and port such as 127.0.0.1:9587, or off", schema{"anyOf": []any{schema{"enum": []any{"off", ""}}, pattern(`^.*:[0-9]{1,5}$`)}}, parseListen)
	return object[Metrics]{name: "metrics", fields: []field[Metrics]{
		key("listen", listen, func(m *Metrics) *string { return &m.Listen }, defaultMetrics, "Where /metrics is served. `off` does not listen.").atStart(),
		key("web_config", relativePathKind(), func(m *Metrics) *string { return &m.WebConfig }, "none", "File with TLS and passwords for /metrics, in the format of Prometheus' exporters (see [metrics](metrics.md)); relative to this file. What is in it may change at any time: it is read again for every scrape.").atStart(),
		key("monitored_prefixes", list(prefixKind()), func(m *Metrics) *[]netip.Prefix { return &m.Monitored }, "none", "Prefixes, at most 50, of which the metrics tell for each session whether exactly they are received and announced."),
		key("device_counters", boolKind(), func(m *Metrics) *bool { return &m.DeviceCounters }, "false", "Export the kernel's counters of packets, errors and drops of each tunnel device.").atStart(),
		key("endpoint_info", boolKind(), func(m *Metrics) *bool { return &m.EndpointInfo }, "false", "Export the outer addresses of peers. They are personal data, and each change begins a new series.").atStart(),
	}}
}

func wireguardObject() object[WireGuard] {
	return object[WireGuard]{name: "wireguard", fields: []field[WireGuard]{
		key("backend", oneOf(BackendAuto, BackendKernel, BackendUserspace), func(w *WireGuard) *Backend { return &w.Backend }, "auto", "Which WireGuard to use; auto takes the kernel's where there is one.").atStart(),
		key("private_key", secretKeyKind("a private key"), func(w *WireGuard) *wg.Secret { return &w.PrivateKey }, "", "Private key of all devices; best as ${file:PATH} or ${cred:NAME}. Needed as soon as there is a peer without a key of its own."),
		key("device", deviceKind(), func(w *WireGuard) *string { return &w.Device }, "none: a device for each peer", "Name of a device that peers share. With it peers are on that device unless they say `device: own`."),
		key("listen_port", number[uint16]("a UDP port", 1, 65535), func(w *WireGuard) *uint16 { return &w.ListenPort }, "51820 with a shared device", "UDP port of the shared device. Without one it is the port of the only peer that does not give its own."),
		key("fwmark", orZero("off", number[uint32]("a firewall mark", 0, 1<<32-1)), func(w *WireGuard) *uint32 { return &w.FirewallMark }, "0x5357", "Mark on encrypted packets. A rule sends them to the underlay, so that no learned route can lead a tunnel into a tunnel."),
		key("mtu", mtuKind(), func(w *WireGuard) *int { return &w.MTU }, "auto", "MTU of the devices in bytes; auto follows the path to the endpoint."),
		key("stats_share", number[int]("percent", 1, 100), func(w *WireGuard) *int { return &w.StatsShare }, "5", "Share of the time, in percent, that reading the statistics of all devices may take. The kernel tells of peers only together with all their allowed-IPs, so that devices with very many, and very many devices, are read less often than each second; at the latest every 10 s, or half of the shortest `dead_after` or a third of the shortest hold time.").atStart(),
	}}
}

func probeObject() object[Probe] {
	return object[Probe]{name: "probe", fields: []field[Probe]{
		key("interval", orOff(seconds(time.Second, time.Hour)), func(p *Probe) *time.Duration { return &p.Interval }, "10s; 30s with more than 20 peers, 60s with more than 50", "Time between two echoes to a peer, give or take a tenth."),
		key("timeout", seconds(time.Second, time.Minute), func(p *Probe) *time.Duration { return &p.Timeout }, "3s, or the interval if that is shorter", "Time after which an echo counts as lost; at most the interval. For a peer with a shorter interval of its own it is that."),
		key("mtu", boolKind(), func(p *Probe) *bool { return &p.MTU }, "false", "Look for the largest packet that gets through each tunnel: when it comes up and every ten minutes."),
	}}
}

// WireGuard's overhead is at most 80 bytes (IPv6), and IPv6 needs links of 1280 (RFC 8200 section 5).
const (
	MinMTU = 1280
	MaxMTU = 65535 - 80
)

func mtuKind() kind[int] {
	return orZero("auto", number[int]("bytes", MinMTU, MaxMTU))
}

// Limits of BGP timers. RFC 4271 section 4.2: a hold time is zero or at least three seconds; without one a dead
// session is never noticed, so that zero is refused too.
const (
	minHold = 3 * time.Second
	maxHold = 65535 * time.Second
)

// sendHoldOff is a send hold time (RFC 9687) that never ends; 0 is auto.
const sendHoldOff time.Duration = -1

const sendHoldAuto = "auto: the greater of 8m and twice the negotiated hold time"

// sendHoldKind reads a send hold time.
func sendHoldKind() kind[time.Duration] {
	words, times := map[string]time.Duration{"off": sendHoldOff, "auto": 0}, seconds(minHold+time.Second, 24*time.Hour)
	return kind[time.Duration]{
		want:   times.want + ", auto, or off",
		schema: schema{"anyOf": []any{schema{"enum": []any{"auto", "off"}}, times.schema}},
		read: func(d *decoder, n *node) (time.Duration, bool) {
			if v, ok := words[n.text]; ok && n.form == scalar {
				return v, true
			}
			return times.read(d, n)
		},
	}
}

// sendHold is how a send hold time is written.
func sendHold(v time.Duration) string {
	switch {
	case v < 0:
		return "off"
	case v == 0:
		return "auto"
	}
	return format(v)
}

func bgpObject() object[BGP] {
	address := addrKind("an IP address", func(netip.Addr) bool { return true })
	return object[BGP]{name: "bgp", fields: []field[BGP]{
		key("port", orPort("off", number[int]("a TCP port", 1, 65535)), func(b *BGP) *int { return &b.Port }, "179", "TCP port to listen on; off does not listen.").atStart(),
		key("listen", list(address), func(b *BGP) *[]netip.Addr { return &b.Listen }, "every address", "Addresses to listen on.").atStart(),
		key("hold_time", seconds(minHold, maxHold), func(b *BGP) *time.Duration { return &b.HoldTime }, "90s", "Time without a message after which a session ends."),
		key("keepalive", seconds(time.Second, maxHold/3), func(b *BGP) *time.Duration { return &b.Keepalive }, "a third of hold_time", "Time between keepalives."),
		key("send_hold_time", sendHoldKind(), func(b *BGP) *time.Duration { return &b.SendHoldTime }, sendHoldAuto, "Time in which a neighbour reads nothing of what is sent to it, after which its session ends (RFC 9687)."),
		key("connect_retry", seconds(2*time.Second, time.Hour), func(b *BGP) *time.Duration { return &b.ConnectRetry }, "5s", "Time between attempts to connect."),
		key("graceful_restart", boolKind(), func(b *BGP) *bool { return &b.GracefulRestart }, "true", "Offer graceful restart (RFC 4724), in both roles, to every neighbour."),
		key("restart_time", seconds(time.Second, 4095*time.Second), func(b *BGP) *time.Duration { return &b.RestartTime }, "120s", "How long neighbours are asked to keep our routes while we restart."),
		key("max_paths", number[int]("paths", 1, 64), func(b *BGP) *int { return &b.MaxPaths }, "1", "Most equal paths in one route.").atStart(),
		key("bfd", bfdKind(), func(b *BGP) *BFD { return &b.BFD }, "off", "Watch the way to neighbours by BFD (RFC 5881) and end sessions at once when it fails: `wired` (200 ms, 3 packets), `metered` (1 s, 3 packets), or {interval, multiplier}. The neighbour must have BFD too. Not for multihop sessions."),
	}}
}

// orPort lets a word stand for -1.
func orPort(word string, k kind[int]) kind[int] {
	k = orZero(word, k)
	read := k.read
	k.read = func(d *decoder, n *node) (int, bool) {
		v, ok := read(d, n)
		if v == 0 {
			v = -1
		}
		return v, ok
	}
	return k
}

func routesObject() object[Routes] {
	table := text("main, or the number of a routing table, 1 to 4294967295 but not 255 (local)", schema{"anyOf": []any{schema{"const": "main"}, integer(1, 1<<32-1)}}, func(s string) (uint32, error) {
		if s == "main" {
			return mainTable, nil
		}
		n, err := parseUint32(s)
		if err != nil || n == 0 || n == 255 {
			return 0, errWant
		}
		return n, nil
	})
	return object[Routes]{name: "routes", fields: []field[Routes]{
		key("table", table, func(r *Routes) *uint32 { return &r.Table }, "main", "Routing table to write to.").atStart(),
		key("metric", number[uint32]("a route metric", 1, 1<<31), func(r *Routes) *uint32 { return &r.Metric }, "512", "Metric of the routes; lower wins.").atStart(),
		key("protocol", number[uint8]("a route protocol number", 5, 255), func(r *Routes) *uint8 { return &r.Protocol }, "83", "Protocol number that marks routes as ours (rt_protos). No other daemon may use it.").atStart(),
		key("source_ipv4", addrKind("an IPv4 address of this host", is4), func(r *Routes) *netip.Addr { return &r.SourceIPv4 }, "the kernel's choice", "Preferred source of IPv4 routes.").atStart(),
		key("source_ipv6", addrKind("an IPv6 address of this host", isGlobal6), func(r *Routes) *netip.Addr { return &r.SourceIPv6 }, "the kernel's choice", "Preferred source of IPv6 routes.").atStart(),
		key("unreachable", boolKind(), func(r *Routes) *bool { return &r.Unreachable }, "true", "Install unreachable routes for the announced prefixes, so that packets for absent parts do not loop."),
		key("nexthop_objects", boolKind(), func(r *Routes) *bool { return &r.NexthopObjects }, "true", "Let routes through tunnels share nexthop objects where the kernel has them (5.3), so that the death of a tunnel moves all of them to their next best way in a few writes.").atStart(),
		key("nexthop_compat_off", boolKind(), func(r *Routes) *bool { return &r.NexthopCompatOff }, "false", "Set net.ipv4.nexthop_compat_mode to 0 at the start, for the whole network namespace: the kernel then sends no notification for each route whose shared nexthop changes, which keeps it busy for half a second per million. `ip route` shows ids in place of devices then.").atStart(),
		key("max_routes", orZero("off", number[int]("routes of a family", 1, 10_000_000)), func(r *Routes) *int { return &r.MaxRoutes }, "off", "Most routes to install in a family; further ones are kept and shown as refused."),
		key("compress_above", orZero("off", number[int]("allowed-IPs of a device", 1, 10_000_000)), func(r *Routes) *int { return &r.CompressAbove }, "off", "How many allowed-IPs a device may have before they are compressed: halves of the same peer are joined, and entries that a covering one of the same peer makes superfluous are left out. What a packet sees stays the same. Devices of kernels before 6.16 are never compressed."),
		key("reconcile_every", seconds(time.Second, 24*time.Hour), func(r *Routes) *time.Duration { return &r.ReconcileEvery }, "1m", "Time between full comparisons with the kernel."),
		key("sweep_after", seconds(time.Second, 24*time.Hour), func(r *Routes) *time.Duration { return &r.SweepAfter }, "2m", "How long routes of an earlier run stay while neighbours have not sent everything."),
	}}
}

func announceObject() object[rawAnnounce] {
	return object[rawAnnounce]{name: "an announcement", fields: []field[rawAnnounce]{
		key("prefix", prefixKind(), func(a *rawAnnounce) *netip.Prefix { return &a.Prefix }, "", "The prefix.").must(),
		key("communities", list(communityKind()), func(a *rawAnnounce) *[]string { return &a.Communities }, "none", "Communities to announce it with."),
	}}
}

func announceKind() kind[*rawAnnounce] {
	prefix, full := prefixKind(), announceObject()
	return kind[*rawAnnounce]{
		want:   prefix.want + ", or {prefix: …, communities: […]}",
		schema: schema{"anyOf": []any{prefix.schema, full.schema()}},
		read: func(d *decoder, n *node) (*rawAnnounce, bool) {
			a := &rawAnnounce{at: n}
			if n.form != mapping {
				p, ok := prefix.read(d, n)
				a.Prefix = p
				return a, ok
			}
			full.into(d, n, a)
			return a, d.usable(a, &a.Prefix, &a.Communities)
		},
	}
}
