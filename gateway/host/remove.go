package host

import (
	"context"
	"errors"
	"fmt"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// RemoveTunnel removes a WireGuard device of the kernel that SetLink once had: one with our device group. Any other link of
// that name stays, and one that is not there is no error.
func (h *Host) RemoveTunnel(ctx context.Context, name string) error {
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("device %s: %w", name, err)
	}
	nlh, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return fmt.Errorf("open a netlink socket: %w", err)
	}
	defer nlh.Close()
	link, err := nlh.LinkByName(name)
	if _, none := errors.AsType[netlink.LinkNotFoundError](err); none {
		return nil
	}
	if h.count("link_get", err) != nil {
		return fmt.Errorf("device %s: %w", name, err)
	}
	if link.Type() != "wireguard" || link.Attrs().Group != h.group {
		h.log.Warn("a device of that name is not ours any more, it stays", "device", name, "kind", link.Type())
		return nil
	}
	if err := h.count("link_delete", nlh.LinkDel(link), unix.ENODEV); err != nil && !errors.Is(err, unix.ENODEV) {
		return fmt.Errorf("remove device %s: %w", name, explain(err))
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.links, name)
	delete(h.set, name)
	return nil
}
