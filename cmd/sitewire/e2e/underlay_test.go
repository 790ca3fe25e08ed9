package e2e

import (
	"fmt"
	"net/netip"
	"testing"
	"time"

	"sitewire/gateway/wg"
	"sitewire/topologies/netns"
	"sitewire/topologies/netns/nstest"
)

// TestFollowsUnderlay: when the underlay gets smaller, full packets still leave in one piece; when the tunnel goes silent and there
// is another way out, with another source address, it is taken.
func TestFollowsUnderlay(t *testing.T) {
	nstest.Need(t, nstest.Program("nft"))
	l := newLab(t)
	a, b := l.site("ours"), l.site("theirs")
	d := a.run(a.head() + quickTimers + "peers:\n" + b.gatewayYAML(a))
	e := b.run(b.head() + quickTimers + "peers:\n" + a.gatewayYAML(b))
	d.sessionsUp(1)
	e.sessionsUp(1)
	reach(t, a, b)

	// 1397 is no multiple of 16: WireGuard pads a packet of that size up to the MTU that it knows, or up to 1408.
	const inner, outer = 1397, 1397 + 60
	for _, s := range []*site{a, b} {
		must(t, s.ns.MTU("eth0", outer))
	}
	nstest.Eventually(t, 40*time.Second, "the tunnel's MTU", func() error {
		if x, y := d.peer("theirs").MTU, e.peer("ours").MTU; x != inner || y != inner {
			return fmt.Errorf("%d and %d, want %d", x, y, inner)
		}
		return nil
	})
	before := nstest.FragmentsCreated(t, a.ns)
	sent, got, err := netns.Ping(t.Context(), a.ns, a.lan4.Addr().Next(), b.host4, netns.PingOpts{Count: 5, Size: inner - 28})
	if err != nil || got != sent {
		t.Errorf("%d of %d full packets answered, %v", got, sent, err)
	}
	if after := nstest.FragmentsCreated(t, a.ns); after != before {
		t.Errorf("full packets were fragmented: %s fragments before, %s after", before, after)
	}

	// The second uplink is the way from now on. Its provider takes no packets from addresses of another one (RFC 2827), which nothing
	// but silence tells.
	second := netip.MustParseAddr("198.18.0.201")
	must(t, netns.Attach(l.sw, "br0", a.ns, "eth1", netns.LinkOpts{AddrsA: []netip.Prefix{netip.PrefixFrom(second, 24)}}))
	must(t, a.ns.Route(netip.PrefixFrom(b.out4, 32), netip.Addr{}, "eth1"))
	must(t, a.ns.Cut("eth0", netns.Both))
	nstest.Run(t, l.sw, "nft", fmt.Sprintf(`table netdev provider {
	chain from { type filter hook ingress device %[1]q priority 0; ip saddr != %[2]s drop; }
	chain to { type filter hook egress device %[1]q priority 0; ip daddr != %[2]s drop; }
}`, netns.PortName(a.ns, "eth1"), second))
	begin := time.Now()
	nstest.Eventually(t, time.Minute, "the other gateway to see the new address", func() error {
		p := e.peer("ours")
		if p.Endpoint.Addr() != second || p.State != wg.TunnelUp {
			return fmt.Errorf("%s from %s", p.State, p.Endpoint)
		}
		return nil
	})
	t.Logf("moved to the other uplink in %v", time.Since(begin).Round(100*time.Millisecond))
	d.sessionsUp(1)
	reach(t, a, b)
}
