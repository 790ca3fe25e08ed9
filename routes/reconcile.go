package routes

import (
	"cmp"
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"
)

// Trigger of a comparison with the kernel and the devices.
type Trigger uint8

// Triggers; the names are those of the metrics.
const (
	Periodic Trigger = iota
	OnKernel         // FIB.Changed: routes only
	OnEvent          // a new policy
	Triggers         // their number
)

func (t Trigger) String() string {
	switch t {
	case Periodic:
		return "periodic"
	case OnKernel:
		return "netlink"
	case OnEvent:
		return "event"
	}
	return "unknown"
}

// reconcileRest keeps the share of time that goes into reading the kernel on its notifications below a fifth, and below a
// twentieth otherwise and while a table comes in: then the notifications are mostly about our own writes.
const (
	reconcileRest = 4
	reconcileIdle = 19
	// flood is how many prefixes in a batch are a table that comes in.
	flood = 1000
)

// driftLines is how many differences are logged one by one.
const driftLines = 10

func (s *Syncer) scheduleReconcile() {
	every := s.policy().ReconcileEvery
	if every <= 0 {
		every = DefaultReconcileEvery
	}
	s.reconcileDue = time.Now().Add(max(every, min(reconcileIdle*s.reconcileTook, 5*time.Minute)))
}

// observe reads the kernel's routes and networks, and the allowed-IPs if all is set.
func (s *Syncer) observe(ctx context.Context, all bool) (*Observed, []Route, error) {
	nets, err := s.fib.Connected(ctx)
	if err != nil {
		return nil, nil, fmt.Errorf("connected networks: %w", err)
	}
	list, err := s.fib.List(ctx)
	if err != nil {
		return nil, nil, fmt.Errorf("kernel routes: %w", err)
	}
	var allowed []AllowedIP
	if all {
		if allowed, err = s.tunnels.List(ctx); err != nil {
			return nil, nil, fmt.Errorf("allowed-IPs: %w", err)
		}
		if allowed == nil {
			allowed = []AllowedIP{}
		}
	}
	return NewObserved(list, allowed), nets, nil
}

func (s *Syncer) reconcileLogged(ctx context.Context, t Trigger) {
	if err := s.reconcile(ctx, t); err != nil && ctx.Err() == nil {
		s.log.Warn("cannot compare with the kernel", "trigger", t.String(), "error", err)
	}
}

// reconcile compares with what is there and repairs what differs.
func (s *Syncer) reconcile(ctx context.Context, t Trigger) error {
	start := time.Now()
	causes := make(map[netip.Prefix]Cause)
	dirty, err := s.compare(ctx, t, causes)
	if err != nil {
		s.publish(time.Now())
		return err
	}
	s.sync(ctx, s.toDo(dirty, causes))
	s.reconciled(start)
	return nil
}

// compare corrects the ledger by what is there, and returns the prefixes to plan again. It adds to causes.
func (s *Syncer) compare(ctx context.Context, t Trigger, causes map[netip.Prefix]Cause) ([]netip.Prefix, error) {
	s.fibDue = time.Time{}
	s.stats.runs[t]++
	o, nets, err := s.observe(ctx, t != OnKernel)
	if err != nil {
		s.stats.runFailures[t]++
		s.fibDue = time.Now().Add(time.Second)
		return nil, err
	}
	noticed := s.fibSeen
	if s.fibSeen = (time.Time{}); noticed.IsZero() {
		noticed = time.Now()
	}
	changed := s.table.setConnected(nets, noticed)
	s.lost(changed.Losses)
	s.snapshot = changed.Snapshot
	drift, dirty, foreign := s.ledger.Observe(o, s.snapshot)
	s.noteDrift(drift)
	dirty = merge(dirty, changed.Changed())
	if o.allowed != nil {
		s.noteForeign(foreign)
		around := s.table.setForeign(s.foreign)
		s.snapshot, dirty = around.Snapshot, merge(dirty, around.Changed())
	}
	changed.causes(causes)
	return dirty, nil
}

// reconciled notes that a comparison and its repairs are over.
func (s *Syncer) reconciled(start time.Time) {
	end := time.Now()
	s.stats.reconcile.Observe(end.Sub(start))
	s.stats.reconciled = end
	s.reconcileTook = end.Sub(start)
	rest := reconcileRest * s.reconcileTook
	if start.Sub(s.flooded) < time.Second {
		rest = reconcileIdle * s.reconcileTook
	}
	s.fibQuiet = end.Add(rest)
	s.publish(end)
}

func (s *Syncer) noteDrift(drift []Drift) {
	for i, d := range drift {
		s.stats.detected[d.Kind]++
		s.drifted[d.Prefix] = append(s.drifted[d.Prefix], d.Kind)
		if i < driftLines {
			s.log.Warn("drift", "what", d.String())
		}
	}
	if n := len(drift) - driftLines; n > 0 {
		s.log.Warn("more drift", "count", n)
	}
}

// noteForeign reports allowed-IPs that are not ours. They stay; each is counted once.
func (s *Syncer) noteForeign(list []AllowedIP) {
	slices.SortFunc(list, compareAllowed)
	logged := 0
	for _, a := range list {
		if _, known := slices.BinarySearchFunc(s.foreign, a, compareAllowed); known {
			continue
		}
		s.stats.detected[AllowedIPExtra]++
		if logged++; logged <= driftLines {
			s.log.Warn("drift", "what", Drift{AllowedIPExtra, a.Prefix, a}.String(), "note", "not ours, left alone")
		}
	}
	s.foreign = list
}

func compareAllowed(a, b AllowedIP) int {
	return cmp.Or(a.Prefix.Compare(b.Prefix), strings.Compare(a.Device, b.Device), strings.Compare(a.Peer, b.Peer))
}
