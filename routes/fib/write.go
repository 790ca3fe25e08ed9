package fib

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"golang.org/x/sys/unix"

	"sitewire/routes"
)

// Write runs Install and Withdraw operations. The result has one entry for each: nil, or an *Error, *DeviceError, *ConflictError or the context's
// error. A prefix may have a unicast route and an unreachable one, each for itself. Withdraw of a unicast route removes every row of ours for the
// prefix but the unreachable one, whatever its hops.
func (f *FIB) Write(ctx context.Context, ops []routes.Op) []error {
	errs := make([]error, len(ops))
	if len(ops) == 0 {
		return errs
	}
	if err := f.take(ctx); err != nil {
		return fill(errs, err)
	}
	defer f.give()
	if err := f.refresh(ctx); err != nil {
		return fill(errs, fmt.Errorf("look at the kernel's routes: %w", err))
	}
	f.lookSources()
	f.batch.reset()
	for i, op := range ops {
		prefix := op.Route.Prefix.Masked()
		// What cleans up after an earlier change of the prefix must not meet the next one.
		if f.batch.full() || f.batch.cleaning[prefix] {
			f.flush(ctx, errs)
		}
		switch op.Kind {
		case routes.Install:
			errs[i] = f.install(ctx, i, prefix, op.Route)
		case routes.Withdraw:
			f.withdraw(i, prefix, op.Route.Type)
		default:
			errs[i] = fmt.Errorf("operation %d is not about routes", op.Kind)
		}
	}
	f.flush(ctx, errs)
	for i, err := range errs {
		if err != nil {
			f.stats.failed(ops[i].Kind, err)
		}
	}
	return errs
}

func fill(errs []error, err error) []error {
	for i := range errs {
		errs[i] = cmp.Or(errs[i], err)
	}
	return errs
}

// install puts the request for an Install into the batch.
func (f *FIB) install(ctx context.Context, op int, prefix netip.Prefix, r routes.Route) error {
	inForm := true // it will be listed as it was asked for
	w := row{dst: prefix, table: f.table, protocol: f.protocol, kind: unix.RTN_UNREACHABLE, metric: UnreachableMetric}
	if r.Type != routes.Unreachable {
		hops, err := f.hops(ctx, prefix, r.Hops)
		if err != nil {
			return err
		}
		w.kind, w.metric, w.hops, w.src = unix.RTN_UNICAST, f.metric, hops, f.src[routes.FamilyOf(prefix)]
		if w.group, err = f.share(ctx, prefix, r); err != nil {
			inForm = false // it works without, but for the backup
		}
		if w.group == 0 && prefix.Addr().Is4() && len(hops) == 1 && !hops[0].via.IsValid() {
			w.scope = unix.RT_SCOPE_LINK
		}
	}
	if err := f.conflict(prefix, w.metric); err != nil {
		return err
	}
	var after []row
	for _, old := range f.rest[prefix] {
		if r.Type != routes.Unreachable || old.metric == UnreachableMetric { // what is not unicast leaves unicast rows alone
			after = append(after, stale(old, w)...)
		}
	}
	f.batch.add(op, w, unix.RTM_NEWROUTE, unix.NLM_F_CREATE|unix.NLM_F_REPLACE, after)
	if r.Type == routes.Unreachable {
		return nil
	}
	if !inForm || slices.ContainsFunc(r.Hops, func(h routes.Hop) bool { return h.Device == "" }) {
		f.asked[prefix] = routes.Route{Prefix: prefix, Type: r.Type, Hops: routes.CanonicalHops(slices.Clone(r.Hops)), Backup: r.Backup}
	} else {
		delete(f.asked, prefix)
	}
	return nil
}

// withdraw puts the requests for a Withdraw into the batch.
func (f *FIB) withdraw(op int, prefix netip.Prefix, typ routes.RouteType) {
	if typ == routes.Unreachable {
		f.batch.add(op, f.any(prefix, UnreachableMetric), unix.RTM_DELROUTE, 0, nil)
		return
	}
	f.batch.add(op, f.any(prefix, f.metric), unix.RTM_DELROUTE, 0, nil)
	for _, old := range f.rest[prefix] {
		for _, r := range perHop(old) {
			f.batch.add(op, r, unix.RTM_DELROUTE, 0, nil)
		}
	}
	delete(f.asked, prefix)
}

// any describes, for deletion, whatever row of ours is at a metric.
func (f *FIB) any(prefix netip.Prefix, metric uint32) row {
	return row{dst: prefix, table: f.table, protocol: f.protocol, scope: anyScope, metric: metric}
}

// leftovers returns the rows of one prefix that a replacement in place would not deal with; nil if there is just the usual single row. The
// unreachable row is not among rows.
func (f *FIB) leftovers(rows []row) []row {
	if len(rows) == 0 || len(rows) == 1 && rows[0].kind == unix.RTN_UNICAST && rows[0].metric == f.metric && rows[0].tos == 0 {
		return nil
	}
	return slices.Clone(rows)
}

// perHop splits an IPv6 multipath row for deletion. Dumps show dev-only rows apart already, and the kernel matches IPv6 rows by one hop.
func perHop(r row) []row {
	r.scope = anyScope
	r.src = netip.Addr{}
	if r.group != 0 {
		r.hops = nil // the kernel matches a row with an object by the object only
	}
	if r.dst.Addr().Is4() || len(r.hops) < 2 {
		return []row{r}
	}
	var out []row
	for _, h := range r.hops {
		one := r
		one.hops = []nexthop{h}
		out = append(out, one)
	}
	return out
}

// stale returns what must be deleted of an old row after w has been put in.
func stale(old, w row) []row {
	if old.metric != w.metric || old.tos != w.tos {
		return perHop(old)
	}
	// At the same metric the kernel has replaced one row, and it matches IPv6 rows neither by type nor by "no gateway": only what
	// surely is not the new row may be named.
	return slices.DeleteFunc(perHop(old), func(o row) bool {
		if len(o.hops) == 0 || o.dst.Addr().Is4() {
			return len(o.hops) == 0 || slices.EqualFunc(o.hops, w.hops, sameHop)
		}
		return slices.ContainsFunc(w.hops, func(h nexthop) bool {
			return h.index == o.hops[0].index && (!o.hops[0].via.IsValid() || h.via == o.hops[0].via)
		})
	})
}

// conflict tells whether somebody else's row would be replaced.
func (f *FIB) conflict(prefix netip.Prefix, metric uint32) (err error) {
	f.view.with(func(s *state) {
		if who := s.foreign[place{prefix, metric}]; len(who) > 0 {
			err = &ConflictError{Prefix: prefix, Table: f.table, Metric: metric, Protocol: who[0]}
		}
	})
	return err
}

// hops translates hops into the kernel's terms, sorted and without duplicates. The result is read only.
func (f *FIB) hops(ctx context.Context, prefix netip.Prefix, in []routes.Hop) ([]nexthop, error) {
	if len(in) == 0 {
		return nil, fmt.Errorf("unicast route without a hop")
	}
	if len(in) == 1 && f.batch.hops != nil && in[0] == f.batch.single {
		return f.batch.hops, nil
	}
	out := make([]nexthop, 0, len(in))
	for _, h := range in {
		n := nexthop{via: h.Via.Unmap().WithZone("")}
		if dev := cmp.Or(h.Device, h.Via.Zone()); dev != "" {
			l, index, err := f.device(ctx, dev)
			if err != nil {
				return nil, err
			}
			n.index = index
			if !n.via.IsValid() && len(in) > 1 && prefix.Addr().Is6() && l.flags&unix.IFF_NOARP != 0 {
				n.via = devOnly
			}
			n.onlink = f.batch.needsOnlink(&f.view, n)
		} else if !n.via.IsValid() {
			return nil, errors.New("hop without device and address")
		}
		out = append(out, n)
	}
	if len(in) == 1 {
		f.batch.single, f.batch.hops = in[0], out
	}
	slices.SortFunc(out, compareHops)
	return slices.CompactFunc(out, sameHop), nil
}

// device finds a device by name. One that the view does not have may have been made just now, so the kernel is asked, once in a Write.
func (f *FIB) device(ctx context.Context, name string) (l link, index int, err error) {
	find := func(s *state) {
		index = s.indexes[name]
		l = s.links[index]
	}
	if f.view.with(find); index == 0 && !f.batch.absent[name] {
		if err := f.lookDevice(ctx, name); err != nil {
			return link{}, 0, err
		}
		f.view.with(find)
	}
	if index == 0 {
		f.batch.absent[name] = true
		return link{}, 0, &DeviceError{Device: name}
	}
	return l, index, nil
}

// flush writes the batch, and then what had to wait for its success.
func (f *FIB) flush(ctx context.Context, errs []error) {
	b := &f.batch
	for len(b.reqs) > 0 {
		var err error
		if ctx.Err() != nil {
			err = context.Cause(ctx)
		} else {
			err = f.req.exchange(b.buf, b.reqs)
			f.stats.requested(b.reqs)
		}
		done := b.reqs
		b.buf, b.reqs, b.done = b.buf[:0], b.done[:0], done
		clear(b.cleaning)
		for _, r := range done {
			if r.err = cmp.Or(err, harmless(r)); r.err != nil {
				errs[r.op] = cmp.Or(errs[r.op], r.err)
				continue
			}
			f.note(r)
			for _, old := range r.after {
				b.add(r.op, old, unix.RTM_DELROUTE, 0, nil)
			}
		}
	}
}

// harmless turns "exists" and "not found" into success. A device that is gone took its rows along.
func harmless(r request) error {
	switch {
	case r.del && (errors.Is(r.err, unix.ESRCH) || errors.Is(r.err, unix.ENODEV)):
		return nil
	case !r.del && errors.Is(r.err, unix.EEXIST):
		return nil
	}
	return r.err
}

// note keeps the leftovers true after a request has succeeded.
func (f *FIB) note(r request) {
	dst := r.row.dst
	if len(f.rest[dst]) == 0 {
		return // nearly always
	}
	if r.del {
		f.rest[dst] = slices.DeleteFunc(f.rest[dst], func(old row) bool {
			return old.metric == r.row.metric && old.tos == r.row.tos && (len(r.row.hops) == 0 || slices.EqualFunc(old.hops, r.row.hops, sameHop))
		})
	} else {
		f.rest[dst] = slices.DeleteFunc(f.rest[dst], func(old row) bool {
			return old.metric == r.row.metric && old.tos == 0 && len(stale(old, r.row)) == 0
		})
	}
	if len(f.rest[dst]) == 0 {
		delete(f.rest, dst)
	}
}
