package host

import (
	"context"
	"fmt"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"sitewire/gateway/wg"
)

// LinkCounters returns what the kernel counts of each tunnel device, by name: of all in one request.
func (h *Host) LinkCounters(ctx context.Context) (map[string]wg.LinkCounters, error) {
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("packet counters: %w", err)
	}
	nlh, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("packet counters: open a netlink socket: %w", err)
	}
	defer nlh.Close()
	links, err := whole(nlh.LinkList)
	if h.count("link_list", err) != nil {
		return nil, fmt.Errorf("packet counters: list devices: %w", err)
	}
	out := map[string]wg.LinkCounters{}
	for _, l := range links {
		if a := l.Attrs(); a.Group == h.group && a.Statistics != nil {
			s := a.Statistics
			out[a.Name] = wg.LinkCounters{
				ReceivePackets: s.RxPackets, ReceiveErrors: s.RxErrors, ReceiveDrops: s.RxDropped,
				TransmitPackets: s.TxPackets, TransmitErrors: s.TxErrors, TransmitDrops: s.TxDropped,
			}
		}
	}
	return out, nil
}
