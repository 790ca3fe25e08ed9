package kernel

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"sitewire/gateway/wg"
	"sitewire/gateway/wg/wgtest"
)

// unhex reads hexadecimal bytes with blanks and comments after "#".
func unhex(t *testing.T, text string) []byte {
	t.Helper()
	var digits strings.Builder
	for line := range strings.Lines(text) {
		line, _, _ = strings.Cut(line, "#")
		digits.WriteString(strings.Join(strings.Fields(line), ""))
	}
	b, err := hex.DecodeString(digits.String())
	must(t, err)
	return b
}

func filled(with byte) (k [wg.KeySize]byte) {
	for i := range k {
		k[i] = with
	}
	return k
}

func TestMessageBytes(t *testing.T) {
	if binary.NativeEndian.Uint16([]byte{1, 0}) != 1 {
		t.Skip("the bytes below are of a little-endian machine")
	}
	key := strings.Repeat("aa", 32)
	for name, c := range map[string]struct {
		build func(m *message)
		want  string
	}{
		"settings": {
			func(m *message) {
				m.settings(wg.DeviceConfig{PrivateKey: filled(0xbb), FirewallMark: 0x51, ListenPort: 51820})
			},
			"01010000 08000100 07000000" + // SET_DEVICE, version 1; IFINDEX 7
				"24000300" + strings.Repeat("bb", 32) + "08000700 51000000 06000600 6cca 0000",
		},
		"peer": {
			func(m *message) {
				m.setPeer(wg.PeerConfig{
					PublicKey: filled(0xaa), PresharedKey: filled(0xcc), Endpoint: netip.MustParseAddrPort("192.0.2.1:51820"), PersistentKeepalive: 25 * time.Second,
				}, 0)
			},
			`01010000 08000100 07000000
			6c000880 6800 0080 # PEERS, one element
			24000100 ` + key + ` 24000200 ` + strings.Repeat("cc", 32) + `
			14000400 0200 ca6c c0000201 0000000000000000 # sockaddr_in
			06000500 1900 0000`,
		},
		"IPv6 endpoint with a scope": {
			func(m *message) {
				m.setPeer(wg.PeerConfig{PublicKey: filled(0xaa), Endpoint: netip.MustParseAddrPort("[fe80::1%wan0]:1")}, 3)
			},
			`01010000 08000100 07000000
			78000880 74000080 24000100 ` + key + ` 24000200 ` + strings.Repeat("00", 32) + `
			20000400 0a00 0001 00000000 fe800000000000000000000000000001 03000000 # sockaddr_in6
			06000500 0000 0000`,
		},
		"entries added and removed": {
			func(m *message) {
				m.beginPeer(filled(0xaa), peerUpdateOnly)
				m.addAllowed(netip.MustParsePrefix("10.1.0.0/16"), 0)
				m.addAllowed(netip.MustParsePrefix("fd00::/8"), allowedRemove)
			},
			`01010000 08000100 07000000
			84000880 80000080 24000100 ` + key + ` 08000300 04000000 # UPDATE_ONLY
			50000980 # ALLOWEDIPS
			1c000080 06000100 0200 0000 08000200 0a010000 05000300 10 000000
			30000080 06000100 0a00 0000 14000200 fd000000000000000000000000000000 05000300 08 000000 08000400 01000000 # REMOVE_ME`,
		},
	} {
		t.Run(name, func(t *testing.T) {
			var m message
			m.reset(7)
			c.build(&m)
			if got, want := m.bytes(), unhex(t, c.want); !bytes.Equal(got, want) {
				t.Errorf("got  %x\nwant %x", got, want)
			}
		})
	}
}

// A message that is used again keeps nothing of the one before, which may hold keys.
func TestResetOverwrites(t *testing.T) {
	var m message
	m.reset(7)
	m.settings(config("wg0", "self"))
	old := m.bytes()
	m.reset(7)
	if secret := wgtest.PrivateKey("self"); bytes.Contains(old[:cap(old)], secret[:]) {
		t.Error("the private key is still there")
	}
	if !m.empty() {
		t.Errorf("not empty: %x", m.b)
	}
}

// Many entries go in few messages, and none is too long.
func TestMessagesAreFullAndBounded(t *testing.T) {
	kernels(t, func(t *testing.T, f *fakeKernel) {
		d := fakeDevice(t, f, Options{})
		must(t, d.Apply(t.Context(), wg.Delta{SetPeers: []wg.PeerConfig{wgtest.Peer("a")}}))
		for _, c := range []struct {
			base         netip.Addr
			bits         int
			most, atMost int // entries of a full message, messages for all
		}{
			{netip.MustParseAddr("10.0.0.0"), 32, 2000, 3},
			{netip.MustParseAddr("fd00::"), 128, 1400, 5},
		} {
			var list []wg.AllowedIP
			key := wgtest.Peer("a").PublicKey
			for a := c.base; len(list) < 5000; a = a.Next() {
				list = append(list, wg.AllowedIP{Prefix: netip.PrefixFrom(a, c.bits), Peer: key})
			}
			for _, delta := range []wg.Delta{{Allow: list}, {Disallow: list}} {
				f.entries, f.longest = nil, 0
				must(t, d.Apply(t.Context(), delta))
				largest := slices.Max(f.entries)
				if f.longest > maxMessage || largest > c.most || largest < 1000 {
					t.Errorf("%d bytes and %d entries in the largest message", f.longest, largest)
				}
				if n := len(f.entries); n > c.atMost+2 { // the first removal asks what the kernel can do
					t.Errorf("%d messages for 5,000 entries: %v", n, f.entries)
				}
			}
			if len(f.owner) != 0 {
				t.Errorf("%d entries are left", len(f.owner))
			}
		}
		// The largest peers, too.
		var peers []wg.PeerConfig
		for i := range 2000 {
			p := wg.PeerConfig{PublicKey: filled(1), Endpoint: netip.MustParseAddrPort("[2001:db8::1]:51820")}
			binary.NativeEndian.PutUint32(p.PublicKey[:], uint32(i))
			peers = append(peers, p)
		}
		f.longest = 0
		must(t, d.Apply(t.Context(), wg.Delta{SetPeers: peers}))
		if f.longest > maxMessage || len(f.peers) != 2001 {
			t.Errorf("%d bytes in the largest message, %d peers", f.longest, len(f.peers))
		}
	})
}
