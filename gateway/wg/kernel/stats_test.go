package kernel

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"sitewire/gateway/wg"
	"sitewire/gateway/wg/wgtest"
)

func TestStatsFields(t *testing.T) {
	f := newFakeKernel(true)
	d := fakeDevice(t, f, Options{})
	a, b := wgtest.Peer("a"), wgtest.Peer("b")
	a.Endpoint, a.PersistentKeepalive = netip.MustParseAddrPort("[fe80::1%wan2]:51820"), 25*time.Second
	b.Endpoint = netip.MustParseAddrPort("192.0.2.1:1")
	must(t, d.Apply(t.Context(), wg.Delta{SetPeers: []wg.PeerConfig{a, b}}))
	at := time.Unix(1_800_000_000, 123_456_789)
	p := f.peer(a.PublicKey)
	p.stats.LastHandshake, p.stats.ReceiveBytes, p.stats.TransmitBytes = at, 1<<40+1, 7
	stats, err := d.Stats(t.Context())
	must(t, err)
	want := []wg.PeerStats{
		{PublicKey: a.PublicKey, Endpoint: a.Endpoint, LastHandshake: at, ReceiveBytes: 1<<40 + 1, TransmitBytes: 7},
		{PublicKey: b.PublicKey, Endpoint: b.Endpoint},
	}
	if !slices.Equal(stats, want) {
		t.Errorf("statistics\n%+v, want\n%+v", stats, want)
	}
	if p.keepalive != 25 || p.scope != 2 {
		t.Errorf("keepalive %d, scope %d", p.keepalive, p.scope)
	}
	bad := wgtest.Peer("c")
	bad.Endpoint = netip.MustParseAddrPort("[fe80::1%nowhere]:51820")
	if err := d.Apply(t.Context(), wg.Delta{SetPeers: []wg.PeerConfig{bad}}); err == nil || f.peer(bad.PublicKey) != nil {
		t.Errorf("an endpoint over an unknown interface: %v", err)
	}
}

// Reading takes no more than its share of the time, unless peers were changed.
func TestStatsPace(t *testing.T) {
	f, clock := newFakeKernel(true), &fakeClock{t: time.Unix(1_800_000_000, 0)}
	d := fakeDevice(t, f, Options{Share: 0.05, MaxAge: 10 * time.Second})
	d.now = clock.now
	var takes time.Duration
	f.onDump = func(int) { clock.add(takes) }
	must(t, d.Apply(t.Context(), wg.Delta{SetPeers: []wg.PeerConfig{wgtest.Peer("a")}}))
	poll := func(want int) {
		t.Helper()
		before := f.dumps
		if stats, err := d.Stats(t.Context()); err != nil || len(stats) != len(f.peers) {
			t.Fatalf("statistics %v, %v", stats, err)
		}
		if got := f.dumps - before; got != want {
			t.Errorf("%d readings, want %d", got, want)
		}
	}
	takes = 100 * time.Millisecond // so the next is due after 2 s
	poll(1)
	clock.add(1999 * time.Millisecond)
	poll(0)
	clock.add(time.Millisecond)
	takes = time.Second // 20 s, but no more than 10
	poll(1)
	clock.add(9999 * time.Millisecond)
	poll(0)
	// Allowed-IPs are none of its business; peers are.
	must(t, d.Apply(t.Context(), wg.Delta{Allow: wgtest.Allowed("a", "10.0.0.0/8")}))
	poll(0)
	must(t, d.Apply(t.Context(), wg.Delta{SetPeers: []wg.PeerConfig{wgtest.Peer("b")}}))
	poll(1)
	must(t, d.Apply(t.Context(), wg.Delta{RemovePeers: []wg.PublicKey{wgtest.Peer("b").PublicKey}}))
	poll(1)
	poll(0)
	clock.add(10 * time.Second)
	takes = 0
	poll(1)
	poll(1) // what costs nothing is always fresh

	// The share is that of all devices together.
	d.known.devices.Add(3)
	takes = 20 * time.Millisecond // 0.4 s for each, were it alone
	poll(1)
	clock.add(1599 * time.Millisecond)
	poll(0)
	clock.add(time.Millisecond)
	poll(1)
}

// manyPeers has peers 0 to 9, each with 20 entries, in a dump of many messages.
func manyPeers(t *testing.T, f *fakeKernel, o Options) (*Device, []wg.AllowedIP) {
	t.Helper()
	f.perMessage = 15
	d := fakeDevice(t, f, o)
	var delta wg.Delta
	for i := range 10 {
		name := fmt.Sprint("peer", i)
		delta.SetPeers = append(delta.SetPeers, wgtest.Peer(name))
		for n := range 20 {
			delta.Allow = append(delta.Allow, wg.AllowedIP{Prefix: netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(i), byte(n), 0}), 24), Peer: wgtest.Peer(name).PublicKey})
		}
	}
	must(t, d.Apply(t.Context(), delta))
	return d, delta.Allow
}

func sorted(list []wg.AllowedIP) []wg.AllowedIP {
	return slices.SortedFunc(slices.Values(list), func(a, b wg.AllowedIP) int { return a.Prefix.Compare(b.Prefix) })
}

// A dump that others interrupt is cut short by the kernel. It is read again.
func TestInterruptedAllowedIPs(t *testing.T) {
	f := newFakeKernel(true)
	d, want := manyPeers(t, f, Options{})
	interruptions := 3
	f.onDump = func(part int) {
		if part == 4 && interruptions > 0 {
			interruptions--
			foreign(t, f, give("peer0", "172.16.0.0/12"))
		}
	}
	f.dumps = 0
	list, err := d.AllowedIPs(t.Context())
	must(t, err)
	want = append(want, wgtest.Allowed("peer0", "172.16.0.0/12")...)
	if !slices.Equal(sorted(list), sorted(want)) || f.dumps != 4 {
		t.Errorf("%d entries after %d readings, want %d after 4", len(list), f.dumps, len(want))
	}
	// For ever is no answer.
	f.onDump = func(part int) { foreign(t, f, give("peer0", "172.16.0.0/12")) }
	f.dumps = 0
	if list, err := d.AllowedIPs(t.Context()); !errors.Is(err, errInterrupted) || list != nil || f.dumps != dumpTries {
		t.Errorf("%d entries, %v, after %d readings", len(list), err, f.dumps)
	}
	ctx, cancel := context.WithCancel(t.Context())
	f.onDump = func(part int) { foreign(t, f, give("peer0", "172.16.0.0/12")); cancel() }
	f.dumps = 0
	if _, err := d.AllowedIPs(ctx); !errors.Is(err, context.Canceled) || f.dumps != 1 {
		t.Errorf("cancelled: %v after %d readings", err, f.dumps)
	}
}

// Statistics do not mind changes of allowed-IPs, but they do mind peers that are missing.
func TestInterruptedStats(t *testing.T) {
	f := newFakeKernel(true)
	d, _ := manyPeers(t, f, Options{})
	names := func(stats []wg.PeerStats) (n int) {
		for i := range 10 {
			if slices.ContainsFunc(stats, func(s wg.PeerStats) bool { return s.PublicKey == wgtest.Peer(fmt.Sprint("peer", i)).PublicKey }) {
				n++
			}
		}
		return n
	}
	_, err := d.Stats(t.Context())
	must(t, err)
	d.stats.pace = pace{} // due again
	f.onDump = func(part int) { foreign(t, f, give("peer0", "172.16.0.0/12")) }
	f.dumps = 0
	if stats, err := d.Stats(t.Context()); err != nil || names(stats) != 10 || f.dumps != 1 {
		t.Errorf("%d peers, %v, after %d readings", names(stats), err, f.dumps)
	}
	d.stats.pace = pace{}
	f.dumps = 0
	f.onDump = func(part int) {
		if f.dumps == 1 && part == 2 { // in the middle of the second peer, which goes, and with it the rest of the dump
			foreign(t, f, func(m *message) { m.beginPeer(wgtest.Peer("peer1").PublicKey, peerRemove) })
		}
	}
	if stats, err := d.Stats(t.Context()); err != nil || names(stats) != 9 || f.dumps != 2 {
		t.Errorf("%d peers, %v, after %d readings, want 9 after a second", names(stats), err, f.dumps)
	}
	// Without an earlier answer there is nothing to compare with.
	fresh := newDevice(config("wg0", "self"), Options{}, f, fakeLinks{f}, &capability{})
	fresh.index = fakeIndex
	f.onDump = func(part int) { foreign(t, f, give("peer0", "172.16.0.0/12")) }
	if stats, err := fresh.Stats(t.Context()); !errors.Is(err, errInterrupted) || errors.Is(err, wg.ErrClosed) {
		t.Errorf("%d peers, %v", len(stats), err)
	}
}

// Somebody else's changes without end make statistics old, not missing: a device that does not answer counts as lost.
func TestStatsSurviveChurn(t *testing.T) {
	f, clock := newFakeKernel(true), &fakeClock{t: time.Unix(1_800_000_000, 0)}
	d, _ := manyPeers(t, f, Options{MaxAge: 10 * time.Second})
	d.now = clock.now
	before, err := d.Stats(t.Context())
	must(t, err)
	f.onDump = func(part int) {
		if part == 1 { // the first peer goes and comes back, at the end
			first := f.peers[0].stats.PublicKey
			foreign(t, f, func(m *message) { m.beginPeer(first, peerRemove); m.beginPeer(first, 0) })
		}
	}
	clock.add(11 * time.Second)
	f.dumps = 0
	if stats, err := d.Stats(t.Context()); err != nil || !slices.Equal(stats, before) || f.dumps == 0 {
		t.Errorf("%d peers, %v, after %d readings, want the 10 of before", len(stats), err, f.dumps)
	}
	clock.add(20 * time.Second)
	if _, err := d.Stats(t.Context()); !errors.Is(err, errInterrupted) {
		t.Errorf("after 31 s: %v, want the reason", err)
	}
}

func TestErrorsSayWhatToDo(t *testing.T) {
	delta := wg.Delta{SetPeers: []wg.PeerConfig{wgtest.Peer("a")}}
	for _, c := range []struct {
		errno error
		is    error
		text  string
	}{
		{unix.ENODEV, wg.ErrClosed, "set peers"},
		{unix.EPERM, unix.EPERM, "CAP_NET_ADMIN"},
		{unix.EADDRINUSE, unix.EADDRINUSE, "set peers"},
		{fmt.Errorf("%w: Invalid attribute", unix.EINVAL), unix.EINVAL, "Invalid attribute"},
	} {
		f := newFakeKernel(true)
		d := fakeDevice(t, f, Options{})
		f.onSet = func([]byte) error { return c.errno }
		err := d.Apply(t.Context(), delta)
		if !errors.Is(err, c.is) || !errors.Is(err, c.errno) || !strings.Contains(err.Error(), c.text) || !strings.HasPrefix(err.Error(), "device wg0: ") {
			t.Errorf("%v: %v", c.errno, err)
		}
	}
	for _, errno := range []error{unix.ENOENT, unix.EPERM} {
		u, ok := errors.AsType[*Unavailable](unavailable(errno))
		if !ok || u.Why == "" || u.Fix == "" || !errors.Is(u, errno) || !strings.Contains(u.Error(), u.Fix) {
			t.Errorf("%v: %v", errno, u)
		}
	}
	if err := unavailable(unix.EIO); !errors.Is(err, unix.EIO) {
		t.Errorf("EIO: %v", err)
	}
}

// A peer that we do not know is looked for once; a prefix never makes one.
func TestAllowForUnknownPeer(t *testing.T) {
	kernels(t, func(t *testing.T, f *fakeKernel) {
		d := fakeDevice(t, f, Options{})
		must(t, d.Apply(t.Context(), wg.Delta{SetPeers: []wg.PeerConfig{wgtest.Peer("a")}}))
		f.sets, f.dumps = 0, 0
		err := d.Apply(t.Context(), wg.Delta{Allow: slices.Concat(wgtest.Allowed("a", "10.1.0.0/16"), wgtest.Allowed("ghost", "10.2.0.0/16", "10.3.0.0/16"))})
		if !errors.Is(err, wg.ErrNoPeer) || f.sets != 0 || f.dumps != 1 {
			t.Errorf("%v, %d messages, %d readings", err, f.sets, f.dumps)
		}
		foreign(t, f, give("ghost"))
		must(t, d.Apply(t.Context(), wg.Delta{Allow: wgtest.Allowed("ghost", "10.2.0.0/16")}))
		wantOwner(t, f, "ghost", "10.2.0.0/16")
		// One that somebody removed since is not made again.
		foreign(t, f, func(m *message) { m.beginPeer(wgtest.Peer("ghost").PublicKey, peerRemove) })
		must(t, d.Apply(t.Context(), wg.Delta{Allow: wgtest.Allowed("ghost", "10.2.0.0/16"), Disallow: wgtest.Allowed("ghost", "10.3.0.0/16")}))
		if f.peer(wgtest.Peer("ghost").PublicKey) != nil {
			t.Error("a prefix made a peer")
		}
	})
}

// The context is looked at between two messages.
func TestContextBetweenMessages(t *testing.T) {
	kernels(t, func(t *testing.T, f *fakeKernel) {
		d := fakeDevice(t, f, Options{})
		var list []wg.AllowedIP
		key := wgtest.Peer("a").PublicKey
		for i := range 10_000 {
			list = append(list, wg.AllowedIP{Prefix: netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(i >> 8), byte(i), 0}), 24), Peer: key})
		}
		must(t, d.Apply(t.Context(), wg.Delta{SetPeers: []wg.PeerConfig{wgtest.Peer("a")}, Allow: list}))
		must(t, d.Apply(t.Context(), wg.Delta{Disallow: list[:1]})) // asks what the kernel can do
		for _, delta := range []wg.Delta{{Allow: list}, {Disallow: list}} {
			ctx, cancel := context.WithCancel(t.Context())
			f.sets = 0
			f.onSet = func([]byte) error { cancel(); return nil }
			if err := d.Apply(ctx, delta); !errors.Is(err, context.Canceled) || f.sets != 1 {
				t.Errorf("%v after %d messages", err, f.sets)
			}
		}
	})
}

// Everything may be called at any time, from any goroutine, until and after the device is closed.
func TestConcurrentUse(t *testing.T) {
	kernels(t, func(t *testing.T, f *fakeKernel) {
		d, _ := manyPeers(t, f, Options{})
		up := wg.Delta{SetPeers: []wg.PeerConfig{wgtest.Peer("c")}, Allow: wgtest.Allowed("c", "10.0.0.0/8")}
		down := wg.Delta{Allow: wgtest.Allowed("peer1", "10.0.0.0/8"), Disallow: wgtest.Allowed("peer1", "10.0.0.0/8"), RemovePeers: []wg.PublicKey{wgtest.Peer("c").PublicKey}}
		var all sync.WaitGroup
		for _, use := range []func() error{
			func() error { return d.Apply(t.Context(), up) },
			func() error { return d.Apply(t.Context(), down) },
			func() error { _, err := d.Stats(t.Context()); return err },
			func() error { _, err := d.AllowedIPs(t.Context()); return err },
		} {
			all.Go(func() {
				for {
					if err := use(); errors.Is(err, wg.ErrClosed) {
						return
					} else if err != nil {
						t.Error(err)
						return
					}
				}
			})
		}
		time.AfterFunc(200*time.Millisecond, func() { _ = d.Close(true) })
		all.Wait()
	})
}
