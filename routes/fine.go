package routes

import (
	"iter"
	"math"
	"slices"
	"time"
)

// Fine counts durations in buckets each of which ends at 2^(1/8) times the end of the one before, as a native histogram
// of Prometheus with schema 3 does: a quantile read from it is off by less than a tenth, whatever the durations are.
// The zero value is empty. Only what lies between the smallest and the largest duration takes memory, and that is
// bounded: see FineThreshold and FineLongest.
type Fine struct {
	// Least counts what is not longer than FineThreshold.
	Least  uint64
	first  int // number of the bucket of counts[0]
	counts []uint64
	shared bool // counts is somebody else's as well
}

const (
	// FineSchema is the resolution: 2^FineSchema buckets for each doubling.
	FineSchema = 3
	// FineThreshold in seconds, a little less than 1 µs: shorter durations are not told apart.
	FineThreshold = 1. / (1 << 20)
	// FineLongest in seconds, a little over 2 min: longer ones count as this.
	FineLongest = 1 << 7
	perDoubling = 1 << FineSchema
)

// Observe counts a duration.
func (f *Fine) Observe(d time.Duration) {
	s := d.Seconds()
	if s <= FineThreshold {
		f.Least++
		return
	}
	f.count(bucketOf(min(s, FineLongest)))
}

// bucketOf is the number n of the bucket with 2^((n-1)/8) < s <= 2^(n/8).
func bucketOf(s float64) int {
	fraction, exponent := math.Frexp(s) // 0.5 <= fraction < 1
	ends := fineEnds()
	i, _ := slices.BinarySearch(ends[:], fraction)
	return i + (exponent-1)*perDoubling
}

// fineEnds are the ends of the buckets of one doubling, 2^(i/8-1), to the last bit as Prometheus has them.
func fineEnds() [perDoubling]float64 {
	return [...]float64{
		0.5, 0.5452538663326288, 0.5946035575013605, 0.6484197773255048,
		0.7071067811865475, 0.7711054127039704, 0.8408964152537144, 0.9170040432046711,
	}
}

// count adds to a bucket, and makes room for it first.
func (f *Fine) count(n int) {
	switch last := f.first + len(f.counts); {
	case len(f.counts) == 0:
		f.first, f.counts, f.shared = n, make([]uint64, 1), false
	case n < f.first:
		f.counts, f.shared = slices.Concat(make([]uint64, f.first-n), f.counts), false
		f.first = n
	case n >= last:
		f.counts, f.shared = slices.Concat(f.counts, make([]uint64, n-last+1)), false
	case f.shared:
		f.counts, f.shared = slices.Clone(f.counts), false
	}
	f.counts[n-f.first]++
}

// Copy returns what later calls of Observe on f do not change. The memory is shared until the next one.
func (f *Fine) Copy() Fine {
	f.shared = true
	return *f
}

// All returns the buckets that are not empty: their numbers, ascending, and what is in each. Bucket n ends at 2^(n/8) s.
func (f *Fine) All() iter.Seq2[int, uint64] {
	return func(yield func(int, uint64) bool) {
		for i, n := range f.counts {
			if n > 0 && !yield(f.first+i, n) {
				return
			}
		}
	}
}
