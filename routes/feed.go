package routes

import (
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// Feed takes what happens and hands it on in batches. Of several things with the same key only the outcome is kept, so
// Put never blocks and the memory in use is bounded by the number of live keys, however slow the reader is.
//
// Owner: anybody may Put; the Syncer alone Takes. One mutex.
type Feed struct {
	mu   sync.Mutex
	next Batch
	wake chan struct{}
	room gathered[news] // of a batch that is done with, for the next one
	// alarms are what was lost and nobody has acted upon; alarm is signalled. heeded says that somebody acts, and wakes the reader then.
	alarms map[alarm]struct{}
	alarm  chan struct{}
	heeded atomic.Bool
}

// NewFeed returns an empty Feed.
func NewFeed() *Feed {
	return &Feed{wake: make(chan struct{}, 1), alarm: make(chan struct{}, 1)}
}

// Batch is what happened between two Takes, folded: each key appears once, with its outcome. The parts are to be
// applied in the order of the fields.
type Batch struct {
	gone  map[string]struct{}
	lost  map[string]Loss // by neighbour
	news  gathered[news]
	eor   map[eorKey]uint32
	alive map[string]bool
	dead  map[string]Loss // by peer, of those that are not alive
	// reachable is by neighbour.
	reachable map[string]bool
	// first is when the oldest thing in the batch came in; zero if the batch is empty.
	first time.Time
}

// Empty tells whether nothing happened.
func (b *Batch) Empty() bool { return b.first.IsZero() }

// news is what happened to a prefix: to paths first, then to the best set.
type news struct {
	prefix netip.Prefix
	paths  []pathDelta // each neighbour once
	best   bestDelta
	judged bool         // there is something in best
	path   [1]pathDelta // room for paths, which are rarely more
}

// pathDelta is a neighbour's path now; nil if there is none any more.
type pathDelta struct {
	neighbour string
	path      *Path
}

// about returns what happened to a prefix so far.
func (b *Batch) about(p netip.Prefix) *news {
	p = p.Masked()
	n := b.news.get(p)
	if n == nil {
		n = b.news.add(p)
		n.prefix, n.paths, n.best.members = p, n.path[:0], n.best.only[:0]
	}
	return n
}

type eorKey struct {
	neighbour string
	family    Family
}

// bestDelta is the outcome of several changes of one prefix's best set.
type bestDelta struct {
	reset   bool // the old set is gone, members make up the new one
	members []memberDelta
	at      time.Time      // of the oldest change
	only    [1]memberDelta // room for members, which are rarely more
}

// memberDelta is the outcome for one neighbour.
type memberDelta struct {
	neighbour string
	add       bool
	nextHop   netip.Addr // if add
	// gone are the next hops that were withdrawn, if not add. An invalid one stands for any.
	gone []netip.Addr
}

// PutPath says that the neighbour's path for the prefix is now p; nil if there is none any more.
func (f *Feed) PutPath(neighbour string, prefix netip.Prefix, p *Path) {
	f.put(func(b *Batch) {
		n := b.about(prefix)
		for i := range n.paths {
			if d := &n.paths[i]; d.neighbour == neighbour {
				d.path = p
				return
			}
		}
		n.paths = append(n.paths, pathDelta{neighbour, p})
	})
}

// PutBest changes sets of best paths. A set has at most one path of each neighbour: adding another one replaces it, and
// a withdrawal whose next hop is valid and is not the member's is ignored (it is about the one that was replaced).
// A change with both Withdrawn and Replace empties the set. All changes of one call take effect together.
func (f *Feed) PutBest(changes ...BestChange) {
	f.put(func(b *Batch) {
		for _, c := range changes {
			n := b.about(c.Prefix)
			if !n.judged {
				n.judged, n.best.at = true, c.At
			}
			n.best.fold(c)
		}
	})
}

// PutEndOfRIB says that the neighbour has sent all that it has in the family since session began: its paths from
// earlier sessions are stale and go (RFC 4724 section 4.2). The first sync waits for one from every neighbour, in each
// of its families; see Neighbour.Families.
func (f *Feed) PutEndOfRIB(neighbour string, family Family, session uint32) {
	f.put(func(b *Batch) {
		if b.eor == nil {
			b.eor = make(map[eorKey]uint32)
		}
		b.eor[eorKey{neighbour, family}] = session
	})
}

// PutAlive says whether the tunnel to a peer works. A peer that was never mentioned counts as alive for what BGP learned
// through it, and as not alive for its static prefixes.
func (f *Feed) PutAlive(peer string, alive bool) {
	if !alive {
		f.PutDead(peer, LossTunnel)
		return
	}
	f.put(func(b *Batch) {
		if b.alive == nil {
			b.alive = make(map[string]bool)
		}
		b.alive[peer] = alive
	})
}

// PutNeighbourGone drops everything that was learned from a neighbour.
func (f *Feed) PutNeighbourGone(name string) {
	f.put(func(b *Batch) {
		if b.gone == nil {
			b.gone = make(map[string]struct{})
		}
		b.gone[name] = struct{}{}
		for k := range b.eor {
			if k.neighbour == name {
				delete(b.eor, k)
			}
		}
		for n := range b.news.all() {
			n.paths = slices.DeleteFunc(n.paths, func(d pathDelta) bool { return d.neighbour == name })
			n.best.members = slices.DeleteFunc(n.best.members, func(m memberDelta) bool { return m.neighbour == name })
		}
	})
}

func (f *Feed) put(change func(*Batch)) {
	f.putQuietly(change)
	select {
	case f.wake <- struct{}{}:
	default:
	}
}

// putQuietly leaves it to what follows to wake the reader.
func (f *Feed) putQuietly(change func(*Batch)) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.next.first.IsZero() {
		f.next.first = time.Now()
	}
	change(&f.next)
}

// Wake is signalled (capacity one, no data) when there is something to Take.
func (f *Feed) Wake() <-chan struct{} { return f.wake }

// Take returns what has come in since the last Take.
func (f *Feed) Take() Batch {
	f.mu.Lock()
	defer f.mu.Unlock()
	b := f.next
	f.next, f.room = Batch{news: f.room}, gathered[news]{}
	return b
}

// Reuse gives back the room of a batch that nobody looks at any more.
func (f *Feed) Reuse(b Batch) {
	b.news.clear()
	f.mu.Lock()
	defer f.mu.Unlock()
	f.room = b.news
}

func (d *bestDelta) fold(c BestChange) {
	if c.At.Before(d.at) {
		d.at = c.At
	}
	if c.Replace {
		d.reset, d.members = true, d.only[:0]
		if c.Withdrawn {
			return
		}
	}
	i := slices.IndexFunc(d.members, func(m memberDelta) bool { return m.neighbour == c.Neighbour })
	if i < 0 {
		i = len(d.members)
		d.members = append(d.members, memberDelta{neighbour: c.Neighbour})
	}
	m := &d.members[i]
	switch {
	case !c.Withdrawn:
		*m = memberDelta{neighbour: c.Neighbour, add: true, nextHop: c.NextHop}
	case m.add && c.NextHop.IsValid() && c.NextHop != m.nextHop:
		// A member that was replaced already.
	case m.add:
		// Whatever the set held of the neighbour was replaced by the member that now goes.
		*m = memberDelta{neighbour: c.Neighbour, gone: []netip.Addr{{}}}
	case !slices.Contains(m.gone, c.NextHop) && !slices.Contains(m.gone, netip.Addr{}):
		m.gone = append(m.gone, c.NextHop)
	}
}

// apply returns the set after the delta. Sets are sorted by the neighbours' names and never modified.
func (d *bestDelta) apply(set []member, t *Table) []member {
	if d.reset {
		set = nil
	}
	if len(d.members) == 1 && (len(set) == 0 || len(set) == 1 && set[0].from.name == d.members[0].neighbour) { // nearly always
		switch m := &d.members[0]; {
		case m.add:
			return t.share.member(member{from: t.neighbour(m.neighbour), nextHop: m.nextHop})
		case len(set) == 0 || m.takes(set[0].nextHop):
			return nil
		}
		return set
	}
	out := slices.Clone(set)
	for i := range d.members {
		m := &d.members[i]
		i, found := slices.BinarySearchFunc(out, m.neighbour, func(x member, name string) int { return compareNames(x.from.name, name) })
		switch {
		case m.add && found:
			out[i].nextHop = m.nextHop
		case m.add:
			out = slices.Insert(out, i, member{from: t.neighbour(m.neighbour), nextHop: m.nextHop})
		case found && m.takes(out[i].nextHop):
			out = slices.Delete(out, i, i+1)
		}
	}
	if len(out) == 1 {
		return t.share.member(out[0])
	}
	return out
}

// takes tells whether a withdrawal is about the member with this next hop.
func (m *memberDelta) takes(nextHop netip.Addr) bool {
	return slices.Contains(m.gone, netip.Addr{}) || slices.Contains(m.gone, nextHop)
}
