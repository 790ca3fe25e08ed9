package routes

import (
	"cmp"
	"net/netip"
	"slices"
)

// Plan returns the operations that lead from what is installed to what is desired, in the order in which they are safe:
// all of Divert, Allow, Install, Withdraw, Disallow, Restore; each of them by prefix (see rank for the one exception) or by
// device. It is pure.
func Plan(desired *Snapshot, installed *Ledger) []Op {
	return PlanPrefixes(desired, installed, union(desired.rows, installed.held.live))
}

// PlanPrefixes is Plan for some prefixes: what remains when nothing else has changed. Each prefix appears once.
func PlanPrefixes(desired *Snapshot, installed *Ledger, prefixes []netip.Prefix) []Op {
	ops := planDevices(desired, installed)
	for _, p := range prefixes {
		row := desired.Get(p)
		if row == nil {
			row = newRow(p)
		}
		held, _ := installed.held.live.Get(p)
		if held == nil {
			held = &Held{holding: nothing}
		}
		ops = planPrefix(ops, row, held, installed.swept)
	}
	slices.SortStableFunc(ops, func(a, b Op) int {
		return cmp.Or(cmp.Compare(a.Kind, b.Kind), cmp.Compare(a.rank(), b.rank()), a.Prefix().Compare(b.Prefix()), cmp.Compare(a.Device, b.Device))
	})
	return ops
}

// rank orders operations of a kind: unreachable routes come last and go first, so that they shadow no route that is
// about to come, and none that is about to take over.
func (o Op) rank() int {
	switch {
	case o.Kind == Install && o.Route.Type == Unreachable:
		return 1
	case o.Kind == Withdraw && o.Route.Type == Unreachable:
		return -1
	}
	return 0
}

// planPrefix appends the operations for one prefix. What an earlier run left is removed only if sweep is set.
func planPrefix(ops []Op, want *Row, held *Held, sweep bool) []Op {
	removable := func(m mark) bool { return m == tried || m == acked || m == adopted && sweep }
	allowed := func(k OpKind, o Owner) Op {
		return Op{Kind: k, Allowed: AllowedIP{Device: o.Device, Prefix: want.Prefix, Peer: o.Peer}}
	}
	// Both are sorted by device; of a device one owner is wanted at most, while several may be held in doubt.
	rest := held.allowed
	drop := func(upTo string, all bool) {
		for len(rest) > 0 && (all || rest[0].Device < upTo) {
			if removable(rest[0].mark) {
				ops = append(ops, allowed(Disallow, rest[0].Owner))
			}
			rest = rest[1:]
		}
	}
	for _, o := range want.Owners {
		drop(o.Device, false)
		sure, doubt := false, false
		for ; len(rest) > 0 && rest[0].Device == o.Device; rest = rest[1:] {
			sure = sure || rest[0].Peer == o.Peer && rest[0].mark != tried
			doubt = doubt || rest[0].mark == tried
		}
		if !sure || doubt {
			ops = append(ops, allowed(Allow, o))
		}
	}
	drop("", true)

	route := func(k OpKind, t RouteType, hops []Hop) Op {
		return Op{Kind: k, Route: Route{Prefix: want.Prefix, Type: t, Hops: hops}}
	}
	switch r, ok := want.Route(); {
	case ok && (held.route == absent || held.route == tried || !slices.Equal(held.hops, r.Hops) || !slices.Equal(held.backup, r.Backup)):
		ops = append(ops, Op{Kind: Install, Route: r})
	case !ok && removable(held.route):
		hops := held.hops
		if len(hops) == 0 {
			hops = held.maybe
		}
		ops = append(ops, route(Withdraw, Unicast, hops))
	}
	switch {
	case want.Discard && (held.discard == absent || held.discard == tried):
		ops = append(ops, route(Install, Unreachable, nil))
	case !want.Discard && removable(held.discard):
		ops = append(ops, route(Withdraw, Unreachable, nil))
	}
	return ops
}
