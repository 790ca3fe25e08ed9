package routestest

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"sitewire/routes"
)

// Check tells whether a packet could be lost between the FIB and a tunnel: every route that points at a WireGuard device, or
// would from the moment when a device is diverted, must have an owner for its prefix there. It may be called from After.
func (w *World) Check() error {
	for _, r := range w.fib {
		for _, h := range slices.Concat(r.Hops, r.Backup) {
			if w.devices[h.Device] == nil {
				continue
			}
			if _, ok := w.owner(h.Device, r.Prefix); !ok {
				return fmt.Errorf("route %s: no peer of %s owns %s", r, h.Device, r.Prefix)
			}
		}
	}
	return nil
}

// owner finds the peer that gets packets for all of a prefix, by longest match.
func (w *World) owner(device string, p netip.Prefix) (string, bool) {
	for bits := p.Bits(); bits >= 0; bits-- {
		q, err := p.Addr().Prefix(bits)
		if err != nil {
			return "", false
		}
		if peer, ok := w.allowed[place{device, q}]; ok {
			return peer, true
		}
	}
	return "", false
}

// Forward says where packets to an address go: to peers ("nyc"), or to routers ("via 192.0.2.1 dev eth0"), joined by
// commas where there are several. It is empty if any of the ways loses them. It may be called from After.
func (w *World) Forward(a netip.Addr) string {
	for bits := a.BitLen(); bits >= 0; bits-- {
		p, err := a.Prefix(bits)
		if err != nil {
			return ""
		}
		if r, ok := w.fib[rowKey{p, routes.Unicast}]; ok {
			return w.through(w.hops(r), a)
		}
		if _, ok := w.fib[rowKey{p, routes.Unreachable}]; ok {
			return ""
		}
	}
	return ""
}

// Leads is the first device through which packets to an address leave; empty if there is no route.
func (w *World) Leads(a netip.Addr) string {
	w.mu.Lock()
	defer w.mu.Unlock()
	for bits := a.BitLen(); bits >= 0; bits-- {
		p, err := a.Prefix(bits)
		if err != nil {
			return ""
		}
		if r, ok := w.fib[rowKey{p, routes.Unicast}]; ok {
			return w.hops(r)[0].Device
		}
	}
	return ""
}

func (w *World) through(hops []routes.Hop, a netip.Addr) string {
	var to []string
	for _, h := range hops {
		if w.devices[h.Device] == nil {
			to = append(to, routes.HopsString(netip.PrefixFrom(a, a.BitLen()), []routes.Hop{h}))
			continue
		}
		peer, ok := w.owner(h.Device, netip.PrefixFrom(a, a.BitLen()))
		if !ok {
			return ""
		}
		to = append(to, peer)
	}
	slices.Sort(to)
	return strings.Join(to, ",")
}

// Continuity checks that no packet is lost while things change: an address that is reachable before and after a change
// is reachable after each operation in between.
type Continuity struct {
	w      *World
	probes []netip.Addr
	begun  map[netip.Addr]bool
	holes  map[netip.Addr]routes.Op
}

// Watch starts to follow what happens to packets for the addresses. It takes the World's After hook, in which it also
// runs Check; broken is called with what that finds.
func Watch(w *World, probes []netip.Addr, broken func(error)) *Continuity {
	c := &Continuity{w: w, probes: probes}
	c.Begin()
	w.After(func(op routes.Op) {
		if err := w.Check(); err != nil {
			broken(fmt.Errorf("after %s: %w", op, err))
		}
		for _, a := range probes {
			if _, hole := c.holes[a]; !hole && c.begun[a] && w.Forward(a) == "" {
				c.holes[a] = op
			}
		}
	})
	return c
}

// Begin starts a change.
func (c *Continuity) Begin() {
	c.w.mu.Lock()
	defer c.w.mu.Unlock()
	c.begun, c.holes = make(map[netip.Addr]bool), make(map[netip.Addr]routes.Op)
	for _, a := range c.probes {
		c.begun[a] = c.w.Forward(a) != ""
	}
}

// End ends a change and returns an error for an address that was unreachable in between and need not have been.
func (c *Continuity) End() error {
	c.w.mu.Lock()
	defer c.w.mu.Unlock()
	for _, a := range c.probes {
		if op, hole := c.holes[a]; hole && c.w.Forward(a) != "" {
			return fmt.Errorf("%s was unreachable for a while, from %s on", a, op)
		}
	}
	return nil
}

// SameOwners compares what packets see of two sets of allowed-IPs: it returns an error for an address that has another owner on
// some device. It looks at every address where an entry of either begins or ends.
func SameOwners(a, b []routes.AllowedIP) error {
	index := func(list []routes.AllowedIP) *World {
		w := &World{allowed: make(map[place]string, len(list))}
		for _, x := range list {
			w.allowed[place{x.Device, x.Prefix}] = x.Peer
		}
		return w
	}
	one, two := index(a), index(b)
	look := func(device string, at netip.Addr) error {
		p := netip.PrefixFrom(at, at.BitLen())
		x, _ := one.owner(device, p)
		if y, _ := two.owner(device, p); x != y {
			return fmt.Errorf("%s on dev %s belongs to %q, and to %q", at, device, x, y)
		}
		return nil
	}
	for _, x := range slices.Concat(a, b) {
		if err := look(x.Device, x.Prefix.Addr()); err != nil {
			return err
		}
		if after := last(x.Prefix).Next(); after.IsValid() {
			if err := look(x.Device, after); err != nil {
				return err
			}
		}
	}
	return nil
}

// last is the last address of a prefix.
func last(p netip.Prefix) netip.Addr {
	b := p.Addr().AsSlice()
	for bit := p.Bits(); bit < len(b)*8; bit++ {
		b[bit/8] |= 0x80 >> (bit % 8)
	}
	a, _ := netip.AddrFromSlice(b)
	return a
}
