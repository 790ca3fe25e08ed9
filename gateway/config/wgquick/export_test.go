package wgquick

import (
	"flag"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"sitewire/gateway/config"
	"sitewire/topologies/netns/nstest"
	"sitewire/topologies/netns/peers"
)

// example reads one of the configurations that package config is tested with.
func example(t *testing.T, name string) *config.Config {
	t.Helper()
	dir := t.TempDir()
	for file, text := range map[string]string{
		"private.key": "eLBq+te8h3R+uKJ+1/EW06/jD+lt9EXFY/OWloJy6mw=\n", "branch-2.psk": "mMQk3xDALLVEyPP2Uv4yijzk3uDTlfEqNhfPgyA/kU4=\n", "core-a": "secret\n",
		"sitewire.yaml": strings.ReplaceAll(read(t, filepath.Join("..", "testdata", "good", name+".yaml")), "/etc/sitewire", dir),
	} {
		if err := os.WriteFile(filepath.Join(dir, file), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	c, err := config.Load(filepath.Join(dir, "sitewire.yaml"), config.Options{LookupEnv: func(string) (string, bool) { return dir, true }})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// again exports a configuration and imports what comes out.
func again(t *testing.T, c *config.Config) *config.Config {
	t.Helper()
	var files []*File
	for _, x := range Export(c, ExportOptions{Secrets: true}) {
		f, err := Parse(x.Device+".conf", x.Device, string(x.Text))
		if err != nil {
			t.Fatalf("%v in\n%s", err, x.Text)
		}
		files = append(files, f)
	}
	r, err := Convert(files, Options{Site: c.Site, ASN: c.ASN, RouterID: c.RouterID})
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range r.Notes {
		if strings.HasPrefix(n.Text, "a default route: ") { // is as it was
			continue
		}
		t.Errorf("lost on the way: %v", n)
	}
	out, err := load(t, r)
	if err != nil {
		t.Fatalf("%v\n%s", err, r.YAML)
	}
	return out
}

// tunnels is what a file of wg-quick can say of a configuration, one line for each peer.
func tunnels(c *config.Config) (out []string) {
	for _, p := range c.Peers {
		t := p.Tunnel
		allowed := slices.DeleteFunc(slices.Clone(p.Prefixes), func(a netip.Prefix) bool { return slices.Contains(t.Remotes(), a.Addr()) && a.IsSingleIP() })
		endpoints := p.Endpoints[:min(1, len(p.Endpoints))] // it knows one
		out = append(out, fmt.Sprint(p.Name, p.Description, " key ", p.PublicKey, p.PresharedKey.Hex(), p.PrivateKey.Hex(), " at ", endpoints, " on ", p.Device, p.Shared, p.ListenPort, p.MTU,
			" keepalive ", p.Keepalive, " tunnel ", t.Local, t.Remote, t.LocalIPv4, t.RemoteIPv4, t.LocalIPv6, t.RemoteIPv6, " allowed ", p.Mode, allowed, " AS ", p.ASN))
	}
	return append(out, fmt.Sprintf("mark %#x", c.WireGuard.FirewallMark))
}

// TestRoundTrip: what wg-quick can say of a configuration survives the way there and back.
func TestRoundTrip(t *testing.T) {
	for _, name := range []string{"branch", "dn42", "example", "hub", "rpki", "smallest"} {
		t.Run(name, func(t *testing.T) {
			c := example(t, name)
			if diff := cmp.Diff(tunnels(c), tunnels(again(t, c))); diff != "" {
				t.Errorf("(-before +after):\n%s", diff)
			}
		})
	}
	for _, name := range []string{"dn42", "hub", "tunnel"} {
		t.Run("from "+name, func(t *testing.T) {
			r, err := Convert(parseDir(t, filepath.Join("testdata", name)), Options{Site: "here", ASN: 4242420001})
			if err != nil {
				t.Fatal(err)
			}
			c, err := load(t, r)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tunnels(c), tunnels(again(t, c))); diff != "" {
				t.Errorf("(-before +after):\n%s", diff)
			}
		})
	}
}

// TestSameFiles: a file that was imported and exported has the device do what it did.
func TestSameFiles(t *testing.T) {
	for _, dir := range []string{"dn42", "tunnel"} { // a hub's lists are written anew, as they may not overlap
		before := parseDir(t, filepath.Join("testdata", dir))
		r, err := Convert(before, Options{Site: "here", ASN: 4242420001})
		if err != nil {
			t.Fatal(err)
		}
		c, err := load(t, r)
		if err != nil {
			t.Fatal(err)
		}
		after := map[string]string{}
		for _, x := range Export(c, ExportOptions{Secrets: true}) {
			f, err := Parse(x.Device, x.Device, string(x.Text))
			if err != nil {
				t.Fatal(err)
			}
			after[x.Device] = does(f)
		}
		for _, f := range before {
			if diff := cmp.Diff(does(f), after[f.Device]); diff != "" {
				t.Errorf("%s (-before +after):\n%s", f.Path, diff)
			}
		}
	}
}

// does is what `wg setconf` makes of a file, without the mark, which is sitewire's, and the single addresses that it adds.
func does(f *File) string {
	var b strings.Builder
	fmt.Fprintln(&b, f.PrivateKey.Hex(), f.ListenPort, f.MTU, f.Table)
	for _, p := range f.Peers {
		allowed := slices.DeleteFunc(slices.Clone(p.AllowedIPs), netip.Prefix.IsSingleIP)
		slices.SortFunc(allowed, netip.Prefix.Compare)
		fmt.Fprintln(&b, p.PublicKey, p.PresharedKey.Hex(), p.Endpoint, p.Keepalive, allowed)
	}
	return b.String()
}

// TestLive: with the allowed-IPs that are in force, learned ones are in the files, too.
func TestLive(t *testing.T) {
	c := example(t, "smallest")
	p := c.Peers[0]
	live := map[string]map[string][]netip.Prefix{p.Device: {p.Name: {netip.MustParsePrefix("172.20.2.0/24"), netip.MustParsePrefix("fd42:2::/48")}}}
	for _, x := range []struct {
		o    ExportOptions
		want string
	}{
		{ExportOptions{Live: live}, fmt.Sprintf("AllowedIPs = 172.20.2.0/24, fd42:2::/48, %v/128\n", p.Tunnel.Remote)},
		{ExportOptions{}, fmt.Sprintf("AllowedIPs = %v/128\n", p.Tunnel.Remote)},
	} {
		text := string(Export(c, x.o)[0].Text)
		if !strings.Contains(text, x.want) || strings.Contains(text, "allowed_ips: learned") != (x.o.Live == nil) {
			t.Errorf("no %q, or not as it says, in\n%s", x.want, text)
		}
		if strings.Contains(text, p.PrivateKey.Reveal()) || !strings.Contains(text, "# PrivateKey = (wireguard.private_key in "+c.Path+")") {
			t.Errorf("a file without secrets:\n%s", text)
		}
	}
}

// strip is what wg-quick gives to wg.
func strip(t *testing.T, x Text) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), x.Device+".conf")
	if err := os.WriteFile(path, x.Text, 0o600); err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command("wg-quick", "strip", path).CombinedOutput()
	if err != nil {
		t.Fatalf("wg-quick strip: %v: %s\n%s", err, out, x.Text)
	}
	return string(out)
}

// TestStrip has wg-quick read the files.
func TestStrip(t *testing.T) {
	nstest.Need(t, nstest.Program("wg-quick"))
	for _, name := range []string{"branch", "dn42", "example", "hub"} {
		for _, secrets := range []bool{true, false} {
			c := example(t, name)
			for _, x := range Export(c, ExportOptions{Secrets: secrets}) {
				out := strip(t, x)
				for _, key := range []string{"Address", "MTU", "Table", "PostUp"} {
					if strings.Contains(out, "\n"+key+" =") {
						t.Errorf("wg-quick did not take %s as its own:\n%s", key, out)
					}
				}
				peers := 0
				for _, p := range c.Peers {
					if p.Device == x.Device {
						peers++
					}
				}
				if got := strings.Count(out, "[Peer]"); got != peers {
					t.Errorf("%d peers are left of %d:\n%s", got, peers, out)
				}
			}
		}
	}
}

// TestWireGuard has a WireGuard take the files, and reads what it says that it is like then.
func TestWireGuard(t *testing.T) {
	nstest.Need(t, nstest.TUN, nstest.Program("wg-quick"), nstest.Program("wg"), nstest.Program("wireguard-go"))
	for _, x := range Export(example(t, "hub"), ExportOptions{Secrets: true}) {
		want, err := Parse(x.Device, x.Device, string(x.Text))
		if err != nil {
			t.Fatal(err)
		}
		device, err := peers.StartWireGuard(t.Context(), nstest.NS(t, x.Device), x.Device, strip(t, x))
		if err != nil {
			t.Fatal(err)
		}
		device.Watch(t)
		shown, err := device.Wg(t.Context(), "showconf", x.Device)
		if err != nil {
			t.Fatal(err)
		}
		got, err := Parse("showconf", x.Device, shown)
		if err != nil {
			t.Fatal(err)
		}
		got.MTU, got.Table = want.MTU, want.Table // which are not WireGuard's
		byKey := func(a, b *Peer) int { return strings.Compare(a.PublicKey.String(), b.PublicKey.String()) }
		slices.SortFunc(got.Peers, byKey)
		slices.SortFunc(want.Peers, byKey)
		if diff := cmp.Diff(does(want), does(got)); diff != "" || got.FirewallMark != want.FirewallMark {
			t.Errorf("%s, mark %#x and %#x (-file +device):\n%s", x.Device, want.FirewallMark, got.FirewallMark, diff)
		}
	}
}

// TestMain enters a lab, but for fuzzing, whose workers cannot be started in one.
func TestMain(m *testing.M) {
	flag.Parse()
	if flag.Lookup("test.fuzz").Value.String() != "" {
		os.Exit(m.Run())
	}
	nstest.Main(m)
}
