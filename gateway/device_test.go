package gateway

import (
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"sitewire/gateway/host"
	"sitewire/gateway/wg"
	"sitewire/gateway/wg/wgtest"
)

// twoPeers is a site with a BGP peer and a store.
const twoPeers = `
site: fra
asn: 4242420001
router_id: 172.20.1.1
announce: [172.20.1.0/27]
socket: DIR/sock
wireguard: { private_key: "${file:DIR/private.key}" }
peers:
  nyc:
    public_key: KEY(nyc)
    preshared_key: ${file:DIR/psk}
    endpoint: 192.0.2.1:51820
    asn: 4242420002
    tunnel: { local: fe80::1, remote: fe80::2 }
    policy: dn42
    allowed_ips: learned
  store:
    public_key: KEY(store)
    endpoint: 192.0.2.7:51820
    allowed_ips: [10.17.0.0/24]
`

// A device that somebody deleted comes back with its peers, where they were last, its addresses, and its allowed-IPs
// before its routes.
func TestLostDevice(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := running(t, twoPeers)
		defer r.stop(false)
		r.hear("wg-nyc", "nyc", "198.51.100.1:1111")
		r.hear("wg-store", "store")
		r.learn("nyc", "10.2.0.0/16")
		r.after(time.Second)
		r.journal.take()

		r.backend.vanish("wg-nyc")
		r.host.mu.Lock()
		delete(r.host.links, "wg-nyc")
		r.host.mu.Unlock()
		r.after(2 * time.Second)
		r.did(`
			bgp nyc alive false
			bgp nyc alive true
			withdraw 10.2.0.0/16 dev wg-nyc
			open wg-nyc mtu 1420
			wg set wg-nyc peer nyc preshared-key *** endpoint 198.51.100.1:1111 persistent-keepalive 25
			link wg-nyc mtu 1420 [fe80::1/64] up true
			wg set wg-nyc peer nyc allowed-ips +10.2.0.0/16
			wg set wg-nyc peer nyc allowed-ips +fe80::2/128`)
		r.wantState("nyc", wg.TunnelNew, "")
		r.wantState("store", wg.TunnelUp, "")
		r.hear("wg-nyc", "nyc")
		r.wantState("nyc", wg.TunnelUp, "")
		r.did(`install 10.2.0.0/16 dev wg-nyc`)
	})
}

func TestLostDeviceBackoff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := running(t, twoPeers)
		defer r.stop(false)
		r.hear("wg-store", "store")
		var tries []time.Duration
		start := time.Now()
		// Opening works in the middle, but giving it its addresses does not: the waiting must not begin anew.
		r.backend.failWith(func(op string) error {
			if op != "open wg-store" {
				return nil
			}
			tries = append(tries, time.Since(start).Round(time.Second))
			if len(tries) == 3 {
				return nil
			}
			return errTest
		})
		r.host.failWith(func(op string) error {
			if op == "link wg-store" {
				return errTest
			}
			return nil
		})
		r.backend.vanish("wg-store")
		r.after(2 * time.Minute)
		r.wantState("store", wg.TunnelDown, "device wg-store: injected failure")
		for i := 1; i < len(tries); i++ {
			wait := tries[i] - tries[i-1]
			if want := min(time.Second<<(i-1), 30*time.Second); wait < want || wait > want+time.Second {
				t.Errorf("%v before try %d, want %v", wait, i+1, want)
			}
		}
		if len(tries) < 7 || len(tries) > 9 {
			t.Errorf("%d tries in two minutes: %v", len(tries), tries)
		}
		if n := strings.Count(r.log.String(), "tunnel down"); n != 1 {
			t.Errorf("%d lines say that the tunnel is down", n)
		}
		if _, ok := r.gw.Routing().Get(pfx("10.17.0.0/24")); !ok || len(r.world.Routes()) != 1 {
			t.Errorf("routes: %v", r.world.Routes())
		}

		r.backend.failWith(nil)
		r.host.failWith(nil)
		r.after(31 * time.Second)
		r.hear("wg-store", "store")
		r.wantState("store", wg.TunnelUp, "")
		if got := r.world.String(); !strings.Contains(got, "10.17.0.0/24 dev wg-store") {
			t.Errorf("routes:\n%s", got)
		}
	})
}

// A peer that somebody took from its device comes back with its allowed-IPs.
func TestPeerTakenAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := running(t, twoPeers)
		defer r.stop(false)
		r.hear("wg-store", "store", "198.51.100.7:7777")
		r.after(time.Second)
		r.journal.take()
		d := r.backend.device("wg-store")
		if err := d.Apply(t.Context(), wg.Delta{RemovePeers: []wg.PublicKey{wgtest.Peer("store").PublicKey}}); err != nil {
			t.Fatal(err)
		}
		r.after(2 * time.Second)
		r.did(`
			bgp [nyc] announces [172.20.1.0/27] endpoints [192.0.2.1 198.51.100.7]
			wg set wg-store peer store remove
			wg set wg-store peer store endpoint 198.51.100.7:7777 persistent-keepalive 25
			wg set wg-store peer store allowed-ips +10.17.0.0/24
			withdraw 10.17.0.0/24 dev wg-store`)
		r.hear("wg-store", "store")
		r.did(`
			bgp [nyc] announces [172.20.1.0/27 10.17.0.0/24] endpoints [192.0.2.1 198.51.100.7]
			install 10.17.0.0/24 dev wg-store`)
	})
}

// Addresses, state and MTU of links are put back, and the path's MTU is followed.
func TestLinksAreMended(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := running(t, twoPeers)
		defer r.stop(false)
		r.host.mu.Lock()
		r.host.links["wg-nyc"] = "without its addresses"
		r.host.rules, r.host.wall = nil, ""
		r.host.mu.Unlock()
		r.after(35 * time.Second)
		r.did(`
			rules mark 0x5357 table 254
			link wg-nyc mtu 1420 [fe80::1/64] up true
			firewall port 179 tunnels [wg-nyc wg-store] lan []`)
		r.host.mu.Lock()
		r.host.mtu = 1400
		r.host.mu.Unlock()
		r.after(linkEvery + time.Second)
		r.did(`
			link wg-nyc mtu 1340 [fe80::1/64] up true
			link wg-store mtu 1340 [] up true`)
		if x := r.tunnel("nyc"); x.MTU != 1340 {
			t.Errorf("MTU %d", x.MTU)
		}
		for _, name := range []string{"wg-nyc", "wg-store"} {
			if mtu := r.backend.device(name).mtu.Load(); mtu != 1340 {
				t.Errorf("%s pads packets up to %d bytes", name, mtu)
			}
		}
	})
}

// A device hears of its MTU too where a setting of its link cannot be written.
func TestMTUOfLinkWithTrouble(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, twoPeers)
		r.host.mtu = 1400
		r.host.failWith(func(op string) error {
			if op == "link wg-nyc" {
				return &host.SettingError{Key: "net.ipv4.conf.wg-nyc.rp_filter", Have: "1", Want: "0", Err: errTest}
			}
			return nil
		})
		r.run()
		defer r.stop(false)
		if mtu := r.backend.device("wg-nyc").mtu.Load(); mtu != 1340 {
			t.Errorf("the device pads packets up to %d bytes", mtu)
		}
	})
}

// A device with a silent tunnel looks for a new way out, one whose tunnels are up keeps the one it has.
func TestSilentTunnelLooksForAnotherWay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := running(t, twoPeers)
		defer r.stop(false)
		r.hear("wg-nyc", "nyc")
		r.after(time.Second)
		before := r.backend.device("wg-nyc").underlays.Load()
		r.after(2*linkEvery + time.Second)
		if n := r.backend.device("wg-store").underlays.Load(); n < 2 {
			t.Errorf("the device with the silent tunnel was told %d times, want one in %v", n, linkEvery)
		}
		if n := r.backend.device("wg-nyc").underlays.Load(); n != before {
			t.Error("the device whose tunnel is up was told, too")
		}
	})
}

// What cannot be mended is said once, and does not keep the tunnel from working.
func TestTroubleIsLoggedOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, twoPeers)
		r.host.failWith(func(op string) error {
			switch op {
			case "firewall":
				return &host.FirewallError{Err: errTest}
			case "link wg-nyc":
				return &host.SettingError{Key: "net.ipv4.conf.wg-nyc.rp_filter", Have: "1", Want: "0", Err: errTest}
			}
			return nil
		})
		r.run()
		defer r.stop(false)
		r.after(5 * time.Minute)
		for _, s := range []string{"no firewall", "rp_filter"} {
			if n := strings.Count(r.log.String(), s); n != 1 {
				t.Errorf("%q is logged %d times", s, n)
			}
		}
		r.hear("wg-nyc", "nyc")
		r.wantState("nyc", wg.TunnelUp, "")
	})
}

// slowDevice takes the kernel's time to go.
type slowDevice struct {
	wg.Device
	removed func(bool)
}

func (d *slowDevice) Close(remove bool) error {
	time.Sleep(time.Second)
	d.removed(remove)
	return nil
}

// TestDevicesAreClosedSideBySide: a stop with many devices takes as long as a few of them, and one that is not ours is left.
func TestDevicesAreClosedSideBySide(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var removed, left atomic.Int32
		ts := &tunnels{log: slog.New(slog.DiscardHandler), devices: map[string]*device{"wg-gone": {}}}
		for i := range 2*closing + 1 {
			name := fmt.Sprintf("wg-%02d", i)
			dev := &slowDevice{removed: func(yes bool) {
				if yes {
					removed.Add(1)
				} else {
					left.Add(1)
				}
			}}
			ts.devices[name] = &device{spec: deviceSpec{DeviceConfig: wg.DeviceConfig{Name: name}}, dev: dev, adopted: i == 0}
		}
		begin := time.Now()
		ts.closeDevices(slices.Sorted(maps.Keys(ts.devices)), unlessAdopted)
		if took := time.Since(begin); took != 3*time.Second {
			t.Errorf("%d devices of a second each were closed in %v, want 3s", 2*closing+1, took)
		}
		if removed.Load() != 2*closing || left.Load() != 1 || len(ts.devices) != 0 {
			t.Errorf("%d devices removed, %d left, %d forgotten", removed.Load(), left.Load(), len(ts.devices))
		}
	})
}
