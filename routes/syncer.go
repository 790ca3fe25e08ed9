package routes

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"sync/atomic"
	"time"
)

// Timing of the Syncer.
const (
	// foldWindow is how long after a batch the next one gathers; after a longer pause a change goes out at once. After a
	// batch that took longer the next one gathers as long as that took, up to foldMost: each batch has a price of its own,
	// and a table that comes in has to pay it less often.
	foldWindow = 2 * time.Millisecond
	foldMost   = 25 * time.Millisecond
	// kernelDebounce gathers the kernel's notifications.
	kernelDebounce = 50 * time.Millisecond
	// settle is how long after the last End-of-RIB leftovers are swept: a restarting speaker selects its best paths
	// only then (RFC 4724 section 4.1).
	settle = time.Second
	// firstRetry doubles up to lastRetry.
	firstRetry = 50 * time.Millisecond
	lastRetry  = 30 * time.Second
)

// Options of a Syncer. All of FIB, Tunnels and Feed are required.
type Options struct {
	FIB     FIB
	Tunnels Tunnels
	Feed    *Feed
	// Switcher moves all routes of a lost tunnel at once; nil if the FIB has none.
	Switcher Switcher
	Log      *slog.Logger // nil discards
}

// Syncer keeps the kernel's routes and the devices' allowed-IPs as they should be.
//
// Owner: its Run goroutine has everything but status and requests.
type Syncer struct {
	fib      FIB
	tunnels  Tunnels
	feed     *Feed
	switcher Switcher // may be nil
	diverter diverter
	log      *slog.Logger

	ready    chan struct{}
	status   atomic.Pointer[Status]
	requests chan request
	// turn holds a token while nobody owns the state below: Run takes it, and Teardown when Run is over.
	turn chan struct{}

	table     *Table
	ledger    *Ledger
	snapshot  *Snapshot
	retries   retries
	pending   pending
	planner   planner
	acting    acting
	failovers failovers
	spares    spareEntries
	drifted   map[netip.Prefix][]DriftKind // detected and not repaired yet
	foreign   []AllowedIP                  // at the last look, sorted
	stats     stats

	havePolicy, haveAdopted, stopped bool
	isReady                          bool
	unfinished                       bool // a plan ended with its context
	// Times at which something is due; zero is never.
	feedDue, fibDue, adoptDue, reconcileDue, sweepDue, sweepAt time.Time
	// switchDue is when diversions are looked at without anything else; switchTries counts those that failed.
	switchDue   time.Time
	switchTries int
	// quiet is until when the feed gathers; fibQuiet until when kernel notifications do.
	quiet, fibQuiet time.Time
	flooded         time.Time     // when the last batch that was a flood was done
	reconcileTook   time.Duration // the last comparison and its repairs
	fibSeen         time.Time     // when the kernel's first notification came that was not looked into yet
	adoptTries      int
}

// acting is what is written now: how many prefixes that did not wait before, and since when.
type acting struct {
	n     int
	since time.Time
}

// request is a message to Run.
type request struct {
	ctx    context.Context
	policy *Policy // nil: tear down
	reply  chan error
}

// New returns a Syncer that has not touched anything yet.
func New(o Options) *Syncer {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	s := &Syncer{
		fib:      o.FIB,
		tunnels:  o.Tunnels,
		feed:     o.Feed,
		switcher: o.Switcher,
		diverter: diverter{switcher: o.Switcher, feed: o.Feed, log: o.Log, done: make(chan struct{}, 1)},
		log:      o.Log,
		ready:    make(chan struct{}),
		requests: make(chan request),
		turn:     make(chan struct{}, 1),
		table:    NewTable(),
		ledger:   NewLedger(),
		drifted:  make(map[netip.Prefix][]DriftKind),
	}
	s.table.lazy = true
	if s.switcher != nil {
		s.table.UseBackups()
	}
	if x, ok := o.Tunnels.(Exact); ok {
		s.table.compression.exact = x.Exact
	}
	s.turn <- struct{}{}
	s.snapshot = s.table.Apply(Batch{}).Snapshot
	s.publish(time.Time{})
	return s
}

func (s *Syncer) String() string { return "routes" }

// Ready is closed after the first plan has run, whether or not all of it succeeded.
func (s *Syncer) Ready() <-chan struct{} { return s.ready }

// Snapshot returns the newest status; never nil.
func (s *Syncer) Snapshot() *Status { return s.status.Load() }

// SetPolicy puts a policy in force. It returns when what follows from it was written once (what failed is retried), and
// then devices and peers that the policy no longer names can go. An error means that the kernel or the devices could not
// be read, or that ctx ended; the policy is in force all the same. Run must be running, or about to.
func (s *Syncer) SetPolicy(ctx context.Context, p Policy) error {
	return s.ask(ctx, &p, nil)
}

// Teardown removes everything that the ledger holds, in order, and then leaves the world alone until the next SetPolicy.
// It may be called while Run runs, and after.
func (s *Syncer) Teardown(ctx context.Context) error {
	return s.ask(ctx, nil, s.turn)
}

func (s *Syncer) ask(ctx context.Context, p *Policy, turn chan struct{}) error {
	r := request{ctx: ctx, policy: p, reply: make(chan error, 1)}
	select {
	case s.requests <- r:
	case <-turn:
		defer func() { s.turn <- struct{}{} }()
		return s.teardown(ctx)
	case <-ctx.Done():
		return ctx.Err()
	}
	select {
	case err := <-r.reply:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Run works until ctx ends, and then leaves everything in place. It may run again after that.
func (s *Syncer) Run(ctx context.Context) error {
	select {
	case <-s.turn:
		defer func() { s.turn <- struct{}{} }()
	case <-ctx.Done():
		return ctx.Err()
	}
	defer s.diverter.start(ctx)()
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case r := <-s.requests:
			s.serve(ctx, r)
		case <-s.feed.Wake():
			s.feedDue = later(time.Now(), s.quiet)
		case <-s.diverter.done:
			s.feedDue = later(time.Now(), s.quiet)
			s.switchDue = s.feedDue // also if the Feed has nothing more to say
		case <-s.fib.Changed():
			if s.fibSeen.IsZero() {
				s.fibSeen = time.Now()
			}
			if s.fibDue.IsZero() {
				s.fibDue = later(time.Now().Add(kernelDebounce), s.fibQuiet)
			}
		case <-timer.C:
		}
		s.step(ctx)
		if next := s.next(); next.IsZero() {
			timer.Stop()
		} else {
			timer.Reset(time.Until(next))
		}
	}
}

func later(a, b time.Time) time.Time {
	if a.Before(b) {
		return b
	}
	return a
}

// next is when the earliest thing is due; zero is never.
func (s *Syncer) next() time.Time {
	if !s.havePolicy || s.stopped {
		return time.Time{}
	}
	if !s.haveAdopted {
		return s.adoptDue
	}
	if s.unfinished {
		return time.Now()
	}
	var first time.Time
	for _, t := range []time.Time{s.feedDue, s.fibDue, s.reconcileDue, s.sweepDue, s.retries.first(), s.failovers.next(), s.switchDue, s.spares.due} {
		if !t.IsZero() && (first.IsZero() || t.Before(first)) {
			first = t
		}
	}
	return first
}

func (s *Syncer) serve(ctx context.Context, r request) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(r.ctx, cancel)()
	if r.policy == nil {
		r.reply <- s.teardown(ctx)
		return
	}
	r.reply <- s.setPolicy(ctx, *r.policy)
}

func (s *Syncer) setPolicy(ctx context.Context, p Policy) error {
	if !s.haveAdopted {
		s.snapshot, s.havePolicy, s.stopped = s.table.SetPolicy(p).Snapshot, true, false
		return s.adopt(ctx)
	}
	fed := s.table.Apply(s.feed.Take())
	s.lost(fed.Losses)
	causes := make(map[netip.Prefix]Cause)
	fed.causes(causes)
	u := s.table.SetPolicy(p)
	s.diverter.set(p)
	s.snapshot, s.havePolicy, s.stopped = u.Snapshot, true, false
	u.causes(causes)
	// Devices and peers may have come and gone with the configuration, and what they owned with them. One plan for all:
	// two would open gaps between them.
	start := time.Now()
	_, err := s.compare(ctx, OnEvent, causes)
	s.sync(ctx, s.toDo(s.everything(), causes))
	if err == nil {
		s.reconciled(start)
		err = ctx.Err() // that of the request: what follows from the policy is written later
	}
	s.scheduleReconcile()
	s.considerSweep()
	return err
}

// step does everything that is due.
func (s *Syncer) step(ctx context.Context) {
	if !s.havePolicy || s.stopped || ctx.Err() != nil {
		return
	}
	now := time.Now()
	due := func(t time.Time) bool { return !t.IsZero() && !now.Before(t) }
	if !s.haveAdopted {
		if due(s.adoptDue) {
			if err := s.adopt(ctx); err != nil {
				s.log.Warn("routes wait", "error", err)
			}
		}
		return
	}
	if s.unfinished {
		s.unfinished = false
		s.sync(ctx, s.toDo(s.everything(), nil))
	}
	if due(s.feedDue) {
		s.takeFeed(ctx)
	}
	if due(s.switchDue) {
		s.switchDue = time.Time{}
		s.sync(ctx, nil)
	}
	if due(s.reconcileDue) {
		s.reconcileLogged(ctx, Periodic)
		s.scheduleReconcile()
	} else if due(s.fibDue) {
		s.reconcileLogged(ctx, OnKernel)
	}
	if s.ledger.Swept() {
		s.sweepDue = time.Time{}
	} else if due(s.sweepDue) {
		s.sweep(ctx)
	}
	if due(s.spares.due) {
		s.tidy(ctx)
	}
	if s.failovers.expire(time.Now(), s.pending.waits) {
		s.publish(time.Now())
	}
	if again := s.retries.due(time.Now()); len(again) > 0 {
		s.sync(ctx, s.toDo(again, nil))
	}
}

func (s *Syncer) takeFeed(ctx context.Context) {
	s.feedDue = time.Time{}
	s.diverted()
	b := s.feed.Take()
	if b.Empty() {
		return
	}
	start := time.Now()
	u := s.table.Apply(b)
	s.feed.Reuse(b)
	s.lost(u.Losses)
	s.snapshot = u.Snapshot
	s.sync(ctx, u.changed)
	n := len(u.changed)
	s.table.reuse(u)
	end := time.Now()
	if n >= flood {
		s.flooded = end
	}
	s.quiet = end.Add(min(max(end.Sub(start), foldWindow), foldMost))
	s.considerSweep()
}

// lost begins the measurement of failovers.
func (s *Syncer) lost(list []Loss) {
	for _, l := range list {
		s.failovers.begin(l)
	}
}

// adopt reads what is there before anything is written, takes over what an earlier run left, and runs the first plan.
func (s *Syncer) adopt(ctx context.Context) error {
	o, nets, err := s.observe(ctx, true)
	if err != nil {
		s.adoptTries++
		s.adoptDue = time.Now().Add(backoff(s.adoptTries))
		return err
	}
	s.table.SetConnected(nets)
	s.snapshot = s.table.Apply(s.feed.Take()).Snapshot
	s.ledger.Adopt(o, func(w Owner) bool { return s.isPeer(w) })
	for device := range s.snapshot.devices {
		s.ledger.diverted[device] = diversion{mark: tried} // the earlier run may have done that
	}
	s.diverter.set(*s.policy())
	s.haveAdopted, s.adoptDue = true, time.Time{}
	s.sweepAt = time.Now().Add(s.policy().SweepAfter)
	if s.policy().SweepAfter <= 0 {
		s.sweepAt = time.Now().Add(DefaultSweepAfter)
	}
	if len(s.ledger.counts.AllowedIPs) == 0 {
		s.snapshot = s.table.Compress().Snapshot
	}
	if n := len(o.routes) + len(o.discard); n > 0 {
		s.log.Info("routes of an earlier run adopted", "routes", n, "allowed_ips", len(o.allowed))
	}
	s.sync(ctx, s.toDo(s.everything(), nil))
	if !s.isReady {
		s.isReady = true
		close(s.ready)
	}
	s.scheduleReconcile()
	s.considerSweep()
	return nil
}

func (s *Syncer) policy() *Policy { return &s.table.rules.policy }

func (s *Syncer) isPeer(w Owner) bool {
	p := s.table.rules.peers[w.Peer]
	return p != nil && p.Device == w.Device
}

// everything is each prefix that is desired or installed, sorted.
func (s *Syncer) everything() []netip.Prefix {
	return everything(s.snapshot, s.ledger)
}

// considerSweep sets when leftovers go: a moment after everybody has told everything, or at the latest after SweepAfter.
func (s *Syncer) considerSweep() {
	if s.ledger.Swept() {
		return
	}
	if len(s.table.Awaiting()) > 0 {
		s.sweepDue = s.sweepAt
	} else if soon := time.Now().Add(settle); s.sweepDue.IsZero() || s.sweepDue.Equal(s.sweepAt) {
		s.sweepDue = soon
		if s.sweepAt.Before(soon) {
			s.sweepDue = s.sweepAt
		}
	}
}

func (s *Syncer) sweep(ctx context.Context) {
	if w := s.table.Awaiting(); len(w) > 0 {
		s.log.Warn("first sync not complete, sweeping all the same", "waiting_for", w)
	}
	s.ledger.Sweep()
	s.snapshot = s.table.Compress().Snapshot
	s.sweepDue, s.stats.synced = time.Time{}, time.Now()
	s.sync(ctx, s.toDo(s.everything(), nil))
}

// teardown removes what the ledger holds.
func (s *Syncer) teardown(ctx context.Context) error {
	s.stopped = true
	failed := s.execute(ctx, pieces(s.ledger.Ops()), nil)
	s.publish(time.Now())
	if err := ctx.Err(); err != nil {
		return err
	}
	if len(failed) == 0 {
		if s.switcher != nil {
			return s.switcher.Tidy(ctx)
		}
		return nil
	}
	first := slices.MinFunc(failed, func(a, b failedOp) int { return a.op.Prefix().Compare(b.op.Prefix()) })
	return fmt.Errorf("%d operations failed, first: %s: %w", len(failed), first.op, first.err)
}

// errHeldBack marks an operation that was not tried because one that it relies on had failed.
var errHeldBack = errors.New("held back until what it relies on is done")
