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
}

// tcpState is what was last learned of a session's connection.
type tcpState struct {
	asked         bool
	local, remote netip.AddrPort
	rtt           time.Duration
	last          uint64 // retransmits of this connection
	total         uint64 // of all
}

// tcpEvery is the time between samples; tcpSoon, after a session came up.
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
			up, sum := s.view.lifeCount()
			if up == 0 || now.Sub(last) < tcpEvery && sum == lives {
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
			s.view.setTCP(list)
		}
	}
}

// lifeCount tells how many sessions are up, and how many have ever come up.
func (v *view) lifeCount() (up int, sum uint64) {
	v.mu.Lock()
	defer v.mu.Unlock()
	for _, n := range v.order {
		up += btoi(n.state == Established)
		sum += n.establishments
	}
	return up, sum
}

// setTCP finds the sessions' connections.
func (v *view) setTCP(list []Connection) {
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
				n.tcp.take(c)
				v.counted = true
				break
			}
		}
	}
}

// take adds what is new. A connection that is another one counts from its beginning.
func (t *tcpState) take(c *Connection) {
	if !t.asked || t.local != c.Local || t.remote != c.Remote || c.Retransmits < t.last {
		t.last = 0
	}
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
