package routes

import (
	"cmp"
	"net/netip"
	"slices"
	"strings"
)

// choice is a way that a route takes, and whose path it is.
type choice struct {
	way
	label string
}

// decide fills in what is desired for a row, from its paths and best set.
func (t *Table) decide(r *Row) {
	d := &t.deciding
	*d = Decision{}
	var picked []choice
	d.Source, picked = t.configured(r.Prefix)
	d.State = Selected
	if d.Source == NoSource {
		c := t.chooseBest(r, false)
		picked, d.State, d.Reason = c.picked, c.state, c.why
		if len(picked) > 0 {
			d.Source = BGP
		}
	}
	d.Discard = t.rules.policy.Unreachable && t.rules.own.Get(r.Prefix)
	if d.Discard && d.Source == NoSource {
		d.Source = Own
	}
	t.setWays(d, picked)
	t.setBackup(r, d, picked)
	t.setOwners(r, d, picked)
	r.Decision = t.share.decision(d)
}

// configured returns the route that the configuration wants for the prefix, if any.
func (t *Table) configured(p netip.Prefix) (Source, []choice) {
	for _, c := range t.rules.claims[p] {
		if c.routed && (c.source == Tunnel || c.peer.alive == alive) && t.rules.owner(c.peer.Device, p) == c.peer {
			return c.source, []choice{{way{Hop{Device: c.peer.Device}, c.peer}, c.peer.Name}}
		}
	}
	return NoSource, nil
}

// baseWays returns the ways of the row's route if that can resolve next hops: only direct members count.
func (t *Table) baseWays(r *Row) []way {
	_, picked := t.configured(r.Prefix)
	if picked == nil {
		picked = t.chooseBest(r, true).picked
	}
	out := make([]way, len(picked))
	for i, c := range picked {
		out[i] = c.way
	}
	return out
}

// outcome of choosing among BGP paths.
type outcome struct {
	picked []choice
	state  State
	why    string
}

// chooseBest picks up to MaxPaths ways from the best set or, if none of it is usable, from the best accepted path. What it
// picked is good until it is called again.
func (t *Table) chooseBest(r *Row, directOnly bool) outcome {
	switch {
	case len(r.best) == 0:
		return outcome{state: NoBest}
	case r.best[0].from.name == "": // the empty name sorts first
		return outcome{state: Local, why: "originated here"}
	case t.rules.own.Get(r.Prefix):
		return outcome{state: Refused, why: "our own prefix"}
	}
	out := outcome{picked: t.picked[:0], state: Unresolved, why: "no usable path"}
	first := true
	consider := func(n *neighbour, nextHop netip.Addr) {
		ways, direct, why := t.ways(n, nextHop)
		if directOnly && !direct {
			return
		}
		state := Unresolved
		if n.cut {
			ways, why, state = nil, "neighbour "+n.name+" is unreachable", Down
		}
		for _, w := range ways {
			if why, state = t.rules.refuse(w.peer, r.Prefix); why == "" {
				out.add(choice{w, n.rule.label()}, max(1, t.rules.policy.MaxPaths))
			}
		}
		if why != "" && first {
			out.state, out.why, first = state, why, false
		}
	}
	for _, m := range r.best {
		consider(m.from, m.nextHop)
	}
	if len(out.picked) == 0 {
		for _, p := range standIns(r) {
			if consider(p.from, p.path.NextHop); len(out.picked) > 0 {
				break
			}
		}
	}
	if t.picked = out.picked; len(out.picked) > 0 {
		out.state, out.why = Selected, ""
	}
	return out
}

// add takes a way in unless there are enough, or one with the same device (tunnel) or hop: a device reaches one peer
// for a prefix.
func (o *outcome) add(c choice, most int) {
	if len(o.picked) >= most {
		return
	}
	for _, x := range o.picked {
		if x.hop == c.hop || x.peer != nil && c.peer != nil && x.peer.Device == c.peer.Device {
			return
		}
	}
	o.picked = append(o.picked, c)
}

// standIns are the accepted paths, by the part of the decision process of RFC 4271 section 9.1.2 that plain attributes
// allow.
func standIns(r *Row) []rpath {
	var out []rpath
	for _, p := range r.paths {
		if p.path.Rejected == "" {
			out = append(out, p)
		}
	}
	slices.SortStableFunc(out, func(a, b rpath) int { return compareAttrs(a.path.Attrs, b.path.Attrs) })
	return out
}

func compareAttrs(a, b *Attrs) int {
	var none Attrs
	a, b = cmp.Or(a, &none), cmp.Or(b, &none)
	return cmp.Or(
		cmp.Compare(b.LocalPref, a.LocalPref),
		cmp.Compare(len(a.ASPath), len(b.ASPath)),
		cmp.Compare(originRank(a.Origin), originRank(b.Origin)),
		cmp.Compare(a.MED, b.MED),
	)
}

func originRank(o string) int {
	switch o {
	case "igp":
		return 0
	case "egp":
		return 1
	}
	return 2
}

// shown is the choice as a Row has it.
func (c *choice) shown() Way {
	w := Way{Hop: c.hop, Label: c.label}
	if c.peer != nil {
		w.Peer = c.peer.Name
	}
	return w
}

func (t *Table) setWays(d *Decision, picked []choice) {
	if len(picked) == 1 {
		d.Ways, d.hops = t.share.way(picked[0].shown())
		return
	}
	for _, c := range picked {
		d.Ways = append(d.Ways, c.shown())
	}
	slices.SortFunc(d.Ways, func(a, b Way) int { return compareHops(a.Hop, b.Hop) })
	for _, w := range d.Ways {
		d.hops = append(d.hops, w.Hop)
	}
}

// setOwners decides who owns the prefix on each device.
func (t *Table) setOwners(r *Row, d *Decision, picked []choice) {
	owners := t.owners[:0]
	var wanted []Owner // on shared devices, by anybody
	own := func(p *peer) {
		i, found := slices.BinarySearchFunc(owners, p.Device, func(o Owner, d string) int { return strings.Compare(o.Device, d) })
		if !found {
			owners = slices.Insert(owners, i, Owner{p.Device, p.Name})
		}
	}
	want := func(p *peer) {
		if o := (Owner{p.Device, p.Name}); p.shared && !slices.Contains(wanted, o) {
			wanted = append(wanted, o)
		}
	}
	for _, c := range t.rules.claims[r.Prefix] {
		want(c.peer)
		// Any covers everything with two entries.
		if o := t.rules.owner(c.peer.Device, r.Prefix); o.Mode != Any || r.Prefix.Bits() == 0 {
			own(o)
		}
	}
	if !t.rules.own.Get(r.Prefix) {
		for _, c := range picked {
			if c.peer != nil && c.peer.Mode == Learned {
				own(c.peer)
			}
		}
		for _, p := range r.paths {
			if x := p.from.peer; x != nil && !x.shared && x.Mode == Learned && p.path.Rejected == "" {
				own(x)
			}
		}
		for _, m := range r.best {
			ways, _, _ := t.ways(m.from, m.nextHop)
			for _, w := range ways {
				if w.peer != nil && w.peer.shared && w.peer.Mode == Learned {
					want(w.peer)
					own(w.peer)
				}
			}
		}
	}
	switch t.owners = owners; len(owners) {
	case 0:
	case 1:
		d.Owners = one(&t.share.owners, owners[0])
	default:
		d.Owners = slices.Clone(owners)
	}
	slices.SortFunc(wanted, func(a, b Owner) int { return strings.Compare(a.Device, b.Device) })
	for i := 1; i < len(wanted); i++ {
		device := wanted[i].Device
		if device == wanted[i-1].Device && !slices.Contains(d.conflicts, device) {
			d.conflicts = append(d.conflicts, device)
		}
	}
}

// refuseByLimit takes the route back that a row got. What the peers own stays: their prefix limits bound it.
func (t *Table) refuseByLimit(r *Row) {
	d := &t.deciding
	*d = *r.Decision
	d.Source, d.State, d.Ways, d.hops, d.Backup, d.backupHops = NoSource, Refused, nil, nil, nil, nil
	d.Reason = "the limit of installed routes is reached"
	r.Decision = t.share.decision(d)
}
