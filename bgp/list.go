package bgp

import (
	"cmp"
	"context"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/osrg/gobgp/v4/api"
	"github.com/osrg/gobgp/v4/pkg/apiutil"
	"github.com/osrg/gobgp/v4/pkg/packet/bgp"

	"sitewire/bgp/policy"
	"sitewire/routes"
)

// Direction says which of a neighbour's routes a listing shows.
type Direction string

// Values of Filter.Direction.
const (
	DirReceived   Direction = "received"   // all that came in, accepted or not
	DirAccepted   Direction = "accepted"   // after import policy
	DirRejected   Direction = "rejected"   // with the reason
	DirAdvertised Direction = "advertised" // what goes out to the neighbour; GoBGP has to compute it
	DirBest       Direction = "best"       // of all neighbours, and our own
)

// Directions lists them.
func Directions() []Direction {
	return []Direction{DirReceived, DirAccepted, DirRejected, DirAdvertised, DirBest}
}

// DefaultLimit of routes in a listing.
const DefaultLimit = 1000

// Filter selects routes.
type Filter struct {
	// Neighbour by name; empty is all of them, where the direction allows it (not for DirAdvertised).
	Neighbour string
	Direction Direction // empty is DirReceived
	// Prefix exactly, if valid; with Longer also what lies within it.
	Prefix netip.Prefix
	Longer bool
	// Limit of entries returned; 0 is DefaultLimit, negative is none.
	Limit int
}

// Entry is a route in a listing.
type Entry struct {
	Prefix    netip.Prefix  `json:"prefix"`
	Neighbour string        `json:"neighbour"` // it comes from; empty is our own. For DirAdvertised the one it goes to
	Peer      string        `json:"peer,omitempty"`
	NextHop   netip.Addr    `json:"next_hop,omitzero"`
	Best      bool          `json:"best"`
	Stale     bool          `json:"stale,omitempty"`
	Rejected  string        `json:"rejected,omitempty"`
	Rule      string        `json:"rule,omitempty"` // the import rule that accepted it
	Received  time.Time     `json:"received,omitzero"`
	Attrs     *routes.Attrs `json:"attrs"`
}

// Routes lists routes by prefix, then neighbour, and says how many there are beyond the limit. All but DirAdvertised is
// read from our own picture and disturbs nothing.
func (s *Speaker) Routes(ctx context.Context, f Filter) (list []Entry, total int, err error) {
	f.Direction = cmp.Or(f.Direction, DirReceived)
	if !slices.Contains(Directions(), f.Direction) {
		return nil, 0, fmt.Errorf("bgp: %q is not a kind of listing: want one of %v", f.Direction, Directions())
	}
	if f.Prefix.IsValid() {
		f.Prefix = f.Prefix.Masked()
	}
	switch f.Direction {
	case DirAdvertised:
		list, err = s.advertised(ctx, f)
	case DirBest:
		list, err = s.view.listBest(f)
	default:
		list, err = s.view.listReceived(f)
	}
	if err != nil {
		return nil, 0, fmt.Errorf("bgp: %w", err)
	}
	slices.SortFunc(list, func(a, b Entry) int {
		return cmp.Or(a.Prefix.Compare(b.Prefix), cmp.Compare(a.Neighbour, b.Neighbour))
	})
	total = len(list)
	if limit := cmp.Or(f.Limit, DefaultLimit); limit > 0 && total > limit {
		list = list[:limit:limit]
	}
	return list, total, nil
}

func (f *Filter) matches(p netip.Prefix) bool {
	return !f.Prefix.IsValid() || p == f.Prefix || f.Longer && p.Bits() >= f.Prefix.Bits() && f.Prefix.Contains(p.Addr())
}

// from lists the neighbours that the filter names.
func (v *view) from(f *Filter) ([]*neighbour, error) {
	if f.Neighbour == "" {
		return v.order, nil
	}
	n := v.byName[f.Neighbour]
	if n == nil {
		return nil, fmt.Errorf("there is no neighbour %q", f.Neighbour)
	}
	return []*neighbour{n}, nil
}

func (v *view) listReceived(f Filter) ([]Entry, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	from, err := v.from(&f)
	if err != nil {
		return nil, err
	}
	var out []Entry
	add := func(n *neighbour, p netip.Prefix, e entry) {
		if f.Direction == DirReceived || (f.Direction == DirRejected) == (e.reason != "") {
			out = append(out, v.entry(n, p, &e))
		}
	}
	for _, n := range from {
		for i := range n.in {
			if f.Prefix.IsValid() && !f.Longer {
				if e, ok := n.in[i].entries.get(f.Prefix); ok {
					add(n, f.Prefix, e)
				}
				continue
			}
			for p, e := range n.in[i].entries.all() {
				if f.matches(p) {
					add(n, p, e)
				}
			}
		}
	}
	return out, nil
}

// entry renders a path; the attributes are those after policy if it was accepted, as they came otherwise.
func (v *view) entry(n *neighbour, p netip.Prefix, e *entry) Entry {
	out := Entry{
		Prefix: p, Neighbour: n.cfg.Name, Peer: cmp.Or(n.cfg.Peer, n.cfg.Name), NextHop: n.nextHop(e.from.nextHop),
		Stale: n.state != Established || e.from.generation != n.generation, Rejected: e.reason, Received: e.from.at, Attrs: &e.from.attrs,
		Best: slices.ContainsFunc(v.bestOf(p), func(b bestPath) bool { return b.from == n && !b.hidden }),
	}
	if e.reason == "" {
		verdict := n.policy.EvalImport(e.from.route(p, n.policyHop(e.from.nextHop), n.source), &n.context)
		out.Rule, out.Attrs = verdict.Rule, e.from.after(&verdict.Route, nil)
	}
	return out
}

func (v *view) listBest(f Filter) ([]Entry, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if _, err := v.from(&f); err != nil {
		return nil, err
	}
	var out []Entry
	add := func(p netip.Prefix) {
		for _, b := range v.bestOf(p) {
			switch {
			case b.hidden || f.Neighbour != "" && (b.from == nil || b.from.cfg.Name != f.Neighbour):
			case b.from == nil:
				out = append(out, Entry{Prefix: p, Best: true, Attrs: v.ownAttrs(p)})
			default:
				if e, ok := b.from.in[routes.FamilyOf(p)].entries.get(p); ok {
					out = append(out, v.entry(b.from, p, &e))
				}
			}
		}
	}
	if f.Prefix.IsValid() && !f.Longer {
		add(f.Prefix)
		return out, nil
	}
	for p := range v.best.all() {
		if f.matches(p) {
			add(p)
		}
	}
	return out, nil
}

func (v *view) ownAttrs(p netip.Prefix) *routes.Attrs {
	var communities []string
	for _, a := range v.config.Announce {
		if a.Prefix == p {
			for _, c := range a.Communities {
				if parsed, err := policy.ParseCommunity(c); err == nil {
					communities = append(communities, parsed)
				}
			}
		}
	}
	return newAttrs("igp", nil, communities, defaultLocalPref, 0)
}

// advertised asks GoBGP, which applies export policy to all best paths for it and stops receiving meanwhile.
func (s *Speaker) advertised(ctx context.Context, f Filter) ([]Entry, error) {
	if f.Neighbour == "" {
		return nil, fmt.Errorf("a listing of advertised routes needs a neighbour")
	}
	var out []Entry
	err := s.do(ctx, func(l *loop) error {
		l.view.mu.Lock()
		n := l.view.byName[f.Neighbour]
		var up bool
		var offered [2]bool
		if n != nil {
			up, offered = n.state == Established, [2]bool{n.in[0].offered, n.in[1].offered}
		}
		l.view.mu.Unlock()
		if n == nil {
			return fmt.Errorf("there is no neighbour %q", f.Neighbour)
		}
		peer := l.peers[n.cfg.Address]
		if !up || peer == nil || !peer.added {
			return nil
		}
		for i, family := range families {
			if !offered[i] || f.Prefix.IsValid() && routes.FamilyOf(f.Prefix) != routes.Family(i) {
				continue
			}
			request := apiutil.ListPathRequest{TableType: api.TableType_TABLE_TYPE_ADJ_OUT, Name: n.cfg.Address.String(), Family: family}
			if f.Prefix.IsValid() {
				lookup := &apiutil.LookupPrefix{Prefix: f.Prefix.String()}
				if f.Longer {
					lookup.LookupOption = apiutil.LOOKUP_LONGER
				}
				request.Prefixes = []*apiutil.LookupPrefix{lookup}
			}
			if err := l.timed(func() error {
				return l.gobgp.ListPath(request, func(nlri bgp.NLRI, paths []*apiutil.Path) {
					p, ok := prefixOf(nlri)
					for _, path := range paths {
						if ok && !path.Filtered && f.matches(p) {
							r := new(words).readAttrs(path.Attrs, true)
							out = append(out, Entry{Prefix: p, Neighbour: f.Neighbour, Peer: cmp.Or(n.cfg.Peer, n.cfg.Name), NextHop: r.nextHop, Best: true, Attrs: &r.attrs})
						}
					}
				})
			}); err != nil {
				return fmt.Errorf("advertised routes of %s: %w", f.Neighbour, err)
			}
		}
		return nil
	})
	return out, err
}
