package routes

import (
	"maps"
	"slices"
	"strings"
	"time"
)

// Diversion is a device whose routes take their other ways: its tunnel is lost, or was and has not been restored.
type Diversion struct {
	Device string
	// Peer behind it; empty if the configuration has it no more.
	Peer string
	// Since is when the kernel acknowledged it; for one of an earlier run, when this run found it.
	Since time.Time
	// To is where the routes that led through the device at that moment go since: how many, by device. Several devices have
	// commas between them. It is not known how many had no other way.
	To map[string]int
}

// diversion is what a ledger knows of one: of one that is tried, nothing else.
type diversion struct {
	mark  mark
	since time.Time
	to    map[string]int
}

// detour is another way of routes through a device: to takes over while the device is diverted.
type detour struct{ device, to string }

// detours calls count for each device of a route that has another way.
func (h *holding) detours(count func(detour)) {
	switch {
	case len(h.hops) == 1 && len(h.backup) > 0:
		count(detour{h.hops[0].Device, devicesBut(h.backup, "")})
	case len(h.hops) > 1:
		for _, x := range h.hops {
			if to := devicesBut(h.hops, x.Device); to != "" {
				count(detour{x.Device, to})
			}
		}
	}
}

// devicesBut names the devices of hops but one.
func devicesBut(hops []Hop, but string) string {
	if len(hops) == 1 && hops[0].Device != but {
		return hops[0].Device
	}
	var list []string
	for _, x := range hops {
		if x.Device != but {
			list = append(list, x.Device)
		}
	}
	return strings.Join(slices.Compact(list), ",")
}

// countDetours follows a change of an entry.
func (l *Ledger) countDetours(before, now *holding) {
	if slices.Equal(before.hops, now.hops) && slices.Equal(before.backup, now.backup) {
		return
	}
	before.detours(func(d detour) { tally(l.detours, d, -1) })
	now.detours(func(d detour) { tally(l.detours, d, +1) })
}

// divert notes that a device is diverted since a time, unless that was known.
func (l *Ledger) divert(device string, at time.Time) {
	if l.diverted[device].mark == acked {
		return
	}
	x := diversion{mark: acked, since: at, to: make(map[string]int)}
	for d, n := range l.detours {
		if d.device == device {
			x.to[d.to] = n
		}
	}
	l.diverted[device] = x
	l.counts.Diversions++
}

// diversions lists those that are known, by device. The maps are shared and not changed any more.
func (s *Syncer) diversions() []Diversion {
	var list []Diversion
	for _, device := range slices.Sorted(maps.Keys(s.ledger.diverted)) {
		x := s.ledger.diverted[device]
		if x.mark != acked {
			continue
		}
		d := Diversion{Device: device, Since: x.since, To: x.to}
		for name, p := range s.table.rules.peers {
			if p.Device == device && !p.shared {
				d.Peer = name
			}
		}
		list = append(list, d)
	}
	return list
}

// diverted tells whether a device is.
func (s *Status) diverted(device string) bool {
	return slices.ContainsFunc(s.Diversions, func(d Diversion) bool { return d.Device == device })
}

// taken are the hops that packets take at present in place of those that were written, as Switcher has it; nil if there was no
// diversion that concerns them.
func (s *Status) taken(hops, backup []Hop) []Hop {
	if len(s.Diversions) == 0 {
		return nil // nearly always
	}
	for i, list := range [][]Hop{hops, backup} {
		live := slices.DeleteFunc(slices.Clone(list), func(h Hop) bool { return s.diverted(h.Device) })
		switch {
		case i == 0 && len(live) == len(hops):
			return nil
		case len(live) > 0:
			return live
		}
	}
	return nil
}
