package user

import (
	"runtime"
	"sync/atomic"
	"testing"
	"time"
)

// TestYield lets a reader share one processor with a goroutine that only computes. What it gives way for is bounded.
func TestYield(t *testing.T) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1))
	var stop atomic.Bool
	var turns atomic.Int64
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for !stop.Load() {
			turns.Add(1)
			for begin := time.Now(); time.Since(begin) < 2*yieldLimit; {
			}
			runtime.Gosched()
		}
	}()
	for turns.Load() == 0 {
		runtime.Gosched()
	}
	var y yielder
	begin, before := time.Now(), turns.Load()
	y.yield()
	took := time.Since(begin)
	if turns.Load() == before || took < yieldLimit {
		t.Fatalf("it did not give way: %v", took)
	}
	if pause := y.next.Sub(begin); pause < yieldShare*yieldLimit {
		t.Errorf("after a yield of %v the next one is %v later", took, pause)
	}
	y.next = time.Now().Add(time.Hour)
	before = turns.Load()
	for range 100 {
		y.yield()
	}
	// The scheduler itself may have taken the turn away meanwhile, but not each time.
	if n := turns.Load() - before; n > 50 {
		t.Errorf("%d of 100 yields in the pause gave way", n)
	}
	stop.Store(true)
	<-ended
}
