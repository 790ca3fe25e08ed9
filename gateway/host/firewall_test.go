package host

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"sitewire/topologies/netns"
	"sitewire/topologies/netns/nstest"
)

// net3 is a gateway with three neighbours on cables: a, b and c, 10.0.N.2 and fd00:N::2 each; the gateway is .1 and ::1.
type net3 struct {
	*testing.T
	gw    *netns.NS
	far   [3]*netns.NS
	host  *Host
	names [3]string
}

func newNet3(t *testing.T) *net3 {
	t.Helper()
	nstest.Need(t, nstest.Program("nft"))
	n := &net3{T: t, gw: nstest.NS(t, "gw"), host: New(Options{}), names: [3]string{"wg-a", "lan-b", "wan-c"}}
	if err := n.gw.Forward(); err != nil {
		t.Fatal(err)
	}
	for i, dev := range n.names {
		n.far[i] = nstest.NS(t, dev)
		err := netns.Link(n.gw, dev, n.far[i], "eth0", netns.LinkOpts{
			AddrsA: []netip.Prefix{p(fmt.Sprintf("10.0.%d.1/24", i)), p(fmt.Sprintf("fd00:%d::1/64", i))},
			AddrsB: []netip.Prefix{p(fmt.Sprintf("10.0.%d.2/24", i)), p(fmt.Sprintf("fd00:%d::2/64", i))},
		})
		if err != nil {
			t.Fatal(err)
		}
		nstest.Run(t, n.far[i], "ip", "route", "add", "default", "via", fmt.Sprintf("10.0.%d.1", i))
		nstest.Run(t, n.far[i], "ip", "-6", "route", "add", "default", "via", fmt.Sprintf("fd00:%d::1", i))
	}
	return n
}

func (n *net3) set(c FirewallConfig) {
	n.Helper()
	for range 2 {
		if err := n.gw.Do(func() error { return n.host.SetFirewall(n.Context(), c) }); err != nil {
			n.Fatal(err)
		}
	}
}

// listen opens a TCP listener in a namespace.
func listen(t *testing.T, ns *netns.NS, port int) net.Listener {
	t.Helper()
	var l net.Listener
	if err := ns.Do(func() (err error) {
		l, err = net.Listen("tcp", fmt.Sprintf(":%d", port))
		return err
	}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

// reaches tells whether a TCP connection from a namespace succeeds.
func reaches(t *testing.T, from *netns.NS, to string) bool {
	t.Helper()
	var c net.Conn
	err := from.Do(func() (err error) {
		c, err = dialHere(t.Context(), to)
		return err
	})
	if err == nil {
		c.Close()
	}
	return err == nil
}

// dialHere connects without the helper goroutines of net.Dial for names, which would run outside the namespace.
func dialHere(ctx context.Context, to string) (net.Conn, error) {
	ap, err := netip.ParseAddrPort(to)
	if err != nil {
		return nil, err
	}
	d := net.Dialer{Timeout: 300 * time.Millisecond}
	return d.DialTCP(ctx, "tcp", netip.AddrPort{}, ap)
}

func TestFirewallBGP(t *testing.T) {
	n := newNet3(t)
	listen(t, n.gw, 179)
	listen(t, n.gw, 180)
	nstest.Run(t, n.gw, "nft", "add", "table", "inet", "other")
	n.set(FirewallConfig{BGPPort: 179, TunnelDevices: []string{"wg-a", "wg-later"}, LANNeighbours: []netip.Addr{ip("10.0.1.2"), ip("fd00:1::2")}})
	for i, want := range []bool{true, true, false} {
		for _, a := range []string{"10.0.%d.1", "[fd00:%d::1]"} {
			addr := fmt.Sprintf(a, i)
			if got := reaches(t, n.far[i], addr+":179"); got != want {
				t.Errorf("%s to BGP: %v, want %v", n.names[i], got, want)
			}
			if !reaches(t, n.far[i], addr+":180") {
				t.Errorf("%s: another port is blocked", n.names[i])
			}
		}
	}
	if !reaches(t, n.gw, "10.0.2.1:179") || !reaches(t, n.gw, "[::1]:179") {
		t.Error("the machine does not reach itself")
	}
	// The LAN neighbour is no longer one; the table is replaced, not added to.
	n.set(FirewallConfig{BGPPort: 179, TunnelDevices: []string{"wg-a"}})
	if reaches(t, n.far[1], "10.0.1.1:179") || !reaches(t, n.far[0], "10.0.0.1:179") {
		t.Error("the table was not replaced")
	}
	if err := n.gw.Do(func() error { return errors.Join(n.host.Teardown(t.Context()), n.host.Teardown(t.Context())) }); err != nil {
		t.Fatal(err)
	}
	if got := nstest.Run(t, n.gw, "nft", "list", "tables"); strings.TrimSpace(got) != "table inet other" {
		t.Errorf("left behind:\n%s", got)
	}
	if !reaches(t, n.far[2], "10.0.2.1:179") {
		t.Error("still blocked")
	}
}

func TestFirewallMSS(t *testing.T) {
	n := newNet3(t)
	if err := n.gw.MTU("wg-a", 1300); err != nil {
		t.Fatal(err)
	}
	far := listen(t, n.far[0], 8080) // behind the tunnel
	own := listen(t, n.far[1], 8080)
	n.set(FirewallConfig{TunnelDevices: []string{"wg-a"}, ClampMSS: true})
	// What the listener is told in the SYN bounds its segments.
	told := func(l net.Listener, from *netns.NS, to string) int {
		t.Helper()
		var c net.Conn
		if err := from.Do(func() (err error) {
			c, err = dialHere(t.Context(), to)
			return err
		}); err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		s, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		raw, err := s.(*net.TCPConn).SyscallConn()
		if err != nil {
			t.Fatal(err)
		}
		mss := 0
		if e := raw.Control(func(fd uintptr) {
			mss, err = unix.GetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_MAXSEG)
		}); e != nil || err != nil {
			t.Fatal(e, err)
		}
		return mss
	}
	const timestamps = 12 // the option takes these from every segment
	for _, c := range []struct {
		name string
		l    net.Listener
		from *netns.NS
		to   string
		want int
	}{
		{"LAN to tunnel", far, n.far[2], "10.0.0.2:8080", 1300 - 40 - timestamps},
		{"LAN to tunnel, IPv6", far, n.far[2], "[fd00:0::2]:8080", 1300 - 60 - timestamps},
		{"tunnel to LAN", own, n.far[0], "10.0.1.2:8080", 1300 - 40 - timestamps},
		{"tunnel to LAN, IPv6", own, n.far[0], "[fd00:1::2]:8080", 1300 - 60 - timestamps},
		{"LAN to LAN", own, n.far[2], "10.0.1.2:8080", 1500 - 40 - timestamps},
		{"gateway to tunnel", far, n.gw, "10.0.0.2:8080", 1300 - 40 - timestamps},
	} {
		if got := told(c.l, c.from, c.to); got != c.want {
			t.Errorf("%s: segments of %d, want %d", c.name, got, c.want)
		}
	}
}

// TestFirewallBFD: a datagram that was forwarded (TTL 254) does not get in, one from the cable does.
func TestFirewallBFD(t *testing.T) {
	n := newNet3(t)
	n.set(FirewallConfig{BFD: true})
	for _, family := range []struct{ network, to string }{{"udp4", "10.0.0.1"}, {"udp6", "fd00::1"}} {
		var l *net.UDPConn
		if err := n.gw.Do(func() (err error) {
			l, err = net.ListenUDP(family.network, &net.UDPAddr{Port: 3784})
			return err
		}); err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		send := func(ttl int, text string) {
			t.Helper()
			err := n.far[0].Do(func() error {
				d := net.Dialer{Control: func(_, _ string, c syscall.RawConn) (err error) {
					e := c.Control(func(fd uintptr) {
						if family.network == "udp4" {
							err = unix.SetsockoptInt(int(fd), unix.IPPROTO_IP, unix.IP_TTL, ttl)
						} else {
							err = unix.SetsockoptInt(int(fd), unix.IPPROTO_IPV6, unix.IPV6_UNICAST_HOPS, ttl)
						}
					})
					return errors.Join(e, err)
				}}
				c, err := d.DialUDP(t.Context(), family.network, netip.AddrPort{}, netip.AddrPortFrom(ip(family.to), 3784))
				if err != nil {
					return err
				}
				defer c.Close()
				_, err = c.Write([]byte(text))
				return err
			})
			if err != nil {
				t.Fatal(err)
			}
		}
		send(254, "far")
		send(255, "near")
		if err := l.SetReadDeadline(time.Now().Add(2 * time.Second)); err != nil {
			t.Fatal(err)
		}
		b := make([]byte, 16)
		k, err := l.Read(b)
		if err != nil || string(b[:k]) != "near" {
			t.Errorf("%s: %q, %v", family.network, b[:k], err)
		}
	}
}

// TestUnprivileged: what is missing is said.
func TestUnprivileged(t *testing.T) {
	r := newRig(t)
	err := r.ns.Do(func() error {
		hdr := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
		var old, none [2]unix.CapUserData
		if err := unix.Capget(&hdr, &old[0]); err != nil {
			return err
		}
		none[0].Permitted, none[1].Permitted = old[0].Permitted, old[1].Permitted
		if err := unix.Capset(&hdr, &none[0]); err != nil {
			return err
		}
		for what, err := range map[string]error{
			"link":     r.host.SetLink(t.Context(), LinkConfig{Name: "tun0", Up: true}),
			"rules":    r.host.SetRules(t.Context(), RulesConfig{Mark: 1, Priority: 1000}),
			"firewall": r.host.SetFirewall(t.Context(), FirewallConfig{BGPPort: 179}),
		} {
			if !errors.Is(err, os.ErrPermission) || !strings.Contains(err.Error(), "CAP_NET_ADMIN") {
				t.Errorf("%s: %v", what, err)
			}
			if _, ok := errors.AsType[*FirewallError](err); ok != (what == "firewall") {
				t.Errorf("%s: %T", what, err)
			}
		}
		return unix.Capset(&hdr, &old[0])
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestIfname(t *testing.T) {
	b := ifname("wg-a")
	if len(b) != 16 || binary.BigEndian.Uint32(b) != 0x77672d61 || b[4] != 0 {
		t.Errorf("% x", b)
	}
}

// TestFirewallPrints: what nft(8) lists of our table names the devices, and can be loaded again.
func TestFirewallPrints(t *testing.T) {
	nstest.Need(t, nstest.Program("nft"))
	r := newRig(t)
	if err := r.ns.Do(func() error {
		return r.host.SetFirewall(t.Context(), FirewallConfig{BGPPort: 179, TunnelDevices: []string{"tun0", "tun1"}, ClampMSS: true})
	}); err != nil {
		t.Fatal(err)
	}
	listing := nstest.Run(t, r.ns, "nft", "list", "table", "inet", FirewallTable)
	for _, want := range []string{`"tun0"`, `"tun1"`} {
		if !strings.Contains(listing, want) {
			t.Errorf("%s is not in\n%s", want, listing)
		}
	}
	file := filepath.Join(t.TempDir(), "rules")
	if err := os.WriteFile(file, []byte(listing), 0o600); err != nil {
		t.Fatal(err)
	}
	nstest.Run(t, r.ns, "nft", "-c", "-f", file)
}
