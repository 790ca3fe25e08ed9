package main

import (
	"runtime"
	"testing"
)

// TestSpareProcessors: there are places to spare, and who says how many there are to be is heeded.
func TestSpareProcessors(t *testing.T) {
	before := runtime.GOMAXPROCS(0)
	t.Cleanup(func() { runtime.GOMAXPROCS(before) })
	spareProcessors("3")
	if got := runtime.GOMAXPROCS(0); got != before {
		t.Errorf("GOMAXPROCS %d after somebody chose, was %d", got, before)
	}
	runtime.SetDefaultGOMAXPROCS() // this test may have been told otherwise
	want := processorsEach * runtime.GOMAXPROCS(0)
	spareProcessors("")
	if got := runtime.GOMAXPROCS(0); got != want {
		t.Errorf("GOMAXPROCS %d, want %d", got, want)
	}
}
