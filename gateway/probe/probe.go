// Package probe sends echoes through tunnels and tells what came back.
//
// Job: one ICMP echo (RFC 792, RFC 4443 section 4) per peer and interval, through its tunnel; count the losses, time the
// answers; find the largest packet that gets through.
// Owner: the Prober's Run goroutine owns schedule, flights and statistics.
// Inputs: targets, set as a whole; the answers that the sockets hear.
// Outputs: immutable statistics of each peer; one warning when packets of full size do not get through.
// Invariants: one socket and one reading goroutine per address family, whatever the number of peers; at most one echo and
// one packet of the search in flight for a peer; an answer counts once, only with the token of its request, from the
// address that was asked, within the timeout; counters of a peer never go back while it is configured.
package probe

import (
	"container/heap"
	"context"
	"log/slog"
	"maps"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"sync/atomic"
	"time"
)

// Target is a tunnel as the prober has to know it.
type Target struct {
	Peer   string
	Device string
	// Local and Remote are the ends of the tunnel, without zones: the device is one. Invalid where there are none.
	Local, Remote netip.Addr
	// Interval between two echoes; 0 sends none, and the peer keeps the statistics that it has.
	Interval time.Duration
	// Met says that the tunnel has come up at least once. Before that nothing is sent.
	Met bool
	// Timeout after which an echo is lost, however late an answer may come. It is at most the interval.
	Timeout time.Duration
	// Up says that the tunnel is up. Echoes are sent through one that is down too: that they are lost is the truth.
	Up bool
	// PathMTU asks for the search, while the tunnel is up. MTU is the device's, in bytes.
	PathMTU bool
	MTU     int
}

func (t *Target) probed() bool {
	return t.Met && t.Interval > 0 && t.Local.IsValid() && t.Remote.IsValid()
}

// Wire carries the echoes of one address family. Its methods are called from two goroutines, one that sends and one that
// receives.
type Wire interface {
	Send(Echo) error
	// Receive blocks until an answer comes. Whoever listens on a raw socket hears the answers to others too.
	Receive() (Reply, error)
	// Close ends Receive with an error.
	Close() error
}

// Echo is a request.
type Echo struct {
	Device        string
	Local, Remote netip.Addr
	Seq           uint16
	// Token is what the answer is known by.
	Token uint64
	// Size of the IP packet in bytes; less than what the token needs is as much as it needs.
	Size int
}

// Reply is an answer.
type Reply struct {
	From  netip.Addr // without a zone
	Token uint64
}

// Options of a Prober.
type Options struct {
	// Open opens the socket of a family; nil is Open of this package.
	Open func(v6 bool) (Wire, error)
	Log  *slog.Logger
}

// How often a socket that could not be opened is tried again.
const reopenEvery = time.Minute

// Prober is the task that probes. Set and the getters may be called from any goroutine.
type Prober struct {
	open  func(v6 bool) (Wire, error)
	log   *slog.Logger
	now   func() time.Time
	wake  chan struct{}
	heard chan heard

	wanted  atomic.Pointer[[]Target]
	index   atomic.Pointer[index]
	trouble atomic.Pointer[trouble]

	// Owned by Run.
	targets map[string]*target
	queue   queue
	flights map[uint64]*flight
	lines   [2]line // IPv4, IPv6
}

// index leads to the statistics of all peers, by name. Immutable; what it points to is replaced as a whole.
type index struct {
	stats  []*atomic.Pointer[Stats]
	wanted bool // somebody is to be probed
}

// trouble is why a family cannot be probed.
type trouble [2]error

// line is the socket of a family, or when to try to get one.
type line struct {
	wire  Wire
	retry time.Time
}

type heard struct {
	Reply
	at time.Time
}

// flight is a request without an answer yet.
type flight struct {
	target   *target
	token    uint64
	size     int // of a search; 0 for an ordinary echo
	sent     time.Time
	deadline time.Time
}

// New makes a Prober that has opened nothing yet.
func New(o Options) *Prober {
	if o.Open == nil {
		o.Open = Open
	}
	p := &Prober{
		open: o.Open, log: o.Log, now: time.Now,
		wake: make(chan struct{}, 1), heard: make(chan heard, 64),
		targets: map[string]*target{}, flights: map[uint64]*flight{},
	}
	p.wanted.Store(&[]Target{})
	p.index.Store(&index{})
	p.trouble.Store(&trouble{})
	return p
}

func (p *Prober) String() string { return "probe" }

// Set says what to probe: all peers, whether or not they are probed now. Peers that stay keep their counters.
func (p *Prober) Set(targets []Target) {
	if slices.Equal(*p.wanted.Load(), targets) {
		return
	}
	targets = slices.Clone(targets)
	p.wanted.Store(&targets)
	select {
	case p.wake <- struct{}{}:
	default:
	}
}

// Snapshot returns the statistics of every peer, sorted by name; nil if none is to be probed. They must not be changed.
func (p *Prober) Snapshot() []*Stats {
	ix := p.index.Load()
	if !ix.wanted {
		return nil
	}
	out := make([]*Stats, len(ix.stats))
	for i, s := range ix.stats {
		out[i] = s.Load()
	}
	return out
}

// Trouble says why tunnels that should be probed are not: an *OpenError, or nil.
func (p *Prober) Trouble() error {
	for _, err := range p.trouble.Load() {
		if err != nil {
			return err
		}
	}
	return nil
}

// Run probes until ctx ends.
func (p *Prober) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer func() {
		cancel()
		for i := range p.lines {
			p.hangUp(i)
		}
	}()
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-p.wake:
			p.adopt(p.now())
		case h := <-p.heard:
			p.answer(h)
		case <-timer.C:
		}
		for p.queue.Len() > 0 && !p.queue[0].due.After(p.now()) {
			p.turn(ctx, p.queue[0])
		}
		if p.queue.Len() > 0 {
			timer.Reset(p.queue[0].due.Sub(p.now()))
		} else {
			timer.Stop()
		}
	}
}

// adopt takes over the targets that are wanted now.
func (p *Prober) adopt(now time.Time) {
	wanted := *p.wanted.Load()
	gone := maps.Clone(p.targets)
	ix := &index{}
	for _, w := range slices.SortedFunc(slices.Values(wanted), func(a, b Target) int { return strings.Compare(a.Peer, b.Peer) }) {
		delete(gone, w.Peer)
		t := p.targets[w.Peer]
		if t == nil {
			t = newTarget(w.Peer)
			p.targets[w.Peer] = t
			heap.Push(&p.queue, t)
		}
		old := t.Target
		t.Target = w
		p.follow(t, old, now)
		ix.stats = append(ix.stats, t.stats)
		ix.wanted = ix.wanted || w.Interval > 0
	}
	for name, t := range gone {
		p.abandon(&t.echo)
		p.abandon(&t.big)
		heap.Remove(&p.queue, t.at)
		delete(p.targets, name)
	}
	p.index.Store(ix)
	p.release()
}

// follow makes of a changed target what changes in its schedule.
func (p *Prober) follow(t *target, old Target, now time.Time) {
	if old.Local != t.Local || old.Remote != t.Remote || old.Device != t.Device { // other packets than those before
		p.abandon(&t.echo)
		p.abandon(&t.big)
		t.recent.forget()
		t.search = nil
	}
	switch {
	case !t.probed():
		p.abandon(&t.echo)
		t.next = time.Time{}
	case !old.probed() || old.Interval > t.Interval:
		t.next = now.Add(rand.N(min(t.Interval, startWithin)))
	}
	searched := old.probed() && old.PathMTU && old.Up
	switch wants := t.probed() && t.PathMTU && t.Up && t.MTU > t.small(); {
	case !wants:
		p.abandon(&t.big)
		t.search, t.searchAt, t.now.PathMTU = nil, time.Time{}, 0
	case !searched || old.MTU != t.MTU || old.Device != t.Device || old.Remote != t.Remote:
		p.abandon(&t.big)
		t.search, t.searchAt = nil, now.Add(searchAfter+rand.N(searchAfter))
	}
	t.publish()
	p.plan(t)
}

// plan puts the target where its next turn is.
func (p *Prober) plan(t *target) {
	t.due = t.nextTurn()
	heap.Fix(&p.queue, t.at)
}

// abandon forgets a request; it will be neither answered nor lost, and does not count.
func (p *Prober) abandon(f **flight) {
	if *f != nil {
		delete(p.flights, (*f).token)
		*f = nil
	}
}

// turn does what is due for a target.
func (p *Prober) turn(ctx context.Context, t *target) {
	now := p.now()
	if t.echo != nil && !t.echo.deadline.After(now) {
		p.lose(t, &t.echo)
	}
	if t.big != nil && !t.big.deadline.After(now) {
		p.lose(t, &t.big)
	}
	if due(t.next, now) {
		t.next = now.Add(jitter(t.Interval))
		if t.seq == 0 { // what came up together goes apart soon
			t.next = now.Add(t.Interval/2 + rand.N(t.Interval))
		}
		p.send(ctx, t, &t.echo, 0, now)
	}
	if due(t.searchAt, now) {
		if t.search == nil {
			t.search = newSearch(t.small(), t.MTU)
		}
		t.searchAt = time.Time{} // until this packet has its answer, or is lost
		p.send(ctx, t, &t.big, t.search.size(), now)
	}
	t.publish()
	p.plan(t)
}

func due(at, now time.Time) bool { return !at.IsZero() && !at.After(now) }

// jitter keeps many peers, and what else is periodic, from falling into step: the interval, give or take a tenth.
func jitter(d time.Duration) time.Duration { return d - d/10 + rand.N(d/5+1) }

// send sends a request. One that cannot be sent is lost at once.
func (p *Prober) send(ctx context.Context, t *target, slot **flight, size int, now time.Time) {
	w := p.wire(ctx, t.Remote.Is6(), now)
	if w == nil {
		if size != 0 {
			t.search, t.searchAt = nil, now.Add(reopenEvery)
		}
		return // neither sent nor lost: we do not know
	}
	if *slot != nil { // the timeout is at most the interval, so its time is over
		p.lose(t, slot)
	}
	f := &flight{target: t, token: rand.Uint64(), size: size, sent: now, deadline: now.Add(min(t.Timeout, t.Interval))}
	if size != 0 {
		f.deadline = now.Add(min(t.Timeout, searchPatience+4*t.now.Recent.Last))
	}
	*slot, p.flights[f.token] = f, f
	t.seq++
	err := w.Send(Echo{Device: t.Device, Local: t.Local, Remote: t.Remote, Seq: t.seq, Token: f.token, Size: size})
	if size == 0 {
		t.now.Error = ""
	}
	if err != nil {
		if size == 0 {
			t.now.Error = err.Error()
		}
		p.lose(t, slot)
	}
}

// lose ends a flight without an answer.
func (p *Prober) lose(t *target, slot **flight) {
	f := *slot
	delete(p.flights, f.token)
	*slot = nil
	if f.size == 0 {
		t.lost()
		return
	}
	p.searched(t, false)
}

// answer takes in what a socket heard.
func (p *Prober) answer(h heard) {
	f := p.flights[h.Token]
	if f == nil || h.From != f.target.Remote || h.at.After(f.deadline) {
		return // not ours, a copy, or too late: then its turn counts it as lost
	}
	t := f.target
	delete(p.flights, h.Token)
	if f.size == 0 {
		t.echo = nil
		t.answered(h.at.Sub(f.sent))
	} else {
		t.big = nil
		p.searched(t, true)
	}
	t.publish()
	p.plan(t)
}

// searched takes in how a packet of the search fared, and says what was found.
func (p *Prober) searched(t *target, answered bool) {
	now := p.now()
	t.search.result(answered)
	found, done := t.search.found()
	if !done {
		t.searchAt = now
		return
	}
	t.search, t.searchAt = nil, now.Add(jitter(searchEvery))
	if found == 0 { // not even small packets get through: the losses tell that
		return
	}
	was := t.now.PathMTU
	t.now.PathMTU = found
	switch {
	case found < t.MTU && was != found:
		p.log.Warn("larger packets do not get through the tunnel and no error tells the sender: set the mtu of the peer, at both ends, to what does",
			"peer", t.Peer, "device", t.Device, "device_mtu", t.MTU, "path_mtu", found)
	case found == t.MTU && was != 0 && was < found:
		p.log.Info("packets of the full size get through the tunnel", "peer", t.Peer, "device", t.Device, "device_mtu", t.MTU)
	}
}
