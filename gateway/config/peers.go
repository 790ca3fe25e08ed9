package config

import (
	"cmp"
	"net/netip"
	"slices"
	"time"

	"sitewire/bgp/policy"
	"sitewire/gateway/wg"
)

// resolvePeer finishes a peer: its device, addresses, allowed-IPs, policy and sessions.
func (r *raw) resolvePeer(d *decoder, e entry[*rawPeer]) {
	p := &e.v.Peer
	p.Name = e.name
	d.where[p] = e.at
	r.peerDevice(d, e.v)
	if !d.given(&p.Keepalive) {
		p.Keepalive = defaultKeepalive
	}
	if p.DeadAfter == 0 {
		p.DeadAfter = wg.RejectAfterTime
	}
	r.peerAllowed(d, e)
	r.peerTunnel(d, e.v)
	r.peerProbe(d, p)
	r.peerPolicy(d, e)
	if p.ASN != 0 && d.usable(&p.ASN, &p.Tunnel, &p.Tunnel.Local, &p.Tunnel.Remote) {
		r.peerSessions(d, e.v)
	}
	r.Peers = append(r.Peers, p)
}

func (r *raw) peerDevice(d *decoder, p *rawPeer) {
	shared := r.WireGuard.Device
	switch p.device {
	case "":
		if shared == "" || !d.usable(&p.device) {
			p.Device = deviceName(p.Name)
			break
		}
		p.Device, p.Shared = shared, true
	case deviceOwn:
		p.Device = deviceName(p.Name)
	default:
		p.Device, p.Shared = p.device, p.device == shared
	}
	r.peerKey(d, p)
	if !p.Shared {
		if p.MTU == 0 && !d.given(&p.MTU) {
			p.MTU = r.WireGuard.MTU
		}
		return
	}
	if d.given(&p.ListenPort) {
		d.hintf(d.at(&p.ListenPort), "wireguard.listen_port is the port of "+shared+"; device: own gives this peer its own", "a peer on the shared device has no port of its own")
	}
	if d.given(&p.MTU) {
		d.hintf(d.at(&p.MTU), "wireguard.mtu is the MTU of "+shared+"; device: own gives this peer its own", "a peer on the shared device has no MTU of its own")
	}
	p.ListenPort, p.MTU = r.WireGuard.ListenPort, r.WireGuard.MTU
}

// peerKey finds the key of the device: the peer's, if it gives one, else that of all devices.
func (r *raw) peerKey(d *decoder, p *rawPeer) {
	switch {
	case !d.given(&p.PrivateKey):
		p.PrivateKey, p.OwnKey = r.WireGuard.PrivateKey, r.WireGuard.PublicKey
	case p.Shared:
		d.hintf(d.at(&p.PrivateKey), "device: own gives this peer a device, and with it a key, of its own", "a peer on the shared device has no private key of its own")
	case !p.PrivateKey.IsZero():
		p.OwnKey = p.PrivateKey.Public()
	}
}

func (r *raw) peerAllowed(d *decoder, e entry[*rawPeer]) {
	p, a := &e.v.Peer, &e.v.allowed
	p.Mode = a.mode
	speaks := d.given(&p.ASN)
	switch a.mode {
	case "":
		p.Mode = Learned
		if !speaks && d.usable(a) {
			d.hintf(e.at, "asn: makes it a BGP neighbour; allowed_ips: [10.17.0.0/24] makes it a static site", "peer %s has neither an asn nor a list of allowed_ips: nothing could reach it", p.Name)
		}
	case Learned:
		if !speaks {
			d.errorf(d.at(a), "allowed_ips: learned needs an asn: there is nothing to learn from")
		}
	case Any:
		if p.Shared {
			d.hintf(d.at(a), "use learned, or device: own", "allowed_ips: any takes all traffic of the shared device %s from its other peers", p.Device)
		}
		if !speaks {
			d.hintf(d.at(a), "write the prefixes; a default route is [0.0.0.0/0, ::/0]", "allowed_ips: any is for peers that speak BGP; without an asn no route would lead to this peer")
		}
	case List:
		seen := map[netip.Prefix]bool{}
		for _, x := range a.prefixes {
			if x.v.IsValid() && seen[x.v] {
				d.errorf(x.at, "%v is in the list twice", x.v)
				continue
			}
			seen[x.v] = true
			p.Prefixes = append(p.Prefixes, x.v)
		}
		slices.SortFunc(p.Prefixes, comparePrefixes)
		if len(a.prefixes) == 0 && !speaks {
			d.errorf(d.at(a), "an empty list: nothing could reach this peer")
		}
	}
	if !speaks && p.Keepalive == 0 {
		d.warnf(d.at(&p.Keepalive), "peer %s has no keepalive and no BGP: nothing tells whether its tunnel is alive while it is silent", p.Name)
	}
	if len(p.Endpoints) == 0 && p.ListenPort == 0 && d.usable(&p.Endpoints, &p.ListenPort) {
		d.warnf(e.at, "peer %s has neither an endpoint nor a listen_port: the kernel chooses a port that the peer cannot know", p.Name)
	}
	if p.PinEndpoint && len(p.Endpoints) == 0 {
		d.errorf(d.at(&p.PinEndpoint), "pin_endpoint needs an endpoint")
	}
}

// peerTunnel checks the inner addresses, and derives those that are not given where BGP needs them.
func (r *raw) peerTunnel(d *decoder, p *rawPeer) {
	t := &p.Tunnel
	if !d.usable(t, &t.Local, &t.Remote, &t.LocalIPv4, &t.RemoteIPv4, &t.LocalIPv6, &t.RemoteIPv6) {
		d.bad[t] = true
		return
	}
	for _, x := range []struct {
		local, remote         *netip.Addr
		localName, remoteName string
	}{
		{&t.Local, &t.Remote, "local", "remote"},
		{&t.LocalIPv4, &t.RemoteIPv4, "local_ipv4", "remote_ipv4"},
		{&t.LocalIPv6, &t.RemoteIPv6, "local_ipv6", "remote_ipv6"},
	} {
		l, m := *x.local, *x.remote
		switch {
		case l.IsValid() && !m.IsValid():
			d.errorf(d.at(x.local), "tunnel.%s needs tunnel.%s, the address of the other end", x.localName, x.remoteName)
			d.bad[t] = true
		case m.IsValid() && !l.IsValid():
			d.errorf(d.at(x.remote), "tunnel.%s needs tunnel.%s, our own address", x.remoteName, x.localName)
			d.bad[t] = true
		case l.IsValid() && l == m:
			d.errorf(d.at(x.remote), "both ends of the tunnel have the address %v", l)
		case l.IsValid() && (l.Is4() != m.Is4() || l.IsLinkLocalUnicast() != m.IsLinkLocalUnicast()):
			d.errorf(d.at(x.remote), "tunnel.%s %v and tunnel.%s %v are not of one kind: both IPv4, both link-local, or both other IPv6", x.localName, l, x.remoteName, m)
			d.bad[t] = true
		}
	}
	if d.bad[t] || t.Local.IsValid() || !d.given(&p.ASN) || p.PublicKey.IsZero() || p.OwnKey.IsZero() {
		return
	}
	t.Local, t.Remote, t.Derived = LinkLocal(p.OwnKey), LinkLocal(p.PublicKey), true
}

// probeInterval is the default, chosen so that a gateway sends about two echoes a second at most until it has more than
// a hundred peers. An echo costs half a millisecond of a core, nearly all of it in WireGuard: at ten seconds for
// everybody, 100 quiet peers would cost twice what they do without.
func probeInterval(peers int) time.Duration {
	switch {
	case peers <= 20:
		return 10 * time.Second
	case peers <= 50:
		return 30 * time.Second
	}
	return time.Minute
}

// probeTimeout fits the default timeout to the interval. A timeout that was written and does not fit is a mistake: one echo of a peer is
// under way at a time, so that it would not be what is in force.
func (r *raw) probeTimeout(d *decoder) {
	p := &r.Probe
	if p.Interval == 0 || p.Timeout <= p.Interval || !d.usable(&p.Interval, &p.Timeout) {
		return
	}
	if d.given(&p.Timeout) {
		d.errorf(d.at(&p.Timeout), "timeout: %s is longer than the interval of %s between two echoes", p.Timeout, p.Interval)
	}
	p.Timeout = p.Interval
}

// peerProbe leaves tunnels alone that may sleep, and those without an address to ask.
func (r *raw) peerProbe(d *decoder, p *Peer) {
	if !d.given(&p.Probe) && p.Keepalive > 0 {
		p.Probe = r.Probe.Interval
	}
	if len(p.Tunnel.Remotes()) > 0 || p.Probe == 0 || !d.usable(&p.Tunnel) {
		return
	}
	p.Probe = 0
	if d.given(&p.Probe) {
		d.warnf(d.at(&p.Probe), "peer %s has no addresses in its tunnel, so that there is nothing to probe: give it tunnel: { local: …, remote: … }", p.Name)
	}
}

func (r *raw) peerPolicy(d *decoder, e entry[*rawPeer]) {
	p := e.v
	p.Policy = r.policy(d, p.policy, d.at(&p.policy))
	speaks := d.given(&p.ASN)
	switch {
	case p.policy != "" && !speaks:
		d.errorf(d.at(&p.policy), "a policy needs an asn: peer %s does not speak BGP", p.Name)
	case p.policy == "" && speaks && d.usable(&p.policy):
		d.warnf(e.at, "peer %s has an asn and no policy: the session exchanges nothing (RFC 8212)", p.Name)
	case !speaks && d.given(&p.bgp):
		d.errorf(d.at(&p.bgp), "a bgp block needs an asn: peer %s does not speak BGP", p.Name)
	}
	if p.bgp.password != "" {
		d.warnf(d.at(&p.bgp.password), "a password inside a tunnel adds nothing: WireGuard has authenticated the peer")
	}
}

// peerSessions makes the one or two sessions of a peer.
func (r *raw) peerSessions(d *decoder, p *rawPeer) {
	t, s := p.Tunnel, &p.bgp
	s.asn = p.ASN
	if !d.given(&s.passive) {
		s.passive = len(p.Endpoints) == 0
	}
	session := r.session(d, s, d.at(s, &p.ASN))
	session.Name, session.Peer, session.Policy = p.Name, p.Name, p.Policy
	if s.shape == shapeSplit {
		r.splitSessions(d, p, session)
		return
	}
	session.LocalAddress, session.Address = t.Local, t.Remote
	if t.Local.IsValid() && t.Local.Is4() {
		session.LocalIPv6, session.RemoteIPv6 = t.LocalIPv6, t.RemoteIPv6
	} else {
		session.LocalIPv4, session.RemoteIPv4 = t.LocalIPv4, t.RemoteIPv4
	}
	if session.Address.IsLinkLocalUnicast() && session.Address.Is6() {
		session.LocalAddress, session.Address = t.Local.WithZone(p.Device), t.Remote.WithZone(p.Device)
	}
	checkFamilies(d, session, s)
	p.Sessions = []*Session{session}
}

// splitSessions makes a session of each family over addresses of that family (dn42's two-session shape).
func (r *raw) splitSessions(d *decoder, p *rawPeer, base *Session) {
	t, s := p.Tunnel, &p.bgp
	at := d.at(&s.shape)
	if s.extendedNextHop == ENHOn {
		d.errorf(d.at(&s.extendedNextHop), "extended_next_hop: on and session: split exclude each other: IPv4 routes go over the IPv4 session")
	}
	if d.given(&s.families) && len(s.families) < 2 {
		d.hintf(d.at(&s.families), "session: single carries one family over the addresses of that family", "a split session has both families")
	}
	local4, remote4 := t.LocalIPv4, t.RemoteIPv4
	local6, remote6 := t.LocalIPv6, t.RemoteIPv6
	if t.Local.IsValid() && t.Local.Is4() {
		local4, remote4 = t.Local, t.Remote
	} else if t.Local.IsValid() {
		local6, remote6 = t.Local, t.Remote
	}
	if !remote4.IsValid() {
		d.hintf(at, "tunnel: { local_ipv4: …, remote_ipv4: … }", "a split session needs the IPv4 addresses of both ends of the tunnel")
		return
	}
	if !remote6.IsValid() {
		d.hintf(at, "tunnel: { local: fe80::1, remote: fe80::2 }", "a split session needs the IPv6 addresses of both ends of the tunnel")
		return
	}
	if remote6.IsLinkLocalUnicast() {
		local6, remote6 = local6.WithZone(p.Device), remote6.WithZone(p.Device)
	}
	v4, v6 := *base, *base
	v4.Name, v4.LocalAddress, v4.Address, v4.IPv4, v4.IPv6 = p.Name+"/"+policy.FamilyIPv4, local4, remote4, true, false
	v6.Name, v6.LocalAddress, v6.Address, v6.IPv4, v6.IPv6 = p.Name+"/"+policy.FamilyIPv6, local6, remote6, false, true
	v4.ExtendedNextHop, v6.ExtendedNextHop = ENHOff, ENHOff
	p.Sessions = []*Session{&v4, &v6}
}

// sessionSendHold decides how long a neighbour may read nothing, which is longer than it may say nothing.
func (r *raw) sessionSendHold(d *decoder, s *rawSession, out *Session) {
	asked := d.given(&s.sendHoldTime)
	if out.SendHoldTime = r.BGP.SendHoldTime; asked {
		out.SendHoldTime = s.sendHoldTime
	}
	switch {
	case out.SendHoldTime <= 0 || out.SendHoldTime > out.HoldTime || !d.usable(&s.sendHoldTime, &s.holdTime, &r.BGP.SendHoldTime, &r.BGP.HoldTime):
	case asked:
		d.errorf(d.at(&s.sendHoldTime), "send_hold_time %v is not longer than hold_time %v", out.SendHoldTime, out.HoldTime)
	case d.given(&s.holdTime):
		d.hintf(d.at(&s.holdTime), "give this session a send_hold_time too", "hold_time %v is not shorter than bgp.send_hold_time %v", out.HoldTime, out.SendHoldTime)
	}
}

// session fills in what does not depend on addresses.
func (r *raw) session(d *decoder, s *rawSession, at *node) *Session {
	out := &Session{
		Disabled: d.given(&s.enabled) && !s.enabled,
		ASN:      s.asn, LocalASN: cmp.Or(s.localASN, r.ASN),
		Passive: s.passive, Port: cmp.Or(s.port, defaultBGPPort),
		ExtendedNextHop: cmp.Or(s.extendedNextHop, ENHAuto),
		Multihop:        s.multihop, Password: s.password,
		HoldTime:             cmp.Or(s.holdTime, r.BGP.HoldTime),
		ConnectRetry:         cmp.Or(s.connectRetry, r.BGP.ConnectRetry),
		GracefulRestart:      r.BGP.GracefulRestart,
		RouteReflectorClient: s.routeReflectorClient,
	}
	switch {
	case s.keepalive != 0:
		out.Keepalive = s.keepalive
	case s.holdTime == 0 && r.BGP.Keepalive != 0:
		out.Keepalive = r.BGP.Keepalive
	default:
		out.Keepalive = third(out.HoldTime)
	}
	if out.Keepalive >= out.HoldTime && d.given(&s.keepalive) && d.usable(&s.keepalive, &s.holdTime) {
		d.errorf(d.at(&s.keepalive), "keepalive %v is not shorter than hold_time %v", out.Keepalive, out.HoldTime)
	}
	r.sessionSendHold(d, s, out)
	r.sessionBFD(d, s, out)
	internal := out.ASN == out.LocalASN
	if s.routeReflectorClient && !internal {
		d.errorf(d.at(&s.routeReflectorClient), "route_reflector_client is for iBGP: %d is not our ASN", out.ASN)
	}
	if s.multihop != 0 && internal {
		d.errorf(d.at(&s.multihop), "multihop is for eBGP: iBGP sessions run over any number of hops")
	}
	if s.localASN != 0 && s.localASN == s.asn && s.asn != r.ASN {
		d.errorf(d.at(&s.localASN), "local_asn is the neighbour's own: the session would be iBGP in a foreign AS")
	}
	if r.ASN == 0 && d.usable(&r.ASN) {
		d.bad[&r.ASN] = true // once
		d.hintf(at, "asn: the AS number of this site, at the top of the file", "BGP needs our own asn")
	}
	return out
}

// checkFamilies decides which families a session carries, and refuses those whose routes would have no next hop.
func checkFamilies(d *decoder, out *Session, s *rawSession) {
	out.IPv4, out.IPv6 = true, true
	over4 := out.Address.IsValid() && out.Address.Is4()
	switch {
	case !d.usable(&s.families):
	case d.given(&s.families):
		out.IPv4, out.IPv6 = slices.Contains(s.families, policy.FamilyIPv4), slices.Contains(s.families, policy.FamilyIPv6)
		if !out.IPv4 && !out.IPv6 {
			d.errorf(d.at(&s.families), "a session without a family exchanges nothing")
		}
	case over4 && out.Peer != "" && !out.LocalIPv6.IsValid():
		out.IPv6 = false
	case over4 && out.Peer == "":
		out.IPv6 = false
	}
	at := d.at(&s.families, &s.extendedNextHop, s)
	switch {
	case s.extendedNextHop == ENHOn && over4:
		d.errorf(d.at(&s.extendedNextHop), "extended_next_hop: on needs a session over IPv6 (RFC 8950): this one runs over %v", out.Address)
	case s.extendedNextHop == ENHOn && !out.IPv4:
		d.errorf(d.at(&s.extendedNextHop), "extended_next_hop: on is about IPv4 routes, which this session does not carry")
	case over4 && out.IPv6 && out.Peer != "" && !out.LocalIPv6.IsValid():
		d.hintf(at, "tunnel: { local_ipv6: …, remote_ipv6: … }, or families: [ipv4]", "IPv6 routes over this IPv4 session would have no next hop")
	case !over4 && out.IPv4 && s.extendedNextHop == ENHOff && !out.LocalIPv4.IsValid() && out.Peer != "" && out.Address.IsValid():
		d.hintf(at, "tunnel: { local_ipv4: …, remote_ipv4: … }, or families: [ipv6]", "IPv4 routes over this IPv6 session would have no next hop without extended_next_hop")
	}
}

func (r *raw) resolveNeighbour(d *decoder, e entry[*rawNeighbour]) {
	n := e.v
	s := &n.session
	d.where[s] = e.at
	out := r.session(d, s, e.at)
	out.Name, out.Address, out.LocalAddress = e.name, n.address, n.localAddress
	out.Policy = r.policy(d, n.policy, d.at(&n.policy))
	if n.policy == "" && d.usable(&n.policy) {
		d.warnf(e.at, "neighbour %s has no policy: the session exchanges nothing (RFC 8212)", e.name)
	}
	checkFamilies(d, out, s)
	for _, a := range []*netip.Addr{&n.address, &n.localAddress} {
		linkLocal := a.Is6() && a.IsLinkLocalUnicast()
		switch {
		case linkLocal && a.Zone() == "":
			d.hintf(d.at(a), a.String()+"%eth0, with the name of the interface", "the link-local address %v needs its interface", a)
		case !linkLocal && a.Zone() != "":
			d.errorf(d.at(a), "%v: only link-local addresses have an interface", a)
		}
	}
	l, m := n.localAddress, n.address
	if l.IsValid() && m.IsValid() {
		switch {
		case l == m:
			d.errorf(d.at(&n.localAddress), "local_address is the neighbour's own address")
		case l.Is4() != m.Is4():
			d.errorf(d.at(&n.localAddress), "local_address %v and address %v are of different families", l, m)
		}
	}
	r.Neighbours = append(r.Neighbours, &Neighbour{Name: e.name, Description: n.description, Session: out})
	d.where[out] = d.at(&n.address, e.at)
	if old := slices.IndexFunc(r.peers, func(p entry[*rawPeer]) bool { return p.name == e.name }); old >= 0 {
		d.errorf(e.at, "%q is the name of a peer too (%s): names are labels, and must tell them apart", e.name, r.peers[old].at.place())
	}
}
