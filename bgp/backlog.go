package bgp

import (
	"sync/atomic"
	"time"
)

// backlog is how far the watch callbacks are behind GoBGP, whose queue of events has no bound. While a table comes in, each
// neighbour's goroutine works on the next UPDATE as soon as the event of the last one is queued, and the one that takes
// events out is one of many that wait for a processor: with 40 neighbours and two cores it came to be 1.4 s and
// 12,000 UPDATEs behind, which is a hundred megabytes, and the last routes were as late. So who reads UPDATEs waits
// while what was told last is older than backlogMost. The neighbour's TCP connection holds back what it has not sent.
// Owner: the callbacks write, anyone reads.
type backlog struct {
	age atomic.Int64 // of the event handled last, in nanoseconds
	at  atomic.Int64 // when that was, as Unix time in nanoseconds
}

const (
	backlogMost = 20 * time.Millisecond
	// backlogStill is how long after the last event the queue counts as empty.
	backlogStill = 5 * time.Millisecond
	// backlogWait bounds one wait: what waits may hold locks of GoBGP's.
	backlogWait = 50 * time.Millisecond
	backlogLook = time.Millisecond
)

// handled notes that an event from then was handled now.
func (b *backlog) handled(then, now time.Time) {
	b.age.Store(int64(now.Sub(then)))
	b.at.Store(now.UnixNano())
}

// behind reports whether there are events that should be handled before there are more.
func (b *backlog) behind(now time.Time) bool {
	return time.Duration(b.age.Load()) > backlogMost && now.UnixNano()-b.at.Load() < int64(backlogStill)
}

// wait returns when the callbacks are no longer behind, or after backlogWait.
func (b *backlog) wait() {
	if time.Duration(b.age.Load()) <= backlogMost {
		return
	}
	for end := time.Now().Add(backlogWait); ; {
		now := time.Now()
		if !b.behind(now) || !now.Before(end) {
			return
		}
		time.Sleep(backlogLook)
	}
}
