package metrics

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"runtime/debug"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/common/expfmt"
)

const (
	// minSend is how long a reader may take at least. After that it is cut as soon as somebody waits for what it holds; if nobody does, it
	// has until the server's write timeout.
	minSend = 2 * time.Second
	// restFactor is how many times as long as it took to render a page it is given to those who come later, if several asked for it. So
	// rendering takes at most one part in 1+restFactor of one core, and a page is at most that many renderings old.
	restFactor = 3
	maxRest    = time.Second
)

// lane is what requests of one kind share. Each kind has its own, so that none keeps another waiting: Prometheus' usual scrapes do not
// stand behind somebody who asks for a thousand different choices of metrics, nor behind the formats that take long.
type lane struct {
	requests chan struct{} // one for each request that is waited for or written to; further ones wait for their turn
	slots    chan struct{} // one for each page in memory
	turn     chan struct{} // one, while a page is rendered
	sent     []*page       // rendered and in use, oldest first; under the mutex of pages
}

// newLane makes a lane with limits for requests at a time and pages in memory.
func newLane(requests, pages int) *lane {
	return &lane{requests: make(chan struct{}, requests), slots: make(chan struct{}, pages), turn: make(chan struct{}, 1)}
}

// The limits of the lanes: the usual scrapes, the formats that only the client library makes, and choices of metrics.
const (
	maxRequests, maxPages               = 512, 6
	maxLibraryRequests, maxLibraryPages = 256, 3
	maxChoiceRequests, maxChoicePages   = 32, 3
)

// pageKey tells which requests get the same page.
type pageKey struct {
	format expfmt.Format
	gzip   bool
	names  string // of the metrics asked for, joined by newlines; empty is all
}

// page is one rendering of the metrics, and whoever is waiting for it or reading it.
type page struct {
	key    pageKey
	lane   *lane
	accept []string // the Accept header that led to the format
	done   chan struct{}
	// Written before done is closed, and not changed after that.
	header http.Header
	status int
	body   *bytes.Buffer
	// cut ends all its readers; ctx is done from then on.
	ctx context.Context
	cut context.CancelFunc

	// Under the mutex of pages:
	users    int       // readers, and pages.current as long as it has it
	asked    int       // readers that there ever were
	rendered time.Time // zero until then
	torn     bool      // a reader did not get it all, so that its connection may still look at the body
}

// pages renders pages and shares them: whoever asks while a page is made or still fresh gets that page. Rendering runs in goroutines of
// its own, so that no reader that goes away or reads slowly takes it from the others.
//
// Owner: its mutex guards the bookkeeping, never a rendering and no input or output.
type pages struct {
	// render fills in the header, the status and the body.
	render func(p *page)
	log    *slog.Logger

	usual, library, choices *lane
	bodies                  sync.Pool // of *bytes.Buffer

	mu      sync.Mutex
	current map[pageKey]*page
}

func newPages(render func(*page), log *slog.Logger) *pages {
	s := &pages{
		render: render, log: log,
		usual:   newLane(maxRequests, maxPages),
		library: newLane(maxLibraryRequests, maxLibraryPages),
		choices: newLane(maxChoiceRequests, maxChoicePages),
		current: map[pageKey]*page{},
	}
	s.bodies.New = func() any { return new(bytes.Buffer) }
	return s
}

func (s *pages) lane(key pageKey) *lane {
	if key.names != "" {
		return s.choices
	}
	if formOf(string(key.format)) == otherForm {
		return s.library
	}
	return s.usual
}

// get returns a page that is rendered, and how to give it back. The error is the context's.
func (s *pages) get(ctx context.Context, key pageKey, accept []string) (_ *page, release func(whole bool), err error) {
	l := s.lane(key)
	if err := s.acquire(ctx, l, l.requests); err != nil {
		return nil, nil, err
	}
	p := s.join(l, key, accept)
	release = func(whole bool) {
		s.mu.Lock()
		p.torn = p.torn || !whole
		s.drop(p)
		s.mu.Unlock()
		<-l.requests
	}
	select {
	case <-p.done:
		return p, release, nil
	case <-ctx.Done():
		release(true)
		return nil, nil, ctx.Err()
	}
}

// join finds the page or starts to make it.
func (s *pages) join(l *lane, key pageKey, accept []string) *page {
	s.mu.Lock()
	defer s.mu.Unlock()
	p := s.current[key]
	if p == nil {
		p = &page{key: key, lane: l, accept: accept, done: make(chan struct{}), users: 1}
		p.ctx, p.cut = context.WithCancel(context.Background())
		s.current[key] = p
		go s.make(p)
	}
	p.users++
	p.asked++
	return p
}

// make renders a page for all who have joined and are yet to join.
func (s *pages) make(p *page) {
	l := p.lane
	l.turn <- struct{}{}
	_ = s.acquire(context.Background(), l, l.slots) // the wait ends: readers are cut
	if s.unwanted(p) {
		<-l.turn
		return
	}
	p.body = s.bodies.Get().(*bytes.Buffer)
	start := time.Now()
	s.fill(p)
	took := time.Since(start)
	<-l.turn

	s.mu.Lock()
	defer s.mu.Unlock()
	p.rendered = time.Now()
	l.sent = append(l.sent, p)
	close(p.done)
	retire := func() {
		delete(s.current, p.key)
		s.drop(p)
	}
	if p.asked == 1 { // a second scrape by the same reader is to see what happened since the first
		retire()
		return
	}
	time.AfterFunc(min(restFactor*took, maxRest), func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		retire()
	})
}

// unwanted drops a page for which nobody waits any more.
func (s *pages) unwanted(p *page) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if p.users > 1 {
		return false
	}
	delete(s.current, p.key)
	s.drop(p)
	return true
}

// fill calls render. A panic in there must not end the gateway.
func (s *pages) fill(p *page) {
	defer func() {
		if r := recover(); r != nil {
			s.log.Error("metrics not rendered", "error", fmt.Sprint(r), "stack", string(debug.Stack()))
			p.header, p.status = http.Header{"Content-Type": {"text/plain; charset=utf-8"}}, http.StatusInternalServerError
			p.body.Reset()
			p.body.WriteString("The metrics could not be rendered; the log of sitewire tells why.\n")
		}
	}()
	p.body.Reset()
	s.render(p)
}

// drop takes one user from a page, under the mutex. The last one frees its memory.
func (s *pages) drop(p *page) {
	if p.users--; p.users > 0 {
		return
	}
	p.cut() // its readers are gone; this frees the context
	p.lane.sent = slices.DeleteFunc(p.lane.sent, func(x *page) bool { return x == p })
	if p.body != nil && !p.torn {
		s.bodies.Put(p.body)
	}
	<-p.lane.slots
}

// acquire takes a slot of a lane. If there is none, the readers of its oldest page are cut, once they have had their time.
func (s *pages) acquire(ctx context.Context, l *lane, slots chan<- struct{}) error {
	for {
		select {
		case slots <- struct{}{}:
			return nil
		default:
		}
		wait := time.NewTimer(s.cutOldest(l))
		select {
		case slots <- struct{}{}:
			wait.Stop()
			return nil
		case <-wait.C:
		case <-ctx.Done():
			wait.Stop()
			return ctx.Err()
		}
	}
}

// cutOldest ends the readers of the oldest page that has some, if they have had their time, and returns when to look again.
func (s *pages) cutOldest(l *lane) time.Duration {
	const soon = 50 * time.Millisecond
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, p := range l.sent {
		if p.ctx.Err() != nil {
			continue
		}
		if left := minSend - time.Since(p.rendered); left > 0 {
			return max(left, soon)
		}
		p.cut()
		break
	}
	return soon
}

// send writes a page. What is not nil when it returns means that the reader did not get it all.
func (p *page) send(w http.ResponseWriter) error {
	control := http.NewResponseController(w)
	over := make(chan struct{})
	stop := context.AfterFunc(p.ctx, func() {
		defer close(over)
		_ = control.SetWriteDeadline(time.Unix(1, 0)) // in the past: a write that waits ends now. Writers without deadlines do not wait.
	})
	defer func() {
		if !stop() {
			<-over // the writer must not be touched after the request
		}
	}()
	w.WriteHeader(p.status)
	_, err := w.Write(p.body.Bytes())
	return err
}
