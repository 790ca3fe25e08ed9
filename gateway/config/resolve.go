package config

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"sitewire/bgp/policy"
	"sitewire/gateway/wg"
)

// LinkLocal returns the link-local address that belongs to a public key: fe80::/64 with the first eight bytes of
// SHA-256("sitewire link-local" || key) as interface identifier. Both ends of a tunnel know both keys, so that a
// tunnel between two sitewires needs no addresses in its configuration.
func LinkLocal(k wg.PublicKey) netip.Addr {
	sum := sha256.Sum256(append([]byte("sitewire link-local"), k[:]...))
	a := [16]byte{0: 0xfe, 1: 0x80}
	copy(a[8:], sum[:8])
	return netip.AddrFrom16(a)
}

// deviceName returns the name of a peer's own device: wg-NAME, shortened to what Linux allows with the beginning of a
// hash in the place of what was cut off.
func deviceName(peer string) string {
	name := "wg-" + peer
	if len(name) <= 15 {
		return name
	}
	sum := sha256.Sum256([]byte(peer))
	return name[:10] + "-" + hex.EncodeToString(sum[:2])
}

// lowOrder reports whether a shared secret with the key would be the same for everybody (RFC 7748 section 6.1). The
// points are those of order 1, 2, 4 and 8 on the curve and its twist, with the encodings that are not reduced; the top
// bit is not part of a key. A table, because a multiplication for each of a thousand peers is felt.
func lowOrder(k wg.PublicKey) bool {
	k[wg.KeySize-1] &= 0x7f
	switch hex.EncodeToString(k[:]) {
	case "0000000000000000000000000000000000000000000000000000000000000000",
		"0100000000000000000000000000000000000000000000000000000000000000",
		"e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800",
		"5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157",
		"ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
		"edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
		"eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f":
		return true
	}
	return false
}

// parseListen reads the address of the metrics listener.
func parseListen(s string) (string, error) {
	if s == "off" || s == "" {
		return "", nil
	}
	host, port, err := net.SplitHostPort(s)
	n, err2 := strconv.ParseUint(port, 10, 16)
	if err != nil || err2 != nil || n == 0 {
		return "", errWant
	}
	if host != "" && host != "localhost" {
		if _, err := netip.ParseAddr(host); err != nil {
			return "", fmt.Errorf("%q is not an IP address", host)
		}
	}
	return s, nil
}

// resolve fills in what depends on other values, checks it, and returns the finished configuration.
func (r *raw) resolve(d *decoder) *Config {
	c := &r.Config
	c.Policies = map[string]*policy.Policy{}
	r.resolveAnnounce(d)
	r.resolvePolicies(d)
	r.resolveRPKI(d)
	r.resolveKeys(d)
	r.resolveDevices(d)
	if !d.given(&r.Probe.Interval) {
		r.Probe.Interval = probeInterval(len(r.peers))
	}
	r.probeTimeout(d)
	for _, e := range r.peers {
		r.resolvePeer(d, e)
	}
	for _, e := range r.neighbours {
		r.resolveNeighbour(d, e)
	}
	slices.SortFunc(c.Peers, func(a, b *Peer) int { return strings.Compare(a.Name, b.Name) })
	slices.SortFunc(c.Neighbours, func(a, b *Neighbour) int { return strings.Compare(a.Name, b.Name) })
	r.resolveBGP(d)
	r.check(d)
	return c
}

func (r *raw) resolveAnnounce(d *decoder) {
	for _, a := range r.announce {
		r.Announce = append(r.Announce, a.Announcement)
	}
	slices.SortFunc(r.Announce, func(a, b Announcement) int { return comparePrefixes(a.Prefix, b.Prefix) })
	seen := map[netip.Prefix]*node{}
	for _, a := range r.announce {
		if old := seen[a.Prefix]; old != nil {
			d.errorf(a.at, "%v is announced twice; the first is at %s", a.Prefix, old.place())
			continue
		}
		seen[a.Prefix] = a.at
		if a.Prefix.IsValid() && policy.MatchesPrefix(policy.Martians(), a.Prefix) {
			d.errorf(a.at, "%v is not routable between sites: every neighbour refuses it", a.Prefix)
		}
	}
}

// comparePrefixes sorts IPv4 before IPv6, then by address, then short before long.
func comparePrefixes(a, b netip.Prefix) int {
	return cmp.Or(a.Addr().Compare(b.Addr()), cmp.Compare(a.Bits(), b.Bits()))
}

// resolveKeys computes the own public key.
func (r *raw) resolveKeys(d *decoder) {
	w := &r.WireGuard
	if w.PrivateKey.IsZero() {
		needed := slices.ContainsFunc(r.peers, func(e entry[*rawPeer]) bool { return !d.given(&e.v.PrivateKey) })
		if needed && d.usable(&w.PrivateKey) && !d.opts.WithoutSecrets {
			d.hintf(d.at(w), "make one: sitewire genkey --out /etc/sitewire/private.key, then private_key: ${file:/etc/sitewire/private.key}", "wireguard.private_key is needed as soon as there is a peer without a key of its own")
		}
		return
	}
	w.PublicKey = w.PrivateKey.Public()
}

// resolveDevices gives the listen port its owner: the shared device, or the only peer without a port.
func (r *raw) resolveDevices(d *decoder) {
	w := &r.WireGuard
	if w.Device != "" {
		if w.ListenPort == 0 {
			w.ListenPort = defaultListenPort
		}
		return
	}
	if w.ListenPort == 0 || !d.given(&w.ListenPort) {
		return
	}
	var open []*rawPeer
	for _, e := range r.peers {
		if e.v.ListenPort == 0 && d.usable(&e.v.ListenPort) {
			open = append(open, e.v)
		}
	}
	switch len(open) {
	case 0:
		d.warnf(d.at(&w.ListenPort), "wireguard.listen_port is not used: there is no shared device, and every peer has a port")
	case 1:
		open[0].ListenPort = w.ListenPort
	default:
		d.hintf(d.at(&w.ListenPort), "give each of these peers a listen_port, or let them share a device with wireguard.device", "one UDP port cannot serve the devices of %d peers", len(open))
	}
	w.ListenPort = 0
}

// resolveBGP fills in the speaker's own values, once it is known whether there is anything to speak to.
func (r *raw) resolveBGP(d *decoder) {
	c := &r.Config
	if c.BGP.Keepalive == 0 {
		c.BGP.Keepalive = third(c.BGP.HoldTime)
	} else if d.usable(&c.BGP.Keepalive, &c.BGP.HoldTime) && c.BGP.Keepalive >= c.BGP.HoldTime {
		d.errorf(d.at(&c.BGP.Keepalive), "keepalive %v is not shorter than hold_time %v", c.BGP.Keepalive, c.BGP.HoldTime)
	}
	if h := c.BGP.SendHoldTime; h > 0 && h <= c.BGP.HoldTime && d.usable(&c.BGP.SendHoldTime, &c.BGP.HoldTime) {
		d.errorf(d.at(&c.BGP.SendHoldTime), "send_hold_time %v is not longer than hold_time %v", h, c.BGP.HoldTime)
	}
	if c.ASN == 0 {
		return
	}
	if c.RouterID.IsValid() || !d.usable(&c.RouterID) {
		return
	}
	if c.RouterID = c.Routes.SourceIPv4; c.RouterID.IsValid() {
		return
	}
	for _, a := range c.Announce {
		if p := a.Prefix; p.Addr().Is4() && p.Bits() >= 8 {
			if c.RouterID = p.Addr(); p.Bits() < 31 {
				c.RouterID = c.RouterID.Next()
			}
			return
		}
	}
	d.hintf(d.at(&c.ASN), "router_id: an IPv4 address of this router, such as 172.20.1.1", "router_id is needed: no IPv4 prefix is announced that would give one")
}

// third is the usual ratio between keepalive and hold time (RFC 4271 section 10), in whole seconds.
func third(hold time.Duration) time.Duration { return (hold / 3).Truncate(time.Second) }

// resolvePolicies builds the policies of the file, each on top of the one that it extends.
func (r *raw) resolvePolicies(d *decoder) {
	lists := map[string][]policy.PrefixRange{}
	for _, e := range r.prefixLists {
		lists[e.name] = e.v
	}
	byName := map[string]entry[*rawPolicy]{}
	for _, e := range r.policies {
		if slices.Contains(policy.Profiles(), e.name) {
			d.hintf(e.at, "choose another name, and extends: "+e.name, "the policy %q is built in and cannot be replaced", e.name)
			continue
		}
		byName[e.name] = e
	}
	for _, name := range slices.Sorted(maps.Keys(byName)) {
		r.buildPolicy(d, name, byName, lists, nil)
	}
}

func (r *raw) buildPolicy(d *decoder, name string, byName map[string]entry[*rawPolicy], lists map[string][]policy.PrefixRange, path []string) *policy.Policy {
	if p := r.Policies[name]; p != nil {
		return p
	}
	e, ok := byName[name]
	if !ok {
		p, _ := policy.Profile(name)
		return p
	}
	p := &e.v.Policy
	p.Name = name
	p.Import = e.v.rules(d, "import", e.v.imports, lists)
	p.Export = e.v.rules(d, "export", e.v.exports, lists)
	if base := e.v.extends; base != "" {
		if slices.Contains(append(path, name), base) {
			d.errorf(d.at(&e.v.extends), "policy %s extends itself: %s", base, strings.Join(append(append(path, name), base), " → "))
			base = ""
		}
		if parent := r.buildPolicy(d, base, byName, lists, append(path, name)); parent != nil {
			e.v.inherit(d, parent)
		} else if base != "" {
			r.unknownPolicy(d, d.at(&e.v.extends), base)
		}
	}
	if err := p.Compile(); err != nil {
		d.errorf(e.at, "%v", err)
		return nil
	}
	r.Policies[name] = p
	return p
}

// inherit appends the parent's rules, and takes its settings where the file has none.
func (p *rawPolicy) inherit(d *decoder, parent *policy.Policy) {
	base := parent.Clone()
	p.Import, p.Export = append(p.Import, base.Import...), append(p.Export, base.Export...)
	take(d, &p.AllowDefault, base.AllowDefault)
	take(d, &p.AllowOwnParts, base.AllowOwnParts)
	take(d, &p.AllowThirdPartyNextHop, base.AllowThirdPartyNextHop)
	take(d, &p.MaxASPath, base.MaxASPath)
	take(d, &p.MaxPrefixes4, base.MaxPrefixes4)
	take(d, &p.MaxPrefixes6, base.MaxPrefixes6)
	take(d, &p.WarnAt, base.WarnAt)
}

// take sets a value that the file does not give.
func take[V any](d *decoder, to *V, v V) {
	if !d.given(to) {
		*to = v
	}
}

func (p *rawPolicy) rules(d *decoder, direction string, in []*rawRule, lists map[string][]policy.PrefixRange) []policy.Rule {
	var out []policy.Rule
	for i, r := range in {
		if r.Name == "" {
			r.Name = fmt.Sprintf("%s-%d", direction, i+1)
		}
		r.Action = r.action
		for _, l := range r.prefixLists {
			ranges, ok := lists[l.v]
			if !ok {
				d.hintf(l.at, alternatives(l.v, slices.Sorted(maps.Keys(lists)), "prefix_lists"), "there is no prefix list %q", l.v)
			}
			// An empty list matches nothing; without this it would match everything.
			r.Match.Prefixes = append(slices.Grow(r.Match.Prefixes, 1), ranges...)
			if r.Match.Prefixes == nil {
				r.Match.Prefixes = []policy.PrefixRange{}
			}
		}
		out = append(out, r.Rule)
	}
	return out
}

// named returns the policy of a peer or neighbour; nil without a name.
func (r *raw) policy(d *decoder, name string, at *node) *policy.Policy {
	if name == "" {
		return nil
	}
	if p := r.Policies[name]; p != nil {
		return p
	}
	if p, ok := policy.Profile(name); ok {
		r.Policies[name] = p
		return p
	}
	r.unknownPolicy(d, at, name)
	return nil
}

func (r *raw) unknownPolicy(d *decoder, at *node, name string) {
	known := policy.Profiles()
	for _, e := range r.policies {
		if e.name == name { // defined, and reported already
			return
		}
		known = append(known, e.name)
	}
	slices.Sort(known)
	d.hintf(at, alternatives(name, known, "policies"), "there is no policy %q", name)
}

// alternatives is a hint that names what could have been meant.
func alternatives(word string, known []string, where string) string {
	if better, ok := suggest(word, known); ok {
		return "did you mean " + better + "?"
	}
	if len(known) == 0 {
		return "none is defined under " + where
	}
	return "known: " + strings.Join(known, ", ")
}
