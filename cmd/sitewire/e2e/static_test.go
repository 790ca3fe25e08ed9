package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"sitewire/topologies/netns"
	"sitewire/topologies/netns/nstest"
	"sitewire/topologies/netns/peers"
)

// quickTimers are for tests of death: as short as BGP allows.
const quickTimers = "bgp: { hold_time: 3s, keepalive: 1s, connect_retry: 2s }\n"

// deadAfter is the silence after which the tunnels of these tests count as dead; every end sends each second.
const deadAfter = 5 * time.Second

// gatewayYAML is what the site at has in its file for s, if both run sitewire: the inner addresses follow from the keys.
func (s *site) gatewayYAML(at *site) string {
	return fmt.Sprintf(`  %s:
    public_key: %s
    endpoint: "%s:%d"
    listen_port: %d
    asn: %d
    policy: full
    keepalive: 1s
    dead_after: %s
`, s.name, s.pub(), s.out4, at.portAtPeer(), s.portAtPeer(), s.asn, deadAfter)
}

// TestStaticSite: a LAN router behind one gateway learns what lies behind all tunnels, and what it announces is known at
// the other sites. A site without BGP is announced while its tunnel lives, and only then.
//
//	deep --- FRR --- hq ===== office --- host
//	                  \\===== shop --- host        (shop: WireGuard only)
func TestStaticSite(t *testing.T) {
	l := newLab(t)
	hq, office, shop := l.site("hq"), l.site("office"), l.site("shop")
	plain := shop.wireguard(hq)
	for _, p := range []string{"0.0.0.0/0", "::/0"} {
		must(t, shop.ns.Route(netip.MustParsePrefix(p), netip.Addr{}, "wg0"))
	}
	core := lanRouter(t, hq)
	hq.run(hq.head() + quickTimers + "peers:\n" + office.gatewayYAML(hq) + fmt.Sprintf(`  shop:
    public_key: %s
    endpoint: "%s:51820"
    listen_port: %d
    keepalive: 1s
    dead_after: %s
    allowed_ips: [%s, %s]
neighbours:
  core-v4: { address: %s, asn: %d, policy: lan }
  core-v6: { address: %s, asn: %[8]d, policy: lan }
`, shop.pub(), shop.out4, shop.portAtPeer(), deadAfter, shop.lan4, shop.lan6, hq.host4, core.asn, hq.host6))
	d := office.run(office.head() + quickTimers + "peers:\n" + hq.gatewayYAML(office))
	d.sessionsUp(1)

	// The router learned the site's own prefixes, the office's and the shop's; the office those of hq, the router and the shop.
	atCore := sorted([]netip.Prefix{hq.lan4, hq.lan6, office.lan4, office.lan6, shop.lan4, shop.lan6})
	atOffice := sorted([]netip.Prefix{hq.lan4, hq.lan6, core.deep4, core.deep6, shop.lan4, shop.lan6})
	withoutShop := func(ps []netip.Prefix) (out []netip.Prefix) {
		for _, p := range ps {
			if p != shop.lan4 && p != shop.lan6 {
				out = append(out, p)
			}
		}
		return out
	}
	agree := func(what string, limit time.Duration, atCore, atOffice []netip.Prefix) time.Duration {
		t.Helper()
		begin := time.Now()
		nstest.Eventually(t, limit, what, func() error {
			got, err := core.learned()
			if err != nil {
				return err
			}
			if err := equalPrefixes(t, "the LAN router", got, atCore); err != nil {
				return err
			}
			return equalPrefixes(t, "the office's kernel", d.fib(), atOffice)
		})
		return time.Since(begin)
	}
	everywhere := func() {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
		defer cancel()
		for _, x := range []struct {
			from     *netns.NS
			src, dst netip.Addr
		}{
			{office.host, office.host4, shop.host4}, {office.host, office.host6, shop.host6},
			{office.host, office.host4, core.host4}, {office.host, office.host6, core.host6},
			{core.host, core.host4, shop.host4}, {core.host, core.host6, shop.host6},
			{shop.host, shop.host4, office.host4}, {shop.host, shop.host6, core.host6},
		} {
			if err := netns.Reach(ctx, x.from, x.src, x.dst); err != nil {
				t.Fatal(err)
			}
		}
	}
	agree("everybody to know everything", 60*time.Second, atCore, atOffice)
	everywhere()

	flow, err := netns.StartFlow(core.host, []netip.Addr{office.host4, office.host6}, netns.FlowOpts{Interval: 10 * time.Millisecond})
	must(t, err)
	must(t, plain.wg.Kill())
	took := agree("the dead site to be withdrawn at the LAN router and at the office", 3*deadAfter, withoutShop(atCore), withoutShop(atOffice))
	t.Logf("withdrawn everywhere %v after the death of a site without BGP, with dead_after %v", took.Round(time.Millisecond), deadAfter)
	if took < deadAfter-2*time.Second {
		t.Errorf("withdrawn after only %v: nobody was silent for that long", took)
	}
	unreachable(t, office.host, office.host4, shop.host4)

	// What a killed wireguard-go leaves would pass for the new one's.
	must(t, os.Remove(filepath.Join(shop.ns.RunDir(), "wireguard", "wg0.sock")))
	shop.wireguard(hq)
	for _, p := range []string{"0.0.0.0/0", "::/0"} {
		must(t, shop.ns.Route(netip.MustParsePrefix(p), netip.Addr{}, "wg0"))
	}
	took = agree("the site that came back to be announced again", 60*time.Second, atCore, atOffice)
	t.Logf("announced everywhere %v after the site came back", took.Round(time.Millisecond))
	everywhere()
	for _, r := range flow.Stop(time.Second) {
		if r.Lost() != 0 {
			t.Errorf("the death of one site cost another one packets: %s", r)
		}
	}
}

// lan is a router on the LAN of a site, running FRR, and one host behind it.
type lan struct {
	asn          uint32
	host         *netns.NS
	host4, host6 netip.Addr
	deep4, deep6 netip.Prefix
	learned      func() ([]netip.Prefix, error)
}

// lanRouter makes the host on the LAN of s a router that knows no way but those that BGP tells it.
func lanRouter(t testing.TB, s *site) *lan {
	t.Helper()
	nstest.Need(t, nstest.Program("bgpd"), nstest.Program("zebra"), nstest.Program("vtysh"))
	r := &lan{
		asn: 65000, host: nstest.NS(t, "deep"),
		host4: netip.MustParseAddr("10.101.0.2"), host6: netip.MustParseAddr("fd00:101::2"),
		deep4: netip.MustParsePrefix("10.101.0.0/24"), deep6: netip.MustParsePrefix("fd00:101::/64"),
	}
	router4, router6 := s.lan4.Addr().Next(), s.lan6.Addr().Next()
	deep4, deep6 := r.deep4.Addr().Next(), r.deep6.Addr().Next()
	must(t, s.host.DelRoute(netip.MustParsePrefix("0.0.0.0/0"), router4, "lan0"))
	must(t, s.host.DelRoute(netip.MustParsePrefix("::/0"), router6, "lan0"))
	must(t, s.host.Forward())
	must(t, netns.Link(s.host, "deep0", r.host, "deep0", netns.LinkOpts{
		AddrsA: []netip.Prefix{netip.PrefixFrom(deep4, 24), netip.PrefixFrom(deep6, 64)},
		AddrsB: []netip.Prefix{netip.PrefixFrom(r.host4, 24), netip.PrefixFrom(r.host6, 64)},
	}))
	must(t, r.host.Route(netip.MustParsePrefix("0.0.0.0/0"), deep4, "deep0"))
	must(t, r.host.Route(netip.MustParsePrefix("::/0"), deep6, "deep0"))

	var c strings.Builder
	fmt.Fprintf(&c, "router bgp %d\n bgp router-id %s\n no bgp ebgp-requires-policy\n no bgp default ipv4-unicast\n", r.asn, s.host4)
	for _, a := range []netip.Addr{router4, router6} {
		fmt.Fprintf(&c, " neighbor %s remote-as %d\n neighbor %[1]s timers 1 3\n neighbor %[1]s timers connect 1\n neighbor %[1]s advertisement-interval 0\n", a, s.asn)
	}
	fmt.Fprintf(&c, " address-family ipv4 unicast\n  network %s\n  neighbor %s activate\n exit-address-family\n", r.deep4, router4)
	fmt.Fprintf(&c, " address-family ipv6 unicast\n  network %s\n  neighbor %s activate\n exit-address-family\n", r.deep6, router6)
	f, err := peers.StartFRR(t.Context(), s.host, "frr", c.String())
	must(t, err)
	f.Watch(t)
	r.learned = func() ([]netip.Prefix, error) {
		var out []netip.Prefix
		for _, family := range []string{"ipv4", "ipv6"} {
			text, err := f.Vtysh(context.Background(), "show bgp "+family+" unicast json")
			if err != nil {
				return nil, err
			}
			var table struct {
				Routes map[string][]struct {
					Valid bool   `json:"valid"`
					Path  string `json:"path"`
				} `json:"routes"`
			}
			if err := json.Unmarshal([]byte(text), &table); err != nil {
				return nil, err
			}
			for p, paths := range table.Routes {
				if len(paths) > 0 && paths[0].Valid && paths[0].Path != "" {
					out = append(out, netip.MustParsePrefix(p))
				}
			}
		}
		return sorted(out), nil
	}
	return r
}
