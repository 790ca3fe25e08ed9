package user

import (
	"bytes"
	"log/slog"
	"net/netip"
	"reflect"
	"slices"
	"testing"

	"golang.zx2c4.com/wireguard/tun/tuntest"

	"sitewire/gateway/wg"
	"sitewire/gateway/wg/wgtest"
)

// The pinned version of wireguard-go must have the layout that the accessor expects. If this fails after an update, look
// at device.Device and device.Peer, and adapt newAccessor; until then statistics are read from the text, which is slow.
func TestAccessorFitsThePinnedVersion(t *testing.T) {
	if _, err := newAccessor(); err != nil {
		t.Fatal(err)
	}
}

// Both ways of reading a live device, with traffic on it, agree.
func TestAccessorAgreesWithText(t *testing.T) {
	tuns := [2]*tuntest.ChannelTUN{tuntest.NewChannelTUN(), tuntest.NewChannelTUN()}
	devs := [2]*Device{}
	for i, key := range []string{"a", "b"} {
		devs[i] = newDevice("wg"+key, tuns[i].TUN(), NewBind(BindOptions{}), slog.New(slog.DiscardHandler))
		defer devs[i].Close(true)
		must(t, devs[i].start(config("wg"+key, key)))
	}
	for i, other := range []string{"b", "a"} {
		peer := wgtest.Peer(other)
		peer.Endpoint = netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), devs[1-i].ListenPort())
		must(t, devs[i].Apply(t.Context(), wg.Delta{
			SetPeers: []wg.PeerConfig{peer, wgtest.Peer("silent")},
			Allow:    wgtest.Allowed(other, []string{"10.0.0.2/32", "10.0.0.1/32"}[i], "fd00::/64"),
		}))
	}
	tuns[0].Outbound <- tuntest.Ping(netip.MustParseAddr("10.0.0.2"), netip.MustParseAddr("10.0.0.1"))
	if got := <-tuns[1].Inbound; !bytes.Equal(got, tuntest.Ping(netip.MustParseAddr("10.0.0.2"), netip.MustParseAddr("10.0.0.1"))) {
		t.Fatal("the packet changed")
	}
	// Close the sockets, so that nothing moves between the two readings.
	for _, d := range devs {
		must(t, d.dev.BindClose())
	}
	for _, d := range devs {
		fast, err := d.Stats(t.Context())
		must(t, err)
		fastIPs, err := d.AllowedIPs(t.Context())
		must(t, err)
		d.access = nil
		slow, err := d.Stats(t.Context())
		must(t, err)
		slowIPs, err := d.AllowedIPs(t.Context())
		must(t, err)
		byKey := func(a, b wg.PeerStats) int { return bytes.Compare(a.PublicKey[:], b.PublicKey[:]) }
		slices.SortFunc(fast, byKey)
		slices.SortFunc(slow, byKey)
		if !reflect.DeepEqual(fast, slow) {
			t.Errorf("%s: accessor %+v, text %+v", d.Name(), fast, slow)
		}
		if a, b := wgtest.Describe(fastIPs), wgtest.Describe(slowIPs); a != b || len(fastIPs) != 2 {
			t.Errorf("%s: allowed-IPs by accessor\n%s, by text\n%s", d.Name(), a, b)
		}
		traffic := slices.ContainsFunc(fast, func(s wg.PeerStats) bool {
			return s.ReceiveBytes >= 32 && s.TransmitBytes >= 92 && !s.LastHandshake.IsZero() && s.Endpoint.IsValid()
		})
		if !traffic || len(fast) != 2 {
			t.Errorf("%s: no traffic in %+v", d.Name(), fast)
		}
	}
}
