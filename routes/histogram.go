package routes

import (
	"slices"
	"time"
)

// Buckets of a Histogram: upper bounds in seconds, without the last one, which is infinite.
const Buckets = 14

// Histogram counts durations. It is a value: a copy does not change.
type Histogram struct {
	// Counts per bucket, not cumulative; the last one is for what exceeds all bounds.
	Counts [Buckets + 1]uint64
	// Sum of all durations in seconds.
	Sum float64
	// Count of all durations.
	Count uint64
}

// Bounds are the upper bounds of the buckets of a Histogram in seconds, inclusive.
func Bounds() [Buckets]float64 {
	return [...]float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30}
}

func (h *Histogram) observe(d time.Duration) {
	bounds, s := Bounds(), max(0, d.Seconds())
	i, _ := slices.BinarySearch(bounds[:], s)
	h.Counts[i]++
	h.Sum += s
	h.Count++
}
