package main

import (
	"fmt"
	"runtime"
	"slices"
	"testing"
	"time"
)

// What a busy time left is returned when it has been quiet for a while, once.
func TestMemoryIsReturnedWhenQuiet(t *testing.T) {
	const mib = 1 << 20
	h := heapLook{live: 70 * mib}
	var got []string
	var at time.Duration
	m := &memory{
		look:    func() heapLook { return h },
		percent: func(n int) { got = append(got, fmt.Sprintf("%v: %d %%", at, n)) },
		trim:    func() { got = append(got, fmt.Sprintf("%v: trim", at)) },
	}
	for ; at <= 15*time.Minute; at += lookEvery {
		h.allocated += 2 * mib
		switch at {
		case 5 * time.Second, 10 * time.Second, 15 * time.Second, 45 * time.Second: // the start, in two parts
			h.allocated += 100 * mib
		case 5 * time.Minute: // a few routes
			h.allocated += 20 * mib
		case 6 * time.Minute: // a full table
			h.allocated += 500 * mib
			h.live = 320 * mib
		case 6*time.Minute + 2*lookEvery: // little for so large a heap
			h.allocated += 40 * mib
		case 10 * time.Minute:
			h.live = 600 * mib
		}
		m.step(time.Unix(0, 0).Add(at))
	}
	want := []string{"0s: 15 %", "35s: trim", "1m35s: trim", "6m0s: 32 %", "6m20s: trim", "10m0s: 50 %"}
	if !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

// While collections take more than a twentieth of a core a small heap may grow by 128 MiB, a smaller one by 32 MiB, and a large one may double, from what
// it is at each of them; and only then.
func TestMemoryWhileBusy(t *testing.T) {
	const mib = 1 << 20
	h := heapLook{live: 2 * mib}
	var got []int
	m := &memory{look: func() heapLook { return h }, percent: func(n int) { got = append(got, n) }, trim: func() {}}
	now := time.Unix(0, 0)
	m.step(now)
	at := now
	collect := func(after, price time.Duration) {
		at = at.Add(after)
		h.collecting += price
		m.collection(at)
	}
	collect(time.Second, 40*time.Millisecond) // cheap enough
	collect(time.Second, 60*time.Millisecond)
	h.live = 64 * mib
	collect(time.Second, 10*time.Millisecond)
	h.live = 16 * mib
	collect(time.Second, 10*time.Millisecond)
	h.live = 2048 * mib
	collect(time.Second, 2*time.Second)
	h.allocated += 1000 * mib
	m.step(now.Add(lookEvery)) // 200 MiB/s: with 50 % of 2 GiB, 2 s of a core in 5 s
	h.live = 512 * mib
	h.allocated += 6000 * mib
	m.step(now.Add(2 * lookEvery)) // 1200 MiB/s
	h.allocated += 30 * mib
	m.step(now.Add(3 * lookEvery)) // 6 MiB/s: with 50 % of 512 MiB, 2 s of a core in 43 s
	if want := []int{15, 800, 200, 50, 100, 50}; !slices.Equal(got, want) {
		t.Errorf("GOGC was set to %v, want %v", got, want)
	}
}

// From a heap of a few MiB to one of gigabytes: what may be added until the next collection is never less than for a smaller heap, and never
// more for one at rest than for a busy one.
func TestGrowthOfTheHeap(t *testing.T) {
	const mib, gib = 1 << 20, 1 << 30
	for _, c := range []struct {
		live       uint64
		rest, busy int
	}{
		{0, 15, 800},
		{2 * mib, 15, 800},
		{8 * mib, 15, 400},
		{32 * mib, 15, 100},
		{63 * mib, 15, 100},
		{64 * mib, 15, 200},
		{128 * mib, 15, 100},
		{320 * mib, 32, 100},
		{512 * mib, 50, 100},
		{gib, 50, 100},
		{gib + gib/4, 50, 80},
		{2 * gib, 50, 50},
		{5 * gib / 2, 40, 40},
		{3 * gib, 33, 33},
		{16 * gib, 33, 33},
	} {
		if rest, busy := gcPercent(c.live), busyPercent(c.live); rest != c.rest || busy != c.busy {
			t.Errorf("%d MiB: GOGC %d at rest and %d while busy, want %d and %d", c.live/mib, rest, busy, c.rest, c.busy)
		}
	}
	var before uint64
	for live := uint64(4 * mib); live < 8*gib; live += 4 * mib {
		busy := live * uint64(busyPercent(live)) / 100
		if busy+live/100 < before { // a percent is what GOGC can tell
			t.Fatalf("%d MiB may grow by %d MiB, less than a smaller heap, by %d", live/mib, busy/mib, before/mib)
		}
		if gcPercent(live) > busyPercent(live) {
			t.Fatalf("%d MiB: GOGC %d at rest, and only %d while busy", live/mib, gcPercent(live), busyPercent(live))
		}
		before = max(before, busy)
	}
}

// A collection that ends while GOGC is set counts, though there is no word of it.
func TestMemoryLooksAgain(t *testing.T) {
	const mib = 1 << 20
	h := heapLook{live: 2 * mib}
	var got []int
	m := &memory{look: func() heapLook { return h }, trim: func() {}, hurried: true}
	m.percent = func(n int) { got, h.live = append(got, n), 64*mib }
	m.pace(h)
	if want := []int{800, 200}; !slices.Equal(got, want) {
		t.Errorf("GOGC was set to %v, want %v", got, want)
	}
}

// Buffers that are on paper only make no room for garbage, and do not count against the limit.
func TestMemoryOnPaper(t *testing.T) {
	const mib = 1 << 20
	h := heapLook{live: 3100 * mib, paper: 2844 * mib} // 200 devices
	var percents []int
	var limits []int64
	m := &memory{
		look: func() heapLook { return h }, percent: func(n int) { percents = append(percents, n) }, trim: func() {},
		limit: 460 * mib, limited: 460 * mib, setLimit: func(n int64) { limits = append(limits, n/mib) },
	}
	now := time.Unix(0, 0)
	m.step(now)
	m.step(now.Add(lookEvery))
	h.paper -= mib / 2 // not worth a word
	m.step(now.Add(2 * lookEvery))
	h.paper -= 500 * mib // they are used now
	m.step(now.Add(3 * lookEvery))
	if want := []int{2, 12}; !slices.Equal(percents, want) {
		t.Errorf("GOGC was set to %v, want %v: 26 %% of 256 MiB and 50 %% of 756 MiB", percents, want)
	}
	if want := []int64{3304, 2803}; !slices.Equal(limits, want) {
		t.Errorf("the limit was set to %v MiB, want %v", limits, want)
	}
}

func TestCollectionsAreTold(t *testing.T) {
	c := make(chan struct{}, 1)
	tellCollections(t.Context(), c)
	for range 3 { // it goes on
		runtime.GC()
		select {
		case <-c:
		case <-time.After(10 * time.Second):
			t.Fatal("no word of a collection")
		}
	}
}

func TestLookAtHeap(t *testing.T) {
	const size = 64 << 20
	returnMemory()
	before := lookAtHeap()
	kept := make([]byte, size) // zeroes that the kernel has not given
	runtime.GC()
	after := lookAtHeap()
	if after.collecting <= before.collecting {
		t.Errorf("collections took %v, and after one more %v", before.collecting, after.collecting)
	}
	for what, grown := range map[string]uint64{"allocated": after.allocated - before.allocated, "live": after.live - before.live} {
		if grown < size*9/10 {
			t.Errorf("%s: %d bytes more after %d were", what, grown, size)
		}
	}
	if grown := after.paper - before.paper; grown < size/4 || grown > size*2 { // the kernel may give more than is asked for
		t.Errorf("on paper: %d bytes more after %d were asked for", grown, size)
	}
	for i := 0; i < size; i += 1024 {
		kept[i] = 1
	}
	if written := lookAtHeap().paper; written+size/4 > after.paper {
		t.Errorf("%d bytes on paper, and %d after %d were written to", after.paper, written, size)
	}
	runtime.KeepAlive(kept)
}
