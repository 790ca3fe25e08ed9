package routes

import (
	"net/netip"
	"slices"
	"time"
)

// Compress lets the Table compress allowed-IPs, where the policy says so. It is to be called when nothing is installed that an
// earlier run left: what that was is needed in full until everybody has told everything.
func (t *Table) Compress() *Update {
	if c := t.compression; !c.ready {
		c.ready = true
		for d := range c.sizes {
			c.resized[d] = true
		}
	}
	return t.finish()
}

// setForeign tells the Table of entries that are not ours. What is desired stays, but there is more to write around them.
func (t *Table) setForeign(list []AllowedIP) *Update {
	t.compression.setForeign(list)
	return t.finish()
}

func (r *Row) owners() []Owner {
	if r == nil {
		return nil
	}
	return r.Owners
}

// compressed returns what compresses allowed-IPs; nil if nothing does on any device.
func (s *Snapshot) compressed() *compression {
	if s.compression == nil || len(s.compression.on) == 0 {
		return nil
	}
	return s.compression
}

// compresses tells whether allowed-IPs are compressed where there are many.
func (s *Snapshot) compresses() bool {
	return s.compression != nil && s.compression.rules.policy.CompressAbove > 0
}

// also adds prefixes (sorted) of which something else is written because of other changes.
func (u *Update) also(rows *forest[*Row], more []netip.Prefix, now time.Time) {
	if len(more) == 0 {
		return
	}
	was, all := u.changed, merge(u.Changed(), more)
	u.changed = make([]work, len(all))
	for i, p := range all {
		if len(was) > 0 && was[0].prefix == p {
			u.changed[i], was = was[0], was[1:]
			continue
		}
		row, _ := rows.version.get(p)
		u.changed[i] = work{prefix: p, row: row, cause: Cause{Decided: now}, caused: true}
	}
}

// everything is each prefix of which something is or should be written, sorted.
func everything(desired *Snapshot, installed *Ledger) []netip.Prefix {
	all := union(desired.rows.get(), installed.held.version)
	c := desired.compressed()
	if c == nil {
		return all
	}
	joined := make([]netip.Prefix, 0, c.joined.Size())
	for p := range c.joined.All() {
		joined = append(joined, p)
	}
	slices.SortFunc(joined, netip.Prefix.Compare)
	return merge(all, joined)
}

// covers tells whether the device is compressed and somebody gets packets for the prefix, so that plan looks after an entry that
// is held there and not written.
func (c *compression) covers(p netip.Prefix, device string) bool {
	return c.on[device] && c.reaches(p, device) != ""
}

// plan adds the operations for entries that are held though they are not written, on compressed devices where another entry takes
// over. Packets go to its owner as early as if the prefix were written: a route that is to be installed may rely on it. Such an
// entry is superfluous then. It goes at once, unless a row has it: those are noted as spare, and wait for a quiet moment (see
// Syncer.tidy), before which the covering entry may even go again.
func (c *compression) plan(b *planner, p netip.Prefix, written []Owner, held *holding) {
	for rest := held.allowed; len(rest) > 0; {
		device, n := rest[0].Device, 1
		for n < len(rest) && rest[n].Device == device {
			n++
		}
		here := rest[:n]
		rest = rest[n:]
		if !c.on[device] {
			continue
		}
		if _, ok := ownerOn(written, device); ok {
			continue
		}
		peer := c.reaches(p, device)
		if peer == "" {
			continue
		}
		entry := AllowedIP{Device: device, Prefix: p, Peer: peer}
		if n > 1 || here[0].Peer != peer || here[0].mark == tried {
			b.add(Op{Kind: Allow, Allowed: entry})
		}
		if c.own(p, device) == peer {
			b.spare = append(b.spare, p)
		} else {
			b.add(Op{Kind: Disallow, Allowed: entry})
		}
	}
}

// spares returns the operations that remove entries which rows have and which another entry makes superfluous.
func spares(desired *Snapshot, installed *Ledger, prefixes []netip.Prefix) (ops []Op) {
	c := desired.compressed()
	if c == nil {
		return nil
	}
	for _, p := range prefixes {
		held, ok := installed.held.version.get(p)
		if !ok {
			continue
		}
		for _, a := range held.allowed {
			if c.on[a.Device] && a.mark != tried && c.own(p, a.Device) == a.Peer && c.writes(p, a.Device) == "" {
				ops = append(ops, Op{Kind: Disallow, Allowed: AllowedIP{Device: a.Device, Prefix: p, Peer: a.Peer}})
			}
		}
	}
	return ops
}

// inward appends the Allow operations of a plan, which are sorted, so that a prefix comes after all that it contains. A covering
// entry that is written first would for a moment have packets that belong to another peer before and after. (Disallow operations are
// right as they are, the covering ones first.)
func inward(out, sorted []Op) []Op {
	type run struct{ from, to int } // operations of one prefix
	var open []run                  // each contains the next one
	pop := func() {
		last := open[len(open)-1]
		out, open = append(out, sorted[last.from:last.to]...), open[:len(open)-1]
	}
	for i := 0; i < len(sorted); {
		now := run{i, i + 1}
		p := sorted[i].Allowed.Prefix
		for now.to < len(sorted) && sorted[now.to].Allowed.Prefix == p {
			now.to++
		}
		for len(open) > 0 && !contains(sorted[open[len(open)-1].from].Allowed.Prefix, p) {
			pop()
		}
		open = append(open, now)
		i = now.to
	}
	for len(open) > 0 {
		pop()
	}
	return out
}

func contains(p, q netip.Prefix) bool { return p.Bits() <= q.Bits() && p.Contains(q.Addr()) }

// unsettled tells whether it is not known that an entry which overlaps this one, and which is wanted, is there: packets may rely
// on what is about to go.
func (l *Ledger) unsettled(desired *Snapshot, a AllowedIP) bool {
	c := desired.compressed()
	if c == nil || l.doubts == 0 || !c.on[a.Device] {
		return false
	}
	doubtful := func(q netip.Prefix) bool {
		h, ok := l.held.version.get(q)
		return ok && q != a.Prefix && slices.ContainsFunc(h.allowed, func(x heldIP) bool {
			return x.mark == tried && x.Device == a.Device && c.writes(q, a.Device) == x.Peer
		})
	}
	for q := range l.prefixes.Subnets(a.Prefix) {
		if doubtful(q) {
			return true
		}
	}
	for q := range l.prefixes.Supernets(a.Prefix) {
		if doubtful(q) {
			return true
		}
	}
	return false
}
