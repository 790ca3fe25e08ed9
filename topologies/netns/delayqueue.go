package netns

import (
	"container/heap"
	"math/rand/v2"
	"time"
)

// delayQueue decides when packets come out. It knows no clock and no device, so that it can be tested without either.
type delayQueue struct {
	i       Impairment
	free    time.Time // when the line has sent what was put in
	last    time.Time // when the last packet that keeps the order comes out
	held    frames
	bytes   int
	seq     uint64
	dropped uint64
}

// maxHeld bounds what a delayQueue holds, in bytes: at 20 000 packets/s of 1500 bytes, a second.
const maxHeld = 32 << 20

// frame is a packet with its Ethernet header.
type frame struct {
	due  time.Time
	seq  uint64 // packets that are due at the same time come out as they came in
	data []byte
}

// put takes a packet, which belongs to the queue from then on, or drops it when there is no room.
func (q *delayQueue) put(now time.Time, data []byte) {
	sent := now
	if q.i.Rate > 0 {
		if q.free.Before(now) {
			q.free = now
		}
		if q.free.Sub(now) > rateQueue {
			q.dropped++
			return
		}
		q.free = q.free.Add(time.Duration(float64(len(data)) * 8 / float64(q.i.Rate) * float64(time.Second)))
		sent = q.free
	}
	q.hold(sent, data)
	if q.i.Duplicate > 0 && rand.Float64()*100 < q.i.Duplicate {
		q.hold(sent, append([]byte(nil), data...))
	}
}

// hold keeps a packet that the line has sent until it arrives.
func (q *delayQueue) hold(sent time.Time, data []byte) {
	if q.bytes+len(data) > maxHeld {
		q.dropped++
		return
	}
	due := sent
	if q.i.Reorder == 0 || rand.Float64()*100 >= q.i.Reorder {
		due = sent.Add(q.i.Delay)
		if q.i.Jitter > 0 {
			due = due.Add(time.Duration((rand.Float64()*2 - 1) * float64(q.i.Jitter)))
		}
		if due.Before(q.last) { // jitter alone keeps the order, as the queues do that it comes from
			due = q.last
		}
		q.last = due
	}
	q.seq++
	q.bytes += len(data)
	heap.Push(&q.held, frame{due, q.seq, data})
}

// next returns a packet that is due, or how long it is until one is; without any packet, that is negative.
func (q *delayQueue) next(now time.Time) ([]byte, time.Duration) {
	if len(q.held) == 0 {
		return nil, -1
	}
	if wait := q.held[0].due.Sub(now); wait > 0 {
		return nil, wait
	}
	f := heap.Pop(&q.held).(frame)
	q.bytes -= len(f.data)
	return f.data, 0
}

// frames is a heap: the packet that is due first is first.
type frames []frame

func (f frames) Len() int { return len(f) }
func (f frames) Less(i, j int) bool {
	return f[i].due.Before(f[j].due) || f[i].due.Equal(f[j].due) && f[i].seq < f[j].seq
}
func (f frames) Swap(i, j int) { f[i], f[j] = f[j], f[i] }
func (f *frames) Push(x any)   { *f = append(*f, x.(frame)) }
func (f *frames) Pop() any {
	old := *f
	x := old[len(old)-1]
	old[len(old)-1] = frame{}
	*f = old[:len(old)-1]
	return x
}
