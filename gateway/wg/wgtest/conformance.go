package wgtest

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"sitewire/gateway/wg"
)

// PrivateKey returns the same private key for the same name in every run, for tests only.
func PrivateKey(name string) wg.Secret {
	s := wg.Secret(sha256.Sum256([]byte("sitewire test key " + name)))
	s[0] &= 248
	s[31] = s[31]&127 | 64
	return s
}

// Peer returns a peer with the key PrivateKey(name).
func Peer(name string) wg.PeerConfig {
	return wg.PeerConfig{Name: name, PublicKey: PrivateKey(name).Public()}
}

// Allowed gives the prefixes to the peer of that name.
func Allowed(name string, prefixes ...string) []wg.AllowedIP {
	var out []wg.AllowedIP
	for _, p := range prefixes {
		out = append(out, wg.AllowedIP{Prefix: netip.MustParsePrefix(p), Peer: PrivateKey(name).Public()})
	}
	return out
}

// TestDevice checks that a Device keeps the contract of its interface. Each call of open must give a fresh device
// without peers; TestDevice closes it.
func TestDevice(t *testing.T, open func(t *testing.T) wg.Device) {
	for name, test := range map[string]func(t *testing.T, d device){
		"PrefixHasOneOwnerAndAllowMoves": testOwner,
		"DisallowOnlyFromOwner":          testDisallow,
		"RemovePeerFreesPrefixes":        testRemove,
		"SetPeersKeepsAllowedIPs":        testSetKeeps,
		"ApplyInFieldOrder":              testOrder,
		"ApplyIsIdempotent":              testIdempotent,
		"UnknownPeers":                   testUnknown,
		"BadDeltaChangesNothing":         testBad,
		"EndpointAndKeepalive":           testEndpoint,
		"MoreSpecificsAreSeparate":       testNested,
		"LargeDelta":                     testLarge,
		"InterleavedPeers":               testInterleaved,
		"DeviceSettings":                 testSettings,
		"CancelledContext":               testContext,
		"Close":                          testClose,
	} {
		t.Run(name, func(t *testing.T) {
			d := device{open(t)}
			t.Cleanup(func() {
				if err := d.Close(true); err != nil {
					t.Errorf("close: %v", err)
				}
			})
			test(t, d)
		})
	}
}

type device struct{ wg.Device }

func (d device) must(t *testing.T, delta wg.Delta) {
	t.Helper()
	if err := d.Apply(t.Context(), delta); err != nil {
		t.Fatalf("apply: %v", err)
	}
}

// want checks the whole set of allowed-IPs.
func (d device) want(t *testing.T, lists ...[]wg.AllowedIP) {
	t.Helper()
	got, err := d.AllowedIPs(t.Context())
	if err != nil {
		t.Fatalf("allowed-IPs: %v", err)
	}
	want := slices.Concat(lists...)
	order := func(a, b wg.AllowedIP) int { return a.Prefix.Compare(b.Prefix) }
	slices.SortFunc(got, order)
	slices.SortFunc(want, order)
	if !slices.Equal(got, want) {
		t.Fatalf("allowed-IPs:\n got %v\nwant %v", got, want)
	}
}

func (d device) peers(t *testing.T) map[wg.PublicKey]wg.PeerStats {
	t.Helper()
	stats, err := d.Stats(t.Context())
	if err != nil {
		t.Fatalf("stats: %v", err)
	}
	out := map[wg.PublicKey]wg.PeerStats{}
	for _, s := range stats {
		if _, twice := out[s.PublicKey]; twice {
			t.Fatalf("peer %s is listed twice", s.PublicKey)
		}
		out[s.PublicKey] = s
	}
	return out
}

func (d device) wantPeers(t *testing.T, names ...string) {
	t.Helper()
	want := map[wg.PublicKey]bool{}
	for _, n := range names {
		want[Peer(n).PublicKey] = true
	}
	got := d.peers(t)
	for k := range got {
		if !want[k] {
			t.Fatalf("unexpected peer %s", k)
		}
	}
	if len(got) != len(want) {
		t.Fatalf("%d peers, want %d (%v)", len(got), len(want), names)
	}
}

func two() wg.Delta { return wg.Delta{SetPeers: []wg.PeerConfig{Peer("a"), Peer("b")}} }

func testOwner(t *testing.T, d device) {
	d.must(t, two())
	d.must(t, wg.Delta{Allow: Allowed("a", "10.0.0.0/24", "fd00::/64", "10.0.1.0/24")})
	d.must(t, wg.Delta{Allow: Allowed("b", "10.0.0.0/24", "fd00::/64")})
	d.want(t, Allowed("b", "10.0.0.0/24", "fd00::/64"), Allowed("a", "10.0.1.0/24"))
}

func testDisallow(t *testing.T, d device) {
	d.must(t, two())
	d.must(t, wg.Delta{Allow: Allowed("a", "10.0.0.0/24", "fd00::/64", "10.9.0.0/16")})
	d.must(t, wg.Delta{Disallow: Allowed("b", "10.0.0.0/24", "fd00::/64")})
	d.want(t, Allowed("a", "10.0.0.0/24", "fd00::/64", "10.9.0.0/16"))
	d.must(t, wg.Delta{Disallow: Allowed("a", "10.0.0.0/24", "fd00::/64")})
	d.want(t, Allowed("a", "10.9.0.0/16"))
	// What the peer never had, and what merely covers or is covered by what it has.
	d.must(t, wg.Delta{Disallow: Allowed("a", "10.0.0.0/24", "10.9.1.0/24", "10.0.0.0/8")})
	d.want(t, Allowed("a", "10.9.0.0/16"))
}

func testRemove(t *testing.T, d device) {
	d.must(t, two())
	d.must(t, wg.Delta{Allow: slices.Concat(Allowed("a", "10.0.0.0/24", "fd00::/64"), Allowed("b", "10.1.0.0/24"))})
	d.must(t, wg.Delta{RemovePeers: []wg.PublicKey{Peer("a").PublicKey}})
	d.want(t, Allowed("b", "10.1.0.0/24"))
	d.wantPeers(t, "b")
	d.must(t, wg.Delta{SetPeers: []wg.PeerConfig{Peer("a")}})
	d.want(t, Allowed("b", "10.1.0.0/24"))
}

func testSetKeeps(t *testing.T, d device) {
	d.must(t, two())
	d.must(t, wg.Delta{Allow: Allowed("a", "10.0.0.0/24", "fd00::/64")})
	changed := Peer("a")
	changed.PresharedKey = PrivateKey("psk")
	changed.PersistentKeepalive = 25 * time.Second
	d.must(t, wg.Delta{SetPeers: []wg.PeerConfig{changed}})
	d.want(t, Allowed("a", "10.0.0.0/24", "fd00::/64"))
	d.wantPeers(t, "a", "b")
}

// One delta that is only right if its parts are applied in the order of the fields: a peer is set, then gets prefixes,
// then gives one up, and a second one is removed with what it got.
func testOrder(t *testing.T, d device) {
	d.must(t, wg.Delta{
		SetPeers:    []wg.PeerConfig{Peer("a"), Peer("b")},
		Allow:       slices.Concat(Allowed("a", "10.0.0.0/24", "10.1.0.0/24"), Allowed("b", "10.2.0.0/24")),
		Disallow:    Allowed("a", "10.1.0.0/24"),
		RemovePeers: []wg.PublicKey{Peer("b").PublicKey},
	})
	d.want(t, Allowed("a", "10.0.0.0/24"))
	d.wantPeers(t, "a")
	// In one list the later entry wins.
	d.must(t, wg.Delta{
		SetPeers: []wg.PeerConfig{Peer("b")},
		Allow:    slices.Concat(Allowed("b", "10.0.0.0/24"), Allowed("a", "10.0.0.0/24"), Allowed("b", "10.0.0.0/24")),
	})
	d.want(t, Allowed("b", "10.0.0.0/24"))
}

func testIdempotent(t *testing.T, d device) {
	delta := wg.Delta{
		SetPeers:    []wg.PeerConfig{Peer("a"), Peer("b")},
		Allow:       Allowed("a", "10.0.0.0/24", "fd00::/64"),
		Disallow:    Allowed("b", "10.1.0.0/24"),
		RemovePeers: []wg.PublicKey{Peer("c").PublicKey},
	}
	for range 3 {
		d.must(t, delta)
		d.want(t, Allowed("a", "10.0.0.0/24", "fd00::/64"))
		d.wantPeers(t, "a", "b")
	}
	d.must(t, wg.Delta{})
}

func testUnknown(t *testing.T, d device) {
	d.must(t, wg.Delta{SetPeers: []wg.PeerConfig{Peer("a")}})
	if err := d.Apply(t.Context(), wg.Delta{Allow: Allowed("ghost", "10.0.0.0/24")}); err != nil && !errors.Is(err, wg.ErrNoPeer) {
		t.Fatalf("allow for an unknown peer: %v, want ErrNoPeer or nothing", err)
	}
	d.must(t, wg.Delta{Disallow: Allowed("ghost", "10.0.0.0/24"), RemovePeers: []wg.PublicKey{Peer("ghost").PublicKey}})
	d.want(t)
	d.wantPeers(t, "a")
}

func testBad(t *testing.T, d device) {
	d.must(t, two())
	for name, bad := range map[string]wg.AllowedIP{
		"no prefix": {Peer: Peer("a").PublicKey},
		"host bits": {Peer: Peer("a").PublicKey, Prefix: netip.MustParsePrefix("10.0.0.1/24")},
		"mapped":    {Peer: Peer("a").PublicKey, Prefix: netip.MustParsePrefix("::ffff:10.0.0.0/120")},
	} {
		delta := wg.Delta{
			SetPeers: []wg.PeerConfig{Peer("c")}, Allow: append(Allowed("a", "10.5.0.0/24"), bad),
			RemovePeers: []wg.PublicKey{Peer("b").PublicKey},
		}
		if err := d.Apply(t.Context(), delta); err == nil {
			t.Errorf("%s was accepted", name)
		}
		d.want(t)
		d.wantPeers(t, "a", "b")
	}
}

func testEndpoint(t *testing.T, d device) {
	for _, text := range []string{"192.0.2.1:51820", "[2001:db8::1]:51821"} {
		p := Peer("a")
		p.Endpoint, p.PersistentKeepalive = netip.MustParseAddrPort(text), 0
		d.must(t, wg.Delta{SetPeers: []wg.PeerConfig{p}})
		// The zero endpoint leaves the present one.
		d.must(t, wg.Delta{SetPeers: []wg.PeerConfig{Peer("a")}})
		got := d.peers(t)[Peer("a").PublicKey]
		if got.Endpoint != p.Endpoint {
			t.Errorf("endpoint %s, want %s", got.Endpoint, p.Endpoint)
		}
		if !got.LastHandshake.IsZero() || got.ReceiveBytes != 0 {
			t.Errorf("a peer that never answered reports handshake %v, %d bytes received", got.LastHandshake, got.ReceiveBytes)
		}
	}
}

func testNested(t *testing.T, d device) {
	d.must(t, two())
	nested := []string{"0.0.0.0/0", "10.0.0.0/8", "10.0.0.0/9", "10.0.0.0/31", "10.0.0.0/32", "::/0", "fd00::/8", "fd00::/127", "fd00::/128"}
	d.must(t, wg.Delta{Allow: Allowed("a", nested...)})
	d.want(t, Allowed("a", nested...))
	d.must(t, wg.Delta{Allow: Allowed("b", "10.0.0.0/9", "fd00::/127")})
	d.must(t, wg.Delta{Disallow: Allowed("a", "10.0.0.0/8", "::/0")})
	d.want(t, Allowed("b", "10.0.0.0/9", "fd00::/127"),
		Allowed("a", "0.0.0.0/0", "10.0.0.0/31", "10.0.0.0/32", "fd00::/8", "fd00::/128"))
}

// testLarge is large enough to need several messages in every driver.
func testLarge(t *testing.T, d device) {
	d.must(t, two())
	keyA, keyB := Peer("a").PublicKey, Peer("b").PublicKey
	var a, b []wg.AllowedIP
	for i := range 12_000 {
		key, list := keyA, &a
		if i%3 == 0 {
			key, list = keyB, &b
		}
		var p netip.Prefix
		if i%2 == 0 {
			p = netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(i >> 8), byte(i), 0}), 24)
		} else {
			p = netip.PrefixFrom(netip.AddrFrom16([16]byte{0xfd, 0, byte(i >> 8), byte(i)}), 48)
		}
		*list = append(*list, wg.AllowedIP{Prefix: p, Peer: key})
	}
	d.must(t, wg.Delta{Allow: slices.Concat(a, b)})
	d.want(t, a, b)
	d.must(t, wg.Delta{Disallow: a})
	d.want(t, b)
	moved := slices.Clone(b)
	for i := range moved {
		moved[i].Peer = keyA
	}
	d.must(t, wg.Delta{Allow: moved})
	d.want(t, moved)
}

// testInterleaved has the owner change with every entry, as when many prefixes of a shared device move at once, and takes them from
// peers that have just lost them.
func testInterleaved(t *testing.T, d device) {
	peers := []wg.PeerConfig{Peer("a"), Peer("b"), Peer("c")}
	d.must(t, wg.Delta{SetPeers: peers})
	const n = 5000
	var before, after []wg.AllowedIP
	for i := range n {
		p := netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(i >> 8), byte(i), 0}), 24)
		before = append(before, wg.AllowedIP{Prefix: p, Peer: peers[i%3].PublicKey})
		after = append(after, wg.AllowedIP{Prefix: p, Peer: peers[(i+1)%3].PublicKey})
	}
	d.must(t, wg.Delta{Allow: before})
	d.want(t, before)
	d.must(t, wg.Delta{Allow: after, Disallow: before})
	d.want(t, after)
	d.must(t, wg.Delta{Disallow: slices.Concat(before, after[:n/2])})
	d.want(t, after[n/2:])
}

func testSettings(t *testing.T, d device) {
	d.must(t, two())
	d.must(t, wg.Delta{Allow: Allowed("a", "10.0.0.0/24")})
	d.must(t, wg.Delta{Device: &wg.DeviceConfig{PrivateKey: PrivateKey("new"), FirewallMark: 0x51}})
	d.wantPeers(t, "a", "b")
	d.want(t, Allowed("a", "10.0.0.0/24"))
	d.must(t, wg.Delta{Device: &wg.DeviceConfig{PrivateKey: PrivateKey("new")}})
	// A peer with the device's own key must not exist, whichever way round it comes.
	if err := d.Apply(t.Context(), wg.Delta{SetPeers: []wg.PeerConfig{Peer("new")}}); err != nil {
		t.Fatalf("own key as peer: %v, want it skipped as the kernel does", err)
	}
	d.wantPeers(t, "a", "b")
}

func testContext(t *testing.T, d device) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := d.Apply(ctx, two()); !errors.Is(err, context.Canceled) {
		t.Errorf("apply with a cancelled context: %v", err)
	}
	d.wantPeers(t)
}

func testClose(t *testing.T, d device) {
	if d.Name() == "" {
		t.Error("no name")
	}
	d.must(t, two())
	for i := range 2 {
		if err := d.Close(true); err != nil {
			t.Fatalf("close %d: %v", i+1, err)
		}
	}
	if err := d.Apply(t.Context(), two()); !errors.Is(err, wg.ErrClosed) {
		t.Errorf("apply after close: %v, want ErrClosed", err)
	}
	if _, err := d.Stats(t.Context()); !errors.Is(err, wg.ErrClosed) {
		t.Errorf("stats after close: %v, want ErrClosed", err)
	}
	if _, err := d.AllowedIPs(t.Context()); !errors.Is(err, wg.ErrClosed) {
		t.Errorf("allowed-IPs after close: %v, want ErrClosed", err)
	}
}

// Describe prints allowed-IPs by peer, for test failures of other packages.
func Describe(list []wg.AllowedIP) string {
	by := map[string][]string{}
	for _, a := range list {
		by[a.Peer.String()] = append(by[a.Peer.String()], a.Prefix.String())
	}
	var out strings.Builder
	for _, k := range slices.Sorted(maps.Keys(by)) {
		slices.Sort(by[k])
		fmt.Fprintf(&out, "%s %v\n", k, by[k])
	}
	return out.String()
}
