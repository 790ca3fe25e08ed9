package bgp

import (
	"net/netip"
	"time"

	"github.com/osrg/gobgp/v4/api"
	"github.com/osrg/gobgp/v4/pkg/apiutil"
	"github.com/osrg/gobgp/v4/pkg/packet/bgp"

	"sitewire/routes"
)

// Paces of asking what becomes of monitored prefixes. GoBGP runs the whole table through a neighbour's export policy
// for every question, so one neighbour is asked at a time, and the next not before a multiple of what that cost.
const (
	monitorEvery = time.Minute
	// monitorSoon is how long a fresh session, or a change, has to settle.
	monitorSoon = 2 * time.Second
	// monitorBusy bounds how often a neighbour is asked while there are changes.
	monitorBusy = 15 * time.Second
)

// monitor asks about the neighbour whose turn it is, if any.
func (l *loop) monitor(now time.Time) {
	if len(l.config.Monitored) == 0 || now.Before(l.monitorAt) {
		return
	}
	n, life := l.view.toMonitor(now, l.eventAt)
	if n == nil {
		return
	}
	peer := l.peers[n.cfg.Address]
	if peer == nil || !peer.added {
		return
	}
	begin := time.Now()
	out := map[netip.Prefix]bool{}
	for f, family := range families {
		var lookups []*apiutil.LookupPrefix
		for _, p := range l.config.Monitored {
			if routes.FamilyOf(p) == routes.Family(f) {
				lookups = append(lookups, &apiutil.LookupPrefix{Prefix: p.String()})
			}
		}
		if len(lookups) == 0 || f == int(routes.IPv4) && !n.cfg.IPv4 || f == int(routes.IPv6) && !n.cfg.IPv6 {
			continue
		}
		request := apiutil.ListPathRequest{
			TableType: api.TableType_TABLE_TYPE_ADJ_OUT, Name: n.cfg.Address.String(), Family: family, Prefixes: lookups,
		}
		if err := l.timed(func() error {
			return l.gobgp.ListPath(request, func(nlri bgp.NLRI, paths []*apiutil.Path) {
				p, ok := prefixOf(nlri)
				for _, path := range paths {
					out[p] = out[p] || ok && !path.Filtered
				}
			})
		}); err != nil {
			l.log.Error("monitored prefixes", "neighbour", n.cfg.Name, "err", err)
		}
	}
	cost := time.Since(begin)
	l.monitorAt = begin.Add(min(pollShare*cost, maxPace))
	l.view.monitored(n, out, now, life)
}

// toMonitor chooses the neighbour that has waited longest of those whose turn it is: after a minute, a moment after it
// came up, and a moment after something happened.
func (v *view) toMonitor(now, eventAt time.Time) (*neighbour, uint64) {
	v.mu.Lock()
	defer v.mu.Unlock()
	var next *neighbour
	for _, n := range v.order {
		if n.state != Established {
			continue
		}
		age := now.Sub(n.advertisedAt)
		fresh := n.advertisedLife != n.establishments && now.Sub(n.since) >= monitorSoon
		changed := !eventAt.IsZero() && now.Sub(eventAt) >= monitorSoon && n.advertisedAt.Before(eventAt.Add(monitorSoon)) && age >= monitorBusy
		if (fresh || changed || age >= monitorEvery && n.advertisedLife == n.establishments) && (next == nil || n.advertisedAt.Before(next.advertisedAt)) {
			next = n
		}
	}
	if next == nil {
		return nil, 0
	}
	return next, next.establishments
}

// monitored takes the answer, unless the session is another one by now.
func (v *view) monitored(n *neighbour, out map[netip.Prefix]bool, now time.Time, life uint64) {
	v.mu.Lock()
	defer v.mu.Unlock()
	n.advertisedAt = now
	if n.establishments != life {
		return
	}
	n.advertised, n.advertisedLife, v.counted = out, life, true
}
