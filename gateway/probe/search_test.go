package probe

import (
	"bytes"
	"math/rand/v2"
	"strings"
	"testing"
	"time"
)

// path lets packets up to a size through, and loses some of these.
func path(mtu int, loss float64, r *rand.Rand) func(size int) bool {
	return func(size int) bool { return size <= mtu && r.Float64() >= loss }
}

// find runs a search to its end and returns how many packets it took.
func find(t *testing.T, small, top int, through func(int) bool) (mtu, packets int) {
	t.Helper()
	s := newSearch(small, top)
	for {
		if mtu, done := s.found(); done {
			return mtu, packets
		}
		if packets++; packets > 2000 {
			t.Fatalf("no end: %+v", s)
		}
		size := s.size()
		if size < small || size > top {
			t.Fatalf("asks for %d bytes, between %d and %d", size, small, top)
		}
		s.result(through(size))
	}
}

func TestSearch(t *testing.T) {
	const small, top = 56, 1420
	for mtu := small; mtu <= top; mtu++ {
		got, packets := find(t, small, top, path(mtu, 0, rand.New(rand.NewPCG(1, 2))))
		if got != mtu || packets > 130 {
			t.Fatalf("found %d after %d packets, want %d", got, packets, mtu)
		}
	}
	if got, packets := find(t, small, top, path(9000, 0, rand.New(rand.NewPCG(1, 2)))); got != top || packets != 1 {
		t.Errorf("a path without a hole: %d after %d packets", got, packets)
	}
	if got, packets := find(t, small, top, func(int) bool { return false }); got != 0 || packets > 2*tries {
		t.Errorf("a dead path: %d after %d packets", got, packets)
	}
}

// TestSearchOverLoss: a third of all packets is lost, and what is found is right all the same.
func TestSearchOverLoss(t *testing.T) {
	const small, top, runs = 56, 1420, 2000
	wrong, unknown := 0, 0
	r := rand.New(rand.NewPCG(3, 4))
	for range runs {
		mtu := 1200 + r.IntN(top-1200+1)
		switch got, _ := find(t, small, top, path(mtu, 1./3, r)); got {
		case mtu:
		case 0: // it took the path for dead; the next search tells
			unknown++
		default:
			wrong++
		}
	}
	if wrong > runs/100 || unknown > runs/10 {
		t.Errorf("%d of %d wrong, %d without a result", wrong, runs, unknown)
	}
}

// TestPathMTU: the search begins after the tunnel came up, finds a hole, says it once, follows the device's MTU, and
// forgets when the tunnel goes down.
func TestPathMTU(t *testing.T) {
	bubble(t, func(t *testing.T, p *Prober, w *world, log *bytes.Buffer) {
		hole := func(limit int) {
			w.set(func(e Echo) ([]time.Duration, error) {
				if e.Size > limit {
					return nil, nil
				}
				return []time.Duration{20 * time.Millisecond}, nil
			})
		}
		hole(1328)
		nyc := tunnel("nyc")
		nyc.PathMTU = true
		p.Set([]Target{nyc})
		time.Sleep(2 * time.Minute)
		s := stats(t, p, "nyc")
		if s.PathMTU != 1328 {
			t.Fatalf("found %d", s.PathMTU)
		}
		if s.Lost != 0 || s.Sent > 15 {
			t.Errorf("packets of the search count as echoes: %+v", s)
		}
		time.Sleep(time.Hour)
		if n := strings.Count(log.String(), "larger packets do not get through"); n != 1 {
			t.Errorf("said %d times:\n%s", n, log)
		}

		nyc.MTU = 1328 // as the warning asked for
		p.Set([]Target{nyc})
		time.Sleep(time.Minute)
		if got := stats(t, p, "nyc").PathMTU; got != 1328 {
			t.Errorf("found %d with the device's MTU at 1328", got)
		}

		hole(9000)
		nyc.MTU = 1420
		p.Set([]Target{nyc})
		time.Sleep(time.Minute)
		if got := stats(t, p, "nyc").PathMTU; got != 1420 || !strings.Contains(log.String(), "full size") {
			t.Errorf("found %d without a hole:\n%s", got, log)
		}

		nyc.Up = false
		p.Set([]Target{nyc})
		if got := stats(t, p, "nyc").PathMTU; got != 0 {
			t.Errorf("%d while the tunnel is down", got)
		}
		before := len(w.requests())
		time.Sleep(time.Hour)
		for _, e := range w.requests()[before:] {
			if e.Size != 0 {
				t.Fatalf("searches through a tunnel that is down: %+v", e)
			}
		}
		if len(w.requests()) == before {
			t.Error("a tunnel that is down is not probed")
		}
	})
}
