package e2e

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/pem"
	"fmt"
	"math/big"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"sitewire/gateway/wg"
	"sitewire/topologies/netns"
	"sitewire/topologies/netns/nstest"
	"sitewire/topologies/netns/peers"
)

// dataPlaneMTU is that of every tunnel; all fit an Ethernet of 1500 bytes with it.
const dataPlaneMTU = 1420

// newEnds makes two namespaces that are joined by a cable. What their hosts would be are addresses of their own.
func newEnds(t testing.TB) (ends [2]*site) {
	t.Helper()
	for i, name := range []string{"near", "far"} {
		s := &site{t: t, name: name, n: i + 1, asn: 4242420001 + uint32(i), ns: nstest.NS(t, name), dir: t.TempDir()}
		s.out4 = netip.AddrFrom4([4]byte{198, 18, 0, byte(s.n)})
		s.host4 = netip.AddrFrom4([4]byte{10, 70, byte(s.n), 1})
		s.lan4 = netip.PrefixFrom(s.host4, 24).Masked()
		s.lan6 = netip.MustParsePrefix(fmt.Sprintf("fd00:%x::/64", s.n))
		var err error
		s.key, err = wg.NewPrivateKey()
		must(t, err)
		must(t, s.ns.Addr("lo", netip.PrefixFrom(s.host4, 32)))
		ends[i] = s
	}
	outer := func(s *site) []netip.Prefix { return []netip.Prefix{netip.PrefixFrom(s.out4, 24)} }
	must(t, netns.Link(ends[0].ns, "eth0", ends[1].ns, "eth0", netns.LinkOpts{AddrsA: outer(ends[0]), AddrsB: outer(ends[1])}))
	return ends
}

// running is a data plane at work between two ends.
type running struct {
	pids   []int
	device string // of the near end, for what changes while packets flow
	stop   func()
}

// dataPlane is a way to carry packets from one end to the other. start returns when both ends run; packets may flow later.
type dataPlane struct {
	name  string
	needs []nstest.Requirement
	start func(t testing.TB, ends [2]*site) running
}

// dataPlanes are what is measured beside each other.
func dataPlanes(t testing.TB) []dataPlane {
	tools := t.TempDir()
	stock := filepath.Join(tools, "wireguard-go")
	return []dataPlane{
		{"no tunnel", nil, startNothing},
		{"sitewire", nil, startOurs},
		{"wireguard-go", []nstest.Requirement{nstest.Program("wg"), built("wireguard-go", tools, "go.mod", "golang.zx2c4.com/wireguard")},
			func(t testing.TB, ends [2]*site) running { return startStock(t, ends, stock) }},
		{"OpenVPN", []nstest.Requirement{nstest.Program("openvpn")}, startOpenVPN},
		{"Nebula", []nstest.Requirement{built("nebula", tools, ".ci/bench.mod", "github.com/slackhq/nebula/cmd/nebula", "github.com/slackhq/nebula/cmd/nebula-cert")},
			func(t testing.TB, ends [2]*site) running { return startNebula(t, ends, tools) }},
	}
}

// built needs programs that a module file of this tree names. The lab has no way out, so their sources must be in the module cache.
func built(name, dir, modfile string, packages ...string) nstest.Requirement {
	return nstest.Requirement{Kind: "program", Name: name, Check: func() error {
		const root = "../../.."
		out := dir
		if len(packages) == 1 {
			out = filepath.Join(dir, name)
		}
		cmd := exec.Command("go", append([]string{"build", "-modfile=" + modfile, "-o", out}, packages...)...)
		cmd.Dir, cmd.Env = root, append(os.Environ(), "GOPROXY=off")
		if text, err := cmd.CombinedOutput(); err != nil {
			return &netns.Unavailable{What: name, Why: strings.TrimSpace(string(text)), Fix: "go mod download -modfile=" + modfile}
		}
		return nil
	}}
}

// each calls f for both ends, with the other one.
func each(ends [2]*site, f func(i int, s, other *site)) {
	for i, s := range ends {
		f(i, s, ends[1-i])
	}
}

// startNothing routes over the cable.
func startNothing(t testing.TB, ends [2]*site) running {
	each(ends, func(_ int, s, other *site) { must(t, s.ns.Route(other.lan4, other.out4, "eth0")) })
	return running{stop: func() {
		each(ends, func(_ int, s, other *site) { must(t, s.ns.DelRoute(other.lan4, other.out4, "eth0")) })
	}}
}

// startOurs is `sitewire run` at both ends, with a peer that has no BGP.
func startOurs(t testing.TB, ends [2]*site) running {
	r := running{device: ends[1].device()}
	var daemons []*daemon
	each(ends, func(_ int, s, other *site) {
		d := s.run(s.head() + fmt.Sprintf(`  backend: userspace
  mtu: %d
peers:
  %s:
    public_key: %s
    endpoint: "%s:51820"
    listen_port: 51820
    keepalive: 1s
    allowed_ips: [%s]
`, dataPlaneMTU, other.name, other.pub(), other.out4, other.lan4))
		daemons = append(daemons, d)
		r.pids = append(r.pids, d.cmd.Process.Pid)
	})
	r.stop = func() {
		for _, d := range daemons {
			d.stop()
		}
	}
	return r
}

// daemonsOf starts one program at both ends, and gathers what there is to measure and to stop.
func daemonsOf(t testing.TB, device string, ends [2]*site, start func(i int, s, other *site) (*peers.Daemon, error)) running {
	r := running{device: device}
	var list []*peers.Daemon
	each(ends, func(i int, s, other *site) {
		d, err := start(i, s, other)
		must(t, err)
		list = append(list, d)
		r.pids = append(r.pids, d.Pid())
	})
	r.stop = func() {
		for _, d := range list {
			must(t, d.Stop())
		}
	}
	t.Cleanup(func() {
		for _, d := range list {
			if t.Failed() {
				t.Logf("log of %s:\n%s", device, d.Log())
			}
		}
	})
	return r
}

// startStock is the wireguard-go of the module that we embed, as it comes: its own TUN and sockets.
func startStock(t testing.TB, ends [2]*site, program string) running {
	const device = "wg0"
	return daemonsOf(t, device, ends, func(_ int, s, other *site) (*peers.Daemon, error) {
		socket := filepath.Join(s.ns.RunDir(), "wireguard", device+".sock")
		d, err := peers.Start(t.Context(), s.ns, peers.Spec{Name: "stock", Program: program, Args: []string{"-f", device},
			Files: map[string]string{"wg.conf": fmt.Sprintf("[Interface]\nPrivateKey = %s\nListenPort = 51820\n[Peer]\nPublicKey = %s\nEndpoint = %s:51820\nAllowedIPs = %s\n",
				s.key.Reveal(), other.pub(), other.out4, other.lan4)},
			Ready: func(context.Context) error { _, err := os.Stat(socket); return err }})
		if err != nil {
			return nil, err
		}
		nstest.Run(t, s.ns, "wg", "setconf", device, filepath.Join(peers.Dir(s.ns, "stock"), "wg.conf"))
		must(t, s.ns.MTU(device, dataPlaneMTU))
		must(t, s.ns.Up(device))
		return d, s.ns.Route(other.lan4, netip.Addr{}, device)
	})
}

// startOpenVPN uses TLS with certificates that sign themselves and know each other, and AES-256-GCM, its default.
func startOpenVPN(t testing.TB, ends [2]*site) running {
	const device = "tun0"
	var certs, keys, prints [2]string
	for i, s := range ends {
		certs[i], keys[i], prints[i] = selfSigned(t, s.name)
	}
	return daemonsOf(t, device, ends, func(i int, s, other *site) (*peers.Daemon, error) {
		role := [2][]string{{"--tls-client"}, {"--tls-server", "--dh", "none"}}[i]
		args := append(role, "--dev", device, "--dev-type", "tun", "--proto", "udp", "--local", s.out4.String(), "--remote", other.out4.String(),
			"--port", "1194", "--ifconfig", fmt.Sprintf("10.71.0.%d", s.n), fmt.Sprintf("10.71.0.%d", other.n), "--route", other.lan4.Addr().String(), "255.255.255.0", "--tun-mtu", fmt.Sprint(dataPlaneMTU),
			"--cert", "{dir}/cert.pem", "--key", "{dir}/key.pem", "--peer-fingerprint", prints[1-i],
			"--data-ciphers", "AES-256-GCM", "--disable-dco", "--verb", "3")
		return peers.Start(t.Context(), s.ns, peers.Spec{Name: "openvpn", Program: "openvpn", Args: args,
			Files: map[string]string{"cert.pem": certs[i], "key.pem": keys[i]}})
	})
}

// selfSigned makes a certificate, its key and its fingerprint.
func selfSigned(t testing.TB, name string) (cert, key, print string) {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	form := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, form, form, k.Public(), k)
	must(t, err)
	raw, err := x509.MarshalPKCS8PrivateKey(k)
	must(t, err)
	block := func(kind string, b []byte) string {
		return string(pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: b}))
	}
	hash := sha256.Sum256(der)
	var hexes []string
	for _, b := range hash {
		hexes = append(hexes, hex.EncodeToString([]byte{b}))
	}
	return block("CERTIFICATE", der), block("PRIVATE KEY", raw), strings.Join(hexes, ":")
}

// startNebula gives each end a certificate of one authority, and no lighthouse: both know where the other is.
func startNebula(t testing.TB, ends [2]*site, tools string) running {
	const device = "neb0"
	dir := t.TempDir()
	cert := func(args ...string) {
		cmd := exec.Command(filepath.Join(tools, "nebula-cert"), args...)
		cmd.Dir = dir
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("nebula-cert %v: %v\n%s", args, err, out)
		}
	}
	cert("ca", "-name", "bench")
	return daemonsOf(t, device, ends, func(_ int, s, other *site) (*peers.Daemon, error) {
		cert("sign", "-name", s.name, "-networks", netip.PrefixFrom(s.host4, 16).String())
		return peers.Start(t.Context(), s.ns, peers.Spec{Name: "nebula", Program: filepath.Join(tools, "nebula"), Args: []string{"-config", "{dir}/config.yml"},
			Files: map[string]string{"config.yml": fmt.Sprintf(`pki: { ca: %[1]s/ca.crt, cert: %[1]s/%[2]s.crt, key: %[1]s/%[2]s.key }
static_host_map: { "%[3]s": ["%[4]s:4242"] }
lighthouse: { am_lighthouse: false }
listen: { host: 0.0.0.0, port: 4242 }
tun: { dev: %[5]s, mtu: %[6]d }
logging: { level: warning }
firewall:
  outbound: [{ port: any, proto: any, host: any }]
  inbound: [{ port: any, proto: any, host: any }]
`, dir, s.name, other.host4, other.out4, device, dataPlaneMTU)}})
	})
}
