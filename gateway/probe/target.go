package probe

import (
	"sync/atomic"
	"time"
)

// Times of the schedule.
const (
	// startWithin is how soon the first echo is sent at the latest, unless the interval is shorter.
	startWithin = 5 * time.Second
	// searchAfter is how long after the tunnel came up the search for its MTU begins, at the earliest; at the latest it
	// is twice that. What comes up together would else search together.
	searchAfter = 3 * time.Second
	searchEvery = 10 * time.Minute
	// searchPatience is how long a packet of the search is waited for, beside some round-trip times.
	searchPatience = 500 * time.Millisecond
)

// target is a Target with its schedule and its statistics. Owned by the Prober's Run.
type target struct {
	Target
	now    Stats // published as copies
	recent memory
	last   time.Duration
	stats  *atomic.Pointer[Stats]

	seq       uint16
	next      time.Time // the next ordinary echo; zero: none
	echo, big *flight   // under way; nil: none
	search    *search   // in progress
	searchAt  time.Time // its next packet; zero: none, or one is under way

	due time.Time
	at  int // in the queue
}

func newTarget(peer string) *target {
	t := &target{now: Stats{Peer: peer}, stats: &atomic.Pointer[Stats]{}}
	t.publish()
	return t
}

// small is the size of an ordinary echo.
func (t *target) small() int { return smallest(t.Remote.Is6()) }

func (t *target) answered(rtt time.Duration) {
	t.now.Sent++
	t.now.RTT.Observe(rtt)
	t.last = rtt
	t.recent.add(rtt)
}

func (t *target) lost() {
	t.now.Sent++
	t.now.Lost++
	t.recent.add(-1)
}

// publish replaces what readers see.
func (t *target) publish() {
	t.now.Recent = t.recent.sum(t.last)
	s := t.now
	s.RTT.Fine = t.now.RTT.Fine.Copy()
	t.stats.Store(&s)
}

// nextTurn is the earliest of what the target waits for.
func (t *target) nextTurn() time.Time {
	at := never
	for _, x := range []time.Time{t.next, t.searchAt} {
		if !x.IsZero() && x.Before(at) {
			at = x
		}
	}
	for _, f := range []*flight{t.echo, t.big} {
		if f != nil && f.deadline.Before(at) {
			at = f.deadline
		}
	}
	return at
}

// never is later than the process lives.
var never = time.Unix(1<<40, 0)

// queue is a heap of targets by when they are due (container/heap).
type queue []*target

func (q queue) Len() int           { return len(q) }
func (q queue) Less(i, j int) bool { return q[i].due.Before(q[j].due) }
func (q queue) Swap(i, j int) {
	q[i], q[j] = q[j], q[i]
	q[i].at, q[j].at = i, j
}

// Push implements heap.Interface.
func (q *queue) Push(x any) {
	t := x.(*target)
	t.at = len(*q)
	*q = append(*q, t)
}

// Pop implements heap.Interface.
func (q *queue) Pop() any {
	old := *q
	t := old[len(old)-1]
	*q = old[:len(old)-1]
	return t
}
