package routes

import (
	"net/netip"
	"slices"

	"github.com/gaissmai/bart"
)

// rules is a Policy, indexed for the questions that decisions ask.
//
// Owner: the Table. Immutable but for peer.alive and peer.severed.
type rules struct {
	policy Policy
	peers  map[string]*peer
	// on lists the peers of a device, in the order of the policy.
	on map[string][]*peer
	// claims are the prefixes that the configuration gives to peers, in the order of the policy.
	claims map[netip.Prefix][]claim
	own    *bart.Lite
	// tunnel finds the peer that has an address; link-local ones carry the device as their zone.
	tunnel map[netip.Addr]*peer
	// recursive says that a neighbour has Recursive set: only then is the base table kept.
	recursive bool
}

// peer is a Peer with what belongs to it.
type peer struct {
	Peer
	shared bool // the device has other peers, or may have
	list   *bart.Lite
	alive  liveness
	// severed says that no neighbour behind it can be reached.
	severed bool
}

// liveness of a peer: the zero value is for one that was never mentioned.
type liveness uint8

const (
	unknown liveness = iota
	alive
	dead
)

// claim is a configured prefix of a peer.
type claim struct {
	peer   *peer
	source Source
	// routed says that there is a route as well; under source Static only while the peer is alive.
	routed bool
}

// neighbour is a BGP speaker that paths came from. It lives as long as the Table; its rule changes with the policy.
// Only name may be read outside the Table's goroutine.
type neighbour struct {
	name  string
	known bool
	rule  Neighbour
	peer  *peer // nil on the LAN
	// tunnel is the way to the peer.
	tunnel []way
	// loss is how the last session ended, until something is announced in another.
	loss Loss
	// prefixes for which the neighbour has a path or is in the best set.
	prefixes bart.Lite
	// cut says that it cannot be reached: its paths do not count, though it has not withdrawn them.
	cut bool
}

// label is what listings count the neighbour's routes under.
func (r *Neighbour) label() string {
	if r.Peer != "" {
		return r.Peer
	}
	return r.Name
}

func compileRules(p Policy) *rules {
	r := &rules{
		policy: p,
		peers:  make(map[string]*peer, len(p.Peers)),
		on:     make(map[string][]*peer),
		claims: make(map[netip.Prefix][]claim),
		own:    new(bart.Lite),
		tunnel: make(map[netip.Addr]*peer),
	}
	for _, pp := range p.Peers {
		c := &peer{Peer: pp, list: new(bart.Lite)}
		r.peers[pp.Name] = c
		r.on[pp.Device] = append(r.on[pp.Device], c)
	}
	for _, pp := range p.Peers {
		c := r.peers[pp.Name]
		c.shared = pp.Shared || len(r.on[pp.Device]) > 1
		r.claim(c)
	}
	for _, o := range p.Own {
		r.own.Insert(o)
	}
	r.recursive = slices.ContainsFunc(p.Neighbours, func(n Neighbour) bool { return n.Recursive })
	return r
}

func (r *rules) claim(c *peer) {
	add := func(p netip.Prefix, s Source, routed bool) {
		p = p.Masked()
		r.claims[p] = append(r.claims[p], claim{c, s, routed})
	}
	for _, t := range c.Tunnel {
		ll := t.Addr().IsLinkLocalUnicast()
		if c.Mode != Any {
			add(t, Tunnel, c.shared && !ll)
		}
		if t.IsSingleIP() {
			a := t.Addr()
			if ll {
				a = a.WithZone(c.Device)
			}
			if _, taken := r.tunnel[a]; !taken {
				r.tunnel[a] = c
			}
		}
	}
	switch c.Mode {
	case Any:
		add(netip.PrefixFrom(netip.IPv4Unspecified(), 0), Static, false)
		add(netip.PrefixFrom(netip.IPv6Unspecified(), 0), Static, false)
	case List:
		for _, p := range c.Prefixes {
			add(p, Static, false)
			c.list.Insert(p)
		}
	case Learned:
	}
	if c.Static {
		for _, p := range c.Prefixes {
			p = p.Masked()
			if i := slices.IndexFunc(r.claims[p], func(x claim) bool { return x.peer == c && x.source == Static }); i >= 0 {
				r.claims[p][i].routed = true
			} else {
				add(p, Static, true)
			}
		}
	}
}

// owner returns which peer of the device the configuration gives the prefix to; nil if none. The first claimant that is
// alive has it, else the first.
func (r *rules) owner(device string, p netip.Prefix) *peer {
	var first *peer
	for _, c := range r.claims[p] {
		if c.peer.Device != device {
			continue
		}
		if c.peer.alive == alive {
			return c.peer
		}
		if first == nil {
			first = c.peer
		}
	}
	return first
}

// refuse says why traffic for the prefix cannot go to the peer; empty if it can. A nil peer is a hop that is not a
// tunnel.
func (r *rules) refuse(c *peer, p netip.Prefix) (string, State) {
	if c == nil {
		return "", Selected
	}
	if c.alive == dead || c.severed {
		return "peer " + c.Name + " is down", Down
	}
	if o := r.owner(c.Device, p); o != nil && o != c {
		return p.String() + " belongs to peer " + o.Name + " on dev " + c.Device, Refused
	} else if o == nil && c.Mode != Learned {
		// On a shared device a covering entry is not enough: another peer may own what lies between.
		covered := c.Mode == Any || c.list.LookupPrefix(p)
		if c.shared || !covered {
			return "not in the allowed_ips of peer " + c.Name, Refused
		}
	}
	return "", Selected
}
