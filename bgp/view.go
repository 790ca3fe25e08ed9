package bgp

import (
	"cmp"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"sitewire/bgp/bfd"
	"sitewire/bgp/policy"
	"sitewire/routes"
)

// Reasons to turn a path down that are no policy's, in Path.Rejected. Those of policies are in package policy.
const (
	// PrefixLimit: the neighbour has its maximum of accepted prefixes.
	PrefixLimit = "prefix_limit"
	// ASSet: the path has an AS_SET or a confederation segment (RFC 9774).
	ASSet = "as_set"
	// SharedAddress: the prefix is refused from another neighbour with the same link-local address on another device,
	// and GoBGP cannot refuse it from only one.
	SharedAddress = "shared_address"
)

// view is our picture of GoBGP: neighbours, what they sent and what became of it, and the best paths. Watch callbacks
// write it, in GoBGP's order; the speaker's loop reads it and takes over new configurations.
// Owner: the mutex. Nothing blocks under it; the Sink is called under it, so that the feed has our order.
type view struct {
	mu        sync.Mutex
	sink      Sink
	wake      func() // the loop has work
	config    Config
	multipath bool
	order     []*neighbour
	byName    map[string]*neighbour
	byAddr    map[netip.Addr]*neighbour
	best      shared[*bestSet]
	onlyBest  map[bestPath]*bestSet
	hidden    int // best paths that are
	words     words
	changes   []routes.BestChange // room for those of one callback
	// alive holds what SetLiveness said, by name of neighbour or peer; what is missing lives.
	alive    map[string]bool
	want     map[netip.Addr]Neighbour // see wanted; nil: to be made
	upOrDown uint64                   // changes whenever a session comes up or ends, and with the configuration
	bfd      *bfd.Server              // nil in tests
	paths    [2]int                   // accepted ones, by family
	prefixes [2]int                   // with a best path
	// refused prefixes that GoBGP has not been told about yet.
	refused map[refusal]struct{}
	// recompile says that GoBGP's policies depend on something that changed.
	recompile bool
	settling  map[*neighbour]*settling
	closed    bool // stopping: what GoBGP drops now is to stay
	dirty     bool // sessions changed: a new snapshot is due now
	counted   bool // only counts changed: it is due some time
	// events counts what may change GoBGP's counters of messages and of advertised prefixes; keepalives do not.
	events atomic.Uint64
	late   time.Duration // how old the last event was when it was heard
}

// bestSet are the best paths of a prefix: shared, never modified. A nil one is empty.
type bestSet struct{ paths []bestPath }

func (s *bestSet) list() []bestPath {
	if s == nil {
		return nil
	}
	return s.paths
}

// bestPath is one best path of a prefix in GoBGP.
type bestPath struct {
	from *neighbour // nil for our own
	id   uint32
	// hidden from the feed: GoBGP has not caught up with a refusal yet.
	hidden bool
}

// refusal names a prefix in a set of an address: that of refused ones, or one of those in origin.go.
type refusal struct {
	address netip.Addr // without zone
	prefix  netip.Prefix
	// kind is zero for refused prefixes, and else that of the set of prefixes with a validity.
	kind tagKind
}

// neighbour is the state of one of Config.Neighbours. It outlives sessions.
type neighbour struct {
	cfg      Neighbour
	policy   *policy.Policy // compiled; ours alone
	context  policy.Context
	source   string
	internal bool
	bare     netip.Addr
	siblings []*neighbour // others with the same address but for the zone
	// everRefused keeps the statement that refuses single prefixes in GoBGP's policy.
	everRefused bool
	// uncovered asks for a soft reset: it sent a prefix that covers a tunnel's end that came or went.
	uncovered bool
	// tables that the policy asks for validities, kinds of sets that this takes, and those that ever had a member.
	tables     []string
	kinds      map[tagKind]bool
	everTagged map[tagKind]bool

	session    // see session.go
	generation uint32
	in         [2]adjIn
	waiting    bool // End-of-RIB is held back until all families have sent theirs
}

// adjIn is what a neighbour sent in one family.
type adjIn struct {
	offered    bool // by us
	negotiated bool
	entries    shared[entry]
	accepted   int
	rejected   map[string]int
	eor        bool
	stale      int
	// allowed is the set of prefixes beyond which nothing is accepted, once the limit was reached.
	allowed map[netip.Prefix]struct{}
	refused map[netip.Prefix]struct{} // those that GoBGP's policy cannot refuse by itself
	tagged  map[tagKind]map[netip.Prefix]struct{}
	warned  bool
	last    *routes.Attrs
	path    *routes.Path // the last one that was put
}

// entry is one path of an Adj-RIB-In.
type entry struct {
	from     *received
	reason   string // why not; empty if accepted
	verdicts verdicts
}

func newView(sink Sink, wake func()) *view {
	return &view{
		sink: sink, wake: wake,
		byName: map[string]*neighbour{}, byAddr: map[netip.Addr]*neighbour{},
		onlyBest: map[bestPath]*bestSet{}, refused: map[refusal]struct{}{}, alive: map[string]bool{}, settling: map[*neighbour]*settling{},
	}
}

// setConfig takes over a configuration that Validate accepts and evaluates again what it changes.
func (v *view) setConfig(c Config) {
	v.mu.Lock()
	defer v.mu.Unlock()
	origins, before, endpoints := origins(c.Origins), v.config.Origins, exclusive(v.config.Endpoints, c.Endpoints)
	v.config, v.multipath = c, c.MaxPaths > 1
	var compiled []*policy.Policy
	byName, byAddr := map[string]*neighbour{}, map[netip.Addr]*neighbour{}
	bare := map[netip.Addr][]*neighbour{}
	var order, changed []*neighbour
	for i := range c.Neighbours {
		cfg := c.Neighbours[i]
		n := v.byName[cfg.Name]
		if n != nil && (n.cfg.Address != cfg.Address || n.cfg.Peer != cfg.Peer) {
			v.forget(n)
			n = nil
		}
		if n == nil {
			n = &neighbour{session: newSession()}
		}
		was := *n
		n.cfg = cfg
		n.policy = intern(&compiled, cfg.Policy)
		n.internal = cfg.ASN == localASN(c, &cfg)
		n.source = policy.SourceLAN
		if cfg.Peer != "" {
			n.source = policy.SourceTunnel
		}
		n.bare = cfg.Address.WithZone("")
		n.in[routes.IPv4].offered, n.in[routes.IPv6].offered = cfg.IPv4, cfg.IPv6
		n.context = policy.Context{
			LocalASN: localASN(c, &cfg), NeighbourASN: cfg.ASN, Neighbour: n.bare,
			NextHops: []netip.Addr{cfg.RemoteIPv4, cfg.RemoteIPv6}, Own: c.Own, Endpoints: c.Endpoints,
			Origins: origins,
		}
		n.tables, n.kinds = n.policy.RPKITables(), outcomes(n.policy)
		if was.policy == nil || !equalPolicy(was.policy, n.policy) || !equalContext(&was.context, &n.context) {
			changed = append(changed, n)
		}
		order = append(order, n)
		byName[cfg.Name], byAddr[cfg.Address] = n, n
		bare[n.bare] = append(bare[n.bare], n)
	}
	for name, n := range v.byName {
		if byName[name] == nil {
			v.forget(n)
		}
	}
	v.order, v.byName, v.byAddr, v.want = order, byName, byAddr, nil
	for _, n := range order {
		n.siblings = slices.DeleteFunc(slices.Clone(bare[n.bare]), func(o *neighbour) bool { return o == n })
	}
	for _, n := range order {
		v.forgetTags(n)
		switch {
		case slices.Contains(changed, n):
			v.reevaluate(n)
		case len(n.tables) > 0 && c.Origins != before:
			v.revalidate(n, before.Changes(c.Origins, n.tables))
			v.uncover(n, endpoints)
		default:
			v.uncover(n, endpoints)
		}
	}
	v.dirty, v.recompile = true, true
	v.upOrDown++
	v.events.Add(1)
	v.wake()
}

// exclusive returns what only one of the lists has.
func exclusive(a, b []netip.Addr) []netip.Addr {
	not := func(list []netip.Addr) func(netip.Addr) bool {
		return func(e netip.Addr) bool { return slices.Contains(list, e) }
	}
	return append(slices.DeleteFunc(slices.Clone(a), not(b)), slices.DeleteFunc(slices.Clone(b), not(a))...)
}

// uncover judges again what covers tunnels' ends that came or went.
func (v *view) uncover(n *neighbour, endpoints []netip.Addr) {
	for _, e := range endpoints {
		for p := range covering(e) {
			f := routes.FamilyOf(p)
			if path, ok := n.in[f].entries.get(p); ok {
				v.put(n, f, p, path)
				n.uncovered = true
			}
		}
	}
}

// setLiveness notes whether tunnels carry packets; the loop does the rest.
func (v *view) setLiveness(name string, alive bool) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.alive[name], v.want = alive, nil
	v.wake()
}

// established reports whether the session with the neighbour at this address is.
func (v *view) established(a netip.Addr) bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	n := v.byAddr[a]
	return n != nil && n.state == Established
}

// received is the number of paths that neighbours have sent.
func (v *view) received() (count int) {
	v.mu.Lock()
	defer v.mu.Unlock()
	for _, n := range v.byAddr {
		count += n.received()
	}
	return count
}

// received is the number of paths that it has sent.
func (n *neighbour) received() int { return n.in[0].entries.len() + n.in[1].entries.len() }

// close makes callbacks be ignored: what GoBGP drops when it stops is not gone.
func (v *view) close() {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.closed = true
}

func intern(compiled *[]*policy.Policy, p *policy.Policy) *policy.Policy {
	if p == nil {
		return nil
	}
	for _, have := range *compiled {
		if equalPolicy(have, p) {
			return have
		}
	}
	own := p.Clone()
	if err := own.Compile(); err != nil {
		return nil // Validate has refused it; nothing passes
	}
	*compiled = append(*compiled, own)
	return own
}

func equalContext(a, b *policy.Context) bool {
	return a.LocalASN == b.LocalASN && a.NeighbourASN == b.NeighbourASN && a.Neighbour == b.Neighbour &&
		slices.Equal(a.NextHops, b.NextHops) && slices.Equal(a.Own, b.Own)
}

// forget drops a neighbour that is no longer configured, with its paths. What GoBGP still says about it is ignored.
func (v *view) forget(n *neighbour) {
	v.lost(n, routes.LossAdmin, time.Now())
	delete(v.settling, n)
	for f := range n.in {
		for p := range n.in[f].entries.all() {
			v.remove(n, routes.Family(f), p)
		}
	}
}

// put takes a path of the neighbour's in, new or again.
func (v *view) put(n *neighbour, f routes.Family, p netip.Prefix, e entry) {
	t := &n.in[f]
	was := t.entries.find(p)
	old, had := t.entries.value(was), was != 0
	var attrs *routes.Attrs
	e.verdicts = n.validate(p, e.from)
	dispute := n.disputes(f, p, e.verdicts)
	e.reason, attrs = v.judge(n, f, p, e.from, dispute, had && old.reason == "")
	if had {
		v.uncount(n, f, &old)
	}
	t.entries.replace(p, was, e)
	if e.reason == "" {
		t.accepted++
		v.paths[f]++
	} else {
		if t.rejected == nil {
			t.rejected = map[string]int{}
		}
		t.rejected[e.reason]++
	}
	if e.from.generation != n.generation {
		t.stale++
	}
	v.refuse(n, f, p, e.reason == ASSet || e.reason == policy.NextHop || e.reason == PrefixLimit && len(n.siblings) > 0)
	v.tag(n, f, p, e.verdicts, dispute, false)
	v.counted = true
	v.limitWarning(n, f)
	if e.reason != "" && (!had || old.reason == "") {
		v.hide(n, p, e.from.at)
	}
	path := routes.Path{
		NextHop: n.nextHop(e.from.nextHop), Rejected: e.reason, Attrs: attrs, Received: e.from.at, Session: e.from.generation,
	}
	if t.path == nil || *t.path != path { // most prefixes of an UPDATE have the same
		t.path = new(path)
	}
	v.sink.PutPath(n.cfg.Name, p, t.path)
	if e.reason == "" && v.hidden > 0 {
		v.show(n, p, &e)
	}
	if !had || old.verdicts != e.verdicts {
		v.rejudgeSiblings(n, f, p)
	}
}

func (v *view) uncount(n *neighbour, f routes.Family, e *entry) {
	t := &n.in[f]
	if e.reason == "" {
		t.accepted--
		v.paths[f]--
	} else if t.rejected[e.reason]--; t.rejected[e.reason] <= 0 {
		delete(t.rejected, e.reason)
	}
	if e.from.generation != n.generation {
		t.stale--
	}
}

// remove drops a path; there may be none.
func (v *view) remove(n *neighbour, f routes.Family, p netip.Prefix) {
	t := &n.in[f]
	was := t.entries.find(p)
	if was == 0 {
		return
	}
	e := t.entries.value(was)
	t.entries.remove(p, was)
	v.uncount(n, f, &e)
	v.refuse(n, f, p, false)
	v.tag(n, f, p, 0, false, true)
	v.counted = true
	v.limitWarning(n, f)
	v.sink.PutPath(n.cfg.Name, p, nil)
	v.rejudgeSiblings(n, f, p)
}

// judge decides on a path. kept says that the prefix is accepted already and so within the limit.
func (v *view) judge(n *neighbour, f routes.Family, p netip.Prefix, from *received, dispute, kept bool) (string, *routes.Attrs) {
	verdict := n.policy.EvalImport(from.route(p, n.policyHop(from.nextHop), n.source), &n.context)
	if !verdict.Accepted {
		return cmp.Or(verdict.Rule, "rule"), &from.attrs
	}
	if from.asSet {
		return ASSet, &from.attrs
	}
	if dispute {
		return SharedAddress, &from.attrs
	}
	for _, s := range n.siblings {
		if _, ok := s.in[f].refused[p]; ok {
			return SharedAddress, &from.attrs
		}
	}
	if limit := n.limit(f); limit > 0 && !v.within(n, f, p, limit, kept) {
		return PrefixLimit, &from.attrs
	}
	t := &n.in[f]
	t.last = from.after(&verdict.Route, t.last)
	return "", t.last
}

// refuse notes whether the prefix has to be in the address's set of refused ones.
func (v *view) refuse(n *neighbour, f routes.Family, p netip.Prefix, on bool) {
	t := &n.in[f]
	if _, is := t.refused[p]; is == on {
		return
	}
	if on {
		if t.refused == nil {
			t.refused = map[netip.Prefix]struct{}{}
		}
		t.refused[p] = struct{}{}
		v.recompile = v.recompile || !n.everRefused
		n.everRefused = true
	} else {
		delete(t.refused, p)
	}
	v.refused[refusal{address: n.bare, prefix: p}] = struct{}{}
	v.wake()
	for _, s := range n.siblings {
		if e, ok := s.in[f].entries.get(p); ok && (on || e.reason == SharedAddress) {
			v.put(s, f, p, e)
		}
	}
}

// reevaluate judges everything that the neighbour sent again.
func (v *view) reevaluate(n *neighbour) {
	for f := range n.in {
		t := &n.in[f]
		t.allowed, t.last = nil, nil
		for _, p := range sortedPrefixes(&t.entries) {
			e, _ := t.entries.get(p)
			v.put(n, routes.Family(f), p, e)
		}
	}
}

func sortedPrefixes(entries *shared[entry]) []netip.Prefix {
	list := make([]netip.Prefix, 0, entries.len())
	for p := range entries.all() {
		list = append(list, p)
	}
	slices.SortFunc(list, netip.Prefix.Compare)
	return list
}

// nextHop is where packets for a path go: behind a tunnel always to the neighbour itself, whose address carries the
// device; on the LAN to the received next hop, and to the neighbour if GoBGP lost it.
func (n *neighbour) nextHop(hop netip.Addr) netip.Addr {
	hop = hop.Unmap()
	switch {
	case n.cfg.Peer != "" || !hop.IsValid() || hop.IsUnspecified():
		return n.cfg.Address
	case hop.Is6() && hop.IsLinkLocalUnicast():
		return hop.WithZone(n.cfg.Address.Zone())
	}
	return hop
}

// policyHop is the next hop as the policy checks it. On a point-to-point tunnel we cannot know all addresses of the
// neighbour, and need not: it stands for itself in the kinds of addresses of which we know none.
func (n *neighbour) policyHop(hop netip.Addr) netip.Addr {
	hop = hop.Unmap()
	if n.cfg.Peer == "" || !hop.IsGlobalUnicast() && !hop.IsLinkLocalUnicast() {
		return hop
	}
	a, known := n.cfg.Address, false
	switch {
	case hop.Is4():
		known = a.Is4() || n.cfg.RemoteIPv4.IsValid()
	case hop.IsLinkLocalUnicast():
		known = a.Is6() && a.IsLinkLocalUnicast()
	default:
		known = a.Is6() && !a.IsLinkLocalUnicast() || n.cfg.RemoteIPv6.IsValid()
	}
	if known {
		return hop
	}
	return n.bare
}
