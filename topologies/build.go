package topologies

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"time"
)

// builder makes a Network. Addresses follow from numbers, so that they can be read: site 7 has the LAN 10.7.0.0/24 and fd00:7::/64 with
// the gateway at .1 and the host at .10, and uplink 7 is 198.18.7.0/24 and 2001:db8:7::/64 with the internet at .1 and the site at .2
// (RFC 2544, RFC 3849).
type builder struct {
	*Network
	uplinks int
}

func newNetwork(name, title, about string) *builder {
	return &builder{Network: &Network{Name: name, Title: title, About: about}}
}

func (b *builder) node(name string, role Role, site string) *Node {
	n := &Node{Name: name, Role: role, Site: site}
	b.Nodes = append(b.Nodes, n)
	return n
}

// cable joins two nodes by their next free interfaces.
func (b *builder) cable(x *Node, xs []netip.Prefix, y *Node, ys []netip.Prefix) *Link {
	l := &Link{A: b.port(x, xs), B: b.port(y, ys)}
	b.Links = append(b.Links, l)
	return l
}

func (b *builder) port(n *Node, addresses []netip.Prefix) Port {
	n.ports++
	return Port{Node: n, Interface: fmt.Sprintf("eth%d", n.ports), Addresses: addresses}
}

// uplink joins a node to a router of the internet, with a default route there, and returns the node's outer address.
func (b *builder) uplink(n, internet *Node) netip.Addr {
	b.uplinks++
	net4, net6 := uplink4(b.uplinks), uplink6(b.uplinks)
	b.cable(n, both(net4, net6, 2), internet, both(net4, net6, 1))
	n.Routes = append(n.Routes,
		Route{netip.MustParsePrefix("0.0.0.0/0"), host(net4, 1)},
		Route{netip.MustParsePrefix("::/0"), host(net6, 1)})
	return host(net4, 2)
}

// line joins two routers by a line of their own, which has the place of an uplink, and returns their outer addresses.
func (b *builder) line(x, y *Node) (netip.Addr, netip.Addr) {
	b.uplinks++
	net4, net6 := uplink4(b.uplinks), uplink6(b.uplinks)
	b.cable(x, both(net4, net6, 1), y, both(net4, net6, 2))
	return host(net4, 1), host(net4, 2)
}

// outage adds the scenario of a network without a second way: a node is cut off for longer than any timer of its neighbours, and comes
// back.
func (b *builder) outage(n *Node, from, to string) {
	b.Scenarios = append(b.Scenarios, &Scenario{
		Name: n.Name + " is cut off for 20 s", Cut: b.uplinksOf(n), Outage: 20 * time.Second, From: b.Node(from), To: b.Node(to), Within: 15 * time.Second,
	})
}

// uplinksOf are the cables that lead out of the node's site.
func (b *builder) uplinksOf(n *Node) []*Link {
	return slices.DeleteFunc(b.LinksOf(n), func(l *Link) bool { return l.A.Node.Site == l.B.Node.Site })
}

// lan gives a router a LAN with a host, and has the router announce it.
func (b *builder) lan(n *Node, number int, net4, net6 netip.Prefix) *Node {
	h := b.node(n.Site+"-host", Host, n.Site)
	b.cable(n, both(net4, net6, 1), h, both(net4, net6, 10))
	h.Routes = []Route{
		{netip.MustParsePrefix("0.0.0.0/0"), host(net4, 1)},
		{netip.MustParsePrefix("::/0"), host(net6, 1)},
	}
	n.RouterID = host(net4, 1)
	n.Announce = append(n.Announce, net4, net6)
	return h
}

// site makes a router with a LAN and a host. Its ASN is a private one (RFC 6996).
func (b *builder) site(name string, role Role, number int) *Node {
	n := b.node(name, role, name)
	n.ASN = 4200000000 + uint32(number)
	b.lan(n, number, lan4(number), lan6(number))
	return n
}

// tunnel joins two routers. Each tunnel of a router has a port of its own, unless it has a shared device.
func (b *builder) tunnel(x End, y End) *Tunnel {
	t := &Tunnel{A: x, B: y}
	for _, e := range t.Ends() {
		own, other := e[0], e[1]
		if own.Peer == "" {
			own.Peer = other.Node.Name
		}
		if own.Device == "" {
			own.Device = "wg-" + own.Peer
		}
		if own.Node.Device != "" {
			own.Device, own.Port = own.Node.Device, sharedPort
		} else if own.Port == 0 && own.Address.IsValid() {
			own.Port = basePort + own.Node.tunnels
			own.Node.tunnels++
		}
	}
	b.Tunnels = append(b.Tunnels, t)
	return t
}

// Ports of WireGuard: that of a shared device, and the first of devices of their own.
const (
	sharedPort = 51820
	basePort   = 51820
)

func lan4(number int) netip.Prefix {
	return netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(number), 0, 0}), 24)
}

func lan6(number int) netip.Prefix {
	return prefix6([8]uint16{0xfd00, readable(number)}, 64)
}

// readable is the part of an IPv6 address that is written as a number is: 17 is 0x17.
func readable(number int) uint16 {
	n, _ := strconv.ParseUint(strconv.Itoa(number), 16, 16) // digits only, and few
	return uint16(n)
}

func uplink4(number int) netip.Prefix {
	return netip.PrefixFrom(netip.AddrFrom4([4]byte{198, 18 + byte(number>>8), byte(number), 0}), 24)
}

func uplink6(number int) netip.Prefix {
	return prefix6([8]uint16{0x2001, 0xdb8, readable(number)}, 64)
}

func prefix6(words [8]uint16, bits int) netip.Prefix {
	var b [16]byte
	for i, w := range words {
		binary.BigEndian.PutUint16(b[2*i:], w)
	}
	return netip.PrefixFrom(netip.AddrFrom16(b), bits)
}

// host is the address of a network whose last byte is n.
func host(p netip.Prefix, n byte) netip.Addr {
	b := p.Addr().AsSlice()
	b[len(b)-1] = n
	a, _ := netip.AddrFromSlice(b) // four or sixteen bytes, as they came
	return a
}

// both are the addresses with this last byte in two networks.
func both(net4, net6 netip.Prefix, n byte) []netip.Prefix {
	return []netip.Prefix{netip.PrefixFrom(host(net4, n), net4.Bits()), netip.PrefixFrom(host(net6, n), net6.Bits())}
}
