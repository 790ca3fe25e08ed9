package fib

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

// view is what the notifications tell: devices, addresses, and the rows of others that a write of ours could replace. Run changes it, and
// look replaces it.
type view struct {
	mu    sync.Mutex
	state state
	// lost: notifications were dropped, so that state may be wrong.
	lost bool
	// While a new state is being dumped, events go to both the old state and to this list, to be applied to the new one.
	dumping bool
	replay  []event
}

// state is the content of a view.
type state struct {
	links   map[int]link
	indexes map[string]int
	addrs   map[address]bool // true if usable, false while duplicate address detection runs
	foreign map[place][]uint8
}

type link struct {
	name  string
	flags uint32 // IFF_*
}

// address is an address of a device, with the network (or the other end) that it makes reachable.
type address struct {
	index   int
	local   netip.Addr
	network netip.Prefix
	noRoute bool // the network is not on link just because of this address (IFA_F_NOPREFIXROUTE)
}

// place is what the kernel lets a row replace, type of service aside.
type place struct {
	prefix netip.Prefix
	metric uint32
}

// event is one decoded message, of a dump or a notification.
type event struct {
	gone    bool // RTM_DEL*
	replace bool // a route that took the place of another
	link    *linkEvent
	addr    *addrEvent
	row     *row
}

type linkEvent struct {
	index int
	link
}

type addrEvent struct {
	address
	usable bool
}

// linkFlags are the flags whose change matters to routes.
const linkFlags = unix.IFF_UP | unix.IFF_RUNNING | unix.IFF_LOWER_UP

// maxReplay bounds the events kept during a dump; beyond it the dump is repeated.
const maxReplay = 1 << 16

func newState() state {
	return state{links: map[int]link{}, indexes: map[string]int{}, addrs: map[address]bool{}, foreign: map[place][]uint8{}}
}

// parseEvent decodes a message; ok is false for what does not concern a FIB.
func parseEvent(typ, flags uint16, body []byte) (e event, ok bool) {
	switch typ {
	case unix.RTM_NEWLINK, unix.RTM_DELLINK:
		e.link, ok = parseLink(body)
		e.gone = typ == unix.RTM_DELLINK
	case unix.RTM_NEWADDR, unix.RTM_DELADDR:
		e.addr, ok = parseAddr(body)
		e.gone = typ == unix.RTM_DELADDR
	case unix.RTM_NEWROUTE, unix.RTM_DELROUTE:
		var r row
		r, ok = parseRow(body)
		ok = ok && !r.cloned
		e.row, e.gone, e.replace = &r, typ == unix.RTM_DELROUTE, flags&unix.NLM_F_REPLACE != 0
	}
	return e, ok
}

func parseLink(body []byte) (*linkEvent, bool) {
	// Bridges send messages of their own family about their ports.
	if len(body) < unix.SizeofIfInfomsg || body[0] != unix.AF_UNSPEC {
		return nil, false
	}
	e := &linkEvent{index: int(u32(body[4:])), link: link{flags: u32(body[8:])}}
	for typ, v := range attrs(body[unix.SizeofIfInfomsg:]) {
		if typ == unix.IFLA_IFNAME {
			e.name = strings.TrimRight(string(v), "\x00")
		}
	}
	return e, e.name != ""
}

func parseAddr(body []byte) (*addrEvent, bool) {
	if len(body) < unix.SizeofIfAddrmsg {
		return nil, false
	}
	var network netip.Addr
	flags := uint32(body[2])
	e := &addrEvent{address: address{index: int(u32(body[4:]))}}
	for typ, v := range attrs(body[unix.SizeofIfAddrmsg:]) {
		switch typ {
		case unix.IFA_ADDRESS:
			network = addr(v)
		case unix.IFA_LOCAL:
			e.local = addr(v)
		case unix.IFA_FLAGS:
			flags = u32(v)
		}
	}
	if !e.local.IsValid() {
		e.local = network // IPv6 sends IFA_LOCAL only for point-to-point addresses
	}
	p, err := network.Prefix(int(body[1]))
	e.network, e.noRoute = p, flags&unix.IFA_F_NOPREFIXROUTE != 0
	e.usable = flags&unix.IFA_F_TENTATIVE == 0 || flags&unix.IFA_F_OPTIMISTIC != 0
	return e, err == nil
}

// apply changes the state and tells whether that could matter to the routes of table.
func (s *state) apply(e event, f *FIB) bool {
	switch {
	case e.link != nil:
		return s.applyLink(e)
	case e.addr != nil:
		old, had := s.addrs[e.addr.address]
		if e.gone {
			delete(s.addrs, e.addr.address)
			return had
		}
		s.addrs[e.addr.address] = e.addr.usable
		return !had || old != e.addr.usable
	case e.row != nil:
		return s.applyRow(e, f)
	}
	return false
}

func (s *state) applyLink(e event) bool {
	old, had := s.links[e.link.index]
	if e.gone || had && old.name != e.link.name {
		delete(s.links, e.link.index)
		if s.indexes[old.name] == e.link.index {
			delete(s.indexes, old.name)
		}
	}
	if e.gone {
		return had
	}
	s.links[e.link.index] = e.link.link
	s.indexes[e.link.name] = e.link.index
	return !had || old.name != e.link.name || (old.flags^e.link.flags)&linkFlags != 0
}

func (s *state) applyRow(e event, f *FIB) bool {
	r := e.row
	if r.protocol == f.protocol && r.table == f.table {
		return true
	}
	// The kernel's routes in the main table are the connected networks.
	connected := r.table == unix.RT_TABLE_MAIN && r.protocol == unix.RTPROT_KERNEL
	if r.table != f.table || r.metric != f.metric && r.metric != UnreachableMetric {
		return connected
	}
	at := place{r.dst, r.metric}
	switch {
	case e.gone:
		if i := slices.Index(s.foreign[at], r.protocol); i >= 0 {
			s.foreign[at] = slices.Delete(s.foreign[at], i, i+1)
		}
		if len(s.foreign[at]) == 0 {
			delete(s.foreign, at)
		}
	case e.replace:
		s.foreign[at] = []uint8{r.protocol}
	case !slices.Contains(s.foreign[at], r.protocol):
		s.foreign[at] = append(s.foreign[at], r.protocol)
	}
	return true
}

// onLink tells whether an address is on a network of a device.
func (s *state) onLink(index int, a netip.Addr) bool {
	for n := range s.addrs {
		if n.index == index && n.network.Contains(a) {
			return true
		}
	}
	return false
}

// hasSource tells whether an address is usable as the source of routes.
func (s *state) hasSource(a netip.Addr) bool {
	for n, usable := range s.addrs {
		if n.local == a && usable {
			return true
		}
	}
	return false
}

// with runs f on the state.
func (v *view) with(f func(*state)) {
	v.mu.Lock()
	defer v.mu.Unlock()
	f(&v.state)
}

// refresh looks at the kernel anew if notifications were lost. The caller has the turn.
func (f *FIB) refresh(ctx context.Context) error {
	f.view.mu.Lock()
	lost := f.view.lost
	f.view.mu.Unlock()
	if !lost {
		return nil
	}
	f.stats.add(func(s *Stats) { s.Resyncs++ })
	return f.look(ctx)
}

// look dumps a new state and puts it into the view. The caller has the turn.
func (f *FIB) look(ctx context.Context) error {
	f.view.mu.Lock()
	f.view.dumping, f.view.lost, f.view.replay = true, false, nil
	f.view.mu.Unlock()

	s := newState()
	err := f.dumpLinks(ctx, &s)
	if err == nil {
		err = f.dumpAddrs(ctx, &s)
	}
	for _, family := range families {
		if err == nil {
			err = f.dumpForeign(ctx, family, &s)
		}
	}

	f.view.mu.Lock()
	defer f.view.mu.Unlock()
	for _, e := range f.view.replay {
		s.apply(e, f)
	}
	f.view.dumping, f.view.replay = false, nil
	if err != nil {
		f.view.lost = true
		return err
	}
	f.view.state = s
	return nil
}

var families = [...]uint8{unix.AF_INET, unix.AF_INET6}

func (f *FIB) dumpLinks(ctx context.Context, s *state) error {
	return f.req.dump(ctx, func(seq uint32) []byte {
		b, start := begin(nil, unix.RTM_GETLINK, unix.NLM_F_DUMP, seq)
		return finish(append(b, make([]byte, unix.SizeofIfInfomsg)...), start)
	}, func() {
		clear(s.links)
		clear(s.indexes)
	}, func(typ uint16, body []byte) error {
		if e, ok := parseEvent(typ, 0, body); ok && e.link != nil {
			s.apply(e, f)
		}
		return nil
	})
}

// lookDevice takes the kernel's answer about one device into the view, as if it had been notified. A device that is not there is no error.
func (f *FIB) lookDevice(ctx context.Context, name string) error {
	err := f.req.dump(ctx, func(seq uint32) []byte {
		b, start := begin(nil, unix.RTM_GETLINK, unix.NLM_F_ACK, seq) // one message and its acknowledgement
		b = append(b, make([]byte, unix.SizeofIfInfomsg)...)
		return finish(attr(b, unix.IFLA_IFNAME, append([]byte(name), 0)...), start)
	}, func() {}, func(typ uint16, body []byte) error {
		if e, ok := parseEvent(typ, 0, body); ok && e.link != nil {
			f.apply(e)
		}
		return nil
	})
	// ERANGE: no device has so long a name.
	if errors.Is(err, unix.ENODEV) || errors.Is(err, unix.ERANGE) {
		return nil
	}
	return err
}

func (f *FIB) dumpAddrs(ctx context.Context, s *state) error {
	return f.req.dump(ctx, func(seq uint32) []byte {
		b, start := begin(nil, unix.RTM_GETADDR, unix.NLM_F_DUMP, seq)
		return finish(append(b, make([]byte, unix.SizeofIfAddrmsg)...), start)
	}, func() { clear(s.addrs) }, func(typ uint16, body []byte) error {
		if e, ok := parseEvent(typ, 0, body); ok && e.addr != nil {
			s.apply(e, f)
		}
		return nil
	})
}

func (f *FIB) dumpForeign(ctx context.Context, family uint8, s *state) error {
	return f.dumpRoutes(ctx, family, f.table, 0, func() {
		for p := range s.foreign {
			if p.prefix.Addr().Is4() == (family == unix.AF_INET) {
				delete(s.foreign, p)
			}
		}
	}, func(r row) {
		s.apply(event{row: &r}, f)
	})
}

// apply takes a notification in and tells whether it could matter.
func (f *FIB) apply(e event) bool {
	f.view.mu.Lock()
	defer f.view.mu.Unlock()
	if f.view.dumping {
		if len(f.view.replay) < maxReplay {
			f.view.replay = append(f.view.replay, e)
		} else {
			f.view.lost = true
		}
	}
	return f.view.state.apply(e, f)
}

// Run reads notifications until ctx ends. Open must have succeeded.
func (f *FIB) Run(ctx context.Context) error {
	select {
	case <-f.opened:
	case <-ctx.Done():
		return nil
	}
	defer f.mon.within(ctx)()
	for {
		b, err := f.mon.recv()
		switch {
		case ctx.Err() != nil:
			return nil
		case err == unix.ENOBUFS:
			f.overrun()
			continue
		case err != nil:
			return fmt.Errorf("kernel route notifications: %w", err)
		}
		wake := false
		for h, body := range messages(b) {
			if h.port == f.req.port || h.port == f.obj.port {
				continue // our own doing
			}
			if e, ok := parseEvent(h.typ, h.flags, body); ok && f.apply(e) {
				wake = true
				if e.link != nil {
					f.objects.stale.Store(true) // objects of a link that goes down go without a word
				}
			}
		}
		if wake {
			f.wake()
		}
	}
}

// overrun notes that notifications were lost. The socket goes on working; the view is rebuilt by whoever needs it next.
func (f *FIB) overrun() {
	f.stats.add(func(s *Stats) { s.Overruns++ })
	f.view.mu.Lock()
	f.view.lost = true
	f.view.mu.Unlock()
	f.wake()
}
