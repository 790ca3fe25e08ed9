package routes

import (
	"cmp"
	"encoding/binary"
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

func (t *Table) draft(p netip.Prefix) *draft {
	if d := t.drafts.get(p); d != nil {
		return d
	}
	d := t.drafts.add(p)
	d.row = &d.space
	*d.row = Row{Prefix: p, Decision: undecided, known: &d.known}
	if old, ok := t.rows.version.get(p); ok {
		d.old, d.known = old, *old.known
	}
	d.place = placeOf(p)
	return d
}

func (t *Table) touch(p netip.Prefix, now time.Time) { t.draft(p).because(Cause{Decided: now}) }

// finish decides all drafts and publishes the result.
func (t *Table) finish() *Update {
	now := time.Now()
	if t.rules.recursive {
		t.rebase(now)
	}
	order := slices.Grow(t.order[:0], t.drafts.n)
	for d := range t.drafts.all() {
		t.decide(d.row)
		order = append(order, d)
	}
	sortDrafts(order)
	order = t.limit(order, now)
	for d := range t.drafts.all() {
		d.row.known = t.share.known(d)
	}

	u := &Update{changed: t.room}
	t.room = nil
	counts := counting{c: &t.counts}
	for _, d := range order {
		p := d.row.Prefix
		row := d.row
		switch {
		case row.empty():
			if row = nil; d.old != nil {
				t.rows.remove(p)
			}
		case d.old != nil && row.Decision == d.old.Decision && row.known == d.old.known:
			row = d.old
		default:
			row = &Row{Prefix: p, Decision: row.Decision, known: row.known}
			if d.old == nil {
				t.rows.add(p, row)
			} else {
				t.rows.set(p, row)
			}
		}
		t.nextHops.replace(t, d.old, d.row)
		counts.move(d.old, d.row)
		t.compression.update(p, d.old.owners(), d.row.Owners)
		if !sameWanted(d.old, d.row) {
			if cap(u.changed) == 0 {
				u.changed = make([]work, 0, len(order))
			}
			u.changed = append(u.changed, work{prefix: p, row: row, cause: d.why, caused: true})
		}
	}
	counts.flush()
	u.also(t.rows, t.compression.settle(), now)
	u.Losses, t.losses = t.losses, nil
	t.drafts.clear()
	if t.order = nil; keep(cap(order), len(order)) {
		clear(order)
		t.order = order
	}
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
	for d := range t.drafts.all() {
		p := d.row.Prefix
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

// reuse gives back the room of an update of which nobody needs the changes any more.
func (t *Table) reuse(u *Update) {
	if keep(cap(u.changed), len(u.changed)) {
		clear(u.changed)
		t.room = u.changed[:0]
	}
}

// placeOf is in the order of prefixes, as far as 64 bits go: all of IPv4, and the first half of an address of IPv6.
func placeOf(p netip.Prefix) uint64 {
	if p.Addr().Is4() {
		a := p.Addr().As4()
		return uint64(binary.BigEndian.Uint32(a[:]))<<8 | uint64(p.Bits())
	}
	a := p.Addr().As16()
	return 1<<63 | binary.BigEndian.Uint64(a[:8])>>1
}

func sortDrafts(list []*draft) {
	slices.SortFunc(list, func(a, b *draft) int {
		if a.place != b.place {
			return cmp.Compare(a.place, b.place)
		}
		return a.row.Prefix.Compare(b.row.Prefix)
	})
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
			if t.drafts.get(p) == nil {
				t.touch(p, now)
				d := t.drafts.get(p)
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
