package gateway

import (
	"fmt"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"sitewire/gateway/config"
	"sitewire/gateway/probe"
)

// fakeProber keeps what it was told and says what it is told to say.
type fakeProber struct {
	mu      sync.Mutex
	targets []probe.Target
	stats   []*probe.Stats
}

func (f *fakeProber) Set(t []probe.Target) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.targets = t
}

func (f *fakeProber) Snapshot() []*probe.Stats {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.stats
}

// text is the targets, one line each.
func (f *fakeProber) text() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	var b strings.Builder
	for _, t := range f.targets {
		fmt.Fprintf(&b, "%s %s", t.Peer, t.Device)
		if t.Met && t.Interval > 0 {
			fmt.Fprintf(&b, " %v %v every %v within %v up=%v mtu=%v/%d", t.Local, t.Remote, t.Interval, t.Timeout, t.Up, t.PathMTU, t.MTU)
		}
		b.WriteByte('\n')
	}
	return b.String()
}

const probed = `
site: fra
asn: 4242420001
router_id: 172.20.1.1
wireguard: { private_key: "${file:DIR/private.key}" }
probe: { interval: 10s, timeout: 3s, mtu: true }
peers:
  four:
    public_key: KEY(four)
    endpoint: 192.0.2.4:51820
    tunnel: { local_ipv4: 10.9.0.1, remote_ipv4: 10.9.0.2 }
    allowed_ips: [10.4.0.0/16]
  lte:
    public_key: KEY(lte)
    endpoint: 192.0.2.2:51820
    asn: 4242420003
    tunnel: { local: fe80::1, remote: fe80::3 }
    policy: dn42
    probe: 2s
  nyc:
    public_key: KEY(nyc)
    endpoint: 192.0.2.1:51820
    asn: 4242420002
    tunnel: { local: fe80::1, remote: fe80::2, local_ipv4: 10.9.0.1, remote_ipv4: 10.9.0.3 }
    policy: dn42
  off:
    public_key: KEY(off)
    endpoint: 192.0.2.5:51820
    asn: 4242420005
    policy: dn42
    probe: off
  plain:
    public_key: KEY(plain)
    endpoint: 192.0.2.6:51820
    allowed_ips: [10.6.0.0/16]
  sleepy:
    public_key: KEY(sleepy)
    endpoint: 192.0.2.7:51820
    tunnel: { local: fe80::1, remote: fe80::7 }
    allowed_ips: [10.7.0.0/16]
    keepalive: off
`

// TestProbeTargets: all peers are named; probed are those that came up, have an address, and may be woken.
func TestProbeTargets(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, probed)
		f := &fakeProber{}
		r.gw.o.Prober = f
		r.run()
		defer r.stop(false)
		r.after(6 * time.Second)
		const quiet = "four wg-four\nlte wg-lte\nnyc wg-nyc\noff wg-off\nplain wg-plain\nsleepy wg-sleepy\n"
		if got := f.text(); got != quiet {
			t.Errorf("before the tunnels came up:\n%s", got)
		}
		for _, peer := range []string{"four", "lte", "nyc", "off", "plain", "sleepy"} {
			r.hear("wg-"+peer, peer)
		}
		r.after(6 * time.Second)
		const up = `four wg-four 10.9.0.1 10.9.0.2 every 10s within 3s up=true mtu=true/1420
lte wg-lte fe80::1 fe80::3 every 2s within 2s up=true mtu=true/1420
nyc wg-nyc fe80::1 fe80::2 every 10s within 3s up=true mtu=true/1420
off wg-off
plain wg-plain
sleepy wg-sleepy
`
		if got := f.text(); got != up {
			t.Errorf("up:\n%s", got)
		}
		r.after(200 * time.Second)
		if got, want := f.text(), strings.ReplaceAll(up, "up=true", "up=false"); got != want {
			t.Errorf("silent:\n%s", got)
		}
		// A change of the settings alone takes effect with the reload.
		r.mustReload(replace(probed, "interval: 10s, timeout: 3s, mtu: true", "interval: off"))
		synctest.Wait()
		if got := f.text(); strings.Count(got, "every") != 1 || !strings.Contains(got, "lte wg-lte fe80::1 fe80::3 every 2s") {
			t.Errorf("after the reload:\n%s", got)
		}
	})
}

// TestProbeViews: what the echoes found is in the answers, and high loss and a hole are problems of a tunnel that is up.
func TestProbeViews(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, probed)
		f := &fakeProber{stats: []*probe.Stats{
			{Peer: "four", Sent: 100, Lost: 60, Recent: probe.Recent{Echoes: 60, Lost: 60}},
			{Peer: "lte", Sent: 100, Lost: 9, Recent: probe.Recent{Echoes: 60, Lost: 9, Last: time.Second, Min: 1, Mean: time.Second, Max: time.Second}},
			{Peer: "nyc", Sent: 100, Lost: 3, Recent: probe.Recent{Echoes: 60, Lost: 3, Last: 20 * time.Millisecond, Min: 1, Mean: 1, Max: 1}, PathMTU: 1328},
			{Peer: "off"}, {Peer: "plain"},
			{Peer: "sleepy", Recent: probe.Recent{Echoes: 60, Lost: 60}},
		}}
		r.gw.o.Prober = f
		r.run()
		defer r.stop(false)
		for _, peer := range []string{"four", "lte", "nyc", "off", "plain"} {
			r.hear("wg-"+peer, peer)
		}
		r.after(2 * time.Second)
		var got []string
		for _, p := range r.gw.Status().Problems {
			if strings.Contains(p.What, "echoes") || strings.Contains(p.What, "bytes") {
				got = append(got, p.Subject+": "+p.What)
				if p.Fix == "" {
					t.Errorf("%s: nothing to do", p.What)
				}
			}
		}
		const want = `four: 60 of the last 60 echoes through the tunnel were lost
lte: 9 of the last 60 echoes through the tunnel were lost
nyc: packets over 1328 bytes do not get through the tunnel, whose MTU is 1420`
		if s := strings.Join(got, "\n"); s != want {
			t.Errorf("problems:\n%s", s)
		}
		for _, p := range r.gw.Peers().Peers {
			switch p.Peer {
			case "nyc":
				if p.Probe == nil || p.Probe.Sent != 100 || p.Probe.RTT != 0.02 || p.Probe.PathMTU != 1328 || p.Probe.Interval != 10 {
					t.Errorf("nyc: %+v", p.Probe)
				}
			case "off", "plain", "sleepy":
				if p.Probe != nil {
					t.Errorf("%s is not probed, and yet %+v", p.Peer, p.Probe)
				}
			}
		}
	})
}

func TestTunnelEnds(t *testing.T) {
	a := netip.MustParseAddr
	for want, end := range map[string][6]netip.Addr{
		"fe80::1 fe80::2":       {a("fe80::1"), a("fe80::2"), a("fd00::1"), a("fd00::2"), a("10.0.0.1"), a("10.0.0.2")},
		"fd00::1 fd00::2":       {2: a("fd00::1"), 3: a("fd00::2"), 4: a("10.0.0.1"), 5: a("10.0.0.2")},
		"10.0.0.1 10.0.0.2":     {4: a("10.0.0.1"), 5: a("10.0.0.2")},
		"invalid IP invalid IP": {},
	} {
		local, remote := tunnelEnds(tunnelOf(end))
		if got := fmt.Sprint(local, remote); got != want {
			t.Errorf("got %s, want %s", got, want)
		}
	}
}

func tunnelOf(e [6]netip.Addr) config.Tunnel {
	return config.Tunnel{Local: e[0], Remote: e[1], LocalIPv6: e[2], RemoteIPv6: e[3], LocalIPv4: e[4], RemoteIPv4: e[5]}
}
