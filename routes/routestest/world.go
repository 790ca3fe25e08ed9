// Package routestest has what tests of routes need: a fake kernel with fake devices, a slow oracle, a check of what
// packets would do, and the conformance suite of FIBs.
//
// Job: stand in for the kernel and the WireGuard devices, by their rules, and judge what a syncer does to them.
// Owner: each World guards itself with one mutex.
// Inputs: operations of a syncer; faults, losses and foreign writes from the test.
// Outputs: the state as `ip route` and `wg` text, a journal, and verdicts.
// Invariants: an operation that fails changes nothing unless the test says so; one owner for each prefix of a device;
// routes of other protocols are never touched.
package routestest

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"sync"

	"sitewire/routes"
)

// Errors of the fake kernel, in its own words.
var (
	ErrNoDevice = errors.New("no such device")
	ErrCrashed  = errors.New("the process is no more")
	ErrInjected = errors.New("injected fault")
)

// World is a fake kernel with fake WireGuard devices. The zero value is not usable; see NewWorld.
type World struct {
	mu        sync.Mutex
	fib       map[rowKey]routes.Route
	devices   map[string]map[string]bool // WireGuard devices and their peers
	links     map[string]bool            // other links
	connected []routes.Route
	allowed   map[place]string
	diverted  map[string]bool
	changed   chan struct{}

	journal []string
	fault   func(routes.Op) Fault
	after   func(routes.Op)
	left    int // operations until the crash; negative: none
}

type rowKey struct {
	prefix netip.Prefix
	typ    routes.RouteType
}

type place struct {
	device string
	prefix netip.Prefix
}

// Fault is what happens to an operation.
type Fault struct {
	Err error // nil: nothing
	// Done says that the operation took effect all the same, as when the acknowledgement is lost.
	Done bool
}

// NewWorld returns a world with WireGuard devices and their peers, and LAN links with the network that is on each.
func NewWorld(devices map[string][]string, lan map[string]netip.Prefix) *World {
	w := &World{
		fib:     make(map[rowKey]routes.Route),
		devices: make(map[string]map[string]bool),
		links:   make(map[string]bool),
		allowed: make(map[place]string),
		changed: make(chan struct{}, 1),
		left:    -1,

		diverted: make(map[string]bool),
	}
	for d, peers := range devices {
		w.AddDevice(d, peers...)
	}
	for l, p := range lan {
		w.links[l] = true
		w.connected = append(w.connected, routes.Route{Prefix: p.Masked(), Hops: []routes.Hop{{Device: l}}})
	}
	slices.SortFunc(w.connected, func(a, b routes.Route) int { return a.Prefix.Compare(b.Prefix) })
	return w
}

// AddDevice adds a WireGuard device, or peers to one.
func (w *World) AddDevice(name string, peers ...string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.devices[name] == nil {
		w.devices[name] = make(map[string]bool)
	}
	for _, p := range peers {
		w.devices[name][p] = true
	}
}

// FIB is the world's kernel, seen by one program.
func (w *World) FIB() routes.FIB { return fib{w} }

// Tunnels are the world's WireGuard devices.
func (w *World) Tunnels() routes.Tunnels { return tunnels{w} }

// OnFault asks f before each operation.
func (w *World) OnFault(f func(routes.Op) Fault) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.fault = f
}

// After calls f after each operation that took effect. f may not call the World's methods that say so.
func (w *World) After(f func(routes.Op)) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.after = f
}

// CrashAfter lets n more operations take effect and none after that. Negative takes the crash back: a new process.
func (w *World) CrashAfter(n int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.left = n
}

// Journal returns the operations that took effect since the last call, one line each.
func (w *World) Journal() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	j := w.journal
	w.journal = nil
	return j
}

func (w *World) run(ctx context.Context, ops []routes.Op, apply func(routes.Op) error) []error {
	w.mu.Lock()
	defer w.mu.Unlock()
	errs := make([]error, len(ops))
	for i, op := range ops {
		errs[i] = w.one(ctx, op, apply)
	}
	return errs
}

func (w *World) one(ctx context.Context, op routes.Op, apply func(routes.Op) error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if w.left == 0 {
		return ErrCrashed
	}
	var f Fault
	if w.fault != nil {
		f = w.fault(op)
	}
	if f.Err != nil && !f.Done {
		return f.Err
	}
	if err := apply(op); err != nil {
		return err
	}
	if w.left > 0 {
		w.left--
	}
	w.journal = append(w.journal, op.String())
	if w.after != nil {
		w.after(op)
	}
	return f.Err
}

type tunnels struct{ w *World }

func (t tunnels) Write(ctx context.Context, ops []routes.Op) []error {
	return t.w.run(ctx, ops, func(op routes.Op) error {
		a := op.Allowed
		at := place{a.Device, a.Prefix}
		peers := t.w.devices[a.Device]
		switch {
		case op.Kind != routes.Allow && op.Kind != routes.Disallow:
			return fmt.Errorf("not for devices: %s", op)
		case op.Kind == routes.Disallow:
			if t.w.allowed[at] == a.Peer {
				delete(t.w.allowed, at)
			}
		case peers == nil:
			return fmt.Errorf("%s: %w", a.Device, ErrNoDevice)
		case !peers[a.Peer]:
			return fmt.Errorf("%s: no peer %s", a.Device, a.Peer)
		default:
			t.w.allowed[at] = a.Peer
		}
		return nil
	})
}

func (t tunnels) List(ctx context.Context) ([]routes.AllowedIP, error) {
	t.w.mu.Lock()
	defer t.w.mu.Unlock()
	return t.w.allowedIPs(), ctx.Err()
}

type fib struct{ w *World }

func (f fib) Write(ctx context.Context, ops []routes.Op) []error {
	return f.w.run(ctx, ops, func(op routes.Op) error {
		r := op.Route
		switch op.Kind {
		case routes.Withdraw:
			delete(f.w.fib, rowKey{r.Prefix, r.Type})
			return nil
		case routes.Install:
		default:
			return fmt.Errorf("not for the FIB: %s", op)
		}
		if r.Type == routes.Unicast && len(r.Hops) == 0 {
			return errors.New("a route without hops")
		}
		for _, h := range slices.Concat(r.Hops, r.Backup) {
			if f.w.devices[h.Device] == nil && !f.w.links[h.Device] {
				return fmt.Errorf("%s: %w", h.Device, ErrNoDevice)
			}
		}
		r.Hops, r.Backup = slices.Clone(r.Hops), slices.Clone(r.Backup)
		f.w.fib[rowKey{r.Prefix, r.Type}] = r
		return nil
	})
}

func (f fib) List(ctx context.Context) ([]routes.Route, error) {
	f.w.mu.Lock()
	defer f.w.mu.Unlock()
	return f.w.rows(), ctx.Err()
}

func (f fib) Connected(ctx context.Context) ([]routes.Route, error) {
	f.w.mu.Lock()
	defer f.w.mu.Unlock()
	return slices.Clone(f.w.connected), ctx.Err()
}

func (f fib) Changed() <-chan struct{} { return f.w.changed }

// Switcher diverts the world's devices.
func (w *World) Switcher() routes.Switcher { return switcher{w} }

type switcher struct{ w *World }

func (s switcher) Switch(ctx context.Context, ops []routes.Op) []error {
	return s.w.run(ctx, ops, func(op routes.Op) error {
		switch op.Kind {
		case routes.Divert:
			s.w.diverted[op.Device] = true
		case routes.Restore:
			delete(s.w.diverted, op.Device)
		default:
			return fmt.Errorf("not for a switcher: %s", op)
		}
		return nil
	})
}

func (switcher) Tidy(ctx context.Context) error { return ctx.Err() }

// hops are where a route leads at this moment.
func (w *World) hops(r routes.Route) []routes.Hop {
	for _, hops := range [][]routes.Hop{r.Hops, r.Backup} {
		live := slices.DeleteFunc(slices.Clone(hops), func(h routes.Hop) bool { return w.diverted[h.Device] })
		if len(live) > 0 {
			return live
		}
	}
	return r.Hops
}
