package routestest

import (
	"maps"
	"net/netip"
	"slices"
	"strings"

	"sitewire/routes"
)

// Oracle says what should be installed, computed from scratch by the words of the design and without a thought for
// speed. It takes the same calls as a routes.Feed, at once and unfolded. It knows no limit of routes.
type Oracle struct {
	Policy    routes.Policy
	Connected []routes.Route

	paths map[netip.Prefix]map[string]*routes.Path
	best  map[netip.Prefix]map[string]netip.Addr
	alive map[string]bool
	cut   map[string]bool // neighbours that cannot be reached
	// Backups says that there is a Switcher.
	Backups bool
}

// NewOracle returns an oracle that has heard nothing.
func NewOracle(p routes.Policy, connected []routes.Route) *Oracle {
	return &Oracle{
		Policy:    p,
		Connected: connected,
		paths:     make(map[netip.Prefix]map[string]*routes.Path),
		best:      make(map[netip.Prefix]map[string]netip.Addr),
		alive:     make(map[string]bool),
		cut:       make(map[string]bool),
	}
}

// PutPath is as in routes.Feed.
func (o *Oracle) PutPath(neighbour string, p netip.Prefix, path *routes.Path) {
	if path == nil {
		delete(o.paths[p], neighbour)
		return
	}
	if o.paths[p] == nil {
		o.paths[p] = make(map[string]*routes.Path)
	}
	o.paths[p][neighbour] = path
}

// PutBest is as in routes.Feed.
func (o *Oracle) PutBest(changes ...routes.BestChange) {
	for _, c := range changes {
		if c.Replace || o.best[c.Prefix] == nil {
			o.best[c.Prefix] = make(map[string]netip.Addr)
		}
		set := o.best[c.Prefix]
		if !c.Withdrawn {
			set[c.Neighbour] = c.NextHop
		} else if !c.NextHop.IsValid() || set[c.Neighbour] == c.NextHop {
			delete(set, c.Neighbour)
		}
	}
}

// PutEndOfRIB is as in routes.Feed.
func (o *Oracle) PutEndOfRIB(neighbour string, f routes.Family, session uint32) {
	for p, by := range o.paths {
		if path := by[neighbour]; path != nil && routes.FamilyOf(p) == f && path.Session < session {
			delete(by, neighbour)
		}
	}
}

// PutAlive is as in routes.Feed.
func (o *Oracle) PutAlive(peer string, alive bool) { o.alive[peer] = alive }

// PutReachable is as in routes.Feed.
func (o *Oracle) PutReachable(neighbour string, is bool) {
	if n := o.neighbour(neighbour); n != nil && !n.Disabled {
		o.cut[neighbour] = !is
	}
}

// SetPolicy puts another policy in force. Of neighbours that it does not name, nobody tells when they are back.
func (o *Oracle) SetPolicy(p routes.Policy) {
	o.Policy = p
	for name := range o.cut {
		if o.neighbour(name) == nil {
			delete(o.cut, name)
		}
	}
}

// PutNeighbourGone is as in routes.Feed.
func (o *Oracle) PutNeighbourGone(name string) {
	for _, by := range o.paths {
		delete(by, name)
	}
	for _, set := range o.best {
		delete(set, name)
	}
}

// Desired returns what should be in the kernel and on the devices, sorted.
func (o *Oracle) Desired() (list []routes.Route, allowed []routes.AllowedIP) {
	prefixes := make(map[netip.Prefix]bool)
	for p := range o.paths {
		prefixes[p] = true
	}
	for p := range o.best {
		prefixes[p] = true
	}
	for _, p := range o.Policy.Own {
		prefixes[p] = true
	}
	for _, peer := range o.Policy.Peers {
		for _, p := range o.configured(peer) {
			prefixes[p] = true
		}
	}
	for p := range prefixes {
		hops := o.route(p, true)
		if len(hops) > 0 {
			var hs []routes.Hop
			for _, h := range hops {
				hs = append(hs, h.hop)
			}
			list = append(list, routes.Route{Prefix: p, Hops: routes.CanonicalHops(hs), Backup: o.backup(p, hops)})
		}
		if o.Policy.Unreachable && slices.Contains(o.Policy.Own, p) {
			list = append(list, routes.Route{Prefix: p, Type: routes.Unreachable})
		}
		allowed = append(allowed, o.owners(p, hops)...)
	}
	slices.SortFunc(list, compareRoutes)
	slices.SortFunc(allowed, compareAllowed)
	return list, allowed
}

// way is a hop and the peer behind it, nil if it is no tunnel.
type way struct {
	hop  routes.Hop
	peer *routes.Peer
}

func (o *Oracle) peer(name string) *routes.Peer {
	for i := range o.Policy.Peers {
		if o.Policy.Peers[i].Name == name {
			return &o.Policy.Peers[i]
		}
	}
	return nil
}

func (o *Oracle) neighbour(name string) *routes.Neighbour {
	for i := range o.Policy.Neighbours {
		if o.Policy.Neighbours[i].Name == name {
			return &o.Policy.Neighbours[i]
		}
	}
	return nil
}

func (o *Oracle) shared(p *routes.Peer) bool {
	n := 0
	for _, x := range o.Policy.Peers {
		if x.Device == p.Device {
			n++
		}
	}
	return p.Shared || n > 1
}

func (o *Oracle) dead(p *routes.Peer) bool {
	if is, told := o.alive[p.Name]; told && !is {
		return true
	}
	behind, cut := 0, 0
	for _, n := range o.Policy.Neighbours {
		if n.Peer == p.Name {
			behind++
			if o.cut[n.Name] {
				cut++
			}
		}
	}
	return behind > 0 && cut == behind
}

// Dead tells of a device that its only peer cannot be reached; Alive that it surely can be.
func (o *Oracle) Dead(device string) (dead, alive bool) {
	for i := range o.Policy.Peers {
		if p := &o.Policy.Peers[i]; p.Device == device && !o.shared(p) {
			return o.dead(p), o.alive[p.Name] && !o.dead(p)
		}
	}
	return false, true
}

// backup is where packets go once the only hop is lost: what the route would be then, as far as nothing but the route has to
// change for it.
func (o *Oracle) backup(p netip.Prefix, hops []way) []routes.Hop {
	if !o.Backups || len(hops) != 1 || hops[0].peer == nil || o.shared(hops[0].peer) || o.configuredRoute(p) != nil {
		return nil
	}
	first := func(n string, nextHop netip.Addr) []routes.Hop {
		for _, w := range o.usable(p, n, nextHop, true) {
			if w.hop.Device != hops[0].hop.Device && (w.peer == nil || w.peer.Name == o.neighbour(n).Peer && !o.shared(w.peer)) {
				return routes.CanonicalHops([]routes.Hop{w.hop})
			}
		}
		return nil
	}
	for _, n := range slices.Sorted(maps.Keys(o.best[p])) {
		path := o.paths[p][n]
		if h := first(n, o.best[p][n]); h != nil && path != nil && path.Rejected == "" {
			return h
		}
	}
	for _, n := range o.spare(p) {
		if h := first(n, o.paths[p][n].NextHop); h != nil {
			return h
		}
	}
	return nil
}

// configured are the prefixes that the configuration gives to the peer.
func (o *Oracle) configured(p routes.Peer) []netip.Prefix {
	var out []netip.Prefix
	switch p.Mode {
	case routes.Any:
		out = append(out, netip.MustParsePrefix("0.0.0.0/0"), netip.MustParsePrefix("::/0"))
	case routes.List:
		out = append(slices.Clone(p.Tunnel), p.Prefixes...)
	case routes.Learned:
		out = slices.Clone(p.Tunnel)
	}
	if p.Static {
		out = append(out, p.Prefixes...)
	}
	return out
}

// owner by configuration: the first that is alive, else the first.
func (o *Oracle) owner(device string, p netip.Prefix) *routes.Peer {
	var first *routes.Peer
	for i := range o.Policy.Peers {
		x := &o.Policy.Peers[i]
		if x.Device != device || !slices.Contains(o.configured(*x), p) {
			continue
		}
		if o.alive[x.Name] {
			return x
		}
		if first == nil {
			first = x
		}
	}
	return first
}

// route returns the ways to a prefix. Without indirect only next hops that need no other route count.
func (o *Oracle) route(p netip.Prefix, indirect bool) []way {
	if c := o.configuredRoute(p); c != nil {
		return []way{{routes.Hop{Device: c.Device}, c}}
	}
	set := o.best[p]
	if _, ours := set[""]; ours || len(set) == 0 || slices.Contains(o.Policy.Own, p) {
		return nil
	}
	most := max(1, o.Policy.MaxPaths)
	var out []way
	take := func(neighbour string, nextHop netip.Addr) {
		for _, w := range o.usable(p, neighbour, nextHop, indirect) {
			same := slices.ContainsFunc(out, func(x way) bool {
				return x.hop == w.hop || x.peer != nil && w.peer != nil && x.peer.Device == w.peer.Device
			})
			if !same && len(out) < most {
				out = append(out, w)
			}
		}
	}
	for _, n := range slices.Sorted(maps.Keys(set)) {
		take(n, set[n])
	}
	if len(out) > 0 {
		return out
	}
	for _, n := range o.spare(p) {
		if take(n, o.paths[p][n].NextHop); len(out) > 0 {
			return out
		}
	}
	return nil
}

// configuredRoute is whom the configuration routes a prefix to: configured routes come first, tunnel addresses of a peer
// before its static prefixes.
func (o *Oracle) configuredRoute(p netip.Prefix) *routes.Peer {
	for i := range o.Policy.Peers {
		x := &o.Policy.Peers[i]
		tunnel := x.Mode != routes.Any && o.shared(x) && slices.Contains(x.Tunnel, p) && !p.Addr().IsLinkLocalUnicast()
		static := x.Static && o.alive[x.Name] && slices.Contains(x.Prefixes, p)
		if (tunnel || static) && o.owner(x.Device, p) == x {
			return x
		}
	}
	return nil
}

// spare are those with an accepted path, best first: local repair.
func (o *Oracle) spare(p netip.Prefix) []string {
	var spare []string
	for _, n := range slices.Sorted(maps.Keys(o.paths[p])) {
		if o.paths[p][n].Rejected == "" {
			spare = append(spare, n)
		}
	}
	rank := func(n string) [4]int {
		a := o.paths[p][n].Attrs
		if a == nil {
			return [4]int{0, 0, 2, 0}
		}
		origin := slices.Index([]string{"igp", "egp"}, a.Origin)
		if origin < 0 {
			origin = 2
		}
		return [4]int{-int(a.LocalPref), len(a.ASPath), origin, int(a.MED)}
	}
	slices.SortStableFunc(spare, func(a, b string) int {
		ra, rb := rank(a), rank(b)
		return slices.Compare(ra[:], rb[:])
	})
	return spare
}

// owners returns who should own a prefix, given the ways of its route.
func (o *Oracle) owners(p netip.Prefix, ways []way) []routes.AllowedIP {
	by := make(map[string]string)
	claim := func(x *routes.Peer) {
		if _, taken := by[x.Device]; !taken {
			by[x.Device] = x.Name
		}
	}
	for _, x := range o.Policy.Peers {
		if w := o.owner(x.Device, p); w != nil && (w.Mode != routes.Any || p.Bits() == 0) {
			claim(w)
		}
	}
	if !slices.Contains(o.Policy.Own, p) {
		for _, w := range ways {
			if w.peer != nil && w.peer.Mode == routes.Learned {
				claim(w.peer)
			}
		}
		for n, path := range o.paths[p] {
			rule := o.neighbour(n)
			if rule == nil || path.Rejected != "" {
				continue
			}
			if x := o.peer(rule.Peer); x != nil && x.Mode == routes.Learned && !o.shared(x) {
				claim(x)
			}
		}
		for _, n := range slices.Sorted(maps.Keys(o.best[p])) {
			for _, w := range o.resolve(n, o.best[p][n], true) {
				if w.peer != nil && w.peer.Mode == routes.Learned && o.shared(w.peer) {
					claim(w.peer)
				}
			}
		}
	}
	var out []routes.AllowedIP
	for d, peer := range by {
		out = append(out, routes.AllowedIP{Device: d, Prefix: p, Peer: peer})
	}
	return out
}

// Sink is what a routes.Feed and an Oracle have in common.
type Sink interface {
	PutPath(neighbour string, prefix netip.Prefix, p *routes.Path)
	PutBest(changes ...routes.BestChange)
	PutEndOfRIB(neighbour string, f routes.Family, session uint32)
	PutAlive(peer string, alive bool)
	PutReachable(neighbour string, is bool)
	PutNeighbourGone(name string)
}

// Strings renders a desired state for comparison: one line each.
func Strings(list []routes.Route, allowed []routes.AllowedIP) string {
	var b strings.Builder
	for _, r := range list {
		b.WriteString(r.String() + "\n")
	}
	for _, a := range allowed {
		b.WriteString(a.String() + "\n")
	}
	return b.String()
}
