package main

import (
	"context"
	"io/fs"
	"net"
	"os"
	"time"

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
	countRoutes  func(protocol uint8, table, metric int) (host.RouteCount, error)
	unsynced     func() (bool, error) // the kernel's clock
	fileLimit    func() (uint64, error)
}

// newPatient looks at this machine. The socket is where a daemon of it would listen.
func newPatient(socket, path string, now time.Time) *patient {
	p := &patient{
		path: path, root: os.DirFS("/"), now: now, capabilities: capabilities, kernelWG: kernel.Probe, tunFeatures: tunFeatures, tables: host.ListTables,
		settings: host.New(host.Options{}).Forwarding, countRoutes: host.CountRoutes, unsynced: clockUnsynced, fileLimit: fileLimit,
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
