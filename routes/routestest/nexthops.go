package routestest

import (
	"net/netip"
	"slices"

	"sitewire/routes"
)

// usable returns the ways to a next hop that may carry the prefix.
func (o *Oracle) usable(p netip.Prefix, neighbour string, nextHop netip.Addr, indirect bool) []way {
	var out []way
	if o.cut[neighbour] {
		return nil
	}
	for _, w := range o.resolve(neighbour, nextHop, indirect) {
		if w.peer == nil {
			out = append(out, w)
			continue
		}
		if o.dead(w.peer) {
			continue
		}
		owner := o.owner(w.peer.Device, p)
		if owner != nil && owner != w.peer {
			continue
		}
		if owner == nil && w.peer.Mode != routes.Learned {
			covered := w.peer.Mode == routes.Any || slices.ContainsFunc(w.peer.Prefixes, func(q netip.Prefix) bool {
				return q.Bits() <= p.Bits() && q.Contains(p.Addr())
			})
			if !covered || o.shared(w.peer) {
				continue
			}
		}
		out = append(out, w)
	}
	return out
}

// resolve finds the ways to a next hop, through another route only if indirect is set.
func (o *Oracle) resolve(neighbour string, nextHop netip.Addr, indirect bool) []way {
	n := o.neighbour(neighbour)
	if n == nil {
		return nil
	}
	if n.Peer != "" {
		peer := o.peer(n.Peer)
		if peer == nil {
			return nil
		}
		if !n.Recursive {
			return []way{{routes.Hop{Device: peer.Device}, peer}}
		}
	}
	if !nextHop.IsValid() || nextHop.IsUnspecified() {
		return nil
	}
	for i := range o.Policy.Peers {
		x := &o.Policy.Peers[i]
		for _, t := range x.Tunnel {
			a := t.Addr()
			if a.IsLinkLocalUnicast() {
				a = a.WithZone(x.Device)
			}
			if a == nextHop {
				return []way{{routes.Hop{Device: x.Device}, x}}
			}
		}
	}
	device := nextHop.Zone()
	if device == "" && nextHop.IsLinkLocalUnicast() && nextHop.Is6() {
		return nil
	}
	if device == "" {
		bits := -1
		for _, c := range o.Connected {
			if c.Prefix.Contains(nextHop) && c.Prefix.Bits() > bits {
				bits, device = c.Prefix.Bits(), c.Hops[0].Device
			}
		}
	}
	if device != "" {
		var on []*routes.Peer
		for i := range o.Policy.Peers {
			if o.Policy.Peers[i].Device == device {
				on = append(on, &o.Policy.Peers[i])
			}
		}
		switch {
		case len(on) == 0:
			return []way{{routes.Hop{Device: device, Via: nextHop.WithZone("")}, nil}}
		case o.shared(on[0]):
			return nil
		}
		return []way{{routes.Hop{Device: device}, on[0]}}
	}
	if !n.Recursive || !indirect {
		return nil
	}
	for bits := nextHop.BitLen(); bits > 0; bits-- {
		q, _ := nextHop.Prefix(bits)
		if ways := o.route(q, false); len(ways) > 0 {
			return ways
		}
		if slices.Contains(o.Policy.Own, q) {
			return nil
		}
	}
	return nil
}
