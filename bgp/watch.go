package bgp

import (
	"fmt"
	"net/netip"
	"runtime"
	"slices"
	"time"

	"sitewire/bgp/bfd"
	"sitewire/routes"
)

// BFD beside the sessions: it begins when a session is up, ends with it, and ends it at once when it fails. So a session
// does not wait for BFD, and a neighbour without BFD is no worse than before (RFC 5882 section 4.1 leaves that open). Were
// BFD there before the session, then FRR, which begins its BFD anew when BGP comes up, would end that session again.

// watchPaths brings BFD sessions in step with the sessions that are up.
func (l *loop) watchPaths() {
	l.view.mu.Lock()
	if now := time.Now(); l.bfdOn && now.Sub(l.published) >= pollEvery {
		l.view.counted = true
	}
	if l.view.upOrDown == l.bfdFor {
		l.view.mu.Unlock()
		return
	}
	l.bfdFor = l.view.upOrDown
	var list []bfd.Config
	for _, n := range l.view.order {
		if n.state == Established && n.cfg.BFD.On() {
			list = append(list, bfdConfig(n.cfg))
		}
	}
	l.view.mu.Unlock()
	l.bfdOn = len(list) > 0
	l.bfd.Set(list)
	l.bfd.Forget(func(a netip.Addr) bool {
		return slices.ContainsFunc(l.config.Neighbours, func(n Neighbour) bool { return n.Address == a && n.BFD.On() })
	})
}

func bfdConfig(n Neighbour) bfd.Config {
	return bfd.Config{Remote: n.Address, Local: n.LocalAddress, Interval: n.BFD.Interval, Multiplier: n.BFD.Multiplier}
}

// bfdFailed notes that packets of a neighbour no longer arrive.
func (v *view) bfdFailed(f bfd.Failure) {
	v.mu.Lock()
	n := v.byAddr[f.Remote]
	if v.closed || n == nil || !n.cfg.BFD.On() || n.state != Established {
		v.mu.Unlock()
		return
	}
	n.cut = f.Diagnostic
	v.lost(n, routes.LossBFD, time.Now())
	v.sink.PutReachable(n.cfg.Name, false)
	v.mu.Unlock()
	// Whoever moves the neighbour's routes elsewhere goes first: what follows keeps all processors busy if they are many, and 10 ms
	// passed until it had its turn.
	runtime.Gosched()
	v.wake()
}

// bfdChanged has listings show it.
func (v *view) bfdChanged() {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.dirty = true
	v.wake()
}

// watched adds to a session what is known of the way to the neighbour and of monitored prefixes.
func (v *view) watched(n *neighbour, s *Session, now time.Time) {
	s.TCP = n.tcp.snapshot(n.state)
	for _, p := range v.config.Monitored {
		f := family(p)
		received := n.in[f].entries.find(p) != 0
		if n.in[f].offered {
			s.Monitored = append(s.Monitored, Monitored{Prefix: p, Received: received, Advertised: n.state == Established && n.advertised[p]})
		}
	}
	if !n.cfg.BFD.On() || v.bfd == nil {
		return
	}
	b := v.bfd.Status(n.cfg.Address)
	s.BFD = &BFDStatus{
		State: b.State, Since: b.Since, Interval: n.cfg.BFD.Interval.Seconds(), Multiplier: n.cfg.BFD.Multiplier, DetectionTime: b.DetectionTime.Seconds(),
		Diagnostic: b.Diagnostic.String(), Downs: map[string]uint64{}, Received: b.Received, Transmitted: b.Transmitted,
	}
	for d, count := range b.Downs {
		s.BFD.Downs[d.String()] = count
	}
	const grace = 10 * time.Second
	begin := n.since
	if b.Since.After(begin) {
		begin = b.Since
	}
	switch {
	case b.Trouble != "":
		s.Warnings = append(s.Warnings, "BFD does not work: "+b.Trouble)
	case b.State < bfd.Up && n.state == Established && now.Sub(begin) > grace:
		why := "the neighbour does not answer: is BFD configured there, and does UDP port 3784 pass?"
		if b.DetectionTime > 0 {
			why = fmt.Sprintf("the neighbour's end is %v", b.RemoteState)
		}
		s.Warnings = append(s.Warnings, fmt.Sprintf("BFD is %v: %s", b.State, why))
	}
}
