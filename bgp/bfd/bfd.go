// Package bfd is Bidirectional Forwarding Detection over one hop (RFC 5880, RFC 5881), for BGP.
//
// Job: tell within a fraction of a second that packets to or from a neighbour no longer arrive.
// Owner: each session's goroutine owns its machine; the Server's mutex guards which sessions there are. Counters and
// statuses are atomic.
// Inputs: Config values; UDP port 3784.
// Outputs: Down, once for each failure; Status of each session; counts of packets that were dropped.
// Invariants: a packet that came over a hop (TTL below 255) does nothing (RFC 5881 section 5); a session that was never
// up never fails; what the neighbour's administrator does is no failure (RFC 5882 section 3.2), and neither is a session
// that the neighbour begins anew and that comes up again.
//
// GoBGP has BFD of its own, which resets BGP sessions behind our back: also when the neighbour's BFD was taken down on
// purpose, and also sessions that are not up, whose next life the reset then ends, and so on for ever (v4.8.0). It
// neither slows down while a session is down nor varies its interval, checks no TTL and tells no diagnostic.
package bfd

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"math/rand/v2"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"
)

// Port of single-hop BFD (RFC 5881 section 4).
const Port = 3784

// Config of a session.
type Config struct {
	// Remote address, link-local with its device as zone. There is one session for each.
	Remote netip.Addr
	// Local address to send from; invalid lets the kernel choose.
	Local netip.Addr
	// Interval of packets that we want to send, and can receive. Multiplier is how many may be missing.
	Interval   time.Duration
	Multiplier uint8
}

// Validate says what cannot work.
func (c Config) Validate() error {
	switch {
	case c.Interval < time.Millisecond || c.Interval > time.Minute:
		return fmt.Errorf("BFD interval %v: want 1ms to 1m", c.Interval)
	case c.Multiplier == 0:
		return errors.New("BFD multiplier 0: want at least 1")
	case c.Local.IsValid() && c.Local.Is4() != c.Remote.Is4():
		return fmt.Errorf("BFD from %v to %v: two families", c.Local, c.Remote)
	}
	return nil
}

// Failure of a session that was up.
type Failure struct {
	Remote     netip.Addr
	Diagnostic Diagnostic
}

// Status of a session. Immutable.
type Status struct {
	State State
	Since time.Time
	// Diagnostic of the last time that it left Up, and RemoteDiagnostic, what the neighbour says of its end.
	Diagnostic, RemoteDiagnostic Diagnostic
	RemoteState                  State
	// DetectionTime negotiated; 0 until the neighbour was heard.
	DetectionTime time.Duration
	// Downs by diagnostic: times that it left Up.
	Downs map[Diagnostic]uint64
	// Received and Transmitted control packets.
	Received, Transmitted uint64
	// Trouble with our socket, empty if there is none.
	Trouble string
}

// Reasons of dropped packets.
const (
	dropTTL            = "ttl"            // forwarded on its way
	dropInvalid        = "invalid"        // malformed
	dropAuthentication = "authentication" // of the kind that we do not do
	dropUnknown        = "unknown_peer"
	dropDiscriminator  = "discriminator" // of another session
	dropFull           = "queue_full"
	dropRead           = "read_error"
)

// DropReasons lists why received packets are dropped.
func DropReasons() []string {
	return []string{dropTTL, dropInvalid, dropAuthentication, dropUnknown, dropDiscriminator, dropFull, dropRead}
}

// Options of a Server.
type Options struct {
	// Failed is called once for each failure, from the session's goroutine; it must not block.
	Failed func(Failure)
	// Changed is called when a session's state changed; it must not block.
	Changed func()
	// Log; nil discards.
	Log *slog.Logger
}

// Server runs sessions.
type Server struct {
	o   Options
	log *slog.Logger

	mu       sync.Mutex
	sessions map[netip.Addr]*session
	past     map[netip.Addr]tally // of sessions that ended, so that counters never go back
	ctx      context.Context      // of Run; nil before and after
	wg       sync.WaitGroup
	drops    [7]atomic.Uint64 // as in DropReasons
	trouble  atomic.Pointer[string]
	wanted   chan struct{} // Set changed whether there is any session

	// What goes out and what comes in, for tests to replace.
	sender   func(Config) sender
	receiver func(context.Context)
}

// tally is what is counted over the lives of a session.
type tally struct {
	received, transmitted uint64
	downs                 map[Diagnostic]uint64
}

// New makes a Server without sessions.
func New(o Options) *Server {
	s := &Server{o: o, log: o.Log, sessions: map[netip.Addr]*session{}, past: map[netip.Addr]tally{}, wanted: make(chan struct{}, 1)}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	s.sender = func(c Config) sender { return &socket{local: c.Local, remote: netip.AddrPortFrom(c.Remote, Port)} }
	s.receiver = s.listen
	return s
}

// Set replaces the sessions. One that did not change is not touched. It does not wait, and may be called before Run.
func (s *Server) Set(list []Config) {
	s.mu.Lock()
	defer s.mu.Unlock()
	want := make(map[netip.Addr]Config, len(list))
	for _, c := range list {
		want[c.Remote] = c
	}
	for a, x := range s.sessions {
		if c, ok := want[a]; !ok || c != x.config {
			x.cancel()
			s.past[a] = x.tally()
			delete(s.sessions, a)
		}
	}
	for a, c := range want {
		if s.sessions[a] == nil {
			s.sessions[a] = s.newSession(c, s.past[a])
			s.begin(s.sessions[a])
		}
	}
	select {
	case s.wanted <- struct{}{}:
	default:
	}
}

// Forget drops what was counted for sessions that are not in the list any more; counters of others stay.
func (s *Server) Forget(keep func(netip.Addr) bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	maps.DeleteFunc(s.past, func(a netip.Addr, _ tally) bool { return !keep(a) })
}

// Status of the session with the address; of one that does not run only what was counted, with State AdminDown.
func (s *Server) Status(a netip.Addr) Status {
	s.mu.Lock()
	x, past := s.sessions[a], s.past[a]
	s.mu.Unlock()
	if x == nil {
		return Status{State: AdminDown, Downs: past.downs, Received: past.received, Transmitted: past.transmitted}
	}
	out := *x.status.Load()
	out.Received, out.Transmitted = x.received.Load(), x.transmitted.Load()
	if t := s.trouble.Load(); t != nil {
		out.Trouble = cmp.Or(*t, out.Trouble)
	}
	return out
}

// Dropped counts received packets that did nothing, by reason.
func (s *Server) Dropped() map[string]uint64 {
	out := map[string]uint64{}
	for i, reason := range DropReasons() {
		out[reason] = s.drops[i].Load()
	}
	return out
}

func (s *Server) drop(reason string) {
	for i, r := range DropReasons() {
		if r == reason {
			s.drops[i].Add(1)
		}
	}
}

// Run runs the sessions until ctx ends. Then it tells the neighbours that this is on purpose (AdminDown).
func (s *Server) Run(ctx context.Context) error {
	s.mu.Lock()
	s.ctx = ctx
	for _, x := range s.sessions {
		s.begin(x)
	}
	s.mu.Unlock()
	s.receiver(ctx)
	s.mu.Lock()
	s.ctx = nil
	s.mu.Unlock()
	s.wg.Wait()
	return ctx.Err()
}

// begin starts a session's goroutine if the server runs. The mutex is held.
func (s *Server) begin(x *session) {
	if s.ctx == nil || s.ctx.Err() != nil {
		return
	}
	ctx, cancel := context.WithCancel(s.ctx)
	x.cancel = cancel
	s.wg.Go(func() { x.run(ctx) })
}

// deliver hands a packet to its session.
func (s *Server) deliver(from netip.Addr, ttl int, b []byte) {
	if ttl != 255 {
		s.drop(dropTTL)
		return
	}
	p, err := parse(b)
	switch {
	case errors.Is(err, errAuthenticated):
		s.drop(dropAuthentication)
		return
	case err != nil:
		s.drop(dropInvalid)
		return
	}
	s.mu.Lock()
	x := s.sessions[from]
	s.mu.Unlock()
	if x == nil {
		s.drop(dropUnknown)
		return
	}
	select {
	case x.packets <- p:
	default:
		s.drop(dropFull)
	}
}

func discriminator() uint32 {
	for {
		if d := rand.Uint32(); d != 0 {
			return d
		}
	}
}
