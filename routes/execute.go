package routes

import (
	"context"
	"log/slog"
	"net/netip"
	"time"
)

// failedOp is an operation that was not done, and why.
type failedOp struct {
	op  Op
	err error
}

// sync brings prefixes (sorted, each once) to what is desired. Causes are those of new changes; there may be none.
func (s *Syncer) sync(ctx context.Context, prefixes []netip.Prefix, causes map[netip.Prefix]Cause) {
	start := time.Now()
	ops := PlanPrefixes(s.snapshot, s.ledger, prefixes)
	planned := make(map[netip.Prefix]struct{}, min(len(ops), len(prefixes)))
	for _, op := range ops {
		p := op.Prefix()
		if !p.IsValid() {
			continue // it is about a device
		}
		if _, again := planned[p]; again {
			continue
		}
		planned[p] = struct{}{}
		c := causes[p]
		if c.Start().IsZero() && s.pending.get(p) == nil {
			c.Decided = start
		}
		s.pending.add(p, start, c)
		if !c.Received.IsZero() {
			s.stats.stages[StageDecide].Observe(c.Decided.Sub(c.Received))
		}
		if _, caused := causes[p]; caused {
			s.stats.stages[StageBatch].Observe(start.Sub(c.Decided))
		}
	}
	if len(ops) > 0 {
		s.publish(start)
	}
	failed := s.execute(ctx, ops, s.observeDone)
	s.settle(prefixes, failed)
	s.publish(time.Now())
}

// settle notes which prefixes are as desired now, and when the others are tried again.
func (s *Syncer) settle(prefixes []netip.Prefix, failed []failedOp) {
	now := time.Now()
	worst := make(map[netip.Prefix]failedOp, len(failed))
	switched := true
	for _, f := range failed {
		if f.op.Device != "" {
			s.switchFailed(f)
			switched = false
			continue
		}
		// What was held back is a consequence; show the cause.
		if w, seen := worst[f.op.Prefix()]; !seen || w.err == errHeldBack {
			worst[f.op.Prefix()] = f
		}
	}
	if switched {
		s.switchTries = 0
	}
	for _, p := range prefixes {
		f, bad := worst[p]
		if !bad {
			s.pending.remove(p)
			if s.retries.remove(p) {
				s.ledger.change(p, func(h *edit) { h.failure = nil })
			}
			for _, k := range s.drifted[p] {
				s.stats.repaired[k]++
			}
			delete(s.drifted, p)
			continue
		}
		r := s.retries.again(p, now)
		s.ledger.change(p, func(h *edit) {
			since := now
			if h.failure != nil {
				since = h.failure.Since
			}
			h.failure = &Failure{Op: f.op.String(), Err: f.err, Since: since, Attempts: r.attempts, Next: r.due}
		})
	}
	s.logFailures(worst)
}

// execute runs a plan phase by phase and keeps back what relies on something that failed. done, if not nil, is called
// for each operation that was acknowledged, before the ledger learns of it.
func (s *Syncer) execute(ctx context.Context, ops []Op, done func(Op, time.Time) time.Duration) []failedOp {
	if len(ops) == 0 {
		return nil
	}
	var failed []failedOp
	run := func(ops []Op, stage Stage, write func(context.Context, []Op) []error) {
		if len(ops) == 0 {
			return
		}
		start := time.Now()
		errs := write(ctx, ops)
		at := time.Now()
		s.stats.stages[stage].Observe(at.Sub(start))
		for i, op := range ops {
			if errs[i] != nil {
				s.ledger.Failed(op)
				s.stats.failures[op.Kind]++
				failed = append(failed, failedOp{op, errs[i]})
				continue
			}
			var took time.Duration
			if done != nil {
				took = done(op, at)
			}
			s.ledger.Done(op, at, took)
		}
	}
	divert, rest := phase(ops, Divert)
	allow, rest := phase(rest, Allow)
	install, rest := phase(rest, Install)
	withdraw, rest := phase(rest, Withdraw)
	disallow, restore := phase(rest, Disallow)

	if len(divert) > 0 {
		run(divert, StageFIB, s.switcher.Switch)
	}
	run(allow, StageAllowedIPs, s.tunnels.Write)
	install, held := s.keepBack(install, func(op Op) bool {
		row := s.snapshot.Get(op.Route.Prefix)
		return op.Route.Type == Unreachable || row != nil && s.ledger.MayInstall(row)
	})
	failed = append(failed, held...)
	for i, op := range install {
		if len(op.Route.Backup) > 0 && !s.ledger.mayBackUp(s.snapshot.Get(op.Route.Prefix)) {
			install[i].Route.Backup = nil // until its tunnel has the prefix: the failure is that of an Allow
		}
	}
	// Both in one call: the order inside it is that of the plan.
	run(append(install, withdraw...), StageFIB, s.fib.Write)
	going := make(map[AllowedIP]struct{}, len(disallow))
	for _, op := range disallow {
		going[op.Allowed] = struct{}{}
	}
	disallow, held = s.keepBack(disallow, func(op Op) bool { return s.ledger.MayDisallow(op.Allowed, going) })
	failed = append(failed, held...)
	run(disallow, StageAllowedIPs, s.tunnels.Write)
	// Last: what was to leave the device has left it.
	if len(restore) > 0 {
		run(restore, StageFIB, s.switcher.Switch)
	}
	s.logOps(ctx, ops)
	return failed
}

// phase cuts off the operations of a kind, which come first.
func phase(ops []Op, k OpKind) (first, rest []Op) {
	n := 0
	for n < len(ops) && ops[n].Kind == k {
		n++
	}
	return ops[:n:n], ops[n:]
}

// keepBack splits off the operations that must not run.
func (s *Syncer) keepBack(ops []Op, may func(Op) bool) (run []Op, held []failedOp) {
	for i, op := range ops {
		switch ok := may(op); {
		case ok && held == nil:
		case ok:
			run = append(run, op)
		default:
			if held == nil {
				run = append(run, ops[:i]...)
			}
			held = append(held, failedOp{op, errHeldBack})
		}
	}
	if held == nil {
		return ops, nil
	}
	return run, held
}

// observeDone measures an acknowledged operation and returns how long after its cause it was; 0 if that is unknown or
// the operation is no change of a route.
func (s *Syncer) observeDone(op Op, at time.Time) time.Duration {
	if op.Kind != Install && op.Kind != Withdraw || op.Route.Type == Unreachable {
		return 0
	}
	f, kind := FamilyOf(op.Route.Prefix), Announced
	held := s.ledger.get(op.Route.Prefix)
	switch {
	case op.Kind == Withdraw:
		kind = Withdrawn
	case len(held.hops) > 0:
		kind = Replaced
	}
	s.stats.changes[kind][f]++
	w := s.pending.get(op.Route.Prefix)
	if w == nil {
		return 0
	}
	if kind == Withdrawn {
		s.failovers.withdrawn(op.Route.Prefix, w.cause.Loss)
	} else if row := s.snapshot.Get(op.Route.Prefix); row != nil {
		s.failovers.installed(op.Route.Prefix, w.cause.Loss, row.Ways, at)
	}
	if w.cause.Start().IsZero() {
		return 0
	}
	took := at.Sub(w.cause.Start())
	s.stats.convergence[kind][f].Observe(took)
	return took
}

func (s *Syncer) logOps(ctx context.Context, ops []Op) {
	if !s.log.Enabled(ctx, slog.LevelDebug) {
		return
	}
	for _, op := range ops {
		s.log.Debug("planned", "op", op.String())
	}
}

// logFailures says what failed, once for each new kind of trouble and not for each retry.
func (s *Syncer) logFailures(worst map[netip.Prefix]failedOp) {
	fresh, example := 0, failedOp{}
	for p, f := range worst {
		if r := s.retries.get(p); r != nil && r.attempts == 1 && f.err != errHeldBack {
			if fresh++; fresh == 1 || p.Compare(example.op.Prefix()) < 0 {
				example = f
			}
		}
	}
	if fresh > 0 {
		s.log.Warn("not done, will be tried again", "op", example.op.String(), "error", example.err, "prefixes", fresh)
	}
}
