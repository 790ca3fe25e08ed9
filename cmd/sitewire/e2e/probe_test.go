package e2e

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"sitewire/gateway"
	"sitewire/topologies/netns"
	"sitewire/topologies/netns/nstest"
)

// TestProbes: echoes through two real tunnels, to another gateway and to a wireguard-go that knows nothing of us, tell
// loss, silence and a hole in the path each for its own tunnel, in the API and in the metrics.
func TestProbes(t *testing.T) {
	l := newLab(t)
	a, b, c := l.site("ours"), l.site("theirs"), l.site("foreign")
	// WireGuard pads 1328 bytes to nothing more, and adds 60 over IPv4.
	const fits, hole = 1328, 1388
	must(t, b.ns.Hole("eth0", netns.In, hole))
	c.wireguard(a)
	b.run(b.head() + quickTimers + "probe: { interval: off }\npeers:\n" + a.gatewayYAML(b))
	d := a.run(a.head() + quickTimers + "probe: { interval: 1s, timeout: 1s, mtu: true }\npeers:\n" + b.gatewayYAML(a) + c.peerYAML(shapeB))

	series := func(format, peer string) string { return fmt.Sprintf("sitewire_tunnel_"+format, peer) }
	var first string
	nstest.Eventually(t, 10*time.Second, "the first series", func() error {
		body, err := fetch(t.Context(), a.ns, "http://"+metricsAddress+"/metrics")
		if first = string(body); err == nil && !strings.Contains(first, "sitewire_tunnel_probes_sent_total") {
			return errNotYet
		}
		return err
	})
	for _, peer := range []string{"theirs", "foreign"} {
		for _, s := range []string{"probes_sent_total{peer=%q} ", "probes_lost_total{peer=%q} ", "path_mtu_bytes{peer=%q} ", "probe_rtt_seconds_count{peer=%q} "} {
			if !strings.Contains(first, series(s, peer)) {
				t.Errorf("no %s from the start", series(s, peer))
			}
		}
	}

	nstest.Eventually(t, 10*time.Second, "both peers", func() error {
		var ps gateway.Peers
		if err := d.get("/v1/peers", &ps); err != nil || len(ps.Peers) < 2 {
			return errNotYet
		}
		return nil
	})

	// Echoes are answered, and none of the two is lost because of the hole.
	for _, peer := range []string{"theirs", "foreign"} {
		nstest.Eventually(t, 30*time.Second, "answers of "+peer, func() error {
			if p := d.peer(peer).Probe; p == nil || p.Recent < 5 || p.RTT == 0 || p.Lost > p.Sent/2 {
				return fmt.Errorf("%+v", p)
			}
			return nil
		})
	}
	nstest.Eventually(t, 2*time.Minute, "the search for the hole", func() error {
		for peer, want := range map[string]int{"theirs": fits, "foreign": 1420} {
			if p := d.peer(peer).Probe; p.PathMTU != want {
				return fmt.Errorf("path MTU of %s is %d, want %d", peer, p.PathMTU, want)
			}
		}
		return nil
	})
	if err := d.problem("theirs", "packets over 1328 bytes do not get through"); err != nil {
		t.Error(err)
	}
	text := scrape(t, a.ns)
	for peer, want := range map[string]int{"theirs": fits, "foreign": 1420} {
		if line := series("path_mtu_bytes{peer=%q}", peer) + fmt.Sprint(" ", want, "\n"); !strings.Contains(text, line) {
			t.Errorf("the metrics lack %s", line)
		}
	}

	// One answer of five is lost on its way out of the tunnel.
	nstest.Run(t, a.ns, "nft", `table netdev loss {
		chain in { type filter hook ingress device "wg-foreign" priority 0; icmpv6 type echo-reply numgen inc mod 5 0 drop; }
	}`)
	loss := func(peer string, echoes uint64) (lost, sent uint64) {
		before := d.peer(peer).Probe
		nstest.Eventually(t, time.Minute, "echoes to "+peer, func() error {
			if now := d.peer(peer).Probe; now.Sent < before.Sent+echoes {
				return errNotYet
			}
			return nil
		})
		now := d.peer(peer).Probe
		return now.Lost - before.Lost, now.Sent - before.Sent
	}
	if lost, sent := loss("foreign", 20); lost < 3 || lost > 6 {
		t.Errorf("%d of %d echoes lost, where one of five is dropped", lost, sent)
	}
	if p := d.peer("theirs").Probe; p.RecentLost > 3 {
		t.Errorf("the other tunnel loses too: %+v", p)
	}

	// Silence.
	must(t, c.ns.Cut("eth0", netns.Both))
	time.Sleep(2 * time.Second)
	if lost, sent := loss("foreign", 6); lost != sent {
		t.Errorf("%d of %d echoes lost in silence", lost, sent)
	}
	if err := d.problem("foreign", "echoes through the tunnel were lost"); err != nil {
		t.Error(err)
	}
}

// problem is an error unless the status names this problem of a peer.
func (d *daemon) problem(subject, what string) error {
	var st gateway.Status
	if err := d.get("/v1/status", &st); err != nil {
		return err
	}
	for _, p := range st.Problems {
		if p.Subject == subject && strings.Contains(p.What, what) {
			return nil
		}
	}
	return fmt.Errorf("no problem of %s with %q among %+v", subject, what, st.Problems)
}
