package user

import (
	"runtime"
	"time"
)

// A reader that finds its source full would read on for as long as its time slice lasts: thousands of packets, in as many
// buffers of 64 KiB, then wait for their encryption and are in no cache any more when their turn comes. So before each
// batch it lets those run who have work of earlier ones. Where the process is busy with other things, such as a full
// table, its own next turn then comes late. A yield that took longer than yieldLimit is not repeated for yieldShare times
// as long, so that at most one part in so many is lost by it.
const (
	yieldLimit = time.Millisecond
	yieldShare = 32
)

// yielder belongs to one reading goroutine.
type yielder struct{ next time.Time }

func (y *yielder) yield() {
	begin := time.Now()
	if begin.Before(y.next) {
		return
	}
	runtime.Gosched()
	if took := time.Since(begin); took > yieldLimit {
		y.next = begin.Add(yieldShare * took)
	}
}
