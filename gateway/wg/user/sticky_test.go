package user

import (
	"net"
	"net/netip"
	"slices"
	"testing"

	"sitewire/topologies/netns"
	"sitewire/topologies/netns/nstest"
)

// Answers leave from the address that was asked, not from the one the kernel prefers.
func TestStickySource(t *testing.T) {
	ns := nstest.NS(t, "sticky")
	must(t, ns.Addr("lo", prefixes("10.9.0.1/32", "10.9.0.2/32", "10.9.0.9/32", "fd09::1/128", "fd09::2/128", "fd09::9/128")...))
	for _, x := range []struct{ name, peer, first, second string }{
		{"IPv4", "10.9.0.9", "10.9.0.1", "10.9.0.2"},
		{"IPv6", "fd09::9", "fd09::1", "fd09::2"},
	} {
		t.Run(x.name, func(t *testing.T) {
			first, second, peerAddr := netip.MustParseAddr(x.first), netip.MustParseAddr(x.second), netip.MustParseAddr(x.peer)
			var b *listening
			var peer *net.UDPConn
			must(t, ns.Do(func() error {
				b = openBind(t, BindOptions{})
				peer = listenUDP(t, netip.AddrPortFrom(peerAddr, 0).String())
				return nil
			}))
			for _, asked := range []netip.Addr{second, first, second} {
				if _, err := peer.WriteToUDPAddrPort([]byte("ask"), netip.AddrPortFrom(asked, b.port)); err != nil {
					t.Fatal(err)
				}
				r := b.next(t)
				if r.ep.SrcIP() != asked {
					t.Fatalf("source learnt: %s, want %s", r.ep.SrcIP(), asked)
				}
				// One datagram, and a batch that goes out as one segmented message.
				for _, batch := range [][][]byte{{[]byte("one")}, {[]byte("two"), []byte("tri"), []byte("4")}} {
					must(t, b.Send(slices.Clone(batch), r.ep))
					for range batch {
						if _, from := readFrom(t, peer); from.Addr() != asked {
							t.Fatalf("answer from %s, want %s", from.Addr(), asked)
						}
					}
				}
			}
		})
	}
}

// A source that is no longer an address of the host is forgotten, and the datagram goes out all the same.
func TestSourceGone(t *testing.T) {
	ns := nstest.NS(t, "gone")
	must(t, ns.Addr("lo", prefixes("10.9.0.1/32", "10.9.0.2/32", "10.9.0.9/32", "fd09::1/128", "fd09::2/128", "fd09::9/128")...))
	for _, x := range []struct{ name, peer, asked, gone string }{
		{"IPv4", "10.9.0.9:0", "10.9.0.2", "10.9.0.2/32"},
		{"IPv6", "[fd09::9]:0", "fd09::2", "fd09::2/128"},
	} {
		t.Run(x.name, func(t *testing.T) {
			asked := netip.MustParseAddr(x.asked)
			var b *listening
			var peer *net.UDPConn
			must(t, ns.Do(func() error {
				b = openBind(t, BindOptions{})
				peer = listenUDP(t, x.peer)
				return nil
			}))
			if _, err := peer.WriteToUDPAddrPort([]byte("ask"), netip.AddrPortFrom(asked, b.port)); err != nil {
				t.Fatal(err)
			}
			r := b.next(t)
			must(t, ns.DelAddr("lo", netip.MustParsePrefix(x.gone)))
			batch := [][]byte{[]byte("aa"), []byte("bb"), []byte("c")}
			must(t, b.Send(slices.Clone(batch), r.ep))
			for _, want := range batch {
				got, from := readFrom(t, peer)
				if got != string(want) || from.Addr() == asked {
					t.Fatalf("got %q from %s, want %q from another address", got, from, want)
				}
			}
			if r.ep.SrcIP().IsValid() {
				t.Errorf("the dead source %s is still kept", r.ep.SrcIP())
			}
		})
	}
}

// When the way to a peer moves to another uplink, the source of the old one is given up, but only after
// UnderlayChanged, and only if the way did move.
func TestUnderlayChanged(t *testing.T) {
	here, there := nstest.NS(t, "here"), nstest.NS(t, "there")
	must(t, netns.Link(here, "up0", there, "h0", netns.LinkOpts{AddrsA: prefixes("10.1.0.1/24", "fd01::1/64"), AddrsB: prefixes("10.1.0.2/24", "fd01::2/64")}))
	must(t, netns.Link(here, "up1", there, "h1", netns.LinkOpts{AddrsA: prefixes("10.2.0.1/24", "fd02::1/64"), AddrsB: prefixes("10.2.0.2/24", "fd02::2/64")}))
	must(t, there.Addr("lo", prefixes("10.3.0.1/32", "fd03::1/128")...))
	for _, x := range []struct{ name, dst, peer, own0, own1, via0, via1 string }{
		{"IPv4", "10.3.0.1/32", "10.3.0.1:0", "10.1.0.1", "10.2.0.1", "10.1.0.2", "10.2.0.2"},
		{"IPv6", "fd03::1/128", "[fd03::1]:0", "fd01::1", "fd02::1", "fd01::2", "fd02::2"},
	} {
		t.Run(x.name, func(t *testing.T) {
			own0, own1 := netip.MustParseAddr(x.own0), netip.MustParseAddr(x.own1)
			dst := netip.MustParsePrefix(x.dst)
			must(t, here.Route(dst, netip.MustParseAddr(x.via0), "up0"))
			var b *listening
			var peer *net.UDPConn
			must(t, here.Do(func() error {
				ns, err := currentNamespace()
				if err == nil {
					t.Cleanup(func() { _ = ns.Close() })
					b = openBind(t, BindOptions{Namespace: ns})
				}
				return err
			}))
			must(t, there.Do(func() error { peer = listenUDP(t, x.peer); return nil }))
			if _, err := peer.WriteToUDPAddrPort([]byte("ask"), netip.AddrPortFrom(own0, b.port)); err != nil {
				t.Fatal(err)
			}
			ep := b.next(t).ep
			from := func(step string, want netip.Addr) {
				t.Helper()
				must(t, b.Send([][]byte{[]byte("x")}, ep))
				if _, from := readFrom(t, peer); from.Addr() != want {
					t.Fatalf("%s: from %s, want %s", step, from.Addr(), want)
				}
			}
			from("at first", own0)
			b.UnderlayChanged()
			from("after a change elsewhere", own0)
			if !ep.SrcIP().IsValid() {
				t.Fatal("a good source was forgotten")
			}
			must(t, here.Route(dst, netip.MustParseAddr(x.via1), "up1"))
			from("before we are told", own0)
			b.UnderlayChanged()
			from("after we are told", own1)
		})
	}
}
