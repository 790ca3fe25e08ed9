package bgp

import (
	"maps"
	"math/rand/v2"
	"net/netip"
	"testing"
)

// TestShared does the same to a shared table and to a map, and finds the same in both; and no more room in use than values.
func TestShared(t *testing.T) {
	random := rand.New(rand.NewPCG(3, 4))
	var s shared[string]
	want := map[netip.Prefix]string{}
	for i := range 20_000 {
		p := netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 0, byte(random.IntN(4)), byte(random.IntN(16))}), 32)
		if random.IntN(3) == 0 {
			s.remove(p, s.find(p))
			delete(want, p)
		} else {
			value := []string{"", "a", "b"}[random.IntN(3)]
			s.replace(p, s.find(p), value)
			want[p] = value
		}
		got, ok := s.get(p)
		if w, there := want[p]; got != w || ok != there {
			t.Fatalf("%v: %q, %v; want %q, %v", p, got, ok, w, there)
		}
		if used := len(s.slots) - 1 - len(s.free); s.len() != len(want) || s.slots != nil && used > len(want) {
			t.Fatalf("%d prefixes with %d values, want %d prefixes", s.len(), used, len(want))
		}
		if i%1000 == 0 && !maps.Equal(maps.Collect(s.all()), want) {
			t.Fatalf("all: %v, want %v", maps.Collect(s.all()), want)
		}
	}
	for i := range s.slots {
		if (s.slots[i].uses == 0) != (i == 0 || s.slots[i] == slot[string]{}) {
			t.Fatalf("slot %d: %+v", i, s.slots[i])
		}
	}
	for p := range want {
		s.replace(p, s.find(p), "one")
	}
	if used := len(s.slots) - 1 - len(s.free); used != 1 {
		t.Fatalf("%d values are one", used)
	}
	for p := range want {
		s.remove(p, s.find(p))
	}
	if s.len() != 0 || len(s.slots)-1 != len(s.free) {
		t.Fatalf("%d prefixes and %d values of %d are left", s.len(), len(s.slots)-1-len(s.free), len(s.slots)-1)
	}
}
