package netns

import (
	"errors"
	"fmt"
	"math"
	"time"

	"github.com/google/nftables/expr"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Impairment is what a cable does to the packets of one direction. The zero value does nothing.
type Impairment struct {
	// Rate is the speed of the line in bit/s; 0 is as fast as the machine.
	Rate uint64
	// Delay is how long each packet takes, and Jitter how much more or less at most, all values being equally likely.
	Delay, Jitter time.Duration
	// Loss, Reorder and Duplicate are how many packets of a hundred are lost, come without delay and so before others, and come twice.
	Loss, Reorder, Duplicate float64
	// Hole drops packets longer than that many bytes, IP header included, without telling anybody; 0 does not.
	Hole int
	// Cut drops everything, and the link stays up.
	Cut bool
}

// Check says what is wrong with the values.
func (i Impairment) Check() error {
	for _, x := range []struct {
		name    string
		percent float64
	}{{"loss", i.Loss}, {"reorder", i.Reorder}, {"duplicate", i.Duplicate}} {
		if !(x.percent >= 0 && x.percent <= 100) {
			return fmt.Errorf("%s: %g is not a percentage", x.name, x.percent)
		}
	}
	switch {
	case i.Rate != 0 && (i.Rate < minRate || i.Rate > maxRate):
		return fmt.Errorf("rate: want %d to %d bit/s, not %d", minRate, uint64(maxRate), i.Rate)
	case i.Delay < 0 || i.Delay > maxDelay:
		return fmt.Errorf("delay: want at most %v, not %v", maxDelay, i.Delay)
	case i.Jitter < 0 || i.Jitter > i.Delay:
		return errors.New("jitter: more than the delay, so that packets would come before they are sent")
	case i.Reorder > 0 && i.Delay == 0:
		return errors.New("reorder: needs a delay: a packet comes before others by not being delayed")
	case i.Hole < 0:
		return fmt.Errorf("hole: %d is no length of a packet", i.Hole)
	}
	return nil
}

// Limits of what Check takes.
const (
	minRate  = 8000
	maxRate  = 100e9
	maxDelay = 10 * time.Second
)

// queues tells whether packets have to wait.
func (i Impairment) queues() bool { return i.Rate != 0 || i.Delay != 0 || i.Duplicate != 0 }

// rateQueue is how long packets wait for a slow line at most before they are dropped.
const rateQueue = 100 * time.Millisecond

// Way is one direction of a cable.
//
// What drops packets sits where they arrive, so that the sender gets no error; what delays them where they leave: netem(8) where the kernel
// has it, tbf(8) if only the rate is limited, and else a DelayLine of this process. Owner: whoever made it; it is not for several goroutines.
type Way struct {
	from, to       *NS
	fromDev, toDev string
	now            Impairment
	by             string
	line           *DelayLine
}

// NewWay is the direction from one end of a cable to the other. It changes nothing yet.
func NewWay(from *NS, fromDev string, to *NS, toDev string) *Way {
	return &Way{from: from, fromDev: fromDev, to: to, toDev: toDev}
}

// Impairment is what the way does now.
func (w *Way) Impairment() Impairment { return w.now }

// By names what delays packets: "netem", "tbf", "sitewire", or nothing.
func (w *Way) By() string { return w.by }

// Dropped is how many packets a DelayLine had no room for.
func (w *Way) Dropped() uint64 {
	if w.line == nil {
		return 0
	}
	return w.line.Dropped()
}

// Set changes what the way does. Packets that wait when their delay changes come when they should have.
func (w *Way) Set(i Impairment) error {
	if err := i.Check(); err != nil {
		return err
	}
	var drops [][]expr.Any
	if i.Cut {
		drops = append(drops, cut())
	}
	if i.Hole > 0 {
		drops = append(drops, hole(i.Hole))
	}
	if i.Loss > 0 {
		drops = append(drops, loss(i.Loss))
	}
	var err error
	if drops == nil {
		err = w.to.heal(w.toDev, In)
	} else {
		err = w.to.fault(w.toDev, In, drops...)
	}
	if err == nil {
		err = w.queue(i)
	}
	if err != nil {
		return fmt.Errorf("impair %s/%s: %w", w.from, w.fromDev, err)
	}
	w.now = i
	return nil
}

// Close makes the way as good as new. A cable that is gone is.
func (w *Way) Close() error {
	for _, end := range []struct {
		n   *NS
		dev string
	}{{w.from, w.fromDev}, {w.to, w.toDev}} {
		if _, err := end.n.link(end.dev); err == nil {
			continue
		}
		line := w.line
		w.now, w.by, w.line = Impairment{}, "", nil
		if line == nil {
			return nil
		}
		return line.Close()
	}
	return w.Set(Impairment{})
}

// queue makes packets wait as i says, by the means that the machine has.
func (w *Way) queue(i Impairment) error {
	link, err := w.from.link(w.fromDev)
	if err != nil {
		return err
	}
	// A packet of TCP on a veth may be 64 KiB long, and all of it would be lost at once, or be too long for a hole.
	segments := 1
	if i == (Impairment{}) {
		segments = math.MaxUint16
	}
	if err := w.from.nl.LinkSetGSOMaxSegs(link, segments); err != nil {
		return fmt.Errorf("limit the length of packets: %w", err)
	}
	if !i.queues() {
		return w.unqueue(link)
	}
	if w.by == "" || w.by == "netem" {
		err := w.from.nl.QdiscReplace(netem(link, i))
		if err == nil {
			w.by = "netem"
			return nil
		}
		if !missing(err) {
			return fmt.Errorf("netem: %w", err)
		}
	}
	if onlyRate := (i == Impairment{Rate: i.Rate, Loss: i.Loss, Hole: i.Hole, Cut: i.Cut}); onlyRate && w.line == nil {
		err := w.from.nl.QdiscReplace(tbf(link, i.Rate))
		if err == nil {
			w.by = "tbf"
			return nil
		}
		if !missing(err) {
			return fmt.Errorf("tbf: %w", err)
		}
	}
	if w.line != nil {
		w.line.Set(i)
		return nil
	}
	line, err := StartDelayLine(w.from, w.fromDev, i)
	if err != nil {
		return err
	}
	w.line = line
	if w.by == "tbf" { // which no packet passes any more
		err = w.from.nl.QdiscDel(tbf(link, 0))
	}
	w.by = "sitewire"
	return err
}

func (w *Way) unqueue(link netlink.Link) error {
	var err error
	switch w.by {
	case "netem":
		err = w.from.nl.QdiscDel(netem(link, Impairment{}))
	case "tbf":
		err = w.from.nl.QdiscDel(tbf(link, 0))
	case "sitewire":
		err = w.line.Close()
	}
	w.by, w.line = "", nil
	return err
}

// missing: the kernel does not know this kind of queue.
func missing(err error) bool { return errors.Is(err, unix.ENOENT) || errors.Is(err, unix.EOPNOTSUPP) }

func root(link netlink.Link) netlink.QdiscAttrs {
	return netlink.QdiscAttrs{LinkIndex: link.Attrs().Index, Parent: netlink.HANDLE_ROOT, Handle: netlink.MakeHandle(1, 0)}
}

func netem(link netlink.Link, i Impairment) *netlink.Netem {
	const packets = 20000 // half a second of what a machine can
	return netlink.NewNetem(root(link), netlink.NetemQdiscAttrs{
		Latency: uint32(i.Delay.Microseconds()), Jitter: uint32(i.Jitter.Microseconds()), Limit: packets,
		ReorderProb: float32(i.Reorder), Duplicate: float32(i.Duplicate), Rate64: i.Rate / 8,
	})
}

func tbf(link netlink.Link, bits uint64) *netlink.Tbf {
	rate := max(bits/8, 1)
	burst := uint32(max(rate/200, 5000)) // 5 ms, and a few packets
	return &netlink.Tbf{QdiscAttrs: root(link), Rate: rate, Buffer: netlink.Xmittime(rate, burst),
		Limit: uint32(min(max(rate*uint64(rateQueue)/uint64(time.Second), 10000), 1<<30)) + burst}
}
