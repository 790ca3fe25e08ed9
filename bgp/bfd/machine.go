package bfd

import (
	"math/rand/v2"
	"time"
)

// slow is the least interval between packets while a session is not up (RFC 5880 section 6.8.3).
const slow = time.Second

// machine is the state of one session (RFC 5880 section 6.8.1), without sockets and timers. Asynchronous mode, active role.
// Owner: the goroutine of its session.
type machine struct {
	interval   time.Duration // that we want to send and are able to receive at
	multiplier uint8

	state     State
	diag      Diagnostic
	mine      uint32
	polling   bool // a Poll Sequence is under way
	remote    remote
	detection time.Duration // what the next silence must last; 0 before the first packet
}

// remote is what the other end last said.
type remote struct {
	discriminator    uint32
	state            State
	diag             Diagnostic
	minRx, desiredTx time.Duration
	multiplier       uint8
	demand           bool
}

func newMachine(c Config, discriminator uint32) *machine {
	m := &machine{interval: c.Interval, multiplier: c.Multiplier, state: Down, mine: discriminator}
	m.forget()
	return m
}

// forget is for a neighbour that has been silent: its next discriminator may be another one.
func (m *machine) forget() { m.remote = remote{state: Down, minRx: time.Microsecond} }

// outcome of a received packet.
type outcome struct {
	accepted bool // else it belongs to another session
	reply    bool // a packet with the Final bit is due now
	was      State
	admin    bool // the neighbour took its session down itself: no failure (RFC 5882 section 3.2)
	// anew says that the neighbour has a new session, which knows nothing of the old one and so is down. Its packets
	// arrive: that is no failure yet. (FRR begins one whenever BGP comes up.)
	anew bool
}

// receive is the rest of RFC 5880 section 6.8.6.
func (m *machine) receive(p *packet) outcome {
	out := outcome{was: m.state}
	if p.yours != 0 && p.yours != m.mine {
		return out
	}
	out.accepted = true
	out.anew = m.state == Up && p.state == Down && p.yours == 0 && p.mine != m.remote.discriminator
	m.remote = remote{
		discriminator: p.mine, state: p.state, diag: p.diag, minRx: p.minRx, desiredTx: p.desiredTx,
		multiplier: p.multiplier, demand: p.demand,
	}
	m.detection = time.Duration(p.multiplier) * max(m.interval, p.desiredTx)
	if p.final {
		m.polling = false
	}
	switch {
	case p.state == AdminDown:
		if m.state != Down {
			m.fall(NeighborSignaledDown)
			out.admin = true
		}
	case m.state == Down && p.state == Down:
		m.state = Init
	case m.state == Down && p.state == Init, m.state == Init && p.state >= Init:
		m.state, m.diag = Up, NoDiagnostic
		m.polling = true // our interval between packets is another from now on (section 6.8.3)
	case m.state == Up && p.state == Down:
		m.fall(NeighborSignaledDown)
	}
	out.reply = p.poll
	return out
}

// expire is for silence of a detection time (section 6.8.4). It returns the state before.
func (m *machine) expire() State {
	was := m.state
	if m.state != Down {
		m.fall(DetectionTimeExpired)
	}
	m.forget()
	return was
}

func (m *machine) fall(why Diagnostic) { m.state, m.diag, m.polling = Down, why, false }

// desired is the interval that we announce to send at.
func (m *machine) desired() time.Duration {
	if m.state != Up {
		return max(slow, m.interval)
	}
	return m.interval
}

// pause until the next periodic packet, with the jitter of section 6.8.7; 0 is none, because the neighbour wants none.
func (m *machine) pause() time.Duration {
	if m.remote.minRx == 0 || m.remote.demand && m.state == Up && m.remote.state == Up && !m.polling {
		return 0
	}
	base := max(m.desired(), m.remote.minRx)
	least := 75
	most := 100
	if m.multiplier == 1 {
		most = 90
	}
	return base * time.Duration(least*1000+rand.IntN((most-least)*1000)) / 100_000
}

// packet is the next one to send.
func (m *machine) packet(final bool) *packet {
	return &packet{
		diag: m.diag, state: m.state, poll: m.polling && !final, final: final, multiplier: m.multiplier,
		mine: m.mine, yours: m.remote.discriminator, desiredTx: m.desired(), minRx: m.interval,
	}
}
