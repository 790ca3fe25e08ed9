package netns

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// LinkOpts describes a veth pair. The zero value is an Ethernet link of 1500 bytes without addresses but the link-local ones.
type LinkOpts struct {
	// MTU in bytes; 0 is 1500.
	MTU int
	// AddrsA and AddrsB are the addresses of the two ends.
	AddrsA, AddrsB []netip.Prefix
	// MACA and MACB, if set, fix the link-layer and so the link-local addresses.
	MACA, MACB net.HardwareAddr
}

// Link connects two namespaces by a cable (a veth pair) and sets both ends up. Both names may be the same; a and b may be one namespace
// if the names differ.
func Link(a *NS, ifA string, b *NS, ifB string, o LinkOpts) error {
	if err := veth(a, ifA, b, ifB, o); err != nil {
		return fmt.Errorf("link %s/%s to %s/%s: %w", a, ifA, b, ifB, err)
	}
	for _, end := range []struct {
		ns    *NS
		dev   string
		addrs []netip.Prefix
	}{{a, ifA, o.AddrsA}, {b, ifB, o.AddrsB}} {
		if err := end.ns.Addr(end.dev, end.addrs...); err != nil {
			return err
		}
		if err := end.ns.Up(end.dev); err != nil {
			return err
		}
	}
	for _, end := range []struct {
		ns  *NS
		dev string
	}{{a, ifA}, {b, ifB}} {
		if err := end.ns.ready(end.dev); err != nil {
			return err
		}
	}
	return nil
}

// ready waits for the kernel to notice that the cable is plugged in: before that it answers no neighbour solicitation.
func (n *NS) ready(dev string) error {
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Second)
	defer cancel()
	return WaitFor(ctx, time.Millisecond, fmt.Sprintf("%s/%s to come up", n, dev), func() error {
		l, err := n.link(dev)
		if err != nil {
			return err
		}
		if state := l.Attrs().OperState; state != netlink.OperUp {
			return fmt.Errorf("it is %s", state)
		}
		addrs, err := n.nl.AddrList(l, netlink.FAMILY_V6)
		if err != nil {
			return err
		}
		for _, a := range addrs {
			if a.Flags&unix.IFA_F_TENTATIVE != 0 {
				return fmt.Errorf("%s is tentative", a.IP)
			}
		}
		return nil
	})
}

func veth(a *NS, ifA string, b *NS, ifB string, o LinkOpts) error {
	mtu := o.MTU
	if mtu == 0 {
		mtu = 1500
	}
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.MTU, attrs.HardwareAddr = ifA, mtu, o.MACA
	// If both ends have the same index, as happens in symmetric labs, the kernel takes them for an ordinary device and notices the
	// carrier up to a second later (linkwatch_urgent_event). So one end gets an index that the other will hardly have.
	for _, n := range []*NS{a, b} {
		links, err := n.nl.LinkList()
		if err != nil {
			return err
		}
		for _, l := range links {
			attrs.Index = max(attrs.Index, l.Attrs().Index+1000)
		}
	}
	v := netlink.NewVeth(attrs)
	v.PeerName, v.PeerMTU, v.PeerHardwareAddr = ifB, uint32(mtu), o.MACB
	v.PeerNamespace = netlink.NsFd(b.fd)
	return a.nl.LinkAdd(v)
}

// Bridge makes an Ethernet switch in the namespace: an underlay that connects any number of sites. It forwards at once (no spanning tree).
func Bridge(n *NS, name string) error {
	attrs := netlink.NewLinkAttrs()
	attrs.Name = name
	if err := n.nl.LinkAdd(&netlink.Bridge{LinkAttrs: attrs}); err != nil {
		return fmt.Errorf("bridge %s/%s: %w", n, name, err)
	}
	return n.Up(name)
}

// Attach plugs a site into a switch made by Bridge: the A end of o is the site's interface ifname, the B end is the switch port. The port
// is named after the site (see PortName), so that faults can be put on either end.
func Attach(sw *NS, bridge string, site *NS, ifname string, o LinkOpts) error {
	port := PortName(site, ifname)
	if err := Link(site, ifname, sw, port, o); err != nil {
		return err
	}
	br, err := sw.link(bridge)
	if err != nil {
		return err
	}
	p, err := sw.link(port)
	if err != nil {
		return err
	}
	if err := sw.nl.LinkSetMaster(p, br); err != nil {
		return fmt.Errorf("attach %s/%s to %s/%s: %w", site, ifname, sw, bridge, err)
	}
	return nil
}

// PortName is the name of the switch port that Attach makes for a site's interface: SITE-IFNAME, shortened to what the kernel takes.
func PortName(site *NS, ifname string) string {
	const ifnamsiz = 15
	name := site.name
	if room := ifnamsiz - len(ifname) - 1; len(name) > room {
		name = name[:max(room, 0)]
	}
	return name + "-" + ifname
}

func (n *NS) link(dev string) (netlink.Link, error) {
	l, err := n.nl.LinkByName(dev)
	if err != nil {
		return nil, fmt.Errorf("device %s/%s: %w", n, dev, err)
	}
	return l, nil
}

// Index is the interface index of a device.
func (n *NS) Index(dev string) (int, error) {
	l, err := n.link(dev)
	if err != nil {
		return 0, err
	}
	return l.Attrs().Index, nil
}

// Up sets a device up.
func (n *NS) Up(dev string) error { return n.change(dev, "set up", n.nl.LinkSetUp) }

// Down sets a device down. The kernel then forgets its IPv4 routes without telling anybody.
func (n *NS) Down(dev string) error { return n.change(dev, "set down", n.nl.LinkSetDown) }

// DelLink removes a device (and the other end of a veth pair).
func (n *NS) DelLink(dev string) error { return n.change(dev, "delete", n.nl.LinkDel) }

// MTU sets a device's MTU in bytes.
func (n *NS) MTU(dev string, bytes int) error {
	return n.change(dev, "set the MTU of", func(l netlink.Link) error { return n.nl.LinkSetMTU(l, bytes) })
}

func (n *NS) change(dev, what string, f func(netlink.Link) error) error {
	l, err := n.link(dev)
	if err != nil {
		return err
	}
	if err := f(l); err != nil {
		return fmt.Errorf("%s %s/%s: %w", what, n, dev, err)
	}
	return nil
}

// Addr adds addresses to a device. An address that is there already is not an error.
func (n *NS) Addr(dev string, addrs ...netip.Prefix) error {
	return n.eachAddr(dev, "add", os.ErrExist, n.nl.AddrReplace, addrs)
}

// OnlyAddr gives a device these addresses and no others but link-local ones.
func (n *NS) OnlyAddr(dev string, addrs ...netip.Prefix) error {
	l, err := n.link(dev)
	if err != nil {
		return err
	}
	have, err := n.nl.AddrList(l, netlink.FAMILY_ALL)
	if err != nil {
		return fmt.Errorf("addresses of %s/%s: %w", n, dev, err)
	}
	var old []netip.Prefix
	for _, a := range have {
		ip, _ := netip.AddrFromSlice(a.IP) // the kernel's are four or sixteen bytes
		bits, _ := a.Mask.Size()
		if p := netip.PrefixFrom(ip.Unmap(), bits); !p.Addr().IsLinkLocalUnicast() && !slices.Contains(addrs, p) {
			old = append(old, p)
		}
	}
	if err := n.Addr(dev, addrs...); err != nil {
		return err
	}
	return n.DelAddr(dev, old...)
}

// DelAddr removes addresses from a device. An address that is not there is not an error.
func (n *NS) DelAddr(dev string, addrs ...netip.Prefix) error {
	return n.eachAddr(dev, "delete", unix.EADDRNOTAVAIL, n.nl.AddrDel, addrs)
}

func (n *NS) eachAddr(dev, what string, fine error, f func(netlink.Link, *netlink.Addr) error, addrs []netip.Prefix) error {
	l, err := n.link(dev)
	if err != nil {
		return err
	}
	for _, p := range addrs {
		if err := f(l, &netlink.Addr{IPNet: ipNet(p)}); err != nil && !errors.Is(err, fine) {
			return fmt.Errorf("%s address %s on %s/%s: %w", what, p, n, dev, err)
		}
	}
	return nil
}

// Route adds or replaces a route: through via, or straight to dev if via is the zero Addr. With both, via need not be reachable by itself
// (onlink). An IPv4 route may have an IPv6 via (RFC 8950). dev may be empty if via says enough.
func (n *NS) Route(dst netip.Prefix, via netip.Addr, dev string) error {
	r, err := n.route(dst, via, dev)
	if err == nil {
		err = n.nl.RouteReplace(r)
	}
	if err != nil {
		return fmt.Errorf("route %s via %v dev %q in %s: %w", dst, via, dev, n, err)
	}
	return nil
}

// DelRoute removes what Route added with the same arguments.
func (n *NS) DelRoute(dst netip.Prefix, via netip.Addr, dev string) error {
	r, err := n.route(dst, via, dev)
	if err == nil {
		err = n.nl.RouteDel(r)
	}
	if err != nil {
		return fmt.Errorf("delete route %s via %v dev %q in %s: %w", dst, via, dev, n, err)
	}
	return nil
}

func (n *NS) route(dst netip.Prefix, via netip.Addr, dev string) (*netlink.Route, error) {
	r := &netlink.Route{Dst: ipNet(dst.Masked())}
	if dev != "" {
		i, err := n.Index(dev)
		if err != nil {
			return nil, err
		}
		r.LinkIndex = i
	}
	if !via.IsValid() {
		r.Scope = netlink.SCOPE_LINK
		return r, nil
	}
	if dev != "" {
		r.Flags = int(netlink.FLAG_ONLINK)
	}
	if dst.Addr().Is4() && via.Is6() {
		r.Via = &netlink.Via{AddrFamily: netlink.FAMILY_V6, Addr: via.AsSlice()}
	} else {
		r.Gw = via.AsSlice()
	}
	return r, nil
}

// Sysctl sets a network setting of the namespace, such as net.ipv4.ip_forward. Settings outside net. belong to the whole machine and are refused.
// A dot inside a device name is written as a slash, as sysctl(8) does.
func (n *NS) Sysctl(key, value string) error {
	if !strings.HasPrefix(key, "net.") || strings.Contains(key, "..") {
		return fmt.Errorf("sysctl %s in %s: only net.* belongs to a namespace", key, n)
	}
	path := filepath.Join("/proc/sys", strings.Map(func(r rune) rune {
		switch r {
		case '.':
			return '/'
		case '/':
			return '.'
		}
		return r
	}, key))
	if err := n.Do(func() error { return os.WriteFile(path, []byte(value), 0o644) }); err != nil {
		return fmt.Errorf("sysctl %s=%s in %s: %w", key, value, n, err)
	}
	return nil
}

// Forward makes the namespace a router for both families.
func (n *NS) Forward() error {
	return errors.Join(n.Sysctl("net.ipv4.ip_forward", "1"), n.Sysctl("net.ipv6.conf.all.forwarding", "1"))
}

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}
