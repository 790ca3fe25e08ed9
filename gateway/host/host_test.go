package host

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"sitewire/topologies/netns"
	"sitewire/topologies/netns/nstest"
)

func TestMain(m *testing.M) { nstest.Main(m) }

var (
	p  = netip.MustParsePrefix
	ip = netip.MustParseAddr
)

// rig is a gateway with an underlay device eth0 (192.0.2.1/24, 2001:db8::1/64, default routes through .254 and ::fe) and tunnels tun0, tun1.
type rig struct {
	*testing.T
	ns   *netns.NS
	host *Host
}

func newRig(t *testing.T) *rig {
	t.Helper()
	nstest.Need(t, nstest.TUN)
	r := &rig{T: t, ns: nstest.NS(t, "gw"), host: New(Options{})}
	err := netns.Link(r.ns, "eth0", nstest.NS(t, "isp"), "eth0", netns.LinkOpts{
		AddrsA: []netip.Prefix{p("192.0.2.1/24"), p("2001:db8::1/64")}, AddrsB: []netip.Prefix{p("192.0.2.254/24"), p("2001:db8::fe/64")},
	})
	if err != nil {
		t.Fatal(err)
	}
	r.ip("route add default via 192.0.2.254")
	r.ip("route add default via 2001:db8::fe")
	for _, name := range []string{"tun0", "tun1"} {
		tun := &netlink.Tuntap{LinkAttrs: netlink.LinkAttrs{Name: name}, Mode: netlink.TUNTAP_MODE_TUN, Queues: 1}
		if err := r.ns.Do(func() error { return netlink.LinkAdd(tun) }); err != nil {
			t.Fatal(err)
		}
		for _, fd := range tun.Fds {
			t.Cleanup(func() { fd.Close() })
		}
	}
	return r
}

// do runs a method of the host in the namespace and fails the test on an error.
func (r *rig) do(f func() error) {
	r.Helper()
	if err := r.ns.Do(f); err != nil {
		r.Fatal(err)
	}
}

func (r *rig) ip(args string) []string {
	r.Helper()
	if strings.Contains(args, "::") {
		args = "-6 " + args
	}
	return r.run("ip", strings.Fields(args)...)
}

func (r *rig) run(name string, args ...string) (lines []string) {
	r.Helper()
	for line := range strings.Lines(nstest.Run(r, r.ns, name, args...)) {
		lines = append(lines, strings.Join(strings.Fields(line), " "))
	}
	return lines
}

func (r *rig) same(what string, want, got []string) {
	r.Helper()
	if diff := cmp.Diff(want, got); diff != "" {
		r.Fatalf("%s (-want +got):\n%s", what, diff)
	}
}

// setLink sets the device twice, the second time without any event on the wire.
func (r *rig) setLink(c LinkConfig) {
	r.Helper()
	r.do(func() error { return r.host.SetLink(r.Context(), c) })
	r.quiet(func() error { return r.host.SetLink(r.Context(), c) })
}

// quiet runs f and fails if that changes links, addresses, routes or rules. The kernel changes some by itself, whenever it gets to it: duplicate
// address detection ends, the state of a link that was set up follows. What a request changed it tells with the number of the socket that
// asked; only of links and IPv6 addresses without, so for those the requests are counted.
func (r *rig) quiet(f func() error) {
	r.Helper()
	asks := func() (n uint64) {
		for request, count := range r.host.Stats().Requests {
			if slices.Contains([]string{"link_set", "address_add", "address_delete"}, request.Operation) {
				n += count
			}
		}
		return n
	}
	before := asks()
	var changed []syscall.NetlinkMessage
	r.do(func() error {
		fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_NONBLOCK, unix.NETLINK_ROUTE)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		groups := uint32(0)
		for _, g := range []int{unix.RTNLGRP_IPV4_IFADDR, unix.RTNLGRP_IPV4_ROUTE, unix.RTNLGRP_IPV6_ROUTE, unix.RTNLGRP_IPV4_RULE, unix.RTNLGRP_IPV6_RULE} {
			groups |= 1 << (g - 1)
		}
		if err := unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: groups}); err != nil {
			return err
		}
		if err := f(); err != nil {
			return err
		}
		for buf := make([]byte, 1<<16); ; {
			n, _, err := unix.Recvfrom(fd, buf, 0)
			if err == unix.EAGAIN {
				return nil
			}
			if err != nil {
				return err
			}
			msgs, err := syscall.ParseNetlinkMessage(slices.Clone(buf[:n]))
			if err != nil {
				return err
			}
			for _, m := range msgs {
				if m.Header.Pid != 0 {
					changed = append(changed, m)
				}
			}
		}
	})
	if n := asks() - before; n != 0 || len(changed) > 0 {
		r.Fatalf("doing it again changed something: %d requests about links and addresses, and %+v", n, changed)
	}
}

func (r *rig) addresses(dev string) (out []string) {
	r.Helper()
	for _, l := range r.ip("-o addr show dev " + dev) {
		f := strings.Fields(l)
		a := f[3]
		if f[4] == "peer" {
			a += " peer " + f[5]
		}
		out = append(out, a)
	}
	slices.Sort(out)
	return out
}

func TestSetLink(t *testing.T) {
	r := newRig(t)
	r.setLink(LinkConfig{Name: "tun0", MTU: 1380, Up: true, Addresses: []Address{
		{Local: p("172.20.0.1/32"), Peer: p("172.20.0.2/32")}, {Local: p("fd00::1/128"), Peer: p("fd00::2/128")}, {Local: p("fe80::5/64")}, {Local: p("10.0.0.1/24")}, {Local: p("10.0.0.2/24")},
	}})
	r.same("addresses", []string{"10.0.0.1/24", "10.0.0.2/24", "172.20.0.1 peer 172.20.0.2/32", "fd00::1 peer fd00::2/128", "fe80::5/64"}, r.addresses("tun0"))
	if l := r.ip("link show tun0")[0]; !strings.Contains(l, "mtu 1380") || !strings.Contains(l, "UP") || !strings.Contains(l, "group 21335") {
		t.Error(l)
	}
	for key, want := range map[string]string{
		"ipv4/conf/tun0/rp_filter": "0", "ipv4/conf/tun0/accept_local": "0", "ipv6/conf/tun0/accept_ra": "0", "ipv6/conf/tun0/autoconf": "0", "ipv6/conf/tun0/keep_addr_on_down": "1",
	} {
		if got := r.run("cat", "/proc/sys/net/"+key); got[0] != want {
			t.Errorf("%s is %s, want %s", key, got[0], want)
		}
	}

	// Somebody adds an address; ours change. The first of a network takes the others along when it goes.
	r.ip("addr add 198.18.0.1/32 dev tun0")
	r.setLink(LinkConfig{Name: "tun0", MTU: 1420, Up: true, AcceptLocal: true, Addresses: []Address{
		{Local: p("fd00::1/128"), Peer: p("fd00::3/128")}, {Local: p("fe80::5/64")}, {Local: p("10.0.0.2/24")},
	}})
	want := []string{"10.0.0.2/24", "198.18.0.1/32", "fd00::1 peer fd00::3/128", "fe80::5/64"}
	r.same("addresses", want, r.addresses("tun0"))

	// A new process knows what the last one set, by the protocol number; another device is not its business.
	r.ip("addr add 198.18.0.2/32 dev tun1")
	r.host = New(Options{})
	r.setLink(LinkConfig{Name: "tun0", Up: true, Addresses: []Address{{Local: p("fe80::6/64")}}})
	r.same("addresses", []string{"198.18.0.1/32", "fe80::6/64"}, r.addresses("tun0"))
	r.same("addresses", []string{"198.18.0.2/32"}, r.addresses("tun1"))

	// Addresses survive the device being down; only link-local ones need to be set again.
	last := LinkConfig{Name: "tun0", Up: true, Addresses: []Address{{Local: p("fe80::6/64")}, {Local: p("fd00::6/128")}}}
	r.setLink(last)
	if err := r.ns.Down("tun0"); err != nil {
		t.Fatal(err)
	}
	r.same("addresses when down", []string{"198.18.0.1/32", "fd00::6/128"}, r.addresses("tun0"))
	r.setLink(last)
	r.same("addresses", []string{"198.18.0.1/32", "fd00::6/128", "fe80::6/64"}, r.addresses("tun0"))

	err := r.ns.Do(func() error { return r.host.SetLink(t.Context(), LinkConfig{Name: "absent"}) })
	if _, ok := errors.AsType[netlink.LinkNotFoundError](err); !ok || !strings.Contains(err.Error(), "absent") {
		t.Errorf("absent device: %v", err)
	}
}

// TestForeignAddressStays: an address that somebody else gave the device with another length does what ours would do, and is not taken away
// for it.
func TestForeignAddressStays(t *testing.T) {
	r := newRig(t)
	r.ip("addr add fd00::1/64 dev tun0 nodad")
	r.ip("link set tun0 up")
	before := r.ip("addr show dev tun0 to fd00::1")
	c := LinkConfig{Name: "tun0", Up: true, Addresses: []Address{{Local: p("fd00::1/128"), Peer: p("fd01::2/128")}}}
	r.setLink(c)
	r.same("the address", before[1:], r.ip("addr show dev tun0 to fd00::1")[1:])
	if got := r.ip("route get fd01::2"); !strings.Contains(got[0], "dev tun0") || !strings.Contains(got[0], "src fd00::1") {
		t.Errorf("the other end is reached by %q", got)
	}
	r.ip("addr del fd00::1/64 dev tun0")
	r.setLink(c)
	if got := r.addresses("tun0"); !slices.Contains(got, "fd00::1 peer fd01::2/128") {
		t.Errorf("once it has gone the device has %q", got)
	}
}

// TestLinkLocalAppears: a device that was up before we came has an automatic link-local address; ours takes its place.
func TestLinkLocalAppears(t *testing.T) {
	r := newRig(t)
	if err := r.ns.Up("tun0"); err != nil {
		t.Fatal(err)
	}
	deadline := time.Now().Add(5 * time.Second)
	for len(r.addresses("tun0")) == 0 {
		if time.Now().After(deadline) {
			t.Fatal("no automatic address")
		}
	}
	r.setLink(LinkConfig{Name: "tun0", Up: true, Addresses: []Address{{Local: p("10.0.0.1/32")}}})
	if got := r.addresses("tun0"); len(got) != 2 {
		t.Errorf("without a configured one the automatic one stays: %v", got)
	}
	r.setLink(LinkConfig{Name: "tun0", Up: true, Addresses: []Address{{Local: p("fe80::1/64")}}})
	r.same("addresses", []string{"fe80::1/64"}, r.addresses("tun0"))
}

func TestForwarding(t *testing.T) {
	r := newRig(t)
	if err := r.ns.Sysctl("net.ipv4.conf.all.rp_filter", "2"); err != nil {
		t.Fatal(err)
	}
	var report Report
	look := func() error {
		var err error
		report, err = r.host.Forwarding(t.Context())
		return err
	}
	r.do(look)
	if len(report) != 3 || report[0].Key != "net.ipv4.ip_forward" || !strings.Contains(report[2].String(), "sysctl -w net.ipv4.conf.all.rp_filter=0") {
		t.Errorf("%v", report)
	}
	r.do(func() error { return r.host.EnableForwarding(t.Context()) })
	if r.do(look); len(report) != 0 {
		t.Errorf("still %v", report)
	}
}

// way tells through which device a packet goes.
func (r *rig) way(dst string, mark int) string {
	r.Helper()
	cmd := r.ns.Command(r.Context(), "ip", "route", "get", dst, "mark", fmt.Sprint(mark))
	out, err := cmd.CombinedOutput()
	if err != nil {
		return strings.TrimSpace(string(out))
	}
	f := strings.Fields(string(out))
	for i := range f {
		if f[i] == "dev" {
			return f[i+1]
		}
	}
	return string(out)
}

func (r *rig) goes(mark int, ways map[string]string) {
	r.Helper()
	for dst, want := range ways {
		if got := r.way(dst, mark); got != want {
			r.Errorf("to %s with mark %d: %s, want %s", dst, mark, got, want)
		}
	}
}

func (r *rig) allRules() []string {
	return append(r.run("ip", "rule"), r.run("ip", "-6", "rule")...)
}

const mark = 0x5357

// TestRulesMain: learned routes in the main table.
func TestRulesMain(t *testing.T) {
	r := newRig(t)
	r.ip("rule add priority 20000 from 203.0.113.9 lookup main")
	before := r.allRules()
	r.setLink(LinkConfig{Name: "tun0", Up: true})
	set := func() error {
		return r.host.SetRules(t.Context(), RulesConfig{Mark: mark, Table: 254, Priority: 20763})
	}
	r.do(set)
	r.quiet(set)
	for _, family := range []string{"-4", "-6"} {
		var got []string
		for _, l := range r.run("ip", family, "rule") {
			if strings.HasPrefix(l, "207") {
				got = append(got, l)
			}
		}
		r.same("rules", []string{
			"20763: from all fwmark 0x5357 lookup main suppress_ifgroup 21335 proto 83", "20764: from all fwmark 0x5357 lookup 21335 proto 83", "20765: from all fwmark 0x5357 unreachable proto 83",
		}, got)
	}

	// Routes through the tunnel that cover endpoints, and both default routes.
	for _, route := range []string{"198.51.100.0/24", "0.0.0.0/1", "128.0.0.0/1", "2001:db8:f::/48", "2000::/3"} {
		r.ip("route add " + route + " dev tun0 proto 83 metric 512")
	}
	r.goes(0, map[string]string{"198.51.100.7": "tun0", "8.8.8.8": "tun0", "2001:db8:f::7": "tun0", "2001:4860::8": "tun0", "192.0.2.9": "eth0"})
	r.goes(mark, map[string]string{"198.51.100.7": "eth0", "8.8.8.8": "eth0", "2001:db8:f::7": "eth0", "2001:4860::8": "eth0", "192.0.2.9": "eth0"})

	// A better learned default route.
	r.ip("route replace default via 192.0.2.254 metric 1000")
	r.ip("route del default metric 0")
	r.ip("route add default dev tun0 proto 83 metric 512")
	r.do(set)
	r.quiet(set)
	r.goes(0, map[string]string{"9.9.9.9": "tun0"})
	r.goes(mark, map[string]string{"9.9.9.9": "eth0"})
	r.same("copies", []string{"default via 192.0.2.254 dev eth0 proto 83 metric 1000"}, r.ip("route show table 21335"))

	// The underlay's router moves; then there is none: refused, not looped.
	r.ip("route replace default via 192.0.2.253 metric 1000")
	r.do(set)
	r.same("copies", []string{"default via 192.0.2.253 dev eth0 proto 83 metric 1000"}, r.ip("route show table 21335"))
	r.ip("route del default metric 1000")
	r.do(set)
	if got := r.way("9.9.9.9", mark); !strings.Contains(got, "unreachable") {
		t.Errorf("without an underlay: %s", got)
	}

	// Drift is mended, also by a new process, and nothing is left in the end.
	r.ip("rule del priority 20764")
	r.ip("rule add priority 20999 fwmark 7 lookup 99 protocol 83")
	r.host = New(Options{})
	r.do(set)
	if got := len(r.allRules()); got != len(before)+6 {
		t.Errorf("%d rules:\n%s", got, strings.Join(r.allRules(), "\n"))
	}
	down := func() error { return r.host.Teardown(t.Context()) }
	r.do(down)
	r.quiet(down)
	r.same("rules after teardown", before, r.allRules())
	if out, err := r.ns.Command(t.Context(), "ip", "route", "show", "table", "21335").CombinedOutput(); err == nil && len(out) != 0 {
		t.Errorf("underlay table after teardown: %s", out)
	}
}

// TestRulesInALargeTable: to follow the underlay's default routes, the learned ones are not read.
func TestRulesInALargeTable(t *testing.T) {
	r := newRig(t)
	r.setLink(LinkConfig{Name: "tun0", Up: true})
	r.ip("route replace default metric 7 nexthop via 192.0.2.253 dev eth0 nexthop via 192.0.2.254 dev eth0")
	const routes = 5000
	var batch strings.Builder
	for i := range routes {
		fmt.Fprintf(&batch, "route add 10.%d.%d.0/24 dev tun0 proto 83\n", i/250, i%250)
	}
	file := filepath.Join(t.TempDir(), "routes")
	if err := os.WriteFile(file, []byte(batch.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	r.ip("-batch " + file)
	set := func() error {
		return r.host.SetRules(t.Context(), RulesConfig{Mark: mark, Table: 254, Priority: 20763})
	}
	r.do(set)
	if copies := strings.Join(r.ip("route show table 21335"), "\n"); !strings.Contains(copies, "192.0.2.253") || !strings.Contains(copies, "192.0.2.254") {
		t.Errorf("the default route with two next hops was not copied: %s", copies)
	}
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	r.do(set)
	runtime.ReadMemStats(&after)
	if n := after.Mallocs - before.Mallocs; n > routes {
		t.Errorf("%d allocations beside %d routes: it has read them", n, routes)
	}
}

// TestRulesOwnTable: learned routes in a table of their own.
func TestRulesOwnTable(t *testing.T) {
	r := newRig(t)
	before := r.allRules()
	set := func(c RulesConfig) func() error {
		return func() error { return r.host.SetRules(t.Context(), c) }
	}
	r.setLink(LinkConfig{Name: "tun0", Up: true})
	r.do(set(RulesConfig{Mark: mark, Table: 254, Priority: 20763})) // as it was before a reload
	r.do(set(RulesConfig{Mark: mark, Table: 4242, Priority: 20763}))
	r.quiet(set(RulesConfig{Mark: mark, Table: 4242, Priority: 20763}))
	r.same("rules", []string{
		"0: from all lookup local", "20763: from all lookup main suppress_prefixlength 0 proto 83", "20764: not from all fwmark 0x5357 lookup 4242 proto 83",
		"32766: from all lookup main", "32767: from all lookup default",
	}, r.run("ip", "rule"))

	r.ip("route add 10.1.0.0/16 via 192.0.2.77")
	for _, route := range []string{"default", "10.0.0.0/8", "192.0.0.0/8", "198.51.100.0/24", "2001:db8:f::/48", "2000::/3", "::/0"} {
		r.ip("route add " + route + " dev tun0 proto 83 metric 512 table 4242")
	}
	r.goes(0, map[string]string{
		"198.51.100.7": "tun0", "9.9.9.9": "tun0", "10.2.0.1": "tun0", "2001:db8:f::7": "tun0", "2a00::1": "tun0", // learned
		"192.0.2.9": "eth0", "10.1.0.1": "eth0", "2001:db8::9": "eth0", // connected and static win over larger learned ones
	})
	r.goes(mark, map[string]string{"198.51.100.7": "eth0", "9.9.9.9": "eth0", "10.2.0.1": "eth0", "2001:db8:f::7": "eth0", "2a00::1": "eth0", "192.0.2.9": "eth0"})

	r.do(set(RulesConfig{Table: 4242, Priority: 20763}))
	r.goes(mark, map[string]string{"9.9.9.9": "tun0"})
	r.do(set(RulesConfig{Table: 254, Priority: 20763}))
	r.same("rules without mark", before, r.allRules())
	for _, bad := range []RulesConfig{{Mark: 1, Priority: 0}, {Mark: 1, Priority: 32765}, {Mark: 1, Priority: 1, Table: 255}, {Mark: 1, Priority: 1, Table: DefaultUnderlay}} {
		if r.host.SetRules(t.Context(), bad) == nil {
			t.Errorf("%+v: no error", bad)
		}
	}
}

func TestPathMTU(t *testing.T) {
	r := newRig(t)
	r.setLink(LinkConfig{Name: "tun0", Up: true})
	r.ip("route add 198.51.100.0/24 via 192.0.2.254 mtu 1400")
	r.ip("route add 203.0.113.0/24 dev tun0")
	mtu := func(a string) (n int, err error) {
		err = r.ns.Do(func() (err error) {
			n, err = r.host.PathMTU(t.Context(), ip(a), 0)
			return err
		})
		return n, err
	}
	for a, want := range map[string]int{"9.9.9.9": 1500, "::ffff:9.9.9.9": 1500, "198.51.100.1": 1400, "2001:db8:1::1": 1500, "fe80::9%eth0": 1500} {
		if got, err := mtu(a); got != want || err != nil {
			t.Errorf("%s: %d, %v; want %d", a, got, err, want)
		}
	}
	if err := r.ns.MTU("eth0", 1450); err != nil {
		t.Fatal(err)
	}
	if got, err := mtu("9.9.9.9"); got != 1450 || err != nil {
		t.Errorf("after the underlay changed: %d, %v", got, err)
	}
	_, err := mtu("203.0.113.1")
	if e, ok := errors.AsType[*TunnelError](err); !ok || e.Device != "tun0" {
		t.Errorf("endpoint behind the tunnel: %v", err)
	}
	r.ip("route del default")
	if _, err := mtu("9.9.9.9"); !errors.Is(err, unix.ENETUNREACH) {
		t.Errorf("no route: %v", err)
	}
}

// TestPeerRoute: the other end of an IPv6 point-to-point address is on link from the start, and again after the device
// was down.
func TestPeerRoute(t *testing.T) {
	r := newRig(t)
	c := LinkConfig{Name: "tun0", Up: true, Addresses: []Address{{Local: p("fd00::1/128"), Peer: p("fd00::2/128")}}}
	onLink := func() {
		t.Helper()
		r.setLink(c)
		if got := r.ip("-6 route show fd00::2"); len(got) != 1 || !strings.Contains(got[0], "dev tun0") {
			t.Errorf("route to the other end: %q", got)
		}
	}
	onLink()
	if err := r.ns.Down("tun0"); err != nil {
		t.Fatal(err)
	}
	onLink()
}

// TestLock: one gateway for each network namespace, not for each machine.
func TestLock(t *testing.T) {
	lock := func(n *netns.NS) (release func() error, err error) {
		t.Helper()
		if e := n.Do(func() error { release, err = Lock(); return nil }); e != nil {
			t.Fatal(e)
		}
		return release, err
	}
	here, there := nstest.NS(t, "here"), nstest.NS(t, "there")
	release, err := lock(here)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := lock(here); !errors.Is(err, ErrTaken) {
		t.Errorf("a second gateway: %v", err)
	}
	other, err := lock(there)
	if err != nil {
		t.Fatalf("in another namespace: %v", err)
	}
	for _, r := range []func() error{release, other} {
		if err := r(); err != nil {
			t.Error(err)
		}
	}
	again, err := lock(here)
	if err != nil {
		t.Fatalf("after the first one ended: %v", err)
	}
	if err := again(); err != nil {
		t.Error(err)
	}
}
