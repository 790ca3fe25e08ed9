package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"time"

	"github.com/google/nftables"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"sitewire/gateway/config"
	"sitewire/gateway/host"
	"sitewire/gateway/wg/kernel"
)

// patient is the machine as doctor sees it: files below the root and a few questions to the kernel, each of which only reads.
type patient struct {
	path string         // of the configuration; empty: the usual one, if it is there
	cfg  *config.Config // nil without one
	root fs.FS
	now  time.Time

	running      bool // a daemon answers on the socket
	capabilities func() (uint64, error)
	kernelWG     func(context.Context) error
	tunFeatures  func() (uint32, error)
	tables       func() error // lists nftables' tables
	settings     func(context.Context) (host.Report, error)
	countRoutes  func(protocol uint8, table, metric int) (routeCount, error)
	unsynced     func() (bool, error) // the kernel's clock
	fileLimit    func() (uint64, error)
}

// routeCount is how many routes carry our number, and how many of our table have our metric and somebody else's number, by number.
type routeCount struct {
	ours   int
	others map[uint8]int
}

// newPatient looks at this machine. The socket is where a daemon of it would listen.
func newPatient(socket, path string, now time.Time) *patient {
	p := &patient{
		path: path, root: os.DirFS("/"), now: now, capabilities: capabilities, kernelWG: kernel.Probe, tunFeatures: tunFeatures, tables: nftTables,
		settings: host.New(host.Options{}).Forwarding, countRoutes: countRoutes, unsynced: clockUnsynced, fileLimit: fileLimit,
	}
	if c, err := net.Dial("unix", socket); err == nil {
		c.Close()
		p.running = true
	}
	return p
}

// tunFeatures asks the TUN driver what it can do (TUNGETFEATURES). No interface is made.
func tunFeatures() (uint32, error) {
	f, err := os.OpenFile("/dev/net/tun", os.O_RDWR, 0)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	return unix.IoctlGetUint32(int(f.Fd()), unix.TUNGETFEATURES)
}

func nftTables() error {
	c, err := nftables.New()
	if err == nil {
		_, err = c.ListTablesOfFamily(nftables.TableFamilyINet)
	}
	return err
}

// countRoutes reads the tables of both families; a million routes take about two seconds.
func countRoutes(protocol uint8, table, metric int) (routeCount, error) {
	out := routeCount{others: map[uint8]int{}}
	for _, family := range []int{netlink.FAMILY_V4, netlink.FAMILY_V6} {
		err := netlink.RouteListFilteredIter(family, &netlink.Route{Table: unix.RT_TABLE_UNSPEC}, netlink.RT_FILTER_TABLE, func(r netlink.Route) bool {
			switch {
			case uint8(r.Protocol) == protocol:
				out.ours++
			case r.Table == table && r.Priority == metric:
				out.others[uint8(r.Protocol)]++
			}
			return true
		})
		if err != nil && !errors.Is(err, unix.EAFNOSUPPORT) && !errors.Is(err, netlink.ErrDumpInterrupted) {
			return out, fmt.Errorf("list routes: %w", err)
		}
	}
	return out, nil
}

// clockUnsynced asks whether something keeps the clock right (adjtimex(2) with nothing to set).
func clockUnsynced() (bool, error) {
	var t unix.Timex
	state, err := unix.Adjtimex(&t)
	return state == unix.TIME_ERROR || t.Status&unix.STA_UNSYNC != 0, err
}

// fileLimit is the most that this process may open: Go raises the soft limit to the hard one.
func fileLimit() (uint64, error) {
	var r unix.Rlimit
	err := unix.Getrlimit(unix.RLIMIT_NOFILE, &r)
	return r.Max, err
}
