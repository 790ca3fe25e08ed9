package netns_test

import (
	"net/netip"
	"strings"
	"testing"
	"time"

	"sitewire/topologies/netns"
	"sitewire/topologies/netns/nstest"
)

// Addresses of the cable that pair makes.
var (
	left4, right4 = netip.MustParseAddr("198.18.0.1"), netip.MustParseAddr("198.18.0.2")
	left6, right6 = netip.MustParseAddr("2001:db8::1"), netip.MustParseAddr("2001:db8::2")
	leftLL        = netip.MustParseAddr("fe80::1%wan0")
	rightLL       = netip.MustParseAddr("fe80::2%wan0")
)

func pair(t *testing.T) (left, right *netns.NS) {
	t.Helper()
	left, right = nstest.NS(t, "left"), nstest.NS(t, "right")
	err := netns.Link(left, "wan0", right, "wan0", netns.LinkOpts{
		AddrsA: []netip.Prefix{prefix("198.18.0.1/24"), prefix("2001:db8::1/64"), prefix("fe80::1/64")},
		AddrsB: []netip.Prefix{prefix("198.18.0.2/24"), prefix("2001:db8::2/64"), prefix("fe80::2/64")},
	})
	if err != nil {
		t.Fatal(err)
	}
	return left, right
}

func ping(t *testing.T, from *netns.NS, src, dst netip.Addr, o netns.PingOpts) (lost int) {
	t.Helper()
	sent, got, err := netns.Ping(t.Context(), from, src, dst, o)
	if err != nil {
		t.Error(err)
	}
	if sent != max(o.Count, 1) {
		t.Errorf("ping %s sent %d packets, want %d", dst, sent, o.Count)
	}
	return sent - got
}

func TestPing(t *testing.T) {
	left, _ := pair(t)
	for _, c := range []struct{ src, dst netip.Addr }{
		{netip.Addr{}, right4}, {left4, right4}, {netip.Addr{}, right6}, {left6, right6}, {netip.Addr{}, rightLL}, {leftLL, rightLL},
	} {
		if lost := ping(t, left, c.src, c.dst, netns.PingOpts{Count: 3, Interval: time.Millisecond}); lost != 0 {
			t.Errorf("ping %s from %v lost %d of 3", c.dst, c.src, lost)
		}
	}
	nobody := netip.MustParseAddr("198.18.0.77")
	if lost := ping(t, left, netip.Addr{}, nobody, netns.PingOpts{Timeout: 50 * time.Millisecond}); lost != 1 {
		t.Errorf("somebody answered for %s", nobody)
	}
	if _, _, err := netns.Ping(t.Context(), left, netip.Addr{}, netip.MustParseAddr("203.0.113.1"), netns.PingOpts{}); err == nil ||
		!strings.Contains(err.Error(), "unreachable") {
		t.Errorf("ping without a route returned %v", err)
	}
}

func TestFaults(t *testing.T) {
	left, right := pair(t)
	one := netns.PingOpts{Timeout: 100 * time.Millisecond}
	many := netns.PingOpts{Count: 300, Interval: time.Millisecond, Timeout: 100 * time.Millisecond}
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	// Get ARP out of the way: a lost request is repeated only after a second.
	if lost := ping(t, left, left4, right4, one); lost != 0 {
		t.Fatal("the cable is dead before any fault")
	}
	must(left.Loss("wan0", netns.Out, 50))
	if lost := ping(t, left, left4, right4, many); lost < 90 || lost > 210 {
		t.Errorf("50 %% loss lost %d of 300", lost)
	}
	// The next fault takes the place of the last.
	must(left.Loss("wan0", netns.Out, 0))
	if lost := ping(t, left, left4, right4, many); lost != 0 {
		t.Errorf("no loss lost %d of 300", lost)
	}
	must(left.Hole("wan0", netns.Out, 1280))
	if small, big := ping(t, left, left6, right6, netns.PingOpts{Size: 1200, Timeout: 100 * time.Millisecond}),
		ping(t, left, left6, right6, netns.PingOpts{Size: 1300, Timeout: 100 * time.Millisecond}); small != 0 || big != 1 {
		t.Errorf("the MTU hole lost %d small and %d big packets, want 0 and 1", small, big)
	}
	must(left.Heal("wan0"))

	// One way only: left's packets arrive, the answers do not.
	must(left.Cut("wan0", netns.In))
	before := received(t, right)
	if lost := ping(t, left, left4, right4, one); lost != 1 {
		t.Error("an answer came through the cut")
	}
	if received(t, right) == before {
		t.Error("the packet did not arrive at the side that was not cut")
	}
	must(left.Heal("wan0"))
	if lost := ping(t, left, left4, right4, one); lost != 0 {
		t.Error("healing did not help")
	}
	must(left.Heal("wan0"))

	must(right.Down("wan0"))
	if lost := ping(t, left, left4, right4, one); lost != 1 {
		t.Error("an answer came from a device that is down")
	}
	if err := left.Cut("nowhere", netns.Both); err == nil || !strings.Contains(err.Error(), "left/nowhere") {
		t.Errorf("cutting a missing device returned %v", err)
	}
}

func received(t *testing.T, n *netns.NS) uint64 {
	t.Helper()
	l, err := n.Netlink().LinkByName("wan0")
	if err != nil {
		t.Fatal(err)
	}
	return l.Attrs().Statistics.RxPackets
}

func TestFlowFindsTheGap(t *testing.T) {
	left, right := pair(t)
	echo, err := netns.Echo(right, 7)
	if err != nil {
		t.Fatal(err)
	}
	defer echo.Close()
	for _, c := range []struct {
		name string
		port uint16
		dsts []netip.Addr
	}{
		{"icmp", 0, []netip.Addr{right4, right6, rightLL}},
		{"udp", 7, []netip.Addr{right4, right6, rightLL}},
	} {
		t.Run(c.name, func(t *testing.T) {
			flow, err := netns.StartFlow(left, c.dsts, netns.FlowOpts{Interval: 2 * time.Millisecond, Port: c.port})
			if err != nil {
				t.Fatal(err)
			}
			until := func(what string, more int, count func(netns.Report) int) {
				t.Helper()
				start := flow.Reports()
				nstest.Eventually(t, 10*time.Second, what, func() error {
					for i, r := range flow.Reports() {
						if count(r)-count(start[i]) < more {
							return errorString(r.String())
						}
					}
					return nil
				})
			}
			until("answers", 20, func(r netns.Report) int { return r.Received })
			if err := right.Cut("wan0", netns.In); err != nil {
				t.Fatal(err)
			}
			until("packets into the cut", 30, func(r netns.Report) int { return r.Sent })
			if err := right.Heal("wan0"); err != nil {
				t.Fatal(err)
			}
			until("answers again", 20, func(r netns.Report) int { return r.Received })
			for _, r := range flow.Stop(time.Second) {
				if len(r.Gaps) != 1 || r.Gaps[0].Count < 20 || r.Gaps[0].Count != r.Lost() || r.Duplicates != 0 || r.Refused != 0 {
					t.Errorf("want one gap of 20 packets or more and nothing else: %s", r)
				}
				if g := r.Gaps; len(g) == 1 && (g[0].Span <= 0 || g[0].First < 20) {
					t.Errorf("gap %+v", g[0])
				}
			}
		})
	}
}

func TestFlowWithoutLoss(t *testing.T) {
	left, right := pair(t)
	if err := right.Addr("lo", prefix("198.18.9.9/32")); err != nil {
		t.Fatal(err)
	}
	far := netip.MustParseAddr("198.18.9.9")
	if err := left.Route(prefix("198.18.9.9/32"), right4, ""); err != nil {
		t.Fatal(err)
	}
	echo, err := netns.Echo(right, 7)
	if err != nil {
		t.Fatal(err)
	}
	defer echo.Close()
	// Connected, the socket takes answers only from the address that was asked.
	out := nstest.Run(t, left, "bash", "-c", "exec 3<>/dev/udp/198.18.9.9/7; echo hello >&3; timeout 5 head -n1 <&3")
	if out != "hello\n" {
		t.Errorf("the echo from a second address is %q", out)
	}
	flow, err := netns.StartFlow(left, []netip.Addr{right4, far}, netns.FlowOpts{Src: left4, Interval: time.Millisecond, Count: 200, Port: 7})
	if err != nil {
		t.Fatal(err)
	}
	select {
	case <-flow.Complete():
	case <-time.After(10 * time.Second):
	}
	for _, r := range flow.Stop(0) {
		if r.Sent != 200 || r.Lost() != 0 || len(r.Gaps) != 0 || r.MaxRTT <= 0 {
			t.Error(r)
		}
	}
}

func TestSwitchAndRoutes(t *testing.T) {
	sw := nstest.NS(t, "switch")
	if err := netns.Bridge(sw, "br0"); err != nil {
		t.Fatal(err)
	}
	names := []string{"fra", "nyc", "a-site-with-a-long-name"}
	var sites []*netns.NS
	for i, name := range names {
		s := nstest.NS(t, name)
		p := netip.PrefixFrom(netip.AddrFrom4([4]byte{198, 18, 1, byte(i + 1)}), 24)
		if err := netns.Attach(sw, "br0", s, "wan0", netns.LinkOpts{MTU: 1400, AddrsA: []netip.Prefix{p}}); err != nil {
			t.Fatal(err)
		}
		sites = append(sites, s)
	}
	fra, nyc := sites[0], sites[1]
	for i := range sites {
		dst := netip.AddrFrom4([4]byte{198, 18, 1, byte(i + 1)})
		if lost := ping(t, fra, netip.Addr{}, dst, netns.PingOpts{}); lost != 0 {
			t.Errorf("fra does not reach %s", names[i])
		}
	}
	if err := sw.Cut(netns.PortName(nyc, "wan0"), netns.Both); err != nil {
		t.Fatal(err)
	}
	nycAddr := netip.MustParseAddr("198.18.1.2")
	if lost := ping(t, fra, netip.Addr{}, nycAddr, netns.PingOpts{Timeout: 50 * time.Millisecond}); lost != 1 {
		t.Error("the port that was cut answers")
	}

	// Routes of every shape, read back with ip(8).
	v6via := netip.MustParseAddr("fe80::99")
	for _, c := range []struct {
		dst  string
		via  netip.Addr
		dev  string
		want string
	}{
		{"10.1.0.0/16", nycAddr, "", "10.1.0.0/16 via 198.18.1.2 dev wan0"},
		{"10.2.0.0/16", netip.Addr{}, "wan0", "10.2.0.0/16 dev wan0"},
		{"10.3.0.0/16", v6via, "wan0", "10.3.0.0/16 via inet6 fe80::99 dev wan0"},
		{"10.4.0.0/16", netip.MustParseAddr("203.0.113.1"), "wan0", "10.4.0.0/16 via 203.0.113.1 dev wan0"},
		{"2001:db8:5::/48", v6via, "wan0", "2001:db8:5::/48 via fe80::99 dev wan0"},
	} {
		dst := prefix(c.dst)
		for range 2 { // adding twice is adding
			if err := fra.Route(dst, c.via, c.dev); err != nil {
				t.Fatal(err)
			}
		}
		show := func() string {
			family := "-4"
			if dst.Addr().Is6() {
				family = "-6"
			}
			return nstest.Run(t, fra, "ip", family, "route", "show", c.dst)
		}
		if got := show(); !strings.HasPrefix(got, c.want) {
			t.Errorf("the kernel has %q, want %q", got, c.want)
		}
		if err := fra.DelRoute(dst, c.via, c.dev); err != nil {
			t.Error(err)
		}
		if got := show(); got != "" {
			t.Errorf("still there: %q", got)
		}
	}
	if err := fra.DelAddr("wan0", prefix("198.18.1.1/24"), prefix("198.18.1.1/24")); err != nil {
		t.Error(err)
	}
	if err := fra.MTU("wan0", 1300); err != nil {
		t.Error(err)
	}
	if got := nstest.Run(t, fra, "ip", "-4", "addr", "show", "wan0"); got != "" {
		t.Errorf("addresses left on wan0: %s", got)
	}
	if got := nstest.Run(t, fra, "ip", "link", "show", "wan0"); !strings.Contains(got, "mtu 1300") {
		t.Errorf("wan0 is %s", got)
	}
}

type errorString string

func (e errorString) Error() string { return string(e) }
