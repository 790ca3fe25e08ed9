package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"sitewire/gateway"
	"sitewire/gateway/config"
	"sitewire/topologies/netns"
	"sitewire/topologies/netns/nstest"
)

// Tests of the kernel's WireGuard under the whole daemon. A machine whose kernel lacks it runs them in a guest.

func newKernelLab(t testing.TB) *lab {
	t.Helper()
	nstest.Need(t, nstest.LinkType("wireguard"), nstest.Program("wg"), nstest.Program("ip"), nstest.Program("nft"))
	return newLab(t)
}

// kernelTimers are patient: in an emulated machine everything takes several times as long.
const kernelTimers = "bgp: { hold_time: 30s, keepalive: 10s, connect_retry: 2s }\n"

// kernelYAML is gatewayYAML with a patience of the same kind.
func (s *site) kernelYAML(at *site) string {
	return strings.NewReplacer("keepalive: 1s", "keepalive: 5s", fmt.Sprintf("dead_after: %s", deadAfter), "dead_after: 60s").Replace(s.gatewayYAML(at))
}

// kernelChain is three gateways in a row with BGP: what fra and nyc send each other goes through hub.
func kernelChain(t *testing.T) (fra, hub, nyc *daemon) {
	t.Helper()
	l := newKernelLab(t)
	f, h, n := l.site("fra"), l.site("hub"), l.site("nyc")
	fra = f.run(f.head() + kernelTimers + "peers:\n" + h.kernelYAML(f))
	hub = h.run(h.head() + kernelTimers + "peers:\n" + f.kernelYAML(h) + n.kernelYAML(h))
	nyc = n.run(n.head() + kernelTimers + "peers:\n" + h.kernelYAML(n))
	hub.sessionsUp(2)
	fra.synced(h, n)
	nyc.synced(h, f)
	hub.synced(f, n)
	reach(t, f, n)
	return fra, hub, nyc
}

// synced waits until the daemon has the routes of sites, and says that it is in sync.
func (d *daemon) synced(to ...*site) {
	d.t.Helper()
	var want []netip.Prefix
	for _, s := range to {
		want = append(want, s.lan4, s.lan6)
	}
	nstest.Eventually(d.t, nstest.Patience(60*time.Second), d.name+" to know every route", func() error {
		var st gateway.Status
		if err := d.get("/v1/status", &st); err != nil {
			return err
		}
		if !st.Synced {
			return errors.New("not in sync")
		}
		return equalPrefixes(d.t, "routes of "+d.name, d.fib(), sorted(want))
	})
}

// watchRoutes notes when a site is without a route to one of the prefixes, until stop is called.
func watchRoutes(t *testing.T, d *daemon, prefixes ...netip.Prefix) (stop func()) {
	t.Helper()
	end, done := make(chan struct{}), make(chan struct{})
	looks, gone := 0, map[netip.Prefix]int{}
	look := func() error {
		have := map[netip.Prefix]bool{}
		for _, family := range []int{netlink.FAMILY_V4, netlink.FAMILY_V6} {
			rows, err := d.ns.Netlink().RouteListFiltered(family, &netlink.Route{Protocol: 83}, netlink.RT_FILTER_PROTOCOL)
			if err != nil {
				return err
			}
			for _, r := range rows {
				if a, ok := netip.AddrFromSlice(r.Dst.IP); ok && r.Type == unix.RTN_UNICAST {
					bits, _ := r.Dst.Mask.Size()
					have[netip.PrefixFrom(a, bits)] = true
				}
			}
		}
		looks++
		for _, p := range prefixes {
			if !have[p] {
				gone[p]++
			}
		}
		return nil
	}
	var failed error
	go func() {
		defer close(done)
		for {
			select {
			case <-end:
				return
			case <-time.After(20 * time.Millisecond):
			}
			if err := look(); err != nil && !errors.Is(err, netlink.ErrDumpInterrupted) {
				failed = err
				return
			}
		}
	}()
	return sync.OnceFunc(func() {
		t.Helper()
		close(end)
		<-done
		if failed != nil || looks == 0 {
			t.Errorf("%s's routes were not watched: %v", d.name, failed)
		}
		for p, n := range gone {
			t.Errorf("%s was without a route to %s at %d of %d looks", d.name, p, n, looks)
		}
	})
}

// wgAllowed is what wg(8) says that each peer of a device owns.
func wgAllowed(t testing.TB, ns *netns.NS, device string) map[string][]string {
	t.Helper()
	out := map[string][]string{}
	for line := range strings.Lines(nstest.Run(t, ns, "wg", "show", device, "allowed-ips")) {
		fields := strings.Fields(line)
		out[fields[0]] = slices.Sorted(slices.Values(fields[1:]))
	}
	return out
}

// linkIndex tells whether a device is still the same.
func linkIndex(t testing.TB, ns *netns.NS, device string) int {
	t.Helper()
	i, err := ns.Index(device)
	must(t, err)
	return i
}

// TestKernelPair: gateways whose tunnels are the kernel's find each other, route, and own exactly what they should.
func TestKernelPair(t *testing.T) {
	fra, hub, nyc := kernelChain(t)
	for _, d := range []*daemon{fra, hub, nyc} {
		var st gateway.Status
		must(t, d.get("/v1/status", &st))
		if st.WireGuard.Backend != "kernel" || !strings.HasPrefix(st.WireGuard.Reason, "auto: ") {
			t.Errorf("%s uses %s (%s)", d.name, st.WireGuard.Backend, st.WireGuard.Reason)
		}
	}
	// Each peer owns what it announced, and its end of the tunnel.
	for _, x := range []struct {
		d    *daemon
		peer *site
		via  []*site
	}{{fra, hub.site, []*site{hub.site, nyc.site}}, {hub, fra.site, []*site{fra.site}}, {hub, nyc.site, []*site{nyc.site}}, {nyc, hub.site, []*site{hub.site, fra.site}}} {
		p := x.d.peer(x.peer.name)
		if p.Backend != "kernel" {
			t.Errorf("%s reaches %s by %s", x.d.name, x.peer.name, p.Backend)
		}
		if kind := nstest.Run(t, x.d.ns, "ip", "-d", "link", "show", p.Device); !strings.Contains(kind, "wireguard") {
			t.Errorf("%s is no WireGuard device of the kernel:\n%s", p.Device, kind)
		}
		want := []string{config.LinkLocal(x.peer.pub()).String() + "/128"}
		for _, s := range x.via {
			want = append(want, s.lan4.String(), s.lan6.String())
		}
		got := wgAllowed(t, x.d.ns, p.Device)
		if slices.Sort(want); len(got) != 1 || !slices.Equal(got[x.peer.pub().String()], want) {
			t.Errorf("%s gives %s %v, want %v", x.d.name, x.peer.name, got, want)
		}
	}
	for _, x := range [][2]*site{{fra.site, hub.site}, {hub.site, nyc.site}, {fra.site, nyc.site}} {
		reach(t, x[0], x[1])
	}
}

// TestKernelRestart: the gateway in the middle is killed and started again, and then replaced by another program as an upgrade does, while
// 1,000 packets a second go through it. None is lost, and its neighbours never are without a route.
func TestKernelRestart(t *testing.T) {
	fra, hub, nyc := kernelChain(t)
	restart := func(what string, end func()) {
		t.Helper()
		device := hub.peer("fra").Device
		index := linkIndex(t, hub.ns, device)
		flow := newStreams(t, fra.site, nyc.site)
		watches := []func(){
			watchRoutes(t, fra, hub.lan4, hub.lan6, nyc.lan4, nyc.lan6),
			watchRoutes(t, nyc, hub.lan4, hub.lan6, fra.lan4, fra.lan6),
			watchRoutes(t, hub, fra.lan4, fra.lan6, nyc.lan4, nyc.lan6),
		}
		time.Sleep(time.Second)
		before := fra.session("hub")
		begin := time.Now()
		end()
		hub = hub.site.start()
		answered := time.Since(begin)
		hub.sessionsUp(2)
		up := time.Since(begin)
		hub.synced(fra.site, nyc.site)
		t.Logf("%s: answers after %.1f s, sessions after %.1f s, in sync after %.1f s", what, answered.Seconds(), up.Seconds(), time.Since(begin).Seconds())
		time.Sleep(2 * time.Second) // what would go now must be seen to stay
		flow.whole(what)
		for _, stop := range watches {
			stop()
		}
		if got := linkIndex(t, hub.ns, device); got != index {
			t.Errorf("%s: %s was made anew", what, device)
		}
		after := fra.session("hub")
		if after.Establishments != before.Establishments+1 || after.Downs["graceful_restart"] != before.Downs["graceful_restart"]+1 {
			t.Errorf("%s: fra's session was established %d times and fell %v", what, after.Establishments, after.Downs)
		}
		if after.IPv4.Stale != 0 || after.IPv6.Stale != 0 {
			t.Errorf("%s: fra still keeps stale routes: %+v %+v", what, after.IPv4, after.IPv6)
		}
		log, err := os.ReadFile(hub.log)
		must(t, err)
		if !strings.Contains(string(log), "forwarding went on without this process") {
			t.Errorf("%s: hub did not say that it restarts", what)
		}
	}
	restart("SIGKILL and restart", func() { hub.kill() })

	// An upgrade: another file in the place of the program.
	old := program
	defer func() { program = old }()
	upgraded := filepath.Join(t.TempDir(), "sitewire")
	b, err := os.ReadFile(old)
	must(t, err)
	must(t, os.WriteFile(upgraded, b, 0o755))
	restart("SIGTERM and another program", func() {
		hub.stop()
		program = upgraded
	})
}

// byHand makes a WireGuard device as wg-quick(8) does: the kernel's, with everything allowed and static routes.
func (s *site) byHand(device string, to *site) {
	s.t.Helper()
	ns := s.ns
	nstest.Run(s.t, ns, "ip", "link", "add", device, "type", "wireguard")
	ctx, cancel := context.WithTimeout(s.t.Context(), nstest.Patience(20*time.Second))
	defer cancel()
	set := ns.Command(ctx, "wg", "set", device, "listen-port", fmt.Sprint(to.portAtPeer()), "private-key", "/dev/stdin", "peer", to.pub().String(),
		"endpoint", fmt.Sprintf("%s:%d", to.out4, s.portAtPeer()), "persistent-keepalive", "25", "allowed-ips", "0.0.0.0/0,::/0")
	set.Stdin = strings.NewReader(s.key.Reveal())
	if out, err := set.CombinedOutput(); err != nil {
		s.t.Fatalf("wg set: %v: %s", err, out)
	}
	nstest.Run(s.t, ns, "ip", "address", "add", config.LinkLocal(s.pub()).String()+"/64", "dev", device)
	nstest.Run(s.t, ns, "ip", "link", "set", device, "mtu", "1420", "up")
	for _, p := range []netip.Prefix{to.lan4, to.lan6} {
		nstest.Run(s.t, ns, "ip", "route", "add", p.String(), "dev", device)
	}
}

// adoptYAML is what a site has in its file for a peer whose device was made by byHand.
func (s *site) adoptYAML(to *site) string {
	return fmt.Sprintf(`  %s:
    public_key: %s
    endpoint: "%s:%d"
    listen_port: %d
    asn: %d
    policy: full
    keepalive: 5s
`, to.name, to.pub(), to.out4, s.portAtPeer(), to.portAtPeer(), to.asn)
}

// system is what `ip`, `wg` and `nft` say of a site, without what changes by itself.
func system(t testing.TB, ns *netns.NS) map[string]string {
	t.Helper()
	out := map[string]string{}
	for _, args := range [][]string{
		{"ip", "-4", "route", "show", "table", "all"}, {"ip", "-6", "route", "show", "table", "all"},
		{"ip", "rule"}, {"ip", "-6", "rule"}, {"ip", "-o", "address"}, {"ip", "-o", "link"}, {"nft", "list", "tables"},
		{"wg", "show", "all", "peers"}, {"wg", "show", "all", "allowed-ips"}, {"wg", "show", "all", "endpoints"}, {"wg", "show", "all", "persistent-keepalive"},
		{"wg", "show", "all", "listen-port"}, {"wg", "show", "all", "fwmark"},
	} {
		lines := slices.Sorted(strings.Lines(nstest.Run(t, ns, args[0], args[1:]...)))
		out[strings.Join(args, " ")] = strings.Join(lines, "")
	}
	return out
}

func sameSystem(t testing.TB, what string, got, want map[string]string) {
	t.Helper()
	for k := range want {
		if got[k] != want[k] {
			t.Errorf("%s: `%s` said\n%sand says\n%s", what, k, want[k], got[k])
		}
	}
}

// TestKernelAdopt: two routers whose tunnel was made by hand, with static routes, get a sitewire each while packets flow. Nothing is lost then,
// nor when the static routes go and BGP's remain, nor when both stop; and a teardown leaves what was there before any of it.
func TestKernelAdopt(t *testing.T) {
	l := newKernelLab(t)
	fra, nyc := l.site("fra"), l.site("nyc")
	bare := system(t, fra.ns)
	fra.byHand("wg-nyc", nyc)
	nyc.byHand("wg-fra", fra)
	reach(t, fra, nyc)
	index := linkIndex(t, fra.ns, "wg-nyc")
	counted := bytesOf(t, fra.ns, "wg-nyc")

	flow := newStreams(t, fra, nyc)
	df := fra.run(fra.head() + kernelTimers + "peers:\n" + fra.adoptYAML(nyc))
	dn := nyc.run(nyc.head() + kernelTimers + "peers:\n" + nyc.adoptYAML(fra))
	df.sessionsUp(1)
	df.synced(nyc)
	dn.synced(fra)
	want := map[string][]string{nyc.pub().String(): {nyc.lan4.String(), nyc.lan6.String(), config.LinkLocal(nyc.pub()).String() + "/128"}}
	slices.Sort(want[nyc.pub().String()])
	nstest.Eventually(t, nstest.Patience(30*time.Second), "nyc to own what it announced and no more", func() error {
		if got := wgAllowed(t, fra.ns, "wg-nyc"); !slices.Equal(got[nyc.pub().String()], want[nyc.pub().String()]) {
			return fmt.Errorf("%v", got)
		}
		return nil
	})
	flow.whole("taken over")
	if got := linkIndex(t, fra.ns, "wg-nyc"); got != index {
		t.Error("the device was made anew")
	}
	if got := bytesOf(t, fra.ns, "wg-nyc"); got < counted {
		t.Errorf("the peer was made anew: %d bytes received, %d before", got, counted)
	}

	flow = newStreams(t, fra, nyc)
	time.Sleep(500 * time.Millisecond)
	for _, x := range []struct{ at, to *site }{{fra, nyc}, {nyc, fra}} {
		for _, p := range []netip.Prefix{x.to.lan4, x.to.lan6} {
			family := "-4"
			if p.Addr().Is6() {
				family = "-6"
			}
			nstest.Run(t, x.at.ns, "ip", family, "route", "del", p.String(), "dev", "wg-"+x.to.name, "proto", "boot")
		}
	}
	time.Sleep(500 * time.Millisecond)
	flow.whole("static routes removed")

	flow = newStreams(t, fra, nyc)
	before := system(t, fra.ns)
	df.stop()
	dn.stop()
	time.Sleep(time.Second)
	sameSystem(t, "SIGTERM", system(t, fra.ns), before)
	flow.whole("no daemon")

	df, dn = fra.start(), nyc.start()
	df.sessionsUp(1)
	df.synced(nyc)
	dn.synced(fra)
	must(t, df.request("POST", "/v1/stop?teardown=1", new(json.RawMessage)))
	select {
	case <-df.done:
	case <-time.After(nstest.Patience(20 * time.Second)):
		t.Fatal("the daemon did not end")
	}
	sameSystem(t, "teardown", system(t, fra.ns), bare)
	if files, _ := os.ReadDir(fra.dir); slices.ContainsFunc(files, func(e os.DirEntry) bool { return e.Name() == "devices.json" }) {
		t.Error("a teardown leaves the list of devices")
	}
}

// bytesOf is how many bytes a device with one peer received.
func bytesOf(t testing.TB, ns *netns.NS, device string) (n uint64) {
	t.Helper()
	var key string
	var sent uint64
	if _, err := fmt.Fscan(strings.NewReader(nstest.Run(t, ns, "wg", "show", device, "transfer")), &key, &n, &sent); err != nil && !errors.Is(err, io.EOF) {
		t.Fatal(err)
	}
	return n
}

// TestKernelRefusesOthers: a device with the configured name and another private key is somebody else's. It stays as it is, and the error says
// what to do.
func TestKernelRefusesOthers(t *testing.T) {
	l := newKernelLab(t)
	fra, nyc, other := l.site("fra"), l.site("nyc"), l.site("other")
	key := fra.key
	fra.key = other.key
	fra.byHand("wg-nyc", nyc)
	fra.key = key
	before := system(t, fra.ns)
	fra.write(fra.head() + "peers:\n" + fra.adoptYAML(nyc))
	ctx, cancel := context.WithTimeout(t.Context(), nstest.Patience(30*time.Second))
	defer cancel()
	out, err := fra.ns.Command(ctx, program, "run", "--config", fra.config()).CombinedOutput()
	if err == nil || !strings.Contains(string(out), "another private key") || !strings.Contains(string(out), other.pub().String()) {
		t.Errorf("%v:\n%s", err, out)
	}
	sameSystem(t, "refused", system(t, fra.ns), before)
}
