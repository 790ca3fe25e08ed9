package config

import (
	"net"
	"net/netip"
	"path/filepath"
	"slices"

	"sitewire/gateway/wg"
)

// check compares peers and neighbours with each other and with this gateway.
func (r *raw) check(d *decoder) {
	r.checkKeys(d)
	r.checkDevices(d)
	r.checkPorts(d)
	r.checkAddresses(d)
	r.checkPrefixes(d)
	r.checkSessions(d)
	r.checkMetrics(d)
	r.checkRPKI(d)
	r.checkMonitored(d)
	r.checkPrepend(d)
	if r.Routes.Protocol != 83 {
		if name, ok := foreignProtocols[r.Routes.Protocol]; ok {
			d.errorf(d.at(&r.Routes.Protocol), "%d is the route protocol number of %s, whose routes would be taken for ours", r.Routes.Protocol, name)
		}
	}
}

// foreignProtocols are the numbers of others in iproute2's rt_protos. The kernel's own (0 to 4) are out of range.
var foreignProtocols = map[uint8]string{
	8: "gated", 9: "router advertisements", 10: "mrtd", 11: "zebra", 12: "BIRD", 13: "dnrouted", 14: "xorp", 15: "ntk", 16: "DHCP clients",
	17: "mrouted", 18: "keepalived", 42: "babeld", 99: "Open/R", 186: "FRR's bgpd", 187: "FRR's isisd", 188: "FRR's ospfd", 189: "FRR's ripd",
	192: "FRR's eigrpd",
}

// checkMetrics reads the web configuration, if there is one and it can be read here, and warns of metrics that anybody may read.
func (r *raw) checkMetrics(d *decoder) {
	m := &r.Metrics
	var is WebSecurity
	if m.WebConfig != "" {
		at := d.at(&m.WebConfig)
		if !filepath.IsAbs(m.WebConfig) {
			m.WebConfig = filepath.Join(filepath.Dir(at.src.path), m.WebConfig)
		}
		if d.opts.WebConfig == nil || d.opts.WithoutSecrets {
			return
		}
		var err error
		if is, err = d.opts.WebConfig(m.WebConfig); err != nil {
			d.hintf(at, "the format is in docs/metrics.md", "%s: %v", m.WebConfig, err)
			return
		}
		if is.Exposed != "" {
			d.warnf(at, "every user of this machine may read the private key of TLS: chmod 600 %s, and make another if it matters who had it", is.Exposed)
		}
		if m.Listen == "" {
			d.warnf(at, "metrics are off, so that web_config means nothing")
			return
		}
		if is.Authenticated && !is.Encrypted {
			d.warnf(at, "passwords for metrics cross the network in clear: give %s a tls_server_config", m.WebConfig)
		}
	}
	if m.Listen != "" && !is.Authenticated && !loopback(m.Listen) {
		d.warnf(d.at(&m.Listen), "everybody who reaches %s may read the metrics, which name all peers: listen on loopback, or set metrics.web_config to a file with basic_auth_users", m.Listen)
	}
}

// loopback tells whether only this host reaches an address to listen on.
func loopback(listen string) bool {
	host, _, err := net.SplitHostPort(listen)
	if err != nil {
		return false
	}
	a, err := netip.ParseAddr(host)
	return host == "localhost" || err == nil && a.Unmap().IsLoopback()
}

// maxMonitored prefixes: each is two series for each session.
const maxMonitored = 50

func (r *raw) checkMonitored(d *decoder) {
	list := r.Metrics.Monitored
	at := d.at(&r.Metrics.Monitored)
	if len(list) > maxMonitored {
		d.errorf(at, "%d monitored prefixes: at most %d, because each is two series for each session", len(list), maxMonitored)
	}
	for i, p := range list {
		if slices.Contains(list[:i], p) {
			d.errorf(at, "%v is in the list twice", p)
		}
	}
	if len(list) > 0 && r.ASN == 0 {
		d.warnf(at, "monitored_prefixes without BGP: there is no session to tell of")
	}
}

func (r *raw) checkKeys(d *decoder) {
	seen := map[wg.PublicKey]*Peer{}
	for _, p := range r.Peers {
		if p.PublicKey.IsZero() {
			continue
		}
		at := d.at(&p.PublicKey)
		if p.PublicKey == p.OwnKey {
			d.errorf(at, "peer %s has our own public key", p.Name)
		}
		other := seen[p.PublicKey]
		seen[p.PublicKey] = p
		switch {
		case other == nil:
		case p.Device == other.Device:
			d.errorf(at, "peers %s and %s have the same public key (%s)", other.Name, p.Name, d.at(&other.PublicKey).place())
		case p.ListenPort == 0 || other.ListenPort == 0:
			d.hintf(at, "two tunnels to one router need a listen_port each, so that its packets find the right device", "peers %s and %s have the same public key (%s)", other.Name, p.Name, d.at(&other.PublicKey).place())
		}
	}
}

func (r *raw) checkDevices(d *decoder) {
	seen := map[string]*rawPeer{}
	for _, e := range r.peers {
		p := e.v
		if p.Shared || p.Device == "" {
			continue
		}
		at := d.at(&p.device, e.at)
		switch other := seen[p.Device]; {
		case other != nil:
			d.hintf(at, "to share a device between peers, name it in wireguard.device", "peers %s and %s have the same device %s", other.Name, p.Name, p.Device)
		case p.Device == r.WireGuard.Device:
			d.errorf(at, "the own device of peer %s has the name of the shared device", p.Name)
		}
		seen[p.Device] = p
	}
}

func (r *raw) checkPorts(d *decoder) {
	type owner struct {
		name string
		at   *node
	}
	seen := map[uint16]owner{}
	if w := &r.WireGuard; w.Device != "" && w.ListenPort != 0 {
		seen[w.ListenPort] = owner{"the shared device", d.at(&w.ListenPort, &w.Device)}
	}
	for _, p := range r.Peers {
		if p.Shared || p.ListenPort == 0 {
			continue
		}
		at := d.at(&p.ListenPort, p)
		if other, ok := seen[p.ListenPort]; ok {
			d.errorf(at, "UDP port %d is that of %s too (%s)", p.ListenPort, other.name, other.at.place())
			continue
		}
		seen[p.ListenPort] = owner{"peer " + p.Name, at}
	}
}

// checkAddresses finds addresses that would lead to two places. Link-local addresses may repeat on every device.
func (r *raw) checkAddresses(d *decoder) {
	type place struct {
		addr   netip.Addr
		device string // of link-local addresses
	}
	type owner struct {
		name string
		at   *node
	}
	seen := map[place]owner{}
	claim := func(addr netip.Addr, device, name string, at *node) {
		if !addr.IsValid() {
			return
		}
		key := place{addr.WithZone(""), ""}
		if addr.IsLinkLocalUnicast() && addr.Is6() {
			key.device = device
		}
		if other, ok := seen[key]; ok {
			d.errorf(at, "%v is the address of %s too (%s)", addr, other.name, other.at.place())
			return
		}
		seen[key] = owner{name, at}
	}
	for _, p := range r.Peers {
		t := &p.Tunnel
		for _, a := range []*netip.Addr{&t.Remote, &t.RemoteIPv4, &t.RemoteIPv6} {
			if a != &t.Remote && *a == t.Remote { // given twice, once as the transport
				continue
			}
			claim(*a, p.Device, "peer "+p.Name, d.at(a, p))
		}
	}
	for _, n := range r.Neighbours {
		claim(n.Session.Address, n.Session.Address.Zone(), "neighbour "+n.Name, d.at(n.Session))
	}
	for _, p := range r.Peers {
		for _, a := range []*netip.Addr{&p.Tunnel.Local, &p.Tunnel.LocalIPv4, &p.Tunnel.LocalIPv6} {
			key := place{*a, ""}
			if a.IsLinkLocalUnicast() && a.Is6() {
				key.device = p.Device
			}
			if other, ok := seen[key]; ok && a.IsValid() {
				d.errorf(d.at(a, p), "our address %v is that of %s too (%s)", *a, other.name, other.at.place())
			}
		}
	}
}

// checkPrefixes compares the static lists with each other, with what we announce, and with the peers' addresses.
func (r *raw) checkPrefixes(d *decoder) {
	type item struct {
		prefix netip.Prefix
		peer   *rawPeer
		at     *node
	}
	var items []item
	for _, e := range r.peers {
		seen := map[netip.Prefix]bool{}
		for _, x := range e.v.allowed.prefixes {
			if !x.v.IsValid() || seen[x.v] { // reported already
				continue
			}
			seen[x.v] = true
			items = append(items, item{x.v, e.v, x.at})
			for _, a := range r.announce {
				if a.Prefix == x.v || a.Prefix.IsValid() && a.Prefix.Bits() >= 8 && a.Prefix.Bits() < x.v.Bits() && a.Prefix.Contains(x.v.Addr()) && e.v.ASN != 0 {
					d.errorf(x.at, "%v is announced as our own (%s)", x.v, a.at.place())
					break
				}
			}
			for _, other := range r.Peers {
				for _, e := range other.Endpoints {
					if outer, ok := e.AddrPort(); ok && x.v.Bits() > 0 && x.v.Contains(outer.Addr().WithZone("")) {
						d.warnf(x.at, "%v contains the endpoint %v of peer %s: only the firewall mark keeps that tunnel out of this one", x.v, e, other.Name)
					}
				}
				if other.Name == e.name || other.Device != e.v.Device {
					continue
				}
				for _, remote := range other.Tunnel.Remotes() {
					if x.v == netip.PrefixFrom(remote.WithZone(""), remote.BitLen()) {
						d.errorf(x.at, "%v is the address of peer %s on the same device", x.v, other.Name)
					}
				}
			}
		}
	}
	// Sorted, a prefix stands behind those that contain it, and nothing else is between them.
	slices.SortStableFunc(items, func(a, b item) int { return comparePrefixes(a.prefix, b.prefix) })
	var stack []item
	for _, x := range items {
		for len(stack) > 0 && !stack[len(stack)-1].prefix.Contains(x.prefix.Addr()) {
			stack = stack[:len(stack)-1]
		}
		for _, outer := range stack {
			static := outer.peer.ASN == 0 && x.peer.ASN == 0
			switch {
			case outer.peer == x.peer || outer.peer.Device != x.peer.Device && !static:
			case outer.prefix == x.prefix:
				d.errorf(x.at, "%v is in the list of peer %s too (%s)", x.prefix, outer.peer.Name, outer.at.place())
			case outer.prefix.Bits() > 0:
				d.hintf(x.at, "lists of peers may overlap only below a default route", "%v lies within %v of peer %s (%s)", x.prefix, outer.prefix, outer.peer.Name, outer.at.place())
			}
		}
		stack = append(stack, x)
	}
}

// checkSessions warns of sessions that routers at the other end could take for one.
func (r *raw) checkSessions(d *decoder) {
	type key struct {
		addr netip.Addr
		asn  uint32
	}
	seen := map[key]*Peer{}
	for _, p := range r.Peers {
		for _, s := range p.Sessions {
			k := key{s.Address.WithZone(""), s.ASN}
			other := seen[k]
			seen[k] = p
			if other != nil && other != p && other.Policy != p.Policy {
				d.warnf(d.at(&p.Tunnel.Remote, p), "peers %s and %s have the same ASN and address but different policies: is one a copy of the other?", other.Name, p.Name)
			}
		}
	}
}
