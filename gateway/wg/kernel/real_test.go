package kernel

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"sitewire/gateway/wg"
	"sitewire/gateway/wg/wgtest"
	"sitewire/topologies/netns"
	"sitewire/topologies/netns/nstest"
)

// The tests of this file need a kernel with the module; where it lacks they run in the guest (see docs/testing.md).

var wireguard = nstest.LinkType(linkKind)

func prefixes(list ...string) []netip.Prefix {
	var out []netip.Prefix
	for _, p := range list {
		out = append(out, netip.MustParsePrefix(p))
	}
	return out
}

// openIn opens a real device in a namespace. It is removed when the test ends, by whoever then has it.
func openIn(t testing.TB, ns *netns.NS, cfg wg.DeviceConfig, o Options) *Device {
	t.Helper()
	var d *Device
	must(t, ns.Do(func() (err error) {
		d, err = Open(t.Context(), cfg, o)
		return err
	}))
	t.Cleanup(func() {
		if err := d.Close(true); err != nil {
			t.Error(err)
		}
	})
	return d
}

func TestKernelConformance(t *testing.T) {
	nstest.Need(t, wireguard)
	ns := nstest.NS(t, "conform")
	wgtest.TestDevice(t, func(t *testing.T) wg.Device { return openIn(t, ns, config("wg0", "self"), Options{}) })
}

// pair is two sites with a device each, over an underlay of both families.
type pair struct {
	a, b   *netns.NS
	da, db *Device
}

const portA, portB = 51821, 51822

func newPair(t testing.TB, o Options) pair {
	t.Helper()
	nstest.Need(t, wireguard)
	p := pair{a: nstest.NS(t, "site-a"), b: nstest.NS(t, "site-b")}
	must(t, netns.Link(p.a, "wan0", p.b, "wan0", netns.LinkOpts{
		AddrsA: prefixes("192.0.2.1/24", "2001:db8::1/64"), AddrsB: prefixes("192.0.2.2/24", "2001:db8::2/64"),
	}))
	cfgA, cfgB := config("wg0", "a"), config("wg0", "b")
	cfgA.ListenPort, cfgB.ListenPort = portA, portB
	p.da, p.db = openIn(t, p.a, cfgA, o), openIn(t, p.b, cfgB, o)
	must(t, p.a.Addr("wg0", prefixes("10.0.0.1/24", "fd00::1/64")...))
	must(t, p.b.Addr("wg0", prefixes("10.0.0.2/24", "fd00::2/64")...))
	must(t, p.a.Up("wg0"))
	must(t, p.b.Up("wg0"))
	return p
}

// connect makes each the other's peer.
func (p pair) connect(t testing.TB) {
	t.Helper()
	p.peer(t, p.da, "b", netip.MustParseAddrPort("192.0.2.2:51822"), "10.0.0.2/32", "fd00::2/128")
	p.peer(t, p.db, "a", netip.MustParseAddrPort("192.0.2.1:51821"), "10.0.0.1/32", "fd00::1/128")
}

func (p pair) peer(t testing.TB, d *Device, name string, at netip.AddrPort, allowed ...string) {
	t.Helper()
	peer := wgtest.Peer(name)
	peer.Endpoint, peer.PresharedKey = at, wgtest.PrivateKey("shared")
	must(t, d.Apply(t.Context(), wg.Delta{SetPeers: []wg.PeerConfig{peer}, Allow: wgtest.Allowed(name, allowed...)}))
}

func (p pair) reach(t testing.TB, from *netns.NS, dst string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	must(t, netns.Reach(ctx, from, netip.Addr{}, netip.MustParseAddr(dst)))
}

func (p pair) only(t testing.TB, d *Device) wg.PeerStats {
	t.Helper()
	stats, err := d.Stats(t.Context())
	if err != nil || len(stats) != 1 {
		t.Fatalf("statistics %v, %v, want one peer", stats, err)
	}
	return stats[0]
}

func TestKernelTraffic(t *testing.T) {
	p := newPair(t, Options{})
	p.connect(t)
	for _, inner := range []string{"10.0.0.2", "fd00::2"} {
		p.reach(t, p.a, inner)
	}
	s := p.only(t, p.da)
	if s.Endpoint != netip.MustParseAddrPort("192.0.2.2:51822") || s.ReceiveBytes == 0 || s.TransmitBytes == 0 || time.Since(s.LastHandshake).Abs() > 2*time.Minute {
		t.Errorf("statistics %+v, want the endpoint, traffic and a young handshake", s)
	}
}

// Endpoint, keepalive, preshared key and allowed-IPs of other prefixes change without a new handshake.
func TestKernelChangesKeepSession(t *testing.T) {
	p := newPair(t, Options{})
	p.connect(t)
	p.reach(t, p.a, "10.0.0.2")
	before := p.only(t, p.da).LastHandshake
	peer := wgtest.Peer("b")
	peer.Endpoint, peer.PersistentKeepalive, peer.PresharedKey = netip.MustParseAddrPort("[2001:db8::2]:51822"), 25*time.Second, wgtest.PrivateKey("another")
	must(t, p.da.Apply(t.Context(), wg.Delta{SetPeers: []wg.PeerConfig{peer}, Allow: wgtest.Allowed("b", "10.9.0.0/16")}))
	must(t, p.da.Apply(t.Context(), wg.Delta{Disallow: wgtest.Allowed("b", "10.9.0.0/16")}))
	p.reach(t, p.a, "10.0.0.2")
	after := p.only(t, p.da)
	if after.LastHandshake != before || before.IsZero() {
		t.Errorf("handshake at %v, before at %v: the session was not kept", after.LastHandshake, before)
	}
	if after.Endpoint != peer.Endpoint {
		t.Errorf("endpoint %v, want %v", after.Endpoint, peer.Endpoint)
	}
}

// A process goes without removing, the next one takes over: same index, peers, session, addresses, state, and no packet lost.
func TestKernelAdoption(t *testing.T) {
	p := newPair(t, Options{})
	p.connect(t)
	p.reach(t, p.a, "10.0.0.2")
	nl := p.a.Netlink()
	link, err := nl.LinkByName("wg0")
	must(t, err)
	session := p.only(t, p.da)
	flow, err := netns.StartFlow(p.a, []netip.Addr{netip.MustParseAddr("10.0.0.2")}, netns.FlowOpts{Interval: 20 * time.Millisecond})
	must(t, err)
	time.Sleep(200 * time.Millisecond) // the flow is under way
	must(t, p.da.Close(false))
	cfg := config("wg0", "a")
	cfg.ListenPort = portA
	again := openIn(t, p.a, cfg, Options{})
	if !again.Adopted() {
		t.Error("the device says that it was not there")
	}
	now, err := nl.LinkByName("wg0")
	must(t, err)
	if now.Attrs().Index != link.Attrs().Index || now.Attrs().Flags&net.FlagUp == 0 || now.Attrs().MTU != link.Attrs().MTU {
		t.Errorf("the link changed: %+v, before %+v", now.Attrs(), link.Attrs())
	}
	addrs, err := nl.AddrList(now, netlink.FAMILY_V4)
	if err != nil || len(addrs) != 1 {
		t.Errorf("addresses %v, %v", addrs, err)
	}
	if s := p.only(t, again); s.LastHandshake != session.LastHandshake || s.Endpoint != session.Endpoint {
		t.Errorf("the session changed: %+v, before %+v", s, session)
	}
	// Removal works from the first moment, although this process never added anything.
	must(t, again.Apply(t.Context(), wg.Delta{Disallow: wgtest.Allowed("b", "fd00::2/128")}))
	got, err := again.AllowedIPs(t.Context())
	if err != nil || !slices.Equal(got, wgtest.Allowed("b", "10.0.0.2/32")) {
		t.Errorf("allowed-IPs %v, %v", got, err)
	}
	time.Sleep(200 * time.Millisecond) // and goes on
	for _, r := range flow.Stop(2 * time.Second) {
		if r.Lost() != 0 || r.Sent == 0 {
			t.Errorf("flow: %v", r)
		}
	}
}

// What differs from the configuration is written at adoption, if the link may be changed at all.
func TestKernelAdoptionOfDifferences(t *testing.T) {
	nstest.Need(t, wireguard)
	ns := nstest.NS(t, "differs")
	cfg := config("wg0", "old")
	cfg.ListenPort = portA
	first := openIn(t, ns, cfg, Options{})
	must(t, first.Apply(t.Context(), wg.Delta{SetPeers: []wg.PeerConfig{wgtest.Peer("a")}}))
	key := parkingKey() // as if killed in the middle of a removal that failed
	first.msg.reset(first.index)
	first.msg.beginPeer(key, 0)
	first.msg.addAllowed(netip.MustParsePrefix("10.3.0.0/16"), 0)
	must(t, first.talk.set(first.msg.bytes()))
	must(t, first.Close(false))
	next := config("wg0", "new")
	next.ListenPort, next.FirewallMark = portB, 0x51
	must(t, ns.Do(func() error {
		if _, err := Open(t.Context(), next, Options{}); !errors.Is(err, wg.ErrLinkExists) {
			t.Errorf("a device with another key: %v, want ErrLinkExists", err)
		}
		return nil
	}))
	const group = 77
	link, err := ns.Netlink().LinkByName("wg0")
	must(t, err)
	must(t, ns.Netlink().LinkSetGroup(link, group))
	d := openIn(t, ns, next, Options{Group: group})
	s, err := d.readAll(t.Context(), true)
	must(t, err)
	if s.public != next.PrivateKey.Public() || s.port != portB || s.mark != 0x51 || len(s.peers) != 1 || len(s.parked) != 0 || len(s.allowed) != 0 {
		t.Errorf("adopted: key right %t, port %d, mark %#x, %d peers, %d left over, allowed-IPs %v", s.public == next.PrivateKey.Public(), s.port, s.mark, len(s.peers), len(s.parked), s.allowed)
	}
}

// The socket in another namespace than the interface.
func TestKernelUnderlayNamespace(t *testing.T) {
	p := newPair(t, Options{})
	lan := nstest.NS(t, "lan")
	cfg := config("wg1", "lan")
	cfg.ListenPort = 51823
	d := openIn(t, lan, cfg, Options{Underlay: p.a.Path()})
	must(t, lan.Addr("wg1", netip.MustParsePrefix("10.0.0.3/24")))
	must(t, lan.Up("wg1"))
	p.peer(t, d, "b", netip.MustParseAddrPort("192.0.2.2:51822"), "10.0.0.2/32")
	p.peer(t, p.db, "lan", netip.MustParseAddrPort("192.0.2.1:51823"), "10.0.0.3/32")
	p.reach(t, lan, "10.0.0.2")
	// A new port opens new sockets, in the same place.
	must(t, d.Apply(t.Context(), wg.Delta{Device: &wg.DeviceConfig{PrivateKey: wgtest.PrivateKey("lan"), ListenPort: 51824}}))
	p.reach(t, lan, "10.0.0.2")
	if _, err := p.a.Netlink().LinkByName("wg1"); err == nil {
		t.Error("the interface is in the namespace of the underlay")
	}
}

// An endpoint with a zone is that of the underlay's interface, both ways.
func TestKernelEndpointZone(t *testing.T) {
	p := newPair(t, Options{})
	for name, zone := range map[string]string{"b": "wan0", "c": "lo"} {
		peer := wgtest.Peer(name)
		peer.Endpoint = netip.MustParseAddrPort("[fe80::9%" + zone + "]:51820")
		must(t, p.da.Apply(t.Context(), wg.Delta{SetPeers: []wg.PeerConfig{peer}}))
		stats, err := p.da.Stats(t.Context())
		must(t, err)
		if i := slices.IndexFunc(stats, func(s wg.PeerStats) bool { return s.PublicKey == peer.PublicKey }); i < 0 || stats[i].Endpoint != peer.Endpoint {
			t.Errorf("statistics %v, want endpoint %s", stats, peer.Endpoint)
		}
	}
	peer := wgtest.Peer("d")
	peer.Endpoint = netip.MustParseAddrPort("[fe80::9%nowhere]:51820")
	if err := p.da.Apply(t.Context(), wg.Delta{SetPeers: []wg.PeerConfig{peer}}); err == nil {
		t.Error("an endpoint over an interface that does not exist was accepted")
	}
}

// The link is left as the contract says: down, without addresses, with its MTU. Without remove it stays.
func TestKernelLinkState(t *testing.T) {
	nstest.Need(t, wireguard)
	ns := nstest.NS(t, "link")
	cfg := config("wg0", "self")
	cfg.MTU = 1380
	d := openIn(t, ns, cfg, Options{})
	link, err := ns.Netlink().LinkByName("wg0")
	must(t, err)
	if a := link.Attrs(); a.MTU != 1380 || a.Flags&net.FlagUp != 0 {
		t.Errorf("MTU %d, flags %s", a.MTU, a.Flags)
	}
	if addrs, err := ns.Netlink().AddrList(link, netlink.FAMILY_ALL); err != nil || len(addrs) != 0 {
		t.Errorf("addresses %v, %v", addrs, err)
	}
	must(t, d.Close(false))
	if _, err := ns.Netlink().LinkByName("wg0"); err != nil {
		t.Errorf("the link is gone: %v", err)
	}
}

func TestKernelForeignLinkIsNotTouched(t *testing.T) {
	nstest.Need(t, wireguard)
	ns := nstest.NS(t, "foreign")
	must(t, netns.Link(ns, "wg0", ns, "other", netns.LinkOpts{MTU: 1300, AddrsA: prefixes("10.5.0.1/24")}))
	must(t, ns.Do(func() error {
		if _, err := Open(t.Context(), config("wg0", "self"), Options{}); !errors.Is(err, wg.ErrLinkExists) {
			t.Errorf("error %v, want ErrLinkExists", err)
		}
		return nil
	}))
	link, err := ns.Netlink().LinkByName("wg0")
	must(t, err)
	if link.Attrs().MTU != 1300 || link.Type() != "veth" {
		t.Errorf("the foreign link changed: %+v", link)
	}
}

// A device is found by its index: gone is gone, whoever has the name now, and another name is the same device.
func TestKernelDeletedAndRenamedLink(t *testing.T) {
	nstest.Need(t, wireguard)
	ns := nstest.NS(t, "deleted")
	d := openIn(t, ns, config("wg0", "self"), Options{})
	link, err := ns.Netlink().LinkByName("wg0")
	must(t, err)
	must(t, ns.Netlink().LinkSetName(link, "wg9"))
	must(t, d.Apply(t.Context(), wg.Delta{SetPeers: []wg.PeerConfig{wgtest.Peer("a")}}))
	must(t, ns.DelLink("wg9"))
	other := openIn(t, ns, config("wg0", "other"), Options{})
	if err := d.Apply(t.Context(), wg.Delta{SetPeers: []wg.PeerConfig{wgtest.Peer("b")}}); !errors.Is(err, wg.ErrClosed) || !errors.Is(err, unix.ENODEV) {
		t.Errorf("apply: %v, want ErrClosed and ENODEV", err)
	}
	if _, err := d.Stats(t.Context()); !errors.Is(err, wg.ErrClosed) {
		t.Errorf("stats: %v, want ErrClosed", err)
	}
	must(t, d.Close(true))
	if stats, err := other.Stats(t.Context()); err != nil || len(stats) != 0 {
		t.Errorf("the other device: %v, %v", stats, err)
	}
}

func TestKernelProbe(t *testing.T) {
	nstest.Need(t, wireguard)
	ns := nstest.NS(t, "probe")
	must(t, ns.Do(func() error { return Probe(t.Context()) }))
	links, err := ns.Netlink().LinkList()
	if err != nil || len(links) != 1 {
		t.Errorf("links %v, %v, want the loopback alone", links, err)
	}
}

// Without CAP_NET_ADMIN the probe says so, and so does Open.
func TestKernelWithoutRight(t *testing.T) {
	nstest.Need(t, wireguard)
	ns := nstest.NS(t, "norights")
	var probe, open error
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // and never unlock: the thread has lost something
		err := ns.Do(func() error {
			hdr := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
			var data [2]unix.CapUserData
			if err := unix.Capget(&hdr, &data[0]); err != nil {
				return err
			}
			data[0].Effective &^= 1 << unix.CAP_NET_ADMIN
			if err := unix.Capset(&hdr, &data[0]); err != nil {
				return err
			}
			probe = Probe(t.Context())
			_, open = Open(t.Context(), config("wg0", "self"), Options{})
			return nil
		})
		if err != nil {
			t.Error(err)
		}
	}()
	<-done
	for name, err := range map[string]error{"probe": probe, "open": open} {
		if u, ok := errors.AsType[*Unavailable](err); !ok || !errors.Is(err, unix.EPERM) || !strings.Contains(u.Fix, "CAP_NET_ADMIN") {
			t.Errorf("%s: %v, want an *Unavailable about CAP_NET_ADMIN", name, err)
		}
	}
}

// The kernel's answer about single entries agrees with its version, and either way a removal leaves the rest alone.
func TestKernelRemovesEntries(t *testing.T) {
	nstest.Need(t, wireguard)
	ns := nstest.NS(t, "removal")
	d := openIn(t, ns, config("wg0", "self"), Options{})
	must(t, d.Apply(t.Context(), wg.Delta{
		SetPeers: []wg.PeerConfig{wgtest.Peer("a"), wgtest.Peer("b")},
		Allow:    slices.Concat(wgtest.Allowed("a", "10.1.0.0/16", "10.2.0.0/16"), wgtest.Allowed("b", "10.3.0.0/16")),
		Disallow: slices.Concat(wgtest.Allowed("a", "10.1.0.0/16", "10.3.0.0/16"), wgtest.Allowed("b", "10.2.0.0/16")),
	}))
	s, err := d.readAll(t.Context(), true)
	must(t, err)
	if len(s.peers) != 2 || len(s.parked) != 0 || !slices.Equal(sorted(s.allowed), sorted(slices.Concat(wgtest.Allowed("a", "10.2.0.0/16"), wgtest.Allowed("b", "10.3.0.0/16")))) {
		t.Errorf("%d peers, %d left over, allowed-IPs %v", len(s.peers), len(s.parked), s.allowed)
	}
	var u unix.Utsname
	must(t, unix.Uname(&u))
	var major, minor int
	if _, err := fmt.Sscanf(unix.ByteSliceToString(u.Release[:]), "%d.%d", &major, &minor); err != nil {
		t.Fatal(err)
	}
	if want := major > 6 || major == 6 && minor >= 16; d.known.removes != want {
		t.Errorf("Linux %d.%d removes single entries: %t", major, minor, d.known.removes)
	}
	t.Logf("Linux %d.%d removes single entries: %t", major, minor, d.known.removes)
}

// countingTalk counts the dumps that were interrupted.
type countingTalk struct {
	conversation
	interrupted int
}

func (c *countingTalk) dump(request []byte, each func([]byte) error) error {
	err := c.conversation.dump(request, each)
	if err == errInterrupted {
		c.interrupted++
	}
	return err
}

// Another program moves prefixes from peer to peer all the time; no listing ever lacks one, or has one twice.
func TestKernelDumpUnderChanges(t *testing.T) {
	nstest.Need(t, wireguard)
	ns := nstest.NS(t, "churn")
	d := openIn(t, ns, config("wg0", "self"), Options{})
	other := openIn(t, ns, config("wg0", "self"), Options{})
	a, b := wgtest.Peer("a"), wgtest.Peer("b")
	var list []wg.AllowedIP
	for i := range 3000 {
		list = append(list, wg.AllowedIP{Prefix: netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(i >> 8), byte(i), 0}), 24), Peer: a.PublicKey})
	}
	must(t, d.Apply(t.Context(), wg.Delta{SetPeers: []wg.PeerConfig{a, b}, Allow: list}))
	talk := &countingTalk{conversation: d.talk}
	d.talk = talk
	ctx, cancel := context.WithCancel(t.Context())
	moved := make(chan int)
	go func() {
		n := 0
		for ; ctx.Err() == nil; n++ {
			entry := list[n%len(list)]
			entry.Peer = []wg.PublicKey{b.PublicKey, a.PublicKey}[n/len(list)%2]
			if err := other.Apply(t.Context(), wg.Delta{Allow: []wg.AllowedIP{entry}}); err != nil {
				t.Error(err)
				break
			}
			time.Sleep(5 * time.Millisecond)
		}
		moved <- n
	}()
	whole, given := 0, 0
	for range 30 {
		got, err := d.AllowedIPs(t.Context())
		if errors.Is(err, errInterrupted) {
			given++ // up: no answer is not a wrong one
			continue
		}
		must(t, err)
		whole++
		prefixes := map[netip.Prefix]bool{}
		for _, e := range got {
			prefixes[e.Prefix] = true
		}
		if len(got) != len(list) || len(prefixes) != len(list) {
			t.Errorf("%d entries for %d prefixes, want %d", len(got), len(prefixes), len(list))
		}
		if stats, err := d.Stats(t.Context()); err != nil || len(stats) != 2 {
			t.Errorf("statistics %v, %v", stats, err)
		}
	}
	cancel()
	n := <-moved
	t.Logf("%d whole listings, %d given up, %d readings interrupted by %d moves", whole, given, talk.interrupted, n)
	if whole == 0 || talk.interrupted == 0 {
		t.Errorf("%d whole listings, %d interrupted readings: this test says nothing", whole, talk.interrupted)
	}
}
