package routes

import (
	"net/netip"
	"slices"
	"time"
)

// UseBackups gives rows a Backup, where there is one, and has plans divert devices. To be called before anything else.
func (t *Table) UseBackups() { t.backups = true }

// spare is a way in reserve. Immutable.
type spare struct {
	way  Way
	hops []Hop
}

// setBackup finds the way that a route through one tunnel takes from the moment when the tunnel is lost: the one that would
// be chosen then, of those whose peer has the prefix among its allowed-IPs in any case. So nothing but the routes has to
// change. On a shared device that is not so: there a prefix belongs to one peer.
func (t *Table) setBackup(r *Row, d *Decision, picked []choice) {
	if !t.backups || d.Source != BGP || len(picked) != 1 || picked[0].peer == nil || picked[0].peer.shared {
		return
	}
	device := picked[0].peer.Device
	find := func(n *neighbour, nextHop netip.Addr) (choice, bool) {
		ways, _, _ := t.ways(n, nextHop)
		for _, w := range ways {
			feasible := w.peer == nil || w.peer == n.peer && !w.peer.shared
			if why, _ := t.rules.refuse(w.peer, r.Prefix); feasible && !n.cut && why == "" && w.hop.Device != device {
				return choice{w, n.rule.label()}, true
			}
		}
		return choice{}, false
	}
	for _, m := range r.best {
		// The allowed-IPs follow the accepted paths, which for a moment may lack one of the best.
		accepted := slices.ContainsFunc(r.paths, func(p rpath) bool { return p.from == m.from && p.path.Rejected == "" })
		if c, ok := find(m.from, m.nextHop); ok && accepted {
			t.reserve(d, c)
			return
		}
	}
	var best choice
	var attrs *Attrs
	found := false
	for _, p := range r.paths {
		if p.path.Rejected != "" || found && compareAttrs(p.path.Attrs, attrs) >= 0 {
			continue
		}
		if c, ok := find(p.from, p.path.NextHop); ok {
			best, attrs, found = c, p.path.Attrs, true
		}
	}
	if found {
		t.reserve(d, best)
	}
}

// reserve makes a choice the backup. Many rows have the same one.
func (t *Table) reserve(d *Decision, c choice) {
	s := t.spares[c]
	if s == nil {
		s = &spare{way: Way{Hop: c.hop, Label: c.label}, hops: CanonicalHops([]Hop{c.hop})}
		if c.peer != nil {
			s.way.Peer = c.peer.Name
		}
		if t.spares == nil {
			t.spares = make(map[choice]*spare)
		}
		t.spares[c] = s
	}
	d.Backup, d.backupHops = &s.way, s.hops
}

// severed tells whether a peer has neighbours behind it and none of them can be reached.
func (t *Table) severed(p *peer) bool {
	all, any := true, false
	for _, n := range t.neighbours {
		if n.known && n.peer == p && !n.rule.Disabled {
			all, any = all && n.cut, true
		}
	}
	return all && any
}

// applyReachable takes in whether a neighbour can be reached.
func (t *Table) applyReachable(n *neighbour, is bool, now time.Time) {
	if n.cut == !is || !n.known || n.rule.Disabled {
		return
	}
	n.cut = !is
	cause := Cause{Decided: now}
	if n.cut {
		cause.Loss = n.loss
	}
	for q := range n.prefixes.All() {
		t.draft(q).because(cause)
	}
	if p := n.peer; p != nil && p.severed != t.severed(p) {
		p.severed = !p.severed
		t.devices = nil
		t.touchPaths(p, cause)
	}
}

// touchPaths has all prefixes decided again that may lead through a peer because of BGP, and returns what does so for others.
func (t *Table) touchPaths(p *peer, cause Cause) (touch func(netip.Prefix)) {
	touch = func(q netip.Prefix) { t.draft(q).because(cause) }
	for _, n := range t.neighbours {
		if n.peer == p {
			for q := range n.prefixes.All() {
				touch(q)
			}
		}
	}
	t.nextHops.through(p, touch)
	t.devices = nil
	return touch
}

// ownDevices is what a snapshot says of devices; nothing if they cannot be diverted.
func (t *Table) ownDevices() (devices map[string]liveness, lost []string) {
	if t.backups && t.devices == nil {
		t.devices, t.lost = make(map[string]liveness), nil
		for _, p := range t.rules.peers {
			if p.shared {
				continue
			}
			is := p.alive
			if p.severed {
				is = dead
			}
			if t.devices[p.Device] = is; is == dead {
				t.lost = append(t.lost, p.Device)
			}
		}
	}
	return t.devices, t.lost
}

// planDevices plans what is done to devices as a whole. One that may have been diverted by an earlier run stays so until its
// peer is known to be alive.
func planDevices(desired *Snapshot, installed *Ledger) (ops []Op) {
	for _, device := range desired.lost {
		if installed.diverted[device].mark != acked {
			ops = append(ops, Op{Kind: Divert, Device: device})
		}
	}
	for device, held := range installed.diverted {
		is, there := desired.devices[device]
		if !there || is == alive || is == unknown && held.mark == acked {
			ops = append(ops, Op{Kind: Restore, Device: device})
		}
	}
	return ops
}
