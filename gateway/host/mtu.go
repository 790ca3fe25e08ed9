package host

import (
	"context"
	"fmt"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// TunnelError says that the way to an endpoint leads into a tunnel.
type TunnelError struct {
	Endpoint netip.Addr
	Device   string
}

func (e *TunnelError) Error() string {
	return fmt.Sprintf("the way to %s leads into the tunnel %s", e.Endpoint, e.Device)
}

// PathMTU is the largest packet, in bytes with its IP header, that fits the way to an endpoint as far as this machine knows: the MTU of the device
// or of the route (a path MTU learned from ICMP, or `mtu` in the route), whichever is less. mark is that of the packets. A tunnel over it
// may carry 60 bytes less over IPv4 and 80 less over IPv6. More than that is fatal: packets of the full size are not sent at all.
func (h *Host) PathMTU(ctx context.Context, endpoint netip.Addr, mark uint32) (int, error) {
	if err := ctx.Err(); err != nil {
		return 0, fmt.Errorf("path to %s: %w", endpoint, err)
	}
	mtu, err := h.pathMTU(endpoint.Unmap(), mark)
	if err != nil {
		return 0, fmt.Errorf("path to %s: %w", endpoint, err)
	}
	return mtu, nil
}

func (h *Host) pathMTU(endpoint netip.Addr, mark uint32) (int, error) {
	nlh, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return 0, fmt.Errorf("open a netlink socket: %w", err)
	}
	defer nlh.Close()
	found, err := nlh.RouteGetWithOptions(endpoint.WithZone("").AsSlice(), &netlink.RouteGetOptions{Mark: mark, Oif: endpoint.Zone()})
	if h.count("route_get", err, unix.ENETUNREACH) != nil {
		return 0, err
	}
	if len(found) == 0 {
		return 0, unix.ENETUNREACH
	}
	link, err := nlh.LinkByIndex(found[0].LinkIndex)
	if h.count("link_get", err) != nil {
		return 0, err
	}
	if link.Attrs().Group == h.group {
		return 0, &TunnelError{Endpoint: endpoint, Device: link.Attrs().Name}
	}
	mtu := link.Attrs().MTU
	if found[0].MTU != 0 {
		mtu = min(mtu, found[0].MTU)
	}
	return mtu, nil
}
