package policy

import (
	"net/netip"
	"slices"
)

// Martians returns what is refused from every neighbour and sent to none: addresses that have a meaning only on a
// link or a host, or none at all (RFC 6890 and RFC 7454 section 6.1.1). Private and documentation addresses are not
// among them: sites use the former, and labs the latter.
func Martians() []PrefixRange {
	var list []PrefixRange
	for _, s := range []string{
		"0.0.0.0/8",      // this network
		"127.0.0.0/8",    // loopback
		"169.254.0.0/16", // link-local
		"224.0.0.0/4",    // multicast
		"240.0.0.0/4",    // reserved, and the broadcast address
		"::/96",          // unspecified, loopback, and the deprecated IPv4-compatible addresses
		"::ffff:0:0/96",  // IPv4-mapped
		"fe80::/10",      // link-local
		"fec0::/10",      // site-local, deprecated by RFC 3879
		"ff00::/8",       // multicast
	} {
		list = append(list, OrLonger(netip.MustParsePrefix(s)))
	}
	return list
}

// martian is Martians without the allocations, for every route of every neighbour.
func martian(p netip.Prefix) bool {
	a, n := p.Addr(), p.Bits()
	b := a.As16()
	if a.Is4() {
		v4 := a.As4()
		switch {
		case n >= 8 && (v4[0] == 0 || v4[0] == 127):
			return true
		case n >= 16 && v4[0] == 169 && v4[1] == 254:
			return true
		}
		return n >= 4 && v4[0] >= 224
	}
	if n >= 96 && [10]byte(b[:10]) == [10]byte{} {
		tail := [2]byte(b[10:12])
		if tail == [2]byte{} || tail == [2]byte{0xff, 0xff} {
			return true
		}
	}
	return n >= 8 && b[0] == 0xff || n >= 10 && b[0] == 0xfe && b[1]&0x80 != 0
}

// Shortest prefix lengths that are networks. Shorter ones are defaults, or the halves and quarters that people split a
// default into so that it beats another; 2000::/3 is the IPv6 form of that.
const (
	shortest4 = 8
	shortest6 = 7 // fc00::/7
)

func isDefault(p netip.Prefix) bool {
	if p.Addr().Is4() {
		return p.Bits() < shortest4
	}
	return p.Bits() < shortest6
}

func (p *Policy) maxASPath() int {
	if p.MaxASPath == 0 {
		return DefaultMaxASPath
	}
	return p.MaxASPath
}

// refuseImport returns why a route is refused before any rule is asked; empty if it is not.
func (p *Policy) refuseImport(r *Route, c *Context) string {
	external := c.NeighbourASN != c.LocalASN
	switch {
	case !r.Prefix.IsValid() || r.Prefix != r.Prefix.Masked() || r.Prefix.Addr().Zone() != "" || martian(r.Prefix):
		return Martian
	case isDefault(r.Prefix) && !p.AllowDefault:
		return DefaultRoute
	case p.own(r.Prefix, c.Own):
		return OwnPrefix
	case !isDefault(r.Prefix) && slices.ContainsFunc(c.Endpoints, func(a netip.Addr) bool { return r.Prefix.Contains(a.WithZone("")) }):
		return CoversTunnel
	case len(r.ASPath) > p.maxASPath():
		return ASPathLength
	case slices.Contains(r.ASPath, 0):
		return ASZero
	case external && (len(r.ASPath) == 0 || r.ASPath[0] != c.NeighbourASN):
		return FirstAS
	case slices.Contains(r.ASPath, c.LocalASN):
		return ASLoop
	case !p.nextHop(r.NextHop, c, external):
		return NextHop
	}
	return ""
}

// own reports whether the prefix is one of the site's, or lies within one. A default route that the site announces is
// no claim to all addresses.
func (p *Policy) own(prefix netip.Prefix, own []netip.Prefix) bool {
	return slices.ContainsFunc(own, func(o netip.Prefix) bool {
		if o == prefix {
			return true
		}
		return !p.AllowOwnParts && !isDefault(o) && o.Bits() < prefix.Bits() && o.Contains(prefix.Addr())
	})
}

// nextHop reports whether the next hop is one that the neighbour may give. iBGP neighbours pass on those of others.
func (p *Policy) nextHop(hop netip.Addr, c *Context, external bool) bool {
	hop = hop.Unmap().WithZone("")
	if hop == netip.IPv6Unspecified() {
		return true // see Route.NextHop
	}
	if !hop.IsValid() || hop.IsUnspecified() || hop.IsLoopback() || hop.IsMulticast() || hop.Is4() && hop.As4()[0] >= 240 {
		return false
	}
	if !external || p.AllowThirdPartyNextHop {
		return true
	}
	return hop == c.Neighbour.Unmap().WithZone("") || slices.ContainsFunc(c.NextHops, func(a netip.Addr) bool {
		return hop == a.Unmap().WithZone("")
	})
}

// refuseExport returns why a route is not offered to the export rules.
func (p *Policy) refuseExport(r *Route, c *Context) string {
	if !r.Prefix.IsValid() || martian(r.Prefix) {
		return Martian
	}
	// RFC 1997 speaks of received routes: our own are sent with the communities that they were given.
	if r.Source == SourceOwn {
		return ""
	}
	for _, have := range r.Communities {
		switch have = canonical(have); {
		case have == noAdvertise:
			return NoAdvertise
		case (have == noExport || have == localAS) && c.NeighbourASN != c.LocalASN:
			return NoExport
		}
	}
	return ""
}
