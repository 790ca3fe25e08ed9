// Package fib is the kernel's routing table over rtnetlink: the routes.FIB of a Linux router.
//
// Job: write routes in batches, list them, tell what is on link, and say when somebody else changed something.
// Owner: one FIB per gateway, used by the Syncer; Run is its own task. Write, List and Connected take turns, Switch waits for none of them,
// Changed and Stats may be called at any time.
// Inputs: routes.Op values; the kernel's dumps and notifications.
// Outputs: rows of one table that carry one protocol number, and nothing else.
// Invariants: a row with another protocol number is never changed nor removed. A list is complete or an error. No lock is held over a
// system call.
//
// What a route becomes: a unicast route has the FIB's metric and preferred source; an unreachable route has the worst metric there is, so that
// any other route for the same prefix wins. A prefix may have both. Install replaces in place (NLM_F_CREATE|NLM_F_REPLACE), so there is never
// a moment without a route. The kernel replaces whatever it finds at that prefix and metric, also what another program put there; therefore
// the FIB keeps a view of such rows and answers with a ConflictError instead. (A row that somebody adds within the microseconds between the
// notification and our write is still replaced: the kernel has no compare-and-swap.)
//
// Notifications are a hint, never the truth: Linux flushes the IPv4 routes of a device that goes down without sending any, and drops
// notifications when the reader is slow. So link events wake the reader too, and a lost notification does the same as a seen one. Our own
// writes do not wake anybody: the kernel is told not to deliver what our own socket caused.
//
// Dumps are repeated until one was not disturbed. Where another program changes the IPv6 routes of the same table all the time and the table is
// so large that no dump gets through, List fails; a table of our own avoids that.
//
// Routes through tunnels that have a backup or several hops share nexthop objects (see objects.go), if the kernel has them: then the FIB is a
// routes.Switcher as well. Without objects the same routes name their hops, and backups are left out. Open finds out which it is.
//
// IPv6 multipath over tunnels without objects: the kernel wants a gateway in each nexthop of a multipath row. A nexthop that is a device only
// is written with the gateway fe80::7369:7465:7769:7265 there, and listed without it. Tunnels do not use it.
package fib

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"net/netip"

	"golang.org/x/sys/unix"

	"sitewire/routes"
)

var _ routes.FIB = (*FIB)(nil)

// Defaults of Options.
const (
	DefaultTable  = unix.RT_TABLE_MAIN
	DefaultMetric = 512
	// DefaultProtocol marks our routes (rtm_protocol). Neither the kernel nor iproute2 gives the number to anybody.
	DefaultProtocol = 83
	// UnreachableMetric is the metric of unreachable routes: every other beats it.
	UnreachableMetric = math.MaxUint32
)

// ProtocolName is the name under which iproute2 shows DefaultProtocol (`ip route show proto sitewire`) once a file in
// /etc/iproute2/rt_protos.d says so. The FIB does not write that file: packages, the installer and labs do, with ProtocolFile and
// ProtocolLine.
const ProtocolName = "sitewire"

// ProtocolFile is where iproute2 looks for the name; its directory may have to be made.
const ProtocolFile = "/etc/iproute2/rt_protos.d/sitewire.conf"

// ProtocolLine is the content of ProtocolFile for a protocol number.
func ProtocolLine(protocol uint8) string { return fmt.Sprintf("%d\t%s\n", protocol, ProtocolName) }

// Options of a FIB. Zero values mean the defaults above.
type Options struct {
	Table    int
	Metric   int // lower is better
	Protocol uint8
	// Source4 and Source6 are the preferred sources of packets that this router itself sends. A source that is not an address of this machine is
	// left out, and put in when it appears (the routes are then listed as different from what they should be, see List).
	Source4, Source6 netip.Addr
	Log              *slog.Logger // nil is silent

	// NoObjects leaves nexthop objects alone: routes name their devices, and there is no Switcher.
	NoObjects bool

	rcvbuf int // of the notification socket in bytes; for tests
}

// FIB is one table of the kernel, seen through one protocol number.
type FIB struct {
	table    uint32
	metric   uint32
	protocol uint8
	source   [2]netip.Addr // preferred, by routes.Family
	log      *slog.Logger
	rcvbuf   int
	plain    bool // no nexthop objects are wanted

	turn    chan struct{} // holds one token: the right to use req, batch, rest and asked
	req     *conn         // requests and dumps
	objects objects
	meaning map[uint32]meaning // of groups, at the last list
	mon     *conn              // notifications
	guard   *conn              // tells whether something changed during a dump
	obj     *conn              // nexthop objects
	opened  chan struct{}
	changed chan struct{}
	view    view
	stats   counters

	// rest has our rows that are not what Write leaves for the prefix, or that the kernel cannot replace in place; see leftovers.
	rest map[netip.Prefix][]row
	// asked has the routes whose listing would differ in form from what was asked for (a hop without device); see List.
	asked map[netip.Prefix]routes.Route
	// src are the preferred sources that are there at this moment; warned: the lack of one has been reported.
	src    [2]netip.Addr
	warned [2]bool
	batch  batch
}

// New makes a FIB; Open must follow.
func New(o Options) *FIB {
	f := &FIB{
		table: uint32(o.Table), metric: uint32(o.Metric), protocol: o.Protocol, log: o.Log, rcvbuf: o.rcvbuf,
		source: [2]netip.Addr{routes.IPv4: o.Source4, routes.IPv6: o.Source6},
		turn:   make(chan struct{}, 1), opened: make(chan struct{}), changed: make(chan struct{}, 1),
		rest: map[netip.Prefix][]row{}, asked: map[netip.Prefix]routes.Route{}, plain: o.NoObjects,
		objects: objects{turn: make(chan struct{}, 1)},
	}
	if f.table == 0 {
		f.table = DefaultTable
	}
	if f.metric == 0 {
		f.metric = DefaultMetric
	}
	if f.protocol == 0 {
		f.protocol = DefaultProtocol
	}
	if f.log == nil {
		f.log = slog.New(slog.DiscardHandler)
	}
	if f.rcvbuf == 0 {
		f.rcvbuf = recvBuffer
	}
	return f
}

// String names the task.
func (f *FIB) String() string {
	return fmt.Sprintf("kernel routes (table %d, protocol %d)", f.table, f.protocol)
}

// Ready is closed when Open has succeeded.
func (f *FIB) Ready() <-chan struct{} { return f.opened }

// Open opens the sockets, in the network namespace of the calling thread, and reads the first view. To be called once, before everything else.
func (f *FIB) Open(ctx context.Context) error {
	if f.protocol <= unix.RTPROT_STATIC {
		return fmt.Errorf("kernel routes: protocol number %d belongs to the kernel or to the administrator; use 5 to 255", f.protocol)
	}
	if f.metric == UnreachableMetric {
		return fmt.Errorf("kernel routes: metric %d is that of unreachable routes", f.metric)
	}
	req, err := dial(recvBuffer, nil)
	if err != nil {
		return fmt.Errorf("kernel routes: %w", err)
	}
	obj, err := dial(recvBuffer, nil)
	if err != nil {
		return errors.Join(fmt.Errorf("kernel routes: %w", err), req.close())
	}
	ours := []uint32{req.port, obj.port}
	// Subscribed before the first dump: what changes meanwhile waits in the socket for Run.
	mon, err := dial(f.rcvbuf, ours, unix.RTNLGRP_LINK, unix.RTNLGRP_IPV4_IFADDR, unix.RTNLGRP_IPV6_IFADDR,
		unix.RTNLGRP_IPV4_ROUTE, unix.RTNLGRP_IPV6_ROUTE)
	if err != nil {
		return errors.Join(fmt.Errorf("kernel routes: %w", err), req.close(), obj.close())
	}
	guard, err := dial(recvBuffer, ours)
	if err != nil {
		return errors.Join(fmt.Errorf("kernel routes: %w", err), req.close(), obj.close(), mon.close())
	}
	f.req, f.mon, f.guard, f.obj = req, mon, guard, obj
	f.batch.limit(req)
	if err := f.look(ctx); err != nil {
		return errors.Join(fmt.Errorf("kernel routes: %w", err), req.close(), obj.close(), mon.close(), guard.close())
	}
	f.objects.protocol = f.protocol
	if !f.plain {
		if err := f.objects.open(ctx, obj, f.name); err != nil {
			f.log.Info("no nexthop objects: the routes of a lost tunnel move one by one", "reason", err)
		}
	}
	f.turn <- struct{}{}
	close(f.opened)
	return nil
}

// Close closes the sockets and leaves the routes as they are. Write, List and Connected fail afterwards.
func (f *FIB) Close() error {
	select {
	case <-f.opened:
		return errors.Join(f.req.close(), f.obj.close(), f.mon.close(), f.guard.close())
	default:
		return nil
	}
}

// take waits for the turn to use the request socket; give returns it.
func (f *FIB) take(ctx context.Context) error {
	select {
	case <-f.turn:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func (f *FIB) give() { f.turn <- struct{}{} }

// Changed is signalled when the kernel's routes, links or addresses may have changed otherwise than by Write.
func (f *FIB) Changed() <-chan struct{} { return f.changed }

func (f *FIB) wake() {
	select {
	case f.changed <- struct{}{}:
	default:
	}
}
