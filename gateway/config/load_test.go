package config

import (
	"crypto/ecdh"
	"encoding/hex"
	"errors"
	"flag"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"sitewire/gateway/wg"
)

var update = flag.Bool("update", false, "rewrite golden files")

// Keys that belong to nobody. The first is the gateway's own.
const (
	ownPrivate = "eLBq+te8h3R+uKJ+1/EW06/jD+lt9EXFY/OWloJy6mw="
	ownPublic  = "pSt4T+ZrfXrQN5LO9cva95pOENWRH0le5l82hM5DOn0="
	presharedA = "mMQk3xDALLVEyPP2Uv4yijzk3uDTlfEqNhfPgyA/kU4="
	password   = "hunter2-hunter2"
)

// site is a directory like /etc/sitewire, with the secrets that the examples name.
func site(t testing.TB) string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range map[string]string{
		"private.key": ownPrivate + "\n", "branch-2.psk": presharedA + "\n", "core-a": password + "\n",
		"open.key": ownPrivate + "\n",
	} {
		mode := os.FileMode(0o600)
		if name == "open.key" {
			mode = 0o644
		}
		write(t, filepath.Join(dir, name), text, mode)
	}
	return dir
}

func write(t testing.TB, path, text string, mode os.FileMode) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), mode); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(path, mode); err != nil { // whatever the umask
		t.Fatal(err)
	}
}

// load reads a text as sitewire.yaml of a fresh site.
func load(t testing.TB, text string, more ...string) (*Config, error) {
	t.Helper()
	dir := site(t)
	path := filepath.Join(dir, "sitewire.yaml")
	write(t, path, strings.ReplaceAll(text, "/etc/sitewire/", dir+"/"), 0o600)
	for i, m := range more {
		write(t, filepath.Join(dir, "conf.d", string(rune('a'+i))+".yaml"), m, 0o600)
	}
	c, err := Load(path, Options{LookupEnv: env(dir)})
	return c, err
}

func env(dir string) func(string) (string, bool) {
	return func(name string) (string, bool) {
		switch name {
		case "CREDENTIALS_DIRECTORY":
			return dir, true
		case "SITE":
			return "env-site", true
		}
		return "", false
	}
}

func read(t testing.TB, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func good(t testing.TB, name string) *Config {
	t.Helper()
	c, err := load(t, read(t, filepath.Join("testdata/good", name)))
	if err != nil {
		t.Fatalf("%s:\n%v", name, err)
	}
	return c
}

func TestExamples(t *testing.T) {
	files, err := filepath.Glob("testdata/good/*.yaml")
	if err != nil || len(files) == 0 {
		t.Fatal(files, err)
	}
	for _, f := range files {
		t.Run(filepath.Base(f), func(t *testing.T) {
			c := good(t, filepath.Base(f))
			var got strings.Builder
			got.WriteString(string(c.Canonical()))
			for _, w := range c.Warnings {
				got.WriteString("# warning: " + w.Message + "\n")
			}
			golden(t, strings.TrimSuffix(f, ".yaml")+".canonical", got.String())
			for _, secret := range []string{ownPrivate, presharedA, password} {
				if strings.Contains(got.String(), secret) {
					t.Errorf("a secret is in the canonical form")
				}
			}
		})
	}
}

func golden(t *testing.T, path, got string) {
	t.Helper()
	if *update {
		write(t, path, got, 0o644)
		return
	}
	if want := read(t, path); got != want {
		t.Errorf("%s differs (go test -update rewrites it); got:\n%s", path, got)
	}
}

// TestMistakes loads every file of testdata/bad. Next to each is what an operator gets to see.
func TestMistakes(t *testing.T) {
	files, err := filepath.Glob("testdata/bad/*.yaml")
	if err != nil || len(files) == 0 {
		t.Fatal(files, err)
	}
	for _, f := range files {
		t.Run(filepath.Base(f), func(t *testing.T) {
			dir := site(t)
			path := filepath.Join(dir, "sitewire.yaml")
			write(t, path, strings.ReplaceAll(read(t, f), "/etc/sitewire/", dir+"/"), 0o600)
			c, err := Load(path, Options{LookupEnv: env(dir)})
			got := ""
			switch {
			case err != nil:
				errs, ok := errors.AsType[Errors](err)
				if !ok || len(errs) == 0 {
					t.Fatalf("error of type %T", err)
				}
				got = err.Error() + "\n"
			case len(c.Warnings) == 0:
				t.Fatal("loads without a warning")
			default:
				for _, w := range c.Warnings {
					got += w.String() + "\n"
				}
			}
			got = strings.ReplaceAll(got, dir+"/", "")
			for _, secret := range []string{ownPrivate, presharedA, password, "hunter2", "mMQk3xDALLVEy"} {
				if strings.Contains(got, secret) {
					t.Errorf("a secret is in the output:\n%s", got)
				}
			}
			golden(t, strings.TrimSuffix(f, ".yaml")+".err", got)
		})
	}
}

func TestSmallest(t *testing.T) {
	c := good(t, "smallest.yaml")
	if len(c.Warnings) != 0 {
		t.Errorf("warnings: %v", c.Warnings)
	}
	p := c.Peers[0]
	s := p.Sessions[0]
	switch {
	case c.RouterID != netip.MustParseAddr("172.20.1.1"):
		t.Errorf("router ID %v", c.RouterID)
	case p.Device != "wg-nyc" || p.Shared || p.Mode != Learned || p.Keepalive != 25*time.Second:
		t.Errorf("peer %+v", p)
	case !p.Tunnel.Derived || p.Tunnel.Local != LinkLocal(c.WireGuard.PublicKey) || p.Tunnel.Remote != LinkLocal(p.PublicKey):
		t.Errorf("tunnel %+v", p.Tunnel)
	case s.Address.Zone() != "wg-nyc" || s.LocalAddress.Zone() != "wg-nyc" || !s.IPv4 || !s.IPv6 || s.Passive:
		t.Errorf("session %+v", s)
	case s.HoldTime != 90*time.Second || s.Keepalive != 30*time.Second || s.ExtendedNextHop != ENHAuto || s.LocalASN != 4242420001:
		t.Errorf("session %+v", s)
	case s.Policy == nil || s.Policy.Name != "dn42":
		t.Errorf("policy %v", s.Policy)
	}
	// The other end derives the same addresses from the same keys.
	if LinkLocal(c.WireGuard.PublicKey).String() != "fe80::63ff:7838:484:b6be" {
		t.Errorf("the derived address changed: %v (old and new ends of a tunnel would not agree)", LinkLocal(c.WireGuard.PublicKey))
	}
}

func TestShapes(t *testing.T) {
	c := good(t, "dn42.yaml")
	byName := map[string]*Session{}
	for _, p := range c.Peers {
		for _, s := range p.Sessions {
			byName[s.Name] = s
		}
	}
	if len(byName) != 4 {
		t.Fatalf("sessions %v", byName)
	}
	old := byName["old-bird"]
	if old.Address.String() != "fe80:1234::1%dn42-1234" || old.LocalIPv4.String() != "172.20.1.1" || old.RemoteIPv4.String() != "172.20.9.1" || old.ExtendedNextHop != ENHOff {
		t.Errorf("old-bird %+v", old)
	}
	v4, v6 := byName["split/ipv4"], byName["split/ipv6"]
	if !v4.IPv4 || v4.IPv6 || v4.Address.String() != "172.20.10.1" || v6.IPv4 || !v6.IPv6 || v6.Address.String() != "fd42:263::1" || !v4.Passive {
		t.Errorf("split %+v, %+v", v4, v6)
	}
	i := slices.IndexFunc(c.Peers, func(p *Peer) bool { return p.Name == "kioubit" })
	if e := c.Peers[i].Endpoints[0]; e.String() != "[2001:db8:4::20]:20001" {
		t.Errorf("endpoint %v", e)
	}
	hub := good(t, "hub.yaml")
	for _, p := range hub.Peers {
		if p.Name == "partner" {
			if s := p.Sessions[0]; s.IPv6 || !s.IPv4 || s.Address.String() != "10.255.0.2" {
				t.Errorf("partner %+v", s)
			}
		} else if p.Device != "wg0" || !p.Shared || p.ListenPort != 51820 {
			t.Errorf("%s is on %s, port %d", p.Name, p.Device, p.ListenPort)
		}
	}
	site := hub.Policies["site"]
	if site.MaxPrefixes4 != 10 || site.MaxPrefixes6 != 100 || len(site.Import) != 5 || site.Import[1].Name != "import-2" {
		t.Errorf("policy %+v", site)
	}
	if s := hub.Neighbours[0].Session; s.Password.Reveal() != password || !s.RouteReflectorClient || s.Address.Zone() != "eth1" {
		t.Errorf("core-a %+v", s)
	}
}

func TestConfD(t *testing.T) {
	base := "site: fra\nasn: 65000\nrouter_id: 10.0.0.1\nwireguard: {private_key: \"${file:/etc/sitewire/private.key}\"}\n"
	peer := func(name, key string) string {
		return "peers:\n  " + name + ":\n    public_key: " + key + "\n    endpoint: a.example:1\n    asn: 65001\n    policy: hub\n"
	}
	const a, b = "OAFNGbXRwvUgCQX6AWStGeMmhQJXz2smTsVt3R/NTkM=", "mwQt05EBvg8D7eOqPc2Jpc+nll5MXSI5g47EGiIiuxA="
	c, err := load(t, base, peer("x", a), peer("y", b), "", "# nothing\n")
	if err != nil || len(c.Peers) != 2 || len(c.Files) != 5 {
		t.Fatalf("%+v, %v", c, err)
	}
	_, err = load(t, base, peer("x", a), peer("x", b), "asn: 65001\n", "- 1\n")
	errs, _ := errors.AsType[Errors](err)
	if len(errs) != 3 || !strings.HasSuffix(errs[0].File, "b.yaml") || errs[0].Line != 2 || !strings.Contains(errs[0].Message, "conf.d/a.yaml:2:3") ||
		!strings.Contains(errs[1].Message, "sitewire.yaml:2:1") || !strings.HasSuffix(errs[2].File, "d.yaml") {
		t.Errorf("%v", err)
	}
}

func TestExpansion(t *testing.T) {
	c, err := load(t, "site: ${env:SITE}\nstate_dir: /x/${env:NONE:-none}/$${env:SITE}$\n")
	if err != nil || c.Site != "env-site" || c.StateDir != "/x/none/${env:SITE}$" {
		t.Errorf("%+v, %v", c, err)
	}
	path := filepath.Join(t.TempDir(), "c.yaml")
	write(t, path, "site: a\nasn: 65000\nrouter_id: 10.0.0.1\nwireguard: {private_key: \"${file:/nowhere}\"}\npeers:\n  x:\n    public_key: "+ownPublic+"\n    preshared_key: ${cred:x}\n    endpoint: a.example:1\n    asn: 65001\n    policy: hub\n", 0o644)
	if _, err := Load(path, Options{LookupEnv: env("/nowhere")}); err == nil {
		t.Error("loads without its secrets")
	}
	c, err = Load(path, Options{LookupEnv: env("/nowhere"), WithoutSecrets: true})
	if err != nil || !c.WireGuard.PrivateKey.IsZero() || len(c.Peers) != 1 {
		t.Errorf("%+v, %v", c, err)
	}
}

func TestEndpoint(t *testing.T) {
	for in, want := range map[string]string{
		"nyc.Example.net:51820": "nyc.example.net:51820", "192.0.2.1:1": "192.0.2.1:1", "[2001:db8::1]:51820": "[2001:db8::1]:51820",
		"2001:db8::1:51820": "[2001:db8::1]:51820", "2603:1:2:3:4:5:6:7:20263": "[2603:1:2:3:4:5:6:7]:20263", "[fe80::1%eth0]:9": "[fe80::1%eth0]:9",
		"[::ffff:192.0.2.1]:5": "192.0.2.1:5", "a_b.example.:5": "a_b.example.:5",
		"host": "", "host:": "", "host:0": "", "host:65536": "", ":51820": "", "2001:db8::1": "", "[x]:1": "", "256.1.1.1:5": "", "a b:5": "", "-a:5": "",
		"0.0.0.0:5": "", "[ff02::1]:5": "", "x..y:1": "",
	} {
		e, err := ParseEndpoint(in)
		switch {
		case want == "" && err == nil && in != "2001:db8::1":
			t.Errorf("%q: %v", in, e)
		case want != "" && (err != nil || e.String() != want):
			t.Errorf("%q: %v, %v; want %s", in, e, err, want)
		}
	}
}

// TestLowOrder compares the table with what the multiplication says (RFC 7748 section 6.1), for the neighbours of
// every point in it too.
func TestLowOrder(t *testing.T) {
	private, err := ecdh.X25519().NewPrivateKey(slices.Repeat([]byte{0x40}, wg.KeySize))
	if err != nil {
		t.Fatal(err)
	}
	low := 0
	for _, first := range []byte{0x00, 0x01, 0x02, 0xe0, 0x5f, 0xeb, 0xec, 0xed, 0xee, 0xef} {
		for _, rest := range []string{
			strings.Repeat("00", 31), strings.Repeat("ff", 30) + "7f", strings.Repeat("ff", 31), strings.Repeat("00", 30) + "80",
			"eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800",
			"9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157", "9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f11d7",
		} {
			tail, err := hex.DecodeString(rest)
			if err != nil {
				t.Fatal(err)
			}
			k := wg.PublicKey(append([]byte{first}, tail...))
			public, err := ecdh.X25519().NewPublicKey(k[:])
			if err != nil {
				t.Fatal(err)
			}
			_, err = private.ECDH(public)
			if got, want := lowOrder(k), err != nil; got != want {
				t.Errorf("%s: %v, want %v", k.Hex(), got, want)
			}
			if err != nil {
				low++
			}
		}
	}
	if low < 10 {
		t.Errorf("only %d points of low order among the samples", low)
	}
}
