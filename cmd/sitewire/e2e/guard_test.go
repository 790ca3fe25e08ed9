package e2e

import (
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"sitewire/gateway"
	"sitewire/topologies/netns"
	"sitewire/topologies/netns/nstest"
)

// listener counts the UDP datagrams that reach a host, by source address.
type listener struct {
	conn *net.UDPConn
	got  atomic.Int64
}

func listen(t testing.TB, n *netns.NS, port int) *listener {
	t.Helper()
	l := &listener{}
	must(t, n.Do(func() (err error) {
		l.conn, err = net.ListenUDP("udp4", &net.UDPAddr{Port: port})
		return err
	}))
	t.Cleanup(func() { l.conn.Close() })
	go func() {
		buf := make([]byte, 2048)
		for {
			if _, _, err := l.conn.ReadFromUDP(buf); err != nil {
				return
			}
			l.got.Add(1)
		}
	}()
	return l
}

// send sends datagrams from src to dst.
func send(t testing.TB, n *netns.NS, src, dst netip.Addr, port, count int) {
	t.Helper()
	var c *net.UDPConn
	must(t, n.Do(func() (err error) {
		c, err = net.DialUDP("udp4", net.UDPAddrFromAddrPort(netip.AddrPortFrom(src, 0)), net.UDPAddrFromAddrPort(netip.AddrPortFrom(dst, uint16(port))))
		return err
	}))
	defer c.Close()
	for range count {
		_, err := c.Write([]byte("sitewire"))
		must(t, err)
	}
}

// TestSourceFilter: RFC 3704 section 2.3 at the edge of a tunnel. A source that a learned peer never announced is dropped
// inbound; once announced it passes; meanwhile no packet of an announced prefix is lost.
func TestSourceFilter(t *testing.T) {
	l := newLab(t)
	a, b := l.site("ours"), l.site("theirs")
	f := b.wireguard(a)
	f.bird(a, shapeA, "protocol static late { disabled; ipv4; route 10.99.0.0/24 unreachable; }")
	d := a.run(a.head() + "bgp: { hold_time: 9s, keepalive: 3s }\npeers:\n" + b.peerYAML(shapeA))
	d.sessionsUp(1)
	reach(t, b, a)

	unannounced := netip.MustParsePrefix("10.99.0.1/32")
	must(t, b.ns.Addr("lo", unannounced))
	in := listen(t, a.host, 9)
	flow, err := netns.StartFlow(b.host, []netip.Addr{a.host4, a.host6}, netns.FlowOpts{Interval: 2 * time.Millisecond})
	must(t, err)

	send(t, b.ns, unannounced.Addr(), a.host4, 9, 50)
	time.Sleep(300 * time.Millisecond) // packets that would pass have long arrived
	if n := in.got.Load(); n != 0 {
		t.Fatalf("%d of 50 datagrams passed from a source that was never announced", n)
	}
	f.birdc("enable", "late")
	nstest.Eventually(t, 10*time.Second, "datagrams from the announced source to pass", func() error {
		send(t, b.ns, unannounced.Addr(), a.host4, 9, 1)
		if in.got.Load() == 0 {
			return errNotYet
		}
		return nil
	})
	f.birdc("disable", "late")
	nstest.Eventually(t, 10*time.Second, "the withdrawn source to be dropped again", func() error {
		before := in.got.Load()
		send(t, b.ns, unannounced.Addr(), a.host4, 9, 20)
		time.Sleep(100 * time.Millisecond)
		if n := in.got.Load() - before; n != 0 {
			return fmt.Errorf("%d of 20 passed", n)
		}
		return nil
	})
	for _, r := range flow.Stop(time.Second) {
		if r.Lost() != 0 {
			t.Errorf("announced prefix: %s", r)
		}
	}
}

// TestEndpointGuard: neither a prefix that covers the tunnel's endpoint nor a default route loops the tunnel into
// itself, whether policy refuses the default route or asks for it.
func TestEndpointGuard(t *testing.T) {
	for _, allow := range []bool{false, true} {
		t.Run(fmt.Sprintf("allow_default=%v", allow), func(t *testing.T) {
			l := newLab(t)
			a, b := l.site("ours"), l.site("theirs")
			f := b.wireguard(a)
			f.bird(a, shapeA, `protocol static evil4 { disabled; ipv4; route 0.0.0.0/0 unreachable; route 198.18.0.0/24 unreachable; route 198.18.0.2/32 unreachable; }
protocol static evil6 { disabled; ipv6; route ::/0 unreachable; route 2001:db8::/64 unreachable; }`)
			// A far-away underlay: the endpoint is reached by main's default route, which a learned one would beat.
			policy := "full"
			yaml := a.head() + "bgp: { hold_time: 9s, keepalive: 3s }\n"
			if allow {
				policy = "transit"
				yaml += "policies: { transit: { extends: full, allow_default: true } }\n"
			} else {
				policy = "cautious"
				yaml += "policies: { cautious: { extends: full, allow_default: false } }\n"
			}
			d := a.run(yaml + "peers:\n" + strings.Replace(b.peerYAML(shapeA), "policy: full", "policy: "+policy, 1))
			d.sessionsUp(1)
			reach(t, a, b)
			flow, err := netns.StartFlow(a.host, []netip.Addr{b.host4, b.host6}, netns.FlowOpts{Interval: 5 * time.Millisecond})
			must(t, err)
			before := d.peer("theirs").TransmitBytes
			f.birdc("enable", "evil4")
			f.birdc("enable", "evil6")

			want := []string{"198.18.0.0/24 covers_endpoint", "198.18.0.2/32 covers_endpoint"}
			if !allow {
				want = append(want, "0.0.0.0/0 default_route", "::/0 default_route")
			}
			nstest.Eventually(t, 10*time.Second, "the refusals", func() error {
				var rs gateway.Routes
				must(t, d.get("/v1/routes?rejected=1", &rs))
				var got []string
				for _, r := range rs.Routes {
					for _, p := range r.Paths {
						if p.Rejected != "" {
							got = append(got, r.Prefix.String()+" "+p.Rejected)
						}
					}
				}
				for _, w := range want {
					if !slices.Contains(got, w) {
						return fmt.Errorf("%q is not among %q", w, got)
					}
				}
				return nil
			})
			if allow {
				nstest.Eventually(t, 10*time.Second, "the default routes", func() error {
					for _, p := range []string{"0.0.0.0/0", "::/0"} {
						if !slices.Contains(d.fib(), netip.MustParsePrefix(p)) {
							return fmt.Errorf("%s is not in %v", p, d.fib())
						}
					}
					return nil
				})
			}
			time.Sleep(time.Second) // a loop would make traffic now
			for _, r := range flow.Stop(time.Second) {
				if r.Lost() != 0 {
					t.Errorf("lost packets: %s", r)
				}
			}
			// 200 pings/s each way of about 130 bytes for a few seconds; a loop makes megabytes in no time.
			if sent := d.peer("theirs").TransmitBytes - before; sent > 1<<20 {
				t.Errorf("%d bytes left through the tunnel: a loop", sent)
			}
			d.sessionsUp(1)
		})
	}
}
