package bfd

import (
	"context"
	"maps"
	"sync/atomic"
	"time"
)

// session is one machine with its timers and its socket.
type session struct {
	server  *Server
	config  Config
	packets chan packet
	cancel  context.CancelFunc
	status  atomic.Pointer[Status]

	received, transmitted atomic.Uint64

	// Owned by run.
	machine *machine
	since   time.Time
	downs   map[Diagnostic]uint64
	out     sender
	trouble string
}

// sender sends to the neighbour; tests have their own.
type sender interface {
	send(b []byte) error
	close()
}

// queue is how many packets may wait for a session: a neighbour that sends faster than that is not kept up with.
const queue = 4

func (s *Server) newSession(c Config, past tally) *session {
	x := &session{
		server: s, config: c, packets: make(chan packet, queue), cancel: func() {},
		machine: newMachine(c, discriminator()), since: time.Now(), downs: map[Diagnostic]uint64{},
		out: s.sender(c),
	}
	maps.Copy(x.downs, past.downs)
	x.received.Store(past.received)
	x.transmitted.Store(past.transmitted)
	x.publish()
	return x
}

func (x *session) tally() tally {
	return tally{received: x.received.Load(), transmitted: x.transmitted.Load(), downs: x.status.Load().Downs}
}

// run drives the machine until ctx ends.
func (x *session) run(ctx context.Context) {
	defer x.out.close()
	transmit, detect, patience := newAlarm(), newAlarm(), newAlarm()
	for _, a := range []*alarm{transmit, detect, patience} {
		defer a.Stop()
	}
	transmit.in(0)
	pause := func() {
		if d := x.machine.pause(); d > 0 {
			transmit.in(d)
		} else {
			transmit.off()
		}
	}
	// stalled is how long this goroutine could do nothing since the last packet came, as far as it can know; excused, whether that was
	// taken into account.
	var stalled time.Duration
	var excused bool
	for {
		select {
		case <-ctx.Done():
			x.goodbye()
			return
		case <-transmit.C:
			due := transmit.due
			x.send(x.machine.packet(false))
			stalled += time.Since(due)
			pause()
		case <-detect.C:
			if len(x.packets) > 0 { // it was this goroutine that had to wait
				detect.in(0)
				continue
			}
			// What held this goroutine up held up those before it as well, through which packets come: WireGuard's and the
			// reader. They get as much time, once, and one more detection time at most.
			most := min(stalled+max(detect.late(), transmit.late()), x.machine.detection)
			if most >= stall && !excused {
				excused = true
				x.server.log.Debug("BFD waits longer", "remote", x.config.Remote, "for", most, "because", "this process was held up")
				detect.in(most)
				continue
			}
			x.moved(outcome{was: x.machine.expire()})
			x.send(x.machine.packet(false)) // the way there may be open, and only the way back be cut
			pause()
		case <-patience.C:
			if x.machine.state != Up {
				x.fail()
			}
		case p := <-x.packets:
			silent, demanding := x.machine.pause() == 0, x.machine.remote.minRx
			out := x.machine.receive(&p)
			if !out.accepted {
				x.server.drop(dropDiscriminator)
				continue
			}
			x.received.Add(1)
			stalled, excused = 0, false
			if out.reply {
				x.send(x.machine.packet(true))
			}
			x.moved(out)
			if out.anew {
				patience.in(comeback)
			} else if out.admin {
				patience.off()
			}
			// The other end learns of a new state at once, and a faster pace begins at once.
			if out.was != x.machine.state {
				x.send(x.machine.packet(false))
				pause()
			} else if silent || x.machine.remote.minRx != demanding {
				pause()
			}
			if x.machine.state == Down && out.was == Down {
				break
			}
			detect.in(x.machine.detection)
		}
	}
}

// stall is how late a timer has to be to say anything; it is far above what an idle machine has.
const stall = 10 * time.Millisecond

// alarm is a timer that knows when it was due.
type alarm struct {
	*time.Timer
	due time.Time // zero while it is off
}

func newAlarm() *alarm {
	a := &alarm{Timer: time.NewTimer(time.Hour)}
	a.off()
	return a
}

func (a *alarm) in(d time.Duration) {
	a.due = time.Now().Add(d)
	a.Reset(d)
}

func (a *alarm) off() {
	a.due = time.Time{}
	a.Stop()
}

// late is how long ago the alarm was due; 0 or less if it is not yet, or off.
func (a *alarm) late() time.Duration {
	if a.due.IsZero() {
		return 0
	}
	return time.Since(a.due)
}

// comeback is how long a session that the neighbour began anew may take to come up again before that is a failure. Both
// ends send only once a second meanwhile.
const comeback = 5 * time.Second

// moved takes note of what a packet or silence did to the session.
func (x *session) moved(out outcome) {
	m, was := x.machine, out.was
	before := x.status.Load()
	if was == m.state && before.DetectionTime == m.detection && before.RemoteState == m.remote.state && before.RemoteDiagnostic == m.remote.diag {
		return
	}
	if was != m.state {
		x.since = time.Now()
	}
	fell := was == Up && m.state != Up
	if fell {
		why := m.diag
		if out.admin {
			why = AdministrativelyDown
		}
		x.downs = maps.Clone(x.downs) // the status has the other
		x.downs[why]++
	}
	x.publish()
	if was == m.state {
		return
	}
	x.server.log.Debug("BFD", "remote", x.config.Remote, "state", m.state, "was", was, "diagnostic", m.diag)
	if fell && !out.admin && !out.anew {
		x.fail()
	}
	if x.server.o.Changed != nil {
		x.server.o.Changed()
	}
}

func (x *session) fail() {
	if x.server.o.Failed != nil {
		x.server.o.Failed(Failure{Remote: x.config.Remote, Diagnostic: x.machine.diag})
	}
}

func (x *session) publish() {
	m := x.machine
	x.status.Store(&Status{
		State: m.state, Since: x.since, Diagnostic: m.diag, RemoteState: m.remote.state, RemoteDiagnostic: m.remote.diag,
		DetectionTime: m.detection, Downs: x.downs, Trouble: x.trouble,
	})
}

func (x *session) send(p *packet) {
	err := x.out.send(p.marshal())
	trouble := ""
	if err == nil {
		x.transmitted.Add(1)
	} else {
		trouble = err.Error()
	}
	if trouble != x.trouble {
		x.trouble = trouble
		x.publish()
	}
}

// goodbye tells the neighbour that the session ends on purpose: it is not to take that for a failure (RFC 5880 section
// 6.8.16, RFC 5882 section 3.2). One that failed says no more: the neighbour is to take that for what it is.
func (x *session) goodbye() {
	if x.machine.state == Down {
		return
	}
	x.machine.state, x.machine.diag, x.machine.polling = AdminDown, AdministrativelyDown, false
	const times = 3 // the packet may be lost, and nobody acknowledges it
	for range times {
		x.send(x.machine.packet(false))
	}
}
