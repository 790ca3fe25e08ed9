package bgptest

import (
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

// NewTable makes n IPv4 prefixes, mostly /24 with shorter ones around them, with one set of attributes to six of them,
// as from the neighbour first with this next hop. Equal arguments give equal tables.
func NewTable(n int, first uint32, hop netip.Addr, seed uint64) *Table {
	r := rand.New(rand.NewPCG(seed, 1))
	t := &Table{}
	seen := make(map[netip.Prefix]bool, n)
	for len(t.Prefixes) < n {
		bits := 24
		if k := r.IntN(10); k < 4 {
			bits = 16 + k*2
		}
		a := netip.AddrFrom4([4]byte{byte(1 + r.IntN(100)), byte(r.IntN(256)), byte(r.IntN(256)), 0})
		p, err := a.Prefix(bits)
		if err != nil || seen[p] || a.As4()[0] == 10 {
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
