package prefixmap

import (
	"maps"
	"math/rand/v2"
	"net/netip"
	"testing"
)

// TestAsAMap does the same to a Map and to Go's own, and finds the same in both.
func TestAsAMap(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	some := func() netip.Prefix {
		var a netip.Addr
		switch random.IntN(3) {
		case 0:
			a = netip.AddrFrom4([4]byte{10, 0, 0, byte(random.IntN(4))})
		case 1:
			a = netip.AddrFrom16([16]byte{0: 0xfd, 15: byte(random.IntN(4))})
		default: // the same bytes as the first kind, and another prefix
			a = netip.AddrFrom16(netip.AddrFrom4([4]byte{10, 0, 0, byte(random.IntN(4))}).As16())
		}
		return netip.PrefixFrom(a, []int{0, 7, 31, a.BitLen()}[random.IntN(4)])
	}
	var m Map[int]
	want := map[netip.Prefix]int{}
	for i := range 20_000 {
		p := some()
		switch random.IntN(3) {
		case 0:
			m.Delete(p)
			delete(want, p)
		default:
			m.Set(p, i)
			want[p] = i
		}
		q := some()
		got, ok := m.Get(q)
		if w, there := want[q]; got != w || ok != there {
			t.Fatalf("%v: %v, %v; want %v, %v", q, got, ok, w, there)
		}
		if m.Len() != len(want) {
			t.Fatalf("Len %d, want %d", m.Len(), len(want))
		}
		if i%1000 == 0 && !maps.Equal(maps.Collect(m.All()), want) {
			t.Fatalf("All: %v, want %v", maps.Collect(m.All()), want)
		}
	}
	for range m.All() {
		break
	}
	m.Clear()
	if _, ok := m.Get(some()); ok || m.Len() != 0 {
		t.Fatal("not empty after Clear")
	}
}
