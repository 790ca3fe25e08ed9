package fib

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"sitewire/routes"
)

// KernelRoute is the route that the kernel uses for packets to an address, whoever wrote it.
type KernelRoute struct {
	// Text is the route as ip-route(8) would print it, with the ways that packets take at present.
	Text string
	// Ours says that it carries our protocol number.
	Ours bool
}

// Get asks the kernel which route carries traffic to the address from this machine, with all rules and tables, in the network
// namespace of the calling thread. No route is a KernelRoute without Text.
//
// It waits for nobody, and reads the whole table for an IPv6 route with a nexthop object, see carrier.
func (f *FIB) Get(ctx context.Context, a netip.Addr) (KernelRoute, error) {
	a = a.Unmap().WithZone("")
	req, err := dial(recvBuffer, nil)
	if err != nil {
		return KernelRoute{}, fmt.Errorf("ask for a kernel route: %w", err)
	}
	defer req.close()
	r, err := match(ctx, req, a)
	if err == nil && r.group != 0 {
		if a.Is6() {
			r, err = carrier(ctx, req, a, r)
		}
		if err == nil {
			err = present(ctx, req, &r)
		}
	}
	if err != nil {
		return KernelRoute{}, fmt.Errorf("ask for a kernel route: %w", err)
	}
	if !r.dst.IsValid() {
		return KernelRoute{}, nil
	}
	var hops []routes.Hop
	for _, h := range normalHops(r.hops) {
		hops = append(hops, routes.Hop{Device: f.name(h.index), Via: h.via})
	}
	text := r.dst.String()
	if r.dst.Bits() == 0 {
		text = "default"
	}
	if len(hops) > 0 {
		text += " " + routes.HopsString(r.dst, routes.CanonicalHops(hops))
	}
	text += " proto " + netlink.RouteProtocol(r.protocol).String()
	if r.metric != 0 {
		text += fmt.Sprintf(" metric %d", r.metric)
	}
	return KernelRoute{Text: text, Ours: r.protocol == f.protocol}, nil
}

// match returns the row that packets to an address match; none if they go nowhere, for whatever reason.
func match(ctx context.Context, c *conn, a netip.Addr) (r row, err error) {
	family := uint8(unix.AF_INET)
	if a.Is6() {
		family = unix.AF_INET6
	}
	request := func(seq uint32) []byte {
		b, start := begin(nil, unix.RTM_GETROUTE, unix.NLM_F_ACK, seq) // one message and its acknowledgement
		b = append(b, family, byte(a.BitLen()), 0, 0, 0, 0, 0, 0)
		b = binary.NativeEndian.AppendUint32(b, unix.RTM_F_FIB_MATCH)
		return finish(attr(b, unix.RTA_DST, a.AsSlice()...), start)
	}
	err = c.dump(ctx, request, func() { r = row{} }, func(_ uint16, body []byte) error {
		if x, ok := parseRow(body); ok {
			r = x
		}
		return nil
	})
	// An unreachable route, or one that prohibits or drops, answers as if there were none.
	for _, none := range []error{unix.ENETUNREACH, unix.EHOSTUNREACH, unix.EACCES, unix.EINVAL} {
		if errors.Is(err, none) {
			return row{}, nil
		}
	}
	return r, err
}

// carrier finds the row that carries packets to an IPv6 address. With each nexthop object that is a way out the kernel caches one
// of the rows that lead there, maybe by different groups, and names that one for all of them when it is asked which row matches
// (measured on 6.18). So found is right about the table and that there is an object, and the row is the longest match in the
// table among those with one.
func carrier(ctx context.Context, req *conn, a netip.Addr, found row) (best row, err error) {
	guard, err := dial(recvBuffer, nil)
	if err != nil {
		return row{}, err
	}
	defer guard.close()
	err = dumpRoutes(ctx, req, guard, unix.AF_INET6, found.table, 0, func() { best = row{} }, func(r row) {
		if r.group == 0 || !r.dst.Contains(a) {
			return
		}
		if !best.dst.IsValid() || r.dst.Bits() > best.dst.Bits() || r.dst == best.dst && r.metric < best.metric {
			best = r
		}
	})
	return best, err
}

// present puts the ways of a row's nexthop object into its hops. The kernel tells them together with the row unless
// net.ipv4.nexthop_compat_mode is 0.
func present(ctx context.Context, c *conn, r *row) error {
	all := map[uint32]object{}
	err := c.dump(ctx, appendObjectDump, func() { clear(all) }, func(_ uint16, body []byte) error {
		if x, ok := parseObject(body); ok {
			all[x.id] = x
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("nexthop objects: %w", err)
	}
	x, ok := all[r.group]
	if !ok {
		return nil // gone since; what the row said is as good as anything
	}
	ids := x.members
	if ids == nil {
		ids = []uint32{x.id}
	}
	var hops []nexthop
	for _, id := range ids {
		if m, ok := all[id]; ok && m.index != 0 {
			hops = append(hops, m.nexthop)
		}
	}
	r.hops = hops
	return nil
}
