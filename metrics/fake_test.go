package metrics

import (
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"slices"
	"testing"
	"time"

	"sitewire/bgp"
	"sitewire/bgp/bfd"
	"sitewire/bgp/rpki"
	"sitewire/gateway/probe"
	"sitewire/gateway/wg"
	"sitewire/routes"
)

// at is a moment some seconds into the life of the fake daemon.
func at(seconds float64) time.Time {
	return time.Unix(1_790_000_000, 0).Add(time.Duration(seconds * float64(time.Second)))
}

// fake is a Source that the test can change.
type fake struct {
	process Process
	tunnels []wg.Tunnel
	bgp     *bgp.Snapshot
	routes  *routes.Status
	kernel  *Kernel
	api     API
	devices map[string]wg.LinkCounters
	probes  []*probe.Stats
	rpki    *rpki.Snapshot
}

func (f *fake) source() Source {
	return Source{
		Process: func() Process { return f.process },
		Tunnels: func() []wg.Tunnel { return f.tunnels },
		BGP:     func() *bgp.Snapshot { return f.bgp },
		Routes:  func() *routes.Status { return f.routes },
		Kernel:  func() *Kernel { return f.kernel },
		API:     func() API { return f.api },
		Devices: func() map[string]wg.LinkCounters { return f.devices },
		Probes:  func() []*probe.Stats { return f.probes },
		RPKI:    func() *rpki.Snapshot { return f.rpki },
	}
}

// collector over the fake, with a clock on which every group takes 2 ms.
func (f *fake) collector(t testing.TB) *Collector {
	c := NewCollector(CollectorOptions{Source: f.source(), Log: slog.New(slog.NewTextHandler(t.Output(), nil))})
	now := at(1000)
	c.now = func() time.Time { now = now.Add(2 * time.Millisecond); return now }
	return c
}

// gateway is a daemon with one of everything: a peer with one session, one with a session for each family of which one
// is down, a peer without BGP, one that was just configured, and a neighbour on the LAN.
func gateway() *fake {
	return &fake{
		process: Process{
			Build:       Build{Version: "1.2.3", Revision: "0123abc", Branch: "main", Tags: "netgo"},
			Site:        "fra",
			Started:     at(0),
			Table:       254,
			ASN:         4242420001,
			RouterID:    netip.MustParseAddr("172.20.1.1"),
			Components:  map[string]bool{"wireguard": true, "bgp": true, "rtnetlink": false},
			LogMessages: map[string]uint64{"info": 12, "error": 1},
			Snapshots:   map[string]time.Time{"wireguard": at(99.25)},
			Config: Config{
				LastReloadSuccessful: false,
				LastSuccess:          at(1),
				Reloads:              map[string]uint64{"start": 1, "sighup": 2},
				ReloadFailures:       map[string]uint64{"sighup": 2},
				Hash:                 "00000000002a" + "ffffffffffffffffffffffffffffffffffffffffffffffffffff",
				RestartRequired:      true,
			},
		},
		tunnels: []wg.Tunnel{
			{Peer: "nyc", Site: "nyc", Device: "sw-nyc", Backend: "kernel", PublicKey: wg.PublicKey{1}, PSK: true, State: wg.TunnelUp,
				Endpoint: netip.MustParseAddrPort("198.51.100.7:51820"), LastHandshake: at(90.5), ReceiveBytes: 1 << 40, TransmitBytes: 148,
				PersistentKeepalive: 25 * time.Second, MTU: 1420, Handshakes: 3, EndpointChanges: 1, Resolutions: 4, ResolutionFailures: 2},
			{Peer: "osl", Site: "osl", Device: "sw-hub", Backend: "userspace", PublicKey: wg.PublicKey{2}, State: wg.TunnelDown,
				LastHandshake: at(2), ReceiveBytes: 92, TransmitBytes: 148, MTU: 1380, Handshakes: 1},
			{Peer: "store-17", Site: "store-17", Device: "sw-hub", Backend: "userspace", PublicKey: wg.PublicKey{3}, State: wg.TunnelStale,
				LastHandshake: at(3), MTU: 1380, Handshakes: 1},
			{Peer: "new", Site: "new", Device: "sw-new", Backend: "kernel", PublicKey: wg.PublicKey{4}, State: wg.TunnelNew, MTU: 1420},
		},
		probes: []*probe.Stats{
			{Peer: "new"},
			{Peer: "nyc", Sent: 6, Lost: 1, RTT: roundTrips(0.0004, 0.02, 0.021, 0.045, 2.75), PathMTU: 1420},
			{Peer: "osl", Sent: 60, Lost: 60},
			{Peer: "store-17"},
		},
		bgp: &bgp.Snapshot{
			Time: at(99.5),
			Sessions: []bgp.Session{
				{Name: "nyc", Peer: "nyc", Tunnel: true, Address: netip.MustParseAddr("fe80::2%sw-nyc"), ASN: 4242420002,
					RemoteRouterID: netip.MustParseAddr("172.20.2.1"), State: bgp.Established, Since: at(10), EstablishedAt: at(10),
					Establishments: 2, Downs: map[string]uint64{"hold_timer_expired": 1}, LastDown: at(8), HoldTime: 90 * time.Second,
					IPv4:     &bgp.Counts{Received: 12, Accepted: 9, Advertised: 20, Rejected: map[string]int{"martian": 2, "no-long-paths": 1}, Limit: 100, EOR: true},
					IPv6:     &bgp.Counts{Received: 5, Accepted: 5, Advertised: 7, EOR: true, Stale: 1},
					Received: bgp.Messages{Open: 2, Update: 30, Notification: 1, Keepalive: 40, RouteRefresh: 3, Withdrawn: 6},
					Sent:     bgp.Messages{Open: 3, Update: 31, Keepalive: 41, Withdrawn: 7}, OutQueue: 4,
					TCP: &bgp.TCP{RTT: 0.0125, Retransmits: 6},
					BFD: &bgp.BFDStatus{State: bfd.Up, Since: at(11), Interval: 0.2, Multiplier: 3, DetectionTime: 0.6,
						Downs: map[string]uint64{"control_detection_time_expired": 2, "path_down": 1}, Received: 500, Transmitted: 501},
					Monitored: []bgp.Monitored{{Prefix: netip.MustParsePrefix("172.20.0.0/14"), Received: true}, {Prefix: netip.MustParsePrefix("fd00::/8"), Advertised: true}}},
				{Name: "osl/ipv4", Peer: "osl", Tunnel: true, Address: netip.MustParseAddr("172.20.3.1"), ASN: 4242420001,
					RemoteRouterID: netip.MustParseAddr("172.20.3.1"), State: bgp.Active, Since: at(50), EstablishedAt: at(20), Establishments: 1,
					Downs: map[string]uint64{"notification_received": 1}, LastDown: at(50), IPv4: &bgp.Counts{}},
				{Name: "osl/ipv6", Peer: "osl", Tunnel: true, Address: netip.MustParseAddr("fe80::3%sw-hub"), ASN: 4242420001,
					RemoteRouterID: netip.MustParseAddr("172.20.3.1"), State: bgp.Established, Since: at(20), EstablishedAt: at(20),
					Establishments: 1, HoldTime: 90 * time.Second, IPv6: &bgp.Counts{Received: 1, Accepted: 1, EOR: true}},
				{Name: "core", Peer: "core", Address: netip.MustParseAddr("10.0.0.2"), ASN: 65000, State: bgp.Idle, IPv4: &bgp.Counts{}, IPv6: &bgp.Counts{}},
			},
			NotificationsSent:     map[string]map[string]uint64{"nyc": {"Hold Timer Expired": 1}},
			NotificationsReceived: map[string]map[string]uint64{"osl/ipv4": {"Cease/Administrative Reset": 1}},
			Paths:                 [2]int{14, 7},
			Prefixes:              [2]int{10, 6},
			Calls:                 calls(1, 1, 1, 1, 1, 10, 10, 10, 3000),
			BFDDropped:            map[string]uint64{"ttl": 3, "unknown_peer": 4},
		},
		routes: &routes.Status{
			At: at(99.75), Synced: at(12.5),
			Desired: routes.Counts{
				Routes: map[routes.RouteKey]int{
					{Family: routes.IPv4, Source: routes.BGP, Label: "nyc"}:         9,
					{Family: routes.IPv6, Source: routes.BGP, Label: "nyc"}:         5,
					{Family: routes.IPv6, Source: routes.BGP, Label: "osl"}:         1,
					{Family: routes.IPv4, Source: routes.Static, Label: "store-17"}: 2,
					{Family: routes.IPv4, Source: routes.Own}:                       1,
				},
				Unresolved: [2]int{1, 0}, Refused: [2]int{0, 2}, Down: [2]int{3, 0},
				AllowedIPs: map[routes.PeerFamily]int{{Peer: "nyc", Family: routes.IPv4}: 10, {Peer: "nyc", Family: routes.IPv6}: 6},
				Conflicts:  map[string]int{"sw-hub": 1},
			},
			Installed: routes.Installed{
				Routes:     [2]int{12, 6},
				AllowedIPs: map[routes.PeerFamily]int{{Peer: "nyc", Family: routes.IPv4}: 9, {Peer: "nyc", Family: routes.IPv6}: 6},
				Moves:      map[string]uint64{"sw-hub": 4},
				Diversions: 3,
			},
			Diversions: []routes.Diversion{{Device: "sw-osl", Peer: "osl", Since: at(80)}},
			Changes:    [routes.Operations][2]uint64{{20, 7}, {2, 1}, {3, 0}},
			Convergence: [routes.Operations][2]routes.Histogram{
				routes.Announced: {observed(0.0004, 0.001, 0.003, 0.2, 45), observed(0.004)},
				routes.Withdrawn: {observed(0.0005), {}},
			},
			Stages:   [routes.Stages]routes.Histogram{routes.StageFIB: observed(0.0002, 0.0003)},
			Failover: [routes.LossKinds]routes.Histogram{routes.LossHoldTimer: observed(0.02), routes.LossTunnel: observed(0.004, 0.2)},
			Pending:  1, OldestPending: at(99), Retries: 5, Failures: [routes.OpKinds]uint64{routes.Allow: 1, routes.Install: 2},
			Reconciles:        [routes.Triggers]uint64{routes.Periodic: 3, routes.OnKernel: 2},
			ReconcileFailures: [routes.Triggers]uint64{routes.OnKernel: 1},
			ReconcileDuration: observed(0.01, 0.02), LastReconcile: at(60),
			DriftDetected:   [routes.DriftKinds]uint64{routes.RouteMissing: 4, routes.AllowedIPExtra: 1},
			DriftRepaired:   [routes.DriftKinds]uint64{routes.RouteMissing: 4},
			DriftUnresolved: [routes.DriftKinds]int{routes.AllowedIPExtra: 1, routes.RouteMissing: 1},
			Foreign:         []routes.AllowedIP{{Device: "sw-hub", Peer: "osl", Prefix: netip.MustParsePrefix("203.0.113.0/24")}},
		},
		rpki: &rpki.Snapshot{Sources: []rpki.Status{
			{Name: "akae", Kind: "server", Table: "default", Up: true, Serial: 17, IPv4: 2311, IPv6: 2132, Updated: at(80)},
			{Name: "flaps", Kind: "file", Table: "flap", Updated: at(2)},
		}},
		kernel: &Kernel{
			Requests: map[Request]uint64{{"rtnetlink", "route_replace"}: 40, {"wireguard", "set_device"}: 8},
			Errors: map[RequestError]uint64{
				{Request{"rtnetlink", "route_replace"}, "EAFNOSUPPORT"}: 1,
				{Request{"rtnetlink", "route_replace"}, "EIO"}:          2,
				{Request{"wireguard", "set_device"}, "EPERM"}:           3,
			},
			Overruns: map[string]uint64{"rtnetlink": 1},
			Drift:    map[string]Drift{"peer_missing": {2, 1}, "peer_extra": {1, 0}},
		},
		devices: map[string]wg.LinkCounters{
			"sw-nyc": {ReceivePackets: 1000, ReceiveErrors: 1, ReceiveDrops: 2, TransmitPackets: 2000, TransmitErrors: 3, TransmitDrops: 4},
			"sw-hub": {ReceivePackets: 10, TransmitPackets: 20},
		},
		api: API{
			Calls:     map[APICall]uint64{{"/v1/status", "GET", 200}: 5, {"/v1/reload", "POST", 200}: 0, {"/v1/reload", "POST", 422}: 1, {"other", "GET", 404}: 2},
			Durations: map[string]routes.Histogram{"/v1/status": observed(0.0003, 0.0004, 0.002), "/v1/reload": observed(0.3), "other": {}},
		},
	}
}

// observed is a histogram of these seconds.
func observed(seconds ...float64) routes.Histogram {
	var h routes.Histogram
	for _, s := range seconds {
		h.Observe(time.Duration(s * float64(time.Second)))
	}
	return h
}

// calls is a histogram of these milliseconds.
func calls(milliseconds ...int) bgp.Latency {
	var l bgp.Latency
	for _, ms := range milliseconds {
		l.Observe(time.Duration(ms) * time.Millisecond)
	}
	return l
}

// large is a gateway with n peers, each with a session for both families.
func large(n int) *fake {
	f := gateway()
	tunnel, session := f.tunnels[0], f.bgp.Sessions[0]
	stats := f.probes[1]
	f.tunnels, f.bgp.Sessions, f.probes = nil, nil, nil
	for i := range n {
		name := fmt.Sprintf("branch-%04d", i)
		tunnel.Peer, tunnel.Site, tunnel.Device = name, name, fmt.Sprintf("sw-%04d", i)
		session.Name, session.Peer = name, name
		session.Downs = maps.Clone(session.Downs)
		f.tunnels = append(f.tunnels, tunnel)
		f.bgp.Sessions = append(f.bgp.Sessions, session)
		s := *stats
		s.Peer = name
		f.probes = append(f.probes, &s)
		for family := range routes.IPv6 + 1 {
			key := routes.PeerFamily{Peer: name, Family: family}
			f.routes.Desired.Routes[routes.RouteKey{Family: family, Source: routes.BGP, Label: name}] = i
			f.routes.Desired.AllowedIPs[key], f.routes.Installed.AllowedIPs[key] = i, i
		}
	}
	f.tunnels, f.bgp.Sessions = slices.Clip(f.tunnels), slices.Clip(f.bgp.Sessions)
	return f
}

// roundTrips is a histogram of these times in seconds.
func roundTrips(seconds ...float64) probe.Histogram {
	var h probe.Histogram
	for _, s := range seconds {
		h.Observe(time.Duration(s * float64(time.Second)))
	}
	return h
}
