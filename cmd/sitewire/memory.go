package main

import (
	"context"
	"io/fs"
	"math"
	"os"
	"path"
	"runtime"
	"runtime/debug"
	"runtime/metrics"
	"strconv"
	"strings"
	"time"
)

// The garbage collector's settings. A gateway is busy for moments, at its start above all, and idle for weeks; what it
// took in those moments it should not keep.
//
// With 100 idle peers 70 MiB are live, and after a start with Go's default, to double the heap between two collections,
// 200 MiB were resident. With 15 % more it is still one or two collections in a minute, and one costs 0.1 s of a core: such
// a heap is a million and a half small objects. While it is busy that would be too dear: a table of 100,000 routes took
// twice the time of both cores for it. So when collections take more than dear of a core, the heap may double, or grow by
// smallHeap if that is more, until they would not; but below mereStart, which is about all that the start of an idle gateway comes to, by startGrowth
// if that is more, as the holes that it leaves stay. (How close together they are does not tell: where
// they make everything slow, they become rare. Of a million routes they took half of both cores, 10 s apart.)
//
// A heap above hugeHeap may grow by hugeHeap, or by a third (hugePart) if that is more. A collection costs in proportion to what is live, so the bytes
// that are allocated cost the more collecting, the larger the heap: three times as much as if it doubled, at most. Two neighbours with a million
// routes each, 3.3 GiB live, took 7.2 GiB when it doubled, 5.0 GiB so, and a fifteenth more time.
const (
	smallHeap, smallPercent = 128 << 20, 15 // live bytes, GOGC
	largeHeap, largePercent = 512 << 20, 50
	hugeHeap, hugePart      = 1 << 30, 3
	mereStart, startGrowth  = 64 << 20, 32 << 20
	leastHeap               = 4 << 20 // Go's own: what it lets a smaller heap grow to, for GOGC of 100
	dear                    = 0.05    // seconds of processors' time in a second
)

// After quietLooks of lookEvery in which not more than quietRate bytes a second, or quietPart of what is live, were allocated, memory is returned to the
// kernel if there may be much of it: if worthwhile, or half of what is live, was allocated while it was not quiet. What a
// start leaves is 40 MiB. A start with 40 neighbours of dn42 leaves 110 MiB, and to count what they were told, one by one,
// allocates 4 MiB a second for half a minute after it.
const (
	lookEvery  = 5 * time.Second
	quietLooks = 4
	quietRate  = 1 << 20
	quietPart  = 32
	worthwhile = 32 << 20
	trimEvery  = time.Minute
)

// heapLook is the state of the heap, in bytes.
type heapLook struct {
	allocated uint64 // since the start
	live      uint64 // found by the last collection
	// paper is what Go counts as in use and the kernel has not given: of each device in userspace some 14 MiB of buffers that
	// nothing was ever received into.
	paper uint64
	// collecting is the time of processors that collections took since the start, but for what nothing else wanted.
	collecting time.Duration
}

// real is what is live and there: at least a sixteenth of what is live.
func (h heapLook) real() uint64 { return max(h.live-min(h.live, h.paper), h.live/16, 1<<20) }

// memory keeps the heap in proportion. It is owned by the goroutine that runs it.
type memory struct {
	look    func() heapLook
	percent func(int)
	trim    func()
	// limit is what the process may take, in bytes; 0 leaves the garbage collector's limit alone. setLimit sets that.
	limit    int64
	setLimit func(int64)
	limited  int64 // what it was set to

	last      heapLook
	looked    time.Time     // at last
	collected time.Time     // when the last collection ended
	spent     time.Duration // heapLook.collecting then
	price     time.Duration // of that collection
	hurried   bool          // collections take too much
	set       int           // percent
	taken     uint64        // bytes allocated while busy since the last trim
	quiet     int           // looks in a row
	trimmed   time.Time
}

// newMemory makes one for this process, which may take so many bytes; 0 for as many as there are.
func newMemory(limit int64) *memory {
	return &memory{
		look: lookAtHeap, percent: func(n int) { debug.SetGCPercent(n) }, trim: returnMemory,
		limit: limit, setLimit: func(n int64) { debug.SetMemoryLimit(n) }, limited: limit,
	}
}

func (m *memory) run(ctx context.Context) error {
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	collections := make(chan struct{}, 1)
	tellCollections(ctx, collections)
	m.step(time.Now())
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case now := <-tick.C:
			m.step(now)
		case <-collections:
			m.collection(time.Now())
		}
	}
}

// tellCollections signals the end of each collection until ctx ends: what nothing points to is cleaned up after one.
func tellCollections(ctx context.Context, c chan<- struct{}) {
	runtime.AddCleanup(&struct{ self *int }{new(int)}, func(c chan<- struct{}) {
		if ctx.Err() != nil {
			return
		}
		tellCollections(ctx, c) // first, so that who is told can count on the next one
		select {
		case c <- struct{}{}:
		default:
		}
	}, c)
}

// collection follows the end of one.
func (m *memory) collection(now time.Time) {
	h := m.look()
	m.price, m.spent = h.collecting-m.spent, h.collecting
	m.hurried = m.hurried || m.price.Seconds() > dear*now.Sub(m.collected).Seconds()
	m.collected = now
	m.pace(h)
}

// pace sets GOGC for the heap as it is. It has to follow each collection while the heap is busy: what is right for 2 MiB lets
// 20 MiB grow to a gigabyte. To set it waits for a collection that is under way, and of the end of that there may be no word, so pace looks again.
func (m *memory) pace(h heapLook) {
	for range 3 {
		p := m.percentFor(h)
		if p == m.set {
			break
		}
		m.set = p
		m.percent(p)
		before := h.live
		if h = m.look(); h.live == before {
			break
		}
	}
	const step = 1 << 20
	if n := m.limit + int64(h.paper); m.limit > 0 && (n-m.limited >= step || m.limited-n >= step) {
		m.limited = n
		m.setLimit(n)
	}
}

// percentFor is GOGC for the heap as it is. What is on paper only must not make room for garbage.
func (m *memory) percentFor(h heapLook) int {
	is := h.real()
	p := gcPercent(is)
	if m.hurried {
		p = busyPercent(is)
	}
	if is < h.live {
		p = max(1, int(float64(p)*float64(is)/float64(h.live)))
	}
	return p
}

// step follows what happened since the last one.
func (m *memory) step(now time.Time) {
	h := m.look()
	allocated := h.allocated - m.last.allocated
	if m.hurried { // would they still be, with what is set at rest?
		between := float64(max(h.real(), smallHeap)) * float64(gcPercent(h.real())) / 100
		m.hurried = float64(allocated)/between*m.price.Seconds() > dear*now.Sub(m.looked).Seconds()
	}
	m.last, m.looked = h, now
	m.pace(h)
	if allocated > max(quietRate, h.real()/quietPart)*uint64(lookEvery/time.Second) {
		m.taken += allocated
		m.quiet = 0
		return
	}
	m.quiet++
	if m.quiet >= quietLooks && m.taken >= max(worthwhile, h.real()/2) && now.Sub(m.trimmed) >= trimEvery {
		m.taken, m.trimmed = 0, now
		m.trim()
	}
}

// busyPercent is GOGC for a heap with so many live bytes while collections are dear.
func busyPercent(live uint64) int {
	live = max(live, leastHeap)
	growth := max(live, smallHeap)
	switch {
	case live < mereStart:
		growth = max(live, startGrowth)
	case live > hugeHeap:
		growth = max(hugeHeap, live/hugePart)
	}
	return int(100 * growth / live)
}

// gcPercent is GOGC for a heap with so many live bytes, at rest.
func gcPercent(live uint64) int {
	at := min(max(live, smallHeap), largeHeap)
	return min(busyPercent(live), smallPercent+int((at-smallHeap)*(largePercent-smallPercent)/(largeHeap-smallHeap)))
}

// returnMemory collects twice, because a sync.Pool keeps what it has over one collection, and gives the kernel all that
// is free.
func returnMemory() {
	runtime.GC()
	debug.FreeOSMemory()
}

func lookAtHeap() heapLook {
	s := []metrics.Sample{
		{Name: "/gc/heap/allocs:bytes"}, {Name: "/gc/heap/live:bytes"},
		{Name: "/memory/classes/total:bytes"}, {Name: "/memory/classes/heap/released:bytes"},
		{Name: "/cpu/classes/gc/total:cpu-seconds"}, {Name: "/cpu/classes/gc/mark/idle:cpu-seconds"},
	}
	metrics.Read(s)
	h := heapLook{
		allocated: s[0].Value.Uint64(), live: s[1].Value.Uint64(),
		collecting: time.Duration((s[4].Value.Float64() - s[5].Value.Float64()) * float64(time.Second)),
	}
	if is, ok := resident(os.DirFS("/")); ok {
		counted := s[2].Value.Uint64() - s[3].Value.Uint64()
		h.paper = counted - min(counted, is)
	}
	return h
}

// resident is this process' own memory that the kernel has given, in bytes (proc(5), statm).
func resident(root fs.FS) (uint64, bool) {
	text, err := fs.ReadFile(root, "proc/self/statm")
	f := strings.Fields(string(text))
	if err != nil || len(f) < 3 {
		return 0, false
	}
	all, err := strconv.ParseUint(f[1], 10, 64)
	shared, other := strconv.ParseUint(f[2], 10, 64)
	if err != nil || other != nil || shared > all {
		return 0, false
	}
	return (all - shared) * uint64(os.Getpagesize()), true
}

// limitMemory tells the garbage collector about the cgroup's limit, so that a full table makes it work harder before the kernel kills the
// process. GOMEMLIMIT, if set, wins; without a limit nothing changes. It returns the limit in bytes, for memory to follow; 0 if there is none.
func (d *process) limitMemory() int64 {
	const headroom = 10 // percent, for what is not on the heap
	if os.Getenv("GOMEMLIMIT") != "" {
		return 0
	}
	limit := cgroupLimit(os.DirFS("/"))
	if limit == math.MaxInt64 {
		return 0
	}
	limit -= limit / 100 * headroom
	debug.SetMemoryLimit(limit)
	d.log.Info("memory limit follows the cgroup", "bytes", limit)
	return limit
}

// cgroupLimit is the memory limit of this process' cgroup (version 2) in bytes; math.MaxInt64 if there is none.
func cgroupLimit(root fs.FS) int64 {
	b, err := fs.ReadFile(root, "proc/self/cgroup")
	if err != nil {
		return math.MaxInt64
	}
	limit := int64(math.MaxInt64)
	for line := range strings.Lines(string(b)) {
		group, ok := strings.CutPrefix(strings.TrimSpace(line), "0::/")
		if !ok {
			continue
		}
		// The limits of the groups above hold too.
		for dir := group; ; dir = path.Dir(dir) {
			b, err := fs.ReadFile(root, path.Join("sys/fs/cgroup", dir, "memory.max"))
			if n, convErr := strconv.ParseInt(strings.TrimSpace(string(b)), 10, 64); err == nil && convErr == nil {
				limit = min(limit, n)
			}
			if dir == "." || dir == "" {
				break
			}
		}
	}
	return limit
}
