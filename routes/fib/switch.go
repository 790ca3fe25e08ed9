package fib

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"sitewire/routes"
)

var _ routes.Switcher = (*FIB)(nil)

// CanSwitch tells whether the kernel has nexthop objects and they are used. Open must have succeeded.
func (f *FIB) CanSwitch() bool { return f.objects.conn != nil }

// slowSwitch is what a diversion takes where the kernel notifies of each route, and where there are many.
const slowSwitch = 100 * time.Millisecond

// Switch diverts devices and ends diversions: routes.Switcher. It has a socket of its own and waits for nothing but the
// kernel.
func (f *FIB) Switch(ctx context.Context, ops []routes.Op) []error {
	errs := make([]error, len(ops))
	o := &f.objects
	if !f.CanSwitch() {
		return errs // nothing was written that could be diverted
	}
	if err := o.take(ctx); err != nil {
		return fill(errs, err)
	}
	defer o.give()
	for i, op := range ops {
		switch op.Kind {
		case routes.Divert:
			o.down[op.Device] = true
		case routes.Restore:
			delete(o.down, op.Device)
		default:
			errs[i] = fmt.Errorf("operation %d is not about devices", op.Kind)
			continue
		}
		start := time.Now()
		err := o.turnOver(op.Device)
		if took := time.Since(start); took > slowSwitch && !o.slow {
			o.slow = true
			f.log.Info("the kernel took its time to move the routes of a device: see routes.nexthop_compat_off", "dev", op.Device, "took", took)
		}
		if err != nil {
			// The kernel may have deleted objects, as when a link goes down.
			if err = o.load(ctx, f.name); err == nil {
				err = o.turnOver(op.Device)
			}
		}
		if errs[i] = err; err != nil {
			f.stats.failed(op.Kind, err)
		}
		f.stats.add(func(s *Stats) { s.Switches++ })
	}
	return errs
}

// turnOver rewrites the groups that a device is in and that do not lead where they should, in one write. IPv4 comes first:
// there it takes no time, however many routes there are.
func (o *objects) turnOver(device string) error {
	var list []object
	var errs []error
groups:
	for _, g := range o.groups {
		if in := slices.Contains(g.hops.devices, device) || g.backup != nil && slices.Contains(g.backup.devices, device); !in || o.proper(g) {
			continue
		}
		leads := o.leads(g.hops, g.backup)
		for _, m := range leads {
			if err := o.way(m); err != nil {
				errs = append(errs, err) // the others go all the same
				continue groups
			}
		}
		list = append(list, object{id: g.id, protocol: o.protocol, member: member{family: leads[0].family}, members: o.ids(leads)})
	}
	if len(list) == 0 {
		return errors.Join(errs...)
	}
	slices.SortFunc(list, func(a, b object) int { return int(a.family) - int(b.family) })
	reqs := make([]request, len(list))
	err := o.write(reqs, func(b []byte, i int) []byte { return list[i].append(b, unix.NLM_F_REPLACE) })
	for i, x := range list {
		if reqs[i].err == nil {
			o.groups[x.id].now = x.members
		}
	}
	return errors.Join(append(errs, err)...)
}

// Tidy removes objects that no route of the table uses: routes.Switcher. List does so too. Routes of other tables are not
// looked at: nobody else's should use them.
func (f *FIB) Tidy(ctx context.Context) error {
	_, err := f.List(ctx)
	return err
}

// meaning of a group, for listings. Slices are shared.
type meaning struct{ hops, backup []routes.Hop }

// meanings reads the objects anew and says what each group that routes may use stands for; of one that does not lead where it
// should, where it leads. The caller has the turn.
func (f *FIB) meanings(ctx context.Context) (map[uint32]meaning, error) {
	o := &f.objects
	if o.conn == nil {
		return nil, nil
	}
	if err := o.take(ctx); err != nil {
		return nil, err
	}
	defer o.give()
	if err := o.load(ctx, f.name); err != nil {
		return nil, err
	}
	byID := map[uint32]member{}
	for m, id := range o.ways {
		byID[id] = m
	}
	hops := func(members []member) (out []routes.Hop) {
		for _, m := range members {
			out = append(out, routes.Hop{Device: f.name(m.index), Via: m.via})
		}
		return routes.CanonicalHops(out)
	}
	out := map[uint32]meaning{}
	for id, g := range o.groups {
		var m meaning
		if o.proper(g) {
			if m.hops = hops(g.hops.members); g.backup != nil {
				m.backup = hops(g.backup.members)
			}
		} else {
			var now []member
			for _, id := range g.now {
				now = append(now, byID[id])
			}
			m.hops = hops(now)
		}
		out[id] = m
	}
	return out, nil
}

// tidy deletes the groups that are not used, and then what is in no group. The caller has the turn, so no route that uses one
// can come meanwhile.
func (f *FIB) tidy(ctx context.Context, used map[uint32]bool) error {
	o := &f.objects
	if o.conn == nil {
		return nil
	}
	if err := o.take(ctx); err != nil {
		return err
	}
	defer o.give()
	var gone []uint32
	sets, ways := map[uint32]bool{}, map[uint32]bool{}
	for id, g := range o.groups {
		if g.backup == nil {
			continue
		}
		if !used[id] {
			gone = append(gone, id)
			continue
		}
		sets[g.hops.number], sets[g.backup.number] = true, true
	}
	for id, g := range o.groups {
		if g.backup == nil && !used[id] && !sets[g.hops.number] {
			gone = append(gone, id)
		}
	}
	for id := range o.orphans {
		if !used[id] {
			gone = append(gone, id)
		}
	}
	for id, g := range o.groups {
		if !slices.Contains(gone, id) {
			for _, w := range slices.Concat(o.ids(g.hops.members), g.now) {
				ways[w] = true
			}
		}
	}
	for _, id := range o.ways {
		if !ways[id] {
			gone = append(gone, id)
		}
	}
	if len(gone) == 0 {
		return nil
	}
	reqs := make([]request, len(gone))
	_ = o.write(reqs, func(b []byte, i int) []byte { return appendObjectDelete(b, gone[i]) })
	for _, r := range reqs {
		if r.err != nil && !errors.Is(r.err, unix.ENOENT) {
			o.stale.Store(true)
			return fmt.Errorf("delete a nexthop object: %w", r.err)
		}
	}
	return o.load(ctx, f.name)
}

// share returns the group that a route is to use; 0 if it is to name its hops itself.
func (f *FIB) share(ctx context.Context, prefix netip.Prefix, r routes.Route) (id uint32, err error) {
	plain := func(h routes.Hop) bool { return h.Device == "" || h.Via.IsValid() }
	if f.objects.conn == nil || len(r.Hops) < 2 && len(r.Backup) == 0 || slices.ContainsFunc(r.Hops, plain) {
		return 0, nil
	}
	key := f.batch.key[:0]
	if prefix.Addr().Is6() {
		key = append(key, 6)
	}
	for _, list := range [][]routes.Hop{r.Hops, r.Backup} {
		key = append(key, '|')
		for _, h := range list {
			key = append(append(key, h.Device...), 0)
			if h.Via.IsValid() {
				key = append(append(key, h.Via.AsSlice()...), 0)
			}
		}
	}
	f.batch.key = key
	if s, known := f.batch.shared[string(key)]; known {
		return s.id, s.err
	}
	var hops, backup []member
	if hops, err = f.members(ctx, prefix, r.Hops); err == nil {
		backup, err = f.members(ctx, prefix, r.Backup)
	}
	if err == nil {
		id, err = f.objects.group(ctx, hops, backup, f.name)
	}
	f.batch.shared[string(key)] = shared{id, err}
	if err != nil {
		f.log.Warn("routes cannot share a nexthop object and are written without a backup", "hops", routes.HopsString(prefix, r.Hops), "error", err)
	}
	return id, err
}

// shared is an outcome of share.
type shared struct {
	id  uint32
	err error
}

func (f *FIB) members(ctx context.Context, prefix netip.Prefix, in []routes.Hop) ([]member, error) {
	var out []member
	for _, h := range in {
		one, err := f.hops(ctx, prefix, []routes.Hop{h})
		if err != nil {
			return nil, err
		}
		if one[0].index == 0 {
			return nil, fmt.Errorf("nexthop via %v without a device", h.Via)
		}
		out = append(out, memberOf(prefix, one[0]))
	}
	return out, nil
}
