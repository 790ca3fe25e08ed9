package routes

import (
	"maps"
	"net/netip"
	"slices"
	"time"

	"github.com/gaissmai/bart"
)

// A draft is a row in the making: the Table collects them while it takes in changes, and finish decides and publishes them.

// because notes the cause of the newest change.
func (d *draft) because(c Cause) {
	if d.why.Start().IsZero() || c.Start().After(d.why.Start()) {
		d.why = c
	}
}

func (t *Table) begin(n int) { t.drafts = make(map[netip.Prefix]*draft, n) }

func (t *Table) draft(p netip.Prefix) *draft {
	if d := t.drafts[p]; d != nil {
		return d
	}
	if len(t.spare) == 0 {
		t.spare = make([]draft, 64)
	}
	d := &t.spare[0]
	t.spare = t.spare[1:]
	d.row = newRow(p)
	if old, ok := t.rows.version.get(p); ok {
		d.old = old
		d.row.paths, d.row.best = old.paths, old.best
	}
	t.drafts[p] = d
	return d
}

func (t *Table) touch(p netip.Prefix, now time.Time) { t.draft(p).because(Cause{Decided: now}) }

// finish decides all drafts and publishes the result.
func (t *Table) finish() *Update {
	now := time.Now()
	if t.rules.recursive {
		t.rebase(now)
	}
	order := slices.Collect(maps.Values(t.drafts))
	sortDrafts(order)
	for _, d := range order {
		t.decide(d.row)
	}
	order = t.limit(order, now)

	u := new(Update)
	counts := counting{c: &t.counts}
	for _, d := range order {
		p := d.row.Prefix
		t.nextHops.replace(t, d.old, d.row)
		counts.move(d.old, d.row)
		if !d.row.empty() {
			t.rows.set(p, d.row)
		} else if d.old != nil {
			t.rows.remove(p)
		}
		t.compression.update(p, d.old.owners(), d.row.Owners)
		if !sameWanted(d.old, d.row) {
			if u.Changed == nil {
				u.Changed, u.Causes, u.rows = make([]netip.Prefix, 0, len(order)), make([]Cause, 0, len(order)), make([]*Row, 0, len(order))
			}
			row := d.row
			if row.empty() {
				row = nil
			}
			u.Changed, u.Causes, u.rows = append(u.Changed, p), append(u.Causes, d.why), append(u.rows, row)
		}
	}
	counts.flush()
	u.also(t.rows, t.compression.settle(), now)
	t.drafts, t.spare, u.Losses, t.losses = nil, nil, t.losses, nil
	u.Snapshot = &Snapshot{Counts: t.counts, compression: t.compression}
	if t.lazy {
		u.Snapshot.rows = t.rows.later()
	} else {
		u.Snapshot.rows = t.rows.now()
	}
	u.Snapshot.devices, u.Snapshot.lost = t.ownDevices()
	return u
}

// rebase brings the base table up to date and decides again what was resolved through what changed in it.
func (t *Table) rebase(now time.Time) {
	affected := make(map[*nextHop]struct{})
	for p, d := range t.drafts {
		ways := t.baseWays(d.row)
		was, _ := t.base.Get(p)
		if slices.Equal(ways, was) {
			continue
		}
		if len(ways) > 0 {
			t.base.Insert(p, ways)
		} else {
			t.base.Delete(p)
		}
		t.nextHops.within(p, func(h *nextHop) { affected[h] = struct{}{} })
	}
	for h := range affected {
		if h.resolve(t) {
			for p := range h.users.All() {
				t.touch(p, now)
			}
		}
	}
}

func sortDrafts(list []*draft) {
	slices.SortFunc(list, func(a, b *draft) int { return a.row.Prefix.Compare(b.row.Prefix) })
}

// limit admits BGP routes up to MaxRoutes. Routes that are in stay in; of those that wait the lowest prefix is next.
func (t *Table) limit(order []*draft, now time.Time) []*draft {
	most, added := t.rules.policy.MaxRoutes, false
	for _, d := range order {
		if d.old != nil && d.old.Source == BGP {
			t.admitted[FamilyOf(d.row.Prefix)]--
		}
	}
	for _, d := range order {
		p := d.row.Prefix
		f := FamilyOf(p)
		if t.waiting[f].Size() > 0 {
			t.waiting[f].Delete(p)
		}
		switch {
		case d.row.Source != BGP:
		case most == 0 || d.old != nil && d.old.Source == BGP && t.admitted[f] < most:
			t.admitted[f]++
		default:
			t.waiting[f].Insert(p)
		}
	}
	for f := range t.waiting {
		for t.waiting[f].Size() > 0 && t.admitted[f] < most {
			p := lowest(&t.waiting[f])
			t.waiting[f].Delete(p)
			t.admitted[f]++
			if t.drafts[p] == nil {
				t.touch(p, now)
				d := t.drafts[p]
				t.decide(d.row)
				order = append(order, d)
				added = true
			}
		}
	}
	if !added && t.waiting[IPv4].Size()+t.waiting[IPv6].Size() == 0 {
		return order
	}
	for _, d := range order {
		if p := d.row.Prefix; t.waiting[FamilyOf(p)].Get(p) {
			t.refuseByLimit(d.row)
		}
	}
	sortDrafts(order)
	return order
}

func lowest(set *bart.Lite) netip.Prefix {
	for p := range set.AllSorted() {
		return p
	}
	return netip.Prefix{}
}
