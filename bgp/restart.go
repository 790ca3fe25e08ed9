package bgp

import (
	"context"
	"net/netip"
	"time"

	"github.com/osrg/gobgp/v4/api"
)

// GoBGP holds back what goes to the neighbours of a restarted speaker until all have sent End-of-RIB, or the deferral time is
// over. Soft resets pass this by: they send the table as it is, and End-of-RIB, at which a helper drops all that is not in
// it yet. So soft resets in that direction wait.

// Restart is what a restarted speaker knows from before.
type Restart struct {
	// ExtendedNextHop says of neighbours, by name, whether they last announced that they take IPv4 routes with IPv6 next hops
	// (RFC 8950). What is sent to them first is everything, with End-of-RIB behind it, and the OPEN that tells comes right
	// before: IPv4 that was held back just then would be gone for a moment.
	ExtendedNextHop map[string]bool
}

// recall has neighbours be as they were before.
func (v *view) recall(r Restart) {
	v.mu.Lock()
	defer v.mu.Unlock()
	for name, enh := range r.ExtendedNextHop {
		if n := v.byName[name]; n != nil {
			n.capable, n.enh = true, enh
		}
	}
}

// deferEvery is the time between questions whether GoBGP still holds back.
const deferEvery = 200 * time.Millisecond

// restartTime is how long helpers keep our routes.
func restartTime(c Config) time.Duration {
	return time.Duration(seconds(c.RestartTime, 120)) * time.Second
}

// restarts tells whether the next session with a neighbour is the first one with a restarted speaker.
func (l *loop) restarts(n Neighbour) bool {
	if !n.GracefulRestart || !time.Now().Before(l.restartEnds) {
		return false
	}
	l.view.mu.Lock()
	defer l.view.mu.Unlock()
	was := l.view.byAddr[n.Address]
	return was != nil && was.establishments == 0
}

// holdsBack tells whether GoBGP still holds back what goes to a neighbour.
func (l *loop) holdsBack(address netip.Addr, p *peer) bool {
	if !p.restarting || !l.view.established(address) {
		return p.restarting
	}
	err := l.timed(func() error {
		return l.gobgp.ListPeer(context.Background(), &api.ListPeerRequest{Address: address.String()}, func(a *api.Peer) {
			p.restarting = a.GetGracefulRestart().GetLocalRestarting()
		})
	})
	if err != nil {
		l.log.Error("ask whether the neighbour is told everything", "address", address, "err", err)
	}
	return p.restarting
}
