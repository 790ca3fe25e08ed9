package user

import (
	"fmt"
	"net/netip"
	"os"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// outgoing returns the interface by which the kernel would send from src to dst, as `ip route get` prints it. It is an
// error if src is not an address of the namespace, or if nothing leads to dst.
func outgoing(ns *os.File, dst, src netip.Addr, mark uint32, device string) (ifindex uint32, err error) {
	ask := func() error {
		h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
		if err != nil {
			return err
		}
		defer h.Close()
		routes, err := h.RouteGetWithOptions(dst.AsSlice(), &netlink.RouteGetOptions{
			SrcAddr: src.AsSlice(), Mark: mark, Oif: device,
		})
		if err != nil {
			return err
		}
		if len(routes) == 0 {
			return unix.ENETUNREACH
		}
		ifindex = uint32(routes[0].LinkIndex)
		return nil
	}
	if ns != nil {
		err = within(ns, ask)
	} else {
		err = ask()
	}
	if err != nil {
		return 0, fmt.Errorf("route from %s to %s: %w", src, dst, err)
	}
	return ifindex, nil
}
