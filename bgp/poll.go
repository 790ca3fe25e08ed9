package bgp

import (
	"cmp"
	"context"
	"net/netip"
	"time"

	"github.com/osrg/gobgp/v4/api"

	"sitewire/routes"
)

// GoBGP is asked for what only it counts, and walks its tables for it: every AdjRib is 2,048 locks, and what is advertised
// is every best path through the export policy of every neighbour. With 100 idle sessions both took a third of what the
// whole gateway used. So the paces below hold while there are events; without any, only keepalives are counted, and
// the rests do. All of them stretch with the cost of asking. What is advertised is asked of one neighbour at a time: of 40
// with dn42's table it takes a second, in which GoBGP does nothing else.
const (
	pollEvery, pollRest     = 5 * time.Second, 30 * time.Second
	adviseEvery, adviseRest = 15 * time.Second, 5 * time.Minute
)

// inquiry says when to ask GoBGP something again.
type inquiry struct {
	at   time.Time     // when it was last asked
	pace time.Duration // not sooner after that
	seen uint64        // view.events then
	late bool          // something happened right before
}

// due reports whether to ask now. If something happened right before an answer, there is another: GoBGP tells us of an
// event first, and then sends and counts what follows from it.
func (q *inquiry) due(now time.Time, events uint64, rest time.Duration) bool {
	wait := q.pace
	if !q.late && events == q.seen {
		wait = max(wait, rest)
	}
	return now.Sub(q.at) >= wait
}

// asked notes a question; last is when something last happened.
func (q *inquiry) asked(now time.Time, events uint64, last time.Time, pace time.Duration) {
	const right = time.Second
	*q = inquiry{at: now, pace: pace, seen: events, late: now.Sub(last) < right}
}

// flood tells whether a table comes in. While it does, what is advertised is not counted: that walks all of the table, with
// GoBGP standing still, and would be wrong a moment later.
type flood struct {
	on   bool
	at   time.Time // of the last look
	seen uint64    // events then
}

// look counts events, once a second.
func (f *flood) look(now time.Time, events uint64) {
	const many = 500 // a second
	if took := now.Sub(f.at); took >= time.Second {
		f.on = !f.at.IsZero() && float64(events-f.seen) > many*took.Seconds()
		f.at, f.seen = now, events
	}
}

// floodPace is how long counters rest while a table comes in, when asking for them took so long the last time. The table waits
// while GoBGP walks what is there of it, which is more each time.
func floodPace(cost time.Duration) time.Duration { return min(floodShare*cost, pollRest) }

// poll refreshes message counters, queues and timers.
func (l *loop) poll(now time.Time) {
	events := l.view.events.Load() // before GoBGP answers, so that what happens meanwhile counts as new
	if l.events != events {
		l.events, l.eventAt = events, now
	}
	l.flood.look(now, events)
	if !l.polled.due(now, events, pollRest) || l.flood.on && now.Sub(l.polled.at) < floodPace(l.pollCost) {
		return
	}
	answers := map[netip.Addr]polled{}
	begin := time.Now()
	err := l.timed(func() error {
		return l.gobgp.ListPeer(context.Background(), &api.ListPeerRequest{}, func(p *api.Peer) {
			if a, err := netip.ParseAddr(p.GetConf().GetNeighborAddress()); err == nil {
				answers[a] = readPoll(p)
			}
		})
	})
	cost := time.Since(begin)
	l.polled.asked(now, events, l.eventAt, max(pollEvery, min(pollShare*cost, maxPace)))
	l.pollCost = cost
	if err != nil {
		l.log.Error("list neighbours", "err", err)
		return
	}
	before := l.answered
	l.answered = time.Now()
	l.view.mu.Lock()
	defer l.view.mu.Unlock()
	for a, p := range answers {
		n := l.view.byAddr[a]
		if n == nil {
			continue
		}
		p.advertised = n.polled.advertised
		n.refusedOpen(p, before)
		if n.polled != p {
			n.polled, l.view.counted = p, true
		}
		l.polled.late = l.polled.late || p.outQueue > 0
	}
}

// firstCounts are how long after a session came up its neighbour alone is asked about: at once, and when what came up with it has had
// time to be learned. After that its turn comes at adviseEvery.
var firstCounts = []time.Duration{0, 2 * time.Second, 8 * time.Second}

// count asks how much is advertised on one session: on one that came up a moment ago, which would show none for long otherwise, or on the
// one that was not asked about for the longest time.
func (l *loop) count(now time.Time) {
	if now.Before(l.countAt) || l.gathering.on || l.flood.on && now.Sub(l.countAt) < adviseRest {
		return
	}
	events := l.view.events.Load()
	n, life, share := l.view.toCount(now, events, l.countCost)
	if n == nil {
		return
	}
	var answer polled
	begin := time.Now()
	err := l.timed(func() error {
		return l.gobgp.ListPeer(context.Background(), &api.ListPeerRequest{Address: n.cfg.Address.String(), EnableAdvertised: true}, func(p *api.Peer) {
			answer = readPoll(p)
		})
	})
	n.advised.asked(now, events, l.eventAt, adviseEvery)
	cost := time.Since(begin)
	l.countAt = begin.Add(min(share*cost, 5*maxPace))
	const enough = 10_000 // to tell the cost of each from that of asking
	if prefixes := l.view.bestPrefixes(); prefixes >= enough {
		l.countCost = cost / time.Duration(prefixes)
	}
	if err != nil {
		l.log.Error("count what is advertised", "neighbour", n.cfg.Name, "err", err)
		return
	}
	l.view.takeCount(n, answer.advertised, life)
}

// toCount chooses a neighbour whose session is fresh, the latest one first, or whose turn it is, and tells which establishment it is and what share of
// the time the question may take.
//
// GoBGP stands still meanwhile: with a table of a million for seconds. A session that came up waits for its turn where that is more than
// a moment, and none is asked about where it is a good part of the shortest hold time.
func (v *view) toCount(now time.Time, events uint64, each time.Duration) (n *neighbour, life uint64, share time.Duration) {
	v.mu.Lock()
	defer v.mu.Unlock()
	const moment, part = 300 * time.Millisecond, 4
	expected := each * time.Duration(v.prefixes[0]+v.prefixes[1])
	for _, n := range v.order {
		if n.state == Established && expected > cmp.Or(n.polled.holdTime, holdTime(&n.cfg))/part {
			return nil, 0, 0
		}
	}
	var next, turn *neighbour
	for _, n := range v.order {
		due := expected <= moment && n.state == Established && n.counts < len(firstCounts) && (n.counts == 0 || now.Sub(n.since) >= firstCounts[n.counts])
		if due && (next == nil || n.counts < next.counts || n.counts == next.counts && n.since.After(next.since)) {
			next = n
		}
		if n.state == Established && n.advised.due(now, events, adviseRest) && (turn == nil || n.advised.at.Before(turn.advised.at)) {
			turn = n
		}
	}
	share = freshShare
	switch {
	case next != nil && now.Sub(next.since) >= firstCounts[len(firstCounts)-1]:
		next.counts = len(firstCounts) // the last of them is all that is left to learn
	case next != nil:
		next.counts++
	case turn != nil:
		next, share = turn, pollShare
	default:
		return nil, 0, 0
	}
	return next, next.establishments, share
}

// bestPrefixes is the number of prefixes with a best path.
func (v *view) bestPrefixes() int {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.prefixes[0] + v.prefixes[1]
}

// takeCount takes the answer, unless the session is another one by now.
func (v *view) takeCount(n *neighbour, advertised [2]int, life uint64) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if n.establishments == life && n.polled.advertised != advertised {
		n.polled.advertised, v.counted = advertised, true
	}
}

// refusedOpen finds the cause of a session that does not come up. GoBGP tells nobody of NOTIFICATIONs on connections that
// it began, and counts them. One that was counted since the poll before may as well have ended a session that was up then.
func (n *neighbour) refusedOpen(p polled, before time.Time) {
	grown := func(now, before uint64) bool { return now > 0 && now != before }
	switch {
	case n.state == Established || n.lastDown.After(before):
	case grown(p.received.Notification, n.polled.received.Notification):
		n.lastError = "the neighbour refuses our OPEN with a NOTIFICATION: compare asn at both ends, and the router IDs"
	case grown(p.sent.Notification, n.polled.sent.Notification):
		n.lastError = "the neighbour's OPEN is refused: compare asn at both ends, and the router IDs"
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
