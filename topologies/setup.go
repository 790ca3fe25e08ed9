package topologies

import (
	"fmt"
	"net/netip"
	"strings"
)

// Places of a node's files, as the node sees them.
const (
	sitewireFile  = "/etc/sitewire/sitewire.yaml"
	birdFile      = "/etc/bird/bird.conf"
	frrFile       = "/etc/frr/frr.conf"
	gobgpFile     = "/etc/gobgp/gobgpd.toml"
	wireguardPath = "/etc/wireguard/"
)

// TunnelMTU is WireGuard's usual MTU in bytes: 1500 less IPv6, UDP and WireGuard's own headers.
const TunnelMTU = 1420

// StaticRoutes lists what a node without BGP sends into its tunnel: every address that a lab has inside.
func StaticRoutes(n *Node) []netip.Prefix {
	if n.ASN != 0 {
		return nil
	}
	return []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("fd00::/8")}
}

// Files lists a node's files: paths as the node sees them, and contents. None holds a secret.
func (w *Network) Files(n *Node) map[string]string {
	files := map[string]string{}
	switch n.Role {
	case Gateway:
		files[sitewireFile] = w.SitewireConfig(n)
	case BIRD:
		files[birdFile] = w.BIRDConfig(n)
	case FRR:
		files[frrFile] = w.FRRConfig(n)
	case GoBGP:
		files[gobgpFile] = w.GoBGPConfig(n)
	}
	if n.Foreign() {
		for _, e := range w.TunnelEnds(n) {
			files[wireguardPath+e[0].Device+".conf"] = w.WireGuardConfig(e[0], e[1])
		}
	}
	return files
}

// Setup lists the commands that give a node its addresses, routes and tunnels, once its cables are plugged in. They need no shell but
// where they say so. A gateway's image has nothing but sitewire in it, so sitewire sets its interfaces up too.
func (w *Network) Setup(n *Node) []string {
	var out []string
	add := func(format string, args ...any) { out = append(out, fmt.Sprintf(format, args...)) }
	for _, p := range w.Ports(n) {
		if n.Role == Gateway {
			add("sitewire lab link %s %s", p.Interface, join(p.Addresses, " "))
			continue
		}
		for _, a := range p.Addresses {
			add("ip address add %s dev %s", a, p.Interface)
		}
	}
	for _, r := range n.Routes {
		if n.Role == Gateway {
			add("sitewire lab route %s %s", r.Prefix, r.Via)
		} else {
			add("ip route replace %s via %s", r.Prefix, r.Via)
		}
	}
	if !n.Foreign() {
		return out
	}
	for _, e := range w.TunnelEnds(n) {
		own, other := e[0], e[1]
		add("wireguard-go %s", own.Device)
		add("wg setconf %s %s%[1]s.conf", own.Device, wireguardPath)
		add(`sh -c "sitewire lab key %s %s | wg set %s private-key /dev/stdin"`, w.Name, n.Name, own.Device)
		add("ip link set %s mtu %d up", own.Device, TunnelMTU)
		if own.Inner.IsValid() {
			add("ip address add %s dev %s", netip.PrefixFrom(own.Inner, 64), own.Device)
		}
		if own.Inner4.IsValid() && other.Inner4.IsValid() {
			add("ip address add %s peer %s dev %s", own.Inner4, other.Inner4, own.Device)
		}
		for _, p := range StaticRoutes(n) {
			add("ip route replace %s dev %s", p, own.Device)
		}
	}
	return out
}

func join[T fmt.Stringer](list []T, sep string) string {
	words := make([]string, len(list))
	for i, x := range list {
		words[i] = x.String()
	}
	return strings.Join(words, sep)
}
