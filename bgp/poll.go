package bgp

import (
	"context"
	"net/netip"
	"time"

	"github.com/osrg/gobgp/v4/api"

	"sitewire/routes"
)

// pollEvery and adviseEvery are how often GoBGP is asked for what only it counts. Both stretch with the cost of asking:
// GoBGP walks its tables for it.
const (
	pollEvery   = 5 * time.Second
	adviseEvery = 15 * time.Second
)

// poll refreshes message counters, queues and timers, and less often the number of advertised prefixes.
func (l *loop) poll(now time.Time) {
	if now.Before(l.pollAt) {
		return
	}
	advertised := !now.Before(l.adviseAt)
	type answer struct {
		polled
		counted bool
	}
	answers := map[netip.Addr]answer{}
	begin := time.Now()
	err := l.timed(func() error {
		return l.gobgp.ListPeer(context.Background(), &api.ListPeerRequest{EnableAdvertised: advertised}, func(p *api.Peer) {
			if a, err := netip.ParseAddr(p.GetConf().GetNeighborAddress()); err == nil {
				answers[a] = answer{polled: readPoll(p), counted: advertised}
			}
		})
	})
	cost := time.Since(begin)
	l.pollAt = now.Add(max(pollEvery, min(pollShare*cost, maxPace)))
	if advertised {
		l.adviseAt = now.Add(max(adviseEvery, min(4*pollShare*cost, 5*maxPace)))
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
		if !p.counted {
			p.advertised = n.polled.advertised
		}
		if n.polled != p.polled {
			n.polled, l.view.counted = p.polled, true
		}
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
