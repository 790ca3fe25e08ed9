package host

import (
	"errors"
	"fmt"

	"github.com/google/nftables"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// RouteCount is how many routes carry our number, and how many of our table have our metric and somebody else's number, by
// number.
type RouteCount struct {
	Ours   int
	Others map[uint8]int
}

// CountRoutes reads the tables of both families; a million routes take about two seconds.
func CountRoutes(protocol uint8, table, metric int) (RouteCount, error) {
	out := RouteCount{Others: map[uint8]int{}}
	for _, family := range []int{netlink.FAMILY_V4, netlink.FAMILY_V6} {
		err := netlink.RouteListFilteredIter(family, &netlink.Route{Table: unix.RT_TABLE_UNSPEC}, netlink.RT_FILTER_TABLE, func(r netlink.Route) bool {
			switch {
			case uint8(r.Protocol) == protocol:
				out.Ours++
			case r.Table == table && r.Priority == metric:
				out.Others[uint8(r.Protocol)]++
			}
			return true
		})
		if err != nil && !errors.Is(err, unix.EAFNOSUPPORT) && !errors.Is(err, netlink.ErrDumpInterrupted) {
			return out, fmt.Errorf("list routes: %w", err)
		}
	}
	return out, nil
}

// ListTables asks the kernel for nftables' tables, and fails where there is no nftables or no right to it.
func ListTables() error {
	c, err := nftables.New()
	if err == nil {
		_, err = c.ListTablesOfFamily(nftables.TableFamilyINet)
	}
	return err
}
