package bgp

import (
	"net/netip"
	"slices"
	"time"

	"github.com/osrg/gobgp/v4/pkg/apiutil"
	"github.com/osrg/gobgp/v4/pkg/packet/bgp"
	"github.com/osrg/gobgp/v4/pkg/server"

	"sitewire/routes"
)

// Watch callbacks. They run on one goroutine of GoBGP's, in the order in which things happened, and its queue in front
// of them has no bound: they only merge.

// watch returns what to subscribe to. All in one subscription: only within one does the order hold.
func watch() []server.WatchOption {
	return []server.WatchOption{
		server.WatchUpdate(true, "", ""), server.WatchAdjInWithdraw(), server.WatchBestPath(true),
		server.WatchPeer(), server.WatchEor(true),
	}
}

func (v *view) callbacks() server.WatchEventMessageCallbacks {
	return server.WatchEventMessageCallbacks{
		OnPathUpdate: v.onUpdate, OnBestPath: v.onBest, OnPathEor: v.onEOR, OnPeerUpdate: v.onPeer,
	}
}

// hears counts an event, and notes how old it is: they wait in GoBGP's queue.
func (v *view) hears(at time.Time) {
	v.events.Add(1)
	if !at.IsZero() {
		v.late = time.Since(at)
	}
}

// onUpdate takes the paths of one UPDATE, before policy, or withdrawals that GoBGP made up when a session was lost.
//
// A table that is lost comes in one call. Others have their turn in between: a tunnel may be lost meanwhile, and its routes must move.
func (v *view) onUpdate(paths []*apiutil.Path, at time.Time) {
	const most = 256
	for some := range slices.Chunk(paths, most) {
		v.takePaths(some, at)
	}
}

func (v *view) takePaths(paths []*apiutil.Path, at time.Time) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.closed {
		return
	}
	v.hears(at)
	var from *received
	var attrs []bgp.PathAttributeInterface
	for _, p := range paths {
		n := v.byAddr[p.PeerAddress]
		prefix, ok := prefixOf(p.Nlri)
		if n == nil || !ok {
			continue
		}
		if p.Withdrawal {
			if len(p.Attrs) > 0 { // GoBGP's own; an UPDATE withdraws without attributes
				v.losing(n, at)
			}
			v.remove(n, routes.FamilyOf(prefix), prefix)
			continue
		}
		if n.state != Established {
			continue // the last words of a session that this neighbour's configuration did not have
		}
		if from == nil || !sameAttrs(attrs, p.Attrs) {
			from, attrs = v.words.readAttrs(p.Attrs, n.internal), p.Attrs
			from.at, from.generation = at, n.generation
		}
		v.put(n, routes.FamilyOf(prefix), prefix, entry{from: from})
	}
}

// onBest takes a change of best paths: with multipath off the new best path of a prefix, or the withdrawal of the
// last; with multipath on what came and what went. One call takes effect at once.
func (v *view) onBest(paths []*apiutil.Path, at time.Time) {
	if len(paths) == 0 {
		return
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.closed {
		return
	}
	v.hears(at)
	changes := v.changes[:0]
	for _, p := range paths {
		prefix, ok := prefixOf(p.Nlri)
		if !ok {
			continue
		}
		if p.Withdrawal {
			changes = v.bestGone(changes, prefix, p, at)
		} else {
			changes = v.bestNow(changes, prefix, p, at)
		}
	}
	if len(changes) > 0 {
		v.counted = true
		v.sink.PutBest(changes...)
	}
	v.changes = changes[:0]
}

func (v *view) bestGone(changes []routes.BestChange, prefix netip.Prefix, p *apiutil.Path, at time.Time) []routes.BestChange {
	was := v.best.find(prefix)
	list := v.best.value(was).list()
	i := slices.IndexFunc(list, func(b bestPath) bool { return b.is(p) })
	if i < 0 {
		return changes
	}
	if !list[i].hidden {
		changes = append(changes, routes.BestChange{Prefix: prefix, Neighbour: list[i].name(), Withdrawn: true, At: at})
	}
	v.setBest(prefix, was, slices.Delete(slices.Clone(list), i, i+1)...)
	return changes
}

func (v *view) bestNow(changes []routes.BestChange, prefix netip.Prefix, p *apiutil.Path, at time.Time) []routes.BestChange {
	b := bestPath{id: p.RemoteID}
	change := routes.BestChange{Prefix: prefix, Replace: !v.multipath, At: at}
	was := v.best.find(prefix)
	list := v.best.value(was).list()
	if own(p) && nowhere(p) {
		return changes
	}
	if !own(p) {
		if b.from = v.byAddr[p.PeerAddress]; b.from == nil {
			return changes // its neighbour is gone from the configuration, and so will the path be
		}
		e, ok := b.from.in[routes.FamilyOf(prefix)].entries.get(prefix)
		if b.hidden = !ok || e.reason != ""; !b.hidden {
			change.Neighbour, change.NextHop = b.from.cfg.Name, b.from.nextHop(e.from.nextHop)
		}
	}
	if b.hidden {
		// GoBGP has not caught up with a refusal. It will; meanwhile the prefix must neither go where it must not, nor
		// stay where it no longer is.
		for _, was := range list {
			if !was.hidden && (!v.multipath || was.from == b.from && was.id == b.id) {
				changes = append(changes, routes.BestChange{Prefix: prefix, Neighbour: was.name(), Withdrawn: true, At: at})
			}
		}
	} else {
		changes = append(changes, change)
	}
	if !v.multipath {
		v.setBest(prefix, was, b)
		return changes
	}
	if i := slices.IndexFunc(list, func(o bestPath) bool { return o.from == b.from && o.id == b.id }); i >= 0 {
		list = slices.Clone(list)
		list[i] = b
	} else {
		list = append(slices.Clip(list), b)
	}
	v.setBest(prefix, was, list...)
	return changes
}

// hide takes a best path out of the feed whose prefix was refused just now: GoBGP follows, but later.
func (v *view) hide(n *neighbour, prefix netip.Prefix, at time.Time) {
	for i, b := range v.bestOf(prefix) {
		if b.from == n && !b.hidden {
			v.mark(prefix, i, true)
			v.sink.PutBest(routes.BestChange{Prefix: prefix, Neighbour: n.cfg.Name, Withdrawn: true, At: at})
		}
	}
}

// show puts it back.
func (v *view) show(n *neighbour, prefix netip.Prefix, e *entry) {
	for i, b := range v.bestOf(prefix) {
		if b.from == n && b.hidden {
			v.mark(prefix, i, false)
			v.sink.PutBest(routes.BestChange{
				Prefix: prefix, Neighbour: n.cfg.Name, NextHop: n.nextHop(e.from.nextHop), Replace: !v.multipath, At: e.from.at,
			})
		}
	}
}

// mark notes whether a best path is hidden.
func (v *view) mark(prefix netip.Prefix, i int, hidden bool) {
	was := v.best.find(prefix)
	list := slices.Clone(v.best.value(was).list())
	list[i].hidden = hidden
	v.keepBest(prefix, was, list)
}

// bestOf returns the best paths of a prefix, which are not to be modified.
func (v *view) bestOf(prefix netip.Prefix) []bestPath {
	set, _ := v.best.get(prefix)
	return set.list()
}

// keepBest stores a set of best paths, in the place of the one with number was. Sets of one are shared: a million prefixes
// of one neighbour have the same.
func (v *view) keepBest(prefix netip.Prefix, was uint32, list []bestPath) {
	v.hidden += hidden(list) - hidden(v.best.value(was).list())
	switch len(list) {
	case 0:
		v.best.remove(prefix, was)
	case 1:
		set := v.onlyBest[list[0]]
		if set == nil {
			set = &bestSet{slices.Clone(list)}
			v.onlyBest[list[0]] = set
		}
		v.best.replace(prefix, was, set)
	default:
		v.best.replace(prefix, was, &bestSet{slices.Clone(list)})
	}
}

func hidden(list []bestPath) int {
	n := 0
	for i := range list {
		n += btoi(list[i].hidden)
	}
	return n
}

// setBest notes what the best paths of a prefix are now; the set that they were has number was.
func (v *view) setBest(prefix netip.Prefix, was uint32, list ...bestPath) {
	v.unsettled(prefix, len(list) == 0)
	v.prefixes[routes.FamilyOf(prefix)] += btoi(len(list) > 0) - btoi(was != 0)
	v.keepBest(prefix, was, list)
}

// own reports whether the path is one that we announced.
func own(p *apiutil.Path) bool { return !p.PeerAddress.IsValid() || p.PeerAddress.IsUnspecified() }

func (b bestPath) is(p *apiutil.Path) bool {
	if b.from == nil {
		return own(p)
	}
	return b.from.cfg.Address == p.PeerAddress && b.id == p.RemoteID
}

func (b bestPath) name() string {
	if b.from == nil {
		return ""
	}
	return b.from.cfg.Name
}

// onEOR takes an End-of-RIB marker (RFC 4724 section 2). What a restarted neighbour did not send again GoBGP drops
// without a word once all families have theirs; so do we.
func (v *view) onEOR(p *apiutil.Path, _ time.Time) {
	v.mu.Lock()
	defer v.mu.Unlock()
	n := v.byAddr[p.PeerAddress]
	f, ok := familyOf(p.Family)
	if v.closed || n == nil || !ok || n.state != Established {
		return
	}
	n.in[f].eor, v.dirty = true, true
	v.events.Add(1)
	v.wake()
	if !n.waiting {
		v.sink.PutEndOfRIB(n.cfg.Name, f, n.generation)
		return
	}
	for f := range n.in {
		if n.in[f].negotiated && !n.in[f].eor {
			return
		}
	}
	n.waiting = false
	v.dropStale(n)
}

// dropStale ends a graceful restart: paths of earlier sessions go.
func (v *view) dropStale(n *neighbour) {
	for f := range n.in {
		for p, e := range n.in[f].entries.all() {
			if e.from.generation != n.generation {
				v.remove(n, routes.Family(f), p)
			}
		}
		if n.in[f].eor {
			v.sink.PutEndOfRIB(n.cfg.Name, routes.Family(f), n.generation)
		}
	}
}

// onPeer takes a change of a session's state.
func (v *view) onPeer(e *apiutil.WatchEventMessage_PeerEvent, at time.Time) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if n := v.byAddr[e.Peer.State.NeighborAddress]; !v.closed && n != nil && e.Type == apiutil.PEER_EVENT_STATE {
		v.hears(at)
		v.transition(n, &e.Peer.State, at)
	}
}
