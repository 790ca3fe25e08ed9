package bgp

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/osrg/gobgp/v4/pkg/apiutil"
	"github.com/osrg/gobgp/v4/pkg/packet/bgp"

	"sitewire/bgp/policy"
	"sitewire/routes"
)

// batchSize of paths in one call: half the cost of single ones, and a bound on how long receiving stops.
const batchSize = 1000

// announce brings our own paths in step with the configuration.
func (l *loop) announce() error {
	want := map[netip.Prefix]Announcement{}
	for _, a := range l.config.Announce {
		want[a.Prefix] = a
	}
	var gone, add []Announcement
	for _, p := range slices.SortedFunc(maps.Keys(l.own), netip.Prefix.Compare) {
		if _, ok := want[p]; !ok {
			gone = append(gone, l.own[p])
		}
	}
	for _, a := range l.config.Announce {
		if have, ok := l.own[a.Prefix]; !ok || !slices.Equal(have.Communities, a.Communities) {
			add = append(add, a)
		}
	}
	for batch := range slices.Chunk(add, batchSize) {
		paths, err := ownPaths(batch)
		if err != nil {
			return err
		}
		if err := l.timed(func() error {
			_, err := l.gobgp.AddPath(apiutil.AddPathRequest{Paths: paths})
			return err
		}); err != nil {
			return fmt.Errorf("announce: %w", err)
		}
		for _, a := range batch {
			l.own[a.Prefix] = a
		}
	}
	for batch := range slices.Chunk(gone, batchSize) {
		paths, err := ownPaths(batch)
		if err != nil {
			return err
		}
		if err := l.timed(func() error { return l.gobgp.DeletePath(apiutil.DeletePathRequest{Paths: paths}) }); err != nil {
			return fmt.Errorf("withdraw: %w", err)
		}
		for _, a := range batch {
			delete(l.own, a.Prefix)
		}
	}
	return nil
}

func ownPaths(list []Announcement) ([]*apiutil.Path, error) {
	out := make([]*apiutil.Path, len(list))
	for i, a := range list {
		p, err := ownPath(a)
		if err != nil {
			return nil, fmt.Errorf("announce %v: %w", a.Prefix, err)
		}
		out[i] = p
	}
	return out, nil
}

// ownPath is a path without next hop: each session puts its own address there.
func ownPath(a Announcement) (*apiutil.Path, error) {
	nlri, err := bgp.NewIPAddrPrefix(a.Prefix)
	if err != nil {
		return nil, err
	}
	p := &apiutil.Path{Family: families[routes.FamilyOf(a.Prefix)], Nlri: nlri, Age: time.Now().Unix()}
	p.Attrs = []bgp.PathAttributeInterface{bgp.NewPathAttributeOrigin(bgp.BGP_ORIGIN_ATTR_TYPE_IGP)}
	var hop bgp.PathAttributeInterface
	if a.Prefix.Addr().Is4() {
		hop, err = bgp.NewPathAttributeNextHop(netip.IPv4Unspecified())
	} else {
		hop, err = bgp.NewPathAttributeMpReachNLRI(bgp.RF_IPv6_UC, []bgp.PathNLRI{{NLRI: nlri}}, netip.IPv6Unspecified())
	}
	if err != nil {
		return nil, err
	}
	p.Attrs = append(p.Attrs, hop)
	var std []uint32
	var large []*bgp.LargeCommunity
	for _, s := range a.Communities {
		c, err := policy.ParseCommunity(s)
		if err != nil {
			return nil, err
		}
		if strings.Count(c, ":") == 2 {
			v := &bgp.LargeCommunity{}
			if _, err := fmt.Sscanf(c, "%d:%d:%d", &v.ASN, &v.LocalData1, &v.LocalData2); err != nil {
				return nil, err
			}
			large = append(large, v)
		} else {
			var high, low uint32
			if _, err := fmt.Sscanf(c, "%d:%d", &high, &low); err != nil {
				return nil, err
			}
			std = append(std, high<<16|low)
		}
	}
	if std != nil {
		p.Attrs = append(p.Attrs, bgp.NewPathAttributeCommunities(std))
	}
	if large != nil {
		p.Attrs = append(p.Attrs, bgp.NewPathAttributeLargeCommunities(large))
	}
	return p, nil
}
