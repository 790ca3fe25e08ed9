package gateway

import (
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"sitewire/bgp"
	"sitewire/gateway/wg"
	"sitewire/gateway/wg/wgtest"
	"sitewire/routes"
)

// withoutStore is twoPeers without its second peer.
func withoutStore() string {
	before, _, _ := strings.Cut(twoPeers, "  store:\n")
	return before
}

// twoSpokes share a device.
const twoSpokes = `
site: fra
asn: 4242420001
router_id: 172.20.1.1
announce: [172.20.1.0/27]
socket: DIR/sock
wireguard: { private_key: "${file:DIR/private.key}", device: wg0, listen_port: 51820 }
peers:
  store: { public_key: KEY(store), allowed_ips: [10.17.0.0/24] }
  ams: { public_key: KEY(ams), allowed_ips: [10.18.0.0/24] }
`

// lastingRig is a gateway whose devices go on without it, with both tunnels up and a route learned from nyc.
func lastingRig(t *testing.T) *rig {
	t.Helper()
	r := newRig(t, twoPeers)
	r.backend.lasting = true
	r.run()
	r.hear("wg-nyc", "nyc")
	r.hear("wg-store", "store", "198.51.100.7:7777")
	r.learn("nyc", "10.2.0.0/16")
	r.told("nyc")
	r.speaker.set(bgp.Session{Name: "nyc", State: bgp.Established, ExtendedNextHop: true})
	r.speaker.changed <- struct{}{}
	r.after(2 * time.Second)
	r.journal.take()
	return r
}

// told ends the first sync with a neighbour.
func (r *rig) told(neighbour string) {
	for _, f := range []routes.Family{routes.IPv4, routes.IPv6} {
		r.feed.PutEndOfRIB(neighbour, f, 1)
	}
	r.after(10 * time.Millisecond)
}

// A gateway that follows another one finds its devices, peers and sessions, and changes nothing of them: not where a peer
// has roamed to, and not what BGP has not told again. What BGP then does not tell again goes.
func TestTakeOver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := lastingRig(t)
		if err := r.stop(false); err != nil {
			t.Fatal(err)
		}
		r.didInOrder(`
			speaker ends without a word
			leave wg-nyc
			leave wg-store`)
		world := r.world.String()
		r.after(20 * time.Second)

		r.again(twoPeers)
		r.did(`
			take over wg-nyc
			take over wg-store
			speaker begins again
			bgp [nyc] announces [172.20.1.0/27 10.17.0.0/24] endpoints [192.0.2.1 198.51.100.7]`)
		if !r.speaker.restart.ExtendedNextHop["nyc"] {
			t.Errorf("the speaker knows %v from before", r.speaker.restart)
		}
		r.wantState("nyc", wg.TunnelUp, "")
		r.wantState("store", wg.TunnelUp, "")
		r.wantEndpoint("store", "198.51.100.7:7777")
		r.after(20 * time.Second)
		r.did(``)
		if got := r.world.String(); got != world {
			t.Errorf("routes and allowed-IPs were\n%s\nand are\n%s", world, got)
		}
		if n := r.tunnel("store").Handshakes; n != 0 {
			t.Errorf("%d handshakes of the gateway before are counted", n)
		}
		r.learn("nyc", "10.3.0.0/16")
		r.told("nyc")
		r.after(2 * time.Second)
		r.did(`
			install 10.3.0.0/16 dev wg-nyc
			withdraw 10.2.0.0/16 dev wg-nyc
			wg set wg-nyc peer nyc allowed-ips +10.3.0.0/16
			wg set wg-nyc peer nyc allowed-ips -10.2.0.0/16`)
		r.stop(true)
		r.nothingLeft()
		if files, _ := os.ReadDir(filepath.Join(r.dir, "state")); len(files) > 0 {
			t.Errorf("a teardown leaves %v", files)
		}
	})
}

// A tunnel whose keys had run out is not taken for one that is up, and its peer is called where the file says.
func TestTakeOverDeadTunnel(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := lastingRig(t)
		r.stop(false)
		r.after(wg.RejectAfterTime)
		r.journal.take()
		r.again(twoPeers)
		for _, peer := range []string{"nyc", "store"} {
			if s := r.tunnel(peer).State; s == wg.TunnelUp {
				t.Errorf("tunnel to %s is %s", peer, s)
			}
		}
		r.wantEndpoint("store", "192.0.2.7:51820")
		r.stop(true)
	})
}

// What an earlier run had and the file has no more goes, after the routes are in order and not before; what somebody else
// put on a device stays.
func TestLeftovers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := lastingRig(t)
		r.stop(false)
		r.journal.take()
		r.again(withoutStore())
		r.after(5 * time.Second)
		if r.backend.device("wg-store") == nil || !strings.Contains(r.world.String(), "10.17.0.0/24 dev wg-store") {
			t.Error("the device was removed before the first sync")
		}
		r.journal.take()
		r.learn("nyc", "10.2.0.0/16")
		r.told("nyc")
		r.after(10 * time.Second)
		r.didInOrder(`
			withdraw 10.17.0.0/24 dev wg-store
			remove wg-store`)
		r.stop(true)
		r.nothingLeft()
	})
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, twoSpokes)
		r.backend.lasting = true
		r.run()
		r.hear("wg0", "store")
		r.hear("wg0", "ams")
		r.stop(false)
		stranger := wgtest.Peer("stranger")
		d := r.backend.device("wg0")
		if err := d.Apply(t.Context(), wg.Delta{SetPeers: []wg.PeerConfig{stranger}}); err != nil {
			t.Fatal(err)
		}
		r.journal.take()
		r.again(twoSpokes[:strings.Index(twoSpokes, "  ams:")])
		r.after(10 * time.Second)
		stats, err := d.Fake.Stats(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		var keys []wg.PublicKey
		for _, s := range stats {
			keys = append(keys, s.PublicKey)
		}
		if len(keys) != 2 || slices.Contains(keys, wgtest.Peer("ams").PublicKey) || !slices.Contains(keys, stranger.PublicKey) {
			t.Errorf("peers %v", keys)
		}
		if _, ok := d.Owner(netip.MustParsePrefix("10.18.0.0/24")); ok {
			t.Error("the peer that is gone still owns its prefix")
		}
		log := r.log.String()
		if n := strings.Count(log, "device has a peer that is not configured"); n != 1 || !strings.Contains(log, stranger.PublicKey.String()) {
			t.Errorf("%d lines about strangers:\n%s", n, log)
		}
		r.stop(true)
	})
}

// Neighbours are told of a restart only if all that forwarded still does.
func TestForwardingLost(t *testing.T) {
	for name, lose := range map[string]func(*rig){
		"device":  func(r *rig) { r.backend.vanish("wg-nyc") },
		"state":   func(r *rig) { os.RemoveAll(filepath.Join(r.dir, "state")) },
		"damaged": func(r *rig) { writeFile(r.t, filepath.Join(r.dir, "state", ownedFile), "{") },
		"boot": func(r *rig) {
			path := filepath.Join(r.dir, "state", ownedFile)
			b, err := os.ReadFile(path)
			if err != nil {
				r.t.Fatal(err)
			}
			writeFile(r.t, path, strings.Replace(string(b), "{", `{"boot_id": "an earlier one",`, 1))
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := lastingRig(t)
				r.stop(false)
				lose(r)
				r.journal.take()
				r.again(twoPeers)
				if did := r.journal.take(); !slices.Contains(did, "speaker begins") {
					t.Errorf("%q", did)
				}
				r.wantState("store", wg.TunnelUp, "")
				r.stop(true)
			})
		})
	}
}

// Devices that end with the process end with its sessions, of which neighbours are told.
func TestStopOfUserspace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := running(t, twoPeers)
		r.stop(false)
		r.didInOrder(`
			speaker ends
			close wg-nyc
			close wg-store`)
		if _, err := os.Stat(filepath.Join(r.dir, "state")); err == nil {
			t.Error("something was kept")
		}
	})
}

// What goes wrong in a process that took over is no reason to end what forwards.
func TestTakeOverFails(t *testing.T) {
	for name, fail := range map[string]func(*rig){
		"rules":   func(r *rig) { r.host.failWith(failing("rules")) },
		"device":  func(r *rig) { r.backend.failWith(failing("open wg-store")) },
		"speaker": func(r *rig) { r.speaker.broken = errTest },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := lastingRig(t)
				r.stop(false)
				world := r.world.String()
				r.feed, r.ended = routes.NewFeed(), make(chan error, 1)
				r.make(twoPeers)
				fail(r)
				r.run()
				if err := <-r.ended; err == nil {
					t.Error("no error")
				}
				if got := r.world.String(); got != world {
					t.Errorf("was\n%s\nand is\n%s", world, got)
				}
				r.host.mu.Lock()
				defer r.host.mu.Unlock()
				if r.host.rules == nil || r.host.wall == "" {
					t.Error("the rules have gone")
				}
			})
		})
	}
}

// Somebody else's devices that were taken over outlive a start that fails, at whatever step. Those that the start made do not.
func TestFirstStartFails(t *testing.T) {
	for name, fail := range map[string]func(*rig){
		"device":      func(r *rig) { r.backend.failWith(failing("open wg-store")) },
		"allowed-IPs": func(r *rig) { r.backend.device("wg-nyc").unreadable.Store(true) },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := lastingRig(t)
				r.stop(false)
				os.RemoveAll(filepath.Join(r.dir, "state")) // as if others had made them
				r.backend.vanish("wg-store")
				r.feed, r.ended = routes.NewFeed(), make(chan error, 1)
				r.make(twoPeers)
				fail(r)
				r.run()
				if err := <-r.ended; !errors.Is(err, errTest) {
					t.Errorf("it ended with %v", err)
				}
				if got := r.backend.names(); !slices.Equal(got, []string{"wg-nyc"}) {
					t.Errorf("devices %v are left", got)
				}
				stats, err := r.backend.device("wg-nyc").Fake.Stats(t.Context())
				if err != nil || len(stats) != 1 {
					t.Errorf("the device has %v, %v", stats, err)
				}
			})
		})
	}
}

// A renamed peer takes its port along, although the old device would stay until later.
func TestPortOfLeftover(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		named := func(name string) string {
			return strings.ReplaceAll(twoPeers, "  store:\n", "  "+name+":\n    listen_port: 51999\n")
		}
		r := newRig(t, named("store"))
		r.backend.lasting = true
		r.run()
		r.stop(false)
		r.journal.take()
		r.again(named("shop"))
		did := r.journal.take()
		removed, opened := slices.Index(did, "remove wg-store"), slices.IndexFunc(did, func(l string) bool { return strings.HasPrefix(l, "open wg-shop") })
		if removed < 0 || opened < removed {
			t.Errorf("%q", did)
		}
		r.stop(true)
		r.nothingLeft()
	})
}

// Another backend cannot take the old one's devices over: they make room.
func TestBackendChanges(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := lastingRig(t)
		r.stop(false)
		r.journal.take()
		r.backend.lasting = false
		r.again(twoPeers)
		did := r.journal.take()
		for _, want := range []string{"remove wg-nyc", "remove wg-store", "open wg-nyc mtu 1420", "speaker begins"} {
			if !slices.Contains(did, want) {
				t.Errorf("no %q in %q", want, did)
			}
		}
		r.stop(true)
		r.nothingLeft()
	})
}

// A device that does not answer now and then is not lost; one that never does is.
func TestDeafDevice(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := lastingRig(t)
		d := r.backend.device("wg-nyc")
		d.deaf.Store(deafPolls - 1)
		r.after(10 * time.Second)
		r.did(``)
		r.wantState("nyc", wg.TunnelUp, "")
		d.deaf.Store(2 * deafPolls)
		r.after(deafPolls * time.Second)
		if got := r.gw.Drift().DevicesLost; got != 1 {
			t.Errorf("%d devices lost", got)
		}
		r.stop(true)
	})
}

// A tunnel is not silent for as long as nobody has looked.
func TestOldStats(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := running(t, twoPeers)
		defer r.stop(false)
		r.hear("wg-store", "store")
		r.backend.device("wg-store").age.Store(int64(20 * time.Second))
		r.after(r.gw.Config().Peers[1].DeadAfter + 10*time.Second)
		r.wantState("store", wg.TunnelUp, "")
		r.after(15 * time.Second)
		r.wantState("store", wg.TunnelDown, "nothing heard for over")
	})
}
