package routes

import (
	"context"
	"log/slog"
	"net/netip"
	"slices"
	"time"
)

// failedOp is an operation that was not done, and why.
type failedOp struct {
	op  Op
	err error
}

// keep tells whether the room for so many is kept for the next batch, of which used were needed by this one: always if it is little, and
// while a table comes in, which batch after batch needs much.
func keep(room, used int) bool {
	const little = 1 << 14
	return room <= little || room <= mostKept && used >= room/8
}

// mostKept is for how many prefixes room is kept at most.
const mostKept = 1 << 18

// work is a prefix to bring to what is desired.
type work struct {
	prefix netip.Prefix
	row    *Row  // nil: nothing is known of it
	held   *Held // what the ledger has, once it was planned for; nil: nothing
	cause  Cause
	caused bool // there is a new cause
}

// toDo is work on prefixes (sorted, each once); causes may lack some of them.
func (s *Syncer) toDo(prefixes []netip.Prefix, causes map[netip.Prefix]Cause) []work {
	list := make([]work, len(prefixes))
	for i, p := range prefixes {
		c, caused := causes[p]
		list[i] = work{prefix: p, row: s.snapshot.Get(p), cause: c, caused: caused}
	}
	return list
}

// sync brings prefixes (sorted, each once) to what is desired.
func (s *Syncer) sync(ctx context.Context, list []work) {
	start := time.Now()
	s.planner.devices(s.snapshot, s.ledger)
	for i := range list {
		w := &list[i]
		w.held = s.ledger.at(w.prefix)
		if !s.planner.prefix(w.prefix, w.row, w.held, s.ledger) {
			continue
		}
		waiting := s.pending.get(w.prefix)
		switch {
		case waiting == nil:
			s.acting.n++
			if w.cause.Start().IsZero() {
				w.cause.Decided = start
			}
		case w.cause.Start().IsZero():
			w.cause = waiting.cause
		default:
			waiting.cause = w.cause
		}
		if !w.cause.Received.IsZero() && (w.caused || waiting == nil) {
			s.stats.stages[StageDecide].Observe(w.cause.Decided.Sub(w.cause.Received))
		}
		if w.caused {
			s.stats.stages[StageBatch].Observe(start.Sub(w.cause.Decided))
		}
	}
	ops := s.planner.pieces()
	s.spares.add(s.planner.spare, len(list), start)
	s.acting.since = start
	if len(ops) > 0 {
		s.publish(start)
	}
	failed := s.execute(ctx, ops, list)
	s.planner.reset()
	s.acting.n = 0
	if ctx.Err() != nil {
		s.unfinished = true // what was not written did not fail
	} else {
		s.settle(list, failed)
	}
	s.publish(time.Now())
}

// settle notes which prefixes are as desired now, and when the others are tried again.
func (s *Syncer) settle(list []work, failed []failedOp) {
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
	for i := range list {
		w := &list[i]
		p := w.prefix
		f, bad := worst[p]
		if !bad {
			s.pending.remove(p)
			if s.retries.remove(p) {
				s.ledger.change(p, func(h *edit) { h.failure = nil })
			}
			if len(s.drifted) > 0 {
				for _, k := range s.drifted[p] {
					s.stats.repaired[k]++
				}
				delete(s.drifted, p)
			}
			continue
		}
		s.pending.add(p, s.acting.since, w.cause)
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

// cursor finds the work on prefixes that come in the order of the list, or in a few runs of that.
type cursor struct {
	list []work
	at   int
}

// to returns the work on a prefix; nil if there is none.
func (c *cursor) to(p netip.Prefix) *work {
	for range c.list {
		if c.at >= len(c.list) {
			c.at = 0
		}
		if w := &c.list[c.at]; w.prefix == p {
			return w
		}
		c.at++
	}
	return nil
}

// execute runs a plan, in pieces of one kind each, phase by phase and keeps back what relies on something that failed. list is the work
// that it was made for.
func (s *Syncer) execute(ctx context.Context, plan [][]Op, list []work) []failedOp {
	var failed []failedOp
	done := cursor{list: list}
	// Operations of all kinds come in the order of the list; where they do not, what the ledger has is looked up each time.
	ordered := !s.planner.inward
	find := func(c *cursor, p netip.Prefix) *work {
		w := c.to(p)
		if w != nil && !ordered {
			w.held = s.ledger.at(p)
		}
		return w
	}
	run := func(ops []Op, stage Stage, write func(context.Context, []Op) []error) {
		if len(ops) == 0 || ctx.Err() != nil {
			return
		}
		start := time.Now()
		errs := write(ctx, ops)
		at := time.Now()
		s.stats.stages[stage].Observe(at.Sub(start))
		for i := range ops {
			op := &ops[i]
			route := (op.Kind == Install || op.Kind == Withdraw) && op.Route.Type == Unicast
			var w *work
			if route || ordered && op.Device == "" {
				w = find(&done, op.Prefix())
			}
			switch {
			case errs[i] != nil:
				s.ledger.Failed(*op)
				s.stats.failures[op.Kind]++
				failed = append(failed, failedOp{*op, errs[i]})
				if w != nil {
					w.held = s.ledger.at(w.prefix)
				}
			case route:
				s.routeDone(op, w, at)
			case w != nil:
				s.ledger.done(&w.held, op, at, 0)
			default:
				s.ledger.Done(*op, at, 0)
			}
		}
	}
	divert, rest := phase(plan, Divert)
	allow, rest := phase(rest, Allow)
	install, rest := phase(rest, Install)
	withdraw, rest := phase(rest, Withdraw)
	disallow, restore := phase(rest, Disallow)

	for _, ops := range divert {
		run(ops, StageFIB, s.switcher.Switch)
	}
	if len(divert) > 0 {
		s.publish(time.Now()) // what follows may take long
	}
	for _, ops := range allow {
		run(ops, StageAllowedIPs, s.tunnels.Write)
	}
	if ctx.Err() != nil {
		return failed
	}
	of := cursor{list: list}
	mayInstall := func(op *Op) bool {
		if op.Route.Type == Unreachable {
			return true
		}
		w := find(&of, op.Route.Prefix)
		if w == nil || w.row == nil || !s.ledger.mayInstall(w.row, w.held) {
			return false
		}
		if len(op.Route.Backup) > 0 && !s.ledger.mayBackUp(w.row, w.held) {
			op.Route.Backup = nil // until its tunnel has the prefix: the failure is that of an Allow
		}
		return true
	}
	write := make([][]Op, 0, len(install)+len(withdraw))
	for _, ops := range install {
		kept, held := s.keepBack(ops, mayInstall)
		write, failed = append(write, kept), append(failed, held...)
	}
	for _, ops := range joined(append(write, withdraw...)) {
		run(ops, StageFIB, s.fib.Write)
	}
	going := make(map[AllowedIP]struct{})
	for _, ops := range disallow {
		for i := range ops {
			going[ops[i].Allowed] = struct{}{}
		}
	}
	for _, ops := range disallow {
		kept, held := s.keepBack(ops, func(op *Op) bool {
			return s.ledger.MayDisallow(op.Allowed, going) && !s.ledger.unsettled(s.snapshot, op.Allowed)
		})
		failed = append(failed, held...)
		run(kept, StageAllowedIPs, s.tunnels.Write)
	}
	for _, ops := range restore { // last: what was to leave the device has left it
		run(ops, StageFIB, s.switcher.Switch)
	}
	s.logOps(ctx, plan)
	return failed
}

// phase cuts off the pieces of a kind, which come first.
func phase(plan [][]Op, k OpKind) (first, rest [][]Op) {
	n := 0
	for n < len(plan) && plan[n][0].Kind == k {
		n++
	}
	return plan[:n:n], plan[n:]
}

// joined makes one of small pieces that follow each other, so that they are written together.
func joined(list [][]Op) [][]Op {
	out := list[:0]
	for _, ops := range list {
		if n := len(out); n > 0 && len(out[n-1])+len(ops) <= piece {
			out[n-1] = slices.Concat(out[n-1], ops)
		} else if len(ops) > 0 {
			out = append(out, ops)
		}
	}
	return out
}

// keepBack splits off the operations that must not run.
func (s *Syncer) keepBack(ops []Op, may func(*Op) bool) (run []Op, held []failedOp) {
	for i := range ops {
		op := &ops[i]
		switch ok := may(op); {
		case ok && held == nil:
		case ok:
			run = append(run, *op)
		default:
			if held == nil {
				run = append(run, ops[:i]...)
			}
			held = append(held, failedOp{*op, errHeldBack})
		}
	}
	if held == nil {
		return ops, nil
	}
	return run, held
}

// routeDone notes an acknowledged change of a route and measures it. w is nil if nothing of now caused it.
func (s *Syncer) routeDone(op *Op, w *work, at time.Time) {
	var took time.Duration
	if w != nil && !w.cause.Start().IsZero() {
		took = at.Sub(w.cause.Start())
	}
	if w == nil {
		s.ledger.Done(*op, at, took)
		return
	}
	before := s.ledger.done(&w.held, op, at, took)
	f, kind := FamilyOf(op.Route.Prefix), Announced
	switch {
	case op.Kind == Withdraw:
		kind = Withdrawn
	case len(before.hops) > 0:
		kind = Replaced
	}
	s.stats.changes[kind][f]++
	if kind == Withdrawn {
		s.failovers.withdrawn(op.Route.Prefix, w.cause.Loss)
	} else if w.row != nil {
		s.failovers.installed(op.Route.Prefix, w.cause.Loss, w.row.Ways, at)
	}
	if !w.cause.Start().IsZero() {
		s.stats.convergence[kind][f].Observe(took)
	}
}

func (s *Syncer) logOps(ctx context.Context, plan [][]Op) {
	if !s.log.Enabled(ctx, slog.LevelDebug) {
		return
	}
	for _, ops := range plan {
		for _, op := range ops {
			s.log.Debug("planned", "op", op.String())
		}
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
