package gateway

import (
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"sitewire/bgp"
	"sitewire/bgp/policy"
	"sitewire/gateway/config"
	"sitewire/gateway/host"
	"sitewire/gateway/wg"
	"sitewire/gateway/wg/wgtest"
	"sitewire/routes"
)

// hub has all kinds of peers: on the shared device with and without BGP, on devices of their own with every sort of
// address, and neighbours that are near and far.
const hub = `
site: hub
asn: 65000
router_id: 10.0.0.1
announce:
  - { prefix: 10.0.0.0/16, communities: ["65000:1"] }
  - fd00::/48
wireguard: { private_key: "${file:DIR/private.key}", device: wg0, listen_port: 51820, mtu: 1380, fwmark: 0x77 }
bgp: { max_paths: 2, restart_time: 60s, port: 1790 }
routes: { table: 100, max_routes: 1000, reconcile_every: 7s, sweep_after: 90s }
peers:
  branch:
    public_key: KEY(nyc)
    preshared_key: ${file:DIR/psk}
    endpoint: [branch.example.net:51820, '[2001:db8::1]:51820']
    pin_endpoint: true
    asn: 65001
    policy: hub
    tunnel: { local: 10.255.0.1, remote: 10.255.0.2 }
  kiosk:
    public_key: KEY(store)
    keepalive: 10s
    dead_after: 45s
    allowed_ips: [10.99.0.0/24, fd00:99::/64]
  transit:
    device: own
    listen_port: 51821
    mtu: 1412
    public_key: KEY(ams)
    asn: 64999
    policy: full
    allowed_ips: any
    tunnel: { local: fe80::1, remote: fe80::2, local_ipv4: 10.255.1.1, remote_ipv4: 10.255.1.2 }
    bgp: { extended_next_hop: 'on', password: "${file:DIR/password}" }
neighbours:
  core:
    address: 10.0.0.2
    asn: 65000
    policy: lan
    route_reflector_client: true
  collector:
    address: 192.0.2.99
    asn: 65010
    policy: lan
    multihop: 8
`

func loadHub(t *testing.T) *config.Config {
	t.Helper()
	dir := t.TempDir()
	for name, secret := range map[string]string{"private.key": wgtest.PrivateKey("own").Reveal(), "psk": wgtest.PrivateKey("psk").Reveal(), "password": testPassword} {
		writeFile(t, filepath.Join(dir, name), secret)
	}
	text := strings.ReplaceAll(hub, "DIR", dir)
	for _, name := range []string{"nyc", "store", "ams"} {
		text = strings.ReplaceAll(text, "KEY("+name+")", wgtest.Peer(name).PublicKey.String())
	}
	writeFile(t, filepath.Join(dir, "sitewire.yaml"), text)
	c, err := config.Load(filepath.Join(dir, "sitewire.yaml"), config.Options{})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// same compares by value; netip types have no exported fields, and secrets print as nothing.
func same(t *testing.T, want, got any) {
	t.Helper()
	opts := cmp.Options{
		cmpopts.EquateComparable(netip.Addr{}, netip.Prefix{}, netip.AddrPort{}, wg.Secret{}, wg.PublicKey{}),
		cmpopts.IgnoreFields(bgp.Neighbour{}, "Policy"),
	}
	if diff := cmp.Diff(want, got, opts); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestDeviceSpecs(t *testing.T) {
	key := wgtest.PrivateKey("own")
	same(t, []deviceSpec{
		{
			DeviceConfig: wg.DeviceConfig{Name: "wg-transit", PrivateKey: key, ListenPort: 51821, FirewallMark: 0x77, MTU: 1412},
			Backend:      "auto",
			Addresses: []host.Address{
				{Local: pfx("10.255.1.1/32"), Peer: pfx("10.255.1.2/32")},
				{Local: pfx("fe80::1/64")},
			},
			Peers: []peerSpec{{
				PeerConfig: wg.PeerConfig{Name: "transit", PublicKey: wgtest.Peer("ams").PublicKey, PersistentKeepalive: 25 * time.Second},
				Site:       "transit", DeadAfter: 180 * time.Second,
			}},
		},
		{
			DeviceConfig: wg.DeviceConfig{Name: "wg0", PrivateKey: key, ListenPort: 51820, FirewallMark: 0x77, MTU: 1380},
			Backend:      "auto",
			Addresses:    []host.Address{{Local: pfx("10.255.0.1/32")}},
			Peers: []peerSpec{
				{
					PeerConfig: wg.PeerConfig{Name: "branch", PublicKey: wgtest.Peer("nyc").PublicKey, PresharedKey: wgtest.PrivateKey("psk"), PersistentKeepalive: 25 * time.Second},
					Site:       "branch", Endpoints: []string{"branch.example.net:51820", "[2001:db8::1]:51820"}, Pin: true, DeadAfter: 180 * time.Second,
				},
				{
					PeerConfig: wg.PeerConfig{Name: "kiosk", PublicKey: wgtest.Peer("store").PublicKey, PersistentKeepalive: 10 * time.Second},
					Site:       "kiosk", DeadAfter: 45 * time.Second,
				},
			},
		},
	}, deviceSpecs(loadHub(t)))
}

func TestRoutesPolicy(t *testing.T) {
	v4, v6 := routes.IPv4, routes.IPv6
	same(t, routes.Policy{
		Peers: []routes.Peer{
			{Name: "branch", Device: "wg0", Shared: true, Mode: routes.Learned, Tunnel: []netip.Prefix{pfx("10.255.0.2/32")}},
			{Name: "kiosk", Device: "wg0", Shared: true, Mode: routes.List, Prefixes: []netip.Prefix{pfx("10.99.0.0/24"), pfx("fd00:99::/64")}, Static: true},
			{Name: "transit", Device: "wg-transit", Mode: routes.Any, Tunnel: []netip.Prefix{pfx("fe80::2/128"), pfx("10.255.1.2/32")}},
		},
		Neighbours: []routes.Neighbour{
			{Name: "branch", Peer: "branch", Families: []routes.Family{v4}},
			{Name: "transit", Peer: "transit", Families: []routes.Family{v4, v6}},
			{Name: "collector", Families: []routes.Family{v4}, Recursive: true},
			{Name: "core", Families: []routes.Family{v4}, Recursive: true},
		},
		Own:         []netip.Prefix{pfx("10.0.0.0/16"), pfx("fd00::/48")},
		Unreachable: true, MaxPaths: 2, MaxRoutes: 1000, SweepAfter: 90 * time.Second, ReconcileEvery: 7 * time.Second,
	}, routesPolicy(loadHub(t)))
}

func TestSpeakerConfig(t *testing.T) {
	c := loadHub(t)
	own := []netip.Prefix{pfx("10.0.0.0/16"), pfx("fd00::/48"), pfx("10.99.0.0/24"), pfx("fd00:99::/64")}
	announce := []bgp.Announcement{{Prefix: pfx("10.0.0.0/16"), Communities: []string{"65000:1"}}, {Prefix: pfx("fd00::/48")}}
	of := func(n bgp.Neighbour) bgp.Neighbour {
		n.HoldTime, n.Keepalive, n.ConnectRetry, n.GracefulRestart = 90*time.Second, 30*time.Second, 5*time.Second, true
		n.LocalASN, n.Port = 65000, 179
		return n
	}
	want := bgp.Config{
		ASN: 65000, RouterID: ip("10.0.0.1"), ListenPort: 1790, MaxPaths: 2, RestartTime: time.Minute, Own: own, Announce: announce,
		Neighbours: []bgp.Neighbour{
			of(bgp.Neighbour{Name: "branch", Peer: "branch", Address: ip("10.255.0.2"), LocalAddress: ip("10.255.0.1"), ASN: 65001, IPv4: true}),
			of(bgp.Neighbour{
				Name: "transit", Peer: "transit", Address: ip("fe80::2%wg-transit"), LocalAddress: ip("fe80::1%wg-transit"), LocalIPv4: ip("10.255.1.1"),
				RemoteIPv4: ip("10.255.1.2"), ASN: 64999, IPv4: true, IPv6: true, ExtendedNextHop: bgp.ENHOn, Password: testPassword, Passive: true,
			}),
			of(bgp.Neighbour{Name: "collector", Address: ip("192.0.2.99"), ASN: 65010, IPv4: true, Multihop: 8}),
			of(bgp.Neighbour{Name: "core", Address: ip("10.0.0.2"), ASN: 65000, IPv4: true, RouteReflectorClient: true}),
		},
	}
	got := speakerConfig(c, nil)
	same(t, want, got)
	for i, n := range got.Neighbours {
		if want := []*policy.Policy{c.Peers[0].Policy, c.Peers[2].Policy, c.Neighbours[0].Session.Policy, c.Neighbours[1].Session.Policy}[i]; n.Policy != want || want == nil {
			t.Errorf("%s has policy %v, want %v", n.Name, n.Policy, want)
		}
	}

	// To a hub we dial at once, since it cannot call us: we have no port of our own. With one it may, and one gives way.
	for port, waits := range map[uint16]bool{0: true, 51820: false} {
		c.Peers[0].Endpoints, c.Peers[0].ListenPort = []config.Endpoint{{}}, port
		if n := speakerConfig(c, nil).Neighbours[0]; n.Waits != waits {
			t.Errorf("listen_port %d: a neighbour that waits: %t", port, n.Waits)
		}
	}
	c = loadHub(t)

	// The kiosk's prefixes are announced while its tunnel is alive; all endpoints in use are for refusals.
	for state, announced := range map[wg.TunnelState]bool{wg.TunnelNew: false, wg.TunnelUp: true, wg.TunnelStale: true, wg.TunnelDown: false} {
		want.Announce = announce
		if announced {
			want.Announce = append(announce[:2:2], bgp.Announcement{Prefix: pfx("10.99.0.0/24")}, bgp.Announcement{Prefix: pfx("fd00:99::/64")})
		}
		want.Endpoints = []netip.Addr{ip("192.0.2.1"), ip("2001:db8::1"), ip("fe80::9")}
		got := speakerConfig(c, []wg.Tunnel{
			{Peer: "branch", State: wg.TunnelUp, Endpoint: netip.MustParseAddrPort("[2001:db8::1]:51820")},
			{Peer: "kiosk", State: state, Endpoint: netip.MustParseAddrPort("[::ffff:192.0.2.1]:1")},
			{Peer: "other", Endpoint: netip.MustParseAddrPort("192.0.2.1:2")},
			{Peer: "near", Endpoint: netip.MustParseAddrPort("[fe80::9%eth0]:2")},
			{Peer: "transit", State: wg.TunnelUp},
		})
		same(t, want, got)
	}
}

func TestRulesAndFirewall(t *testing.T) {
	c := loadHub(t)
	same(t, host.RulesConfig{Mark: 0x77, Table: 100, Priority: rulePriority}, rulesConfig(c))
	if rulePriority >= 32766 {
		t.Error("the rules come after the main table's")
	}
	same(t, host.FirewallConfig{
		BGPPort: 1790, TunnelDevices: []string{"wg-transit", "wg0"}, LANNeighbours: []netip.Addr{ip("192.0.2.99"), ip("10.0.0.2")}, ClampMSS: true,
	}, firewallConfig(c))
	c.Neighbours[0].Session.BFD = config.BFD{Interval: time.Second, Multiplier: 3}
	if !firewallConfig(c).BFD {
		t.Error("BFD is not guarded")
	}
	if n := neighbour(c.Neighbours[0].Session); n.BFD != (bgp.BFD{Interval: time.Second, Multiplier: 3}) {
		t.Errorf("the speaker is told of BFD %+v", n.BFD)
	}
	c.BGP.Port = -1
	if f := firewallConfig(c); f.BGPPort != 0 {
		t.Errorf("port %d is guarded and nobody listens", f.BGPPort)
	}
}

// TestWithoutBGP: a site of which nobody speaks BGP is one that runs, and listens to nobody.
func TestWithoutBGP(t *testing.T) {
	dir := t.TempDir()
	for name, text := range map[string]string{
		"private.key": wgtest.PrivateKey("own").Reveal(),
		"sitewire.yaml": "site: fra\nwireguard: { private_key: \"${file:private.key}\" }\npeers:\n  store:\n    public_key: " + wgtest.Peer("store").PublicKey.String() +
			"\n    endpoint: 192.0.2.1:51820\n    allowed_ips: [10.17.0.0/24]\n",
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	c, err := config.Load(filepath.Join(dir, "sitewire.yaml"), config.Options{})
	if err != nil {
		t.Fatal(err)
	}
	got := speakerConfig(c, nil)
	if err := bgp.Validate(got); err != nil || got.ListenPort != -1 || len(got.Neighbours) > 0 {
		t.Errorf("%v: listens on %d with %d neighbours", err, got.ListenPort, len(got.Neighbours))
	}
}
