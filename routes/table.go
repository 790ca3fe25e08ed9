package routes

import (
	"cmp"
	"net/netip"
	"slices"
	"time"

	"github.com/gaissmai/bart"
)

// Table holds all paths and best sets and turns them into what is desired.
//
// Owner: one goroutine, the Syncer's; no locks. The snapshots that it returns may be read by anybody.
type Table struct {
	rules      *rules
	neighbours map[string]*neighbour
	alive      map[string]bool
	eor        map[eorKey]struct{} // End-of-RIB was seen
	connected  *bart.Table[string] // device by network
	dead       map[string]Loss     // by peer whose tunnel is
	losses     []Loss              // for the next Update
	nextHops   nextHops
	// backups says that rows get a Backup; spares are those in use, shared between rows.
	backups bool
	spares  map[choice]*spare
	// devices is what the next snapshot says of them; nil if it has to be found out again.
	devices map[string]liveness
	lost    []string
	// base holds the routes that next hops may be resolved through; kept only if rules.recursive.
	base *bart.Table[[]way]

	rows *forest[*Row]
	// lazy says that the rows of a snapshot are those of when somebody looks.
	lazy   bool
	counts Counts
	// admitted and waiting are the BGP routes within and beyond MaxRoutes.
	admitted [2]int
	waiting  [2]bart.Lite

	// drafts are the rows that are being changed; none outside of Apply and the Set methods. order and room are for the next
	// time.
	drafts gathered[draft]
	order  []*draft
	room   []work

	share       share
	compression *compression
	// Scratch space of decide.
	deciding Decision
	picked   []choice
	owners   []Owner
}

// draft is a row that is being changed, with what was there before.
type draft struct {
	row      *Row   // is space
	old      *Row   // nil: none
	place    uint64 // see placeOf
	ownPaths bool   // the slice is ours to modify
	why      Cause
	space    Row
	known    known    // of space
	paths    [2]rpath // room for those of known
}

// Cause of a change, for measuring how long it took.
type Cause struct {
	// Received is when the UPDATE was read; zero if there was none.
	Received time.Time
	// Decided is when BGP had chosen, or the thing happened that was no UPDATE.
	Decided time.Time
	// Loss that it follows from, if any.
	Loss Loss
}

// Start is when the clock of convergence starts.
func (c Cause) Start() time.Time {
	switch {
	case c.Loss.happened():
		return c.Loss.At
	case !c.Received.IsZero():
		return c.Received
	}
	return c.Decided
}

// Update is the outcome of a change of the Table.
type Update struct {
	Snapshot *Snapshot
	changed  []work // sorted
	// Losses that were told of, in order.
	Losses []Loss
}

// Changed are the prefixes for which something else is desired than before, sorted.
func (u *Update) Changed() []netip.Prefix {
	out := make([]netip.Prefix, len(u.changed))
	for i := range u.changed {
		out[i] = u.changed[i].prefix
	}
	return out
}

// causes adds the causes to those by prefix.
func (u *Update) causes(to map[netip.Prefix]Cause) {
	for i := range u.changed {
		to[u.changed[i].prefix] = u.changed[i].cause
	}
}

// NewTable returns an empty Table with an empty Policy.
func NewTable() *Table {
	t := &Table{
		neighbours: make(map[string]*neighbour),
		alive:      make(map[string]bool),
		dead:       make(map[string]Loss),
		eor:        make(map[eorKey]struct{}),
		connected:  new(bart.Table[string]),
		base:       new(bart.Table[[]way]),
		rows:       newForest[*Row](),
	}
	t.compression = newCompression(t.rows, &t.share)
	t.counts.Routes = make(map[RouteKey]int)
	t.counts.AllowedIPs = make(map[PeerFamily]int)
	t.counts.Conflicts = make(map[string]int)
	t.setRules(compileRules(Policy{}))
	return t
}

// SetPolicy decides everything again under another policy.
func (t *Table) SetPolicy(p Policy) *Update {
	now := time.Now()
	old := t.rules
	t.setRules(compileRules(p))
	for q := range t.rows.version.all() {
		t.touch(q, now)
	}
	for q := range old.claims {
		t.touch(q, now)
	}
	for q := range t.rules.claims {
		t.touch(q, now)
	}
	for _, r := range []*rules{old, t.rules} {
		for q := range r.own.All() {
			t.touch(q, now)
		}
	}
	return t.finish()
}

func (t *Table) setRules(r *rules) {
	t.rules = r
	for _, n := range t.neighbours {
		n.known, n.rule, n.peer = false, Neighbour{}, nil
	}
	for _, rule := range r.policy.Neighbours {
		n := t.neighbour(rule.Name)
		n.known, n.rule, n.peer = true, rule, r.peers[rule.Peer]
		if n.peer != nil {
			n.tunnel = []way{{Hop{Device: n.peer.Device}, n.peer}}
		}
	}
	for name, p := range r.peers {
		p.alive = t.liveness(name)
	}
	for _, n := range t.neighbours {
		if !n.known || n.rule.Disabled {
			n.cut = false // nobody will tell that it is back
		}
	}
	for _, p := range r.peers {
		p.severed = t.severed(p)
	}
	t.spares, t.devices = nil, nil
	t.base = new(bart.Table[[]way]) // all rows are decided again, which fills it
	t.nextHops.recount(t)
	t.compression.setRules(r)
}

func (t *Table) liveness(peer string) liveness {
	switch is, told := t.alive[peer]; {
	case !told:
		return unknown
	case is:
		return alive
	default:
		return dead
	}
}

// neighbour returns the record of a neighbour, new or old.
func (t *Table) neighbour(name string) *neighbour {
	n := t.neighbours[name]
	if n == nil {
		n = &neighbour{name: name}
		t.neighbours[name] = n
	}
	return n
}

// SetConnected tells which networks are on link; for routes with several hops the first device counts.
func (t *Table) SetConnected(nets []Route) *Update { return t.setConnected(nets, time.Now()) }

// setConnected is SetConnected with when a change was noticed.
func (t *Table) setConnected(nets []Route, noticed time.Time) *Update {
	c := new(bart.Table[string])
	for _, n := range nets {
		if len(n.Hops) > 0 && n.Type == Unicast {
			c.Insert(n.Prefix, n.Hops[0].Device)
		}
	}
	if !c.Equal(t.connected) {
		cause := Cause{Decided: time.Now()}
		if t.lostNetwork(c) {
			cause.Loss = Loss{Of: onLink, Kind: LossLink, At: noticed}
			t.losses = append(t.losses, cause.Loss)
		}
		t.connected = c
		for p := range t.nextHops.resolveAll(t) {
			t.draft(p).because(cause)
		}
	}
	return t.finish()
}

// Apply takes in what happened.
func (t *Table) Apply(b Batch) *Update {
	for name := range b.gone {
		t.applyGone(t.neighbour(name), b.first)
	}
	for name, l := range b.dead { // before the sessions that end for it
		if !b.alive[name] {
			t.applyDead(name, l)
		}
	}
	for name, l := range b.lost {
		t.applyLoss(t.neighbour(name), l)
	}
	for n := range b.news.all() {
		d := t.draft(n.prefix)
		for _, x := range n.paths {
			t.applyPath(t.neighbour(x.neighbour), d, x.path, b.first)
		}
		if n.judged {
			t.applyBest(d, &n.best, b.first)
		}
	}
	for k, session := range b.eor {
		t.applyEndOfRIB(t.neighbour(k.neighbour), k.family, session, b.first)
	}
	for name, is := range b.alive {
		t.applyAlive(name, is, b.first)
	}
	for name, is := range b.reachable {
		t.applyReachable(t.neighbour(name), is, b.first)
	}
	return t.finish()
}

func (t *Table) applyGone(n *neighbour, now time.Time) {
	delete(t.eor, eorKey{n.name, IPv4})
	delete(t.eor, eorKey{n.name, IPv6})
	gone := &bestDelta{at: now, members: []memberDelta{{neighbour: n.name, gone: []netip.Addr{{}}}}}
	for p := range n.prefixes.Clone().All() {
		d := t.draft(p)
		t.applyPath(n, d, nil, now)
		t.applyBest(d, gone, now)
	}
}

// Awaiting says who has not told everything yet: neighbours without End-of-RIB, and peers with static prefixes whose
// liveness is not known. Sorted.
func (t *Table) Awaiting() []string {
	var out []string
	for _, n := range t.rules.policy.Neighbours {
		if n.Disabled {
			continue
		}
		families := n.Families
		if len(families) == 0 {
			families = []Family{IPv4, IPv6}
		}
		for _, f := range families {
			if _, seen := t.eor[eorKey{n.Name, f}]; !seen {
				out = append(out, "neighbour "+n.Name)
				break
			}
		}
	}
	for _, p := range t.rules.peers {
		if p.Static && p.alive == unknown {
			out = append(out, "peer "+p.Name)
		}
	}
	slices.Sort(out)
	return out
}

func (t *Table) applyPath(n *neighbour, d *draft, path *Path, now time.Time) {
	i, found := slices.BinarySearchFunc(d.row.paths, n.name, func(x rpath, name string) int { return cmp.Compare(x.from.name, name) })
	if !found && path == nil {
		return
	}
	if !d.ownPaths {
		d.row.paths, d.ownPaths = append(d.paths[:0], d.row.paths...), true
	}
	// Judged again by another policy, it is not the UPDATE of long ago that causes a change.
	judgedAgain := found && path != nil && d.row.paths[i].path.Received.Equal(path.Received)
	switch {
	case path == nil:
		d.row.paths = slices.Delete(d.row.paths, i, i+1)
	case found:
		d.row.paths[i].path = path
	default:
		d.row.paths = slices.Insert(d.row.paths, i, rpath{n, path})
	}
	switch {
	case path == nil:
		t.unlist(n, d.row)
		d.because(Cause{Decided: now, Loss: n.loss})
	case judgedAgain:
		d.because(Cause{Decided: now})
	default:
		if !found {
			n.prefixes.Insert(d.row.Prefix)
		}
		if path.Received.After(n.loss.At) {
			n.loss = Loss{} // it is back
		}
		d.because(Cause{Received: path.Received, Decided: now})
	}
}

// unlist drops a prefix from the neighbour's index if the row does not mention the neighbour any more.
func (t *Table) unlist(n *neighbour, r *Row) {
	if !slices.ContainsFunc(r.paths, func(x rpath) bool { return x.from == n }) &&
		!slices.ContainsFunc(r.best, func(x member) bool { return x.from == n }) {
		n.prefixes.Delete(r.Prefix)
	}
}

func (t *Table) applyEndOfRIB(n *neighbour, f Family, session uint32, now time.Time) {
	t.eor[eorKey{n.name, f}] = struct{}{}
	var stale []netip.Prefix
	for p := range n.prefixes.All() {
		if FamilyOf(p) != f {
			continue
		}
		r := t.current(p)
		if i := slices.IndexFunc(r.paths, func(x rpath) bool { return x.from == n }); i >= 0 && r.paths[i].path.Session < session {
			stale = append(stale, p)
		}
	}
	for _, p := range stale {
		t.applyPath(n, t.draft(p), nil, now)
	}
}

// current returns the row as it is now, drafts included; never nil.
func (t *Table) current(p netip.Prefix) *Row {
	if d := t.drafts.get(p); d != nil {
		return d.row
	}
	if r, ok := t.rows.version.get(p); ok {
		return r
	}
	return newRow(p)
}

// promptness is how much older than the decision an UPDATE may be to count as its cause: an older path became the best
// because of something else.
const promptness = time.Second

func (t *Table) applyBest(d *draft, delta *bestDelta, now time.Time) {
	before := d.row.best
	d.row.best = delta.apply(before, t)
	c := Cause{Decided: delta.at, Loss: lostBest(before, d.row.best)}
	if c.Decided.IsZero() {
		c.Decided = now
	}
	for _, m := range d.row.best {
		if i := slices.IndexFunc(d.row.paths, func(x rpath) bool { return x.from == m.from }); i < 0 {
			m.from.prefixes.Insert(d.row.Prefix)
		} else {
			if r := d.row.paths[i].path.Received; c.Decided.Sub(r) < promptness && !r.After(c.Decided) && r.After(c.Received) {
				c.Received = r
			}
		}
	}
	for _, m := range before {
		t.unlist(m.from, d.row)
	}
	d.because(c)
}

func (t *Table) applyAlive(name string, is bool, now time.Time) {
	was := t.liveness(name)
	t.alive[name] = is
	if is {
		delete(t.dead, name)
	}
	p := t.rules.peers[name]
	if p == nil || was == t.liveness(name) {
		return
	}
	p.alive = t.liveness(name)
	touch := t.touchPaths(p, Cause{Decided: now, Loss: t.dead[name]})
	for q, claims := range t.rules.claims {
		if slices.ContainsFunc(claims, func(c claim) bool { return c.peer == p }) {
			touch(q)
		}
	}
}
