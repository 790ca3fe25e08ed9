package gateway

import (
	"cmp"
	"context"
	"maps"
	"net/netip"
	"slices"
	"time"
)

// pathEvery is how old an answer about the path to an endpoint may be. Each costs a netlink socket and two requests:
// asking for all of 100 peers every linkEvery was a fifth of what an idle gateway used.
const pathEvery = time.Minute

// path is what is known of the way to an endpoint.
type path struct {
	endpoint netip.Addr
	mark     uint32
	mtu      int // 0: not known
	at       time.Time
}

// mtu of a device: as configured, else what the paths to its peers' endpoints leave.
func (t *tunnels) mtu(ctx context.Context, d *device) int {
	if d.spec.MTU != 0 {
		return d.spec.MTU
	}
	const usual = 1420 // 1500 less the overhead of WireGuard over IPv6
	m := usual
	t.paths(ctx, d)
	for _, p := range d.peers {
		if p.path.mtu == 0 || !p.endpoint().IsValid() {
			continue
		}
		overhead := 80
		if p.path.endpoint.Unmap().Is4() {
			overhead = 60
		}
		m = min(m, p.path.mtu-overhead)
	}
	return max(m, 1280)
}

// paths asks about the ways to endpoints that are not known, and about those asked longest ago: each has its turn once
// in pathEvery. What changes one path mostly changes others, so all are asked as soon as one has another answer.
func (t *tunnels) paths(ctx context.Context, d *device) {
	now := t.now()
	share := (len(d.peers)*int(linkEvery) + int(pathEvery) - 1) / int(pathEvery)
	oldest := slices.SortedFunc(maps.Values(d.peers), func(a, b *peer) int {
		return cmp.Or(a.path.at.Compare(b.path.at), cmp.Compare(a.spec.Name, b.spec.Name))
	})
	for i, p := range oldest {
		ep := p.endpoint()
		if !ep.IsValid() {
			continue
		}
		next := path{endpoint: ep.Addr(), mark: d.spec.FirewallMark, at: now}
		known := p.path.mtu != 0 && p.path.endpoint == next.endpoint && p.path.mark == next.mark
		if known && i >= share && now.Sub(p.path.at) < pathEvery {
			continue
		}
		if mtu, err := t.host.PathMTU(ctx, next.endpoint, next.mark); err == nil { // without a route, the others say
			next.mtu = mtu
		}
		if known && next.mtu != p.path.mtu {
			share = len(oldest)
		}
		p.path = next
	}
}
