package bfd

import (
	"context"
	"errors"
	"net/netip"
	"reflect"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

var (
	left  = netip.MustParseAddr("fe80::1%wg0")
	right = netip.MustParseAddr("fe80::2%wg0")
)

func TestPacket(t *testing.T) {
	p := packet{
		diag: DetectionTimeExpired, state: Up, poll: true, final: true, independent: true, demand: true, multiplier: 3, mine: 0x01020304,
		yours: 0xfffefdfc, desiredTx: 200 * time.Millisecond, minRx: time.Second, minEcho: time.Microsecond,
	}
	b := p.marshal()
	// Laid out by hand from the figure of RFC 5880 section 4.1.
	want := []byte{0x21, 0xfa, 3, 24, 1, 2, 3, 4, 0xff, 0xfe, 0xfd, 0xfc, 0, 3, 0x0d, 0x40, 0, 0x0f, 0x42, 0x40, 0, 0, 0, 1}
	if !reflect.DeepEqual(b, want) {
		t.Fatalf("marshalled %x, want %x", b, want)
	}
	if got, err := parse(b); err != nil || got != p {
		t.Fatalf("parsed %+v, %v, want %+v", got, err, p)
	}
	for name, spoil := range map[string]func([]byte) []byte{
		"short":                 func(b []byte) []byte { return b[:23] },
		"version":               func(b []byte) []byte { b[0] = 2 << 5; return b },
		"length too small":      func(b []byte) []byte { b[3] = 23; return b },
		"length beyond the end": func(b []byte) []byte { b[3] = 25; return b },
		"multiplier":            func(b []byte) []byte { b[2] = 0; return b },
		"multipoint":            func(b []byte) []byte { b[1] |= flagMultipoint; return b },
		"no sender":             func(b []byte) []byte { clear(b[4:8]); return b },
		"up for nobody":         func(b []byte) []byte { clear(b[8:12]); return b },
	} {
		if _, err := parse(spoil(p.marshal())); !errors.Is(err, errMalformed) {
			t.Errorf("%s: %v, want it refused", name, err)
		}
	}
	b[1] |= flagAuth
	if _, err := parse(b); !errors.Is(err, errAuthenticated) {
		t.Errorf("authenticated: %v", err)
	}
}

func FuzzParse(f *testing.F) {
	f.Add((&packet{state: Up, multiplier: 3, mine: 1, yours: 2}).marshal())
	f.Fuzz(func(t *testing.T, b []byte) {
		p, err := parse(b)
		if err != nil {
			return
		}
		again, err := parse(p.marshal())
		if err != nil || again != p {
			t.Fatalf("%+v became %+v, %v", p, again, err)
		}
	})
}

// end is one of two servers that a wire joins.
type end struct {
	*Server
	mu       sync.Mutex
	failures []Failure
	sent     int
	stop     context.CancelFunc
	done     chan error
}

// wire joins two ends; each direction can be cut.
type wire struct {
	mu   sync.Mutex
	cut  map[*end]bool // what this one sends is lost
	ttl  int
	busy time.Duration // how long a's sender keeps its goroutine
	// behind tells that what a is sent meanwhile comes after that, as if all of its process were held up.
	behind bool
	until  time.Time // of that
	a, b   *end
}

type leg struct {
	w        *wire
	from, to *end
	source   netip.Addr
}

func (l *leg) send(b []byte) error {
	l.w.mu.Lock()
	lost, ttl, busy := l.w.cut[l.from], l.w.ttl, l.w.busy
	if l.from == l.w.a {
		l.w.busy, l.w.until = 0, time.Now().Add(busy)
	}
	var held time.Duration
	if l.to == l.w.a && l.w.behind {
		held = time.Until(l.w.until)
	}
	l.w.mu.Unlock()
	l.from.mu.Lock()
	l.from.sent++
	l.from.mu.Unlock()
	switch {
	case lost:
	case held > 0:
		time.AfterFunc(held+time.Millisecond, func() { l.to.deliver(l.source, ttl, b) })
	default:
		l.to.deliver(l.source, ttl, b)
	}
	if l.from == l.w.a {
		time.Sleep(busy)
	}
	return nil
}

func (l *leg) close() {}

func newWire(t *testing.T, a, b Config) *wire {
	w := &wire{cut: map[*end]bool{}, ttl: 255, a: &end{}, b: &end{}}
	for _, x := range []struct {
		e, to  *end
		config Config
		source netip.Addr
	}{{w.a, w.b, a, left}, {w.b, w.a, b, right}} {
		x.e.Server = New(Options{Failed: func(f Failure) {
			x.e.mu.Lock()
			defer x.e.mu.Unlock()
			x.e.failures = append(x.e.failures, f)
		}})
		x.e.sender = func(Config) sender { return &leg{w, x.e, x.to, x.source} }
		x.e.receiver = func(ctx context.Context) { <-ctx.Done() }
		x.e.Set([]Config{x.config})
	}
	w.start(w.a)
	w.start(w.b)
	t.Cleanup(func() { w.a.stop(); w.b.stop(); <-w.a.done; <-w.b.done })
	return w
}

func (w *wire) start(e *end) {
	ctx, cancel := context.WithCancel(context.Background())
	e.stop, e.done = cancel, make(chan error, 1)
	go func() { e.done <- e.Run(ctx) }()
}

func (w *wire) lose(e *end, on bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.cut[e] = on
}

func (e *end) failed() []Failure {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.failures
}

func config(remote netip.Addr, interval time.Duration) Config {
	return Config{Remote: remote, Interval: interval, Multiplier: 3}
}

const fast = 200 * time.Millisecond

func up(t *testing.T, w *wire) {
	t.Helper()
	time.Sleep(5 * time.Second)
	synctest.Wait()
	for _, x := range []struct {
		e *end
		a netip.Addr
	}{{w.a, right}, {w.b, left}} {
		if s := x.e.Status(x.a); s.State != Up || s.RemoteState != Up {
			t.Fatalf("session with %v: %+v, want it up", x.a, s)
		}
	}
}

// A session comes up, settles on the slower end's pace, and both ends see a cut within a detection time, once.
func TestCut(t *testing.T) {
	for name, slower := range map[string]time.Duration{"equal": fast, "one is slower": 500 * time.Millisecond} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWire(t, config(right, fast), config(left, slower))
				up(t, w)
				detection := 3 * slower
				if got := w.a.Status(right).DetectionTime; got != detection {
					t.Errorf("detection time %v, want %v", got, detection)
				}
				w.a.mu.Lock()
				before := w.a.sent
				w.a.mu.Unlock()
				time.Sleep(10 * time.Second)
				w.a.mu.Lock()
				n := w.a.sent - before
				w.a.mu.Unlock()
				if least, most := int(10*time.Second/slower), int(10*time.Second*4/3/slower)+2; n < least || n > most {
					t.Errorf("%d packets in 10 s, want %d to %d: the pace of the slower end, with jitter", n, least, most)
				}
				w.lose(w.a, true)
				w.lose(w.b, true)
				time.Sleep(detection + time.Millisecond)
				synctest.Wait()
				for _, e := range []*end{w.a, w.b} {
					if f := e.failed(); len(f) != 1 || f[0].Diagnostic != DetectionTimeExpired {
						t.Errorf("failures %v within %v, want one", f, detection)
					}
				}
				time.Sleep(time.Minute)
				w.lose(w.a, false)
				w.lose(w.b, false)
				up(t, w)
				if n := len(w.a.failed()) + len(w.b.failed()); n != 2 {
					t.Errorf("%d failures after the repair, want the 2 of before", n)
				}
				if n := w.a.Status(right).Downs[DetectionTimeExpired]; n != 1 {
					t.Errorf("%d downs counted, want 1", n)
				}
			})
		})
	}
}

// Packets that came in while the process had no time to look are a sign of life, however late it is.
func TestBusy(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := config(right, fast)
		a.Multiplier = 6 // the other end has patience
		w := newWire(t, a, config(left, fast))
		up(t, w)
		for range 30 {
			w.mu.Lock()
			w.busy = 700 * time.Millisecond
			w.mu.Unlock()
			time.Sleep(2 * time.Second)
			synctest.Wait()
		}
		if n := len(w.a.failed()) + len(w.b.failed()); n != 0 {
			t.Errorf("%d failures", n)
		}
		w.lose(w.b, true)
		time.Sleep(time.Second)
		synctest.Wait()
		if n := len(w.a.failed()); n != 1 {
			t.Errorf("%d failures after a cut", n)
		}
	})
}

// A process that was held up does not take that for the neighbour's silence: what held up its timers held up the packets too. A cut
// is seen at the latest a detection time after the process goes on.
func TestHeldUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const heldUp = 700 * time.Millisecond
		a := config(right, fast)
		a.Multiplier = 6
		w := newWire(t, a, config(left, fast))
		up(t, w)
		holdUp := func() {
			w.mu.Lock()
			w.busy, w.behind = heldUp, true
			w.mu.Unlock()
		}
		for range 30 {
			holdUp()
			time.Sleep(2 * time.Second)
			synctest.Wait()
		}
		if n := len(w.a.failed()) + len(w.b.failed()); n != 0 {
			t.Errorf("%d failures", n)
		}
		w.lose(w.b, true)
		holdUp()
		time.Sleep(fast + heldUp + 3*fast + time.Millisecond) // it begins with the next packet
		synctest.Wait()
		if n := len(w.a.failed()); n != 1 {
			t.Errorf("%d failures after a cut", n)
		}
	})
}

// A cut in one direction fails both ends: one hears nothing, and tells the other.
func TestOneWay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWire(t, config(right, fast), config(left, fast))
		up(t, w)
		w.lose(w.a, true)
		time.Sleep(3*fast + time.Millisecond)
		synctest.Wait()
		if f := w.b.failed(); len(f) != 1 || f[0].Diagnostic != DetectionTimeExpired {
			t.Errorf("who hears nothing: %v", f)
		}
		if f := w.a.failed(); len(f) != 1 || f[0].Diagnostic != NeighborSignaledDown {
			t.Errorf("who is heard no more: %v", f)
		}
	})
}

// Who stops says so, and that is no failure; when it comes back the session does, and counters go on.
func TestAdminDown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWire(t, config(right, fast), config(left, fast))
		up(t, w)
		before := w.b.Status(left)
		w.a.Set(nil)
		time.Sleep(time.Minute)
		synctest.Wait()
		s := w.b.Status(left)
		if f := w.b.failed(); len(f) != 0 || s.State != Down || s.Downs[AdministrativelyDown] != 1 {
			t.Errorf("failures %v, status %+v, want it down without a failure", f, s)
		}
		if gone := w.a.Status(right); gone.State != AdminDown || gone.Received == 0 {
			t.Errorf("%+v, want a session that is not run, and what it counted", gone)
		}
		w.a.Set([]Config{config(right, fast)})
		up(t, w)
		if now := w.b.Status(left); now.Received <= before.Received || now.Transmitted <= before.Transmitted {
			t.Errorf("%+v, was %+v: counters go back", now, before)
		}
		if now := w.a.Status(right); now.Received <= before.Received {
			t.Errorf("%+v: the counters of the session before are lost", now)
		}
	})
}

// A neighbour that begins a new session without a word has another discriminator. That is a failure only if the new one
// does not come up.
func TestRestart(t *testing.T) {
	for name, lost := range map[string]bool{"comes up": false, "does not": true} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWire(t, config(right, fast), config(left, fast))
				up(t, w)
				w.lose(w.a, true)
				w.a.stop()
				<-w.a.done
				w.a.Set(nil)
				w.a.Set([]Config{config(right, fast)})
				w.lose(w.a, false)
				w.lose(w.b, lost)
				w.start(w.a)
				if !lost {
					up(t, w)
					time.Sleep(time.Minute)
				} else {
					time.Sleep(comeback + slow)
				}
				synctest.Wait()
				want := map[bool]int{true: 1}[lost]
				if f := w.b.failed(); len(f) != want {
					t.Errorf("failures %v, want %d", f, want)
				}
				if n := w.b.Status(left).Downs[NeighborSignaledDown]; n != 1 {
					t.Errorf("%d downs counted, want 1", n)
				}
			})
		})
	}
}

// Nobody at the other end: no failure, and one packet a second at most.
func TestNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWire(t, config(right, fast), config(left, fast))
		w.lose(w.b, true)
		w.lose(w.a, true)
		time.Sleep(time.Minute)
		synctest.Wait()
		if f := w.a.failed(); len(f) != 0 {
			t.Errorf("failures %v of a session that was never up", f)
		}
		w.a.mu.Lock()
		defer w.a.mu.Unlock()
		if w.a.sent < 59 || w.a.sent > 81 {
			t.Errorf("%d packets in a minute, want one a second, with jitter", w.a.sent)
		}
	})
}

// What did not come over one hop, or from somebody we know, does nothing and is counted.
func TestDropped(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWire(t, config(right, fast), config(left, fast))
		up(t, w)
		down := (&packet{state: Down, multiplier: 3, mine: 99}).marshal()
		auth := (&packet{state: Down, multiplier: 3, mine: 99}).marshal()
		auth[1] |= flagAuth
		stray := (&packet{state: Down, multiplier: 3, mine: 99, yours: w.a.sessions[right].machine.mine + 1}).marshal()
		w.a.deliver(right, 254, down)
		w.a.deliver(netip.MustParseAddr("fe80::2%wg1"), 255, down)
		w.a.deliver(right, 255, down[:20])
		w.a.deliver(right, 255, auth)
		w.a.deliver(right, 255, stray)
		synctest.Wait()
		if s := w.a.Status(right); s.State != Up {
			t.Errorf("state %v, want Up", s.State)
		}
		got := w.a.Dropped()
		for _, reason := range []string{dropTTL, dropUnknown, dropInvalid, dropAuthentication, dropDiscriminator} {
			if got[reason] != 1 {
				t.Errorf("dropped %v: want 1 for %s", got, reason)
			}
		}
	})
}

func TestValidate(t *testing.T) {
	good := config(right, fast)
	if err := good.Validate(); err != nil {
		t.Error(err)
	}
	for name, spoil := range map[string]func(*Config){
		"interval":   func(c *Config) { c.Interval = 0 },
		"multiplier": func(c *Config) { c.Multiplier = 0 },
		"family":     func(c *Config) { c.Local = netip.MustParseAddr("192.0.2.1") },
	} {
		c := good
		spoil(&c)
		if c.Validate() == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}
