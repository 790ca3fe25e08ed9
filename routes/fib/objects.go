package fib

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// Nexthop objects (linux/nexthop.h, Linux 5.3). Routes through tunnels refer to groups instead of naming devices, one group
// for each pair of hops and backup. So what happens to a tunnel is done to the few groups that it is in, however many
// routes refer to them: prefix-independent convergence as in draft-ietf-rtgwg-bgp-pic.
//
// What an id means can be told from the id and from what the kernel has, so that another process can take the objects over:
//
//	0x52NNNNNN  a way out: a device, maybe with a gateway
//	0x53SSS000  the set number SSS of ways out: a group of them
//	0x53SSSTTT  a group that leads through the set SSS, or through the set TTT while the devices of SSS are diverted
//
// Routes use the last two kinds. A row with a group that leads where it should is listed with the hops and the backup that
// it was written with, diverted or not.
//
// Groups are used for routes whose hops are all devices without a gateway, which is what tunnels are, and that have a
// backup or several hops; for the others there is nothing to gain. Where the link of a device loses its carrier the kernel
// deletes the objects and the routes that use them, while it would keep plain routes: that is another reason to leave
// routers on the LAN out.
const (
	wayBase   = 0x52 << 24
	groupBase = 0x53 << 24
	setBits   = 12
	maxSets   = 1<<setBits - 1
	baseMask  = 0xff << 24
)

// objects are the nexthop objects of a FIB.
//
// Owner: whoever holds the token in turn.
type objects struct {
	turn     chan struct{}
	conn     *conn // nil if the kernel has no objects, or none are wanted
	protocol uint8
	// stale says that the kernel may have deleted objects, or somebody else changed them.
	stale atomic.Bool

	ways   map[member]uint32
	sets   map[uint32]*set // by number
	groups map[uint32]*group
	down   map[string]bool // diverted devices
	// taken are ids of ours that others use, orphans groups of ours of which nobody can tell what they are for.
	taken, orphans map[uint32]bool
	slow           bool // it was said that a diversion took long

	buf []byte
}

// set is a list of ways out. Immutable.
type set struct {
	number  uint32
	members []member // sorted
	devices []string // of the members
}

// group is a group in the kernel.
type group struct {
	id           uint32
	hops, backup *set     // backup may be nil
	now          []uint32 // ids of the ways that it leads through, sorted
}

func (o *objects) take(ctx context.Context) error {
	select {
	case <-o.turn:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func (o *objects) give() { o.turn <- struct{}{} }

// open finds out whether the kernel has objects, and takes over those of an earlier run.
func (o *objects) open(ctx context.Context, c *conn, name func(index int) string) error {
	const probe = wayBase | 1<<24 - 1
	o.conn = c
	o.down, o.sets = map[string]bool{}, map[uint32]*set{}
	err := o.write([]request{{}}, func(b []byte, _ int) []byte {
		return appendBlackhole(b, probe, o.protocol, unix.NLM_F_CREATE|unix.NLM_F_EXCL)
	})
	if err == nil {
		err = o.write([]request{{}}, func(b []byte, _ int) []byte { return appendObjectDelete(b, probe) })
	}
	if err == nil || errors.Is(err, unix.EEXIST) {
		err = o.load(ctx, name)
	}
	if err != nil {
		o.conn = nil
		return err
	}
	for _, g := range o.groups {
		o.infer(g)
	}
	o.turn <- struct{}{}
	return nil
}

// infer finds out which devices an earlier run had diverted.
func (o *objects) infer(g *group) {
	if g.backup == nil || len(g.now) == 0 {
		return
	}
	backup := o.ids(g.backup.members)
	for _, id := range g.now {
		if !slices.Contains(backup, id) {
			return
		}
	}
	for _, d := range g.hops.devices {
		o.down[d] = true
	}
}

// write sends messages and returns the first error of them; requests have their own.
func (o *objects) write(reqs []request, encode func(b []byte, i int) []byte) error {
	o.buf = o.buf[:0]
	for i := range reqs {
		reqs[i].start = len(o.buf)
		o.buf = encode(o.buf, i)
	}
	err := o.conn.exchange(o.buf, reqs)
	for i := range reqs {
		reqs[i].err = cmp.Or(err, reqs[i].err)
	}
	if i := slices.IndexFunc(reqs, func(r request) bool { return r.err != nil }); i >= 0 {
		return reqs[i].err
	}
	return nil
}

// load reads what the kernel has. What a set means is known already, unless it is an earlier run's.
func (o *objects) load(ctx context.Context, name func(index int) string) error {
	o.stale.Store(false)
	var all []object
	err := o.conn.dump(ctx, appendObjectDump, func() { all = all[:0] }, func(_ uint16, body []byte) error {
		if x, ok := parseObject(body); ok {
			all = append(all, x)
		}
		return nil
	})
	if err != nil {
		o.stale.Store(true)
		return fmt.Errorf("nexthop objects: %w", err)
	}
	o.ways, o.groups = map[member]uint32{}, map[uint32]*group{}
	o.taken, o.orphans = map[uint32]bool{}, map[uint32]bool{}
	byID := map[uint32]member{}
	for _, x := range all {
		switch base := x.id & baseMask; {
		case base != wayBase && base != groupBase:
		case x.protocol != o.protocol || (base == groupBase) != (x.members != nil):
			o.taken[x.id] = true
		case base == wayBase:
			o.ways[x.member], byID[x.id] = x.id, x.member
		}
	}
	there := map[uint32]bool{}
	for _, x := range all {
		if number := x.id >> setBits & maxSets; x.id&baseMask == groupBase && !o.taken[x.id] && x.id&maxSets == 0 {
			there[number] = true
			if o.sets[number] == nil {
				o.sets[number] = newSet(number, x.members, byID, name)
			}
		}
	}
	for number := range o.sets {
		if !there[number] {
			delete(o.sets, number)
		}
	}
	for _, x := range all {
		if x.id&baseMask != groupBase || o.taken[x.id] {
			continue
		}
		g := &group{id: x.id, hops: o.sets[x.id>>setBits&maxSets], backup: o.sets[x.id&maxSets], now: x.members}
		if g.hops == nil || g.backup == nil && x.id&maxSets != 0 {
			o.orphans[x.id] = true // rows that use it are replaced, and then it goes
			continue
		}
		o.groups[x.id] = g
	}
	return nil
}

func newSet(number uint32, ids []uint32, byID map[uint32]member, name func(index int) string) *set {
	s := &set{number: number}
	for _, id := range ids {
		s.members = append(s.members, byID[id])
	}
	slices.SortFunc(s.members, compareMembers)
	for _, m := range s.members {
		s.devices = append(s.devices, name(m.index))
	}
	return s
}

// ids of ways; 0 for one that the kernel does not have.
func (o *objects) ids(members []member) []uint32 {
	out := make([]uint32, len(members))
	for i, m := range members {
		out[i] = o.ways[m]
	}
	slices.Sort(out)
	return out
}

// leads are the ways that a group should lead through now.
func (o *objects) leads(hops, backup *set) []member {
	for _, s := range []*set{hops, backup} {
		if s == nil {
			break
		}
		var live []member
		for i, m := range s.members {
			if !o.down[s.devices[i]] {
				live = append(live, m)
			}
		}
		if len(live) > 0 {
			return live
		}
	}
	return hops.members
}

// proper tells whether a group leads where it should.
func (o *objects) proper(g *group) bool { return slices.Equal(g.now, o.ids(o.leads(g.hops, g.backup))) }

// errNoRoom says that there are more sets than numbers for them.
var errNoRoom = fmt.Errorf("more than %d sets of nexthops", maxSets)

// group returns the group for hops and backup, which may be empty, and makes it if need be.
func (o *objects) group(ctx context.Context, hops, backup []member, name func(int) string) (id uint32, err error) {
	if err := o.take(ctx); err != nil {
		return 0, err
	}
	defer o.give()
	for range 2 {
		if o.stale.Load() {
			if err := o.load(ctx, name); err != nil {
				return 0, err
			}
		}
		if id, err = o.make(hops, backup, name); err == nil {
			return id, nil
		}
		o.stale.Store(true) // something is not as it was thought to be
	}
	return 0, err
}

func (o *objects) make(hops, backup []member, name func(int) string) (uint32, error) {
	s, err := o.set(hops, name)
	if err != nil {
		return 0, err
	}
	if len(backup) == 0 {
		return s.id(nil), o.put(s, nil)
	}
	t, err := o.set(backup, name)
	if err != nil {
		return 0, err
	}
	// The sets' own groups say what the pair means.
	if err := errors.Join(o.put(s, nil), o.put(t, nil)); err != nil {
		return 0, err
	}
	return s.id(t), o.put(s, t)
}

func (s *set) id(backup *set) uint32 {
	id := groupBase | s.number<<setBits
	if backup != nil {
		id |= backup.number
	}
	return id
}

// set finds or numbers a set, and makes its ways.
func (o *objects) set(members []member, name func(int) string) (*set, error) {
	members = slices.SortedFunc(slices.Values(members), compareMembers)
	for _, s := range o.sets {
		if slices.Equal(s.members, members) {
			return s, nil
		}
	}
	for _, m := range members {
		if err := o.way(m); err != nil {
			return nil, err
		}
	}
	for n := uint32(1); n <= maxSets; n++ {
		if o.sets[n] == nil && !o.taken[groupBase|n<<setBits] && !o.orphaned(n) {
			s := &set{number: n, members: members}
			for _, m := range members {
				s.devices = append(s.devices, name(m.index))
			}
			o.sets[n] = s
			return s, nil
		}
	}
	return nil, errNoRoom
}

// orphaned tells whether a group that nobody knows uses the number of a set.
func (o *objects) orphaned(number uint32) bool {
	for id := range o.orphans {
		if id>>setBits&maxSets == number || id&maxSets == number {
			return true
		}
	}
	return false
}

// way makes the object of a way out.
func (o *objects) way(m member) error {
	if o.ways[m] != 0 {
		return nil
	}
	used := map[uint32]bool{}
	for _, id := range o.ways {
		used[id] = true
	}
	x := object{id: wayBase + 1, protocol: o.protocol, member: m}
	for used[x.id] || o.taken[x.id] {
		x.id++
	}
	if err := o.write([]request{{}}, func(b []byte, _ int) []byte { return x.append(b, unix.NLM_F_CREATE|unix.NLM_F_EXCL) }); err != nil {
		return fmt.Errorf("nexthop %v: %w", m, err)
	}
	o.ways[m] = x.id
	return nil
}

// put makes the group of a set, or of a set with its backup, and has it lead where it should.
func (o *objects) put(s, backup *set) error {
	id := s.id(backup)
	g, flags := o.groups[id], uint16(unix.NLM_F_REPLACE)
	if g == nil {
		if o.taken[id] {
			return fmt.Errorf("nexthop %#x belongs to another program", id)
		}
		g, flags = &group{id: id, hops: s, backup: backup}, unix.NLM_F_CREATE|unix.NLM_F_EXCL
	} else if o.proper(g) {
		return nil
	}
	leads := o.leads(s, backup)
	for _, m := range leads {
		if err := o.way(m); err != nil {
			return err
		}
	}
	x := object{id: id, protocol: o.protocol, members: o.ids(leads)}
	if err := o.write([]request{{}}, func(b []byte, _ int) []byte { return x.append(b, flags) }); err != nil {
		return fmt.Errorf("nexthop group %#x: %w", id, err)
	}
	g.now = x.members
	o.groups[id] = g
	return nil
}
