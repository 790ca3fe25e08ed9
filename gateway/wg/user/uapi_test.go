package user

import (
	"bytes"
	"errors"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"sitewire/gateway/wg"
	"sitewire/gateway/wg/wgtest"
)

func TestAllowedText(t *testing.T) {
	var b bytes.Buffer
	allowedText(&b, slices.Concat(wgtest.Allowed("a", "10.0.0.0/24", "fd00::/64"), wgtest.Allowed("b", "::/0"), wgtest.Allowed("a", "0.0.0.0/0")), "-")
	a, bb := wgtest.Peer("a").PublicKey.Hex(), wgtest.Peer("b").PublicKey.Hex()
	want := "public_key=" + a + "\nupdate_only=true\nallowed_ip=-10.0.0.0/24\nallowed_ip=-fd00::/64\n" +
		"public_key=" + bb + "\nupdate_only=true\nallowed_ip=-::/0\n" +
		"public_key=" + a + "\nupdate_only=true\nallowed_ip=-0.0.0.0/0\n"
	if b.String() != want {
		t.Errorf("got\n%s\nwant\n%s", b.String(), want)
	}
}

const getAnswer = "private_key=e84b5a6d2717c1003a13b431570353dbaca9146cf150c5f8575680feba52027a\nlisten_port=12912\n" +
	"public_key=b85996fecc9c7f1fc6d2572a76eda11d59bcd20be8e543b15ce4bd85a8e75a33\npreshared_key=188515093e952f5f22e865cef3012e72f8b5f0b598ac0309d5dacce3b70fcf52\n" +
	"allowed_ip=192.168.4.4/32\nendpoint=[abcd:23::33%2]:51820\n" +
	"public_key=58402e695ba1772b1cc9309755f043251ea77fdcf10fbe63989ceb7e19321376\ntx_bytes=38333\nrx_bytes=2224\n" +
	"last_handshake_time_sec=1700000000\nlast_handshake_time_nsec=5\nallowed_ip=192.168.4.6/32\nallowed_ip=fd00::/64\n" +
	"persistent_keepalive_interval=111\nendpoint=182.122.22.19:3233\nsomething_new=7\n\nignored"

func TestParseGet(t *testing.T) {
	peers, err := parseGet(strings.NewReader(getAnswer))
	if err != nil || len(peers) != 2 {
		t.Fatalf("%v, %v", peers, err)
	}
	first, second := peers[0], peers[1]
	if first.stats.PublicKey.Hex()[:4] != "b859" || first.stats.Endpoint != netip.MustParseAddrPort("[abcd:23::33%2]:51820") || !first.stats.LastHandshake.IsZero() {
		t.Errorf("first peer %+v", first.stats)
	}
	want := wg.PeerStats{
		PublicKey: second.stats.PublicKey, Endpoint: netip.MustParseAddrPort("182.122.22.19:3233"),
		LastHandshake: time.Unix(1700000000, 5), ReceiveBytes: 2224, TransmitBytes: 38333,
	}
	if second.stats != want || !slices.Equal(second.allowed, prefixes("192.168.4.6/32", "fd00::/64")) {
		t.Errorf("second peer %+v", second)
	}
}

func TestParseGetErrorsQuoteNothing(t *testing.T) {
	for _, text := range []string{
		"private_key e84b5a6d", "public_key=e84b5a6d", "public_key=zz",
		"public_key=" + strings.Repeat("0", 64) + "\nrx_bytes=e84b5a6d",
		"public_key=" + strings.Repeat("0", 64) + "\nallowed_ip=e84b5a6d",
		"public_key=" + strings.Repeat("0", 64) + "\nendpoint=e84b5a6d",
	} {
		_, err := parseGet(strings.NewReader(text))
		if !errors.Is(err, errUAPI) || strings.Contains(err.Error(), "e84b5a6d") {
			t.Errorf("%q: error %v", text, err)
		}
	}
}

func FuzzParseGet(f *testing.F) {
	f.Add(getAnswer)
	f.Add("public_key=" + strings.Repeat("0", 64) + "\nlast_handshake_time_nsec=-1\n")
	f.Fuzz(func(t *testing.T, text string) {
		peers, err := parseGet(strings.NewReader(text))
		if err != nil && len(peers) > 0 {
			t.Error("peers and an error")
		}
		if len(peers) > strings.Count(text, "public_key=") {
			t.Error("more peers than keys")
		}
		for _, p := range peers {
			for _, a := range p.allowed {
				if !a.IsValid() {
					t.Errorf("invalid prefix from %q", text)
				}
			}
		}
	})
}
