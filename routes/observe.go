package routes

import (
	"fmt"
	"net/netip"
	"slices"
)

// Observed is what the kernel and the devices say now.
type Observed struct {
	routes  map[netip.Prefix]Route // unicast
	discard map[netip.Prefix]struct{}
	// allowed is nil if only routes were read.
	allowed map[place]string
}

// place is where a peer can own something.
type place struct {
	device string
	prefix netip.Prefix
}

// NewObserved takes what FIB.List and Tunnels.List returned; allowed is nil if only the routes were read.
func NewObserved(list []Route, allowed []AllowedIP) *Observed {
	o := &Observed{routes: make(map[netip.Prefix]Route, len(list)), discard: make(map[netip.Prefix]struct{})}
	for _, r := range list {
		if r.Type == Unreachable {
			o.discard[r.Prefix.Masked()] = struct{}{}
			continue
		}
		p := r.Prefix.Masked()
		o.routes[p] = Route{Prefix: p, Hops: CanonicalHops(slices.Clone(r.Hops)), Backup: r.Backup}
	}
	if allowed != nil {
		o.allowed = make(map[place]string, len(allowed))
		for _, a := range allowed {
			o.allowed[place{a.Device, a.Prefix.Masked()}] = a.Peer
		}
	}
	return o
}

// DriftKind is a way in which what is observed differs from what is installed.
type DriftKind uint8

// Kinds of drift; the names are those of the metrics.
const (
	RouteMissing DriftKind = iota
	RouteExtra
	RouteChanged
	AllowedIPMissing
	AllowedIPExtra
	AllowedIPWrongPeer
	DriftKinds // their number
)

func (k DriftKind) String() string {
	names := [...]string{"route_missing", "route_extra", "route_changed", "allowed_ip_missing", "allowed_ip_extra", "allowed_ip_wrong_peer"}
	if int(k) < len(names) {
		return names[k]
	}
	return "unknown"
}

// Drift is one difference.
type Drift struct {
	Kind   DriftKind
	Prefix netip.Prefix
	// Detail is the route or the allowed-IP as it was observed, or as it should be where it is missing.
	Detail fmt.Stringer
}

func (d Drift) String() string { return d.Kind.String() + " " + d.Detail.String() }

// Adopt takes over what an earlier run left: all routes, and what the peers of the policy own.
func (l *Ledger) Adopt(o *Observed, isPeer func(Owner) bool) {
	for p, r := range o.routes {
		l.change(p, func(h *edit) { h.route, h.hops, h.backup = adopted, r.Hops, r.Backup })
	}
	for p := range o.discard {
		l.change(p, func(h *edit) { h.discard = adopted })
	}
	for at, peer := range o.allowed {
		if owner := (Owner{at.device, peer}); isPeer(owner) {
			l.change(at.prefix, func(h *edit) {
				h.allowed = slices.Clone(h.allowed)
				h.add(heldIP{owner, adopted})
			})
		}
	}
}

// Observe corrects the ledger by what is observed. It returns what differs and matters, the prefixes to plan again, and
// the allowed-IPs that are neither ours nor desired: foreign ones, which stay.
func (l *Ledger) Observe(o *Observed, desired *Snapshot) (drift []Drift, dirty []netip.Prefix, foreign []AllowedIP) {
	ob := observation{l: l, o: o, desired: desired, dirty: make(map[netip.Prefix]struct{})}
	for p, h := range l.held.version.all() {
		ob.heldRoute(p, h)
		if o.allowed != nil {
			ob.heldAllowed(p, h)
		}
	}
	ob.unknownRoutes()
	ob.unknownAllowed()
	for _, e := range ob.edits {
		l.change(e.prefix, e.edit)
		ob.dirty[e.prefix] = struct{}{}
	}
	for p := range ob.dirty {
		dirty = append(dirty, p)
	}
	slices.SortFunc(dirty, netip.Prefix.Compare)
	slices.SortFunc(ob.drift, func(a, b Drift) int { return a.Prefix.Compare(b.Prefix) })
	return ob.drift, dirty, ob.foreign
}

// observation is an Observe that is under way. Edits wait until the ledger was read.
type observation struct {
	l       *Ledger
	o       *Observed
	desired *Snapshot
	edits   []editAt
	drift   []Drift
	dirty   map[netip.Prefix]struct{}
	foreign []AllowedIP
}

type editAt struct {
	prefix netip.Prefix
	edit   func(*edit)
}

func (ob *observation) edit(p netip.Prefix, f func(*edit)) {
	ob.edits = append(ob.edits, editAt{p, f})
}

func (ob *observation) report(k DriftKind, p netip.Prefix, detail fmt.Stringer) {
	ob.drift = append(ob.drift, Drift{k, p, detail})
}

func (ob *observation) heldRoute(p netip.Prefix, h *Held) {
	row := ob.desired.Get(p)
	if h.route != absent {
		is, there := ob.o.routes[p]
		switch {
		case !there:
			if row != nil && len(row.Ways) > 0 && h.route != tried {
				missing, _ := row.Route()
				ob.report(RouteMissing, p, missing)
			}
			ob.edit(p, func(h *edit) { h.route, h.hops, h.backup, h.maybe = absent, nil, nil, nil })
		case h.route == tried:
			ob.edit(p, func(h *edit) { h.route, h.hops, h.backup, h.maybe = acked, is.Hops, is.Backup, nil })
		case !slices.Equal(is.Hops, h.hops) || !slices.Equal(is.Backup, h.backup):
			ob.report(RouteChanged, p, is)
			ob.edit(p, func(h *edit) { h.hops, h.backup = is.Hops, is.Backup })
		}
	}
	if h.discard != absent {
		if _, there := ob.o.discard[p]; !there {
			if row != nil && row.Discard && h.discard != tried {
				ob.report(RouteMissing, p, Route{Prefix: p, Type: Unreachable})
			}
			ob.edit(p, func(h *edit) { h.discard = absent })
		} else if h.discard == tried {
			ob.edit(p, func(h *edit) { h.discard = acked })
		}
	}
}

func (ob *observation) unknownRoutes() {
	for p, is := range ob.o.routes {
		if h, _ := ob.l.held.version.get(p); h != nil && h.route != absent {
			continue
		}
		// Before the sweep it may be an earlier run's.
		if row := ob.desired.Get(p); ob.l.swept && (row == nil || !slices.Equal(row.hops, is.Hops)) {
			ob.report(RouteExtra, p, is)
		}
		ob.edit(p, func(h *edit) { h.route, h.hops, h.backup = adopted, is.Hops, is.Backup })
	}
	for p := range ob.o.discard {
		if h, _ := ob.l.held.version.get(p); h != nil && h.discard != absent {
			continue
		}
		if row := ob.desired.Get(p); ob.l.swept && (row == nil || !row.Discard) {
			ob.report(RouteExtra, p, Route{Prefix: p, Type: Unreachable})
		}
		ob.edit(p, func(h *edit) { h.discard = adopted })
	}
}

func (ob *observation) heldAllowed(p netip.Prefix, h *Held) {
	for _, a := range h.allowed {
		peer, there := ob.o.allowed[place{a.Device, p}]
		if there && peer == a.Peer {
			if a.mark == tried {
				ob.setMark(p, a.Owner, acked)
			}
			continue
		}
		if want, wanted := ob.written(p, a.Device); wanted && want == a.Peer && a.mark != tried && !there {
			ob.report(AllowedIPMissing, p, AllowedIP{a.Device, p, a.Peer})
		}
		ob.setMark(p, a.Owner, absent) // unknownAllowed looks at who has it instead
	}
}

// setMark edits an entry; absent removes it.
func (ob *observation) setMark(p netip.Prefix, of Owner, m mark) {
	ob.edit(p, func(h *edit) {
		h.allowed = slices.DeleteFunc(slices.Clone(h.allowed), func(a heldIP) bool { return a.Owner == of })
		if m != absent {
			h.add(heldIP{of, m})
		}
	})
}

// wanted returns who is to own a prefix, whether it is written or another entry covers it.
func (ob *observation) wanted(p netip.Prefix, device string) (peer string, ok bool) {
	if row := ob.desired.Get(p); row != nil {
		if peer, ok := row.owner(device); ok {
			return peer, true
		}
	}
	return ob.written(p, device)
}

// written returns who is to own a prefix by an entry of its own.
func (ob *observation) written(p netip.Prefix, device string) (peer string, ok bool) {
	if c := ob.desired.compressed(); c != nil && c.on[device] {
		peer = c.writes(p, device)
		return peer, peer != ""
	}
	if row := ob.desired.Get(p); row != nil {
		return row.owner(device)
	}
	return "", false
}

func (ob *observation) unknownAllowed() {
	for at, peer := range ob.o.allowed {
		owner := Owner{at.device, peer}
		if h, _ := ob.l.held.version.get(at.prefix); h != nil && slices.ContainsFunc(h.allowed, func(a heldIP) bool { return a.Owner == owner }) {
			continue
		}
		is := AllowedIP{at.device, at.prefix, peer}
		switch want, wanted := ob.wanted(at.prefix, at.device); {
		case wanted && want == peer:
			ob.setMark(at.prefix, owner, acked)
		case wanted:
			// It took a prefix that we own; one allow moves it back.
			ob.report(AllowedIPWrongPeer, at.prefix, is)
			ob.dirty[at.prefix] = struct{}{}
			if _, written := ob.written(at.prefix, at.device); !written {
				ob.setMark(at.prefix, owner, acked) // and ours to take away afterwards
			}
		default:
			ob.foreign = append(ob.foreign, is)
		}
	}
}
