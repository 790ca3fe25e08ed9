package routes

import (
	"net/netip"
	"slices"

	"github.com/gaissmai/bart"
)

// way is a hop with the peer behind it; nil where the hop is not a tunnel.
type way struct {
	hop  Hop
	peer *peer
}

// nextHops are the next hops that need resolving, each with the prefixes that use it.
//
// Owner: the Table.
type nextHops struct {
	byKey map[nextHopKey]*nextHop
	// byAddr finds those that a changed route may concern.
	byAddr bart.Table[[]*nextHop]
}

type nextHopKey struct {
	addr      netip.Addr // with its zone
	recursive bool
}

// nextHop is a resolved next hop.
type nextHop struct {
	key   nextHopKey
	users bart.Lite
	ways  []way
	// direct says that no route of ours was needed.
	direct bool
	// why there are no ways.
	why string
}

// needsResolving tells whether next hops of the neighbour are not simply its tunnel.
func (n *neighbour) needsResolving() bool { return n.known && (n.peer == nil || n.rule.Recursive) }

// ways returns how packets get to a next hop given by a neighbour; without ways, why.
func (t *Table) ways(n *neighbour, addr netip.Addr) (ways []way, direct bool, why string) {
	switch {
	case !n.known:
		return nil, true, "neighbour " + n.name + " is not configured"
	case n.rule.Peer != "" && n.peer == nil:
		return nil, true, "peer " + n.rule.Peer + " is not configured"
	case !n.needsResolving():
		return n.tunnel, true, ""
	}
	h := t.nextHops.get(t, nextHopKey{addr.Unmap(), n.rule.Recursive})
	return h.ways, h.direct, h.why
}

// get returns a next hop, resolved.
func (s *nextHops) get(t *Table, k nextHopKey) *nextHop {
	if h := s.byKey[k]; h != nil {
		return h
	}
	h := &nextHop{key: k}
	h.resolve(t)
	if s.byKey == nil {
		s.byKey = make(map[nextHopKey]*nextHop)
	}
	s.byKey[k] = h
	if p := hostPrefix(k.addr); p.IsValid() {
		at, _ := s.byAddr.Get(p)
		s.byAddr.Insert(p, append(slices.Clip(at), h))
	}
	return h
}

func (s *nextHops) drop(h *nextHop) {
	delete(s.byKey, h.key)
	p := hostPrefix(h.key.addr)
	if !p.IsValid() {
		return
	}
	at, _ := s.byAddr.Get(p)
	at = slices.DeleteFunc(slices.Clone(at), func(x *nextHop) bool { return x == h })
	if len(at) == 0 {
		s.byAddr.Delete(p)
		return
	}
	s.byAddr.Insert(p, at)
}

func hostPrefix(a netip.Addr) netip.Prefix {
	return netip.PrefixFrom(a.WithZone(""), a.BitLen())
}

// replace makes the row's prefix a user of its next hops, instead of those of the row before. Either may be nil.
func (s *nextHops) replace(t *Table, old, row *Row) {
	used := func(r *Row, f func(nextHopKey)) {
		if r == nil {
			return
		}
		for _, m := range r.best {
			if m.from.needsResolving() {
				f(nextHopKey{m.nextHop.Unmap(), m.from.rule.Recursive})
			}
		}
		for _, p := range r.paths {
			if p.from.needsResolving() && p.path.Rejected == "" {
				f(nextHopKey{p.path.NextHop.Unmap(), p.from.rule.Recursive})
			}
		}
	}
	used(old, func(k nextHopKey) {
		if h := s.byKey[k]; h != nil {
			h.users.Delete(old.Prefix)
		}
	})
	used(row, func(k nextHopKey) { s.get(t, k).users.Insert(row.Prefix) })
	used(old, func(k nextHopKey) {
		if h := s.byKey[k]; h != nil && h.users.Size() == 0 {
			s.drop(h)
		}
	})
}

// recount starts again under new rules, from all rows.
func (s *nextHops) recount(t *Table) {
	*s = nextHops{}
	for _, r := range t.rows.version.all() {
		s.replace(t, nil, r)
	}
}

// resolveAll resolves everything again and returns the prefixes that it matters to.
func (s *nextHops) resolveAll(t *Table) map[netip.Prefix]struct{} {
	out := make(map[netip.Prefix]struct{})
	for _, h := range s.byKey {
		if h.resolve(t) {
			for p := range h.users.All() {
				out[p] = struct{}{}
			}
		}
	}
	return out
}

// through calls f for each prefix with a next hop that leads to the peer.
func (s *nextHops) through(p *peer, f func(netip.Prefix)) {
	for _, h := range s.byKey {
		if slices.ContainsFunc(h.ways, func(w way) bool { return w.peer == p }) {
			for q := range h.users.All() {
				f(q)
			}
		}
	}
}

// within calls f for each recursive next hop inside the prefix.
func (s *nextHops) within(p netip.Prefix, f func(*nextHop)) {
	for _, hs := range s.byAddr.Subnets(p) {
		for _, h := range hs {
			if h.key.recursive {
				f(h)
			}
		}
	}
}

// resolve finds the ways to the next hop and tells whether they changed. See the package comment for the order.
func (h *nextHop) resolve(t *Table) bool {
	ways, direct, why := h.find(t)
	if slices.Equal(ways, h.ways) && direct == h.direct && why == h.why {
		return false
	}
	h.ways, h.direct, h.why = ways, direct, why
	return true
}

func (h *nextHop) find(t *Table) (ways []way, direct bool, why string) {
	a, r := h.key.addr, t.rules
	if !a.IsValid() || a.IsUnspecified() {
		return nil, true, "no next hop"
	}
	if p := r.tunnel[a]; p != nil {
		return []way{{Hop{Device: p.Device}, p}}, true, ""
	}
	device, zone := "", a.Zone()
	if a.IsLinkLocalUnicast() && a.Is6() {
		if zone == "" {
			return nil, true, "link-local next hop " + a.String() + " without a zone"
		}
		device = zone
	} else if d, ok := t.connected.Lookup(a.WithZone("")); ok {
		device = d
	}
	if device != "" {
		switch peers := r.on[device]; {
		case len(peers) == 0:
			return []way{{Hop{Device: device, Via: a.WithZone("")}, nil}}, true, ""
		case peers[0].shared:
			return nil, true, "next hop " + a.String() + " is on dev " + device + ", and no peer has that address"
		default:
			return []way{{Hop{Device: device}, peers[0]}}, true, ""
		}
	}
	why = "next hop " + a.String() + " unresolved"
	if !h.key.recursive {
		return nil, true, why
	}
	host := hostPrefix(a)
	q, ways, ok := t.base.LookupPrefixLPM(host)
	if o, isOwn := r.own.LookupPrefixLPM(host); isOwn && (!ok || o.Bits() > q.Bits()) {
		return nil, false, "next hop " + a.String() + " is in our own prefix " + o.String() + " and on no connected network"
	}
	if !ok || q.Bits() == 0 {
		return nil, false, why
	}
	return ways, false, ""
}
