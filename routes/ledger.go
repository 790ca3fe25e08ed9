package routes

import (
	"cmp"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/gaissmai/bart"
)

// Ledger is what is installed: what we wrote and saw acknowledged, what an earlier run left (adopted), and what we
// tried and do not know the end of.
//
// Owner: one goroutine, the Syncer's. Nothing that is not in the ledger is ever removed.
type Ledger struct {
	held *forest[*Held]
	// prefixes are those of held, for questions about covering and covered ones.
	prefixes *bart.Lite
	// swept says that what an earlier run left may go: the first sync is complete.
	swept  bool
	counts Installed
	share  share
	// doubts is the number of allowed-IPs of which it is not known whether they are there.
	doubts int
	// editing is scratch space of change.
	editing edit
	// diverted are the devices that are, or may be.
	diverted map[string]diversion
	// detours counts the routes that have another way.
	detours map[detour]int
}

// Installed counts what a Ledger holds. The maps are not shared.
type Installed struct {
	Routes [2]int // unicast, by Family
	// AllowedIPs that are acknowledged or adopted.
	AllowedIPs map[PeerFamily]int
	// Moves are prefixes that went from one peer to another of the same device, by device.
	Moves map[string]uint64
	// Diversions of devices so far, active ones included.
	Diversions uint64
}

// mark says how sure we are of an entry.
type mark uint8

const (
	absent  mark = iota
	tried        // written, outcome unknown: write it again before relying on it
	adopted      // found at start: an earlier run's
	acked        // written by us and acknowledged
)

// Held is what is installed for a prefix. Immutable, once the version that it is in was published.
type Held struct {
	prefix netip.Prefix
	*holding
	// changed is when the route last changed, in nanoseconds since 1970, and took how long that was after its cause; 0 is
	// unknown.
	changed int64
	took    time.Duration
	epoch   uint64 // of the forest, when it was made
}

func (h *Held) key() netip.Prefix { return h.prefix }

// holding is what of it many prefixes have in common, and share. Immutable.
type holding struct {
	hops    []Hop // of the unicast route
	backup  []Hop
	route   mark
	maybe   []Hop // where the route may point to as well, after failed writes
	discard mark
	allowed []heldIP // by device, then peer; one acked or adopted entry for each device at most
	failure *Failure
}

// nothing is held.
var nothing = &holding{}

// edit is a Held that is being changed.
type edit struct {
	holding
	changed int64
	took    time.Duration
}

func (e *edit) routeChanged(at time.Time, took time.Duration) {
	e.changed, e.took = at.UnixNano(), took
}

type heldIP struct {
	Owner
	mark mark
}

// Failure is why a prefix is not as desired.
type Failure struct {
	Op       string // the operation that failed, as it prints
	Err      error
	Since    time.Time
	Attempts int
	Next     time.Time // when it is tried again
}

// NewLedger returns a ledger that holds nothing.
func NewLedger() *Ledger {
	return &Ledger{
		held:     newForest[*Held](),
		prefixes: new(bart.Lite),
		counts:   Installed{AllowedIPs: make(map[PeerFamily]int), Moves: make(map[string]uint64)},
		diverted: make(map[string]diversion),
		detours:  make(map[detour]int),
	}
}

// Sweep lets plans remove what an earlier run left and nobody wants.
func (l *Ledger) Sweep() { l.swept = true }

// Swept tells whether Sweep was called.
func (l *Ledger) Swept() bool { return l.swept }

func (h *holding) empty() bool {
	return h.route == absent && h.discard == absent && len(h.allowed) == 0 && h.failure == nil
}

// at returns the entry of a prefix; nil if there is none.
func (l *Ledger) at(p netip.Prefix) *Held {
	h, _ := l.held.version.get(p)
	return h
}

// change edits the entry of a prefix. f gets a copy whose slices it must not modify in place.
func (l *Ledger) change(p netip.Prefix, f func(*edit)) {
	h := l.at(p)
	l.changeAt(&h, p, f)
}

// changeAt is change for those who have the entry of the prefix at hand, nil if there is none. It sees to it that they have it
// afterwards, and returns what was held before.
func (l *Ledger) changeAt(at **Held, p netip.Prefix, f func(*edit)) (before *holding) {
	h, e := *at, &l.editing
	there := h != nil
	if before, *e = nothing, (edit{}); there {
		before = h.holding
		*e = edit{*before, h.changed, h.took}
	}
	f(e)
	l.recount(p, before, &e.holding)
	if e.empty() {
		l.held.remove(p)
		l.prefixes.Delete(p)
		*at = nil
		return before
	}
	now := l.share.holding(&e.holding)
	if there && l.held.amend(h.epoch, func() { h.holding, h.changed, h.took = now, e.changed, e.took }) {
		return before
	}
	h = &Held{prefix: p, holding: now, changed: e.changed, took: e.took}
	if there {
		l.held.set(p, h)
	} else {
		l.prefixes.Insert(p)
		l.held.add(p, h)
	}
	h.epoch = l.held.epoch
	*at = h
	return before
}

func (l *Ledger) recount(p netip.Prefix, before, now *holding) {
	f := FamilyOf(p)
	if len(before.hops) > 0 {
		l.counts.Routes[f]--
	}
	if len(now.hops) > 0 {
		l.counts.Routes[f]++
	}
	l.countDetours(before, now)
	if slices.Equal(before.allowed, now.allowed) {
		return
	}
	count := func(h *holding, n int) {
		for _, a := range h.allowed {
			if a.mark == tried {
				l.doubts += n
			} else {
				tally(l.counts.AllowedIPs, PeerFamily{a.Peer, f}, n)
			}
		}
	}
	count(before, -1)
	count(now, +1)
}

// Done notes that an operation was acknowledged at a time, and how long after its cause that was (0: unknown).
func (l *Ledger) Done(o Op, at time.Time, took time.Duration) {
	var h *Held
	if o.Device == "" {
		h = l.at(o.Prefix())
	}
	l.done(&h, &o, at, took)
}

// done is Done with the entry of the prefix at hand, as changeAt is. It returns what was held before; nil if the operation is about
// a device.
func (l *Ledger) done(held **Held, o *Op, at time.Time, took time.Duration) (before *holding) {
	switch o.Kind {
	case Divert:
		l.divert(o.Device, at)
		return nil
	case Restore:
		delete(l.diverted, o.Device)
		return nil
	default:
	}
	return l.changeAt(held, o.Prefix(), func(h *edit) {
		switch o.Kind {
		case Allow:
			d := o.Allowed.Device
			if i := h.owner(d); i >= 0 && h.allowed[i].Peer != o.Allowed.Peer {
				l.counts.Moves[d]++
			}
			now := heldIP{Owner{d, o.Allowed.Peer}, acked}
			if !slices.ContainsFunc(h.allowed, func(a heldIP) bool { return a.Device != d }) {
				h.allowed = one(&l.share.held, now)
				return
			}
			h.allowed = slices.DeleteFunc(slices.Clone(h.allowed), func(a heldIP) bool { return a.Device == d })
			h.add(now)
		case Install:
			if o.Route.Type == Unreachable {
				h.discard = acked
				return
			}
			h.route, h.hops, h.backup, h.maybe = acked, o.Route.Hops, o.Route.Backup, nil
			h.routeChanged(at, took)
		case Withdraw:
			if o.Route.Type == Unreachable {
				h.discard = absent
				return
			}
			h.route, h.hops, h.backup, h.maybe = absent, nil, nil, nil
			h.routeChanged(at, took)
		case Disallow:
			h.allowed = slices.DeleteFunc(slices.Clone(h.allowed), func(a heldIP) bool {
				return a.Owner == Owner{o.Allowed.Device, o.Allowed.Peer}
			})
		default:
		}
	})
}

// Failed notes that it is not known whether an operation was done.
func (l *Ledger) Failed(o Op) {
	if o.Kind == Divert || o.Kind == Restore {
		l.diverted[o.Device] = diversion{mark: tried}
		return
	}
	l.change(o.Prefix(), func(h *edit) {
		switch o.Kind {
		case Allow, Disallow:
			of := Owner{o.Allowed.Device, o.Allowed.Peer}
			h.allowed = slices.Clone(h.allowed)
			i := slices.IndexFunc(h.allowed, func(a heldIP) bool { return a.Owner == of })
			switch {
			case i < 0:
				h.add(heldIP{of, tried})
			case o.Kind == Disallow:
				h.allowed[i].mark = tried
			}
		case Install, Withdraw:
			if o.Route.Type == Unreachable {
				h.discard = tried
				return
			}
			// It points to the old hops, or to those of any try since, or is not there.
			h.route = tried
			if o.Kind == Install {
				h.maybe = CanonicalHops(slices.Concat(h.maybe, o.Route.Hops, o.Route.Backup))
			}
		default:
		}
	})
}

// owner returns the index of the entry of a device that is in force, or -1.
func (h *holding) owner(device string) int {
	return slices.IndexFunc(h.allowed, func(a heldIP) bool { return a.Device == device && a.mark != tried })
}

func (h *holding) add(a heldIP) {
	i, _ := slices.BinarySearchFunc(h.allowed, a, func(x, y heldIP) int {
		return cmp.Or(strings.Compare(x.Device, y.Device), strings.Compare(x.Peer, y.Peer))
	})
	h.allowed = slices.Insert(h.allowed, i, a)
}

// uses tells whether the route may point at the device, now or from one moment to the next.
func (h *holding) uses(device string) bool {
	is := func(x Hop) bool { return x.Device == device }
	return h.route != absent && (slices.ContainsFunc(h.hops, is) || slices.ContainsFunc(h.backup, is) || slices.ContainsFunc(h.maybe, is))
}

// reaches returns the peer that surely gets all packets for the prefix on the device, as far as the ledger knows; ok is
// false if there is none or if a failed write makes it doubtful. Entries in going do not count.
func (l *Ledger) reaches(device string, p netip.Prefix, going map[AllowedIP]struct{}) (peer string, ok bool) {
	return l.reachesFrom(l.at(p), device, p, going)
}

// reachesFrom is reaches with the entry of the prefix at hand; nil if there is none.
func (l *Ledger) reachesFrom(h *Held, device string, p netip.Prefix, going map[AllowedIP]struct{}) (peer string, ok bool) {
	at := func(q netip.Prefix, h *Held) (doubt bool) {
		for _, a := range h.allowed {
			if a.Device != device {
				continue
			}
			if _, goes := going[AllowedIP{device, q, a.Peer}]; goes {
				continue
			}
			if a.mark == tried {
				doubt = true
			} else {
				peer, ok = a.Peer, true
			}
		}
		return doubt
	}
	if h != nil { // nearly always
		if doubt := at(p, h); ok || doubt {
			return peer, ok && !doubt
		}
	}
	for q := range l.prefixes.Supernets(p) {
		h, _ := l.held.version.get(q)
		if doubt := at(q, h); ok || doubt {
			return peer, ok && !doubt
		}
	}
	return "", false
}

// MayInstall tells whether the route of a row can be written: each tunnel in it reaches the right peer.
func (l *Ledger) MayInstall(r *Row) bool { return l.mayInstall(r, l.at(r.Prefix)) }

// mayInstall is MayInstall with the entry of the prefix at hand; nil if there is none.
func (l *Ledger) mayInstall(r *Row, h *Held) bool {
	for _, w := range r.Ways {
		if w.Peer == "" {
			continue
		}
		if peer, ok := l.reachesFrom(h, w.Hop.Device, r.Prefix, nil); !ok || peer != w.Peer {
			return false
		}
	}
	return true
}

// mayBackUp tells whether the backup of a row's route reaches the right peer as well.
func (l *Ledger) mayBackUp(r *Row, h *Held) bool {
	if r.Backup == nil || r.Backup.Peer == "" {
		return true
	}
	peer, ok := l.reachesFrom(h, r.Backup.Hop.Device, r.Prefix, nil)
	return ok && peer == r.Backup.Peer
}

// MayDisallow tells whether no route needs the entry: none within its prefix points at the device, or another entry
// takes over that is not about to go as well.
func (l *Ledger) MayDisallow(a AllowedIP, going map[AllowedIP]struct{}) bool {
	for p := range l.prefixes.Subnets(a.Prefix) {
		h, _ := l.held.version.get(p)
		if !h.uses(a.Device) {
			continue
		}
		if _, ok := l.reaches(a.Device, p, going); !ok {
			return false
		}
	}
	return true
}

// Ops returns what would remove all that the ledger holds, in order.
func (l *Ledger) Ops() []Op {
	all := *l
	all.swept = true
	return Plan(&Snapshot{rows: newForest[*Row]().now()}, &all)
}
