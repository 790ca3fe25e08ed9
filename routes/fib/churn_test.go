package fib

import (
	"errors"
	"net/netip"
	"testing"
	"time"

	"sitewire/routes"
)

// TestOverrun: a burst of somebody else's changes that does not fit the socket ends in a wake-up, a count and a right view.
func TestOverrun(t *testing.T) {
	r := newRig(t, Options{rcvbuf: 1 << 12})
	other := r.open(Options{Protocol: 12})
	var ops []routes.Op
	for i := range 20_000 {
		a := netip.AddrFrom4([4]byte{10, byte(i >> 8), byte(i), 0})
		ops = append(ops, routes.Op{Kind: routes.Install, Route: routes.Route{Prefix: netip.PrefixFrom(a, 24), Hops: []routes.Hop{dev("tun0")}}})
	}
	r.fib.view.mu.Lock() // a slow reader
	errs := other.Write(t.Context(), ops)
	r.fib.view.mu.Unlock()
	for i, err := range errs {
		if err != nil {
			t.Fatalf("%v: %v", ops[i].Route, err)
		}
	}
	r.changed()
	deadline := time.Now().Add(5 * time.Second)
	for r.fib.Stats().Overruns == 0 {
		if time.Now().After(deadline) {
			t.Fatal("no overrun with a queue of 4 KiB")
		}
		time.Sleep(time.Millisecond)
	}
	// Every one of the 20,000 is known, though most notifications were lost.
	for i, err := range r.fib.Write(t.Context(), ops) {
		if _, ok := errors.AsType[*ConflictError](err); !ok {
			t.Fatalf("%v: want a conflict, got %v", ops[i].Route, err)
		}
	}
	if s := r.fib.Stats(); s.Resyncs == 0 || s.Replaces != 0 {
		t.Errorf("%+v", s)
	}
	r.listed()
	// The same burst of our own is no event at all.
	other.view.with(func(s *state) { clear(s.foreign) })
	overruns := other.Stats().Overruns
	for i := range ops {
		ops[i].Kind = routes.Withdraw
	}
	for _, err := range other.Write(t.Context(), ops) {
		if err != nil {
			t.Fatal(err)
		}
	}
	if other.Stats().Overruns != overruns {
		t.Error("our own writes overran our own queue")
	}
}

// TestListWhileOthersWrite: dumps that are interrupted by somebody else's changes are repeated; a list is never partial.
func TestListWhileOthersWrite(t *testing.T) {
	r := newRig(t, Options{})
	other := r.open(Options{Protocol: 12, Metric: 32})
	many := func(kind routes.OpKind, second byte, n int) (ops []routes.Op) {
		for i := range n {
			a := netip.AddrFrom16([16]byte{0xfd, second, 0, 0, byte(i >> 8), byte(i)})
			ops = append(ops, routes.Op{Kind: kind, Route: routes.Route{Prefix: netip.PrefixFrom(a, 48), Hops: []routes.Hop{dev("tun0")}}})
			b := netip.AddrFrom4([4]byte{10 + second, byte(i >> 8), byte(i), 0})
			ops = append(ops, routes.Op{Kind: kind, Route: routes.Route{Prefix: netip.PrefixFrom(b, 24), Hops: []routes.Hop{dev("tun0")}}})
		}
		return ops
	}
	stable := many(routes.Install, 2, 1000)
	r.write(stable...)
	stop, done := make(chan struct{}), make(chan error)
	go func() {
		in, out := append(many(routes.Install, 1, 100), many(routes.Install, 3, 100)...), append(many(routes.Withdraw, 1, 100), many(routes.Withdraw, 3, 100)...)
		for {
			select {
			case <-stop:
				done <- nil
				return
			default:
				if err := errors.Join(errors.Join(other.Write(t.Context(), in)...), errors.Join(other.Write(t.Context(), out)...)); err != nil {
					done <- err
					return
				}
				time.Sleep(20 * time.Millisecond) // churn that leaves gaps now and then
			}
		}
	}()
	interrupted := 0
	for range 10 {
		list, err := r.fib.List(t.Context())
		if errors.Is(err, errInterrupted) {
			interrupted++
			continue
		}
		if err != nil || len(list) != len(stable) {
			t.Errorf("%d routes, want %d: %v", len(list), len(stable), err)
			break
		}
	}
	close(stop)
	if err := <-done; err != nil {
		t.Error(err)
	}
	if interrupted == 10 {
		t.Error("no list at all got through")
	}
}
