package routes

import (
	"net/netip"
	"slices"
	"strings"

	"github.com/gaissmai/bart"
)

// compression decides which allowed-IPs are written on devices that have very many. What a packet sees stays the same:
// each address has the same owner as if every prefix were written, or none.
//
// Two halves of a prefix that belong to the same peer are joined into it, unless the device has something else there. And an
// entry is left out where the next covering one, at most compressionReach bits shorter, is of the same peer. What the
// configuration names is always written as it is. The outcome depends on nothing but who owns what.
//
// It keeps only the joined prefixes; the rest is asked of the Table's rows. A change costs a walk towards the root as long as
// halves join or part, and a look at what the prefix covers within the reach, so that it writes or removes no more than
// 2^compressionReach entries.
//
// Owner: the Table's goroutine.
type compression struct {
	rows *forest[*Row]
	// prefixes are those that rows give to somebody, for questions about covering and covered ones; kept while anything is
	// compressed.
	prefixes bart.Lite
	// joined has the owners of prefixes that no row gives to anybody on the device, while both halves have the same owner.
	joined bart.Table[[]Owner]
	// foreign entries are in the way: nothing is joined where they are, and what they cover is written.
	foreign map[place]struct{}
	on      map[string]bool // devices
	sizes   map[string]int  // rows with an owner, by device
	resized map[string]bool // since the last settle
	rules   *rules
	share   *share
	// ready says that nothing is installed that the rows do not know of.
	ready bool
	// exact tells whether a device takes single entries away without parking them somewhere.
	exact   func(device string) bool
	touched []netip.Prefix // what is written there may have changed
}

// compressionReach is how many bits longer than a covering entry an entry may be to be left out. It bounds what has to be
// written when the covering entry goes.
const compressionReach = 8

// foreigner stands for the owners of foreign entries. It is no peer's name, and nothing of it is ever written.
const foreigner = "\x00"

func newCompression(rows *forest[*Row], s *share) *compression {
	return &compression{
		rows: rows, share: s,
		on: make(map[string]bool), sizes: make(map[string]int), resized: make(map[string]bool),
		exact: func(string) bool { return true },
	}
}

// setRules puts other rules in force, before the rows are decided again.
func (c *compression) setRules(r *rules) {
	for _, rules := range []*rules{c.rules, r} {
		if rules != nil && len(c.on) > 0 {
			for p := range rules.claims {
				c.touch(p) // what is named is written
			}
		}
	}
	c.rules = r
	clear(c.sizes)
	for _, row := range c.rows.version.all() {
		for _, o := range row.Owners {
			c.sizes[o.Device]++
		}
	}
	for d := range c.sizes {
		c.resized[d] = true
	}
	for d := range c.on {
		c.resized[d] = true
	}
}

func (c *compression) touch(p netip.Prefix) { c.touched = append(c.touched, p) }

// update follows a row that has just got other owners.
func (c *compression) update(p netip.Prefix, was, is []Owner) {
	if slices.Equal(was, is) {
		return
	}
	if len(c.on) > 0 && len(was) == 0 {
		c.prefixes.Insert(p)
	} else if len(c.on) > 0 && len(is) == 0 {
		c.prefixes.Delete(p)
	}
	for len(was) > 0 || len(is) > 0 {
		var device, before, now string
		switch {
		case len(is) == 0 || len(was) > 0 && was[0].Device < is[0].Device:
			device, before, was = was[0].Device, was[0].Peer, was[1:]
			c.sizes[device]--
		case len(was) == 0 || is[0].Device < was[0].Device:
			device, now, is = is[0].Device, is[0].Peer, is[1:]
			c.sizes[device]++
		default:
			device, before, now, was, is = is[0].Device, was[0].Peer, is[0].Peer, was[1:], is[1:]
		}
		if before == now {
			continue
		}
		c.resized[device] = true
		if c.on[device] {
			if before == "" {
				before = c.foreignAt(p, device)
			}
			c.flip(p, device, before, now)
		}
	}
}

// settle returns the prefixes for which something else may be written than before, sorted, beside those of the rows that it was
// told of.
func (c *compression) settle() []netip.Prefix {
	for d := range c.resized {
		n, most := c.sizes[d], c.rules.policy.CompressAbove
		may := c.ready && most > 0 && n > 0
		switch on := c.on[d]; {
		case !on && may && n > most:
			if c.exact(d) {
				c.start(d)
			}
		case on && (!may || 2*n < most):
			c.stop(d)
		}
		if n == 0 {
			delete(c.sizes, d)
		}
	}
	clear(c.resized)
	out := c.touched
	c.touched = nil
	slices.SortFunc(out, netip.Prefix.Compare)
	return slices.Compact(out)
}

func (c *compression) start(device string) {
	if len(c.on) == 0 {
		for p, row := range c.rows.version.all() {
			if len(row.Owners) > 0 {
				c.prefixes.Insert(p)
			}
		}
	}
	c.on[device] = true
	for p, row := range c.rows.version.all() {
		if _, ok := row.owner(device); ok {
			c.touch(p)
			c.climb(p, device)
		}
	}
}

func (c *compression) stop(device string) {
	if delete(c.on, device); len(c.on) == 0 {
		c.prefixes = bart.Lite{}
	}
	for p, row := range c.rows.version.all() {
		if _, ok := row.owner(device); ok {
			c.touch(p)
		}
	}
	var all []netip.Prefix
	for p, owners := range c.joined.All() {
		if _, ok := ownerOn(owners, device); ok {
			all = append(all, p)
		}
	}
	for _, p := range all {
		c.touch(p)
		c.join(p, device, "")
	}
}

// setForeign takes in which foreign entries there are.
func (c *compression) setForeign(list []AllowedIP) {
	if len(list) == 0 && len(c.foreign) == 0 {
		return
	}
	was := c.foreign
	c.foreign = make(map[place]struct{}, len(list))
	for _, a := range list {
		c.foreign[place{a.Device, a.Prefix}] = struct{}{}
	}
	for at := range was {
		if _, still := c.foreign[at]; !still && c.on[at.device] {
			c.flip(at.prefix, at.device, foreigner, c.own(at.prefix, at.device))
			c.touch(at.prefix)
		}
	}
	for at := range c.foreign {
		if _, already := was[at]; !already && c.on[at.device] {
			c.flip(at.prefix, at.device, "", c.own(at.prefix, at.device))
			c.touch(at.prefix)
		}
	}
}

// flip follows a change of who has a prefix by itself: a row's owner, or a foreign entry.
func (c *compression) flip(p netip.Prefix, device, before, now string) {
	switch {
	case now == "":
		if now = c.foreignAt(p, device); now == "" {
			now = c.halves(p, device)
			c.join(p, device, now)
		}
	case before == "":
		if before = c.joint(p, device); before != "" {
			c.join(p, device, "")
		}
	}
	if before != now {
		c.below(p, device)
		c.climb(p, device)
	}
}

// climb joins and parts what contains a prefix that has another root now.
func (c *compression) climb(p netip.Prefix, device string) {
	for p.Bits() > 0 {
		up, other := parent(p), sibling(p)
		before := c.joint(up, device)
		if before == "" && c.root(other, device) == "" || c.own(up, device) != "" {
			return
		}
		now := c.halves(up, device)
		if before == now {
			return
		}
		c.join(up, device, now)
		c.touch(up)
		c.touch(p)
		c.touch(other)
		p = up
	}
}

// below touches what is written, or not, depending on a prefix that contains it.
func (c *compression) below(p netip.Prefix, device string) {
	const few = 64
	n := 0
	within := func(q netip.Prefix, owners []Owner) bool {
		if n++; n > few {
			return false
		}
		if _, ok := ownerOn(owners, device); ok && q != p && q.Bits() <= p.Bits()+compressionReach {
			c.touch(q)
		}
		return true
	}
	for q := range c.prefixes.Subnets(p) {
		if !within(q, c.owned(q)) {
			break
		}
	}
	for q, owners := range c.joined.Subnets(p) {
		if !within(q, owners) {
			break
		}
	}
	if n > few {
		c.search(p, device, 0)
	}
}

// search touches the next roots below a prefix, by asking for each place where there could be one.
func (c *compression) search(p netip.Prefix, device string, depth int) {
	if depth > 0 && c.root(p, device) != "" {
		c.touch(p)
		return
	}
	if depth < compressionReach && p.Bits() < p.Addr().BitLen() {
		low, high := split(p)
		c.search(low, device, depth+1)
		c.search(high, device, depth+1)
	}
}

// own returns who has exactly this prefix, joins aside; empty if nobody.
func (c *compression) own(p netip.Prefix, device string) string {
	if peer, ok := ownerOn(c.owned(p), device); ok {
		return peer
	}
	return c.foreignAt(p, device)
}

// owned returns the owners that a row gives to the prefix.
func (c *compression) owned(p netip.Prefix) []Owner {
	row, _ := c.rows.version.get(p)
	return row.owners()
}

func (c *compression) foreignAt(p netip.Prefix, device string) string {
	if len(c.foreign) > 0 {
		if _, ok := c.foreign[place{device, p}]; ok {
			return foreigner
		}
	}
	return ""
}

// joint returns who has the prefix because both halves are his.
func (c *compression) joint(p netip.Prefix, device string) string {
	owners, _ := c.joined.Get(p)
	peer, _ := ownerOn(owners, device)
	return peer
}

// join sets who that is.
func (c *compression) join(p netip.Prefix, device, peer string) {
	owners, _ := c.joined.Get(p)
	i, found := slices.BinarySearchFunc(owners, device, compareDevice)
	switch {
	case !found && peer == "":
	case peer == "" && len(owners) == 1:
		c.joined.Delete(p)
	case peer == "":
		c.joined.Insert(p, slices.Delete(slices.Clone(owners), i, i+1))
	case len(owners) == 0 || found && len(owners) == 1:
		c.joined.Insert(p, one(&c.share.owners, Owner{device, peer}))
	case found:
		owners = slices.Clone(owners)
		owners[i].Peer = peer
		c.joined.Insert(p, owners)
	default:
		c.joined.Insert(p, slices.Insert(slices.Clone(owners), i, Owner{device, peer}))
	}
}

// root returns who has all of the prefix that no longer one takes, by an entry of exactly this length; empty if nobody.
func (c *compression) root(p netip.Prefix, device string) string {
	if peer := c.own(p, device); peer != "" {
		return peer
	}
	return c.joint(p, device)
}

func (c *compression) halves(p netip.Prefix, device string) string {
	if p.Bits() == p.Addr().BitLen() {
		return ""
	}
	low, high := split(p)
	peer := c.root(low, device)
	if peer == "" || peer == foreigner || peer != c.root(high, device) {
		return ""
	}
	return peer
}

// above returns the next root that covers a prefix, and its length.
func (c *compression) above(p netip.Prefix, device string) (peer string, bits int) {
	bits = -1
	find := func(q netip.Prefix, owners []Owner) bool {
		x, ok := ownerOn(owners, device)
		if ok && q.Bits() > bits {
			peer, bits = x, q.Bits()
		}
		return ok
	}
	if p.Bits() == 0 {
		return
	}
	up := parent(p)
	if q, ok := c.prefixes.LookupPrefixLPM(up); ok && !find(q, c.owned(q)) { // nearly always that one, if any
		for q := range c.prefixes.Supernets(up) {
			if find(q, c.owned(q)) {
				break
			}
		}
	}
	if q, owners, ok := c.joined.LookupPrefixLPM(up); ok && q.Bits() > bits && !find(q, owners) {
		for q, owners := range c.joined.Supernets(up) {
			if q.Bits() <= bits || find(q, owners) {
				break
			}
		}
	}
	if len(c.foreign) > 0 {
		for q := up; q.Bits() > bits; q = parent(q) {
			if _, ok := c.foreign[place{device, q}]; ok {
				return foreigner, q.Bits()
			}
			if q.Bits() == 0 {
				break
			}
		}
	}
	return peer, bits
}

// writes returns who owns exactly this prefix of a compressed device in what is written; empty if there is no such entry.
func (c *compression) writes(p netip.Prefix, device string) string {
	if peer := c.root(p, device); peer != foreigner && c.stands(p, device, peer) {
		return peer
	}
	return ""
}

// stands tells whether a root is written; an empty one is not.
func (c *compression) stands(p netip.Prefix, device, peer string) bool {
	if peer == "" {
		return false
	}
	up, bits := c.above(p, device)
	return up != peer || p.Bits()-bits > compressionReach || c.named(p, device, peer)
}

// named tells whether the entry is written in any case: the configuration gives the prefix to the peer, or there is a foreign
// entry in its place.
func (c *compression) named(p netip.Prefix, device, peer string) bool {
	if _, ok := c.foreign[place{device, p}]; ok {
		return true
	}
	return slices.ContainsFunc(c.rules.claims[p], func(x claim) bool { return x.peer.Device == device && x.peer.Name == peer })
}

// reaches returns who gets packets for a prefix of a compressed device, longer entries aside; empty if nobody does, or a
// foreign entry.
func (c *compression) reaches(p netip.Prefix, device string) string {
	peer := c.root(p, device)
	if peer == "" {
		peer, _ = c.above(p, device)
	}
	if peer == foreigner {
		return ""
	}
	return peer
}

// owners returns what is written of a prefix, by device.
func (c *compression) owners(p netip.Prefix, of []Owner) []Owner {
	if len(c.on) == 0 {
		return of
	}
	joint, _ := c.joined.Get(p)
	whole := len(joint) == 0
	for i := 0; whole && i < len(of); i++ {
		whole = !c.on[of[i].Device] || c.stands(p, of[i].Device, of[i].Peer)
	}
	if whole {
		return of
	}
	var out []Owner
	for _, o := range of {
		if !c.on[o.Device] || c.stands(p, o.Device, o.Peer) {
			out = append(out, o)
		}
	}
	for _, o := range joint {
		if c.stands(p, o.Device, o.Peer) {
			i, _ := slices.BinarySearchFunc(out, o.Device, compareDevice)
			out = slices.Insert(out, i, o)
		}
	}
	return out
}

func compareDevice(o Owner, device string) int { return strings.Compare(o.Device, device) }

func ownerOn(owners []Owner, device string) (string, bool) {
	switch len(owners) {
	case 0:
		return "", false
	case 1:
		if owners[0].Device != device {
			return "", false
		}
		return owners[0].Peer, true
	}
	i, ok := slices.BinarySearchFunc(owners, device, compareDevice)
	if !ok {
		return "", false
	}
	return owners[i].Peer, true
}
