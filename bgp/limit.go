package bgp

import (
	"net/netip"

	"sitewire/bgp/policy"
	"sitewire/routes"
)

// Prefix limits degrade: over its limit a neighbour's further prefixes are refused, the session and what was accepted
// stay (GoBGP's own limit would tear the session down, and counts in quadratic time). Once reached, the accepted
// prefixes become the set beyond which nothing is accepted; GoBGP gets the same set. refit looks for room later.

func (n *neighbour) limit(f routes.Family) int {
	switch {
	case n.policy == nil:
		return 0
	case f == routes.IPv4:
		return n.policy.MaxPrefixes4
	}
	return n.policy.MaxPrefixes6
}

// within decides whether one more prefix is within the limit.
func (v *view) within(n *neighbour, f routes.Family, p netip.Prefix, limit int, kept bool) bool {
	t := &n.in[f]
	if t.allowed != nil {
		_, ok := t.allowed[p]
		return ok
	}
	accepted := t.accepted
	if kept {
		accepted--
	}
	if accepted < limit {
		return true
	}
	if len(n.siblings) == 0 { // otherwise refused prefixes tell GoBGP
		t.allowed = make(map[netip.Prefix]struct{}, accepted)
		for q, e := range t.entries.all() {
			if e.reason == "" && (q != p || !kept) {
				t.allowed[q] = struct{}{}
			}
		}
		v.dirty, v.recompile = true, true
		v.wake()
	}
	return false
}

// limitWarning notices when the share of the limit at which to warn is passed, in either direction.
func (v *view) limitWarning(n *neighbour, f routes.Family) {
	t := &n.in[f]
	limit := n.limit(f)
	if limit == 0 && !t.warned {
		return
	}
	share := policy.DefaultWarnAt
	if n.policy != nil && n.policy.WarnAt != 0 {
		share = n.policy.WarnAt
	}
	if near := limit > 0 && t.accepted*100 >= limit*share; near != t.warned {
		t.warned, v.dirty = near, true
		v.wake()
	}
}

// full reports whether prefixes are being refused for the limit.
func (t *adjIn) full() bool { return t.rejected[PrefixLimit] > 0 }

// refit lets refused prefixes in where there is room again, in address order. It reports whether it changed anything.
func (v *view) refit() bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	changed := false
	for _, n := range v.order {
		for f := range n.in {
			t := &n.in[f]
			room := n.limit(routes.Family(f)) - t.accepted
			if t.allowed == nil && !t.full() || room <= 0 {
				continue
			}
			changed = true
			if t.rejected[PrefixLimit] <= room {
				t.allowed = nil
			}
			for _, p := range sortedPrefixes(&t.entries) {
				if room == 0 {
					break
				}
				if e, _ := t.entries.get(p); e.reason == PrefixLimit {
					if t.allowed != nil {
						t.allowed[p] = struct{}{}
					}
					v.put(n, routes.Family(f), p, e)
					room--
				}
			}
			if t.allowed != nil { // what went away must not come back over the limit
				for p := range t.allowed {
					if e, ok := t.entries.get(p); !ok || e.reason != "" {
						delete(t.allowed, p)
					}
				}
			}
			v.dirty, v.recompile = true, true
		}
	}
	return changed
}
