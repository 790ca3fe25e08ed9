package bgp

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"time"

	"github.com/osrg/gobgp/v4/pkg/apiutil"
	"github.com/osrg/gobgp/v4/pkg/packet/bgp"
)

// GoBGP v4.8.0 sends a neighbour its table, and only then notes that the session is established; what changes in
// between is never sent to it: routes are missing, or stay for ever. So we write down what changes while a session
// comes up, and have it sent again once it is up.

// settleTime after a session is established covers the moment until GoBGP has noted it.
const settleTime = 500 * time.Millisecond

// settling is what changed while a session came up.
type settling struct {
	up      time.Time // when we learned that it is established; zero before
	changed bool
	gone    map[netip.Prefix]struct{} // prefixes that lost their last best path
}

// opening notes that a neighbour's session is about to come up, or did, or not.
func (v *view) opening(n *neighbour) {
	switch n.state {
	case OpenConfirm:
		v.settling[n] = &settling{gone: map[netip.Prefix]struct{}{}}
	case Established:
		if v.settling[n] == nil {
			v.settling[n] = &settling{gone: map[netip.Prefix]struct{}{}}
		}
		v.settling[n].up = time.Now()
	default:
		delete(v.settling, n)
	}
}

// unsettled notes a change of a prefix's best paths.
func (v *view) unsettled(p netip.Prefix, gone bool) {
	for _, s := range v.settling {
		s.changed = true
		if gone {
			s.gone[p] = struct{}{}
		} else {
			delete(s.gone, p)
		}
	}
}

// settle sends again what was missed by sessions that are up by now.
func (l *loop) settle() error {
	l.view.mu.Lock()
	gone := map[netip.Prefix]struct{}{}
	for n, s := range l.view.settling {
		if s.up.IsZero() || time.Since(s.up) < settleTime {
			continue
		}
		delete(l.view.settling, n)
		if s.changed && l.soft(n.cfg.Address, false, true) {
			l.pace[n.cfg.Address].next = time.Time{}
		}
		maps.Copy(gone, s.gone)
	}
	for p := range gone {
		if l.view.best.find(p) != 0 {
			delete(gone, p)
		}
	}
	l.view.mu.Unlock()
	return l.withdrawAgain(slices.SortedFunc(maps.Keys(gone), netip.Prefix.Compare))
}

// withdrawAgain makes GoBGP send withdrawals of prefixes that are not in its table: it adds a path that no neighbour is
// sent, and takes it away.
func (l *loop) withdrawAgain(list []netip.Prefix) error {
	for batch := range slices.Chunk(list, batchSize) {
		var paths []*apiutil.Path
		for _, p := range batch {
			path, err := ownPath(Announcement{Prefix: p, Communities: []string{standard(markNowhere)}})
			if err != nil {
				return fmt.Errorf("withdraw %v again: %w", p, err)
			}
			paths = append(paths, path)
		}
		err := l.timed(func() error {
			_, err := l.gobgp.AddPath(apiutil.AddPathRequest{Paths: paths})
			return errors.Join(err, l.gobgp.DeletePath(apiutil.DeletePathRequest{Paths: paths}))
		})
		if err != nil {
			return fmt.Errorf("withdraw again: %w", err)
		}
	}
	return nil
}

// nowhere reports whether an own path is one of withdrawAgain.
func nowhere(p *apiutil.Path) bool {
	return slices.ContainsFunc(p.Attrs, func(a bgp.PathAttributeInterface) bool {
		c, ok := a.(*bgp.PathAttributeCommunities)
		return ok && slices.Contains(c.Value, markNowhere)
	})
}
