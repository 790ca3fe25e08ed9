package wgquick

import (
	"fmt"
	"net/netip"
	"slices"

	"sitewire/gateway/config"
)

// addressTunnels finds the inner addresses of each tunnel. sitewire knows them in pairs, wg-quick knows our side: the other side is in the
// commands, in the allowed-IPs, or is what a network of two leaves.
func (s *site) addressTunnels() {
	owner := map[netip.Addr]*tunnel{} // of the other ends
	for _, f := range s.files {
		used := map[int]bool{} // addresses of the file, by index
		var here []*tunnel
		for _, t := range s.tunnels {
			if t.file == f {
				here = append(here, t)
				t.addressPairs(used, owner)
			}
		}
		for i, a := range f.Addresses {
			if used[i] || len(here) == 0 {
				continue
			}
			note := Note{a.At, fmt.Sprintf("address %v: not carried: the address of the other end is not in the file, or there is another of its kind", a.Local),
				fmt.Sprintf("tunnel: { local: %v, remote: … }; a device that runs keeps the address", a.Local.Addr())}
			if len(here) == 1 {
				here[0].notes = append(here[0].notes, note)
			} else {
				s.notes = append(s.notes, note)
			}
		}
	}
}

// pair is both ends of a tunnel.
type pair struct{ local, remote netip.Addr }

// addressPairs takes at most one pair of each kind: link-local, other IPv6, IPv4.
func (t *tunnel) addressPairs(used map[int]bool, owner map[netip.Addr]*tunnel) {
	var linkLocal, ipv6, ipv4 pair
	for i, a := range t.file.Addresses {
		local := a.Local.Addr()
		slot := &ipv6
		switch {
		case !isHost(local):
			continue
		case local.Is4():
			slot = &ipv4
		case local.IsLinkLocalUnicast():
			slot = &linkLocal
		}
		if slot.local.IsValid() {
			continue
		}
		remote, ok := t.remoteOf(a)
		switch {
		case !ok && slot == &linkLocal && t.asn != 0:
			remote, t.remoteGuessed = config.LinkLocal(t.peer.PublicKey), true
			t.note(a.At, "give tunnel.remote the neighbour's address, as the BGP daemon of now has it", "the other end of %v is not in the file: FILL IN", local)
		case !ok || remote == local || !isHost(remote):
			continue
		}
		if other := owner[remote]; other != nil && slot != &linkLocal {
			t.note(a.At, "give each tunnel addresses of its own", "%v, the other end of %v, is that of %s too", remote, local, other.name)
			continue
		}
		owner[remote], used[i] = t, true
		*slot = pair{local, remote}
	}
	t.addresses = map[string]netip.Addr{}
	main, ending := true, ""
	for _, x := range []struct {
		pair
		ending string
	}{{linkLocal, ""}, {ipv6, "_ipv6"}, {ipv4, "_ipv4"}} {
		if !x.local.IsValid() {
			continue
		}
		if ending = x.ending; main {
			ending, main = "", false
		}
		t.addresses["local"+ending], t.addresses["remote"+ending] = x.local, x.remote
	}
}

// isHost tells whether a host can have the address.
func isHost(a netip.Addr) bool {
	return !a.IsUnspecified() && !a.IsMulticast() && !a.IsLoopback() && a != netip.AddrFrom4([4]byte{255, 255, 255, 255})
}

// remoteOf finds the other end of an address.
func (t *tunnel) remoteOf(a Address) (netip.Addr, bool) {
	local := a.Local.Addr()
	if a.Peer.IsValid() {
		return a.Peer.Addr(), true
	}
	if !t.shared {
		if remote, ok := t.file.remoteHost(local); ok {
			return remote, true
		}
	}
	var hosts []netip.Addr
	for _, p := range t.peer.AllowedIPs {
		if p.IsSingleIP() && !t.file.later(t.peer, p) && (a.Local.IsSingleIP() || local.IsLinkLocalUnicast() || a.Local.Contains(p.Addr())) {
			hosts = append(hosts, p.Addr())
		}
	}
	if remote, ok := only(hosts, local); ok {
		return remote, true
	}
	if hostBits := local.BitLen() - a.Local.Bits(); t.shared || hostBits < 1 || hostBits > 2 || local.IsLinkLocalUnicast() {
		return netip.Addr{}, false
	}
	low := a.Local.Masked().Addr()
	if a.Local.Bits() == local.BitLen()-2 { // without the first address and, in IPv4, the last one
		low = low.Next()
	}
	if local == low {
		return low.Next(), true
	}
	return low, local == low.Next()
}

// later tells whether a peer behind this one has the prefix, and so has its packets.
func (f *File) later(peer *Peer, p netip.Prefix) bool {
	at := slices.Index(f.Peers, peer)
	return slices.ContainsFunc(f.Peers[at+1:], func(x *Peer) bool { return slices.Contains(x.AllowedIPs, p) })
}

// divideAllowed makes the lists of allowed-IPs such that a gateway takes them: WireGuard lets the last peer of a device have a prefix, and
// the longest prefix decides; lists of sitewire do not overlap.
func (s *site) divideAllowed() {
	for _, t := range s.tunnels {
		t.allowed = slices.Clone(t.peer.AllowedIPs)
		all := func(zero string) bool { return slices.Contains(t.allowed, netip.MustParsePrefix(zero)) }
		if t.learned {
			t.allowed = nil
		}
		if t.any = t.asn != 0 && !t.shared && all("0.0.0.0/0") && all("::/0"); t.any || t.asn != 0 {
			continue
		}
		t.allowed = slices.DeleteFunc(t.allowed, func(p netip.Prefix) bool {
			local := p.Addr().IsLinkLocalUnicast() || p.Addr().IsMulticast()
			if local && !t.isRemote(p) {
				t.note(t.peer.At, "for a routing protocol in the tunnel give the peer an asn: with BGP, its list is a filter and nothing more", "allowed-IP %v: not carried: nobody routes link-local and multicast addresses", p)
			}
			return local
		})
	}
	for i, t := range s.tunnels {
		if t.any {
			continue
		}
		for _, other := range s.tunnels[:i] {
			s.separate(other, t)
		}
	}
	for _, t := range s.tunnels {
		if t.asn == 0 && t.file.Table == tableAuto && slices.ContainsFunc(t.allowed, func(p netip.Prefix) bool { return p.Bits() == 0 }) {
			t.note(t.peer.At, "if the tunnel is to carry everything, remove the other default route, or give it a metric above 512 (routes.metric)",
				"a default route: wg-quick puts it before all others by a rule; sitewire installs it with metric 512, so that a default route with a lower metric stays in use")
		}
		if t.asn == 0 && len(t.allowed) == 0 {
			t.left = true
			t.note(t.peer.At, "give it allowed_ips: […], or an asn", "peer %s: not carried: it has no allowed-IPs, and nothing could reach it", t.name)
		}
	}
}

func (t *tunnel) isRemote(p netip.Prefix) bool {
	for key, a := range t.addresses {
		if key[0] == 'r' && p == netip.PrefixFrom(a, a.BitLen()) {
			return true
		}
	}
	return false
}

// separate has two peers own no prefix together. b is the later one.
func (s *site) separate(a, b *tunnel) {
	same := a.file == b.file
	if a.any || b.any || a.learned || b.learned || !same && (a.asn != 0 || b.asn != 0) {
		return
	}
	loser, winner := b, a
	if same {
		loser, winner = a, b // the last one has it
	}
	loser.allowed = slices.DeleteFunc(loser.allowed, func(p netip.Prefix) bool {
		double := slices.Contains(winner.allowed, p)
		if double {
			loser.note(loser.peer.At, "one path at a time can be static: with BGP (asn), several peers may offer a prefix", "allowed-IP %v: not carried: %s has it, too, and gets its packets", p, winner.name)
		}
		return double
	})
	a.exclude(b)
	b.exclude(a)
}

// exclude writes prefixes that contain some of the other peer's as the parts around them. The packets go where they went.
func (t *tunnel) exclude(other *tunnel) {
	for _, inner := range other.allowed {
		for {
			at := slices.IndexFunc(t.allowed, func(p netip.Prefix) bool { return p.Bits() > 0 && p.Bits() < inner.Bits() && p.Contains(inner.Addr()) })
			if at < 0 {
				break
			}
			outer := t.allowed[at]
			parts := around(outer, inner)
			t.note(t.peer.At, "", "allowed-IP %v: written as the %d prefixes around %v, which is that of %s", outer, len(parts), inner, other.name)
			t.allowed = slices.Delete(t.allowed, at, at+1)
			for _, p := range parts {
				if !slices.Contains(t.allowed, p) {
					t.allowed = append(t.allowed, p)
				}
			}
		}
	}
}

// around returns the prefixes that together are outer without inner, which lies within it.
func around(outer, inner netip.Prefix) (out []netip.Prefix) {
	for bits := outer.Bits() + 1; bits <= inner.Bits(); bits++ {
		b := inner.Addr().AsSlice()
		b[(bits-1)/8] ^= 0x80 >> ((bits - 1) % 8)
		a, _ := netip.AddrFromSlice(b)
		out = append(out, netip.PrefixFrom(a, bits).Masked())
	}
	return out
}
