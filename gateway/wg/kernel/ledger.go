package kernel

import (
	"net/netip"

	"sitewire/gateway/wg"
)

// ledger is who owns what, for kernels that cannot be told "remove this if that peer has it". Its entries are without pointers, since there
// may be a million.
type ledger struct {
	owner map[entry]uint32 // index in keys
	keys  []wg.PublicKey
	ids   map[wg.PublicKey]uint32
}

// entry is a prefix: 16 bytes of address, its length in bits and its family.
type entry [18]byte

func entryOf(p netip.Prefix) (e entry) {
	a := p.Addr().As16()
	copy(e[:], a[:])
	e[16] = byte(p.Bits())
	if p.Addr().Is4() {
		e[17] = 4
	}
	return e
}

func newLedger(list []wg.AllowedIP) *ledger {
	l := &ledger{owner: make(map[entry]uint32, len(list)), ids: map[wg.PublicKey]uint32{}}
	for _, a := range list {
		l.set(a)
	}
	return l
}

func (l *ledger) set(a wg.AllowedIP) {
	id, ok := l.ids[a.Peer]
	if !ok {
		id = uint32(len(l.keys))
		l.keys, l.ids[a.Peer] = append(l.keys, a.Peer), id
	}
	l.owner[entryOf(a.Prefix)] = id
}

func (l *ledger) owns(a wg.AllowedIP) bool {
	id, ok := l.owner[entryOf(a.Prefix)]
	return ok && l.keys[id] == a.Peer
}

func (l *ledger) remove(p netip.Prefix) { delete(l.owner, entryOf(p)) }

// removePeer forgets all that a peer owns.
func (l *ledger) removePeer(k wg.PublicKey) {
	gone, ok := l.ids[k]
	if !ok {
		return
	}
	for e, id := range l.owner {
		if id == gone {
			delete(l.owner, e)
		}
	}
}
