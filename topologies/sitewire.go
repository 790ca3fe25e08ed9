package topologies

import (
	"fmt"
	"net/netip"
	"strings"
)

// KeyVariable is the environment variable that a gateway's configuration takes its private key from; see Key.
const KeyVariable = "SITEWIRE_LAB_KEY"

// SitewireConfig renders the configuration of a gateway: what an operator would write, but for timers that nobody wants to wait for.
func (w *Network) SitewireConfig(n *Node) string {
	var b strings.Builder
	p := func(format string, args ...any) { fmt.Fprintf(&b, format, args...) }
	p("# %s: %s\nsite: %s\nasn: %d\nrouter_id: %s\nannounce: [%s]\n", w.Name, n.Name, n.Name, n.ASN, n.RouterID, join(n.Announce, ", "))
	p("wireguard:\n  private_key: ${env:%s}\n", KeyVariable)
	if n.Device != "" {
		p("  device: %s\n", n.Device)
	}
	p("bgp: { hold_time: 9s, keepalive: 3s, connect_retry: 2s } # a lab does not wait 90 s for a dead neighbour\n")
	if src := w.source(n, false); src.IsValid() {
		p("routes: { source_ipv4: %s, source_ipv6: %s }\n", src, w.source(n, true))
	}
	if n.Metrics != "" {
		p("metrics: { listen: %q }\n", n.Metrics)
	}
	if ends := w.TunnelEnds(n); len(ends) > 0 {
		p("peers:\n")
		for _, e := range ends {
			w.sitewirePeer(p, e[0], e[1])
		}
	}
	if sessions := w.sessionsOf(n); len(sessions) > 0 {
		p("neighbours:\n")
		for _, s := range sessions {
			// A session for each family: routers on a LAN often have no extended next hop.
			for _, v6 := range []bool{false, true} {
				more := ""
				if s.bfd {
					more = ", bfd: " + bfd
				}
				p("  %s-%s: { address: %s, asn: %d, policy: %s, families: [%[2]s]%[6]s }\n", s.other.Node.Name, family(v6), s.other.Addr(v6),
					s.other.Node.ASN, s.policy, more)
			}
		}
	}
	if len(n.Policies) > 0 {
		p("policies:\n")
		for _, x := range n.Policies {
			p("  %s:\n    extends: %s\n", x.Name, x.Extends)
			if x.LocalPref != 0 {
				p("    import: [{ name: preference, action: next, set: { local_pref: %d } }]\n", x.LocalPref)
			}
			if x.Prepend != 0 {
				p("    export: [{ name: preference, action: next, set: { prepend: %d } }]\n", x.Prepend)
			}
		}
	}
	return b.String()
}

// bfd is BFD as labs have it: silence is noticed within 1.5 s. Networks whose machines do nothing else have shorter intervals.
var bfd = fmt.Sprintf("{ interval: %dms, multiplier: %d }", bfdInterval, bfdMultiplier)

func (w *Network) sitewirePeer(p func(string, ...any), own, other *End) {
	p("  %s:\n    public_key: %s\n", own.Peer, Key(w.Name, other.Node.Name).Public())
	if other.Address.IsValid() {
		p("    endpoint: %s\n", netip.AddrPortFrom(other.Address, other.Port))
	}
	if own.Node.Device == "" && own.Port != 0 {
		p("    listen_port: %d\n", own.Port)
	}
	p("    keepalive: 5s\n    dead_after: 15s\n")
	var inner []string
	for _, a := range []struct {
		key  string
		addr netip.Addr
	}{{"local", own.Inner}, {"remote", other.Inner}, {"local_ipv4", own.Inner4}, {"remote_ipv4", other.Inner4}} {
		if a.addr.IsValid() {
			inner = append(inner, a.key+": "+a.addr.String())
		}
	}
	if inner != nil {
		p("    tunnel: { %s }\n", strings.Join(inner, ", "))
	}
	switch {
	case len(own.AllowedIPs) == 1 && own.AllowedIPs[0] == "any":
		p("    allowed_ips: any\n")
	case own.AllowedIPs != nil:
		p("    allowed_ips: [%s]\n", strings.Join(own.AllowedIPs, ", "))
	}
	if other.Node.ASN != 0 {
		p("    asn: %d\n    policy: %s\n", other.Node.ASN, own.Policy)
		var bgp []string
		if w.TunnelOf(own).NoExtendedNextHop {
			bgp = append(bgp, "extended_next_hop: off")
		}
		if w.TunnelOf(own).BFD {
			bgp = append(bgp, "bfd: "+bfd)
		}
		if bgp != nil {
			p("    bgp: { %s }\n", strings.Join(bgp, ", "))
		}
	}
}

// source is the address that packets of the node itself take through tunnels: the one on its LAN.
func (w *Network) source(n *Node, ipv6 bool) netip.Addr {
	for _, port := range w.Ports(n) {
		for _, a := range n.Announce {
			if x := port.Addr(ipv6); x.IsValid() && a.Contains(x) {
				return x
			}
		}
	}
	return netip.Addr{}
}

// lanSession is a Session as one of its nodes sees it.
type lanSession struct {
	own, other Port
	policy     string
	bfd        bool
}

func (w *Network) sessionsOf(n *Node) []lanSession {
	var out []lanSession
	for _, s := range w.Sessions {
		if s.A.Node == n {
			out = append(out, lanSession{s.A, s.B, s.PolicyA, s.BFD})
		}
		if s.B.Node == n {
			out = append(out, lanSession{s.B, s.A, s.PolicyB, s.BFD})
		}
	}
	return out
}

func family(ipv6 bool) string {
	if ipv6 {
		return "ipv6"
	}
	return "ipv4"
}
