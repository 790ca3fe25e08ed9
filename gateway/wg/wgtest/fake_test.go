package wgtest

import (
	"errors"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"sitewire/gateway/wg"
)

func newFake() *Fake { return New(wg.DeviceConfig{Name: "wg0", PrivateKey: PrivateKey("self")}) }

func TestFakeConforms(t *testing.T) {
	TestDevice(t, func(*testing.T) wg.Device { return newFake() })
}

func TestJournal(t *testing.T) {
	f := newFake()
	nyc, lon := Peer("nyc"), Peer("lon")
	nyc.Endpoint, nyc.PersistentKeepalive, nyc.PresharedKey = netip.MustParseAddrPort("192.0.2.1:51820"), 25*time.Second, PrivateKey("psk")
	delta := wg.Delta{
		Device:      &wg.DeviceConfig{PrivateKey: PrivateKey("other"), ListenPort: 51820, FirewallMark: 0x51},
		SetPeers:    []wg.PeerConfig{nyc, lon},
		Allow:       slices.Concat(Allowed("nyc", "10.0.0.0/8", "fd00::/64"), Allowed("lon", "10.0.0.0/8")),
		Disallow:    Allowed("nyc", "10.0.0.0/8", "fd00::/64"),
		RemovePeers: []wg.PublicKey{nyc.PublicKey},
	}
	if err := f.Apply(t.Context(), delta); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(true); err != nil {
		t.Fatal(err)
	}
	want := []string{
		"wg set wg0 private-key *** listen-port 51820 fwmark 0x51",
		"wg set wg0 peer nyc preshared-key *** endpoint 192.0.2.1:51820 persistent-keepalive 25",
		"wg set wg0 peer lon",
		"wg set wg0 peer nyc allowed-ips +10.0.0.0/8",
		"wg set wg0 peer nyc allowed-ips +fd00::/64",
		"wg set wg0 peer lon allowed-ips +10.0.0.0/8 # from peer nyc",
		"wg set wg0 peer nyc allowed-ips -fd00::/64",
		"wg set wg0 peer nyc remove",
		"ip link del wg0",
	}
	if got := f.Journal(); !slices.Equal(got, want) {
		t.Errorf("journal:\n%s\nwant:\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	if got := f.Journal(); len(got) != 0 {
		t.Errorf("the journal was not emptied: %v", got)
	}
	if got, want := f.String(), "peer lon: 10.0.0.0/8"; got != want {
		t.Errorf("state %q, want %q", got, want)
	}
}

func TestNoChangeLeavesNoLine(t *testing.T) {
	f := newFake()
	delta := wg.Delta{SetPeers: []wg.PeerConfig{Peer("nyc")}, Allow: Allowed("nyc", "10.0.0.0/8"), Disallow: Allowed("nyc", "10.1.0.0/16")}
	for i, want := range []int{2, 0} {
		if err := f.Apply(t.Context(), delta); err != nil {
			t.Fatal(err)
		}
		if got := f.Journal(); len(got) != want {
			t.Errorf("round %d: %d lines, want %d: %v", i+1, len(got), want, got)
		}
	}
}

func TestInjectedFailureStopsThere(t *testing.T) {
	f := newFake()
	boom := errors.New("boom")
	f.FailWith(func(op string) error {
		if strings.Contains(op, "+10.2.") {
			return boom
		}
		return nil
	})
	delta := wg.Delta{SetPeers: []wg.PeerConfig{Peer("a")}, Allow: Allowed("a", "10.1.0.0/16", "10.2.0.0/16", "10.3.0.0/16")}
	if err := f.Apply(t.Context(), delta); !errors.Is(err, boom) {
		t.Fatalf("error %v, want boom", err)
	}
	if got, want := f.String(), "peer a: 10.1.0.0/16"; got != want {
		t.Errorf("state %q, want %q", got, want)
	}
	f.FailWith(nil)
	if err := f.Apply(t.Context(), delta); err != nil {
		t.Fatal(err)
	}
	if got, want := f.String(), "peer a: 10.1.0.0/16 10.2.0.0/16 10.3.0.0/16"; got != want {
		t.Errorf("state %q, want %q", got, want)
	}
}

func TestUpdateStats(t *testing.T) {
	f := newFake()
	if f.Update(Peer("a").PublicKey, func(*wg.PeerStats) {}) {
		t.Error("an unknown peer was updated")
	}
	if err := f.Apply(t.Context(), wg.Delta{SetPeers: []wg.PeerConfig{Peer("a")}}); err != nil {
		t.Fatal(err)
	}
	now := time.Unix(1_700_000_000, 0)
	f.Update(Peer("a").PublicKey, func(s *wg.PeerStats) { s.LastHandshake, s.ReceiveBytes = now, 148 })
	stats, err := f.Stats(t.Context())
	if err != nil || len(stats) != 1 || stats[0].LastHandshake != now || stats[0].ReceiveBytes != 148 {
		t.Errorf("stats %v, %v", stats, err)
	}
}
