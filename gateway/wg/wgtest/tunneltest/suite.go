package tunneltest

import (
	"errors"
	"net"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"sitewire/gateway/wg"
	"sitewire/gateway/wg/wgtest"
	"sitewire/topologies/netns"
	"sitewire/topologies/netns/nstest"
)

// TestTunnel checks what a driver does with packets and links. The caller has made sure that such devices can be opened here.
func TestTunnel(t *testing.T, open Open) {
	for name, test := range map[string]func(t *testing.T, open Open){
		"BothFamilies":         testFamilies,
		"ChangesKeepSession":   testSession,
		"OtherPrefixesFlow":    testOthers,
		"AllowedIPsAreFilters": testFilters,
		"UnderlayNamespace":    testUnderlay,
		"PortInUse":            testPortInUse,
		"LinkIsLeftDown":       testLinkState,
		"ForeignLink":          testForeign,
	} {
		t.Run(name, func(t *testing.T) { test(t, open) })
	}
}

func testFamilies(t *testing.T, open Open) {
	p := NewPair(t, open)
	for _, underlay := range [][2]string{{WANA, WANB}, {WANA6, WANB6}, {WANA, WANB}} {
		p.Connect(t, underlay[0], underlay[1])
		for _, inner := range []string{"10.0.0.2", "fd00::2"} {
			Reach(t, p.A, inner)
		}
		s := Only(t, p.DA)
		if s.Endpoint != netip.AddrPortFrom(netip.MustParseAddr(underlay[1]), PortB) || s.ReceiveBytes == 0 || s.TransmitBytes == 0 || time.Since(s.LastHandshake).Abs() > 5*time.Minute {
			t.Errorf("statistics %+v, want endpoint %s, traffic and a young handshake", s, underlay[1])
		}
	}
}

// Endpoint, keepalive, preshared key and allowed-IPs of other prefixes change without a new handshake.
func testSession(t *testing.T, open Open) {
	p := NewPair(t, open)
	p.Connect(t, WANA, WANB)
	Reach(t, p.A, "10.0.0.2")
	before := Only(t, p.DA).LastHandshake
	peer := wgtest.Peer("b")
	peer.Endpoint, peer.PersistentKeepalive, peer.PresharedKey = netip.AddrPortFrom(netip.MustParseAddr(WANB6), PortB), 25*time.Second, wgtest.PrivateKey("another")
	must(t, p.DA.Apply(t.Context(), wg.Delta{SetPeers: []wg.PeerConfig{peer}, Allow: wgtest.Allowed("b", "10.9.0.0/16")}))
	must(t, p.DA.Apply(t.Context(), wg.Delta{Disallow: wgtest.Allowed("b", "10.9.0.0/16")}))
	Reach(t, p.A, "10.0.0.2")
	after := Only(t, p.DA)
	if after.LastHandshake != before || before.IsZero() {
		t.Errorf("handshake at %v, before at %v: the session was not kept", after.LastHandshake, before)
	}
	if after.Endpoint != peer.Endpoint {
		t.Errorf("endpoint %v, want %v", after.Endpoint, peer.Endpoint)
	}
}

// Prefixes come, move and go by the thousand, and none of a flow to another prefix is lost.
func testOthers(t *testing.T, open Open) {
	p := NewPair(t, open)
	p.Connect(t, WANA, WANB)
	Reach(t, p.A, "10.0.0.2")
	b, c := wgtest.Peer("b"), wgtest.Peer("c")
	must(t, p.DA.Apply(t.Context(), wg.Delta{SetPeers: []wg.PeerConfig{c}}))
	var list, moved []wg.AllowedIP
	for i := range 2000 {
		prefix := netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 100 + byte(i>>8), byte(i), 0}), 24)
		list, moved = append(list, wg.AllowedIP{Prefix: prefix, Peer: b.PublicKey}), append(moved, wg.AllowedIP{Prefix: prefix, Peer: c.PublicKey})
	}
	flow, err := netns.StartFlow(p.A, []netip.Addr{netip.MustParseAddr("10.0.0.2")}, netns.FlowOpts{})
	must(t, err)
	for range 3 {
		must(t, p.DA.Apply(t.Context(), wg.Delta{Allow: list}))
		must(t, p.DA.Apply(t.Context(), wg.Delta{Allow: moved, Disallow: list}))
		must(t, p.DA.Apply(t.Context(), wg.Delta{Disallow: moved}))
	}
	nstest.Eventually(t, time.Minute, "packets", func() error {
		if flow.Reports()[0].Sent < 50 {
			return errors.New("too few to say anything")
		}
		return nil
	})
	for _, r := range flow.Stop(5 * time.Second) {
		if r.Lost() != 0 {
			t.Error(r)
		}
	}
}

// A prefix that moves between peers of one device, and one taken away, act on traffic at once.
func testFilters(t *testing.T, open Open) {
	p := NewPair(t, open)
	p.Connect(t, WANA, WANB)
	Reach(t, p.A, "10.0.0.2")
	ping := func() int {
		_, got, err := netns.Ping(t.Context(), p.A, netip.Addr{}, netip.MustParseAddr("10.0.0.2"), netns.PingOpts{Count: 3, Timeout: 300 * time.Millisecond})
		if err != nil && !errors.Is(err, unix.ENOKEY) && !errors.Is(err, unix.EDESTADDRREQ) {
			t.Fatal(err)
		}
		return got
	}
	must(t, p.DB.Apply(t.Context(), wg.Delta{Disallow: wgtest.Allowed("a", "10.0.0.1/32")}))
	if got := ping(); got != 0 {
		t.Errorf("%d answers although the source is not allowed", got)
	}
	must(t, p.DB.Apply(t.Context(), wg.Delta{Allow: wgtest.Allowed("a", "10.0.0.0/24")}))
	if got := ping(); got != 3 {
		t.Errorf("%d of 3 answers after allowing a covering prefix", got)
	}
	must(t, p.DB.Apply(t.Context(), wg.Delta{SetPeers: []wg.PeerConfig{wgtest.Peer("c")}, Allow: wgtest.Allowed("c", "10.0.0.1/32")}))
	if got := ping(); got != 0 {
		t.Errorf("%d answers although the source belongs to another peer", got)
	}
}

// The socket in another namespace than the interface, also after a change of the port.
func testUnderlay(t *testing.T, open Open) {
	lan, p := nstest.NS(t, "lan"), NewPair(t, open)
	const port = 51823
	cfg := Config("wg1", "lan")
	cfg.ListenPort = port
	d := open.In(t, lan, cfg, p.A.Path())
	must(t, lan.Addr("wg1", netip.MustParsePrefix("10.0.0.3/24")))
	must(t, lan.Up("wg1"))
	Peer(t, d, "b", netip.AddrPortFrom(netip.MustParseAddr(WANB), PortB), "10.0.0.2/32")
	Peer(t, p.DB, "lan", netip.AddrPortFrom(netip.MustParseAddr(WANA), port), "10.0.0.3/32")
	Reach(t, lan, "10.0.0.2")
	// New sockets, perhaps from a thread that is in neither namespace.
	must(t, d.Apply(t.Context(), wg.Delta{Device: &wg.DeviceConfig{PrivateKey: wgtest.PrivateKey("lan"), ListenPort: port + 1}}))
	Reach(t, lan, "10.0.0.2")
	if at := Only(t, p.DB).Endpoint; at != netip.AddrPortFrom(netip.MustParseAddr(WANA), port+1) {
		t.Errorf("packets come from %s, want port %d of the underlay", at, port+1)
	}
	if _, err := p.A.Netlink().LinkByName("wg1"); err == nil {
		t.Error("the interface is in the namespace of the underlay")
	}
}

// A port that is taken is refused, and the old one stays.
func testPortInUse(t *testing.T, open Open) {
	p := NewPair(t, open)
	p.Connect(t, WANA, WANB)
	var taken *net.UDPConn
	must(t, p.A.Do(func() (err error) { taken, err = net.ListenUDP("udp4", &net.UDPAddr{}); return err }))
	defer taken.Close()
	port := uint16(taken.LocalAddr().(*net.UDPAddr).Port)
	err := p.DA.Apply(t.Context(), wg.Delta{Device: &wg.DeviceConfig{PrivateKey: wgtest.PrivateKey("a"), ListenPort: port}})
	if !errors.Is(err, unix.EADDRINUSE) {
		t.Errorf("error %v, want EADDRINUSE", err)
	}
	Reach(t, p.A, "10.0.0.2")
	if at := Only(t, p.DB).Endpoint; at.Port() != PortA {
		t.Errorf("packets come from %s, want the old port %d", at, PortA)
	}
}

// The link is left as the contract says: down, without addresses, with its MTU.
func testLinkState(t *testing.T, open Open) {
	ns := nstest.NS(t, "link")
	cfg := Config("wg0", "self")
	cfg.MTU = 1380
	open.In(t, ns, cfg, "")
	link, err := ns.Netlink().LinkByName("wg0")
	must(t, err)
	if a := link.Attrs(); a.MTU != 1380 || a.Flags&net.FlagUp != 0 {
		t.Errorf("MTU %d, flags %s", a.MTU, a.Flags)
	}
	if addrs, err := ns.Netlink().AddrList(link, netlink.FAMILY_ALL); err != nil || len(addrs) != 0 {
		t.Errorf("addresses %v, %v", addrs, err)
	}
}

// A link of another kind is refused at once, and stays as it is.
func testForeign(t *testing.T, open Open) {
	ns := nstest.NS(t, "foreign")
	must(t, netns.Link(ns, "wg0", ns, "other", netns.LinkOpts{MTU: 1300, AddrsA: prefixes("10.5.0.1/24")}))
	must(t, ns.Do(func() error {
		if _, err := open(t.Context(), Config("wg0", "self"), ""); !errors.Is(err, wg.ErrLinkExists) {
			t.Errorf("error %v, want ErrLinkExists", err)
		}
		return nil
	}))
	link, err := ns.Netlink().LinkByName("wg0")
	must(t, err)
	addrs, err := ns.Netlink().AddrList(link, netlink.FAMILY_V4)
	if err != nil || len(addrs) != 1 || link.Attrs().MTU != 1300 || link.Type() != "veth" {
		t.Errorf("the foreign link changed: %+v, %v, %v", link, addrs, err)
	}
	if !slices.ContainsFunc(addrs, func(a netlink.Addr) bool { return a.IP.String() == "10.5.0.1" }) {
		t.Errorf("addresses %v", addrs)
	}
}
