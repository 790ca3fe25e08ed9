package rpki

import (
	"cmp"
	"context"
	"log/slog"
	"maps"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"sitewire/bgp/policy"
)

// publishEvery is the least time between two sets with other payloads: routes are judged again after each.
const publishEvery = 2 * time.Second

// Source is where payloads come from: Address of a cache (host:port), or Path of a file.
type Source struct {
	Name, Address, Path string
	Table               string // empty is policy.DefaultTable
}

// Config of a Manager. Immutable once handed over.
type Config struct {
	Sources []Source
	// Refresh is the time between queries to a cache, Expire how long payloads of one that is silent are used; 0 is what
	// the cache says, and 1 h and 2 h if it says nothing.
	Refresh, Expire time.Duration
}

// Status of a source.
type Status struct {
	Name   string `json:"name"`
	Kind   string `json:"kind"` // "server" or "file"
	Table  string `json:"table"`
	Target string `json:"target"` // address or path
	// Up: the session is established and the cache has answered; the file could be read when last looked at.
	Up      bool      `json:"up"`
	Since   time.Time `json:"since"` // of Up or not
	Version *uint8    `json:"version,omitempty"`
	Session uint16    `json:"session"`
	Serial  uint32    `json:"serial"`
	IPv4    int       `json:"ipv4"` // payloads in use
	IPv6    int       `json:"ipv6"`
	Skipped int       `json:"skipped,omitempty"` // rows that made no sense
	// Updated is when the source last confirmed its payloads: the cache's last answer; the last change of a file that a
	// program writes, as its metadata show; the last look at another file.
	Updated time.Time `json:"updated,omitzero"`
	// Expires is when payloads of a cache that stays silent are dropped; Expired says that they were.
	Expires   time.Time `json:"expires,omitzero"`
	Expired   bool      `json:"expired,omitempty"`
	LastError string    `json:"last_error,omitempty"`
}

// Snapshot is the state of everything at one time. Immutable.
type Snapshot struct {
	Time    time.Time
	Sources []Status // by name
	Origins *Set     // nil without sources
}

// Options of a Manager.
type Options struct {
	Config Config
	// Log; nil discards.
	Log *slog.Logger
	// Dial a cache; nil is TCP.
	Dial func(ctx context.Context, address string) (net.Conn, error)
}

// Manager keeps sources and publishes what they say.
type Manager struct {
	log      *slog.Logger
	dial     func(context.Context, string) (net.Conn, error)
	snapshot atomic.Pointer[Snapshot]
	waker    chan struct{}
	changed  chan struct{}
	ready    chan struct{}

	mu        sync.Mutex
	config    Config
	sources   map[Source]*source
	tables    map[string]*Table // as published
	published time.Time
	altered   map[string]bool // tables with payloads that are not published yet
}

// source is one source. Its fields are guarded by the manager's mutex.
type source struct {
	Source
	refresh, expire time.Duration
	status          Status
	vrps            []VRP
	again           chan struct{} // for files: look now
	cancel          context.CancelFunc
	gone            bool
}

// New makes a Manager that does nothing until Run.
func New(o Options) *Manager {
	m := &Manager{
		log: o.Log, dial: o.Dial, waker: make(chan struct{}, 1), changed: make(chan struct{}, 1), ready: make(chan struct{}),
		sources: map[Source]*source{}, altered: map[string]bool{},
	}
	if m.log == nil {
		m.log = slog.New(slog.DiscardHandler)
	}
	if m.dial == nil {
		m.dial = func(ctx context.Context, address string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "tcp", address)
		}
	}
	m.Set(o.Config)
	return m
}

func (m *Manager) String() string { return "rpki" }

// Ready is closed when Run has begun.
func (m *Manager) Ready() <-chan struct{} { return m.ready }

// Changed is signalled when tables changed; it holds one wake-up and no data.
func (m *Manager) Changed() <-chan struct{} { return m.changed }

// Snapshot returns the newest state. It never blocks.
func (m *Manager) Snapshot() *Snapshot { return m.snapshot.Load() }

// Set takes over a configuration; the snapshot has its tables when it returns. A source that did not change keeps its
// session and its payloads, and a file is looked at again.
func (m *Manager) Set(c Config) {
	m.mu.Lock()
	defer m.mu.Unlock()
	next := map[Source]*source{}
	for _, s := range c.Sources {
		s.Table = cmp.Or(s.Table, policy.DefaultTable)
		have := m.sources[s]
		if have == nil || have.refresh != c.Refresh || have.expire != c.Expire {
			kept := have
			have = &source{Source: s, refresh: c.Refresh, expire: c.Expire, again: make(chan struct{}, 1)}
			have.status = Status{Name: s.Name, Kind: "server", Table: s.Table, Target: s.Address, Since: time.Now()}
			if s.Path != "" {
				have.status.Kind, have.status.Target = "file", s.Path
			}
			if kept != nil { // other timers: what it said stays until it says it again
				have.status, have.vrps = kept.status, kept.vrps
				if c.Expire != 0 && !have.status.Expires.IsZero() {
					have.status.Expires = have.status.Updated.Add(c.Expire)
				}
			}
		}
		next[s] = have
		select {
		case have.again <- struct{}{}:
		default:
		}
	}
	for s, was := range m.sources {
		if next[s] != was {
			was.gone = true
			if was.cancel != nil {
				was.cancel()
			}
			m.altered[s.Table] = true
		}
	}
	m.config, m.sources = c, next
	m.publish(time.Now(), true)
	m.wake()
}

func (m *Manager) wake() {
	select {
	case m.waker <- struct{}{}:
	default:
	}
}

// Run keeps the sources until ctx ends.
func (m *Manager) Run(ctx context.Context) error {
	close(m.ready)
	var running sync.WaitGroup
	defer running.Wait()
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-m.waker:
		case <-timer.C:
		}
		m.mu.Lock()
		for _, s := range m.sources {
			if s.cancel == nil {
				var task context.Context
				task, s.cancel = context.WithCancel(ctx)
				running.Go(func() { m.follow(task, s) })
			}
		}
		now := time.Now()
		expired := m.expire(now)
		m.publish(now, false)
		timer.Reset(m.wait(now))
		m.mu.Unlock()
		for _, name := range expired {
			m.log.Warn("RPKI payloads have expired: what only they covered is not-found now", "source", name)
		}
	}
}

// follow runs a source.
func (m *Manager) follow(ctx context.Context, s *source) {
	failed := func(err error) { m.failed(s, err) }
	if s.Path != "" {
		f := &file{path: s.Path, learned: func(r result, at time.Time) { m.learned(s, r, at) }, confirmed: func(at time.Time) { m.confirmed(s, at) }}
		f.run(ctx, s.again, failed)
		return
	}
	c := &client{address: s.Address, dial: m.dial, refresh: s.refresh, expire: s.expire}
	c.learned = func(r result) { m.learned(s, r, time.Now()) }
	c.run(ctx, failed)
}

func (m *Manager) learned(s *source, r result, at time.Time) {
	if m.learn(s, r, at) {
		m.log.Info("RPKI source answers", "source", s.Name, "table", s.Table, "payloads", len(r.vrps), "skipped", r.skipped)
	}
	m.wake()
}

// confirmed notes that the source says what it said before.
func (m *Manager) confirmed(s *source, at time.Time) {
	m.mu.Lock()
	s.status.Updated = at
	m.mu.Unlock()
	m.wake()
}

// learn reports whether the source came up by this.
func (m *Manager) learn(s *source, r result, at time.Time) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	st := &s.status
	rose := !st.Up && !s.gone
	if rose {
		st.Up, st.Since = true, time.Now()
	}
	st.Updated, st.LastError, st.Expired, st.Skipped = at, "", false, r.skipped
	if s.Path == "" {
		st.Serial, st.Session, st.Version = r.serial, r.session, &r.version
		st.Expires = at.Add(r.expire)
	}
	if !slices.Equal(s.vrps, r.vrps) {
		s.take(r.vrps)
		if !s.gone {
			m.altered[s.Table] = true
		}
	}
	return rose
}

// take replaces the payloads.
func (s *source) take(list []VRP) {
	s.vrps = list
	s.status.IPv4, s.status.IPv6 = 0, 0
	for _, v := range list {
		if v.Prefix.Addr().Is4() {
			s.status.IPv4++
		} else {
			s.status.IPv6++
		}
	}
}

func (m *Manager) failed(s *source, err error) {
	m.mu.Lock()
	st := &s.status
	news := !s.gone && (st.Up || st.LastError == "")
	if st.Up {
		st.Up, st.Since = false, time.Now()
	}
	st.LastError = err.Error()
	m.mu.Unlock()
	if news {
		m.log.Warn("RPKI source fails: its last good payloads stay in use, those of a server until they expire", "source", s.Name, "error", err)
	}
	m.wake()
}

// expire drops payloads of caches that have been silent for too long (RFC 8210 section 6), and returns whose.
func (m *Manager) expire(now time.Time) (gone []string) {
	for _, s := range m.sources {
		if at := s.status.Expires; !at.IsZero() && !s.status.Expired && !now.Before(at) {
			s.status.Expired = true
			if len(s.vrps) > 0 {
				s.take(nil)
				m.altered[s.Table] = true
				gone = append(gone, s.Name)
			}
		}
	}
	return gone
}

// wait returns how long nothing is due.
func (m *Manager) wait(now time.Time) time.Duration {
	next := time.Hour
	if len(m.altered) > 0 {
		next = m.published.Add(publishEvery).Sub(now)
	}
	for _, s := range m.sources {
		if at := s.status.Expires; !at.IsZero() && !s.status.Expired {
			next = min(next, at.Sub(now))
		}
	}
	return max(next, time.Millisecond)
}

// publish makes a snapshot; with new tables if that is due, or if a configuration needs them now.
func (m *Manager) publish(now time.Time, must bool) {
	old := m.snapshot.Load()
	next := &Snapshot{Time: now}
	if old != nil {
		next.Origins = old.Origins
	}
	lists := map[string][][]VRP{}
	for _, s := range m.sources {
		next.Sources = append(next.Sources, s.status)
		lists[s.Table] = append(lists[s.Table], s.vrps)
	}
	slices.SortFunc(next.Sources, func(a, b Status) int { return cmp.Or(cmp.Compare(a.Name, b.Name), cmp.Compare(a.Kind, b.Kind)) })
	altered := len(m.altered) > 0
	for name := range lists {
		altered = altered || m.tables[name] == nil
	}
	for name := range m.tables {
		altered = altered || lists[name] == nil
	}
	if altered && (must || now.Sub(m.published) >= publishEvery) {
		tables := map[string]*Table{}
		for name, list := range lists {
			if t := m.tables[name]; t != nil && !m.altered[name] {
				tables[name] = t
			} else {
				tables[name] = NewTable(list...)
			}
		}
		clear(m.altered)
		m.tables, m.published, next.Origins = tables, now, nil
		if len(tables) > 0 {
			next.Origins = NewSet(maps.Clone(tables))
		}
		if must { // empty tables of sources that are about to speak: do not make them wait
			m.published = time.Time{}
		}
	}
	m.snapshot.Store(next)
	if old == nil || next.Origins != old.Origins {
		select {
		case m.changed <- struct{}{}:
		default:
		}
	}
}
