package routes

import (
	"slices"
	"time"

	"github.com/gaissmai/bart"
)

// LossKind says how it was noticed that a neighbour or a tunnel is lost.
type LossKind uint8

// Kinds of losses; the names are those of the metrics.
const (
	LossUnknown   LossKind = iota // not told yet
	LossBFD                       // BFD's detection time ran out
	LossHoldTimer                 // the hold timer ran out, here or there, or the time that a restarting neighbour was given
	LossTunnel                    // nothing is heard through the tunnel
	LossLink                      // the connection broke, a device went, or a network that was on link
	LossAdmin                     // somebody wanted it: a NOTIFICATION, a changed configuration
	LossKinds                     // their number
)

func (k LossKind) String() string {
	switch k {
	case LossBFD:
		return "bfd"
	case LossHoldTimer:
		return "hold_timer"
	case LossTunnel:
		return "tunnel"
	case LossLink:
		return "link"
	case LossAdmin:
		return "admin"
	case LossUnknown, LossKinds:
	}
	return "unknown"
}

// Loss is the end of what was reached through a peer or a neighbour: the cause of withdrawals for which there was no
// UPDATE.
type Loss struct {
	// Of is the peer, or the neighbour that is behind none.
	Of   string
	Kind LossKind
	// At is when it was noticed; zero means that there is no loss.
	At time.Time
}

func (l Loss) happened() bool { return !l.At.IsZero() }

// PutLoss says that a neighbour's session was lost, with all that was learned in it: what goes from now on goes for that
// reason, until the neighbour announces something again. The kind may be told later, with the same time. Call it before the
// withdrawals. After LossBFD PutReachable follows, and wakes the reader.
func (f *Feed) PutLoss(neighbour string, kind LossKind, at time.Time) {
	put := f.put
	if kind == LossBFD {
		put = f.putQuietly
	}
	put(func(b *Batch) {
		if b.lost == nil {
			b.lost = make(map[string]Loss)
		}
		l := b.lost[neighbour]
		if !l.At.Equal(at) {
			l = Loss{At: at}
		}
		if l.Kind == LossUnknown {
			l.Kind = kind
		}
		b.lost[neighbour] = l
	})
}

// PutDead is PutAlive(peer, false) with what it was noticed by.
func (f *Feed) PutDead(peer string, kind LossKind) {
	f.put(func(b *Batch) {
		if b.alive == nil {
			b.alive = make(map[string]bool)
		}
		if b.dead == nil {
			b.dead = make(map[string]Loss)
		}
		b.alive[peer] = false
		b.dead[peer] = Loss{Of: peer, Kind: kind, At: time.Now()}
	})
	f.raise(alarm{peer: peer})
}

// applyLoss notes why a neighbour's paths are about to go. The sessions through a dead tunnel end because of it, so all of
// it is one loss.
func (t *Table) applyLoss(n *neighbour, l Loss) {
	l.Of = n.name
	if n.peer != nil {
		l.Of = n.peer.Name
		if dead, ok := t.dead[n.peer.Name]; ok {
			l = dead
		}
	}
	n.loss = l
	t.losses = append(t.losses, l)
}

// applyDead notes why a peer's tunnel is dead.
func (t *Table) applyDead(peer string, l Loss) {
	if _, known := t.dead[peer]; !known {
		t.dead[peer] = l
		t.losses = append(t.losses, l)
	}
}

// onLink is what Loss.Of is for networks that were on link.
const onLink = "on link"

// lostBest is the loss that a prefix's best set changed by: of one of those that were in it and are not now.
func lostBest(before, now []member) Loss {
	for _, m := range before {
		if !m.from.loss.happened() {
			continue
		}
		if !slices.ContainsFunc(now, func(x member) bool { return x.from == m.from }) {
			return m.from.loss
		}
	}
	return Loss{}
}

// lostNetwork tells whether a network went that was on link on another device than a tunnel: tunnels have their own
// liveness.
func (t *Table) lostNetwork(now *bart.Table[string]) bool {
	tunnels := make(map[string]bool, len(t.rules.peers))
	for _, p := range t.rules.peers {
		tunnels[p.Device] = true
	}
	for p, device := range t.connected.All() {
		if is, ok := now.Get(p); !tunnels[device] && (!ok || is != device) {
			return true
		}
	}
	return false
}
