package netns

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"
)

// FlowOpts says what a Flow sends.
type FlowOpts struct {
	// Src is the address to send from; the zero Addr lets the kernel choose. All destinations are then of its family.
	Src netip.Addr
	// Interval between two packets to the same destination; 0 is 10 ms, which is 100 packets/s each.
	Interval time.Duration
	// Port, if not 0, sends UDP to that port, where an Echo must answer; 0 sends ICMP echo requests, which the kernel answers.
	Port uint16
	// Size is the number of payload bytes; less than 32 is 32.
	Size int
	// Count ends the flow after that many packets to each destination; 0 goes on until Stop.
	Count int
}

// Flow sends numbered packets to destinations and counts the answers: the instrument that shows whether a change lost a packet.
// Its state is guarded by mu; Stop ends its goroutines.
type Flow struct {
	opts     FlowOpts
	id       uint64
	wires    []*wire
	stop     chan struct{}
	complete chan struct{}
	sender   sync.WaitGroup
	readers  sync.WaitGroup

	mu    sync.Mutex
	tally []*tally
	open  int // packets sent, or still to be sent if Count is set, that were neither answered nor refused
}

type tally struct {
	dst      netip.Addr
	wire     *wire
	sentAt   []time.Time // by sequence number
	answered []bool      // by sequence number
	got      int
	extra    int
	failed   int
	maxRTT   time.Duration
	err      error
}

// Report says what became of the packets to one destination.
type Report struct {
	Dst netip.Addr
	// Sent counts the packets that the kernel took and those it refused to send (no route, for instance): each should have arrived.
	Sent, Received int
	// Refused counts the packets that the kernel refused to send; Err is the last such error.
	Refused int
	Err     error
	// Duplicates counts answers beyond the first.
	Duplicates int
	MaxRTT     time.Duration
	// Gaps are the runs of packets without an answer, in order.
	Gaps []Gap
}

// Gap is a run of unanswered packets.
type Gap struct {
	// First is the number of the first lost packet, counted from 0; Count how many follow each other.
	First, Count int
	// At is when the first one was sent, Span the time to the last one lost (0 for a single packet).
	At   time.Time
	Span time.Duration
}

// Lost is the number of packets that were not answered.
func (r Report) Lost() int { return r.Sent - r.Received }

func (r Report) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s: sent %d, received %d, lost %d", r.Dst, r.Sent, r.Received, r.Lost())
	if r.Duplicates > 0 {
		fmt.Fprintf(&b, ", duplicates %d", r.Duplicates)
	}
	if r.Err != nil {
		fmt.Fprintf(&b, ", %d refused (%v)", r.Refused, r.Err)
	}
	for _, g := range r.Gaps {
		fmt.Fprintf(&b, "; gap of %d from #%d over %v", g.Count, g.First, g.Span.Round(time.Millisecond))
	}
	return b.String()
}

const (
	flowHeader  = 8 + 4 + 8 // flow, destination, sequence number
	minFlowSize = 32
)

// StartFlow starts sending from the namespace to every destination at once.
func StartFlow(from *NS, dsts []netip.Addr, o FlowOpts) (*Flow, error) {
	if len(dsts) == 0 {
		return nil, errors.New("start flow: no destinations")
	}
	if o.Interval <= 0 {
		o.Interval = 10 * time.Millisecond
	}
	o.Size = max(o.Size, minFlowSize)
	f := &Flow{
		opts: o, id: rand.Uint64(), open: o.Count * len(dsts),
		stop: make(chan struct{}), complete: make(chan struct{}),
	}
	wires := make(map[bool]*wire)
	for _, dst := range dsts {
		dst, err := from.numericZone(dst.Unmap())
		if err == nil && wires[dst.Is6()] == nil {
			wires[dst.Is6()], err = from.openWire(dst.Is6(), o.Src, o.Port)
			if err == nil {
				f.wires = append(f.wires, wires[dst.Is6()])
			}
		}
		if err != nil {
			f.closeWires()
			return nil, fmt.Errorf("start flow to %s: %w", dst, err)
		}
		f.tally = append(f.tally, &tally{dst: dst, wire: wires[dst.Is6()]})
	}
	for _, w := range f.wires {
		f.readers.Go(func() { f.read(w) })
	}
	f.sender.Go(f.send)
	return f, nil
}

// Complete is closed when Count packets to every destination were answered or refused. Without Count it never is.
func (f *Flow) Complete() <-chan struct{} { return f.complete }

// Stop stops sending, waits up to grace for answers that are still on their way, and reports in the order of the destinations.
// Call it once.
func (f *Flow) Stop(grace time.Duration) []Report {
	close(f.stop)
	f.sender.Wait()
	for deadline := time.Now().Add(grace); f.missing() > 0 && time.Now().Before(deadline); {
		time.Sleep(time.Millisecond)
	}
	f.closeWires()
	f.readers.Wait()
	return f.Reports()
}

// Reports says how things stand now. Packets on their way count as lost.
func (f *Flow) Reports() []Report {
	f.mu.Lock()
	defer f.mu.Unlock()
	var all []Report
	for _, t := range f.tally {
		all = append(all, t.report())
	}
	return all
}

func (f *Flow) missing() (n int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, t := range f.tally {
		n += len(t.sentAt) - t.failed - t.got
	}
	return n
}

func (f *Flow) closeWires() {
	for _, w := range f.wires {
		w.conn.Close()
	}
}

func (f *Flow) send() {
	tick := time.NewTicker(f.opts.Interval)
	defer tick.Stop()
	payload := make([]byte, f.opts.Size)
	for seq := 0; f.opts.Count == 0 || seq < f.opts.Count; seq++ {
		for i, t := range f.tally {
			binary.BigEndian.PutUint64(payload, f.id)
			binary.BigEndian.PutUint32(payload[8:], uint32(i))
			binary.BigEndian.PutUint64(payload[12:], uint64(seq))
			// The packet is on the books before it is on the wire: the answer may come first.
			f.mu.Lock()
			t.sentAt, t.answered = append(t.sentAt, time.Now()), append(t.answered, false)
			f.mu.Unlock()
			if err := t.wire.send(t.dst, seq, payload); err != nil {
				f.mu.Lock()
				t.failed, t.err = t.failed+1, err
				f.settle()
				f.mu.Unlock()
			}
		}
		select {
		case <-f.stop:
			return
		case <-tick.C:
		}
	}
}

func (f *Flow) read(w *wire) {
	buf := make([]byte, 65536)
	var own [8]byte
	binary.BigEndian.PutUint64(own[:], f.id)
	for {
		b, err := w.receive(buf)
		switch {
		case errors.Is(err, net.ErrClosed):
			return
		case err != nil: // an ICMP error about an earlier packet, which is then missing anyway
			continue
		case len(b) < flowHeader || !bytes.Equal(b[:8], own[:]):
			continue
		}
		f.answer(int(binary.BigEndian.Uint32(b[8:])), int(binary.BigEndian.Uint64(b[12:])), time.Now())
	}
}

func (f *Flow) answer(dst, seq int, now time.Time) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if dst < 0 || dst >= len(f.tally) || seq < 0 || seq >= len(f.tally[dst].sentAt) {
		return
	}
	t := f.tally[dst]
	if t.answered[seq] {
		t.extra++
		return
	}
	t.answered[seq] = true
	t.got++
	t.maxRTT = max(t.maxRTT, now.Sub(t.sentAt[seq]))
	f.settle()
}

// settle takes one packet off the list of those that may still be answered. Call it with mu held.
func (f *Flow) settle() {
	if f.open--; f.open == 0 {
		close(f.complete)
	}
}

func (t *tally) report() Report {
	r := Report{
		Dst: t.dst, Sent: len(t.sentAt), Received: t.got, Refused: t.failed, Err: t.err, Duplicates: t.extra, MaxRTT: t.maxRTT,
	}
	for seq := 0; seq < len(t.answered); {
		n := slices.Index(t.answered[seq:], false)
		if n < 0 {
			break
		}
		first := seq + n
		next := slices.Index(t.answered[first:], true)
		if next < 0 {
			next = len(t.answered) - first
		}
		seq = first + next
		r.Gaps = append(r.Gaps, Gap{First: first, Count: next, At: t.sentAt[first], Span: t.sentAt[seq-1].Sub(t.sentAt[first])})
	}
	return r
}
