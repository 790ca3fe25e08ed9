package topologies

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

// Timers of foreign BGP speakers, in seconds: those of SitewireConfig.
const (
	holdTime  = 9
	keepalive = 3
)

// BFD's interval in milliseconds, and how many packets may be missing.
const (
	bfdInterval   = 300
	bfdMultiplier = 5
)

// bgpLink is a BGP session as one end sees it, in a tunnel or on a cable.
type bgpLink struct {
	name          string // of the other node
	device        string // set for a link-local remote
	local, remote netip.Addr
	remoteASN     uint32
	ipv4, ipv6    bool
	bfd           bool
	// extended: IPv4 routes have IPv6 next hops; if not, and the session is over IPv6, they have nextHop.
	extended bool
	nextHop  netip.Addr
}

// bgpLinks lists the sessions of a foreign node.
func (w *Network) bgpLinks(n *Node) []bgpLink {
	var out []bgpLink
	for _, e := range w.TunnelEnds(n) {
		own, other := e[0], e[1]
		if t := w.TunnelOf(own); t.BGP() {
			out = append(out, bgpLink{
				name: own.Peer, device: own.Device, local: own.Inner, remote: other.Inner, remoteASN: other.Node.ASN,
				ipv4: true, ipv6: true, bfd: t.BFD, extended: !t.NoExtendedNextHop, nextHop: own.Inner4,
			})
		}
	}
	for _, s := range w.sessionsOf(n) {
		for _, v6 := range []bool{false, true} {
			out = append(out, bgpLink{
				name: s.other.Node.Name, local: s.own.Addr(v6), remote: s.other.Addr(v6), remoteASN: s.other.Node.ASN, ipv4: !v6, ipv6: v6,
				bfd: s.bfd,
			})
		}
	}
	return out
}

// BIRDConfig renders bird.conf (BIRD 2).
func (w *Network) BIRDConfig(n *Node) string {
	var b strings.Builder
	p := func(format string, args ...any) { fmt.Fprintf(&b, format, args...) }
	p("# %s: %s\nlog stderr all;\nrouter id %s;\n\n", w.Name, n.Name, n.RouterID)
	p("# Announced: what is ours, and what neighbours announced to us.\n")
	own := map[bool][]netip.Prefix{}
	for _, a := range n.Announce {
		own[a.Addr().Is6()] = append(own[a.Addr().Is6()], a)
	}
	for _, v6 := range []bool{false, true} {
		p("filter announce_%s {\n", family(v6))
		if len(own[v6]) > 0 {
			p("  if net ~ [ %s ] then accept;\n", join(own[v6], ", "))
		}
		p("  if source = RTS_BGP then accept;\n  reject;\n}\n")
	}
	for _, v6 := range []bool{false, true} {
		for _, a := range own[v6] {
			if !w.connected(n, a) { // an aggregate: what nobody has of it is unreachable
				p("\nprotocol static { %s; route %s unreachable; }", family(v6), a)
			}
		}
	}
	p("\nprotocol device { scan time 5; }\nprotocol direct { ipv4; ipv6; interface \"eth*\"; }\n")
	p("protocol kernel { ipv4 { export where source = RTS_BGP; }; }\nprotocol kernel { ipv6 { export where source = RTS_BGP; }; }\n")
	links := w.bgpLinks(n)
	if slices.ContainsFunc(links, func(l bgpLink) bool { return l.bfd }) {
		p("protocol bfd { interface \"*\" { interval %d ms; multiplier %d; }; }\n", bfdInterval, bfdMultiplier)
	}
	for _, l := range links {
		remote, name := l.remote.String(), ProtocolName(l.name)
		if l.device != "" && l.remote.IsLinkLocalUnicast() {
			remote += "%'" + l.device + "'"
		}
		if l.ipv4 != l.ipv6 {
			name += "_" + family(l.ipv6)
		}
		p("\nprotocol bgp %s {\n  local %s as %d;\n  neighbor %s as %d;\n", name, l.local, n.ASN, remote, l.remoteASN)
		p("  hold time %d; keepalive time %d; connect delay time 1; connect retry time 2; error wait time 1, 5;\n", holdTime, keepalive)
		if l.bfd {
			p("  bfd on;\n")
		}
		if l.ipv4 {
			p("  ipv4 { import all; export filter announce_ipv4;")
			switch {
			case l.extended:
				p(" extended next hop on;")
			case l.nextHop.IsValid():
				p(" next hop address %s;", l.nextHop)
			}
			p(" };\n")
		}
		if l.ipv6 {
			p("  ipv6 { import all; export filter announce_ipv6; };\n")
		}
		p("}\n")
	}
	return b.String()
}

// connected tells whether a port of the node is in just this network.
func (w *Network) connected(n *Node, p netip.Prefix) bool {
	for _, port := range w.Ports(n) {
		for _, a := range port.Addresses {
			if a.Masked() == p {
				return true
			}
		}
	}
	return false
}

// ProtocolName is a node's name as BIRD takes it.
func ProtocolName(s string) string { return strings.ReplaceAll(s, "-", "_") }

// FRRConfig renders frr.conf.
func (w *Network) FRRConfig(n *Node) string {
	var b strings.Builder
	p := func(format string, args ...any) { fmt.Fprintf(&b, format, args...) }
	p("! %s: %s\nfrr defaults traditional\nhostname %[2]s\nlog stdout\n!\n", w.Name, n.Name)
	p("router bgp %d\n bgp router-id %s\n no bgp ebgp-requires-policy\n no bgp default ipv4-unicast\n no bgp network import-check\n", n.ASN, n.RouterID)
	links := w.bgpLinks(n)
	for _, l := range links {
		p(" neighbor %s remote-as %d\n neighbor %[1]s description %[3]s\n neighbor %[1]s timers %[4]d %[5]d\n neighbor %[1]s timers connect 2\n",
			l.remote, l.remoteASN, l.name, keepalive, holdTime)
		p(" neighbor %s advertisement-interval 0\n", l.remote)
		if l.device != "" && l.remote.IsLinkLocalUnicast() {
			p(" neighbor %s interface %s\n", l.remote, l.device)
		}
		if l.extended {
			p(" neighbor %s capability extended-nexthop\n", l.remote)
		}
	}
	for _, v6 := range []bool{false, true} {
		p(" address-family %s unicast\n", family(v6))
		for _, a := range n.Announce {
			if a.Addr().Is6() == v6 {
				p("  network %s\n", a)
			}
		}
		for _, l := range links {
			if v6 && l.ipv6 || !v6 && l.ipv4 {
				p("  neighbor %s activate\n", l.remote)
			}
		}
		p(" exit-address-family\n")
	}
	p("exit\n")
	return b.String()
}

// GoBGPConfig renders gobgpd.toml. It announces nothing: what a collector hears is for people, not for neighbours.
func (w *Network) GoBGPConfig(n *Node) string {
	var b strings.Builder
	p := func(format string, args ...any) { fmt.Fprintf(&b, format, args...) }
	p("# %s: %s\n[global.config]\n  as = %d\n  router-id = \"%s\"\n", w.Name, n.Name, n.ASN, n.RouterID)
	p("[global.apply-policy.config]\n  default-export-policy = \"reject-route\"\n")
	for _, l := range w.bgpLinks(n) {
		p("[[neighbors]] # %s\n  [neighbors.config]\n    neighbor-address = \"%s\"\n    peer-as = %d\n", l.name, l.remote, l.remoteASN)
		p("  [neighbors.transport.config]\n    local-address = \"%s\"\n", l.local)
		p("  [neighbors.timers.config]\n    hold-time = %d\n    keepalive-interval = %d\n    connect-retry = 2\n", holdTime, keepalive)
		// Without graceful restart gobgpd sends no End-of-RIB, for which a gateway that starts waits (RFC 4724 section 3).
		p("  [neighbors.graceful-restart.config]\n    enabled = true\n    restart-time = 120\n")
		p("  [[neighbors.afi-safis]]\n    [neighbors.afi-safis.config]\n      afi-safi-name = \"%s-unicast\"\n", family(l.ipv6))
		p("    [neighbors.afi-safis.mp-graceful-restart.config]\n      enabled = true\n")
	}
	return b.String()
}

// WireGuardConfig renders what `wg setconf` takes for one tunnel of a foreign node. The private key is set apart; see Key.
func (w *Network) WireGuardConfig(own, other *End) string {
	var b strings.Builder
	p := func(format string, args ...any) { fmt.Fprintf(&b, format, args...) }
	p("# %s: %s\n[Interface]\n", w.Name, own.Node.Name)
	if own.Port != 0 {
		p("ListenPort = %d\n", own.Port)
	}
	p("\n[Peer]\nPublicKey = %s\n", Key(w.Name, other.Node.Name).Public())
	if other.Address.IsValid() {
		p("Endpoint = %s\n", netip.AddrPortFrom(other.Address, other.Port))
	}
	p("AllowedIPs = 0.0.0.0/0, ::/0\nPersistentKeepalive = 5\n")
	return b.String()
}
