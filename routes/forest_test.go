package routes

import (
	"maps"
	"math/rand/v2"
	"net/netip"
	"testing"
)

// numbered is a number for a prefix.
type numbered struct {
	prefix netip.Prefix
	n      int
}

func (x numbered) key() netip.Prefix { return x.prefix }

// Published versions stay as they were, whatever follows, while the tree grows several times.
func TestForest(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	prefix := func(i int) netip.Prefix {
		return netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)}), 32)
	}
	type published struct {
		version *version[numbered]
		want    map[netip.Prefix]numbered
	}
	const root = 4 // so that it grows soon
	const most = 8 * leafSize * root * versionMid
	f, now := newForest[numbered](), map[netip.Prefix]numbered{}
	f.version.root = f.version.root[:root]
	var list []published
	added := 0
	for _, size := range []int{10, 1000, most / 4, most/4 + 10, most, most / 100} {
		for len(now) != size {
			p := prefix(added)
			if len(now) > size {
				p = prefix(r.IntN(added))
				f.remove(p)
				delete(now, p)
				continue
			}
			added++
			now[p] = numbered{p, added}
			f.set(p, now[p])
			if again := prefix(r.IntN(added)); r.IntN(4) == 0 && now[again].n != 0 {
				now[again] = numbered{again, now[again].n + 1}
				f.set(again, now[again])
			}
		}
		list = append(list, published{f.publish(), maps.Clone(now)})
	}
	if len(f.version.root) <= 2*root {
		t.Errorf("the root has %d parts: it did not grow twice", len(f.version.root))
	}
	for i, x := range list {
		got := maps.Collect(x.version.all())
		if !maps.Equal(got, x.want) || x.version.size != len(x.want) {
			t.Errorf("version %d has %d entries and says %d, want %d", i, len(got), x.version.size, len(x.want))
		}
		seen := 0
		for range x.version.all() {
			seen++
		}
		if seen != len(x.want) {
			t.Errorf("version %d shows %d entries, some of them twice; want %d", i, seen, len(x.want))
		}
		for p, v := range x.want {
			if got, ok := x.version.get(p); !ok || got != v {
				t.Fatalf("version %d: %v is %v, %v; want %v", i, p, got, ok, v)
			}
		}
	}
}

// A version for later is of when somebody looks for the first time, stays so, and may be looked at while its forest changes.
func TestForestLater(t *testing.T) {
	prefix := func(i int) netip.Prefix {
		return netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)}), 32)
	}
	const n = 5000
	f := newForest[numbered]()
	for i := range n {
		f.set(prefix(i), numbered{prefix(i), 1})
	}
	early := f.later()
	for i := range n {
		f.set(prefix(i), numbered{prefix(i), 2})
	}
	late := f.later()
	if e, _ := early.get().get(prefix(7)); e.n != 2 {
		t.Errorf("the number is %d, want that of when it is asked for, 2", e.n)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for i := range n {
			f.set(prefix(i), numbered{prefix(i), 3})
		}
		f.remove(prefix(0))
	}()
	first := maps.Collect(late.get().all())
	<-done
	if got := late.get().size; got != len(first) || got < n-1 { // n-1 when all was done before the first look
		t.Errorf("the size of what was looked at is %d, and it had %d entries; want all %d, or all but the one that is removed", got, len(first), n)
	}
	if !maps.Equal(first, maps.Collect(late.get().all())) {
		t.Error("what was looked at has changed")
	}
	for p, x := range maps.Collect(early.get().all()) {
		if x.n != 2 {
			t.Fatalf("%v is %d in what was looked at when it was 2", p, x.n)
		}
	}
}
