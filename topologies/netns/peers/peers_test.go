package peers_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"sitewire/topologies/netns"
	"sitewire/topologies/netns/nstest"
	"sitewire/topologies/netns/peers"
)

func TestMain(m *testing.M) { nstest.Main(m) }

// cable connects two namespaces: 198.18.0.1 and 198.18.0.2.
func cable(t *testing.T, a, b *netns.NS) {
	t.Helper()
	err := netns.Link(a, "eth0", b, "eth0", netns.LinkOpts{
		AddrsA: []netip.Prefix{netip.MustParsePrefix("198.18.0.1/30")},
		AddrsB: []netip.Prefix{netip.MustParsePrefix("198.18.0.2/30")},
	})
	if err != nil {
		t.Fatal(err)
	}
}

const birdConf = `
router id 198.18.0.1;
protocol device {}
protocol kernel { ipv4 { import none; export all; }; }
protocol static own { ipv4; route 10.1.0.0/16 blackhole; }
protocol bgp frr {
	local 198.18.0.1 as 65001;
	neighbor 198.18.0.2 as 65002;
	graceful restart off;
	connect delay time 1;
	connect retry time 1;
	error wait time 1, 1;
	ipv4 { import all; export where source = RTS_STATIC; };
}
`

const frrConf = `
frr defaults datacenter
ip route 10.2.0.0/16 Null0
router bgp 65002
 bgp router-id 198.18.0.2
 no bgp ebgp-requires-policy
 neighbor 198.18.0.1 remote-as 65001
 neighbor 198.18.0.1 timers connect 1
 address-family ipv4 unicast
  redistribute static
 exit-address-family
`

func TestBIRDAndFRR(t *testing.T) {
	nstest.Need(t, nstest.Program("bird"), nstest.Program("bgpd"))
	left, right := nstest.NS(t, "bird"), nstest.NS(t, "frr")
	cable(t, left, right)
	bird, err := peers.StartBIRD(t.Context(), left, "bird", birdConf)
	if err != nil {
		t.Fatal(err)
	}
	bird.Watch(t)
	frr, err := peers.StartFRR(t.Context(), right, "frr", frrConf, "staticd")
	if err != nil {
		t.Fatal(err)
	}
	frr.Watch(t)

	nstest.Eventually(t, 30*time.Second, "BIRD's route in FRR", func() error {
		out, err := frr.Vtysh(t.Context(), "show bgp ipv4 unicast 10.1.0.0/16 json")
		if err != nil {
			return err
		}
		var route struct {
			Paths []struct{ Valid bool }
		}
		if err := json.Unmarshal([]byte(out), &route); err != nil {
			return err
		}
		if len(route.Paths) != 1 || !route.Paths[0].Valid {
			return fmt.Errorf("FRR has %s", out)
		}
		return nil
	})
	nstest.Eventually(t, 30*time.Second, "FRR's route in BIRD and its kernel", func() error {
		out, err := bird.Birdc(t.Context(), "show", "route", "for", "10.2.0.0/16")
		if err != nil {
			return err
		}
		if !strings.Contains(out, "198.18.0.2") {
			return errors.New(out)
		}
		if out := nstest.Run(t, left, "ip", "route", "show", "10.2.0.0/16"); !strings.Contains(out, "proto bird") {
			return errors.New(out)
		}
		return nil
	})

	// A crash of bgpd is seen, and none of the others goes with it.
	bgpd := frr.Daemon("bgpd")
	if err := bgpd.Kill(); err != nil {
		t.Fatal(err)
	}
	if !bgpd.Ended() || frr.Daemon("zebra").Ended() || bird.Ended() {
		t.Error("want bgpd ended and zebra and bird running")
	}
	nstest.Eventually(t, 30*time.Second, "BIRD to lose the route", func() error {
		out, err := bird.Birdc(t.Context(), "show", "route", "count")
		if err == nil && !strings.Contains(out, "1 of 1 routes for 1 networks") {
			err = errors.New(out)
		}
		return err
	})
}

func TestGoBGPdAndBIRD(t *testing.T) {
	nstest.Need(t, nstest.Program("bird"), nstest.Program("gobgpd"), nstest.Program("gobgp"))
	left, right := nstest.NS(t, "bird"), nstest.NS(t, "gobgp")
	cable(t, left, right)
	bird, err := peers.StartBIRD(t.Context(), left, "bird", birdConf)
	if err != nil {
		t.Fatal(err)
	}
	bird.Watch(t)
	gobgp, err := peers.StartGoBGPd(t.Context(), right, "gobgp", `
[global.config]
  as = 65002
  router-id = "198.18.0.2"
[[neighbors]]
  [neighbors.config]
    neighbor-address = "198.18.0.1"
    peer-as = 65001
  [neighbors.timers.config]
    connect-retry = 5
`)
	if err != nil {
		t.Fatal(err)
	}
	gobgp.Watch(t)
	if _, err := gobgp.GoBGP(t.Context(), "global", "rib", "add", "10.3.0.0/16"); err != nil {
		t.Fatal(err)
	}
	nstest.Eventually(t, 40*time.Second, "the routes to cross", func() error {
		out, err := gobgp.GoBGP(t.Context(), "global", "rib")
		if err != nil {
			return err
		}
		there, err := bird.Birdc(t.Context(), "show", "route", "for", "10.3.0.0/16")
		if err != nil {
			return err
		}
		if !strings.Contains(out, "10.1.0.0/16") || !strings.Contains(there, "10.3.0.0/16") {
			return errors.New(out + there)
		}
		return nil
	})
}

func TestWireGuardPair(t *testing.T) {
	nstest.Need(t, nstest.TUN, nstest.Program("wireguard-go"), nstest.Program("wg"))
	left, right := nstest.NS(t, "left"), nstest.NS(t, "right")
	cable(t, left, right)
	key := func() (private, public string) {
		private = strings.TrimSpace(nstest.Run(t, left, "wg", "genkey"))
		cmd := exec.Command("wg", "pubkey")
		cmd.Stdin = strings.NewReader(private)
		out, err := cmd.Output()
		if err != nil {
			t.Fatal(err)
		}
		return private, strings.TrimSpace(string(out))
	}
	privateL, publicL := key()
	privateR, publicR := key()
	inside := []netip.Prefix{netip.MustParsePrefix("10.9.0.1/30"), netip.MustParsePrefix("10.9.0.2/30")}
	// The same interface name on both sides: their sockets must not meet.
	for i, side := range []struct {
		ns                        *netns.NS
		private, public, endpoint string
	}{{left, privateL, publicR, "198.18.0.2"}, {right, privateR, publicL, "198.18.0.1"}} {
		wg, err := peers.StartWireGuard(t.Context(), side.ns, "wg0", fmt.Sprintf(
			"[Interface]\nPrivateKey = %s\nListenPort = 51820\n[Peer]\nPublicKey = %s\nEndpoint = %s:51820\nAllowedIPs = 10.9.0.0/30\n",
			side.private, side.public, side.endpoint))
		if err != nil {
			t.Fatal(err)
		}
		wg.Watch(t)
		if err := errors.Join(side.ns.Addr("wg0", inside[i]), side.ns.Up("wg0")); err != nil {
			t.Fatal(err)
		}
		out, err := wg.Wg(t.Context(), "show", "wg0", "peers")
		if err != nil || strings.TrimSpace(out) != side.public {
			t.Errorf("wg show in %s prints %q, %v; want %s", side.ns, out, err, side.public)
		}
	}
	if err := netns.Reach(t.Context(), left, inside[0].Addr(), inside[1].Addr()); err != nil {
		t.Fatal(err)
	}
}

func TestStartReportsWhatTheDaemonSaid(t *testing.T) {
	nstest.Need(t, nstest.Program("bird"))
	ns := nstest.NS(t, "bad")
	start := time.Now()
	_, err := peers.StartBIRD(t.Context(), ns, "bird", "this is no configuration\n")
	if err == nil || !strings.Contains(err.Error(), "syntax error") {
		t.Errorf("a bad configuration gives %v", err)
	}
	if took := time.Since(start); took > 10*time.Second {
		t.Errorf("it took %v to notice that bird had ended", took)
	}
}

func TestDaemonsDoNotSeeTheMachine(t *testing.T) {
	ns := nstest.NS(t, "blind")
	d, err := peers.Start(t.Context(), ns, peers.Spec{
		Name: "look", Program: "sh", Args: []string{"-c", "for d in /etc/frr /etc/bird /etc/wireguard /var/tmp; do ls -A $d; done; exec sleep 1000"},
	})
	if err != nil {
		t.Fatal(err)
	}
	d.Watch(t)
	nstest.Eventually(t, 10*time.Second, "sleep to run", func() error {
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/comm", d.Pid()))
		if err == nil && string(b) != "sleep\n" {
			err = errors.New(string(b))
		}
		return err
	})
	for line := range strings.Lines(d.Log()) {
		if !strings.Contains(line, "No such file") {
			t.Errorf("a daemon sees %q", line)
		}
	}
	if err := d.Signal(syscall.SIGSTOP); err != nil {
		t.Error(err)
	}
	// A frozen process does not answer SIGTERM; thawed, it does.
	if err := d.Signal(syscall.SIGCONT); err != nil {
		t.Error(err)
	}
	if err := d.Stop(); err != nil {
		t.Error(err)
	}
}
