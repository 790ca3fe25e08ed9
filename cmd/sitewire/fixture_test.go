package main

import (
	"net/netip"
	"time"

	"sitewire/bgp"
	"sitewire/gateway"
	"sitewire/gateway/wg"
	"sitewire/routes"
)

// now is when the goldens were drawn.
var now = time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)

func before(d time.Duration) time.Time { return now.Add(-d) }

// fixture is a gateway with one peer that is well, one that is down, one that waits for a call and has no BGP, and one whose session
// carries less than it should.
type fixture struct {
	status      gateway.Status
	peers       gateway.Peers
	bgp         gateway.Sessions
	routes      gateway.Routes
	explanation gateway.Explanation
	diversions  []gateway.Diversion
	diff        gateway.Diff
	reload      gateway.Reload
}

func publicKey(b byte) (k wg.PublicKey) {
	for i := range k {
		k[i] = b
	}
	return k
}

func newFixture() fixture {
	config := gateway.ConfigInfo{Path: "/etc/sitewire/sitewire.yaml", Hash: "0123456789ab", Generation: 3, Applied: before(2 * time.Hour)}
	nyc := bgp.Session{
		Name: "nyc", Peer: "nyc", Tunnel: true, Address: netip.MustParseAddr("fe80::2%wg-nyc"), ASN: 4242420002,
		RemoteRouterID: netip.MustParseAddr("172.20.2.1"), State: bgp.Established, Since: before(26 * time.Hour),
		EstablishedAt: before(26 * time.Hour), Establishments: 2, Downs: map[string]uint64{"hold_timer": 1}, LastDown: before(27 * time.Hour),
		LastError: "hold timer expired", ExtendedNextHop: true,
		IPv4: &bgp.Counts{Received: 620, Accepted: 618, Advertised: 12, Rejected: map[string]int{"martian": 1, "own_prefix": 1}, EOR: true, Limit: 9000},
		IPv6: &bgp.Counts{Received: 480, Accepted: 480, Advertised: 4, EOR: true, Stale: 3},
	}
	sin := bgp.Session{
		Name: "sin", Peer: "sin", Tunnel: true, Address: netip.MustParseAddr("fe80::3%wg-sin"), ASN: 4242420003, State: bgp.Active,
		Since: before(190 * time.Second), Establishments: 1, LastDown: before(190 * time.Second), LastError: "hold timer expired",
		IPv4: &bgp.Counts{}, IPv6: &bgp.Counts{},
	}
	core := bgp.Session{
		Name: "core", Peer: "core", Address: netip.MustParseAddr("10.0.0.2"), ASN: 65000, State: bgp.Established, Since: before(5 * time.Minute),
		EstablishedAt: before(5 * time.Minute), Establishments: 1, IPv4: &bgp.Counts{Received: 2, Accepted: 2, Advertised: 620, EOR: true},
		Warnings: []string{"IPv6 is not offered: no next hop"},
	}
	tunnels := []wg.Tunnel{{
		Peer: "nyc", Site: "new-york", Device: "wg-nyc", Backend: "userspace", PublicKey: publicKey(2), PSK: true, State: wg.TunnelUp,
		Reason: "heard from within 180 s", Since: before(26 * time.Hour), Endpoint: netip.MustParseAddrPort("198.51.100.1:51821"),
		LastHandshake: before(64 * time.Second), ReceiveBytes: 1_270_000, TransmitBytes: 5_500_000_000, MTU: 1420, Resolutions: 4,
		ResolutionFailures: 1, EndpointChanges: 1,
	}, {
		Peer: "sin", Device: "wg-sin", Backend: "userspace", PublicKey: publicKey(3), State: wg.TunnelDown, Reason: "nothing heard for 190 s",
		Since: before(175 * time.Second), Endpoint: netip.MustParseAddrPort("[2001:db8::3]:51820"), LastHandshake: before(250 * time.Second),
		ReceiveBytes: 900, TransmitBytes: 2048, MTU: 1420,
	}, {
		Peer: "store-17", Device: "wg-store-17", Backend: "userspace", PublicKey: publicKey(17), State: wg.TunnelNew, Reason: "no handshake yet",
		Since: before(2 * time.Hour), MTU: 1420,
	}}
	owner := []routes.AllowedIP{{Device: "wg-nyc", Prefix: netip.MustParsePrefix("172.20.2.0/24"), Peer: "nyc"}}
	direct := gateway.PathInfo{
		Neighbour: "nyc", Best: true, NextHop: netip.MustParseAddr("fe80::2%wg-nyc"), Received: before(26 * time.Hour),
		Attrs: &routes.Attrs{ASPath: []uint32{4242420002}, Origin: "igp", LocalPref: 100, Communities: []string{"64511:24"}, LargeCommunities: []string{"4242420002:1:2"}},
	}
	around := gateway.PathInfo{
		Neighbour: "sin", NextHop: netip.MustParseAddr("fe80::3%wg-sin"), Received: before(time.Hour),
		Attrs: &routes.Attrs{ASPath: []uint32{4242420003, 4242420002}, Origin: "igp", LocalPref: 100},
	}
	learned := gateway.RouteInfo{
		Prefix: netip.MustParsePrefix("172.20.2.0/24"), Installed: "dev wg-nyc", Source: "bgp", Paths: []gateway.PathInfo{direct, around},
		AllowedOn: owner, Changed: before(26 * time.Hour), Took: 0.00142,
	}
	refusedPath := gateway.PathInfo{
		Neighbour: "nyc", NextHop: direct.NextHop, Rejected: "martian", Received: before(26 * time.Hour),
		Attrs: &routes.Attrs{ASPath: []uint32{4242420002}, Origin: "igp"},
	}
	return fixture{
		status: gateway.Status{
			APIVersion: "v1", Health: "degraded", Site: "fra", Version: "v1.2.3", ASN: 4242420001, RouterID: "172.20.1.1",
			Problems: []gateway.Problem{
				{Subject: "sin", What: "tunnel is down since 2026-11-21T11:57:05Z: nothing heard for 190 s", Fix: "look at the other end and at the path to [2001:db8::3]:51820"},
				{Subject: "core", What: "IPv6 is not offered: no next hop"},
			},
			Started: before(50 * time.Hour), Now: now, Config: config,
			Tunnels: gateway.Tally{Up: 1, All: 3}, Sessions: gateway.Tally{Up: 2, All: 3},
			Routes: map[string]int{"ipv4": 618, "ipv6": 480}, Synced: true,
		},
		peers: gateway.Peers{APIVersion: "v1", Peers: []gateway.Peer{
			{Tunnel: tunnels[0], ASN: 4242420002, Mode: "learned", Sessions: []bgp.Session{nyc}, AllowedIPs: map[string]int{"ipv4": 618, "ipv6": 481}, Routes: map[string]int{"ipv4": 618, "ipv6": 480},
				Probe: &gateway.Probe{Interval: 10, Sent: 9402, Lost: 31, Recent: 60, RecentLost: 1, RTT: 0.0201, RTTMin: 0.018, RTTMean: 0.0212, RTTMax: 1.045, PathMTU: 1420}},
			{Tunnel: tunnels[1], ASN: 4242420003, Mode: "learned", Sessions: []bgp.Session{sin}, AllowedIPs: map[string]int{"ipv6": 1}, Routes: map[string]int{}},
			{Tunnel: tunnels[2], Mode: "list", AllowedIPs: map[string]int{"ipv4": 1}, Routes: map[string]int{"ipv4": 1}},
		}},
		bgp: gateway.Sessions{APIVersion: "v1", ASN: 4242420001, RouterID: netip.MustParseAddr("172.20.1.1"), Sessions: []bgp.Session{nyc, sin, core}},
		routes: gateway.Routes{APIVersion: "v1", Routes: []gateway.RouteInfo{
			{Prefix: netip.MustParsePrefix("fd42:2::/48"), Installed: "dev wg-nyc", Source: "bgp", Paths: []gateway.PathInfo{direct}, Changed: before(26 * time.Hour), Took: 2.5},
			learned,
			{Prefix: netip.MustParsePrefix("172.20.1.0/24"), Installed: "unreachable", Source: "own", Changed: before(50 * time.Hour)},
			{Prefix: netip.MustParsePrefix("172.20.9.0/24"), Reason: "next hop 10.0.0.9 is not reachable", Source: "bgp", Paths: []gateway.PathInfo{{Neighbour: "core", Best: true, NextHop: netip.MustParseAddr("10.0.0.9"), Attrs: &routes.Attrs{ASPath: []uint32{65000}, Origin: "igp", LocalPref: 100}}}},
			{Prefix: netip.MustParsePrefix("fe80::2/128"), Source: "tunnel", AllowedOn: []routes.AllowedIP{{Device: "wg-nyc", Prefix: netip.MustParsePrefix("fe80::2/128"), Peer: "nyc"}}},
			{Prefix: netip.MustParsePrefix("169.254.0.0/16"), Reason: "no accepted path", Source: "bgp", Paths: []gateway.PathInfo{refusedPath}},
		}},
		diversions: []gateway.Diversion{
			{Device: "wg-sin", Peer: "sin", Since: before(12 * time.Second), To: map[string]int{"wg-nyc": 480, "wg-ams,wg-nyc": 1}},
			{Device: "wg-store-17", Peer: "store-17", Since: before(time.Hour), To: map[string]int{}},
		},
		explanation: gateway.Explanation{
			APIVersion: "v1", Address: netip.MustParseAddr("172.20.2.10"),
			Summary: "172.20.2.10 is reached through nyc (dev wg-nyc): 172.20.2.0/24 from AS4242420002.",
			Matches: []gateway.RouteInfo{learned},
			From:    owner,
			Tunnels: tunnels[:1],
		},
		diff:   gateway.Diff{APIVersion: "v1", Changes: []string{"+ peer ams", "- peer sin"}, Warnings: []string{"sitewire.yaml:3:1: warning: peer ams has no policy"}},
		reload: gateway.Reload{APIVersion: "v1", Changes: []string{"+ peer ams"}, Config: config},
	}
}
