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
		case 10 * time.Minute:
			h.live = 600 * mib
		}
		m.step(time.Unix(0, 0).Add(at))
	}
	want := []string{"0s: 25 %", "35s: trim", "1m35s: trim", "6m0s: 37 %", "6m20s: trim", "10m0s: 50 %"}
	if !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

// While collections follow each other closely a small heap may grow by 128 MiB and a large one may double, from what it
// is at each of them; and only then.
func TestMemoryWhileBusy(t *testing.T) {
	const mib = 1 << 20
	h := heapLook{live: 2 * mib}
	var got []int
	m := &memory{look: func() heapLook { return h }, percent: func(n int) { got = append(got, n) }, trim: func() {}}
	now := time.Unix(0, 0)
	m.step(now)
	at := now.Add(time.Second)
	m.collection(at)
	at = at.Add(hurry)
	m.collection(at) // far enough apart
	at = at.Add(hurry / 2)
	m.collection(at)
	h.live = 64 * mib
	m.collection(at.Add(time.Millisecond))
	h.live = 2048 * mib
	m.collection(at.Add(2 * time.Millisecond))
	h.allocated += 1000 * mib
	m.step(now.Add(lookEvery)) // 200 MiB/s: with 50 % of 2 GiB, 5 s between two
	h.live = 512 * mib
	h.allocated += 6000 * mib
	m.step(now.Add(2 * lookEvery)) // 1200 MiB/s
	h.allocated += 100 * mib
	m.step(now.Add(3 * lookEvery)) // 20 MiB/s: with 50 % of 512 MiB, 12 s between two
	if want := []int{25, 6400, 200, 100, 50}; !slices.Equal(got, want) {
		t.Errorf("GOGC was set to %v, want %v", got, want)
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
	runtime.GC()
	before := lookAtHeap()
	kept := make([]byte, 8<<20)
	runtime.GC()
	after := lookAtHeap()
	for what, grown := range map[string]uint64{"allocated": after.allocated - before.allocated, "live": after.live - before.live} {
		if grown < uint64(len(kept))*9/10 {
			t.Errorf("%s: %d bytes more after %d were", what, grown, len(kept))
		}
	}
	runtime.KeepAlive(kept)
}
