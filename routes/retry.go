package routes

import (
	"container/heap"
	"net/netip"
	"slices"
	"time"
)

// retries are the prefixes that are not as desired, with when they are tried again.
//
// Owner: the Syncer.
type retries struct {
	byPrefix map[netip.Prefix]*retry
	heap     retryHeap
	total    uint64
}

type retry struct {
	prefix   netip.Prefix
	due      time.Time
	attempts int
	index    int
}

// backoff before attempt n+1, n counting from 1.
func backoff(n int) time.Duration {
	if n > 10 {
		return lastRetry
	}
	return min(firstRetry<<max(0, n-1), lastRetry)
}

// again notes a failed attempt.
func (r *retries) again(p netip.Prefix, now time.Time) *retry {
	x := r.byPrefix[p]
	if x == nil {
		if r.byPrefix == nil {
			r.byPrefix = make(map[netip.Prefix]*retry)
		}
		x = &retry{prefix: p}
		r.byPrefix[p] = x
		heap.Push(&r.heap, x)
	}
	x.attempts++
	x.due = now.Add(backoff(x.attempts))
	heap.Fix(&r.heap, x.index)
	return x
}

func (r *retries) get(p netip.Prefix) *retry { return r.byPrefix[p] }

// remove forgets a prefix and tells whether it was there.
func (r *retries) remove(p netip.Prefix) bool {
	x := r.byPrefix[p]
	if x == nil {
		return false
	}
	heap.Remove(&r.heap, x.index)
	delete(r.byPrefix, p)
	return true
}

// first is when the earliest one is due; zero if there is none.
func (r *retries) first() time.Time {
	if len(r.heap) == 0 {
		return time.Time{}
	}
	return r.heap[0].due
}

// due returns the prefixes whose time has come, sorted. They stay until they are removed or fail again; until then they
// are due again at once, so the caller must try them.
func (r *retries) due(now time.Time) []netip.Prefix {
	var out []netip.Prefix
	for _, x := range r.byPrefix {
		if !now.Before(x.due) {
			out = append(out, x.prefix)
		}
	}
	r.total += uint64(len(out))
	slices.SortFunc(out, netip.Prefix.Compare)
	return out
}

type retryHeap []*retry

func (h retryHeap) Len() int           { return len(h) }
func (h retryHeap) Less(i, j int) bool { return h[i].due.Before(h[j].due) }
func (h retryHeap) Swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	h[i].index, h[j].index = i, j
}

func (h *retryHeap) Push(x any) {
	r := x.(*retry)
	r.index = len(*h)
	*h = append(*h, r)
}

func (h *retryHeap) Pop() any {
	old := *h
	x := old[len(old)-1]
	*h = old[:len(old)-1]
	return x
}

// pending are the prefixes for which something was decided and not acknowledged.
//
// Owner: the Syncer.
type pending struct {
	byPrefix map[netip.Prefix]*waiting
	// queue is in order of since; entries that are gone are skipped when they come to the front.
	queue []*waiting
}

type waiting struct {
	prefix netip.Prefix
	since  time.Time
	cause  Cause
	gone   bool
}

// add notes a decision; a newer one on the same prefix takes its place but does not make it younger.
func (w *pending) add(p netip.Prefix, now time.Time, c Cause) {
	if x := w.byPrefix[p]; x != nil {
		if !c.Start().IsZero() {
			x.cause = c
		}
		return
	}
	if w.byPrefix == nil {
		w.byPrefix = make(map[netip.Prefix]*waiting)
	}
	x := &waiting{prefix: p, since: now, cause: c}
	w.byPrefix[p] = x
	w.queue = append(w.queue, x)
}

func (w *pending) get(p netip.Prefix) *waiting { return w.byPrefix[p] }

func (w *pending) remove(p netip.Prefix) {
	if x := w.byPrefix[p]; x != nil {
		x.gone = true
		delete(w.byPrefix, p)
	}
	w.trim()
}

// trim keeps the queue no longer than twice what is in it.
func (w *pending) trim() {
	for len(w.queue) > 0 && w.queue[0].gone {
		w.queue = w.queue[1:]
	}
	if len(w.queue) > 2*len(w.byPrefix)+16 {
		w.queue = slices.DeleteFunc(slices.Clone(w.queue), func(x *waiting) bool { return x.gone })
	}
}

// oldest is since when the oldest one waits; zero if there is none.
func (w *pending) oldest() time.Time {
	if len(w.queue) == 0 {
		return time.Time{}
	}
	return w.queue[0].since
}
