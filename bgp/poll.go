package bgp

import (
	"context"
	"net/netip"
	"time"

	"github.com/osrg/gobgp/v4/api"

	"sitewire/routes"
)

// GoBGP is asked for what only it counts, and walks its tables for it: every AdjRib is 2,048 locks, and what is advertised
// is every best path through the export policy of every neighbour. With 100 idle sessions both took a third of what the
// whole gateway used. So the paces below hold while there are events; without any, only keepalives are counted, and
// the rests do. All of them stretch with the cost of asking.
const (
	pollEvery, pollRest     = 5 * time.Second, 30 * time.Second
	adviseEvery, adviseRest = 15 * time.Second, 5 * time.Minute
)

// inquiry says when to ask GoBGP something again.
type inquiry struct {
	at   time.Time     // when it was last asked
	pace time.Duration // not sooner after that
	seen uint64        // view.events then
	busy bool          // something had happened since the time before
}

// due reports whether to ask now. What happened is followed by one more answer: GoBGP sends what follows from an event, and
// counts it, after it told us.
func (q *inquiry) due(now time.Time, events uint64, rest time.Duration) bool {
	wait := q.pace
	if !q.busy && events == q.seen {
		wait = max(wait, rest)
	}
	return now.Sub(q.at) >= wait
}

func (q *inquiry) asked(now time.Time, events uint64, pace time.Duration) {
	*q = inquiry{at: now, pace: pace, seen: events, busy: events != q.seen}
}

// poll refreshes message counters, queues and timers, and less often the number of advertised prefixes.
func (l *loop) poll(now time.Time) {
	events := l.view.events.Load() // before GoBGP answers, so that what happens meanwhile counts as new
	if !l.polled.due(now, events, pollRest) {
		return
	}
	advertised := l.advised.due(now, events, adviseRest)
	answers := map[netip.Addr]polled{}
	begin := time.Now()
	err := l.timed(func() error {
		return l.gobgp.ListPeer(context.Background(), &api.ListPeerRequest{EnableAdvertised: advertised}, func(p *api.Peer) {
			if a, err := netip.ParseAddr(p.GetConf().GetNeighborAddress()); err == nil {
				answers[a] = readPoll(p)
			}
		})
	})
	cost := time.Since(begin)
	l.polled.asked(now, events, max(pollEvery, min(pollShare*cost, maxPace)))
	if advertised {
		l.advised.asked(now, events, max(adviseEvery, min(4*pollShare*cost, 5*maxPace)))
	}
	if err != nil {
		l.log.Error("list neighbours", "err", err)
		return
	}
	l.view.mu.Lock()
	defer l.view.mu.Unlock()
	for a, p := range answers {
		n := l.view.byAddr[a]
		if n == nil {
			continue
		}
		if !advertised {
			p.advertised = n.polled.advertised
		}
		if n.polled != p {
			n.polled, l.view.counted = p, true
		}
		l.polled.busy = l.polled.busy || p.outQueue > 0
	}
}

func readPoll(p *api.Peer) polled {
	s := p.GetState()
	out := polled{
		received: messages(s.GetMessages().GetReceived()), sent: messages(s.GetMessages().GetSent()),
		outQueue: int(s.GetQueues().GetOutput()),
		holdTime: time.Duration(p.GetTimers().GetState().GetNegotiatedHoldTime()) * time.Second,
	}
	for _, a := range p.GetAfiSafis() {
		f := routes.IPv4
		if a.GetConfig().GetFamily().GetAfi() == api.Family_AFI_IP6 {
			f = routes.IPv6
		}
		out.advertised[f] = int(a.GetState().GetAdvertised())
	}
	return out
}

func messages(m *api.Message) Messages {
	return Messages{
		Open: m.GetOpen(), Update: m.GetUpdate(), Notification: m.GetNotification(), Keepalive: m.GetKeepalive(),
		RouteRefresh: m.GetRefresh(), Withdrawn: m.GetWithdrawPrefix(),
	}
}

func family(p netip.Prefix) int { return int(routes.FamilyOf(p)) }

func familyAt(i int) routes.Family { return routes.Family(i) }
