package bgp

import (
	"math/rand/v2"
	"net/netip"
	"time"
)

// Connections of both ends at the same time: RFC 4271 section 6.8 wants one of them closed. GoBGP v4.8.0 misses that if
// the incoming one is in OpenConfirm before the outgoing one has its OPEN. With GoBGP at both ends, each then waits for
// a KEEPALIVE on the connection that the other has given up, until the hold time is over, and again after that.
//
// So of two ends that may both dial, the one with the higher address gives way for a while at first; and whoever is in
// OpenConfirm for longer than a round trip can explain begins anew.
//
// That a session is up is an event, which may wait in GoBGP's queue behind those of a large table. GoBGP changes no state while it deletes one,
// and before it tells that a session is up it walks all prefixes for what to send there: seconds for a million, and longer on a busy machine.
const (
	giveWay     = 4 * time.Second
	confirmTime = 5 * time.Second
	confirmEach = 40 * time.Microsecond // and for each prefix
)

// givesWay tells whether the neighbour should dial first.
func givesWay(n Neighbour) bool {
	return !n.Passive && !n.Waits && n.LocalAddress.IsValid() && n.LocalAddress.WithZone("").Compare(n.Address.WithZone("")) > 0
}

// courtesy is how a peer is to be added: passive as long as it gives way.
func (p *peer) courtesy(n Neighbour, now time.Time) Neighbour {
	key := p.key
	p.waitUntil = time.Time{}
	if givesWay(n) && !p.mustDial {
		key.Passive = true
		p.waitUntil = now.Add(giveWay + rand.N(giveWay/4))
	}
	return key
}

// overdue lists sessions to begin anew: those that have waited for the neighbour to dial long enough, and those that a
// collision has left in OpenConfirm.
func (l *loop) overdue(now time.Time) (dial, stuck map[netip.Addr]bool) {
	l.view.mu.Lock()
	defer l.view.mu.Unlock()
	confirm := confirmTime + time.Duration(l.view.prefixes[0]+l.view.prefixes[1])*confirmEach
	for address, p := range l.peers {
		n := l.view.byAddr[address]
		if n == nil || !p.added {
			continue
		}
		switch {
		case n.state == OpenConfirm && now.Sub(n.since) >= confirm && now.Sub(l.free) >= confirm && l.view.late < confirmTime/2:
			stuck = set(stuck, address)
		case n.state == Established:
			p.waitUntil = time.Time{}
		case n.state < OpenSent && !p.waitUntil.IsZero() && !now.Before(p.waitUntil):
			dial = set(dial, address)
		}
	}
	return dial, stuck
}

func set(m map[netip.Addr]bool, a netip.Addr) map[netip.Addr]bool {
	if m == nil {
		m = map[netip.Addr]bool{}
	}
	m[a] = true
	return m
}
