package metrics

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/common/expfmt"
)

// whole is what Prometheus asks for.
var whole = pageKey{format: expfmt.NewFormat(expfmt.TypeTextPlain), gzip: true}

// reader is an http.ResponseWriter whose client takes nothing more until the test lets it, or its write deadline passes.
type reader struct {
	httptest.ResponseRecorder
	gate chan struct{} // nil does not wait
	cut  chan struct{}
	once sync.Once
}

func newReader(stuck bool) *reader {
	r := &reader{ResponseRecorder: *httptest.NewRecorder(), cut: make(chan struct{})}
	if stuck {
		r.gate = make(chan struct{})
	}
	return r
}

func (r *reader) SetWriteDeadline(t time.Time) error {
	if t.Before(time.Now()) {
		r.once.Do(func() { close(r.cut) })
	}
	return nil
}

func (r *reader) Write(b []byte) (int, error) {
	if r.gate != nil {
		select {
		case <-r.gate:
		case <-r.cut:
			return 0, os.ErrDeadlineExceeded
		}
	}
	return r.ResponseRecorder.Write(b)
}

// book is a pages whose renderings the test counts and times.
type book struct {
	*pages
	renderings atomic.Int64
	takes      time.Duration
}

func newBook(takes time.Duration) *book {
	b := &book{takes: takes}
	b.pages = newPages(func(p *page) {
		n := b.renderings.Add(1)
		time.Sleep(b.takes)
		p.header, p.status = http.Header{}, http.StatusOK
		fmt.Fprintf(p.body, "page %d", n)
	}, slog.New(slog.DiscardHandler))
	return b
}

// read is one request, to the end.
func (b *book) read(w *reader, key pageKey) error {
	ctx, cancel := context.WithTimeout(context.Background(), scrapeTimeout)
	defer cancel()
	p, release, err := b.get(ctx, key, nil)
	if err != nil {
		return err
	}
	err = p.send(w)
	release(err == nil)
	return err
}

// inUse is how many pages the usual scrapes have in use.
func (b *book) inUse() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return len(b.usual.sent)
}

// empty tells whether everything was given back.
func (b *book) empty(t *testing.T) {
	t.Helper()
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, l := range []*lane{b.usual, b.library, b.choices} {
		if len(b.current) != 0 || len(l.sent) != 0 || len(l.slots) != 0 || len(l.requests) != 0 || len(l.turn) != 0 {
			t.Errorf("left over: %d current, %d sent, %d pages, %d requests, %d turns", len(b.current), len(l.sent), len(l.slots), len(l.requests), len(l.turn))
		}
	}
}

// Whoever comes while a page is made gets that page; so does who comes a little later, if it was shared. After that it is made anew.
func TestPagesAreShared(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBook(20 * time.Millisecond)
		many := func(n int) (bodies map[string]int) {
			bodies = map[string]int{}
			var mu sync.Mutex
			var group sync.WaitGroup
			for range n {
				group.Go(func() {
					w := newReader(false)
					if err := b.read(w, whole); err != nil {
						t.Error(err)
					}
					mu.Lock()
					defer mu.Unlock()
					bodies[w.Body.String()]++
				})
			}
			group.Wait()
			return bodies
		}
		if got := many(200); len(got) != 1 || b.renderings.Load() != 1 {
			t.Errorf("200 at once made %d renderings: %v", b.renderings.Load(), got)
		}
		time.Sleep(restFactor*b.takes - time.Millisecond)
		if many(1); b.renderings.Load() != 1 {
			t.Error("a fresh page was made again")
		}
		time.Sleep(2 * time.Millisecond)
		if many(1); b.renderings.Load() != 2 {
			t.Error("a page was kept for too long")
		}
		if many(1); b.renderings.Load() != 3 {
			t.Error("a single reader got the same page twice")
		}
		b.empty(t)
	})
}

// Readers that do not read hold neither the pages nor the requests that others need: when somebody waits for what they hold, they are cut.
// While nobody does, they are left alone.
func TestSlowReadersHoldNothing(t *testing.T) {
	for name, slow := range map[string]func(i int) pageKey{
		"all pages":    func(i int) pageKey { return pageKey{format: whole.format, gzip: i%2 == 0} },
		"all requests": func(int) pageKey { return whole },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newBook(time.Millisecond)
				var group sync.WaitGroup
				errs := make(chan error, maxRequests)
				for i := range maxPages {
					n := 1
					if name == "all requests" {
						n = maxRequests / maxPages
					}
					for range n {
						group.Go(func() { errs <- b.read(newReader(true), slow(i)) })
					}
					time.Sleep(10 * time.Millisecond) // each lot gets a page of its own
				}
				time.Sleep(time.Minute)
				if n := len(b.usual.slots); n != maxPages || len(errs) > 0 {
					t.Fatalf("%d pages in use, want all %d; %d readers cut for nobody", n, maxPages, len(errs))
				}
				if name == "all requests" {
					for range cap(b.usual.requests) - len(b.usual.requests) {
						group.Go(func() { errs <- b.read(newReader(true), whole) })
					}
					time.Sleep(time.Millisecond)
				}
				start := time.Now()
				if err := b.read(newReader(false), whole); err != nil {
					t.Errorf("after %s: %v", time.Since(start), err)
				}
				if waited := time.Since(start); waited > time.Second {
					t.Errorf("waited %s for readers that had their time", waited)
				}
				for b.inUse() > 0 { // until all have been cut
					b.cutOldest(b.usual)
					time.Sleep(minSend)
				}
				group.Wait()
				close(errs)
				for err := range errs {
					if !errors.Is(err, os.ErrDeadlineExceeded) {
						t.Errorf("a reader that does not read: %v", err)
					}
				}
				b.empty(t)
			})
		})
	}
}

// A reader is not cut before it had minSend, though others wait.
func TestReaderHasItsTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBook(time.Millisecond)
		var group sync.WaitGroup
		for range maxPages {
			group.Go(func() {
				r := newReader(true)
				time.AfterFunc(minSend-time.Millisecond, func() { close(r.gate) })
				if err := b.read(r, whole); err != nil {
					t.Errorf("a slow reader: %v", err)
				}
			})
			time.Sleep(10 * time.Millisecond)
		}
		if err := b.read(newReader(false), whole); err != nil {
			t.Error(err)
		}
		group.Wait()
		b.empty(t)
	})
}

// Who cannot be served in time is told so, and leaves nothing behind.
func TestReaderGivesUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBook(2 * scrapeTimeout)
		if err := b.read(newReader(false), whole); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("page that takes too long: %v", err)
		}
		time.Sleep(2 * scrapeTimeout)
		b.empty(t)
	})
}

// Choices of metrics and the formats of the client library wait for each other, not the usual scrapes for them.
func TestLanes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBook(time.Second)
		var group sync.WaitGroup
		for i := range maxChoiceRequests {
			group.Go(func() { _ = b.read(newReader(false), pageKey{format: whole.format, names: fmt.Sprint(i)}) })
		}
		group.Go(func() { _ = b.read(newReader(false), pageKey{format: expfmt.NewFormat(expfmt.TypeProtoText)}) })
		synctest.Wait()
		start := time.Now()
		if err := b.read(newReader(false), whole); err != nil || time.Since(start) > b.takes {
			t.Errorf("%v after %s", err, time.Since(start))
		}
		group.Wait()
		time.Sleep(2 * b.takes) // the page that is being rendered; nobody wants the others any more
		b.empty(t)
		if n := b.renderings.Load(); n > 2+int64((scrapeTimeout+b.takes)/b.takes) {
			t.Errorf("%d renderings, more than anybody waited for", n)
		}
	})
}

// A panic while rendering is an answer and a line in the log.
func TestPagePanics(t *testing.T) {
	var log strings.Builder
	p := newPages(func(*page) { panic("ouch") }, slog.New(slog.NewTextHandler(&log, nil)))
	b := &book{pages: p}
	w := newReader(false)
	if err := b.read(w, whole); err != nil || w.Code != http.StatusInternalServerError || !strings.Contains(log.String(), "error=ouch") {
		t.Errorf("%v, status %d, log %s", err, w.Code, log.String())
	}
}

// The same over a network: connections that take nothing are cut by the readers that come after them.
func TestStuckConnectionsAreCut(t *testing.T) {
	body := make([]byte, 16<<20) // more than the buffers of a socket
	s := newPages(func(p *page) {
		p.header, p.status = http.Header{}, http.StatusOK
		p.body.Write(body)
	}, slog.New(slog.DiscardHandler))
	cut := make(chan error, maxPages)
	url := listen(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		p, release, err := s.get(r.Context(), whole, nil)
		if err != nil {
			t.Error(err)
			return
		}
		err = p.send(w)
		release(err == nil)
		if err != nil {
			cut <- err
		}
	}))
	start := time.Now()
	for range maxPages {
		c, err := net.Dial("tcp", strings.TrimPrefix(url, "http://"))
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		fmt.Fprintf(c, "GET / HTTP/1.1\r\nHost: x\r\n\r\n")
		if _, err := io.ReadFull(c, make([]byte, 1)); err != nil { // its page is there
			t.Fatal(err)
		}
		time.Sleep(20 * time.Millisecond)
	}
	resp, err := http.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	n, err := io.Copy(io.Discard, resp.Body)
	if err != nil || n != int64(len(body)) {
		t.Errorf("%d bytes, %v", n, err)
	}
	if waited := time.Since(start); waited < minSend || waited > writeTimeout {
		t.Errorf("served after %s, want soon after %s", waited, minSend)
	}
	select {
	case err := <-cut:
		if !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Error(err)
		}
	case <-time.After(writeTimeout):
		t.Error("nobody was cut")
	}
}
