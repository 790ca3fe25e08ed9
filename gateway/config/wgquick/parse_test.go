package wgquick

import (
	"fmt"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"sitewire/gateway/config"
)

const (
	keyA = "hSDwCYkwp1R0i33ctD73Wg2/Og0mOBr066SpjqqbTmo="
	keyB = "OAFNGbXRwvUgCQX6AWStGeMmhQJXz2smTsVt3R/NTkM="
)

// TestParse: the spellings that wg and wg-quick take.
func TestParse(t *testing.T) {
	f, err := Parse("wg0.conf", "wg0", "\ufeff  [INTERFACE]\r\n listenport=51820 # port\r\nFWMARK = 0xCa6c\naddress = 10.0.0.1/24,fd00::1\nAddress=10.0.1.1\n"+
		"mtu=1400\nTABLE = Off\ntable =\nsaveconfig=FALSE\nPrivateKey=\n[peer]\nPUBLICKEY="+keyA+"\nAllowedIPs = 10.1.1.1/16 , +10.2.0.0/16\nallowedips=fd00::2, -10.1.0.0/16\n"+
		"endpoint = [2001:DB8::1]:51820\npersistentkeepalive = OFF\nPersistentKeepalive = 30\n[Peer]\nPublicKey = "+keyB+"\nAllowedIPs =\nEndpoint=Host.Example.:1")
	if err != nil {
		t.Fatal(err)
	}
	got := fmt.Sprintln(f.ListenPort, f.FirewallMark, f.Addresses[0].Local, f.Addresses[1].Local, f.Addresses[2].Local, f.MTU, f.Table, f.SaveConfig, f.PrivateKey.IsZero())
	if want := "51820 51820 10.0.0.1/24 fd00::1/128 10.0.1.1/32 1400 auto false true\n"; got != want {
		t.Errorf("device %s, want %s", got, want)
	}
	a, b := f.Peers[0], f.Peers[1]
	got = fmt.Sprintln(a.PublicKey, a.AllowedIPs, a.Endpoint, a.Keepalive, b.PublicKey, b.AllowedIPs, b.Endpoint, b.Keepalive)
	if want := keyA + " [10.2.0.0/16 fd00::2/128] [2001:db8::1]:51820 30 " + keyB + " [] host.example.:1 0\n"; got != want {
		t.Errorf("peers %s, want %s", got, want)
	}
	var notes []string
	for _, n := range f.Notes {
		notes = append(notes, n.At.String())
	}
	if want := []string{"wg0.conf:8:8", "wg0.conf:17:23"}; !slices.Equal(notes, want) { // what stands there twice
		t.Errorf("notes at %v, want %v", notes, want)
	}
}

// TestParseErrors: every mistake at once, each with its place, and no key in any of them.
func TestParseErrors(t *testing.T) {
	for name, c := range map[string]struct{ text, want string }{
		"nothing":         {"", "f: no [Interface]\n        is this a file of wg-quick?"},
		"not wg-quick":    {"[Unit]\nDescription=x\n", "f:1:1: not a header of wg-quick\n        want [Interface] or [Peer]"},
		"no header":       {"ListenPort = 1\n[Interface]\n", "f:1:1: a key before the first header\n        want [Interface] or [Peer] above it"},
		"no value":        {"[Interface]\n ListenPort\n", "f:2:2: want a line of the form key = value"},
		"key as a line":   {"[Interface]\n" + keyA + "\n", "f:2:1: unknown key \"***\"\n        known: " + strings.Join(interfaceKeys, ", ")},
		"unclosed":        {"[Interface\n", "f:1:1: not a header of wg-quick\n        want [Interface] or [Peer]"},
		"second":          {"[Interface]\n[Interface]\n", "f:2:1: a second [Interface]\n        a file describes one interface (wg(8)): write another file"},
		"misspelt":        {"[Interface]\nPrivatKey = " + keyA + "\n", "f:2:1: unknown key \"PrivatKey\"\n        known: " + strings.Join(interfaceKeys, ", ")},
		"wrong section":   {"[Interface]\nPublicKey = " + keyA + "\n[Peer]\nMTU = 1\nPublicKey=" + keyA, "f:2:1: PublicKey is a key of [Peer]\nf:4:1: MTU is a key of [Interface]"},
		"private key":     {"[Interface]\nPrivateKey = " + keyA[1:] + "\n", "f:2:14: PrivateKey: not a WireGuard key: want 44 characters of base64 (32 bytes), as `sitewire genkey` or `wg genkey` print it"},
		"key as endpoint": {"[Interface]\n[Peer]\nPublicKey = " + keyA + "\nEndpoint = " + keyB, `f:4:12: Endpoint: "***" has no port`},
		"numbers": {"[Interface]\nListenPort = 65536\nFwMark = -1\nMTU = x\nAddress = 10.0.0.1/33\nSaveConfig = yes\n", `f:2:14: ListenPort: "65536" is not a number from 0 to 65535
f:3:10: FwMark: "-1" is not a firewall mark: want a number, decimal or with 0x, or off
f:4:7: MTU: "x" is not a number from 0 to 65535
f:5:11: Address: "10.0.0.1/33" is not an address such as 10.0.0.1/24 or fd00::1/64
f:6:14: SaveConfig: neither true nor false`},
		"peers": {"[Interface]\n[Peer]\nAllowedIPs = 10.0.0.0/8,,\n[Peer]\nPublicKey = " + keyA + "\nEndpoint = host\n[Peer]\nPublicKey = " + keyA + "\nPersistentKeepalive = 25s\n", `f:2:1: a peer without a PublicKey
f:3:14: AllowedIPs: "" is not an address such as 10.0.0.1/24 or fd00::1/64
f:6:12: Endpoint: "host" has no port
f:7:1: the peer of line 4 again: both have its public key
        put them into one [Peer]
f:9:23: PersistentKeepalive: "25s" is not a number from 0 to 65535`},
		"binary": {"[Interface]\n\x00", "f: not a text file"},
	} {
		_, err := Parse("f", "wg0", c.text)
		if err == nil || err.Error() != c.want {
			t.Errorf("%s: got\n%v\nwant\n%s", name, err, c.want)
		}
	}
}

// TestNames: where people write what a peer is called.
func TestNames(t *testing.T) {
	const header = "[Interface]\nListenPort = 1 # not this\n\n"
	for name, c := range map[string]struct{ text, want string }{
		"above":               {"# nyc\n[Peer]", "nyc"},
		"first of two":        {"# new york\n# AS64512 noc@example.net\n[Peer]", "new-york"},
		"labelled":            {"# some words\n# Name = nyc\n[Peer]", "nyc"},
		"exporter's":          {"[Peer]\n# friendly_name=nyc-1", "nyc-1"},
		"behind the header":   {"[Peer] # nyc", "nyc"},
		"below":               {"[Peer]\n#nyc\n", "nyc"},
		"behind the key":      {"[Peer]", "behind"}, // see below
		"a frame":             {"### begin nyc ###\n[Peer]", "nyc"},
		"a client":            {"# Client: nyc (2b1c)\n[Peer]", "nyc"},
		"umlauts":             {"# Köln 1\n[Peer]", "K-ln-1"},
		"another block":       {"# not this\n\n[Peer]", "host.example.net"},
		"prose":               {"# the peer in the cellar of my brother\n[Peer]", "host.example.net"},
		"a commented value":   {"# PrivateKey = " + keyA + "\n[Peer]", "host.example.net"},
		"a key":               {"# " + keyA + "\n[Peer]", "host.example.net"},
		"a commented section": {"# [Peer]\n[Peer]", "host.example.net"},
	} {
		text := header + c.text + "\nEndpoint = host.example.net:1\nPublicKey = " + keyA
		if name == "behind the key" {
			text += " # behind"
		}
		f, err := Parse("f", "wg0", text+"\n")
		if err != nil {
			t.Fatal(err)
		}
		if got := peerName(f, f.Peers[0]); got != c.want {
			t.Errorf("%s: %q, want %q", name, got, c.want)
		}
	}
	for _, c := range []struct{ device, endpoint, want string }{
		{"wg0", "Endpoint = 192.0.2.1:1\n", "wg0"}, {"wg0", "", "wg0"}, {"_", "Endpoint = [2001:db8::1]:1\n", "2001-db8-1"}, {"_", "", "peer-hSDwCYkw"},
	} {
		f, err := Parse("f", c.device, "[Interface]\n[Peer]\n"+c.endpoint+"PublicKey = "+keyA)
		if err != nil {
			t.Fatal(err)
		}
		if got := peerName(f, f.Peers[0]); got != c.want {
			t.Errorf("%s, %s: %q, want %q", c.device, c.endpoint, got, c.want)
		}
	}
}

func TestASN(t *testing.T) {
	for text, want := range map[string]uint32{
		"nyc": 0, "AS64512": 64512, "wg-as4242420263": 4242420263, "dn42_4242421234": 4242421234, "dn42-1234": 0, "as 2001 was": 0, "AS64512 and AS64513": 0,
		"AS64512, again AS64512": 64512, "x4242421234567": 0, "asn:65001": 65001, "AS23456": 0, "Basel 1234": 0, "AS4242420001 to AS64512": 64512,
	} {
		if got := peerASN(&File{}, &Peer{Comments: []string{text}}, 4242420001); got != want {
			t.Errorf("%q: %d, want %d", text, got, want)
		}
	}
}

// TestHooks: commands that are taken over, those that the gateway makes needless (no Note), and those that are neither.
func TestHooks(t *testing.T) {
	for _, c := range []struct{ hook, want string }{
		{"PostUp = ip addr add 172.20.1.1/32 peer 172.20.2.1/32 dev %i", "172.20.1.1/32>172.20.2.1/32"},
		{"PostUp = /sbin/ip -6 a a dev wg0 fe80::1/64 scope link", "fe80::1/64"},
		{"PostUp = sudo ip address replace local fd00::1 remote fd00::2 dev %i nodad; ip link set dev %i mtu 1400 up", "fd00::1/128>fd00::2/128 mtu 1400"},
		{"PostUp = ip addr add 10.0.0.1/24 dev eth0", "1 left"},
		{"PostUp = ip link set %i multicast on", "1 left"},
		{"PostUp = ip route add 10.2.0.1 dev %i && ip route add 10.0.0.0/8 dev %i table 7", "route 10.2.0.1/32 1 left"},
		{"PostUp = ip route add 10.9.9.9/8 dev 'wg0'", "route 10.0.0.0/8"},
		{"PostUp = ip rule add from 10.0.0.1 lookup 7", "1 left"},
		{"PostUp = sysctl -q -w net.ipv6.conf.%i.autoconf=0 net/ipv4/conf/%i/rp_filter=0", ""},
		{"PostUp = sysctl -w net.ipv4.conf.all.rp_filter=0", "1 left"},
		{"PostUp = sysctl -w net.ipv4.conf.%i.rp_filter=2", "1 left"},
		{"PostUp = echo 0 > /proc/sys/net/ipv4/conf/%i/rp_filter", "1 left"},
		{"PostUp = wg set %i private-key <(cat /etc/wg.key) listen-port 7 fwmark 0x7", "key /etc/wg.key port 7 mark 7"},
		{"PostUp = wg set %i peer " + keyA + " preshared-key /etc/psk", "psk /etc/psk"},
		{"PostUp = wg set %i peer " + keyA + " allowed-ips 0.0.0.0/0", "1 left"},
		{"PostUp = wg set %i private-key <(pass wg)", "1 left"},
		{"PostUp = iptables -t mangle -A FORWARD -p tcp --tcp-flags SYN,RST SYN -j TCPMSS --clamp-mss-to-pmtu", ""},
		{"PostUp = nft add rule inet f forward tcp flags syn tcp option maxseg size set rt mtu", ""},
		{"PostUp = iptables -A FORWARD -i %i -j ACCEPT; iptables -t nat -A POSTROUTING -o eth0 -j MASQUERADE", "2 left"},
		{"PostUp = resolvectl dns %i 10.0.0.53", "1 left"},
		{"PostUp = true || true", ""},
		{"PostUp = \"unclosed", "1 left"},
		{"PreDown = ip addr del 10.0.0.1/32 dev %i", ""},
		{"PostDown = iptables -D FORWARD -i %i -j ACCEPT", "1 left"},
		{"PreUp = modprobe wireguard", "1 left"},
		{"PostUp =", ""},
	} {
		f, err := Parse("f", "wg0", "[Interface]\n"+c.hook+"\n[Peer]\nPublicKey = "+keyA)
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, a := range f.Addresses {
			got = append(got, strings.TrimSuffix(a.Local.String()+">"+a.Peer.String(), ">invalid Prefix"))
		}
		for _, r := range f.routes {
			got = append(got, "route "+r.prefix.String())
		}
		add := func(given bool, format string, v any) {
			if given {
				got = append(got, fmt.Sprintf(format, v))
			}
		}
		add(f.MTU != 0, "mtu %d", f.MTU)
		add(f.PrivateKeyFile != "", "key %s", f.PrivateKeyFile)
		add(f.ListenPort != 0, "port %d", f.ListenPort)
		add(f.FirewallMark != 0, "mark %d", f.FirewallMark)
		add(f.Peers[0].PresharedKeyFile != "", "psk %s", f.Peers[0].PresharedKeyFile)
		add(len(f.Notes) > 0, "%d left", len(f.Notes))
		if strings.Join(got, " ") != c.want {
			t.Errorf("%s: %q, want %q", c.hook, strings.Join(got, " "), c.want)
		}
	}
}

// TestAround: the parts are all of the outer prefix but the inner one, and nothing twice.
func TestAround(t *testing.T) {
	for _, c := range [][2]string{{"10.0.0.0/8", "10.1.0.0/16"}, {"10.0.0.0/30", "10.0.0.3/32"}, {"fd00::/8", "fd42:1::/48"}, {"0.0.0.0/1", "127.0.0.0/8"}} {
		outer, inner := netip.MustParsePrefix(c[0]), netip.MustParsePrefix(c[1])
		parts := around(outer, inner)
		size := 0.0 // in shares of outer
		for i, p := range append(parts, inner) {
			size += 1 / float64(uint64(1)<<(p.Bits()-outer.Bits()))
			if !outer.Contains(p.Addr()) || p.Bits() <= outer.Bits() || p != p.Masked() {
				t.Errorf("%v: %v does not lie in it", outer, p)
			}
			for _, other := range parts[:min(i, len(parts))] {
				if p.Overlaps(other) {
					t.Errorf("%v: %v and %v overlap", outer, p, other)
				}
			}
		}
		if size != 1 {
			t.Errorf("%v without %v: the parts are %g of it", outer, inner, size)
		}
	}
}

// TestOneShared: a gateway has one device with several peers, and each device once.
func TestOneShared(t *testing.T) {
	hub := parseDir(t, filepath.Join("testdata", "hub"))
	second := *hub[1]
	second.Path, second.Device = "wg1.conf", "wg1"
	if _, err := Convert(append(hub, &second), Options{Site: "here"}); err == nil || !strings.Contains(err.Error(), "wg1.conf: has several peers, as wg0.conf has") {
		t.Errorf("two devices with several peers: %v", err)
	}
	if _, err := Convert(append(hub, hub[0]), Options{Site: "here"}); err == nil || !strings.Contains(err.Error(), "the device partner again") {
		t.Errorf("a device twice: %v", err)
	}
}

// FuzzConvert: no text breaks the parser, and what it takes becomes YAML that config.Load reads as YAML. No key is shown.
func FuzzConvert(f *testing.F) {
	for _, dir := range []string{"dn42", "hub", "tunnel", "keys"} {
		names, err := filepath.Glob(filepath.Join("testdata", dir, "*.conf"))
		if err != nil {
			f.Fatal(err)
		}
		for _, name := range names {
			f.Add(read(f, name))
		}
	}
	f.Add("[Interface]\n# \u2028x: y\nDNS = \u2029- a\n[Peer] # {}\nPublicKey=" + keyA + "\nAllowedIPs=0.0.0.0/0,10.0.0.0/8\n[Peer]\nPublicKey=" + keyB + "\nAllowedIPs=10.1.0.0/16")
	f.Fuzz(func(t *testing.T, text string) {
		file, err := Parse("f.conf", "wg0", text)
		if err != nil {
			if errs, ok := err.(config.Errors); !ok || len(errs) == 0 {
				t.Fatalf("error of type %T: %v", err, err)
			}
			return
		}
		r, err := Convert([]*File{file}, Options{Site: "here", ASN: 65001})
		if err != nil {
			t.Fatal(err)
		}
		for _, k := range r.Keys {
			if strings.Contains(string(r.YAML), k.Secret.Reveal()[:42]) {
				t.Fatalf("a key is shown:\n%s", r.YAML)
			}
		}
		if _, err := load(t, r); err != nil && (strings.Contains(err.Error(), "not YAML") || strings.Contains(err.Error(), "has no key")) {
			t.Fatalf("%v\n%s", err, r.YAML)
		}
	})
}
