package routes

import (
	"slices"
	"time"
)

// Buckets of a Histogram: upper bounds in seconds, without the last one, which is infinite.
const Buckets = 14

// Histogram counts durations, in a few fixed buckets and in many narrow ones. Those who did not make it only read it.
type Histogram struct {
	// Counts per bucket, not cumulative; the last one is for what exceeds all bounds.
	Counts [Buckets + 1]uint64
	// Sum of all durations in seconds.
	Sum float64
	// Count of all durations.
	Count uint64
	// Fine counts them by their order of magnitude.
	Fine Fine
}

// Bounds are the upper bounds of the buckets of a Histogram in seconds, inclusive.
func Bounds() [Buckets]float64 {
	return [...]float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30}
}

// Observe counts a duration; a negative one as 0.
func (h *Histogram) Observe(d time.Duration) {
	bounds, s := Bounds(), max(0, d.Seconds())
	i, _ := slices.BinarySearch(bounds[:], s)
	h.Counts[i]++
	h.Sum += s
	h.Count++
	h.Fine.Observe(d)
}

// Copy returns a histogram that later calls of Observe do not change. It copies little until the next Observe.
func (h *Histogram) Copy() Histogram {
	c := *h
	c.Fine = h.Fine.Copy()
	return c
}
