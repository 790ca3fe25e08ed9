package wg

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"strings"
	"testing"
	"time"
)

// The RFC 7748 section 6.1 key pair of Alice.
const (
	alicePrivate = "dwdtCnMYpX08FsFyUbJmRd9ML4frwJkqsXf7pR25LCo="
	alicePublic  = "hSDwCYkwp1R0i33ctD73Wg2/Og0mOBr066SpjqqbTmo="
)

func TestPublicOfRFC7748Key(t *testing.T) {
	s, err := ParseSecret(alicePrivate)
	if err != nil {
		t.Fatal(err)
	}
	if got := s.Public().String(); got != alicePublic {
		t.Errorf("public key %s, want %s", got, alicePublic)
	}
	if s.Reveal() != alicePrivate {
		t.Error("Reveal does not give back what was parsed")
	}
}

func TestParseRefusesMalformedKeysWithoutQuotingThem(t *testing.T) {
	for _, text := range []string{
		"", "short", alicePrivate[:43], alicePrivate + "=", alicePrivate[:42] + "p=", // stray bits in the last character
		strings.Repeat("A", 64), " " + alicePrivate,
	} {
		if _, err := ParseSecret(text); !errors.Is(err, ErrKey) {
			t.Errorf("ParseSecret(%q): %v, want ErrKey", text, err)
		} else if len(text) > 8 && strings.Contains(err.Error(), text) {
			t.Errorf("error quotes the key: %v", err)
		}
		if _, err := ParsePublicKey(text); !errors.Is(err, ErrKey) {
			t.Errorf("ParsePublicKey(%q): %v, want ErrKey", text, err)
		}
	}
}

// No way of printing a Secret, alone or inside the structs that carry it, may show it.
func TestSecretNeverPrints(t *testing.T) {
	s, err := NewPrivateKey()
	if err != nil {
		t.Fatal(err)
	}
	dev := DeviceConfig{Name: "wg0", PrivateKey: s}
	peer := PeerConfig{Name: "nyc", PresharedKey: s}
	var out bytes.Buffer
	for _, v := range []any{s, &s, dev, &dev, peer, []Secret{s}, map[string]Secret{"k": s}, Delta{SetPeers: []PeerConfig{peer}}} {
		for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "%d", "%b"} {
			fmt.Fprintf(&out, verb+"\n", v)
		}
		if err := json.NewEncoder(&out).Encode(v); err != nil {
			t.Fatal(err)
		}
		slog.New(slog.NewTextHandler(&out, nil)).Info("x", "v", v)
		slog.New(slog.NewJSONHandler(&out, nil)).Info("x", "v", v)
	}
	text := strings.ToLower(out.String())
	decimal := strings.Trim(fmt.Sprint(s[:8]), "[]")
	for what, form := range map[string]string{
		"base64": s.Reveal(), "hex": s.Hex(), "decimal": decimal, "raw": string(s[:]),
		"comma-separated": strings.ReplaceAll(decimal, " ", ","),
	} {
		if strings.Contains(text, strings.ToLower(form)) {
			t.Errorf("the %s form of the secret was printed", what)
		}
	}
	if !strings.Contains(text, hidden) {
		t.Error("a set secret should print as ***")
	}
	if fmt.Sprint(Secret{}) != "" {
		t.Error("an unset secret should print as nothing")
	}
}

func TestNewKeysAreClampedAndDiffer(t *testing.T) {
	a, err := NewPrivateKey()
	if err != nil {
		t.Fatal(err)
	}
	b, err := NewPrivateKey()
	if err != nil {
		t.Fatal(err)
	}
	if a.Equal(b) {
		t.Error("two new keys are equal")
	}
	if a[0]&7 != 0 || a[31]&0xc0 != 0x40 { // RFC 7748 section 5
		t.Errorf("not clamped: first byte %#x, last %#x", a[0], a[31])
	}
}

func TestPublicKeyText(t *testing.T) {
	var k PublicKey
	if err := k.UnmarshalText([]byte(alicePublic)); err != nil {
		t.Fatal(err)
	}
	before := k
	if err := k.UnmarshalText([]byte("nonsense")); err == nil || k != before {
		t.Errorf("a bad text must leave the key alone: err %v, key %s", err, k)
	}
	if text, err := k.MarshalText(); err != nil || string(text) != alicePublic {
		t.Errorf("MarshalText = %s, %v", text, err)
	}
}

func TestValidate(t *testing.T) {
	key, err := ParsePublicKey(alicePublic)
	if err != nil {
		t.Fatal(err)
	}
	secret, err := ParseSecret(alicePrivate)
	if err != nil {
		t.Fatal(err)
	}
	allow := func(p netip.Prefix) Delta { return Delta{Allow: []AllowedIP{{Prefix: p, Peer: key}}} }
	set := func(p PeerConfig) Delta { return Delta{SetPeers: []PeerConfig{p}} }
	for name, tc := range map[string]struct {
		delta Delta
		want  string // "" for valid
	}{
		"good":            {set(PeerConfig{PublicKey: key, Endpoint: netip.MustParseAddrPort("[fe80::1%eth0]:1"), PersistentKeepalive: 25 * time.Second}), ""},
		"good prefix":     {allow(netip.MustParsePrefix("10.0.0.0/8")), ""},
		"default":         {allow(netip.MustParsePrefix("::/0")), ""},
		"host bits":       {allow(netip.MustParsePrefix("10.0.0.1/8")), "beyond the prefix length"},
		"mapped":          {allow(netip.MustParsePrefix("::ffff:10.0.0.0/104")), "mapped"},
		"zero prefix":     {allow(netip.Prefix{}), "invalid prefix"},
		"bad disallow":    {Delta{Disallow: []AllowedIP{{Peer: key}}}, "invalid prefix"},
		"no key":          {set(PeerConfig{}), "no public key"},
		"port 0":          {set(PeerConfig{PublicKey: key, Endpoint: netip.MustParseAddrPort("192.0.2.1:0")}), "endpoint"},
		"half a second":   {set(PeerConfig{PublicKey: key, PersistentKeepalive: time.Second / 2}), "keepalive"},
		"long keepalive":  {set(PeerConfig{PublicKey: key, PersistentKeepalive: 65536 * time.Second}), "keepalive"},
		"no private key":  {Delta{Device: &DeviceConfig{Name: "wg0"}}, "no private key"},
		"has private key": {Delta{Device: &DeviceConfig{Name: "wg0", PrivateKey: secret}}, ""},
	} {
		switch err := tc.delta.Validate(); {
		case tc.want == "" && err != nil:
			t.Errorf("%s: %v", name, err)
		case tc.want != "" && (err == nil || !strings.Contains(err.Error(), tc.want)):
			t.Errorf("%s: error %v, want one with %q", name, err, tc.want)
		}
	}
	for _, name := range []string{"", ".", "..", "a/b", "a b", "a%d", "sixteen-bytes-xx", "a\n", "é"} {
		if err := (DeviceConfig{Name: name, PrivateKey: secret}).Validate(); err == nil {
			t.Errorf("device name %q was accepted", name)
		}
	}
}
