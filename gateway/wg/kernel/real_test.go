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
	"sitewire/gateway/wg/wgtest/tunneltest"
	"sitewire/topologies/netns"
	"sitewire/topologies/netns/nstest"
)

// The tests of this file need a kernel with the module; where it lacks they run in the guest (see docs/testing.md).

var wireguard = nstest.LinkType(linkKind)

// opener opens devices for the suite of tunnels.
func opener(o Options) tunneltest.Open {
	return func(ctx context.Context, cfg wg.DeviceConfig, underlay string) (wg.Device, error) {
		o.Underlay = underlay
		return o.Opener()(ctx, cfg)
	}
}

// openIn opens a real device in a namespace. It is removed when the test ends, by whoever then has it.
func openIn(t testing.TB, ns *netns.NS, cfg wg.DeviceConfig, o Options) *Device {
	t.Helper()
	return opener(o).In(t, ns, cfg, "").(*Device)
}

func TestKernelConformance(t *testing.T) {
	nstest.Need(t, wireguard)
	ns := nstest.NS(t, "conform")
	wgtest.TestDevice(t, func(t *testing.T) wg.Device { return openIn(t, ns, config("wg0", "self"), Options{}) })
}

func TestKernelTunnel(t *testing.T) {
	nstest.Need(t, wireguard)
	tunneltest.TestTunnel(t, opener(Options{}))
}

// A process goes without removing, the next one takes over: same index, peers, session, addresses, state, and no packet lost.
func TestKernelAdoption(t *testing.T) {
	nstest.Need(t, wireguard)
	p := tunneltest.NewPair(t, opener(Options{}))
	p.Connect(t, tunneltest.WANA, tunneltest.WANB)
	tunneltest.Reach(t, p.A, "10.0.0.2")
	nl := p.A.Netlink()
	link, err := nl.LinkByName("wg0")
	must(t, err)
	session := tunneltest.Only(t, p.DA)
	flow, err := netns.StartFlow(p.A, []netip.Addr{netip.MustParseAddr("10.0.0.2")}, netns.FlowOpts{Interval: 20 * time.Millisecond})
	must(t, err)
	time.Sleep(200 * time.Millisecond) // the flow is under way
	must(t, p.DA.Close(false))
	cfg := config("wg0", "a")
	cfg.ListenPort = tunneltest.PortA
	again := openIn(t, p.A, cfg, Options{})
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
	if s := tunneltest.Only(t, again); s.LastHandshake != session.LastHandshake || s.Endpoint != session.Endpoint {
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
	cfg.ListenPort = tunneltest.PortA
	first := openIn(t, ns, cfg, Options{})
	must(t, first.Apply(t.Context(), wg.Delta{SetPeers: []wg.PeerConfig{wgtest.Peer("a")}}))
	key := parkingKey() // as if killed in the middle of a removal that failed
	first.msg.reset(first.index)
	first.msg.beginPeer(key, 0)
	first.msg.addAllowed(netip.MustParsePrefix("10.3.0.0/16"), 0)
	must(t, first.talk.set(first.msg.bytes()))
	must(t, first.Close(false))
	next := config("wg0", "new")
	next.ListenPort, next.FirewallMark = tunneltest.PortB, 0x51
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
	if s.public != next.PrivateKey.Public() || s.port != tunneltest.PortB || s.mark != 0x51 || len(s.peers) != 1 || len(s.parked) != 0 || len(s.allowed) != 0 {
		t.Errorf("adopted: key right %t, port %d, mark %#x, %d peers, %d left over, allowed-IPs %v", s.public == next.PrivateKey.Public(), s.port, s.mark, len(s.peers), len(s.parked), s.allowed)
	}
}

// An endpoint with a zone is that of the underlay's interface, both ways.
func TestKernelEndpointZone(t *testing.T) {
	nstest.Need(t, wireguard)
	p := tunneltest.NewPair(t, opener(Options{}))
	for name, zone := range map[string]string{"b": "wan0", "c": "lo"} {
		peer := wgtest.Peer(name)
		peer.Endpoint = netip.MustParseAddrPort("[fe80::9%" + zone + "]:51820")
		must(t, p.DA.Apply(t.Context(), wg.Delta{SetPeers: []wg.PeerConfig{peer}}))
		stats, err := p.DA.Stats(t.Context())
		must(t, err)
		if i := slices.IndexFunc(stats, func(s wg.PeerStats) bool { return s.PublicKey == peer.PublicKey }); i < 0 || stats[i].Endpoint != peer.Endpoint {
			t.Errorf("statistics %v, want endpoint %s", stats, peer.Endpoint)
		}
	}
	peer := wgtest.Peer("d")
	peer.Endpoint = netip.MustParseAddrPort("[fe80::9%nowhere]:51820")
	if err := p.DA.Apply(t.Context(), wg.Delta{SetPeers: []wg.PeerConfig{peer}}); err == nil {
		t.Error("an endpoint over an interface that does not exist was accepted")
	}
}

// Without remove the interface stays.
func TestKernelLinkStays(t *testing.T) {
	nstest.Need(t, wireguard)
	ns := nstest.NS(t, "stays")
	d := openIn(t, ns, config("wg0", "self"), Options{})
	must(t, d.Close(false))
	if _, err := ns.Netlink().LinkByName("wg0"); err != nil {
		t.Errorf("the link is gone: %v", err)
	}
	must(t, openIn(t, ns, config("wg0", "self"), Options{}).Close(true))
	if _, err := ns.Netlink().LinkByName("wg0"); err == nil {
		t.Error("the link outlived its removal")
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
