package routes

import (
	"maps"
	"testing"
	"time"
)

// A copy keeps what it has, whatever is observed afterwards: in the same bucket, before and behind.
func TestFineCopy(t *testing.T) {
	var f Fine
	f.Observe(time.Millisecond)
	first := f.Copy()
	f.Observe(time.Millisecond)
	second := f.Copy()
	f.Observe(time.Microsecond)
	f.Observe(time.Minute)
	f.Observe(0)
	third := f.Copy()
	third.Observe(time.Millisecond) // a copy may go its own way

	at := bucketOf(time.Millisecond.Seconds())
	for i, want := range []struct {
		fine Fine
		n    uint64
		all  int
	}{{first, 1, 1}, {second, 2, 1}, {f, 2, 3}, {third, 3, 3}} {
		got := maps.Collect(want.fine.All())
		if got[at] != want.n || len(got) != want.all {
			t.Errorf("%d: %v, want %d in bucket %d of %d", i, got, want.n, at, want.all)
		}
	}
	if first.Least != 0 || f.Least != 1 {
		t.Errorf("at or below the threshold: %d and %d, want 0 and 1", first.Least, f.Least)
	}
}

// Memory is bounded by the two ends, whatever comes.
func TestFineIsBounded(t *testing.T) {
	var f Fine
	for d := time.Duration(1); d > 0 && d < 1<<62; d += d/16 + 1 {
		f.Observe(d)
	}
	if n := len(f.counts); n != 27*perDoubling {
		t.Errorf("%d buckets, want those of the 27 doublings from 2^-20 s to 2^7 s", n)
	}
}

func BenchmarkHistogramObserve(b *testing.B) {
	var h Histogram
	for b.Loop() {
		h.Observe(1234 * time.Microsecond)
	}
}
