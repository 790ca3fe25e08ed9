// Package bgp is the BGP speaker: GoBGP, told what a configuration wants and watched for what it learns.
//
// Job: sessions, policies and announcements in step with a Config; what neighbours send, judged by package policy, and
// the best paths, handed to a Sink; a picture of all sessions for metrics and listings.
// Owner: GoBGP's own loop owns sessions and RIBs. The Speaker's loop is the only one to call GoBGP. Watch callbacks and
// the loop share the view, under its mutex.
// Inputs: Config values; liveness of tunnels; BGP.
// Outputs: paths and best-path changes as plain values; Snapshot.
// Invariants: nothing is exchanged without a policy (RFC 8212); what GoBGP accepts is what the policy's evaluation
// accepts; a neighbour that did not change keeps its session; every argument is checked before it reaches GoBGP, which
// panics at some. One Speaker to a process at a time: GoBGP has package globals.
package bgp

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/osrg/gobgp/v4/pkg/server"

	"sitewire/bgp/bfd"
	"sitewire/routes"
)

// Sink takes what the speaker learns. Calls come one at a time, in the order of events, and must not block.
type Sink interface {
	// PutPath replaces the neighbour's path for the prefix; nil says that it is gone. Rejected paths come too.
	PutPath(neighbour string, prefix netip.Prefix, p *routes.Path)
	// PutBest changes best paths; the changes of one call take effect together.
	PutBest(changes ...routes.BestChange)
	// PutEndOfRIB says that the neighbour has sent all it has in a family: its paths of older sessions are gone.
	PutEndOfRIB(neighbour string, f routes.Family, session uint32)
	// PutLoss says, before the paths go, that what the neighbour announced is lost with its session; again, with the same
	// time, when it is known why.
	PutLoss(neighbour string, kind routes.LossKind, at time.Time)
	// PutReachable says that packets of the neighbour do not arrive (BFD), long before its paths have been withdrawn one by
	// one; and that there is a session.
	PutReachable(neighbour string, is bool)
}

// ErrRestart says that a change needs a new Speaker.
var ErrRestart = errors.New("the BGP speaker has to be restarted")

// errStopped is returned to callers of a speaker that does not run.
var errStopped = errors.New("the BGP speaker is not running")

// Options of a Speaker.
type Options struct {
	// Config to begin with.
	Config Config
	// Sink for what is learned.
	Sink Sink
	// Connections lists the established TCP connections of this machine; nil if it cannot be asked.
	Connections func(context.Context) ([]Connection, error)
	// Log; nil discards.
	Log *slog.Logger
}

// Speaker runs BGP. It cannot be run twice.
type Speaker struct {
	log      *slog.Logger
	view     *view
	bfd      *bfd.Server
	tcp      func(context.Context) ([]Connection, error)
	snapshot atomic.Pointer[Snapshot]
	calls    chan func(*loop)
	waker    chan struct{}
	changed  chan struct{}
	ready    chan struct{}
	done     chan struct{}

	// mu guards first, the configuration to begin with, and begun.
	mu    sync.Mutex
	first Config
	begun bool

	// left is the GoBGP that Run left alone (Config.KeepForwarding). It ends with the process; tests, which go on, end it.
	left *server.BgpServer
}

// New returns a speaker that does nothing until Run.
func New(o Options) *Speaker {
	s := &Speaker{
		log: o.Log, first: o.Config,
		calls: make(chan func(*loop)), waker: make(chan struct{}, 1), changed: make(chan struct{}, 1),
		ready: make(chan struct{}), done: make(chan struct{}),
	}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	s.view = newView(o.Sink, s.wake)
	s.bfd = bfd.New(bfd.Options{Failed: s.view.bfdFailed, Changed: s.view.bfdChanged, Log: s.log})
	s.view.bfd, s.tcp = s.bfd, o.Connections
	s.snapshot.Store(&Snapshot{})
	return s
}

func (s *Speaker) String() string { return "bgp" }

// Ready is closed when the speaker listens and the first configuration is in effect.
func (s *Speaker) Ready() <-chan struct{} { return s.ready }

// Changed is signalled when sessions changed; it holds one wake-up and no data.
func (s *Speaker) Changed() <-chan struct{} { return s.changed }

// Snapshot returns the last picture of all sessions. It never blocks.
func (s *Speaker) Snapshot() *Snapshot { return s.snapshot.Load() }

func (s *Speaker) wake() {
	select {
	case s.waker <- struct{}{}:
	default:
	}
}

// Run speaks BGP until the context ends.
//
// Restart, if not nil, says that this process replaces one whose forwarding state, routes and tunnels, is still there:
// neighbours with graceful restart are told so in the first session with each (the R and F bits of RFC 4724 section 3), and
// hear nothing from us before all of them have sent what they have, or DeferralTime is over (section 4.1).
//
// With Config.KeepForwarding, Run returns and leaves the sessions alone: they end with the process, whose connections the
// kernel closes. That is what starts a helper (section 4.2). A NOTIFICATION would end the session for good where RFC 8538
// is not known, and to stop GoBGP would withdraw from each neighbour what was learned of those before it.
func (s *Speaker) Run(ctx context.Context, restart *Restart) error {
	defer close(s.done)
	first := s.begin()
	if err := Validate(first); err != nil {
		return fmt.Errorf("bgp: %w", err)
	}
	quiet := newQuiet(s.log)
	l := &loop{
		Speaker: s,
		gobgp:   server.NewBgpServer(server.LoggerOption(slog.New(quiet), nil)),
		config:  first,
		peers:   map[netip.Addr]*peer{},
		own:     map[netip.Prefix]Announcement{},
		refused: map[refusal]bool{},
		pace:    map[netip.Addr]*pace{},
		countAt: time.Now(), countCost: 3 * time.Microsecond,
	}
	if restart != nil {
		l.before, l.restartEnds = *restart, time.Now().Add(restartTime(first))
	}
	l.gathering.begin(first, restart != nil)
	go l.gobgp.Serve()
	watching, unwatch := context.WithCancel(context.WithoutCancel(ctx))
	defer func() {
		s.view.close()
		quiet.closing.Store(true)
		if l.config.KeepForwarding {
			s.left = l.gobgp
		} else {
			l.stop()
		}
		unwatch()
	}()
	if err := l.start(watching); err != nil {
		return fmt.Errorf("bgp: %w", err)
	}
	beside, end := context.WithCancel(watching)
	var wg sync.WaitGroup
	defer wg.Wait() // before GoBGP stops, so that neighbours hear that the end of BFD is no failure
	defer end()
	wg.Go(func() { _ = s.bfd.Run(beside) })
	if s.tcp != nil {
		wg.Go(func() { s.sampleTCP(beside) })
	}
	close(s.ready)
	return l.run(ctx)
}

// stopPatience is how long a stop waits for GoBGP, which drops all tables one after the other: a minute for a million routes. Nothing relies on
// that, the process ends.
const stopPatience = 3 * time.Second

// tellFirst is the number of paths from which on a stop tells all neighbours before GoBGP drops the first of them: half a second and more.
const tellFirst = 20_000

// stop ends all sessions. GoBGP tells each neighbour only after it has dropped what the one before had sent, so with large tables all are
// told before. Only then: sessions that end while paths of others are on their way make GoBGP v4.8.0 write a configuration over that it has
// published, which its other goroutines read.
func (l *loop) stop() {
	done := make(chan struct{})
	go func() {
		defer close(done)
		if l.view.received() >= tellFirst {
			l.tellAll()
		}
		l.gobgp.Stop()
	}()
	select {
	case <-done:
	case <-time.After(stopPatience):
		l.log.Debug("GoBGP is not waited for any longer")
	}
}

// tellAll ends all sessions by a NOTIFICATION.
func (l *loop) tellAll() {
	for address, p := range l.peers {
		if p.added && l.view.established(address) {
			if err := l.shutdown(address); err != nil {
				l.log.Error("GoBGP refused an order", "err", err)
			}
		}
	}
}

// begin returns the configuration to begin with, which cannot be replaced any more.
func (s *Speaker) begin() Config {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.begun = true
	return s.first
}

// prepare replaces the configuration to begin with, as long as that is to come.
func (s *Speaker) prepare(c Config) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.begun {
		s.first = c
	}
	return !s.begun
}

// do runs f on the loop and returns its error.
func (s *Speaker) do(ctx context.Context, f func(*loop) error) error {
	result := make(chan error, 1)
	select {
	case s.calls <- func(l *loop) { result <- f(l) }:
		return <-result
	case <-s.done:
		return errStopped
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Set brings everything in step with a configuration. Neighbours whose session did not change keep it, whatever
// happens to the others. ErrRestart is returned, and nothing done, if ASN, router ID, listeners or multipath change. Before
// Run it replaces the configuration to begin with.
func (s *Speaker) Set(ctx context.Context, c Config) error {
	if err := Validate(c); err != nil {
		return fmt.Errorf("bgp: %w", err)
	}
	if s.prepare(c) {
		return nil
	}
	return s.do(ctx, func(l *loop) error {
		if err := needsRestart(l.config, c); err != nil {
			return err
		}
		l.config = c
		return l.apply()
	})
}

// SetAnnouncements replaces the prefixes that we originate.
func (s *Speaker) SetAnnouncements(ctx context.Context, list []Announcement) error {
	return s.do(ctx, func(l *loop) error {
		c := l.config
		c.Announce = list
		if err := Validate(c); err != nil {
			return fmt.Errorf("bgp: %w", err)
		}
		l.config = c
		return l.announce()
	})
}

// SetLiveness tells whether the tunnel of a neighbour (its name, or the peer's for all of its sessions) carries
// packets. The session of a dead one is ended at once, whatever its timers say, and tried again as soon as it lives.
// Neighbours count as alive until said otherwise. It does not wait.
func (s *Speaker) SetLiveness(name string, alive bool) { s.view.setLiveness(name, alive) }

// Reset evaluates and sends everything of a neighbour again (soft), or ends its session and begins a new one.
func (s *Speaker) Reset(ctx context.Context, name string, soft bool) error {
	return s.do(ctx, func(l *loop) error { return l.reset(name, soft) })
}

func needsRestart(a, b Config) error {
	switch {
	case a.ASN != b.ASN || a.RouterID != b.RouterID:
		return fmt.Errorf("bgp: ASN or router ID changed: %w", ErrRestart)
	case a.ListenPort != b.ListenPort || !slices.Equal(a.ListenAddresses, b.ListenAddresses):
		return fmt.Errorf("bgp: listen addresses changed: %w", ErrRestart)
	case a.MaxPaths > 1 != (b.MaxPaths > 1):
		return fmt.Errorf("bgp: multipath changed: %w", ErrRestart)
	}
	return nil
}
