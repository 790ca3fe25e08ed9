package e2e

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"time"

	"sitewire/gateway"
	"sitewire/topologies/netns"
	"sitewire/topologies/netns/nstest"
)

// TestAgreement: after every kind of disturbance the BGP table, the kernel's routes and the allowed-IPs are the same
// exact sets again, and BIRD's view of us is right.
func TestAgreement(t *testing.T) {
	l := newLab(t)
	a, b := l.site("ours"), l.site("theirs")
	f := b.wireguard(a)
	f.bird(a, shapeA)
	yaml := a.head() + "bgp: { hold_time: 9s, keepalive: 3s }\nroutes: { reconcile_every: 2s }\npeers:\n" + b.peerYAML(shapeA)
	d := a.run(yaml)

	agree := func(t *testing.T) {
		t.Helper()
		nstest.Eventually(t, 40*time.Second, "BGP, kernel and allowed-IPs to agree", func() error {
			if err := d.carries(f.own(), "theirs"); err != nil {
				return err
			}
			got, err := f.learned()
			if err != nil {
				return err
			}
			return equalPrefixes(t, "BIRD's table", got, sorted([]netip.Prefix{a.lan4, a.lan6}))
		})
		reach(t, a, b)
	}
	agree(t)

	t.Run("session flap", func(t *testing.T) {
		f.birdc("restart", "sw")
		agree(t)
	})
	t.Run("underlay link flap", func(t *testing.T) {
		must(t, a.ns.Down("eth0"))
		nstest.Eventually(t, 20*time.Second, "the session to end", func() error {
			var s gateway.Status
			must(t, d.get("/v1/status", &s))
			if s.Sessions.Up != 0 {
				return fmt.Errorf("%d sessions up", s.Sessions.Up)
			}
			return nil
		})
		must(t, a.ns.Up("eth0"))
		must(t, a.ns.Addr("eth0", netip.PrefixFrom(a.out6, 64))) // IPv6 addresses do not survive
		agree(t)
	})
	t.Run("somebody deletes our routes", func(t *testing.T) {
		for _, fam := range []string{"-4", "-6"} {
			nstest.Run(t, a.ns, "ip", fam, "route", "flush", "table", "all", "proto", protocol)
		}
		agree(t)
	})
	t.Run("somebody deletes our allowed-IPs", func(t *testing.T) {
		p := d.peer("theirs")
		nstest.Run(t, a.ns, "wg", "set", p.Device, "peer", p.PublicKey.String(), "allowed-ips", "")
		agree(t)
	})
	t.Run("somebody takes the tunnel down", func(t *testing.T) {
		nstest.Run(t, a.ns, "ip", "link", "set", d.peer("theirs").Device, "down")
		agree(t)
	})
	t.Run("SIGKILL and restart", func(t *testing.T) {
		d.kill()
		d = a.start()
		agree(t)
	})
	t.Run("reload adds, changes and removes a peer", func(t *testing.T) {
		c := l.site("third")
		g := c.wireguardFor(a)
		g.frr(a, shapeA)
		before := d.session("theirs")
		flow, err := netns.StartFlow(a.host, []netip.Addr{b.host4, b.host6}, netns.FlowOpts{Interval: 5 * time.Millisecond})
		must(t, err)

		d.reload(yaml + c.peerYAML(shapeA))
		nstest.Eventually(t, 40*time.Second, "the third site's routes", func() error {
			if !slices.Contains(d.fib(), c.lan4) || !slices.Contains(d.fib(), c.lan6) {
				return fmt.Errorf("have %v", d.fib())
			}
			return nil
		})
		reach(t, a, c)

		r := d.reload(yaml + c.peerYAML(shapeA) + "    description: changed\n")
		t.Logf("changes: %q", r.Changes)
		d.sessionsUp(2)

		d.reload(yaml)
		agree(t)
		if after := d.session("theirs"); !after.EstablishedAt.Equal(before.EstablishedAt) || after.Establishments != before.Establishments {
			t.Errorf("the session of a peer that did not change was disturbed: established %v, then %v", before.EstablishedAt, after.EstablishedAt)
		}
		for _, r := range flow.Stop(time.Second) {
			if r.Lost() != 0 {
				t.Errorf("reloads of another peer lost packets: %s", r)
			}
		}
	})
	t.Run("a reload that fails changes nothing", func(t *testing.T) {
		d.write(yaml + "no_such_key: 1\n")
		var r gateway.Reload
		err := d.request("POST", "/v1/reload", &r)
		if err == nil {
			t.Fatal("a configuration with an unknown key was accepted")
		}
		t.Log(err)
		agree(t)
	})
}
