package routes

import (
	"cmp"
	"net/netip"
	"slices"
)

// Plan returns the operations that lead from what is installed to what is desired, in the order in which they are safe:
// all of Divert, Allow, Install, Withdraw, Disallow, Restore; each of them by prefix (see inward for the one exception) or by
// device. It is pure.
func Plan(desired *Snapshot, installed *Ledger) []Op {
	return PlanPrefixes(desired, installed, everything(desired, installed))
}

// PlanPrefixes is Plan for some prefixes: what remains when nothing else has changed. Each prefix appears once, and they
// are sorted.
func PlanPrefixes(desired *Snapshot, installed *Ledger, prefixes []netip.Prefix) []Op {
	var b planner
	b.devices(desired, installed)
	for _, p := range prefixes {
		b.prefix(p, desired.Get(p), installed.at(p), installed)
	}
	return slices.Concat(b.pieces()...)
}

// planner collects the operations of a plan by phase; in each of them they are by prefix if the prefixes were. What it has is
// good until it is used again.
type planner struct {
	phases [int(OpKinds) + 2][][]Op // in pieces
	out    [][]Op
	room   [][]Op // for pieces to come
	size   int    // operations in all phases
	sweep  bool
	// compression of the snapshot; nil if nothing is compressed. inward says that it may be, or may have been.
	compression *compression
	inward      bool
	spare       []netip.Prefix // see compression.plan
}

// piece is how many operations are at most in one piece of a plan. What grows in one piece is moved as a whole again and again, and while
// half a million operations are moved nothing else runs on that processor: BFD and tunnels of userspace stood still for 200 to 400 ms.
const piece = 1 << 11

func (b *planner) add(o Op) {
	list := &b.phases[o.phase()]
	n := len(*list)
	if n == 0 || len((*list)[n-1]) == piece {
		var room []Op
		if r := len(b.room); r > 0 {
			room, b.room = b.room[r-1], b.room[:r-1]
		}
		*list = append(*list, room)
		n++
	}
	(*list)[n-1] = append((*list)[n-1], o)
	b.size++
}

// phase is the number of the phase: unreachable routes come after the others and go before them, so that they shadow no
// route that is about to come, and none that is about to take over.
func (o *Op) phase() int {
	switch o.Kind {
	case Divert, Allow:
		return int(o.Kind)
	case Install:
		if o.Route.Type == Unreachable {
			return int(Install) + 1
		}
		return int(Install)
	case Withdraw:
		if o.Route.Type == Unreachable {
			return int(Withdraw) + 1
		}
		return int(Withdraw) + 2
	default:
		return int(o.Kind) + 2
	}
}

func (b *planner) devices(desired *Snapshot, installed *Ledger) {
	b.compression, b.inward, b.spare = desired.compressed(), desired.compresses(), nil
	list := planDevices(desired, installed)
	slices.SortFunc(list, func(x, y Op) int { return cmp.Compare(x.Device, y.Device) })
	for _, o := range list {
		b.add(o)
	}
}

// prefix plans for one, and tells whether there is something to do. row is nil if nothing is known of it, and has if nothing is held.
func (b *planner) prefix(p netip.Prefix, row *Row, has *Held, installed *Ledger) bool {
	if row == nil {
		row = newRow(p)
	}
	b.sweep = installed.swept
	n := b.size
	held := nothing
	if has != nil {
		held = has.holding
	}
	owners := row.Owners
	if c := b.compression; c != nil {
		owners = c.owners(p, owners)
		c.plan(b, p, owners, held)
	}
	b.plan(row, owners, held)
	return b.size > n
}

// pieces returns the plan, each piece of one kind.
func (b *planner) pieces() [][]Op {
	b.out = b.out[:0]
	for i, list := range b.phases {
		if i == int(Allow) && b.inward {
			list = pieces(inward(nil, slices.Concat(list...)))
		}
		b.out = append(b.out, list...)
	}
	return b.out
}

// pieces cuts operations up that are in the order of a plan.
func pieces(ops []Op) (list [][]Op) {
	for len(ops) > 0 {
		n := 1
		for n < len(ops) && n < piece && ops[n].Kind == ops[0].Kind {
			n++
		}
		list, ops = append(list, ops[:n:n]), ops[n:]
	}
	return list
}

// reset makes it ready for the next plan. The room of the last one stays for it: always if it is little, and while a table comes in, which
// plan after plan needs much.
func (b *planner) reset() {
	const little, most = 1 << 14 / piece, 1 << 18 / piece
	for i, list := range b.phases {
		for _, ops := range list {
			if len(b.room) < most {
				clear(ops)
				b.room = append(b.room, ops[:0])
			}
		}
		clear(list)
		b.phases[i] = list[:0]
	}
	if len(b.room) > little && b.size < len(b.room)*piece/8 {
		clear(b.room[little:])
		b.room = b.room[:little]
	}
	clear(b.out)
	b.out, b.size = b.out[:0], 0
}

// plan adds the operations for one prefix, of whose owners these are written. What an earlier run left is removed only if sweep
// is set.
func (b *planner) plan(want *Row, owners []Owner, held *holding) {
	removable := func(m mark) bool { return m == tried || m == acked || m == adopted && b.sweep }
	allowed := func(k OpKind, o Owner) Op {
		return Op{Kind: k, Allowed: AllowedIP{Device: o.Device, Prefix: want.Prefix, Peer: o.Peer}}
	}
	// Both are sorted by device; of a device one owner is wanted at most, while several may be held in doubt.
	rest := held.allowed
	drop := func(upTo string, all bool) {
		for len(rest) > 0 && (all || rest[0].Device < upTo) {
			if removable(rest[0].mark) && (b.compression == nil || !b.compression.covers(want.Prefix, rest[0].Device)) {
				b.add(allowed(Disallow, rest[0].Owner))
			}
			rest = rest[1:]
		}
	}
	for _, o := range owners {
		drop(o.Device, false)
		sure, doubt := false, false
		for ; len(rest) > 0 && rest[0].Device == o.Device; rest = rest[1:] {
			sure = sure || rest[0].Peer == o.Peer && rest[0].mark != tried
			doubt = doubt || rest[0].mark == tried
		}
		if !sure || doubt {
			b.add(allowed(Allow, o))
		}
	}
	drop("", true)

	route := func(k OpKind, t RouteType, hops []Hop) Op {
		return Op{Kind: k, Route: Route{Prefix: want.Prefix, Type: t, Hops: hops}}
	}
	switch r, ok := want.Route(); {
	case ok && (held.route == absent || held.route == tried || !sameHops(held.hops, r.Hops) || !sameHops(held.backup, r.Backup)):
		b.add(Op{Kind: Install, Route: r})
	case !ok && removable(held.route):
		hops := held.hops
		if len(hops) == 0 {
			hops = held.maybe
		}
		b.add(route(Withdraw, Unicast, hops))
	}
	switch {
	case want.Discard && (held.discard == absent || held.discard == tried):
		b.add(route(Install, Unreachable, nil))
	case !want.Discard && removable(held.discard):
		b.add(route(Withdraw, Unreachable, nil))
	}
}

// sameHops is slices.Equal, quick for what is shared.
func sameHops(a, b []Hop) bool {
	return len(a) == len(b) && (first(a) == first(b) || slices.Equal(a, b))
}
