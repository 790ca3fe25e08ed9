package gateway

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"sitewire/routes"
	"sitewire/routes/routestest"
)

// A stop ends the sessions and leaves the devices, which go on in the kernel, and their routes.
func TestStopLeavesThingsInPlace(t *testing.T) {
	for _, how := range []string{"stop", "context"} {
		synctest.Test(t, func(t *testing.T) {
			r := newRig(t, twoPeers)
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			go func() { r.ended <- r.gw.Run(ctx) }()
			synctest.Wait()
			r.hear("wg-store", "store")
			r.after(time.Second)
			r.journal.take()
			if how == "stop" {
				r.gw.Stop(false)
			} else {
				cancel()
			}
			if err := <-r.ended; err != nil {
				t.Errorf("%s: %v", how, err)
			}
			r.didInOrder(`
				speaker ends
				close wg-nyc
				close wg-store`)
			if got := r.world.String(); !strings.Contains(got, "10.17.0.0/24 dev wg-store") {
				t.Errorf("routes:\n%s", got)
			}
			r.gw.Stop(true) // too late, and harmless
			if err := r.gw.Apply(t.Context(), r.gw.Config(), "api"); !errors.Is(err, ErrEnded) {
				t.Errorf("apply after the end: %v", err)
			}
		})
	}
}

func TestStopWithTeardown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := running(t, twoPeers)
		r.hear("wg-store", "store")
		r.after(time.Second)
		r.journal.take()
		if err := r.stop(true); err != nil {
			t.Error(err)
		}
		r.didInOrder(`
			speaker ends
			withdraw unreachable 172.20.1.0/27
			withdraw 10.17.0.0/24 dev wg-store
			wg set wg-store peer store allowed-ips -10.17.0.0/24
			wg set wg-nyc peer nyc allowed-ips -fe80::2/128
			host teardown
			close wg-nyc remove
			close wg-store remove`)
		r.nothingLeft()
	})
}

// A teardown that does not succeed is not taken for one.
func TestTeardownFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := running(t, twoPeers)
		r.world.OnFault(func(op routes.Op) routestest.Fault {
			if op.Kind == routes.Withdraw {
				return routestest.Fault{Err: errTest}
			}
			return routestest.Fault{}
		})
		if err := r.stop(true); !errors.Is(err, errTest) {
			t.Errorf("error %v", err)
		}
	})
}

func TestStartFails(t *testing.T) {
	for name, test := range map[string]struct {
		fail func(*rig)
		want string
	}{
		"rules":    {func(r *rig) { r.host.failWith(failing("rules")) }, "policy rules: injected failure"},
		"backend":  {func(r *rig) { r.backend.missing = errTest }, "injected failure"},
		"device":   {func(r *rig) { r.backend.failWith(failing("open wg-store")) }, "device wg-store: injected failure"},
		"link":     {func(r *rig) { r.host.failWith(failing("link wg-store")) }, "device wg-store: injected failure"},
		"peer":     {func(r *rig) { r.backend.failWith(failing("wg set wg-store")) }, "peer store: device wg-store: injected failure"},
		"speaker":  {func(r *rig) { r.speaker.broken = errTest }, "bgp: injected failure"},
		"firewall": {func(r *rig) { r.host.failWith(failing("firewall")); r.speaker.broken = errTest }, "bgp: injected failure"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := newRig(t, twoPeers)
				test.fail(r)
				r.run()
				if err := <-r.ended; err == nil || err.Error() != test.want {
					t.Errorf("error %v, want %s", err, test.want)
				}
				r.nothingLeft()
			})
		})
	}
}

// A stop in the middle of the start is a stop.
func TestStopWhileStarting(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, twoPeers)
		r.gw.Stop(false)
		r.run()
		if err := <-r.ended; err != nil {
			t.Error(err)
		}
	})
}

// The loop's heartbeat goes on when nothing happens, and not when the gateway is over.
func TestHeartbeat(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := running(t, twoPeers)
		r.after(time.Minute)
		if age := time.Since(r.gw.Heartbeat()); age > 5*time.Second {
			t.Errorf("last beat %v ago", age)
		}
		if code, _ := r.get("/v1/healthz"); code != 200 {
			t.Errorf("healthz answers %d", code)
		}
		r.stop(false)
		r.after(time.Minute)
		code, body := r.get("/v1/healthz")
		if code != 503 || !strings.Contains(body, "has not turned for 1m") {
			t.Errorf("healthz answers %d %s", code, body)
		}
	})
}

// failing refuses what begins with a text.
func failing(prefix string) func(string) error {
	return func(op string) error {
		if strings.HasPrefix(op, prefix) {
			return errTest
		}
		return nil
	}
}

// nothingLeft fails if the world still has anything.
func (r *rig) nothingLeft() {
	r.t.Helper()
	if got := r.backend.names(); len(got) > 0 {
		r.t.Errorf("devices left: %v", got)
	}
	if got := r.world.String(); got != "" {
		r.t.Errorf("routes left:\n%s", got)
	}
	r.host.mu.Lock()
	defer r.host.mu.Unlock()
	if r.host.rules != nil || r.host.wall != "" {
		r.t.Errorf("rules left: %v, firewall %q", r.host.rules, r.host.wall)
	}
}
