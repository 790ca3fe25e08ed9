package gateway

import (
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"sitewire/gateway/wg"
)

// withEndpoint is oneStore with more settings of the peer.
func withEndpoint(settings ...string) string {
	var text strings.Builder
	text.WriteString(oneStore)
	for _, s := range settings {
		text.WriteString("    " + s + "\n")
	}
	return text.String()
}

func TestNumericEndpoint(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, withEndpoint("endpoint: 192.0.2.7:51820"))
		r.host.mtu = 1400
		r.run()
		defer r.stop(false)
		r.did(`
			bgp [] announces [172.20.1.0/27] endpoints [192.0.2.7]
			rules mark 0x5357 table 254
			firewall port 179 tunnels [wg-store] lan []
			open wg-store mtu 1420
			wg set wg-store peer store endpoint 192.0.2.7:51820 persistent-keepalive 25
			link wg-store mtu 1340 [] up true
			wg set wg-store peer store allowed-ips +10.17.0.0/24
			install unreachable 172.20.1.0/27
			speaker begins`)
		r.wantState("store", wg.TunnelNew, "no handshake yet")
		r.wantEndpoint("store", "192.0.2.7:51820")
		// A dead path is not looked up and not written again.
		r.after(time.Hour)
		if n := r.names.count(); n != 0 {
			t.Errorf("%d look-ups of a number", n)
		}
		r.did("")
	})
}

func TestNamedEndpoint(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, withEndpoint("endpoint: store.example.net:51820"))
		r.run()
		defer r.stop(false)
		r.after(time.Second)
		r.wantState("store", wg.TunnelNew, "endpoint not resolved")
		if x := r.tunnel("store"); x.Resolutions == 0 || x.ResolutionFailures == 0 || x.Endpoint.IsValid() {
			t.Errorf("%d resolutions, %d failures, endpoint %v", x.Resolutions, x.ResolutionFailures, x.Endpoint)
		}
		if !strings.Contains(r.log.String(), "no such host") {
			t.Error("the failure is not logged")
		}

		r.names.set("store.example.net", "::ffff:192.0.2.7")
		r.after(40 * time.Second)
		r.wantEndpoint("store", "192.0.2.7:51820")
		r.hear("wg-store", "store")
		r.wantState("store", wg.TunnelUp, "")

		// The name is asked every few minutes; its tunnel works, so the answer waits.
		r.keepHearing("wg-store", "store", 2*time.Minute)
		asked := r.names.count()
		r.names.set("store.example.net", "192.0.2.66")
		r.keepHearing("wg-store", "store", 10*time.Minute)
		if n := r.names.count() - asked; n < 1 || n > 3 {
			t.Errorf("%d look-ups in ten minutes of a tunnel that is up", n)
		}
		r.wantEndpoint("store", "192.0.2.7:51820")
		r.wantState("store", wg.TunnelUp, "")

		// It dies: now the answer has its turn, and then the one that worked.
		r.until("store", wg.TunnelDown)
		r.wantEndpoint("store", "192.0.2.66:51820")
		r.after(rotateEvery)
		r.wantEndpoint("store", "192.0.2.7:51820")
		if x := r.tunnel("store"); x.EndpointChanges != 0 {
			t.Errorf("%d endpoint changes, but nobody moved", x.EndpointChanges)
		}
		r.after(rotateEvery)
		r.hear("wg-store", "store")
		r.wantEndpoint("store", "192.0.2.66:51820")
		if x := r.tunnel("store"); x.EndpointChanges != 1 {
			t.Errorf("%d endpoint changes, want 1: the peer has moved", x.EndpointChanges)
		}
	})
}

// TestKeepaliveWaits: a peer without an endpoint gets its keepalive when it has called, and once.
func TestKeepaliveWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, oneStore)
		r.run()
		defer r.stop(false)
		r.after(time.Minute)
		if said := strings.Join(r.journal.take(), "\n"); strings.Contains(said, "persistent-keepalive") {
			t.Errorf("there is nowhere to send a keepalive, and it was set:\n%s", said)
		}
		r.hear("wg-store", "store", "198.51.100.9:4444")
		r.wantState("store", wg.TunnelUp, "")
		if said := strings.Join(r.journal.take(), "\n"); strings.Count(said, "wg set wg-store peer store persistent-keepalive 25") != 1 {
			t.Errorf("the peer has called:\n%s", said)
		}
		r.keepHearing("wg-store", "store", 10*time.Minute)
		if said := strings.Join(r.journal.take(), "\n"); strings.Contains(said, "wg set") {
			t.Errorf("nothing had to be done:\n%s", said)
		}
	})
}

// TestPeerThatCalledFirst: a name that resolves late does not take a live tunnel away from where its peer called from.
func TestPeerThatCalledFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, withEndpoint("endpoint: store.example.net:51820"))
		r.run()
		defer r.stop(false)
		r.after(time.Second)
		r.wantState("store", wg.TunnelNew, "no such host")
		r.hear("wg-store", "store", "198.51.100.9:4444")
		r.wantState("store", wg.TunnelUp, "")
		r.names.set("store.example.net", "192.0.2.66")
		r.keepHearing("wg-store", "store", 10*time.Minute)
		r.wantEndpoint("store", "198.51.100.9:4444")
		r.until("store", wg.TunnelDown)
		r.wantEndpoint("store", "192.0.2.66:51820")
	})
}

func TestFailingResolverKeepsLastGood(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, withEndpoint("endpoint: store.example.net:51820"))
		r.names.set("store.example.net", "2001:db8::7")
		r.run()
		defer r.stop(false)
		r.after(time.Second)
		r.wantEndpoint("store", "[2001:db8::7]:51820")
		r.hear("wg-store", "store")
		r.names.setFailure(errTest)
		r.after(time.Hour) // down for most of it
		r.wantEndpoint("store", "[2001:db8::7]:51820")
		x := r.tunnel("store")
		// Every 30 s with up to a quarter more.
		if x.ResolutionFailures < 90 || x.ResolutionFailures > 125 {
			t.Errorf("%d failed resolutions in an hour", x.ResolutionFailures)
		}
	})
}

func TestSlowNameDelaysOnlyItsPeer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, withEndpoint("endpoint: store.example.net:51820")+`
  ams:
    public_key: KEY(ams)
    endpoint: ams.example.net:51820
    allowed_ips: [10.18.0.0/24]
`)
		r.names.slow = map[string]bool{"store.example.net": true}
		r.names.set("ams.example.net", "192.0.2.8")
		r.run()
		defer r.stop(false)
		r.wantEndpoint("ams", "192.0.2.8:51820")
		r.hear("wg-ams", "ams")
		r.wantState("ams", wg.TunnelUp, "")
		if x := r.tunnel("store"); x.Resolutions != 1 || x.ResolutionFailures != 0 {
			t.Errorf("%d resolutions, %d failures while the first one lasts", x.Resolutions, x.ResolutionFailures)
		}
		r.after(resolveTimeout)
		if x := r.tunnel("store"); x.ResolutionFailures != 1 {
			t.Errorf("%d failures after the timeout", x.ResolutionFailures)
		}
	})
}

func TestEndpointRotation(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, withEndpoint("endpoint: ['192.0.2.1:51820', 'store.example.net:51821']", "keepalive: off"))
		r.names.set("store.example.net", "192.0.2.2", "2001:db8::2")
		r.run()
		defer r.stop(false)
		r.after(2 * time.Second)
		want := []string{"192.0.2.1:51820", "192.0.2.2:51821", "[2001:db8::2]:51821", "192.0.2.1:51820", "192.0.2.2:51821"}
		for _, ep := range want {
			r.wantEndpoint("store", ep)
			r.after(rotateEvery)
		}
		// Whoever answers is kept, idle or not.
		r.hear("wg-store", "store")
		answered := r.tunnel("store").Endpoint.String()
		r.after(10 * time.Minute)
		r.wantState("store", wg.TunnelStale, "")
		r.wantEndpoint("store", answered)
	})
}

func TestRoaming(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := running(t, withEndpoint("endpoint: 192.0.2.7:51820"))
		defer r.stop(false)
		r.hear("wg-store", "store")
		r.hear("wg-store", "store", "198.51.100.9:4444")
		r.wantEndpoint("store", "198.51.100.9:4444")
		if x := r.tunnel("store"); x.EndpointChanges != 1 {
			t.Errorf("%d endpoint changes, want 1", x.EndpointChanges)
		}
		r.keepHearing("wg-store", "store", 10*time.Minute)
		r.wantEndpoint("store", "198.51.100.9:4444")
		r.did(`
			bgp [] announces [172.20.1.0/27 10.17.0.0/24] endpoints [192.0.2.7]
			bgp [] announces [172.20.1.0/27 10.17.0.0/24] endpoints [198.51.100.9]
			install 10.17.0.0/24 dev wg-store`)
		// It falls silent where it roamed to: it is sought where it was configured.
		r.until("store", wg.TunnelDown)
		r.after(rotateEvery)
		r.wantEndpoint("store", "192.0.2.7:51820")
	})
}

func TestPinnedEndpoint(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := running(t, withEndpoint("endpoint: 192.0.2.7:51820", "pin_endpoint: true"))
		defer r.stop(false)
		r.hear("wg-store", "store")
		r.journal.take()
		r.backend.failWith(func(op string) error { // the first attempt does not succeed
			if strings.Contains(op, "endpoint") {
				return errTest
			}
			return nil
		})
		r.hear("wg-store", "store", "198.51.100.9:4444")
		r.backend.failWith(nil)
		r.after(2 * time.Second)
		r.wantEndpoint("store", "192.0.2.7:51820")
		r.did(`
			bgp [] announces [172.20.1.0/27 10.17.0.0/24] endpoints [198.51.100.9]
			bgp [] announces [172.20.1.0/27 10.17.0.0/24] endpoints [192.0.2.7]
			wg set wg-store peer store endpoint 192.0.2.7:51820`)
		if !strings.Contains(r.log.String(), "endpoint not set") {
			t.Error("the failure is not logged")
		}
	})
}

// An endpoint that the operator changes is no rumour: it is set although the tunnel is up.
func TestConfiguredEndpointChanges(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := running(t, withEndpoint("endpoint: 192.0.2.7:51820"))
		defer r.stop(false)
		r.hear("wg-store", "store")
		r.journal.take()
		r.mustReload(withEndpoint("endpoint: 192.0.2.8:51820"))
		r.wantState("store", wg.TunnelUp, "")
		r.after(time.Second)
		r.did(`
			bgp [] announces [172.20.1.0/27 10.17.0.0/24] endpoints [192.0.2.8]
			wg set wg-store peer store endpoint 192.0.2.8:51820`)

		r.names.slow = map[string]bool{"slow.example.net": true}
		r.names.set("store.example.net", "192.0.2.9")
		r.mustReload(withEndpoint("endpoint: slow.example.net:1"))
		r.mustReload(withEndpoint("endpoint: store.example.net:1"))
		r.wantEndpoint("store", "192.0.2.8:51820") // until an answer comes
		r.after(resolveTimeout + time.Second)
		r.wantEndpoint("store", "192.0.2.9:1")
	})
}

// A name whose address is behind a tunnel is a mistake or an attack.
func TestNameThatLeadsIntoATunnel(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, withEndpoint("endpoint: store.example.net:51820"))
		r.names.set("store.example.net", "192.0.2.7")
		r.run()
		defer r.stop(false)
		r.hear("wg-store", "store")
		r.names.set("store.example.net", "10.17.0.5")
		r.keepHearing("wg-store", "store", 10*time.Minute)
		if x := r.tunnel("store"); x.ResolutionFailures == 0 {
			t.Error("the answer was taken")
		}
		if !strings.Contains(r.log.String(), "through a tunnel") {
			t.Error("the reason is not logged")
		}
		r.wantEndpoint("store", "192.0.2.7:51820")
	})
}
