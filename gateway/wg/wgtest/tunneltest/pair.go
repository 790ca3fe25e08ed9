// Package tunneltest has what every real wg.Device must do with packets.
//
// Job: two namespaces with a device each, and TestTunnel, the conformance suite of drivers that have a link.
// Owner: the test that calls it.
// Inputs: an Open for the driver.
// Outputs: failures of the test.
// Invariants: the same bodies run on every driver, so that they cannot drift apart. What needs no link is in wgtest.
package tunneltest

import (
	"context"
	"net/netip"
	"testing"
	"time"

	"sitewire/gateway/wg"
	"sitewire/gateway/wg/wgtest"
	"sitewire/topologies/netns"
	"sitewire/topologies/netns/nstest"
)

// UDP ports of a pair's devices, and where they are.
const (
	PortA, PortB = 51821, 51822
	WANA, WANB   = "192.0.2.1", "192.0.2.2"
	WANA6, WANB6 = "2001:db8::1", "2001:db8::2"
)

// Open opens a device in the network namespace of the calling thread. underlay is the path of the namespace of its UDP sockets; "" is the
// same.
type Open func(ctx context.Context, cfg wg.DeviceConfig, underlay string) (wg.Device, error)

// In opens a device in a namespace, and removes it when the test ends.
func (open Open) In(t testing.TB, ns *netns.NS, cfg wg.DeviceConfig, underlay string) wg.Device {
	t.Helper()
	var d wg.Device
	must(t, ns.Do(func() (err error) {
		d, err = open(t.Context(), cfg, underlay)
		return err
	}))
	t.Cleanup(func() {
		if err := d.Close(true); err != nil {
			t.Error(err)
		}
	})
	return d
}

// Config is a device with the key of that name, see wgtest.PrivateKey.
func Config(name, key string) wg.DeviceConfig {
	return wg.DeviceConfig{Name: name, PrivateKey: wgtest.PrivateKey(key), MTU: 1420}
}

// Pair is two sites with a device wg0 each, 10.0.0.1/24 and 10.0.0.2/24, fd00::1/64 and fd00::2/64, over an underlay of both families.
type Pair struct {
	A, B   *netns.NS
	DA, DB wg.Device
}

// NewPair makes the sites. Their devices do not know each other yet.
func NewPair(t testing.TB, open Open) Pair {
	t.Helper()
	p := Pair{A: nstest.NS(t, "site-a"), B: nstest.NS(t, "site-b")}
	must(t, netns.Link(p.A, "wan0", p.B, "wan0", netns.LinkOpts{
		AddrsA: prefixes(WANA+"/24", WANA6+"/64"), AddrsB: prefixes(WANB+"/24", WANB6+"/64"),
	}))
	cfgA, cfgB := Config("wg0", "a"), Config("wg0", "b")
	cfgA.ListenPort, cfgB.ListenPort = PortA, PortB
	p.DA, p.DB = open.In(t, p.A, cfgA, ""), open.In(t, p.B, cfgB, "")
	must(t, p.A.Addr("wg0", prefixes("10.0.0.1/24", "fd00::1/64")...))
	must(t, p.B.Addr("wg0", prefixes("10.0.0.2/24", "fd00::2/64")...))
	must(t, p.A.Up("wg0"))
	must(t, p.B.Up("wg0"))
	return p
}

// Connect makes each the other's peer, over the underlay addresses given.
func (p Pair) Connect(t testing.TB, addrA, addrB string) {
	t.Helper()
	Peer(t, p.DA, "b", netip.AddrPortFrom(netip.MustParseAddr(addrB), PortB), "10.0.0.2/32", "fd00::2/128")
	Peer(t, p.DB, "a", netip.AddrPortFrom(netip.MustParseAddr(addrA), PortA), "10.0.0.1/32", "fd00::1/128")
}

// Peer gives a device a peer with a preshared key.
func Peer(t testing.TB, d wg.Device, name string, at netip.AddrPort, allowed ...string) {
	t.Helper()
	peer := wgtest.Peer(name)
	peer.Endpoint, peer.PresharedKey = at, wgtest.PrivateKey("shared")
	must(t, d.Apply(t.Context(), wg.Delta{SetPeers: []wg.PeerConfig{peer}, Allow: wgtest.Allowed(name, allowed...)}))
}

// Reach waits until a ping comes back. Time passes slowly in an emulated machine.
func Reach(t testing.TB, from *netns.NS, dst string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	must(t, netns.Reach(ctx, from, netip.Addr{}, netip.MustParseAddr(dst)))
}

// Only returns the statistics of the only peer.
func Only(t testing.TB, d wg.Device) wg.PeerStats {
	t.Helper()
	stats, err := d.Stats(t.Context())
	if err != nil || len(stats) != 1 {
		t.Fatalf("statistics %v, %v, want one peer", stats, err)
	}
	return stats[0]
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func prefixes(list ...string) []netip.Prefix {
	var out []netip.Prefix
	for _, p := range list {
		out = append(out, netip.MustParsePrefix(p))
	}
	return out
}
