package bgp

import (
	"context"
	"net/netip"
	"time"
)

// Connection is a TCP connection of this machine, as the kernel describes it.
type Connection struct {
	// Local and Remote ends; link-local addresses have their device as zone if the kernel says it.
	Local, Remote netip.AddrPort
	// RTT is the smoothed round-trip time.
	RTT time.Duration
	// Retransmits counts segments that were sent again, since the connection began.
	Retransmits uint64
	// Acked counts the bytes that the other end's kernel has taken since the connection began; Unread, those sent that it has not, in
	// flight or waiting here for room there.
	Acked, Unread uint64
}

// tcpState is what was last learned of a session's connection.
type tcpState struct {
	asked         bool
	local, remote netip.AddrPort
	rtt           time.Duration
	last          uint64 // retransmits of this connection
	total         uint64 // of all
	// acked and unread are those of the connection. silentSince is when something was unread of which nothing was taken since; zero if all
	// was taken. silent is how long that was at the last sample.
	acked, unread uint64
	silentSince   time.Time
	silent        time.Duration
}

// tcpEvery is the time between samples, where no send hold time is so short that it needs more; tcpSoon, after a session came up.
const tcpEvery, tcpSoon = 15 * time.Second, time.Second

// sampleTCP asks the kernel about the sessions' connections until ctx ends.
func (s *Speaker) sampleTCP(ctx context.Context) {
	tick := time.NewTicker(tcpSoon)
	defer tick.Stop()
	var last time.Time
	var lives uint64
	failing := false
	for {
		select {
		case <-ctx.Done():
			return
		case now := <-tick.C:
			every, sum := s.view.tcpPace()
			if every == 0 || now.Sub(last) < every && sum == lives {
				continue
			}
			last, lives = now, sum
			list, err := s.tcp(ctx)
			if err != nil {
				if !failing && ctx.Err() == nil {
					s.log.Warn("the kernel tells nothing about TCP connections", "err", err)
				}
				failing = true
				continue
			}
			failing = false
			s.view.setTCP(list, now)
		}
	}
}

// tcpPace tells how often to ask, 0 if no session is up, and how many have ever come up.
func (v *view) tcpPace() (every time.Duration, sum uint64) {
	v.mu.Lock()
	defer v.mu.Unlock()
	every = tcpEvery
	up := false
	for _, n := range v.order {
		sum += n.establishments
		if n.state != Established {
			continue
		}
		up = true
		if hold := n.sendHold(); hold > 0 {
			every = min(every, max(hold/sendHoldSamples, tcpSoon))
		}
	}
	if !up {
		return 0, sum
	}
	return every, sum
}

// setTCP finds the sessions' connections.
func (v *view) setTCP(list []Connection, now time.Time) {
	v.mu.Lock()
	defer v.mu.Unlock()
	byRemote := make(map[netip.Addr][]*Connection, len(list))
	for i := range list {
		a := list[i].Remote.Addr()
		byRemote[a] = append(byRemote[a], &list[i])
	}
	port := uint16(179)
	if v.config.ListenPort > 0 {
		port = uint16(v.config.ListenPort)
	}
	for _, n := range v.order {
		if n.state != Established {
			continue
		}
		for _, c := range append(byRemote[n.cfg.Address], byRemote[n.bare]...) {
			dialled := c.Remote.Port() == n.cfg.Port || n.cfg.Port == 0 && c.Remote.Port() == 179
			local := n.cfg.LocalAddress.WithZone("")
			if (dialled || c.Local.Port() == port) && (!local.IsValid() || local.IsUnspecified() || local == c.Local.Addr().WithZone("")) {
				n.tcp.take(c, now)
				v.counted = true
				break
			}
		}
		if n.unheard() {
			v.wake()
		}
	}
}

// take adds what is new. A connection that is another one counts from its beginning.
func (t *tcpState) take(c *Connection, now time.Time) {
	if !t.asked || t.local != c.Local || t.remote != c.Remote || c.Retransmits < t.last || c.Acked < t.acked {
		t.last, t.silentSince = 0, time.Time{}
	}
	t.listen(c, now)
	t.total += c.Retransmits - t.last
	t.asked, t.local, t.remote, t.rtt, t.last = true, c.Local, c.Remote, c.RTT, c.Retransmits
}

func (t *tcpState) snapshot(state State) *TCP {
	if !t.asked {
		return nil
	}
	out := &TCP{Retransmits: t.total}
	if state == Established {
		out.RTT = t.rtt.Seconds()
	}
	return out
}
