package fib

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink"

	"sitewire/routes"
	"sitewire/topologies/netns"
	"sitewire/topologies/netns/nstest"
)

var (
	p  = netip.MustParsePrefix
	ip = netip.MustParseAddr
)

// rig is a namespace with tunnels tun0 and tun1, a LAN device eth0 (198.51.100.1/24, 2001:db8:1::1/64), and a FIB.
type rig struct {
	*testing.T
	ns  *netns.NS
	fib *FIB
}

func newRig(t *testing.T, o Options) *rig {
	t.Helper()
	nstest.Need(t, nstest.TUN)
	r := &rig{T: t, ns: nstest.NS(t, "gw")}
	r.tun("tun0")
	r.tun("tun1")
	err := netns.Link(r.ns, "eth0", nstest.NS(t, "lan"), "eth0", netns.LinkOpts{
		AddrsA: []netip.Prefix{p("198.51.100.1/24"), p("2001:db8:1::1/64")},
	})
	if err != nil {
		t.Fatal(err)
	}
	r.fib = r.open(o)
	return r
}

// tun makes a device that is up and has carrier for as long as the test runs.
func (r *rig) tun(name string) {
	r.Helper()
	tun := &netlink.Tuntap{LinkAttrs: netlink.LinkAttrs{Name: name}, Mode: netlink.TUNTAP_MODE_TUN, Queues: 1}
	if err := r.ns.Do(func() error { return netlink.LinkAdd(tun) }); err != nil {
		r.Fatal(err)
	}
	for _, fd := range tun.Fds {
		r.Cleanup(func() { fd.Close() })
	}
	if err := r.ns.Up(name); err != nil {
		r.Fatal(err)
	}
}

// open opens another FIB in the same namespace.
func (r *rig) open(o Options) *FIB {
	r.Helper()
	if o.Log == nil {
		o.Log = slog.New(slog.NewTextHandler(r.Output(), nil))
	}
	f := New(o)
	if err := r.ns.Do(func() error { return f.Open(r.Context()) }); err != nil {
		r.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- f.Run(ctx) }()
	r.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			r.Error(err)
		}
		if err := f.Close(); err != nil {
			r.Error(err)
		}
	})
	return f
}

// compat sets whether rows with objects are shown, and notified, as if they had none.
func (r *rig) compat(mode string) {
	r.Helper()
	nstest.Run(r, r.ns, "sysctl", "-qw", "net.ipv4.nexthop_compat_mode="+mode)
}

// needObjects skips a test that is about nexthop objects where the kernel (before 5.3) has none.
func (r *rig) needObjects() {
	r.Helper()
	nstest.Need(r, nstest.Requirement{Kind: "kernel", Name: "nexthop-objects", Check: func() error {
		if !r.fib.CanSwitch() {
			return &netns.Unavailable{What: "nexthop objects", Why: "the kernel refused one", Fix: "use Linux 5.3 or later"}
		}
		return nil
	}})
}

// leads is the device through which packets to an address leave.
func (r *rig) leads(a netip.Addr) string {
	r.Helper()
	words := strings.Fields(nstest.Run(r, r.ns, "ip", "route", "get", a.String()))
	if i := slices.Index(words, "dev"); i >= 0 {
		return words[i+1]
	}
	return ""
}

// ip runs ip(8) and returns its lines, spaces normalised.
func (r *rig) ip(args string) []string {
	r.Helper()
	var lines []string
	for line := range strings.Lines(nstest.Run(r, r.ns, "ip", strings.Fields(args)...)) {
		lines = append(lines, strings.Join(strings.Fields(line), " "))
	}
	return lines
}

// shown compares what ip(8) prints.
func (r *rig) shown(args string, want ...string) {
	r.Helper()
	if diff := cmp.Diff(want, r.ip(args)); diff != "" {
		r.Fatalf("ip %s (-want +got):\n%s", args, diff)
	}
}

func (r *rig) write(ops ...routes.Op) {
	r.Helper()
	for i, err := range r.fib.Write(r.Context(), ops) {
		if err != nil {
			r.Fatalf("%v: %v", ops[i].Route, err)
		}
	}
}

func (r *rig) writeError(op routes.Op) error {
	r.Helper()
	err := r.fib.Write(r.Context(), []routes.Op{op})[0]
	if err == nil {
		r.Fatalf("%v: no error", op.Route)
	}
	return err
}

func (r *rig) listed(want ...routes.Route) {
	r.Helper()
	got, err := r.fib.List(r.Context())
	if err != nil {
		r.Fatal(err)
	}
	if diff := cmp.Diff(want, got, cmp.Comparer(func(a, b netip.Prefix) bool { return a == b }), cmp.Comparer(func(a, b netip.Addr) bool { return a == b })); diff != "" {
		r.Fatalf("list (-want +got):\n%s", diff)
	}
}

// changed waits for the signal; quiet makes sure that there is none (and takes 100 ms).
func (r *rig) changed() {
	r.Helper()
	select {
	case <-r.fib.Changed():
	case <-time.After(5 * time.Second):
		r.Fatal("no change signalled")
	}
}

// quiet lets a marker event pass through the notifications: whatever was before it has been seen when it arrives.
func (r *rig) settle() {
	r.Helper()
	name := fmt.Sprintf("mark%d", time.Now().UnixNano()%1e9)
	r.ip("link add " + name + " type bridge")
	deadline := time.Now().Add(5 * time.Second)
	for {
		seen := false
		r.fib.view.with(func(s *state) { seen = s.indexes[name] != 0 })
		if seen {
			break
		}
		if time.Now().After(deadline) {
			r.Fatal("the marker did not arrive")
		}
		time.Sleep(time.Millisecond)
	}
	select {
	case <-r.fib.Changed():
	default:
	}
}

func install(prefix string, hops ...routes.Hop) routes.Op {
	return routes.Op{Kind: routes.Install, Route: route(prefix, hops...)}
}

func withdraw(prefix string) routes.Op {
	return routes.Op{Kind: routes.Withdraw, Route: routes.Route{Prefix: p(prefix)}}
}

func unreachable(kind routes.OpKind, prefix string) routes.Op {
	return routes.Op{Kind: kind, Route: routes.Route{Prefix: p(prefix), Type: routes.Unreachable}}
}

func route(prefix string, hops ...routes.Hop) routes.Route {
	return routes.Route{Prefix: p(prefix), Hops: hops}
}

func dev(name string) routes.Hop          { return routes.Hop{Device: name} }
func via(a string, dev string) routes.Hop { return routes.Hop{Device: dev, Via: ip(a)} }
