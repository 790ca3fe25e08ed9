package probe

import (
	"slices"
	"time"

	"sitewire/routes"
)

// Stats tell what echoes to one peer found. Immutable once published.
type Stats struct {
	Peer string
	// Sent and Lost count echoes whose outcome is known: answered within the timeout, or not. Lost ones are among those sent.
	Sent, Lost uint64
	// RTT of those that were answered.
	RTT Histogram
	// Recent is about the last echoes only.
	Recent Recent
	// PathMTU is the size in bytes of the largest packet that got through the tunnel and whose answer came back; 0 is
	// unknown.
	PathMTU int
	// Error is why the last echo could not be sent; empty if it was.
	Error string
}

// Recent sums up the last echoes, at most RecentEchoes of them.
type Recent struct {
	Echoes, Lost int
	// Last is the round-trip time of the last answer; Min, Mean and Max are those of all. Zero without an answer.
	Last, Min, Mean, Max time.Duration
}

// RecentEchoes is how many echoes Recent looks back: ten minutes at ten seconds.
const RecentEchoes = 60

// Loss is the share of recent echoes that were lost.
func (r Recent) Loss() float64 {
	if r.Echoes == 0 {
		return 0
	}
	return float64(r.Lost) / float64(r.Echoes)
}

// memory are the last echoes, in a ring.
type memory struct {
	rtt  [RecentEchoes]time.Duration // negative: lost
	n    int                         // in use
	next int
}

func (m *memory) add(rtt time.Duration) {
	m.rtt[m.next] = rtt
	m.next = (m.next + 1) % len(m.rtt)
	m.n = min(m.n+1, len(m.rtt))
}

func (m *memory) forget() { *m = memory{} }

// sum up; last is the newest round-trip time.
func (m *memory) sum(last time.Duration) Recent {
	r := Recent{Echoes: m.n}
	var total time.Duration
	for _, rtt := range m.rtt[:m.n] {
		if rtt < 0 {
			r.Lost++
			continue
		}
		if r.Min == 0 || rtt < r.Min {
			r.Min = rtt
		}
		r.Max = max(r.Max, rtt)
		total += rtt
	}
	if answers := m.n - r.Lost; answers > 0 {
		r.Last, r.Mean = last, total/time.Duration(answers)
	}
	return r
}

// Buckets of a Histogram: upper bounds, without the last one, which is infinite.
const Buckets = 12

// Histogram counts round-trip times.
type Histogram struct {
	// Counts per bucket, not cumulative; the last one is for what exceeds all bounds.
	Counts [Buckets + 1]uint64
	// Sum of all times in seconds.
	Sum float64
	// Fine counts them by their order of magnitude.
	Fine routes.Fine
}

// Bounds are the upper bounds of the buckets of a Histogram in seconds, inclusive: from a neighbouring rack to a
// satellite behind a full queue.
func Bounds() [Buckets]float64 {
	return [...]float64{.0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5}
}

// Observe counts a time.
func (h *Histogram) Observe(d time.Duration) {
	bounds, s := Bounds(), d.Seconds()
	i, _ := slices.BinarySearch(bounds[:], s)
	h.Counts[i]++
	h.Sum += s
	h.Fine.Observe(d)
}
