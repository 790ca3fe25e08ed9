package fib

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"sitewire/routes"
)

// dumpRoutes is the function of that name over the FIB's own sockets. The caller has the turn.
func (f *FIB) dumpRoutes(ctx context.Context, family uint8, table uint32, protocol uint8, reset func(), each func(row)) error {
	return dumpRoutes(ctx, f.req, f.guard, family, table, protocol, reset, each)
}

// dumpRoutes reads the rows of a table, with one protocol number unless protocol is 0. A table that does not exist is empty.
//
// The kernel marks an interrupted IPv4 dump. For IPv6 it does not: when the table changes, it starts again and skips as many rows as it had
// sent, and so leaves rows out or sends them twice (measured on 6.18). So another socket, guard, listens for changes while an IPv6 dump runs.
func dumpRoutes(ctx context.Context, req, guard *conn, family uint8, table uint32, protocol uint8, reset func(), each func(row)) error {
	for try := range dumpTries {
		unchanged := func() (bool, error) { return true, nil }
		if family == unix.AF_INET6 {
			var err error
			if unchanged, err = guard.watch(unix.RTNLGRP_IPV6_ROUTE, table); err != nil {
				return err
			}
		}
		err := req.dump(ctx, func(seq uint32) []byte {
			return appendRouteDump(nil, family, table, protocol, seq)
		}, reset, func(_ uint16, body []byte) error {
			// Kernels before 4.20 do not filter.
			if r, ok := parseRow(body); ok && !r.cloned && r.table == table && (protocol == 0 || r.protocol == protocol) {
				each(r)
			}
			return nil
		})
		same, watchErr := unchanged()
		if errors.Is(err, unix.ENOENT) {
			reset()
			err = nil
		}
		if err := cmp.Or(err, watchErr); err != nil || same {
			return err
		}
		// A burst passes.
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(min(time.Millisecond<<try, 100*time.Millisecond)):
		}
	}
	return errInterrupted
}

// List returns every prefix that has a row with our protocol number in our table, whoever put it there, sorted by family and prefix. One that
// has a unicast and an unreachable route is there twice, in this order.
//
// A route is listed with its hops only if its rows are what Write would make of it now. One that has another metric or preferred source (the
// configuration changed, or the source address came back), or that has rows besides, is listed without hops: so it is equal to no route
// that anybody wants, and gets installed again or withdrawn, which cleans it up.
func (f *FIB) List(ctx context.Context) ([]routes.Route, error) {
	if err := f.take(ctx); err != nil {
		return nil, fmt.Errorf("list kernel routes: %w", err)
	}
	defer f.give()
	list, err := f.list(ctx)
	if err != nil {
		return nil, fmt.Errorf("list kernel routes: %w", err)
	}
	return list, nil
}

func (f *FIB) list(ctx context.Context) ([]routes.Route, error) {
	if err := f.refresh(ctx); err != nil {
		return nil, err
	}
	f.lookSources()
	var err error
	if f.meaning, err = f.meanings(ctx); err != nil {
		return nil, err
	}
	used := map[uint32]bool{}
	var list []routes.Route
	rest := map[netip.Prefix][]row{}
	for _, family := range families {
		mark := len(list)
		var rows []row // of one prefix; the kernel sends them in a row
		flush := func() {
			if len(rows) == 0 {
				return
			}
			dst, all := rows[0].dst, len(rows)
			if rows = slices.DeleteFunc(rows, unreachableRow); len(rows) > 0 {
				list = append(list, f.route(rows))
			}
			if len(rows) < all {
				list = append(list, routes.Route{Prefix: dst, Type: routes.Unreachable})
			}
			if left := f.leftovers(rows); left != nil {
				rest[dst] = left
			}
			rows = rows[:0]
		}
		reset := func() {
			list, rows = list[:mark], rows[:0]
			for p := range rest {
				if p.Addr().Is4() == (family == unix.AF_INET) {
					delete(rest, p)
				}
			}
		}
		err := f.dumpRoutes(ctx, family, f.table, f.protocol, reset, func(r row) {
			if len(rows) > 0 && rows[0].dst != r.dst {
				flush()
			}
			rows = append(rows, r)
			if r.group != 0 {
				used[r.group] = true
			}
		})
		if err != nil {
			return nil, err
		}
		flush()
		slices.SortFunc(list[mark:], func(a, b routes.Route) int {
			return cmp.Or(comparePrefixes(a.Prefix, b.Prefix), cmp.Compare(a.Type, b.Type))
		})
	}
	f.rest = rest
	return list, f.tidy(ctx, used)
}

func comparePrefixes(a, b netip.Prefix) int {
	return cmp.Or(a.Addr().Compare(b.Addr()), cmp.Compare(a.Bits(), b.Bits()))
}

// unreachableRow tells whether Write makes an unreachable route so.
func unreachableRow(r row) bool {
	return r.kind == unix.RTN_UNREACHABLE && r.metric == UnreachableMetric && r.tos == 0
}

// route turns the rows of one prefix, without the unreachable one, into a route; without hops if Write would not have made them so.
func (f *FIB) route(rows []row) routes.Route {
	r := routes.Route{Prefix: rows[0].dst}
	want := f.src[routes.FamilyOf(r.Prefix)]
	var hops []nexthop
	for i, w := range rows {
		// IPv6 lists the nexthops that are devices only as rows of their own.
		if w.kind != unix.RTN_UNICAST || w.metric != f.metric || w.tos != 0 || w.src != want || i > 0 && r.Prefix.Addr().Is4() {
			return r
		}
		hops = append(hops, w.hops...)
	}
	if id := rows[0].group; id != 0 && len(rows) == 1 {
		if m, known := f.meaning[id]; known {
			r.Hops, r.Backup = m.hops, m.backup
			return r
		}
	}
	hops = normalHops(hops)
	for _, h := range hops {
		r.Hops = append(r.Hops, routes.Hop{Device: f.name(h.index), Via: h.via})
	}
	if a, ok := f.asked[r.Prefix]; ok && f.means(a, hops) {
		return a
	}
	r.Hops = routes.CanonicalHops(r.Hops)
	return r
}

// means tells whether the kernel's hops are what a route in another form asked for.
func (f *FIB) means(a routes.Route, hops []nexthop) bool {
	return len(a.Hops) == len(hops) && !slices.ContainsFunc(a.Hops, func(want routes.Hop) bool {
		return !slices.ContainsFunc(hops, func(h nexthop) bool {
			return h.via == want.Via && (want.Device == "" || f.name(h.index) == want.Device)
		})
	})
}

// name of a device; one that has just gone has only its number.
func (f *FIB) name(index int) (name string) {
	f.view.with(func(s *state) { name = s.links[index].name })
	return cmp.Or(name, fmt.Sprintf("#%d", index))
}

// lookSources finds out which preferred sources can be used now, and says so once if one cannot. The caller has the turn.
func (f *FIB) lookSources() {
	for _, family := range []routes.Family{routes.IPv4, routes.IPv6} {
		want := f.source[family]
		if !want.IsValid() {
			continue
		}
		there := false
		f.view.with(func(s *state) { there = s.hasSource(want) })
		switch {
		case there:
			f.src[family], f.warned[family] = want, false
		default:
			f.src[family] = netip.Addr{}
			if !f.warned[family] {
				f.warned[family] = true
				f.log.Warn("preferred source is not an address of this machine: routes are written without it", "family", family.String(), "source", want)
			}
		}
	}
}

// Connected returns the networks on link with their devices, sorted: the kernel's own routes of the main table, and the networks of addresses.
// A network on several devices (fe80::/64) has a hop for each. Never what we wrote, nor a loopback device, nor our own host addresses.
func (f *FIB) Connected(ctx context.Context) ([]routes.Route, error) {
	if err := f.take(ctx); err != nil {
		return nil, fmt.Errorf("list connected networks: %w", err)
	}
	defer f.give()
	list, err := f.connected(ctx)
	if err != nil {
		return nil, fmt.Errorf("list connected networks: %w", err)
	}
	return list, nil
}

func (f *FIB) connected(ctx context.Context) ([]routes.Route, error) {
	s := newState()
	if err := f.dumpLinks(ctx, &s); err != nil {
		return nil, err
	}
	if err := f.dumpAddrs(ctx, &s); err != nil {
		return nil, err
	}
	own := map[netip.Addr]bool{}
	on := map[netip.Prefix][]routes.Hop{}
	add := func(n netip.Prefix, index int) {
		l, hop := s.links[index], routes.Hop{Device: s.links[index].name}
		usable := l.flags&unix.IFF_UP != 0 && l.flags&unix.IFF_LOOPBACK == 0 && !(n.IsSingleIP() && own[n.Addr()]) && !n.Addr().IsMulticast()
		if usable && !slices.Contains(on[n], hop) {
			on[n] = append(on[n], hop)
		}
	}
	for a := range s.addrs {
		own[a.local] = true
	}
	for a := range s.addrs {
		if !a.noRoute {
			add(a.network, a.index)
		}
	}
	for _, family := range families {
		var rows []row
		err := f.dumpRoutes(ctx, family, unix.RT_TABLE_MAIN, unix.RTPROT_KERNEL, func() { rows = rows[:0] }, func(r row) { rows = append(rows, r) })
		if err != nil {
			return nil, err
		}
		for _, r := range rows {
			for _, h := range r.hops {
				if !h.via.IsValid() {
					add(r.dst, h.index)
				}
			}
		}
	}
	list := make([]routes.Route, 0, len(on))
	for n, hops := range on {
		list = append(list, routes.Route{Prefix: n, Hops: routes.CanonicalHops(hops)})
	}
	slices.SortFunc(list, func(a, b routes.Route) int { return comparePrefixes(a.Prefix, b.Prefix) })
	return list, nil
}
