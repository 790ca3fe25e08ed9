package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"sitewire/bgp"
	"sitewire/gateway"
	"sitewire/gateway/wg"
	"sitewire/topologies/netns"
	"sitewire/topologies/netns/nstest"
)

// lab is an underlay that sites are plugged into: one Ethernet switch, 198.18.0.0/24 and 2001:db8::/64.
type lab struct {
	t     testing.TB
	sw    *netns.NS
	sites int
}

func newLab(t testing.TB) *lab {
	t.Helper()
	nstest.Need(t, nstest.TUN)
	l := &lab{t: t, sw: nstest.NS(t, "internet")}
	must(t, netns.Bridge(l.sw, "br0"))
	return l
}

// site is a router with an underlay interface eth0 and a LAN interface lan0 with one host behind it. Site number N has
// 198.18.0.N, 2001:db8::N outside, and 10.N.0.0/24 and fd00:N::/64 inside (.1 the router, .2 the host).
type site struct {
	l          *lab
	t          testing.TB
	name       string
	n          int
	asn        uint32
	ns, host   *netns.NS
	out4, out6 netip.Addr
	lan4, lan6 netip.Prefix
	host4      netip.Addr
	host6      netip.Addr
	key        wg.Secret
	dir        string
}

func (l *lab) site(name string) *site {
	t := l.t
	t.Helper()
	l.sites++
	n := l.sites
	s := &site{
		l: l, t: t, name: name, n: n, asn: 4242420000 + uint32(n),
		ns: nstest.NS(t, name), host: nstest.NS(t, name+"-host"),
		out4:  netip.MustParseAddr(fmt.Sprintf("198.18.0.%d", n)),
		out6:  netip.MustParseAddr(fmt.Sprintf("2001:db8::%x", n)),
		lan4:  netip.MustParsePrefix(fmt.Sprintf("10.%d.0.0/24", n)),
		lan6:  netip.MustParsePrefix(fmt.Sprintf("fd00:%x::/64", n)),
		host4: netip.MustParseAddr(fmt.Sprintf("10.%d.0.2", n)),
		host6: netip.MustParseAddr(fmt.Sprintf("fd00:%x::2", n)),
	}
	var err error
	s.key, err = wg.NewPrivateKey()
	must(t, err)
	s.dir, err = os.MkdirTemp("", "sw")
	must(t, err)
	t.Cleanup(func() { os.RemoveAll(s.dir) })

	must(t, netns.Attach(l.sw, "br0", s.ns, "eth0", netns.LinkOpts{AddrsA: []netip.Prefix{
		netip.PrefixFrom(s.out4, 24), netip.PrefixFrom(s.out6, 64),
	}}))
	router4, router6 := s.lan4.Addr().Next(), s.lan6.Addr().Next()
	must(t, netns.Link(s.ns, "lan0", s.host, "lan0", netns.LinkOpts{
		AddrsA: []netip.Prefix{netip.PrefixFrom(router4, 24), netip.PrefixFrom(router6, 64)},
		AddrsB: []netip.Prefix{netip.PrefixFrom(s.host4, 24), netip.PrefixFrom(s.host6, 64)},
	}))
	must(t, s.host.Route(netip.MustParsePrefix("0.0.0.0/0"), router4, "lan0"))
	must(t, s.host.Route(netip.MustParsePrefix("::/0"), router6, "lan0"))
	must(t, s.ns.Forward())
	return s
}

func (s *site) pub() wg.PublicKey { return s.key.Public() }

// head is the part of a configuration that every site has; peers and the rest are appended.
func (s *site) head() string {
	return fmt.Sprintf(`site: %s
asn: %d
router_id: 198.18.0.%d
announce: [%s, %s]
socket: %s
state_dir: %s
metrics: { listen: "127.0.0.1:9100" }
wireguard:
  private_key: ${file:%s}
`, s.name, s.asn, s.n, s.lan4, s.lan6, s.socket(), s.dir, filepath.Join(s.dir, "private.key"))
}

func (s *site) socket() string { return filepath.Join(s.dir, "sw.sock") }
func (s *site) config() string { return filepath.Join(s.dir, "sitewire.yaml") }

// write puts the configuration where run and reload find it.
func (s *site) write(yaml string) {
	s.t.Helper()
	must(s.t, os.WriteFile(filepath.Join(s.dir, "private.key"), []byte(s.key.Reveal()+"\n"), 0o600))
	must(s.t, os.WriteFile(s.config(), []byte(yaml), 0o600))
}

// daemon is a running `sitewire run`.
type daemon struct {
	*site
	cmd  *exec.Cmd
	log  string
	done chan struct{}
	err  error
	http *http.Client
}

// run starts the daemon with the configuration and waits until it answers.
func (s *site) run(yaml string) *daemon {
	s.t.Helper()
	s.write(yaml)
	return s.start()
}

// start starts the daemon with the configuration that is there.
func (s *site) start() *daemon {
	t := s.t
	t.Helper()
	f, err := os.OpenFile(filepath.Join(s.dir, "log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	must(t, err)
	defer f.Close()
	d := &daemon{site: s, log: f.Name(), done: make(chan struct{})}
	d.cmd = s.ns.Command(context.Background(), program, "run", "--config", s.config())
	d.cmd.Stdout, d.cmd.Stderr = f, f
	must(t, d.cmd.Start())
	go func() { d.err = d.cmd.Wait(); close(d.done) }()
	d.http = &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "unix", s.socket())
		},
	}}
	t.Cleanup(func() {
		d.stop()
		if t.Failed() {
			b, _ := os.ReadFile(d.log)
			t.Logf("log of %s:\n%s", s.name, tail(b, 12000))
		}
		if b, _ := os.ReadFile(d.log); bytes.Contains(b, []byte("DATA RACE")) {
			t.Errorf("%s: data race:\n%s", s.name, tail(b, 12000))
		}
	})
	nstest.Eventually(t, 30*time.Second, s.name+" to answer", func() error {
		select {
		case <-d.done:
			b, _ := os.ReadFile(d.log)
			t.Fatalf("%s ended: %v\n%s", s.name, d.err, tail(b, 4000))
		default:
		}
		var st gateway.Status
		return d.get("/v1/status", &st)
	})
	return d
}

func tail(b []byte, n int) []byte { return b[max(0, len(b)-n):] }

// stop ends the daemon with SIGTERM and waits.
func (d *daemon) stop() { d.signal(syscall.SIGTERM) }

// kill ends it with SIGKILL.
func (d *daemon) kill() { d.signal(syscall.SIGKILL) }

func (d *daemon) signal(sig syscall.Signal) {
	select {
	case <-d.done:
		return
	default:
	}
	d.cmd.Process.Signal(sig)
	select {
	case <-d.done:
	case <-time.After(20 * time.Second):
		d.t.Errorf("%s did not end within 20 s of %v", d.name, sig)
		d.cmd.Process.Kill()
		<-d.done
	}
}

// get asks the daemon's API.
func (d *daemon) get(path string, v any) error { return d.request(http.MethodGet, path, v) }

func (d *daemon) request(method, path string, v any) error {
	req, err := http.NewRequest(method, "http://sitewire"+path, nil)
	if err != nil {
		return err
	}
	resp, err := d.http.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode/100 != 2 {
		var e gateway.APIError
		_ = json.NewDecoder(resp.Body).Decode(&e)
		return fmt.Errorf("%s %s: %s: %s", method, path, resp.Status, e.Error)
	}
	return json.NewDecoder(resp.Body).Decode(v)
}

// reload applies a new configuration and fails the test if that is refused.
func (d *daemon) reload(yaml string) gateway.Reload {
	d.t.Helper()
	d.write(yaml)
	var r gateway.Reload
	must(d.t, d.request(http.MethodPost, "/v1/reload", &r))
	return r
}

// sessionsUp waits until every session of the daemon is established.
func (d *daemon) sessionsUp(want int) {
	d.t.Helper()
	nstest.Eventually(d.t, 40*time.Second, d.name+"'s sessions", func() error {
		var s gateway.Sessions
		if err := d.get("/v1/bgp", &s); err != nil {
			return err
		}
		up := 0
		var down []string
		for _, x := range s.Sessions {
			if x.State.String() == "Established" {
				up++
			} else {
				down = append(down, fmt.Sprintf("%s %s %s", x.Name, x.State, x.LastError))
			}
		}
		if up != want {
			return fmt.Errorf("%d of %d established; %s", up, want, strings.Join(down, ", "))
		}
		return nil
	})
}

// protocol is the number that marks our routes.
const protocol = "83"

// reach asserts that hosts ping each other, over both families.
func reach(t testing.TB, a, b *site) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	for _, p := range [][2]netip.Addr{{a.host4, b.host4}, {a.host6, b.host6}} {
		if err := netns.Reach(ctx, a.host, p[0], p[1]); err != nil {
			t.Fatal(err)
		}
	}
}

// unreachable asserts that no ping arrives for a while.
func unreachable(t testing.TB, from *netns.NS, src, dst netip.Addr) {
	t.Helper()
	_, got, err := netns.Ping(t.Context(), from, src, dst, netns.PingOpts{Count: 10, Timeout: 300 * time.Millisecond})
	if got > 0 {
		t.Fatalf("%s reached %s: %d of 10 answered (%v)", src, dst, got, err)
	}
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// errNotYet is for Eventually.
var errNotYet = errors.New("not yet")

// peer returns the daemon's view of a peer.
func (d *daemon) peer(name string) gateway.Peer {
	d.t.Helper()
	var ps gateway.Peers
	must(d.t, d.get("/v1/peers", &ps))
	for _, p := range ps.Peers {
		if p.Peer == name {
			return p
		}
	}
	d.t.Fatalf("%s has no peer %s", d.name, name)
	return gateway.Peer{}
}

// session returns the daemon's view of a BGP session.
func (d *daemon) session(name string) bgp.Session {
	d.t.Helper()
	var ss gateway.Sessions
	must(d.t, d.get("/v1/bgp", &ss))
	for _, s := range ss.Sessions {
		if s.Name == name {
			return s
		}
	}
	d.t.Fatalf("%s has no session %s", d.name, name)
	return bgp.Session{}
}
