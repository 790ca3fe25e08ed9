package bgp

import (
	"net/netip"
	"time"

	"sitewire/bgp/bfd"
)

// The send hold timer of RFC 9687. A neighbour that goes on to send KEEPALIVEs but reads nothing any more would keep its session, with routes
// that nobody updates, for ever: GoBGP v4.8.0 has no such timer, waits in its write without limit, and keeps what is to follow in a queue
// without bound. The kernel knows: what we sent stays unread, and no byte of it is taken. (A zero window that is probed and answered is no
// progress.) So the connections are looked at, and the session ends that had something unread for the whole time of which nothing was taken.
//
// What the RFC measures is the time since a whole message was sent, which is no longer: bytes may still fit in our own buffer. It stops the
// timer where the hold time was negotiated to 0; here it runs then too, as memory grows all the same. Its NOTIFICATION (code 8) is optional, GoBGP cannot
// send it, and it would not be read. The session goes whole, with its routes, and no graceful restart: RFC 9687 section 3 releases all
// resources, and RFC 8538 keeps forwarding state only for a connection that was lost or a NOTIFICATION that passed.
const (
	minSendHold     = 8 * time.Minute // RFC 9687 section 3
	sendHoldSamples = 8               // in the shortest of them
	sendHoldWarn    = 4               // that part of the time is a warning
)

// sendHold is the neighbour's send hold time; 0 if it has none.
func (n *neighbour) sendHold() time.Duration {
	switch configured := n.cfg.SendHoldTime; {
	case configured < 0:
		return 0
	case configured > 0:
		return configured
	}
	negotiated := n.polled.holdTime
	if negotiated == 0 { // or not known yet
		negotiated = holdTime(&n.cfg)
	}
	return max(minSendHold, 2*negotiated)
}

// listen notes whether the other end takes what is sent to it.
func (t *tcpState) listen(c *Connection, now time.Time) {
	switch {
	case c.Unread == 0:
		t.silentSince = time.Time{}
	case t.silentSince.IsZero() || c.Acked != t.acked:
		t.silentSince = now
	}
	t.acked, t.unread, t.silent = c.Acked, c.Unread, 0
	if !t.silentSince.IsZero() {
		t.silent = now.Sub(t.silentSince)
	}
}

// unheard tells whether the neighbour's send hold time is over.
func (n *neighbour) unheard() bool {
	hold := n.sendHold()
	return n.state == Established && hold > 0 && n.tcp.silent >= hold
}

// cut is why a session is to end that GoBGP thinks well of.
type cut struct {
	reason string
	life   time.Duration // that the session has lasted
	// silent is how long nothing was read, and unread how much is not.
	silent time.Duration
	unread uint64
}

// toCut lists the sessions to end that GoBGP would keep: those that BFD wants to end, and those that nobody reads.
func (v *view) toCut(now time.Time) map[netip.Addr]cut {
	v.mu.Lock()
	defer v.mu.Unlock()
	var list map[netip.Addr]cut
	for _, n := range v.order {
		c := cut{reason: downBFD, life: now.Sub(n.establishedAt), silent: n.tcp.silent, unread: n.tcp.unread}
		if n.cut == bfd.NoDiagnostic {
			if !n.unheard() {
				continue
			}
			c.reason = downSendHold
		}
		if list == nil {
			list = map[netip.Addr]cut{}
		}
		list[n.cfg.Address] = c
	}
	return list
}
