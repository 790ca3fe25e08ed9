package kernel

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"sitewire/gateway/wg"
)

const (
	// vanish is how long to wait for the TUN of a userspace device to go away with the process that just ended.
	vanish = 2 * time.Second
	// vanishPoll is the interval meanwhile.
	vanishPoll = 20 * time.Millisecond
)

// links is what a Device asks about links once it is open. The tests have one in memory.
type links interface {
	// remove deletes the link with that index; one that is gone is no error.
	remove(index int) error
	// zone is the name of the underlay's interface with that index, or its number if it has gone.
	zone(index uint32) string
	// scope is the index of the underlay's interface of that name, or number.
	scope(zone string) (uint32, error)
	close()
}

// handles are rtnetlink sockets: in the namespace of the interface, and in that of its UDP sockets.
type handles struct {
	inside, underlay *netlink.Handle
}

func openHandles(path string) (h handles, err error) {
	if h.inside, err = netlink.NewHandle(unix.NETLINK_ROUTE); err != nil {
		return h, fmt.Errorf("open a netlink socket: %w", err)
	}
	h.underlay = h.inside
	if path == "" {
		return h, nil
	}
	ns, err := netns.GetFromPath(path)
	if err == nil {
		defer ns.Close()
		h.underlay, err = netlink.NewHandleAt(ns, unix.NETLINK_ROUTE)
	}
	if err != nil {
		h.inside.Close()
		return h, fmt.Errorf("underlay %s: %w", path, err)
	}
	return h, nil
}

func (h handles) close() {
	h.inside.Close()
	if h.underlay != h.inside {
		h.underlay.Close()
	}
}

// find returns the link of that name if it is a WireGuard device, and nil if there is none. Any other kind is refused, but for the TUN of a
// userspace device whose process is just going away: it is waited for.
func (h handles) find(ctx context.Context, name string) (netlink.Link, error) {
	for deadline := time.Now().Add(vanish); ; {
		link, err := h.inside.LinkByName(name)
		if _, none := errors.AsType[netlink.LinkNotFoundError](err); none {
			return nil, nil
		}
		if err != nil {
			return nil, fmt.Errorf("look for the link: %w", err)
		}
		kind := link.Type()
		if kind == linkKind {
			return link, nil
		}
		refused := fmt.Errorf("%w, of kind %s; it was not touched: remove it (`ip link del %s`) or name the device otherwise", wg.ErrLinkExists, kind, name)
		if kind != "tuntap" || time.Now().After(deadline) {
			return nil, refused
		}
		select {
		case <-ctx.Done():
			return nil, errors.Join(refused, context.Cause(ctx))
		case <-time.After(vanishPoll):
		}
	}
}

// create makes the link, down and without addresses. The request comes from the namespace of the underlay and names that of the interface as
// the target: WireGuard's UDP sockets stay where the request came from.
func (h handles) create(name string, mtu int, group uint32) (netlink.Link, error) {
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.MTU, attrs.Group = name, mtu, group
	if h.underlay != h.inside {
		here, err := netns.Get()
		if err != nil {
			return nil, fmt.Errorf("network namespace of this thread: %w", err)
		}
		defer here.Close()
		attrs.Namespace = netlink.NsFd(here)
	}
	if err := h.underlay.LinkAdd(&netlink.Wireguard{LinkAttrs: attrs}); err != nil {
		switch {
		case errors.Is(err, unix.EEXIST):
			return nil, fmt.Errorf("create: %w", wg.ErrLinkExists)
		case errors.Is(err, unix.EOPNOTSUPP):
			err = unavailable(unix.ENOENT)
		case errors.Is(err, unix.EPERM):
			err = unavailable(err)
		}
		return nil, fmt.Errorf("create: %w", err)
	}
	link, err := h.inside.LinkByName(name)
	if err != nil {
		return nil, fmt.Errorf("find what was just created: %w", err)
	}
	return link, nil
}

func (h handles) remove(index int) error {
	err := h.inside.LinkDel(&netlink.Wireguard{LinkAttrs: netlink.LinkAttrs{Index: index}})
	if errors.Is(err, unix.ENODEV) {
		return nil
	}
	return err
}

func (h handles) zone(index uint32) string {
	link, err := h.underlay.LinkByIndex(int(index))
	if err != nil {
		return fmt.Sprint(index)
	}
	return link.Attrs().Name
}

func (h handles) scope(zone string) (uint32, error) {
	if n, err := strconv.ParseUint(zone, 10, 32); err == nil {
		return uint32(n), nil
	}
	link, err := h.underlay.LinkByName(zone)
	if err != nil {
		return 0, fmt.Errorf("interface %s of the endpoint: %w", zone, err)
	}
	return uint32(link.Attrs().Index), nil
}
