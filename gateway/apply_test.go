package gateway

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"sitewire/bgp"
	"sitewire/gateway/wg"
	"sitewire/gateway/wg/wgtest"
)

const another = `  ams:
    public_key: KEY(ams)
    endpoint: 192.0.2.8:51820
    allowed_ips: [10.18.0.0/24]
`

// replace is strings.NewReplacer for texts that must change.
func replace(text string, oldnew ...string) string {
	out := strings.NewReplacer(oldnew...).Replace(text)
	if out == text {
		panic("nothing replaced in " + text)
	}
	return out
}

func TestApplyAddsBeforeItRemoves(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := running(t, twoPeers)
		defer r.stop(false)
		r.hear("wg-nyc", "nyc")
		r.hear("wg-store", "store")
		r.after(time.Second)
		r.journal.take()
		// store goes, ams comes, nyc stays as it is.
		r.mustReload(replace(twoPeers, twoPeers[strings.Index(twoPeers, "  store:"):], another))
		r.didInOrder(`
			firewall port 179 tunnels [wg-ams wg-nyc] lan []
			open wg-ams mtu 1420
			wg set wg-ams peer ams endpoint 192.0.2.8:51820 persistent-keepalive 25
			link wg-ams mtu 1420 [] up true
			bgp [nyc] announces [172.20.1.0/27] endpoints [192.0.2.1 192.0.2.7 192.0.2.8]
			wg set wg-ams peer ams allowed-ips +10.18.0.0/24
			withdraw 10.17.0.0/24 dev wg-store
			wg set wg-store peer store allowed-ips -10.17.0.0/24
			close wg-store remove
			bgp [nyc] announces [172.20.1.0/27] endpoints [192.0.2.1 192.0.2.8]`)
		if c := r.gw.ConfigInfo(); c.Generation != 2 || c.LastError != "" || c.Applied != time.Now() {
			t.Errorf("config %+v", c)
		}
		r.hear("wg-ams", "ams")
		r.did(`
			bgp [nyc] announces [172.20.1.0/27 10.18.0.0/24] endpoints [192.0.2.1 192.0.2.8]
			install 10.18.0.0/24 dev wg-ams`)
	})
}

// A peer that comes back is not taken for the one that was alive.
func TestApplyPeerComesBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		with, without := twoPeers+another, twoPeers
		r := running(t, with)
		defer r.stop(false)
		r.hear("wg-ams", "ams")
		r.mustReload(without)
		r.mustReload(with)
		r.after(time.Second)
		r.wantState("ams", wg.TunnelNew, "")
		if got := r.world.String(); strings.Contains(got, "10.18.0.0/24 dev") {
			t.Errorf("routed to a peer that was not heard:\n%s", got)
		}
		r.hear("wg-ams", "ams")
		if got := r.world.String(); !strings.Contains(got, "10.18.0.0/24 dev wg-ams") {
			t.Errorf("not routed:\n%s", got)
		}
	})
}

// Nothing is written to the devices and links of peers that did not change, nor to anything by the same file.
func TestApplyNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := running(t, twoPeers)
		defer r.stop(false)
		r.hear("wg-nyc", "nyc")
		r.learn("nyc", "10.2.0.0/16")
		r.after(time.Second)
		r.journal.take()
		r.mustReload(twoPeers)
		r.didInOrder("")
		r.mustReload(replace(twoPeers, "10.17.0.0/24", "10.17.0.0/23"))
		r.didInOrder(`
			wg set wg-store peer store allowed-ips +10.17.0.0/23
			wg set wg-store peer store allowed-ips -10.17.0.0/24`)
		r.mustReload(replace(twoPeers, "policy: dn42", "policy: dn42\n    keepalive: 10s", "10.17.0.0/24", "10.17.0.0/23"))
		r.didInOrder(`wg set wg-nyc peer nyc persistent-keepalive 10`)
		r.wantState("nyc", wg.TunnelUp, "")
	})
}

// Many reloads at once come one after the other, and one whose caller has gone away is given up.
func TestApplyManyAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := running(t, twoPeers)
		defer r.stop(false)
		const n = 100
		errs := make(chan error, n)
		for range n {
			go func() { errs <- r.gw.Apply(t.Context(), r.gw.Config(), "sighup") }()
		}
		for range n {
			if err := <-errs; err != nil {
				t.Error(err)
			}
		}
		gone, cancel := context.WithCancel(t.Context())
		cancel()
		if err := r.gw.Apply(gone, r.gw.Config(), "api"); err != nil && !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
		r.after(time.Second)
		if g := r.gw.ConfigInfo().Generation; g < 1+n || r.gw.ReloadCounts().Reloads["sighup"] != n {
			t.Errorf("generation %d, counts %+v", g, r.gw.ReloadCounts())
		}
		r.did("")
	})
}

func TestApplyRollsBack(t *testing.T) {
	for name, test := range map[string]struct {
		fail func(*rig)
		heal func(*rig)
		want string
	}{
		"device": {
			func(r *rig) {
				r.backend.failWith(func(op string) error {
					if op == "open wg-zrh" {
						return errTest
					}
					return nil
				})
			},
			func(r *rig) { r.backend.failWith(nil) },
			"device wg-zrh: injected failure",
		},
		"peer": {
			func(r *rig) {
				r.backend.failWith(func(op string) error {
					if strings.HasPrefix(op, "wg set wg-zrh peer") {
						return errTest
					}
					return nil
				})
			},
			func(r *rig) { r.backend.failWith(nil) },
			"peer zrh: device wg-zrh: injected failure",
		},
		"link": {
			func(r *rig) {
				r.host.failWith(func(op string) error {
					if op == "link wg-zrh" {
						return errTest
					}
					return nil
				})
			},
			func(r *rig) { r.host.failWith(nil) },
			"device wg-zrh: injected failure",
		},
		"speaker": {
			func(r *rig) {
				r.speaker.mu.Lock()
				defer r.speaker.mu.Unlock()
				r.speaker.fail = func(c bgp.Config) error {
					if slices.ContainsFunc(c.Own, pfx("10.18.0.0/24").Overlaps) {
						return errTest
					}
					return nil
				}
			},
			func(r *rig) {
				r.speaker.mu.Lock()
				defer r.speaker.mu.Unlock()
				r.speaker.fail = nil
			},
			"bgp: injected failure",
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := running(t, twoPeers)
				defer r.stop(false)
				r.hear("wg-nyc", "nyc")
				r.hear("wg-store", "store")
				r.learn("nyc", "10.2.0.0/16")
				r.after(time.Second)
				before, links := r.state(), r.backend.names()

				// One peer is new, one has another key, one another keepalive; the last device fails.
				text := replace(twoPeers, "KEY(nyc)", "KEY(nyc-2)", "allowed_ips: [10.17", "keepalive: 10s\n    allowed_ips: [10.17") +
					another + replace(another, "ams", "zrh", "10.18", "10.19", "192.0.2.8", "192.0.2.9")
				test.fail(r)
				old := r.gw.Config()
				err := r.reload(text)
				if err == nil || err.Error() != test.want {
					t.Errorf("error %q, want %q", err, test.want)
				}
				r.hear("wg-nyc", "nyc") // its key was away for a moment
				r.after(time.Second)
				if got := r.state(); got != before {
					t.Errorf("the world was\n%s\nand is\n%s", before, got)
				}
				if got := r.backend.names(); !slices.Equal(got, links) {
					t.Errorf("devices %v, were %v", got, links)
				}
				if r.gw.Config() != old {
					t.Error("another configuration is in force")
				}
				if c := r.gw.ConfigInfo(); c.Generation != 1 || c.LastError != test.want {
					t.Errorf("config %+v", c)
				}
				if s := r.gw.Status(); s.Health != "degraded" || s.Problems[0].Subject != "configuration" {
					t.Errorf("status %+v", s)
				}
				test.heal(r)
				r.mustReload(text)
				if c := r.gw.ConfigInfo(); c.Generation != 2 || c.LastError != "" {
					t.Errorf("config %+v", c)
				}
				if n := r.gw.ReloadCounts(); n.Reloads["api"] != 2 || n.Failures["api"] != 1 || !n.LastOK {
					t.Errorf("counts %+v", n)
				}
			})
		})
	}
}

func TestApplyRestartRequired(t *testing.T) {
	const base = oneStore + "bgp: { port: 179 }\nroutes: { metric: 512 }\nmetrics: { listen: 'off' }\n"
	synctest.Test(t, func(t *testing.T) {
		r := running(t, base)
		defer r.stop(false)
		for _, change := range []struct{ old, new, want string }{
			{"asn: 4242420001", "asn: 4242420009", "asn"},
			{"router_id: 172.20.1.1", "router_id: 172.20.1.9", "router_id"},
			{"port: 179", "port: 1790", "bgp.port"},
			{"port: 179", "port: 179, listen: [10.0.0.1]", "bgp.listen"},
			{"port: 179", "port: 179, max_paths: 2", "bgp.max_paths"},
			{"metric: 512", "metric: 600", "routes.metric"},
			{"metric: 512", "metric: 512, table: 100", "routes.table"},
			{"DIR/sock", "DIR/other", "socket"},
			{"'off'", "127.0.0.1:1", "metrics.listen"},
			{"'off'", "'off', web_config: web.yaml", "metrics.web_config"},
			{"'off'", "'off', device_counters: true", "metrics.device_counters"},
			{"'off'", "'off', endpoint_info: true", "metrics.endpoint_info"},
			{"metric: 512", "metric: 512, protocol: 84", "routes.protocol"},
			{"metric: 512", "metric: 512, source_ipv4: 10.0.0.1", "routes.source_ipv4"},
			{"metric: 512", "metric: 512, source_ipv6: 'fd00::1'", "routes.source_ipv6"},
			{"metrics:", "log: { format: json }\nmetrics:", "log.format"},
			{"private_key:", "backend: userspace, private_key:", "wireguard.backend"},
		} {
			err := r.reload(replace(base, change.old, change.new))
			e, ok := errors.AsType[*RestartError](err)
			if !ok || !slices.Equal(e.Settings, []string{change.want}) || !strings.HasPrefix(err.Error(), change.want+" cannot change while running") {
				t.Errorf("%s: %v", change.new, err)
			}
			if got := r.gw.ConfigInfo().RestartRequired; !slices.Equal(got, []string{change.want}) {
				t.Errorf("%s: restart required for %v", change.new, got)
			}
			if p := r.gw.Status().Problems[0]; p.Subject != "configuration" || !strings.Contains(p.What, ": "+change.want+" cannot change") || !strings.HasPrefix(p.Fix, "restart ") {
				t.Errorf("%s: status says %+v", change.new, p)
			}
		}
		r.didInOrder("")
		r.mustReload(base)
		if got := r.gw.ConfigInfo(); len(got.RestartRequired) > 0 || got.LastError != "" {
			t.Errorf("config %+v", got)
		}
	})
}

// The peer's key changes under its name: the session is another one, and what was allowed to the old key is allowed
// to the new one.
func TestApplyOtherKey(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := running(t, oneStore)
		defer r.stop(false)
		r.hear("wg-store", "store", "192.0.2.7:1")
		r.after(time.Second)
		r.journal.take()
		r.mustReload(replace(oneStore, "KEY(store)", "KEY(ams)"))
		r.wantState("store", wg.TunnelNew, "waiting for the peer to call")
		r.after(time.Second)
		r.did(`
			bgp [] announces [172.20.1.0/27] endpoints []
			withdraw 10.17.0.0/24 dev wg-store
			wg set wg-store peer store
			wg set wg-store peer store remove
			wg set wg-store peer store allowed-ips +10.17.0.0/24`)
		if k, _ := r.backend.device("wg-store").Owner(pfx("10.17.0.0/24")); k != wgtest.Peer("ams").PublicKey {
			t.Errorf("the prefix belongs to %s", k)
		}
		r.hear("wg-store", "ams")
		r.wantState("store", wg.TunnelUp, "")
	})
}

// shared is a hub with two peers on one device.
const shared = `
site: hub
asn: 65000
router_id: 10.0.0.1
socket: DIR/sock
wireguard: { private_key: "${file:DIR/private.key}", device: wg0, listen_port: 51820 }
peers:
  a:
    public_key: KEY(nyc)
    endpoint: 192.0.2.1:51820
    allowed_ips: [10.17.0.0/24]
  b:
    public_key: KEY(store)
    endpoint: 192.0.2.2:51820
    allowed_ips: [10.18.0.0/24]
`

// Two peers swap their keys, which is one peer each that must not be removed with the other's old name.
func TestApplyKeysSwap(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := running(t, shared)
		defer r.stop(false)
		r.mustReload(replace(shared, "KEY(nyc)", "KEY(store)", "KEY(store)", "KEY(nyc)"))
		r.after(time.Second)
		d := r.backend.device("wg0")
		for prefix, peer := range map[string]string{"10.17.0.0/24": "store", "10.18.0.0/24": "nyc"} {
			if k, ok := d.Owner(pfx(prefix)); !ok || k != wgtest.Peer(peer).PublicKey {
				t.Errorf("%s belongs to %s", prefix, k)
			}
		}
		if strings.Contains(r.log.String(), "removed by someone else") {
			t.Error("a peer was removed")
		}
	})
}

// A peer under another name is the same peer: it keeps its tunnel, its route and its allowed-IPs.
func TestApplyRename(t *testing.T) {
	for _, name := range []string{"aa", "zz"} { // before and behind the old one
		synctest.Test(t, func(t *testing.T) {
			r := running(t, shared)
			defer r.stop(false)
			r.hear("wg0", "nyc", "198.51.100.1:1111")
			r.after(time.Second)
			r.journal.take()
			r.mustReload(replace(shared, "  a:\n", "  "+name+":\n"))
			r.wantState(name, wg.TunnelUp, "")
			r.wantEndpoint(name, "198.51.100.1:1111")
			r.after(10 * time.Second)
			r.didInOrder("")
			d := r.backend.device("wg0")
			if k, ok := d.Owner(pfx("10.17.0.0/24")); !ok || k != wgtest.Peer("nyc").PublicKey {
				t.Errorf("the prefix belongs to %s", k)
			}
			if n := r.tunnel(name).Handshakes; n != 1 || len(r.gw.Tunnels()) != 2 {
				t.Errorf("%d handshakes, tunnels %v", n, r.gw.Tunnels())
			}
		})
	}
}

// With a device of its own a renamed peer gets another device, on the same port.
func TestApplyRenameOfADevice(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		text := withEndpoint("listen_port: 51820", "endpoint: 192.0.2.7:1")
		r := running(t, text)
		defer r.stop(false)
		r.hear("wg-store", "store")
		renamed := replace(text, "  store:\n", "  shop:\n")

		// First it cannot be: everything is as before.
		r.speaker.mu.Lock()
		r.speaker.fail = func(c bgp.Config) error {
			if len(r.backend.names()) == 1 && r.backend.device("wg-shop") != nil {
				return errTest
			}
			return nil
		}
		r.speaker.mu.Unlock()
		if err := r.reload(renamed); !errors.Is(err, errTest) {
			t.Fatalf("error %v", err)
		}
		if got := r.backend.names(); !slices.Equal(got, []string{"wg-store"}) {
			t.Errorf("devices %v", got)
		}
		r.speaker.mu.Lock()
		r.speaker.fail = nil
		r.speaker.mu.Unlock()

		r.mustReload(renamed)
		if got := r.backend.names(); !slices.Equal(got, []string{"wg-shop"}) {
			t.Errorf("devices %v", got)
		}
		r.hear("wg-shop", "store")
		r.wantState("shop", wg.TunnelUp, "")
		if got := r.world.String(); !strings.Contains(got, "10.17.0.0/24 dev wg-shop") {
			t.Errorf("routes:\n%s", got)
		}
	})
}

// A peer moves from a device of its own to the shared one: the route moves, and nothing is left behind.
func TestApplyMoveToSharedDevice(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		own := replace(shared, "  b:\n", "  b:\n    device: own\n    listen_port: 51821\n")
		r := running(t, own)
		defer r.stop(false)
		r.hear("wg-b", "store")
		r.after(time.Second)
		r.journal.take()
		r.mustReload(shared)
		r.after(time.Second)
		r.did(`
			bgp [] announces [] endpoints [192.0.2.1 192.0.2.2]
			withdraw 10.18.0.0/24 dev wg-b
			firewall port 179 tunnels [wg0] lan []
			wg set wg0 peer b endpoint 192.0.2.2:51820 persistent-keepalive 25
			wg set wg0 peer b allowed-ips +10.18.0.0/24
			wg set wg-b peer b allowed-ips -10.18.0.0/24
			close wg-b remove`)
		r.wantState("b", wg.TunnelNew, "")
		r.hear("wg0", "store")
		r.did(`
			bgp [] announces [10.18.0.0/24] endpoints [192.0.2.1 192.0.2.2]
			install 10.18.0.0/24 dev wg0`)
		if got := r.backend.names(); !slices.Equal(got, []string{"wg0"}) {
			t.Errorf("devices %v", got)
		}

		// And back.
		r.mustReload(own)
		r.hear("wg-b", "store")
		if got := r.world.String(); !strings.Contains(got, "10.18.0.0/24 dev wg-b") || strings.Contains(got, "10.18.0.0/24 dev wg0") {
			t.Errorf("routes:\n%s", got)
		}
		if s := r.backend.device("wg0").String(); strings.Contains(s, "peer b") {
			t.Errorf("left behind:\n%s", s)
		}
	})
}

// state is everything that the world holds, in text.
func (r *rig) state() string {
	var b strings.Builder
	b.WriteString(r.world.String())
	for _, name := range r.backend.names() {
		b.WriteString(name + "\n" + r.backend.device(name).String() + "\n")
	}
	r.host.mu.Lock()
	defer r.host.mu.Unlock()
	for _, name := range r.backend.names() {
		b.WriteString(name + " " + r.host.links[name] + "\n")
	}
	b.WriteString(r.host.wall + "\n")
	return b.String()
}
