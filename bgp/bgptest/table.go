package bgptest

import (
	"encoding/binary"
	"math/rand/v2"
	"net/netip"
)

// Table is a routing table to send: pre-encoded UPDATEs, and the prefixes in them.
type Table struct {
	Prefixes []netip.Prefix
	Updates  [][]byte
}

// perUpdate is how many prefixes share their attributes on the Internet.
const perUpdate = 6

// lengths are the prefix lengths of the Internet's IPv4 table, in thousandths.
var lengths = [25]int{11: 1, 12: 1, 13: 1, 14: 1, 15: 2, 16: 14, 17: 8, 18: 14, 19: 25, 20: 45, 21: 54, 22: 114, 23: 105, 24: 615}

// special are first octets of which at least a part is no one's to announce.
var special = [256]bool{0: true, 10: true, 100: true, 127: true, 169: true, 172: true, 192: true, 198: true, 203: true}

// NewTable makes n IPv4 prefixes with the lengths of the Internet's, one set of attributes to six of them, as from the
// neighbour first with this next hop. AS paths have three to six ASes and there are up to three communities. Equal
// arguments give equal tables; about two million prefixes is the most that fits.
func NewTable(n int, first uint32, hop netip.Addr, seed uint64) *Table {
	r := rand.New(rand.NewPCG(seed, 1))
	var pick []int
	for bits, share := range lengths {
		for range share {
			pick = append(pick, bits)
		}
	}
	t := &Table{Prefixes: make([]netip.Prefix, 0, n), Updates: make([][]byte, 0, n/perUpdate+1)}
	seen := make(map[netip.Prefix]bool, n)
	for len(t.Prefixes) < n {
		bits := pick[r.IntN(len(pick))]
		var a [4]byte
		binary.BigEndian.PutUint32(a[:], r.Uint32())
		p, err := netip.AddrFrom4(a).Prefix(bits)
		if err != nil || a[0] >= 224 || special[a[0]] || seen[p] {
			continue
		}
		seen[p] = true
		t.Prefixes = append(t.Prefixes, p)
	}
	for i := 0; i < n; i += perUpdate {
		u := Update{Prefixes: t.Prefixes[i:min(i+perUpdate, n)], NextHop: []netip.Addr{hop}, ASPath: []uint32{first}}
		for range 2 + r.IntN(4) {
			u.ASPath = append(u.ASPath, 1000+r.Uint32N(60000))
		}
		for range r.IntN(4) {
			u.Communities = append(u.Communities, (1000+r.Uint32N(60000))<<16|r.Uint32N(1000))
		}
		t.Updates = append(t.Updates, u.Encode())
	}
	return t
}

// Send writes all UPDATEs, many to a write.
func (t *Table) Send(p *Peer) error {
	var b []byte
	for _, u := range t.Updates {
		if b = append(b, u...); len(b) > 1<<16 {
			if err := p.Send(b); err != nil {
				return err
			}
			b = b[:0]
		}
	}
	return p.Send(b)
}
