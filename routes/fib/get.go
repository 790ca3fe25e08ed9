package fib

import (
	"context"
	"fmt"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// KernelRoute is the route that the kernel uses for packets to an address, whoever wrote it.
type KernelRoute struct {
	// Text is the route as ip-route(8) would print it.
	Text string
	// Ours says that it carries our protocol number.
	Ours bool
}

// Get asks the kernel which route carries traffic to the address from this machine, with all rules and tables. No route
// is a KernelRoute without Text.
func (f *FIB) Get(ctx context.Context, a netip.Addr) (KernelRoute, error) {
	if err := ctx.Err(); err != nil {
		return KernelRoute{}, err
	}
	h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return KernelRoute{}, fmt.Errorf("open a netlink socket: %w", err)
	}
	defer h.Close()
	found, err := h.RouteGetWithOptions(a.AsSlice(), &netlink.RouteGetOptions{FIBMatch: true})
	if err != nil || len(found) == 0 {
		return KernelRoute{}, nil // unreachable in one way or the other
	}
	r := found[0]
	if r.LinkIndex == 0 && len(r.MultiPath) == 0 {
		// With net.ipv4.nexthop_compat_mode=0 a route says nothing but the id of its nexthop object: where this packet goes.
		if now, err := h.RouteGet(a.AsSlice()); err == nil && len(now) > 0 {
			r.LinkIndex, r.Gw = now[0].LinkIndex, now[0].Gw
		}
	}
	text := "default"
	if r.Dst != nil {
		if ones, _ := r.Dst.Mask.Size(); ones > 0 {
			text = r.Dst.String()
		}
	}
	if r.Gw != nil {
		text += " via " + r.Gw.String()
	}
	for i, n := range r.MultiPath {
		if i == 0 {
			text += " nexthop"
		}
		text += " dev " + name(h, n.LinkIndex)
	}
	if r.LinkIndex != 0 {
		text += " dev " + name(h, r.LinkIndex)
	}
	text += " proto " + r.Protocol.String()
	if r.Priority != 0 {
		text += fmt.Sprintf(" metric %d", r.Priority)
	}
	return KernelRoute{Text: text, Ours: uint8(r.Protocol) == f.protocol}, nil
}

func name(h *netlink.Handle, index int) string {
	l, err := h.LinkByIndex(index)
	if err != nil {
		return fmt.Sprintf("if%d", index)
	}
	return l.Attrs().Name
}
