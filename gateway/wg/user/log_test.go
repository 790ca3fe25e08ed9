package user

import (
	"bytes"
	"log/slog"
	"testing"

	"golang.zx2c4.com/wireguard/device"
	"golang.zx2c4.com/wireguard/tun/tuntest"

	"sitewire/gateway/wg"
	"sitewire/gateway/wg/wgtest"
)

// TestWaitingPeerIsSilent: a peer without an endpoint is no trouble, however often its keepalive finds nobody to call.
// The text that tells is wireguard-go's, so it is asked for it.
func TestWaitingPeerIsSilent(t *testing.T) {
	var out bytes.Buffer
	d := newDevice("wg0", tuntest.NewChannelTUN().TUN(), NewBind(BindOptions{}), slog.New(slog.NewTextHandler(&out, nil)))
	t.Cleanup(func() { d.Close(true) })
	away := wgtest.PrivateKey("away").Public()
	key := wgtest.PrivateKey("here")
	if err := d.Apply(t.Context(), wg.Delta{
		Device:   &wg.DeviceConfig{Name: "wg0", PrivateKey: key},
		SetPeers: []wg.PeerConfig{{Name: "away", PublicKey: away}},
	}); err != nil {
		t.Fatal(err)
	}
	if err := d.dev.Up(); err != nil {
		t.Fatal(err)
	}
	err := d.dev.LookupPeer(device.NoisePublicKey(away)).SendHandshakeInitiation(false)
	if err == nil || err.Error() != noEndpoint {
		t.Fatalf("wireguard-go now says %v", err)
	}
	if out.Len() > 0 {
		t.Errorf("logged %s", out.String())
	}
}
