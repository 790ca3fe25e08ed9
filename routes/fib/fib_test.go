package fib

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"sitewire/routes"
	"sitewire/topologies/netns"
	"sitewire/topologies/netns/nstest"
)

// TestForms writes a route of every form and compares what ip(8) shows and what is listed.
func TestForms(t *testing.T) {
	main := *newRig(t, Options{NoObjects: true})
	for _, c := range []struct {
		name  string
		route routes.Route
		want  []string
	}{
		{"v4 dev", route("10.1.0.0/16", dev("tun0")), []string{"10.1.0.0/16 dev tun0 proto 83 scope link metric 512"}},
		{"v4 host", route("10.1.0.1/32", dev("tun0")), []string{"10.1.0.1 dev tun0 proto 83 scope link metric 512"}},
		{"v4 via", route("10.1.0.0/16", via("198.51.100.9", "eth0")), []string{"10.1.0.0/16 via 198.51.100.9 dev eth0 proto 83 metric 512"}},
		{"v4 via only", route("10.1.0.0/16", via("198.51.100.9", "")), []string{"10.1.0.0/16 via 198.51.100.9 dev eth0 proto 83 metric 512"}},
		{"v4 onlink", route("10.1.0.0/16", via("203.0.113.1", "tun0")), []string{"10.1.0.0/16 via 203.0.113.1 dev tun0 proto 83 metric 512 onlink"}},
		{"v4 via v6 link-local", route("10.1.0.0/16", via("fe80::1", "tun0")), []string{"10.1.0.0/16 via inet6 fe80::1 dev tun0 proto 83 metric 512"}},
		{"v4 via v6 zone", route("10.1.0.0/16", via("fe80::1%tun0", "")), []string{"10.1.0.0/16 via inet6 fe80::1 dev tun0 proto 83 metric 512"}},
		{"v4 via v6 onlink", route("10.1.0.0/16", via("fd00::9", "tun0")), []string{"10.1.0.0/16 via inet6 fd00::9 dev tun0 proto 83 metric 512 onlink"}},
		{"v4 multipath", route("10.1.0.0/16", dev("tun0"), dev("tun1")),
			[]string{"10.1.0.0/16 proto 83 metric 512", "nexthop dev tun0 weight 1", "nexthop dev tun1 weight 1"}},
		{"v4 multipath mixed", route("10.1.0.0/16", via("203.0.113.1", "eth0"), dev("tun0"), via("fe80::2", "tun1")),
			[]string{"10.1.0.0/16 proto 83 metric 512", "nexthop dev tun0 weight 1", "nexthop via inet6 fe80::2 dev tun1 weight 1", "nexthop via 203.0.113.1 dev eth0 weight 1 onlink"}},
		{"v4 unreachable", routes.Route{Prefix: p("10.1.0.0/16"), Type: routes.Unreachable}, []string{"unreachable 10.1.0.0/16 proto 83 metric 4294967295"}},
		{"v4 default", route("0.0.0.0/0", dev("tun0")), []string{"default dev tun0 proto 83 scope link metric 512"}},
		{"v6 dev", route("2001:db8:7::/48", dev("tun0")), []string{"2001:db8:7::/48 dev tun0 metric 512 pref medium"}},
		{"v6 via", route("2001:db8:7::/48", via("2001:db8:1::9", "eth0")), []string{"2001:db8:7::/48 via 2001:db8:1::9 dev eth0 metric 512 pref medium"}},
		{"v6 link-local", route("2001:db8:7::/48", via("fe80::9", "eth0")), []string{"2001:db8:7::/48 via fe80::9 dev eth0 metric 512 pref medium"}},
		{"v6 onlink", route("2001:db8:7::/48", via("fd00::9", "tun1")), []string{"2001:db8:7::/48 via fd00::9 dev tun1 metric 512 onlink pref medium"}},
		{"v6 multipath", route("2001:db8:7::/48", via("fe80::9", "eth0"), via("fe80::9", "tun0")),
			[]string{"2001:db8:7::/48 metric 512 pref medium", "nexthop via fe80::9 dev tun0 weight 1", "nexthop via fe80::9 dev eth0 weight 1"}},
		{"v6 multipath tunnels", route("2001:db8:7::/48", dev("tun0"), dev("tun1")),
			[]string{"2001:db8:7::/48 metric 512 pref medium", "nexthop via fe80::7369:7465:7769:7265 dev tun0 weight 1", "nexthop via fe80::7369:7465:7769:7265 dev tun1 weight 1"}},
		{"v6 unreachable", routes.Route{Prefix: p("2001:db8:7::/48"), Type: routes.Unreachable}, []string{"unreachable 2001:db8:7::/48 dev lo metric 4294967295 pref medium"}},
		{"v6 default", route("::/0", dev("tun0")), []string{"default dev tun0 metric 512 pref medium"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			for _, table := range []int{0, 4242} {
				r := main
				r.T = t
				r.fib = r.open(Options{Table: table, NoObjects: true})
				show := "route show proto 83"
				if c.route.Prefix.Addr().Is6() {
					show = "-6 " + show
				}
				if table != 0 {
					show += fmt.Sprintf(" table %d", table)
				}
				op := routes.Op{Kind: routes.Install, Route: c.route}
				r.write(op)
				want := slices.Clone(c.want)
				for i := range want { // ip(8) does not repeat what was asked for
					want[i] = strings.Replace(want[i], " proto 83", "", 1)
				}
				r.shown(show, want...)
				listed := c.route
				listed.Hops = routes.CanonicalHops(slices.Clone(listed.Hops))
				r.listed(listed)
				r.write(op) // again: nothing changes
				r.shown(show, want...)
				r.listed(listed)
				op.Kind = routes.Withdraw
				r.write(op, op)
				if table == 0 {
					r.shown(show)
				}
				r.listed()
			}
		})
	}
}

// TestReplace goes from every form of a route to every other, in one step each.
func TestReplace(t *testing.T) {
	for _, family := range []struct {
		prefix string
		gw     string
	}{{"10.1.0.0/16", "198.51.100.9"}, {"2001:db8:7::/48", "2001:db8:1::9"}} {
		forms := []routes.Route{
			route(family.prefix, dev("tun0")),
			route(family.prefix, dev("tun1")),
			route(family.prefix, via(family.gw, "eth0")),
			route(family.prefix, via("fe80::9", "tun0")),
			route(family.prefix, via("fe80::9", "eth0"), via("fe80::8", "tun0")),
			route(family.prefix, dev("tun0"), dev("tun1")),
			route(family.prefix, via(family.gw, "eth0"), dev("tun1")),
		}
		t.Run(family.prefix, func(t *testing.T) {
			r := newRig(t, Options{})
			for _, from := range forms {
				for _, to := range forms {
					r.write(routes.Op{Kind: routes.Install, Route: from})
					r.listed(from)
					r.write(routes.Op{Kind: routes.Install, Route: to})
					r.listed(to)
					// All in one batch, without a list between.
					r.write(routes.Op{Kind: routes.Install, Route: from}, routes.Op{Kind: routes.Install, Route: to}, routes.Op{Kind: routes.Install, Route: from})
					r.listed(from)
				}
			}
			r.write(withdraw(family.prefix))
			r.listed()
		})
	}
}

// TestLeftovers: rows of ours in forms that we do not write are listed as such, and go away with the next write.
func TestLeftovers(t *testing.T) {
	r := newRig(t, Options{})
	for _, cmd := range []string{
		"route add 10.1.0.0/16 dev tun0 proto 83 metric 77",  // another metric only
		"route add 10.2.0.0/16 dev tun0 proto 83 metric 512", // as it should be, and another
		"route add 10.2.0.0/16 dev tun1 proto 83 metric 77",
		"route add 10.3.0.0/16 dev tun0 proto 83 metric 512", // twice at one metric
		"route append 10.3.0.0/16 dev tun1 proto 83 metric 512",
		"route add 10.4.0.0/16 tos 0x10 dev tun0 proto 83 metric 512",
		"route add blackhole 10.5.0.0/16 proto 83 metric 512",
		"-6 route add 2001:db8:1000::/36 dev tun0 proto 83 metric 77",
		"-6 route add 2001:db8:2000::/36 dev tun0 proto 83 metric 512",
		"-6 route append 2001:db8:2000::/36 dev tun1 proto 83 metric 512",
		"-6 route add blackhole 2001:db8:3000::/36 proto 83 metric 512",
	} {
		r.ip(cmd)
	}
	var prefixes []string
	list, err := r.fib.List(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range list {
		prefixes = append(prefixes, l.Prefix.String())
		if two := l.Prefix == p("2001:db8:2000::/36"); !two && len(l.Hops) != 0 || two && len(l.Hops) != 2 {
			t.Errorf("listed as if it were ours: %v", l)
		}
	}
	want := []string{"10.1.0.0/16", "10.2.0.0/16", "10.3.0.0/16", "10.4.0.0/16", "10.5.0.0/16", "2001:db8:1000::/36", "2001:db8:2000::/36", "2001:db8:3000::/36"}
	if diff := cmp.Diff(want, prefixes); diff != "" {
		t.Fatal(diff)
	}
	var ops []routes.Op
	var expect []routes.Route
	for _, prefix := range want {
		ops = append(ops, install(prefix, dev("tun1")))
		expect = append(expect, route(prefix, dev("tun1")))
	}
	r.write(ops...)
	r.listed(expect...)
	r.shown("route show proto 83", "10.1.0.0/16 dev tun1 scope link metric 512", "10.2.0.0/16 dev tun1 scope link metric 512",
		"10.3.0.0/16 dev tun1 scope link metric 512", "10.4.0.0/16 dev tun1 scope link metric 512", "10.5.0.0/16 dev tun1 scope link metric 512")

	r.ip("route add 10.6.0.0/16 dev tun0 proto 83 metric 77")
	r.ip("-6 route append 2001:db8:2000::/36 dev tun0 proto 83 metric 512")
	if _, err := r.fib.List(t.Context()); err != nil {
		t.Fatal(err)
	}
	ops = nil
	for _, prefix := range append(want, "10.6.0.0/16") {
		ops = append(ops, withdraw(prefix))
	}
	r.write(ops...)
	r.listed()
}

// TestUnreachable: the unreachable route of a prefix and all its unicast rows, also those in other forms, do not touch each other.
func TestUnreachable(t *testing.T) {
	r := newRig(t, Options{})
	for _, c := range []struct{ prefix, junk string }{
		{"10.1.0.0/16", "route add 10.1.0.0/16 dev tun1 proto 83 metric 77"},
		{"2001:db8:7::/48", "-6 route add 2001:db8:7::/48 dev tun1 proto 83 metric 77"},
	} {
		discard, unicast := routes.Route{Prefix: p(c.prefix), Type: routes.Unreachable}, route(c.prefix, dev("tun0"))
		r.write(unreachable(routes.Install, c.prefix), install(c.prefix, dev("tun0")))
		r.listed(unicast, discard)
		r.ip(c.junk)
		r.listed(route(c.prefix), discard)
		r.write(unreachable(routes.Install, c.prefix)) // not its business
		r.listed(route(c.prefix), discard)
		r.write(install(c.prefix, dev("tun0")))
		r.listed(unicast, discard)
		r.ip(c.junk)
		r.listed(route(c.prefix), discard)
		r.write(withdraw(c.prefix))
		r.listed(discard)
		r.write(install(c.prefix, dev("tun0")), unreachable(routes.Withdraw, c.prefix))
		r.listed(unicast)
		r.write(withdraw(c.prefix))
		r.listed()
	}
}

// TestForeign: a route of another protocol is not replaced, not removed, not listed.
func TestForeign(t *testing.T) {
	for _, c := range []struct{ family, prefix, lan string }{{"-4", "10.1.0.0/16", "10.2.0.0/16"}, {"-6", "2001:db8:7::/48", "2001:db8:8::/48"}} {
		t.Run(c.family, func(t *testing.T) {
			r := newRig(t, Options{})
			r.ip(c.family + " route add " + c.prefix + " dev tun1 proto bird metric 512")
			r.settle()
			before := r.ip(c.family + " route show " + c.prefix)

			err := r.writeError(install(c.prefix, dev("tun0")))
			conflict, ok := errors.AsType[*ConflictError](err)
			if !ok || conflict.Protocol != unix.RTPROT_BIRD || conflict.Metric != 512 {
				t.Fatalf("got %v", err)
			}
			r.write(withdraw(c.prefix))
			r.listed()
			r.shown(c.family+" route show "+c.prefix, before...)

			// Another metric is nobody's business, before and after.
			r.ip(c.family + " route add " + c.lan + " dev tun1 proto bird metric 32")
			r.write(install(c.lan, dev("tun0")), install(c.lan, dev("tun1")), withdraw(c.lan))
			if got := r.ip(c.family + " route show " + c.lan); len(got) != 1 || !strings.Contains(got[0], "metric 32") {
				t.Fatal(got)
			}

			// A new FIB sees what was there before it.
			r.fib = r.open(Options{})
			if _, ok := errors.AsType[*ConflictError](r.writeError(install(c.prefix, dev("tun0")))); !ok {
				t.Fatal("no conflict after a restart")
			}
			r.ip(c.family + " route del " + c.prefix + " proto bird")
			r.settle()
			r.write(install(c.prefix, dev("tun0")))
			if n := r.fib.Stats().Errors[ErrorKey{routes.Install, "conflict"}]; n != 1 {
				t.Errorf("conflicts counted: %d", n)
			}
		})
	}
}

func TestSource(t *testing.T) {
	var log bytes.Buffer
	r := newRig(t, Options{Source4: ip("10.0.0.1"), Source6: ip("fd00::1"), Log: slog.New(slog.NewTextHandler(&log, nil))})
	want4, want6 := route("10.1.0.0/16", dev("tun0")), route("2001:db8:7::/48", dev("tun0"))
	ops := []routes.Op{{Kind: routes.Install, Route: want4}, {Kind: routes.Install, Route: want6}}
	r.write(ops...)
	r.write(ops...)
	r.listed(want4, want6)
	r.shown("route show proto 83", "10.1.0.0/16 dev tun0 scope link metric 512")
	if n := strings.Count(log.String(), "preferred source"); n != 2 {
		t.Errorf("%d warnings, want one for each family:\n%s", n, log.String())
	}

	// The addresses come: the routes are no longer what they should be.
	r.ip("addr add 10.0.0.1/32 dev tun1")
	r.ip("addr add fd00::1/128 dev tun1")
	r.changed()
	r.settle()
	r.listed(route("10.1.0.0/16"), route("2001:db8:7::/48"))
	r.write(ops...)
	r.listed(want4, want6)
	r.shown("route show proto 83", "10.1.0.0/16 dev tun0 scope link src 10.0.0.1 metric 512")
	r.shown("-6 route show 2001:db8:7::/48", "2001:db8:7::/48 dev tun0 proto 83 src fd00::1 metric 512 pref medium")

	// And go again; the kernel removes the IPv4 route and strips the IPv6 one.
	r.ip("addr del 10.0.0.1/32 dev tun1")
	r.ip("addr del fd00::1/128 dev tun1")
	r.changed()
	r.settle()
	r.listed(want6)
	r.write(ops...)
	r.listed(want4, want6)
}

// TestLinkDown: the kernel flushes silently, Changed is signalled, and the list tells the truth.
func TestLinkDown(t *testing.T) {
	r := newRig(t, Options{})
	want4, want6, other := route("10.1.0.0/16", dev("tun0")), route("2001:db8:7::/48", dev("tun0")), route("10.2.0.0/16", dev("tun1"))
	ops := []routes.Op{{Kind: routes.Install, Route: want4}, {Kind: routes.Install, Route: want6}, {Kind: routes.Install, Route: other}}
	r.write(ops...)
	r.settle()
	if err := r.ns.Down("tun0"); err != nil {
		t.Fatal(err)
	}
	r.changed()
	r.listed(other)
	if err := r.writeError(ops[0]); !errors.Is(err, unix.ENETDOWN) {
		t.Errorf("install on a device that is down: %v", err)
	}
	r.settle()
	if err := r.ns.Up("tun0"); err != nil {
		t.Fatal(err)
	}
	r.changed()
	r.write(ops...)
	r.listed(want4, other, want6)
}

// TestWake: our own writes do not signal a change, everybody else's do.
func TestWake(t *testing.T) {
	r := newRig(t, Options{})
	r.settle()
	r.write(install("10.1.0.0/16", dev("tun0")), install("10.1.0.0/16", dev("tun1")), install("2001:db8:7::/48", dev("tun0"), dev("tun1")),
		unreachable(routes.Install, "10.3.0.0/16"), withdraw("2001:db8:7::/48"))
	// The marker of another program comes after whatever our writes caused.
	seen := make(chan struct{})
	go func() {
		defer close(seen)
		<-r.fib.Changed()
	}()
	select {
	case <-seen:
		t.Fatal("our own write signalled a change")
	case <-time.After(100 * time.Millisecond):
	}
	r.ip("route del 10.1.0.0/16 proto 83")
	select {
	case <-seen:
	case <-time.After(5 * time.Second):
		t.Fatal("somebody removed our route and nobody noticed")
	}
	for _, cmd := range []string{
		"addr add 203.0.113.7/24 dev tun0", "addr del 203.0.113.7/24 dev tun0", "link set tun1 down", "link set tun1 up",
		"route add 10.9.0.0/16 dev tun0 proto 83", "route add 10.1.0.0/16 dev tun0 proto bird metric 512", "link set tun1 down", "link set tun1 name tun7",
	} {
		r.settle()
		r.ip(cmd)
		r.changed()
	}
}

// TestConnected: networks on link, their devices, and nothing of what we or others route.
func TestConnected(t *testing.T) {
	r := newRig(t, Options{})
	r.ip("addr add 172.20.0.1 peer 172.20.0.2/32 dev tun0")
	r.ip("addr add fe80::5/64 dev tun1 nodad")
	r.ip("addr add 172.20.9.1/32 dev tun1")
	r.ip("addr add 10.99.0.1/24 dev tun1 noprefixroute")
	r.ip("route add 10.5.0.0/16 dev tun0 proto static")
	r.write(install("10.1.0.0/16", dev("tun0")))
	list, err := r.fib.Connected(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, c := range list {
		for _, h := range c.Hops {
			got = append(got, c.Prefix.String()+" "+h.Device)
		}
	}
	want := []string{"172.20.0.2/32 tun0", "198.51.100.0/24 eth0", "2001:db8:1::/64 eth0", "fe80::/64 eth0", "fe80::/64 tun0", "fe80::/64 tun1"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestErrors(t *testing.T) {
	r := newRig(t, Options{})
	err := r.writeError(install("10.1.0.0/16", dev("absent")))
	if d, ok := errors.AsType[*DeviceError](err); !ok || d.Device != "absent" || !errors.Is(err, unix.ENODEV) {
		t.Errorf("absent device: %v", err)
	}
	if err := r.writeError(install("10.1.0.0/16", dev("a-name-that-is-far-too-long"))); !errors.Is(err, unix.ENODEV) {
		t.Errorf("impossible device: %v", err)
	}
	// A device that has just been made is found, although its notification may be on its way.
	r.tun("tun9")
	r.write(install("10.1.0.0/16", dev("tun9")))

	// One bad operation does not spoil its neighbours in the batch; the kernel's words are kept.
	errs := r.fib.Write(t.Context(), []routes.Op{
		install("10.2.0.0/16", dev("tun0")), install("10.3.0.0/16", via("192.0.2.1", "")), install("10.4.0.0/16", dev("tun0")),
	})
	if errs[0] != nil || errs[2] != nil {
		t.Errorf("good routes: %v, %v", errs[0], errs[2])
	}
	if e, ok := errors.AsType[*Error](errs[1]); !ok || e.Errno != unix.ENETUNREACH && e.Text == "" {
		t.Errorf("gateway that is nowhere: %v", errs[1])
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := r.fib.Write(ctx, []routes.Op{install("10.9.0.0/16", dev("tun0"))})[0]; !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
	if s := r.fib.Stats(); s.Errors[ErrorKey{routes.Install, "ENODEV"}] != 2 {
		t.Errorf("%+v", s)
	}
}

// TestUnprivileged: without CAP_NET_ADMIN the FIB reads, and says what is missing when it writes.
func TestUnprivileged(t *testing.T) {
	r := newRig(t, Options{})
	r.write(install("10.1.0.0/16", dev("tun0")))
	err := asNobody(r.ns, func() error {
		f := New(Options{})
		if err := f.Open(t.Context()); err != nil {
			return fmt.Errorf("open: %w", err)
		}
		defer f.Close()
		if list, err := f.List(t.Context()); err != nil || len(list) != 1 {
			return fmt.Errorf("list: %v, %w", list, err)
		}
		return f.Write(t.Context(), []routes.Op{install("10.2.0.0/16", dev("tun0"))})[0]
	})
	if !errors.Is(err, unix.EPERM) || !strings.Contains(err.Error(), "CAP_NET_ADMIN") {
		t.Errorf("got %v", err)
	}
}

// asNobody runs f in the namespace on a thread that has no capabilities, and throws the thread away.
func asNobody(ns *netns.NS, f func() error) error {
	done := make(chan error)
	go func() {
		done <- ns.Do(func() error {
			hdr := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
			var old, none [2]unix.CapUserData
			if err := unix.Capget(&hdr, &old[0]); err != nil {
				return err
			}
			none[0].Permitted, none[1].Permitted = old[0].Permitted, old[1].Permitted // to come back
			if err := unix.Capset(&hdr, &none[0]); err != nil {
				return err
			}
			err := f()
			return errors.Join(err, unix.Capset(&hdr, &old[0]))
		})
	}()
	return <-done
}

// TestProtocolName: with the file in place, iproute2 knows the name.
func TestProtocolName(t *testing.T) {
	r := newRig(t, Options{})
	r.write(install("10.1.0.0/16", dev("tun0")))
	script := fmt.Sprintf("mount -t tmpfs none /etc/iproute2 && mkdir /etc/iproute2/rt_protos.d && printf '%%s' '%s' > %s && ip route show proto %s && ip route show 10.1.0.0/16",
		ProtocolLine(DefaultProtocol), ProtocolFile, ProtocolName)
	if _, err := os.Stat("/etc/iproute2"); err != nil {
		t.Skipf("SKIP-REASON kind=file name=/etc/iproute2 why=%q", err)
	}
	got := nstest.Run(t, r.ns, "sh", "-c", script)
	if !strings.Contains(got, "10.1.0.0/16 dev tun0 scope link metric 512") || !strings.Contains(got, "proto sitewire") {
		t.Error(got)
	}
}
