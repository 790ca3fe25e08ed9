package bgp

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/osrg/gobgp/v4/api"
	"github.com/osrg/gobgp/v4/pkg/server"
	"google.golang.org/protobuf/proto"
)

// Paces of the loop.
const (
	// publishEvery bounds how often a snapshot is made when only counts changed.
	publishEvery = 500 * time.Millisecond
	// refitEvery bounds how often room under a prefix limit is looked for.
	refitEvery = 2 * time.Second
	// A call that stops receiving for a time d is not made again before idleShare times d have passed; one that nobody
	// waits for, not before pollShare times d, and floodShare times d while a table comes in; one that somebody may look for, not
	// before freshShare times d.
	idleShare  = 10
	freshShare = 20
	pollShare  = 50
	floodShare = 400
	// maxPace is the longest wait that this leads to.
	maxPace = 2 * time.Minute
)

// loop is the part of the Speaker that calls GoBGP.
// Owner: the goroutine of Run.
type loop struct {
	*Speaker
	gobgp   *server.BgpServer
	config  Config
	peers   map[netip.Addr]*peer // in GoBGP, or to be
	own     map[netip.Prefix]Announcement
	told    *compiled         // the policies that GoBGP has
	digest  [sha256.Size]byte // of those, to see whether anything changed
	refused map[refusal]bool  // single prefixes that GoBGP refuses
	pace    map[netip.Addr]*pace
	latency Latency

	// restartEnds is until when first sessions are those of a restarted speaker: helpers wait that long. Zero if this is no
	// restart.
	restartEnds time.Time
	before      Restart
	gathering   gathering

	published time.Time
	refitted  time.Time
	refitPace time.Duration
	polled    inquiry       // into counters
	pollCost  time.Duration // of that
	answered  time.Time     // when GoBGP last answered it
	countAt   time.Time     // not before it, into what is advertised on a session
	countCost time.Duration // of that, for each prefix with a best path, when it was last done
	events    uint64        // view.events when last looked at
	bfdFor    uint64        // view.upOrDown that BFD sessions are in step with
	bfdOn     bool          // there is a BFD session
	monitorAt time.Time
	// deleting tells when the removal of a peer is over that takes long; nil if there is none.
	deleting chan deletion
	free     time.Time // when the last one was over
	eventAt  time.Time
	flood    flood
}

// timed makes one call into GoBGP.
func (l *loop) timed(f func() error) error {
	begin := time.Now()
	err := f()
	l.latency.Observe(time.Since(begin))
	return err
}

// start brings GoBGP up: listeners, policies that reject, the watch, and then the configuration.
func (l *loop) start(ctx context.Context) error {
	c := l.config
	port := int32(c.ListenPort)
	if port == 0 {
		port = 179
	}
	global := &api.Global{
		Asn: c.ASN, RouterId: c.RouterID.String(), ListenPort: port,
		Families:         []uint32{0, 1}, // IPv4 and IPv6 unicast, as GoBGP numbers them here
		UseMultiplePaths: c.MaxPaths > 1,
	}
	for _, a := range c.ListenAddresses {
		global.ListenAddresses = append(global.ListenAddresses, a.String())
	}
	if err := l.timed(func() error { return l.gobgp.StartBgp(ctx, &api.StartBgpRequest{Global: global}) }); err != nil {
		return fmt.Errorf("listen on port %d: %w", port, err)
	}
	l.view.setConfig(c)
	l.view.recall(l.before)
	if err := l.policies(); err != nil {
		return err
	}
	for direction, name := range map[api.PolicyDirection]string{
		api.PolicyDirection_POLICY_DIRECTION_IMPORT: policyIn, api.PolicyDirection_POLICY_DIRECTION_EXPORT: policyOut,
	} {
		assignment := &api.PolicyAssignment{
			Name: "global", Direction: direction, DefaultAction: api.RouteAction_ROUTE_ACTION_REJECT, Policies: []*api.Policy{{Name: name}},
		}
		if err := l.timed(func() error {
			return l.gobgp.SetPolicyAssignment(ctx, &api.SetPolicyAssignmentRequest{Assignment: assignment})
		}); err != nil {
			return fmt.Errorf("default deny: %w", err)
		}
	}
	if err := l.timed(func() error { return l.gobgp.WatchEvent(ctx, l.view.callbacks(), watch()...) }); err != nil {
		return fmt.Errorf("watch: %w", err)
	}
	return l.apply()
}

// apply makes GoBGP follow l.config. Policies come before the peers they are for; peers that go, before the policies
// that forget them.
func (l *loop) apply() error {
	l.view.setConfig(l.config)
	gone := l.dropPeers()
	for l.deleting != nil {
		gone = errors.Join(gone, l.deleted(), l.dropPeers())
	}
	err := errors.Join(gone, l.policies(), l.announce(), l.addPeers())
	l.watchPaths()
	l.softResets()
	l.publish()
	return err
}

// run serves until the context ends.
func (l *loop) run(ctx context.Context) error {
	timer := time.NewTimer(publishEvery)
	defer timer.Stop()
	for {
		calls := l.calls
		if l.deleting != nil {
			calls = nil
		}
		select {
		case <-ctx.Done():
			return nil
		case call := <-calls:
			call(l)
		case d := <-l.deleting:
			if err := l.over(d); err != nil {
				l.log.Error("GoBGP refused an order", "err", err)
			}
		case <-l.waker:
		case <-timer.C:
		}
		l.follow()
		timer.Reset(l.wait())
	}
}

// follow does what events made necessary. All of it looks at the state of things, none of it at what woke us.
func (l *loop) follow() {
	now := time.Now()
	if now.Sub(l.refitted) >= l.refitPace {
		l.refitted = now
		l.view.refit()
	}
	l.publish() // what happened is shown now; GoBGP may take seconds over an order when a table goes
	l.watchPaths()
	if l.deleting != nil {
		return
	}
	l.gather(now)
	err := l.dropPeers()
	if l.deleting == nil {
		err = errors.Join(err, l.policies(), l.addPeers(), l.refusals(), l.settle())
	}
	if err != nil {
		l.log.Error("GoBGP refused an order", "err", err)
	}
	l.watchPaths()
	if l.deleting != nil {
		l.publish()
		return
	}
	l.softResets()
	l.poll(now)
	l.count(now)
	l.monitor(now)
	l.publish()
}

// wait returns how long the loop may sleep if nothing wakes it.
func (l *loop) wait() time.Duration {
	next := time.Now().Add(publishEvery)
	if l.gathering.on && !l.gathering.firstUp.IsZero() {
		next = time.Now().Add(gatherEvery)
	}
	for _, p := range l.peers {
		if !p.added && p.next.Before(next) && !p.next.IsZero() {
			next = p.next
		}
		if p.added && !p.waitUntil.IsZero() && p.waitUntil.Before(next) {
			next = p.waitUntil
		}
	}
	for _, p := range l.pace {
		if (p.in || p.out) && p.next.Before(next) {
			next = p.next
		}
	}
	return max(time.Until(next), time.Millisecond)
}

// policies compiles the policies as things are and gives them to GoBGP, whole and at once, if they changed. Those whom
// the change concerns are put down for a soft reset.
func (l *loop) policies() error {
	l.view.mu.Lock()
	if !l.view.recompile {
		l.view.mu.Unlock()
		return nil
	}
	l.view.recompile = false
	list := members(l.config, l.view)
	moved := map[netip.Addr]bool{} // addresses whose single refusals change with this
	for _, n := range l.view.order {
		moved[n.bare], n.uncovered = moved[n.bare] || n.uncovered, false
	}
	l.view.mu.Unlock()
	next, err := compile(list, l.config.Own, l.config.Endpoints, l.gathering.on)
	if err != nil {
		return fmt.Errorf("policies: %w", err)
	}
	wire, err := proto.MarshalOptions{Deterministic: true}.Marshal(next.request)
	if err != nil {
		return fmt.Errorf("policies: %w", err)
	}
	digest := sha256.Sum256(wire)
	if l.told != nil && digest == l.digest {
		return nil
	}
	if err := l.timed(func() error { return l.gobgp.SetPolicies(context.Background(), next.request) }); err != nil {
		return fmt.Errorf("policies: %w", err)
	}
	next.request = nil // GoBGP has made its own form of it
	l.view.events.Add(1)
	before := l.told
	l.told, l.digest = next, digest
	refused := map[refusal]bool{}
	for _, m := range list {
		for p := range m.refused {
			refused[refusal{address: m.address, prefix: p}] = true
		}
		for kind, set := range m.tagged {
			for p := range set {
				refused[refusal{m.address, p, kind}] = true
			}
		}
	}
	for r := range refused {
		moved[r.address] = moved[r.address] || !l.refused[r]
	}
	for r, was := range l.refused {
		moved[r.address] = moved[r.address] || was && !refused[r]
	}
	l.refused = refused
	if before == nil {
		return nil
	}
	for address, p := range l.peers {
		if !p.added {
			continue
		}
		bare := address.WithZone("")
		if l.soft(address, before.in[bare] != next.in[bare] || moved[bare], before.out[bare] != next.out[bare]) {
			l.pace[address].next = time.Time{} // somebody waits for a new policy
		}
	}
	return nil
}

// refusals tells GoBGP about single prefixes to refuse, or no longer to.
func (l *loop) refusals() error {
	type key struct {
		address netip.Addr
		kind    tagKind
		family  int
		add     bool
	}
	l.view.mu.Lock()
	lists := map[key]map[netip.Prefix]struct{}{}
	for r := range l.view.refused {
		want := slices.ContainsFunc(l.view.order, func(n *neighbour) bool {
			set := n.in[family(r.prefix)].refused
			if r.kind != (tagKind{}) {
				set = n.in[family(r.prefix)].tagged[r.kind]
			}
			_, ok := set[r.prefix]
			return n.bare == r.address && ok
		})
		if l.refused[r] == want {
			continue
		}
		k := key{r.address, r.kind, family(r.prefix), want}
		if lists[k] == nil {
			lists[k] = map[netip.Prefix]struct{}{}
		}
		lists[k][r.prefix] = struct{}{}
	}
	clear(l.view.refused)
	l.view.mu.Unlock()
	if len(lists) > 0 {
		l.view.events.Add(1)
	}
	var errs []error
	for k, list := range lists {
		set := setOf(refusal{address: k.address, kind: k.kind}, familyAt(k.family), list)
		err := l.timed(func() error {
			if k.add {
				return l.gobgp.AddDefinedSet(context.Background(), &api.AddDefinedSetRequest{DefinedSet: set})
			}
			return l.gobgp.DeleteDefinedSet(context.Background(), &api.DeleteDefinedSetRequest{DefinedSet: set})
		})
		if err != nil {
			errs = append(errs, fmt.Errorf("refused prefixes of %v: %w", k.address, err))
			continue
		}
		for p := range list {
			if r := (refusal{k.address, p, k.kind}); k.add {
				l.refused[r] = true
			} else {
				delete(l.refused, r)
			}
		}
		for address, p := range l.peers {
			if p.added && address.WithZone("") == k.address {
				l.soft(address, true, false)
			}
		}
	}
	return errors.Join(errs...)
}

// pace spaces the soft resets of a neighbour out: each stops all receiving.
type pace struct {
	in, out bool
	next    time.Time
}

// soft puts a neighbour down for a soft reset. It reports whether there is anything to do.
func (l *loop) soft(address netip.Addr, in, out bool) bool {
	if !in && !out {
		return false
	}
	p := l.pace[address]
	if p == nil {
		p = &pace{}
		l.pace[address] = p
	}
	p.in, p.out = p.in || in, p.out || out
	return true
}

// softResets does those that are due.
func (l *loop) softResets() {
	for address, p := range l.pace {
		if peer := l.peers[address]; peer == nil || !peer.added {
			delete(l.pace, address)
			continue
		}
		if !p.in && !p.out || time.Now().Before(p.next) {
			continue
		}
		held := p.out && (l.gathering.on || l.holdsBack(address, l.peers[address]))
		if held && !p.in {
			p.next = time.Now().Add(deferEvery)
			continue
		}
		direction := api.ResetPeerRequest_DIRECTION_BOTH
		switch {
		case !p.out || held:
			direction = api.ResetPeerRequest_DIRECTION_IN
		case !p.in:
			direction = api.ResetPeerRequest_DIRECTION_OUT
		}
		begin := time.Now()
		err := l.timed(func() error {
			return l.gobgp.ResetPeer(context.Background(), &api.ResetPeerRequest{Address: address.String(), Soft: true, Direction: direction})
		})
		if err != nil {
			l.log.Error("soft reset", "address", address, "err", err)
		}
		l.view.events.Add(1)
		cost := time.Since(begin)
		p.in, p.out, p.next = false, held, begin.Add(min(idleShare*cost, maxPace))
		l.refitPace = max(refitEvery, min(idleShare*cost, maxPace))
	}
}

// publish makes a snapshot, at once if sessions changed, and else now and then.
func (l *loop) publish() {
	l.view.mu.Lock()
	now := time.Now()
	sessions := l.view.dirty
	if !sessions && (!l.view.counted || now.Sub(l.published) < publishEvery) {
		l.view.mu.Unlock()
		l.stillTrue(now)
		return
	}
	l.view.dirty, l.view.counted = false, false
	snapshot := l.view.snapshotLocked(now)
	l.view.mu.Unlock()
	snapshot.Calls = l.latency.copied()
	l.published = now
	l.snapshot.Store(snapshot)
	if sessions {
		select {
		case l.changed <- struct{}{}:
		default:
		}
	}
}

// stillTrue dates the snapshot anew after GoBGP answered and nothing was different, so that its age tells a speaker that
// has nothing to say from one that is stuck.
func (l *loop) stillTrue(now time.Time) {
	if l.answered.After(l.published) {
		same := *l.snapshot.Load()
		same.Time, same.Calls = now, l.latency.copied()
		l.published = now
		l.snapshot.Store(&same)
	}
}
