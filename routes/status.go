package routes

import (
	"iter"
	"maps"
	"net/netip"
	"slices"
	"time"
)

// Status is all that there is to know of the routes at a moment. Immutable: maps and slices are read only. What is known of each
// prefix is of that moment or later: of when it is first asked for.
type Status struct {
	// At is when it was made.
	At time.Time
	// Synced is when the first sync was complete (End-of-RIB from everybody, or SweepAfter); zero before.
	Synced time.Time
	// Awaiting says who the first sync still waits for ("neighbour nyc", "peer store-17").
	Awaiting []string

	Desired   Counts
	Installed Installed

	// Changes of routes that were acknowledged, by operation and family.
	Changes [Operations][2]uint64
	// Convergence is how long it took from the UPDATE to the acknowledgement, by operation and family.
	Convergence [Operations][2]Histogram
	Stages      [Stages]Histogram
	// Failover is how long it took from noticing a loss to the acknowledgement of the last route that replaced a lost one,
	// by how it was noticed. Losses that nothing could replace are not in it.
	Failover [LossKinds]Histogram

	// Pending prefixes are decided and not acknowledged; OldestPending is since when the first of them waits, zero if
	// there is none.
	Pending       int
	OldestPending time.Time
	// Retries are attempts after the first; Failures are operations that failed, by kind.
	Retries  uint64
	Failures [OpKinds]uint64

	// Reconciles and ReconcileFailures count comparisons with the kernel; failed ones are in both.
	Reconciles        [Triggers]uint64
	ReconcileFailures [Triggers]uint64
	ReconcileDuration Histogram
	LastReconcile     time.Time // the last one that succeeded
	DriftDetected     [DriftKinds]uint64
	DriftRepaired     [DriftKinds]uint64
	// DriftUnresolved is what differs now: what could not be repaired yet, and foreign allowed-IPs (AllowedIPExtra).
	DriftUnresolved [DriftKinds]int
	// Foreign allowed-IPs, which are not ours and stay.
	Foreign []AllowedIP
	// Diversions at present, by device.
	Diversions []Diversion

	snapshot *Snapshot
	held     *published[*Held]
}

// Operation is a change of a route.
type Operation uint8

// Operations; the names are those of the metrics.
const (
	Announced Operation = iota
	Withdrawn
	Replaced
	Operations // their number
)

func (o Operation) String() string {
	switch o {
	case Announced:
		return "announce"
	case Withdrawn:
		return "withdraw"
	case Replaced:
		return "replace"
	}
	return "unknown"
}

// Stage is a part of convergence.
type Stage uint8

// Stages: from the UPDATE to BGP's decision, from there to the plan, and the two kinds of writes (one observation for
// each batch).
const (
	StageDecide Stage = iota
	StageBatch
	StageAllowedIPs
	StageFIB
	Stages // their number
)

func (s Stage) String() string {
	switch s {
	case StageDecide:
		return "decide"
	case StageBatch:
		return "batch"
	case StageAllowedIPs:
		return "allowed_ips"
	case StageFIB:
		return "fib"
	}
	return "unknown"
}

// stats are the counters behind Status.
//
// Owner: the Syncer.
type stats struct {
	synced             time.Time
	reconciled         time.Time
	changes            [Operations][2]uint64
	convergence        [Operations][2]Histogram
	stages             [Stages]Histogram
	failures           [OpKinds]uint64
	runs, runFailures  [Triggers]uint64
	reconcile          Histogram
	detected, repaired [DriftKinds]uint64
}

// publish makes the present state visible.
func (s *Syncer) publish(now time.Time) {
	st := &Status{
		At:                now,
		Synced:            s.stats.synced,
		Desired:           s.snapshot.Counts,
		Installed:         s.ledger.counts,
		Changes:           s.stats.changes,
		Pending:           len(s.pending.byPrefix) + s.acting.n,
		OldestPending:     s.pending.oldest(),
		Retries:           s.retries.total,
		Failures:          s.stats.failures,
		Reconciles:        s.stats.runs,
		ReconcileFailures: s.stats.runFailures,
		ReconcileDuration: s.stats.reconcile.Copy(),
		LastReconcile:     s.stats.reconciled,
		DriftDetected:     s.stats.detected,
		DriftRepaired:     s.stats.repaired,
		snapshot:          s.snapshot,
		held:              s.ledger.held.later(),
	}
	if s.acting.n > 0 && (st.OldestPending.IsZero() || s.acting.since.Before(st.OldestPending)) {
		st.OldestPending = s.acting.since
	}
	for op := range st.Convergence {
		for f := range st.Convergence[op] {
			st.Convergence[op][f] = s.stats.convergence[op][f].Copy()
		}
	}
	for i := range st.Stages {
		st.Stages[i] = s.stats.stages[i].Copy()
	}
	for i := range st.Failover {
		st.Failover[i] = s.failovers.took[i].Copy()
	}
	st.Installed.AllowedIPs = maps.Clone(s.ledger.counts.AllowedIPs)
	st.Installed.Moves = maps.Clone(s.ledger.counts.Moves)
	for _, kinds := range s.drifted {
		for _, k := range kinds {
			st.DriftUnresolved[k]++
		}
	}
	st.DriftUnresolved[AllowedIPExtra] += len(s.foreign)
	st.Foreign = s.foreign
	st.Diversions = s.diversions()
	if s.stats.synced.IsZero() {
		st.Awaiting = s.table.Awaiting()
	}
	s.status.Store(st)
}

// RouteInfo is all that is known of a prefix. Slices are read only.
type RouteInfo struct {
	Prefix netip.Prefix
	Source Source
	State  State
	// Reason says why there is no route, where there could be one.
	Reason string
	// Desired ways out; none if there should be no route.
	Desired []Way
	// Installed routes: none, one, or one of each type. Adopted says that an earlier run wrote them.
	Installed []Route
	Adopted   bool
	// Taken are the hops that packets take in place of those of the installed unicast route, because of a diversion; none if
	// they take those.
	Taken []Hop
	// Owners are the installed allowed-IPs, by device. Where an entry that covers the prefix stands for it, it is that one.
	Owners []AllowedIP
	// Paths by neighbour. A path of our own has an empty Neighbour and no Path.
	Paths []PathInfo
	// Changed is when the route last changed, and Took how long after its cause; zero if not known.
	Changed time.Time
	Took    time.Duration
	// Failure says what does not work at present; nil if all is as desired.
	Failure *Failure
}

// PathInfo is a path of a prefix.
type PathInfo struct {
	Neighbour string
	Best      bool
	// Path may be nil for a best path that was not reported on its own.
	Path *Path
	// NextHop in use.
	NextHop netip.Addr
}

// InstalledString renders the ways of the installed unicast route ("dev sw-nyc"), "unreachable", or nothing.
func (r *RouteInfo) InstalledString() string {
	if len(r.Installed) == 0 {
		return ""
	}
	if x := r.Installed[0]; x.Type == Unicast {
		return HopsString(x.Prefix, x.Hops)
	}
	return Unreachable.String()
}

// Get returns what is known of exactly this prefix.
func (s *Status) Get(p netip.Prefix) (RouteInfo, bool) {
	p = p.Masked()
	row := s.snapshot.Get(p)
	held, _ := s.held.get().get(p)
	if row == nil && held == nil {
		return RouteInfo{}, false
	}
	i := info(p, row, held)
	if held != nil {
		i.Taken = s.taken(held.hops, held.backup)
	}
	if row != nil {
		i.Owners = s.covering(p, row, i.Owners)
	}
	return i, true
}

// covering adds the entries that stand for those that a row wants and that are left out.
func (s *Status) covering(p netip.Prefix, row *Row, owners []AllowedIP) []AllowedIP {
	n := len(owners)
	for _, o := range row.Owners {
		if slices.ContainsFunc(owners[:n], func(a AllowedIP) bool { return a.Device == o.Device }) {
			continue
		}
		for q := p; q.Bits() > 0; {
			q = parent(q)
			h, _ := s.held.get().get(q)
			if h == nil {
				continue
			}
			if i := h.owner(o.Device); i >= 0 {
				if h.allowed[i].Peer == o.Peer {
					owners = append(owners, AllowedIP{o.Device, q, o.Peer})
				}
				break
			}
		}
	}
	if len(owners) > n {
		slices.SortFunc(owners, func(a, b AllowedIP) int { return compareNames(a.Device, b.Device) })
	}
	return owners
}

// Lookup returns the route that carries traffic to the address, as the ledger has it; if there is none, the longest
// prefix that anything is known of.
func (s *Status) Lookup(a netip.Addr) (RouteInfo, bool) {
	var first RouteInfo
	found := false
	for i := range s.Covering(a) {
		if len(i.Installed) > 0 {
			return i, true
		}
		if !found {
			first, found = i, true
		}
	}
	return first, found
}

// Covering returns all prefixes that contain the address and of which anything is known, longest first.
func (s *Status) Covering(a netip.Addr) iter.Seq[RouteInfo] {
	return func(yield func(RouteInfo) bool) {
		a = a.Unmap().WithZone("")
		for bits := a.BitLen(); bits >= 0; bits-- {
			p, err := a.Prefix(bits)
			if err != nil {
				return
			}
			if i, ok := s.Get(p); ok && !yield(i) {
				return
			}
		}
	}
}

// Owners returns, for each device, the peer that owns the address by longest match: where packets to it go on that
// device, and which tunnels packets from it are accepted from.
func (s *Status) Owners(a netip.Addr) []AllowedIP {
	var out []AllowedIP
	a = a.Unmap().WithZone("")
	for bits := a.BitLen(); bits >= 0; bits-- {
		p, err := a.Prefix(bits)
		if err != nil {
			return nil
		}
		h, ok := s.held.get().get(p)
		if !ok {
			continue
		}
		for _, x := range h.allowed {
			if x.mark != tried && !slices.ContainsFunc(out, func(o AllowedIP) bool { return o.Device == x.Device }) {
				out = append(out, AllowedIP{x.Device, p, x.Peer})
			}
		}
	}
	slices.SortFunc(out, func(a, b AllowedIP) int { return compareNames(a.Device, b.Device) })
	return out
}

// Routes returns every prefix of which anything is known, IPv4 first, in order.
func (s *Status) Routes() iter.Seq[RouteInfo] {
	return func(yield func(RouteInfo) bool) {
		prefixes := s.snapshot.rows.get().sorted()
		for p := range s.held.get().all() {
			if s.snapshot.Get(p) == nil {
				prefixes = append(prefixes, p)
			}
		}
		slices.SortFunc(prefixes, netip.Prefix.Compare)
		for _, p := range prefixes {
			if i, ok := s.Get(p); ok && !yield(i) {
				return
			}
		}
	}
}

func info(p netip.Prefix, row *Row, held *Held) RouteInfo {
	i := RouteInfo{Prefix: p}
	if row != nil {
		i.Source, i.State, i.Reason, i.Desired = row.Source, row.State, row.Reason, row.Ways
		i.Paths = row.pathInfos()
	}
	if held != nil {
		if len(held.hops) > 0 {
			i.Installed = append(i.Installed, Route{Prefix: p, Hops: held.hops})
		}
		if held.discard == acked || held.discard == adopted {
			i.Installed = append(i.Installed, Route{Prefix: p, Type: Unreachable})
		}
		i.Adopted = held.route == adopted || held.discard == adopted
		for _, a := range held.allowed {
			if a.mark != tried {
				i.Owners = append(i.Owners, AllowedIP{a.Device, p, a.Peer})
			}
		}
		if i.Took, i.Failure = held.took, held.failure; held.changed != 0 {
			i.Changed = time.Unix(0, held.changed)
		}
	}
	return i
}

func (r *Row) pathInfos() []PathInfo {
	out := make([]PathInfo, 0, len(r.paths))
	for _, p := range r.paths {
		out = append(out, PathInfo{Neighbour: p.from.name, Path: p.path, NextHop: p.path.NextHop})
	}
	for _, m := range r.best {
		if i := slices.IndexFunc(out, func(x PathInfo) bool { return x.Neighbour == m.from.name }); i >= 0 {
			out[i].Best, out[i].NextHop = true, m.nextHop
		} else {
			out = append(out, PathInfo{Neighbour: m.from.name, Best: true, NextHop: m.nextHop})
		}
	}
	slices.SortFunc(out, func(a, b PathInfo) int { return compareNames(a.Neighbour, b.Neighbour) })
	return out
}
