package probe

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// world is what the fake sockets lead to. Its behave function says what happens to a request: the delays of its answers,
// and the error of sending.
type world struct {
	mu     sync.Mutex
	behave func(Echo) ([]time.Duration, error)
	sent   []Echo
	at     []time.Time
	opened int
	refuse error
}

type fakeWire struct {
	w       *world
	replies chan Reply
	closed  chan struct{}
	once    sync.Once
}

func (w *world) open(bool) (Wire, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.refuse != nil {
		return nil, w.refuse
	}
	w.opened++
	return &fakeWire{w: w, replies: make(chan Reply, 1024), closed: make(chan struct{})}, nil
}

func (f *fakeWire) Send(e Echo) error {
	f.w.mu.Lock()
	defer f.w.mu.Unlock()
	f.w.sent, f.w.at = append(f.w.sent, e), append(f.w.at, time.Now())
	delays, err := f.w.behave(e)
	for _, d := range delays {
		time.AfterFunc(d, func() { f.replies <- Reply{From: e.Remote, Token: e.Token} })
	}
	return err
}

func (f *fakeWire) Receive() (Reply, error) {
	select {
	case r := <-f.replies:
		return r, nil
	case <-f.closed:
		return Reply{}, errors.New("closed")
	}
}

func (f *fakeWire) Close() error { f.once.Do(func() { close(f.closed) }); return nil }

// requests returns what was sent so far.
func (w *world) requests() []Echo {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.sent)
}

func (w *world) set(behave func(Echo) ([]time.Duration, error)) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.behave = behave
}

func answerAfter(d time.Duration) func(Echo) ([]time.Duration, error) {
	return func(Echo) ([]time.Duration, error) { return []time.Duration{d}, nil }
}

func silence(Echo) ([]time.Duration, error) { return nil, nil }

func tunnel(peer string) Target {
	return Target{
		Peer: peer, Device: "wg-" + peer, Local: netip.MustParseAddr("fe80::1"), Remote: netip.MustParseAddr("fe80::2"),
		Interval: 10 * time.Second, Timeout: 3 * time.Second, Met: true, Up: true, MTU: 1420,
	}
}

// bubble runs a prober over the fake world in a synctest bubble.
func bubble(t *testing.T, f func(t *testing.T, p *Prober, w *world, log *bytes.Buffer)) {
	synctest.Test(t, func(t *testing.T) {
		w := &world{behave: answerAfter(20 * time.Millisecond)}
		var log bytes.Buffer // read only while the bubble waits
		p := New(Options{Open: w.open, Log: slog.New(slog.NewTextHandler(&log, nil))})
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error)
		go func() { ended <- p.Run(ctx) }()
		f(t, p, w, &log)
		cancel()
		if err := <-ended; !errors.Is(err, context.Canceled) {
			t.Errorf("Run returned %v", err)
		}
	})
}

func stats(t *testing.T, p *Prober, peer string) *Stats {
	t.Helper()
	synctest.Wait()
	all := p.Snapshot()
	i := slices.IndexFunc(all, func(s *Stats) bool { return s.Peer == peer })
	if i < 0 {
		t.Fatalf("no statistics of %s among %d", peer, len(all))
	}
	return all[i]
}

func TestAnswers(t *testing.T) {
	bubble(t, func(t *testing.T, p *Prober, w *world, _ *bytes.Buffer) {
		p.Set([]Target{tunnel("nyc"), {Peer: "new", Device: "wg-new"}})
		if s := stats(t, p, "new"); s.Sent != 0 || s.Recent != (Recent{}) || sum(s.RTT.Counts[:]) != 0 {
			t.Errorf("a peer that is not probed: %+v", s)
		}
		time.Sleep(10 * time.Minute)
		s := stats(t, p, "nyc")
		if s.Sent < 54 || s.Sent > 68 || s.Lost != 0 {
			t.Errorf("%d sent, %d lost in ten minutes at ten seconds", s.Sent, s.Lost)
		}
		if want := (Recent{Echoes: int(min(s.Sent, RecentEchoes)), Last: 20 * time.Millisecond, Min: 20 * time.Millisecond, Mean: 20 * time.Millisecond, Max: 20 * time.Millisecond}); s.Recent != want {
			t.Errorf("recent %+v, want %+v", s.Recent, want)
		}
		if got := s.RTT.Counts[5]; got != s.Sent { // 10 ms to 25 ms
			t.Errorf("%d in the bucket of 20 ms, want %d: %v", got, s.Sent, s.RTT)
		}
		if want := 0.02 * float64(s.Sent); s.RTT.Sum < want*.999 || s.RTT.Sum > want*1.001 {
			t.Errorf("sum %g, want %g", s.RTT.Sum, want)
		}
		gaps := map[time.Duration]bool{}
		for i := range w.at[2:] { // the first gap spreads peers
			gap := w.at[i+2].Sub(w.at[i+1])
			gaps[gap] = true
			if gap < 9*time.Second || gap > 11*time.Second {
				t.Errorf("gap %d is %v", i, gap)
			}
		}
		if len(gaps) < 10 {
			t.Errorf("%d different gaps: no jitter", len(gaps))
		}
		for i, e := range w.requests() {
			if e.Seq != uint16(i+1) || e.Device != "wg-nyc" || e.Size != 0 {
				t.Fatalf("request %d: %+v", i, e)
			}
		}
	})
}

// TestLosses: silence, answers after the timeout, copies, and packets that cannot be sent.
func TestLosses(t *testing.T) {
	refused := errors.New("operation not permitted")
	for name, c := range map[string]struct {
		behave func(Echo) ([]time.Duration, error)
		lost   bool
		err    string
	}{
		"silence": {silence, true, ""},
		"late":    {answerAfter(3*time.Second + time.Millisecond), true, ""},
		"in time": {answerAfter(3*time.Second - time.Millisecond), false, ""},
		"copies": {func(Echo) ([]time.Duration, error) {
			return []time.Duration{time.Millisecond, time.Millisecond, time.Second}, nil
		}, false, ""},
		"refused": {func(Echo) ([]time.Duration, error) { return nil, refused }, true, refused.Error()},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, p *Prober, w *world, _ *bytes.Buffer) {
				w.set(c.behave)
				p.Set([]Target{tunnel("nyc")})
				time.Sleep(10 * time.Minute)
				w.set(answerAfter(time.Millisecond)) // the outcome of all of the above is known
				time.Sleep(5 * time.Second)
				s := stats(t, p, "nyc")
				want := uint64(0)
				if c.lost {
					want = s.Sent
				}
				if s.Sent-s.Lost > 1 && c.lost || !c.lost && s.Lost != want || s.Sent < 54 || s.Sent > 68 {
					t.Errorf("%d sent, %d lost", s.Sent, s.Lost)
				}
				if s.Error != c.err && s.Lost == s.Sent {
					t.Errorf("error %q, want %q", s.Error, c.err)
				}
				fine := s.RTT.Fine.Least
				for _, n := range s.RTT.Fine.All() {
					fine += n
				}
				if got := sum(s.RTT.Counts[:]); got != s.Sent-s.Lost || got != fine {
					t.Errorf("%d answers in the histogram, %d sent and %d lost", got, s.Sent, s.Lost)
				}
			})
		})
	}
}

func sum(counts []uint64) (n uint64) {
	for _, c := range counts {
		n += c
	}
	return n
}

// TestStrangers: an answer counts only with the token of a request and from the address that was asked.
func TestStrangers(t *testing.T) {
	bubble(t, func(t *testing.T, p *Prober, w *world, _ *bytes.Buffer) {
		w.set(silence)
		p.Set([]Target{tunnel("nyc")})
		for range 20 {
			before := len(w.requests())
			for len(w.requests()) == before {
				time.Sleep(100 * time.Millisecond)
			}
			e := w.requests()[before]
			p.heard <- heard{Reply{From: e.Remote, Token: e.Token + 1}, time.Now()}
			p.heard <- heard{Reply{From: netip.MustParseAddr("fe80::3"), Token: e.Token}, time.Now()}
		}
		time.Sleep(5 * time.Second)
		if s := stats(t, p, "nyc"); s.Lost != s.Sent || s.Sent < 20 {
			t.Errorf("%d sent, %d lost", s.Sent, s.Lost)
		}
	})
}

// TestLossRatio: every fifth request is lost.
func TestLossRatio(t *testing.T) {
	bubble(t, func(t *testing.T, p *Prober, w *world, _ *bytes.Buffer) {
		n := 0
		w.set(func(Echo) ([]time.Duration, error) {
			if n++; n%5 == 0 {
				return nil, nil
			}
			return []time.Duration{time.Millisecond}, nil
		})
		p.Set([]Target{tunnel("nyc")})
		time.Sleep(time.Hour)
		s := stats(t, p, "nyc")
		if got := s.Recent.Loss(); got != 0.2 {
			t.Errorf("loss %g of the last %d", got, s.Recent.Echoes)
		}
		if s.Lost != s.Sent/5 {
			t.Errorf("%d of %d lost", s.Lost, s.Sent)
		}
	})
}

// TestChanges: counters of a peer go on while it is configured, whatever changes about it; other peers are not touched.
func TestChanges(t *testing.T) {
	bubble(t, func(t *testing.T, p *Prober, w *world, _ *bytes.Buffer) {
		nyc, osl := tunnel("nyc"), tunnel("osl")
		p.Set([]Target{nyc, osl})
		time.Sleep(time.Minute)
		first := *stats(t, p, "nyc")

		nyc.Remote = netip.MustParseAddr("fe80::9")
		p.Set([]Target{osl, nyc})
		if s := stats(t, p, "nyc"); s.Sent != first.Sent || s.Recent.Echoes != 0 {
			t.Errorf("another address: %+v, before %+v", s, first)
		}
		time.Sleep(time.Minute)
		if s := stats(t, p, "nyc"); s.Sent <= first.Sent || s.Lost != 0 {
			t.Errorf("another address: %+v, before %+v", s, first)
		}

		nyc.Interval = 0
		p.Set([]Target{osl, nyc})
		off := *stats(t, p, "nyc")
		time.Sleep(time.Minute)
		if s := stats(t, p, "nyc"); s.Sent != off.Sent || s.Lost != off.Lost {
			t.Errorf("off: %+v, then %+v", off, s)
		}

		p.Set([]Target{osl})
		time.Sleep(time.Minute)
		if all := p.Snapshot(); len(all) != 1 || all[0].Peer != "osl" || all[0].Sent < 20 {
			t.Errorf("%d peers left: %+v", len(all), all[0])
		}
		p.Set(nil)
		synctest.Wait()
		if p.Snapshot() != nil {
			t.Errorf("statistics of nobody: %v", p.Snapshot())
		}
		if n := len(p.flights); n != 0 {
			t.Errorf("%d requests are still waited for", n)
		}
	})
}

// TestSpread: many peers are not probed in bursts, and all of them are.
func TestSpread(t *testing.T) {
	bubble(t, func(t *testing.T, p *Prober, w *world, _ *bytes.Buffer) {
		const peers = 1000
		targets := make([]Target, peers)
		for i := range targets {
			targets[i] = tunnel(fmt.Sprintf("p%03d", i))
		}
		p.Set(targets)
		time.Sleep(5 * time.Minute)
		synctest.Wait()
		perSecond := map[int64]int{}
		for _, at := range w.at {
			perSecond[at.Unix()]++
		}
		for second, n := range perSecond {
			if at := time.Unix(second, 0); n > 2*peers/10 && at.Sub(w.at[0]) > time.Minute {
				t.Errorf("%d requests in second %v", n, at)
			}
		}
		for _, s := range p.Snapshot() {
			if s.Sent < 26 || s.Lost > 0 {
				t.Fatalf("%+v", s)
			}
		}
		if w.opened != 1 {
			t.Errorf("%d sockets", w.opened)
		}
	})
}

// TestNoSocket: said once, and nothing counts; it may heal.
func TestNoSocket(t *testing.T) {
	bubble(t, func(t *testing.T, p *Prober, w *world, log *bytes.Buffer) {
		w.refuse = &OpenError{V6: true, Err: errors.New("operation not permitted")}
		target := tunnel("nyc")
		target.PathMTU = true
		p.Set([]Target{target})
		time.Sleep(time.Hour)
		s := stats(t, p, "nyc")
		if s.Sent != 0 || s.Lost != 0 || s.PathMTU != 0 {
			t.Errorf("%+v", s)
		}
		if _, ok := errors.AsType[*OpenError](p.Trouble()); !ok {
			t.Errorf("trouble is %v", p.Trouble())
		}
		if n := strings.Count(log.String(), "not probed"); n != 1 || !strings.Contains(log.String(), "CAP_NET_RAW") {
			t.Errorf("said %d times:\n%s", n, log)
		}
		w.mu.Lock()
		w.refuse = nil
		w.mu.Unlock()
		time.Sleep(15 * time.Minute)
		if s := stats(t, p, "nyc"); s.Sent == 0 || p.Trouble() != nil || s.PathMTU != 1420 {
			t.Errorf("%+v, trouble %v", s, p.Trouble())
		}
	})
}
