package host

import (
	"net"
	"net/netip"
	"slices"
	"strconv"
	"testing"

	"sitewire/topologies/netns"
	"sitewire/topologies/netns/nstest"
)

// numbered is port 179 of an address with the number of its device as zone: package net keeps the names of one namespace.
func numbered(t *testing.T, n *netns.NS, a netip.Addr) string {
	t.Helper()
	if a.Zone() != "" {
		index, err := n.Index(a.Zone())
		if err != nil {
			t.Fatal(err)
		}
		a = a.WithZone(strconv.Itoa(index))
	}
	return netip.AddrPortFrom(a, 179).String()
}

// TestTCPConnections: both ends of a connection are listed with their addresses, link-local ones with their device, and
// with a round-trip time.
func TestTCPConnections(t *testing.T) {
	here, there := nstest.NS(t, "here"), nstest.NS(t, "there")
	if err := netns.Link(here, "eth0", there, "eth0", netns.LinkOpts{
		AddrsA: []netip.Prefix{p("192.0.2.1/24"), p("fe80::1/64")}, AddrsB: []netip.Prefix{p("192.0.2.2/24"), p("fe80::2/64")},
	}); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ local, remote string }{{"192.0.2.1", "192.0.2.2"}, {"fe80::1%eth0", "fe80::2%eth0"}} {
		local, remote := ip(c.local), ip(c.remote)
		var ln net.Listener
		var conn net.Conn
		err := there.Do(func() (err error) {
			ln, err = net.Listen("tcp", numbered(t, there, remote))
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		defer ln.Close()
		if err := here.Do(func() (err error) {
			conn, err = net.Dial("tcp", numbered(t, here, remote))
			return err
		}); err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		from, _ := netip.AddrFromSlice(conn.LocalAddr().(*net.TCPAddr).IP) // the kernel chose among the link-local ones
		local = from.Unmap().WithZone(local.Zone())
		for ns, far := range map[*netns.NS]netip.Addr{here: remote, there: local} {
			var list []TCPConnection
			if err := ns.Do(func() (err error) {
				list, err = New(Options{}).TCPConnections(t.Context())
				return err
			}); err != nil {
				t.Fatal(err)
			}
			i := slices.IndexFunc(list, func(x TCPConnection) bool { return x.Remote.Addr() == far })
			if i < 0 || list[i].RTT <= 0 || list[i].Local.Port() != 179 && list[i].Remote.Port() != 179 {
				t.Errorf("%v: %+v, want one with %v", ns, list, far)
			}
		}
	}
}
