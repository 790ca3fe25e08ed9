package netns

import (
	"errors"
	"fmt"
	"os"
	"sync"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// DelayLine delays what leaves a device, for kernels without netem(8): the kernel redirects the device's packets to a TAP device, this
// process reads them there, holds them as long as it should, and sends them from the device past all queues.
//
// It is precise to about a millisecond, and manages some 30 000 packets a second on two cores, all lines together
// (BenchmarkDelayLine). What comes faster, or would be more than 32 MiB on the way, is dropped; Dropped counts the latter.
// Owner: two goroutines, which share the queue.
type DelayLine struct {
	ns    *NS
	dev   string
	index int
	tap   *os.File
	sock  int
	done  sync.WaitGroup
	wake  chan struct{}
	ended chan struct{}

	mu    sync.Mutex
	queue delayQueue
	spare [][]byte
}

// tapQueue is how many packets the kernel keeps for a reader that is late.
const tapQueue = 5000

// lastPackets is how long a line that ends reads what the kernel has redirected already.
const lastPackets = 5 * time.Millisecond

// StartDelayLine delays what leaves a device until Close.
func StartDelayLine(n *NS, dev string, i Impairment) (*DelayLine, error) {
	l, err := startDelayLine(n, dev, i)
	if err != nil {
		return nil, fmt.Errorf("delay line on %s/%s: %w", n, dev, err)
	}
	return l, nil
}

func startDelayLine(n *NS, dev string, i Impairment) (_ *DelayLine, err error) {
	link, err := n.link(dev)
	if err != nil {
		return nil, err
	}
	l := &DelayLine{ns: n, dev: dev, index: link.Attrs().Index, sock: -1, wake: make(chan struct{}, 1), ended: make(chan struct{})}
	l.queue.i = i
	defer func() {
		if err != nil {
			err = errors.Join(err, l.close())
		}
	}()
	name := delayName(dev)
	if err := n.Do(func() (err error) {
		if l.tap, err = openTAP(name); err != nil {
			return err
		}
		l.sock, err = openOut(l.index)
		return err
	}); err != nil {
		return nil, err
	}
	// It is no device for anybody to talk on.
	if err := n.Sysctl("net.ipv6.conf."+name+".disable_ipv6", "1"); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	tap, err := n.link(name)
	if err != nil {
		return nil, err
	}
	if err := n.nl.LinkSetTxQLen(tap, tapQueue); err != nil {
		return nil, err
	}
	if err := n.nl.LinkSetMTU(tap, link.Attrs().MTU); err != nil {
		return nil, err
	}
	if err := n.nl.LinkSetUp(tap); err != nil {
		return nil, err
	}
	l.done.Go(l.read)
	l.done.Go(l.send)
	if err := l.plugQueue(link); err != nil {
		return nil, needsTC(err)
	}
	if err := n.nl.FilterReplace(l.redirect(tap)); err != nil {
		return nil, needsTC(err)
	}
	return l, nil
}

// delayName is the name of the TAP device beside a device: at most 15 characters.
func delayName(dev string) string {
	name := "late-" + dev
	return name[:min(len(name), unix.IFNAMSIZ-1)]
}

// plugQueue gives the device the queue that filters hang on, unless it has it from an earlier line. The kernel stops a device for some
// milliseconds when such a queue comes or goes, and drops what would leave it meanwhile. So the queue stays.
func (l *DelayLine) plugQueue(link netlink.Link) error {
	queues, err := l.ns.nl.QdiscList(link)
	if err != nil {
		return err
	}
	for _, q := range queues {
		if q.Type() == "clsact" {
			return nil
		}
	}
	return l.ns.nl.QdiscAdd(&netlink.Clsact{
		QdiscAttrs: netlink.QdiscAttrs{LinkIndex: l.index, Parent: netlink.HANDLE_CLSACT, Handle: netlink.MakeHandle(0xffff, 0)},
	})
}

// redirect is the filter that sends all that leaves the device to the TAP device.
func (l *DelayLine) redirect(tap netlink.Link) *netlink.U32 {
	return &netlink.U32{
		FilterAttrs: netlink.FilterAttrs{LinkIndex: l.index, Parent: netlink.HANDLE_MIN_EGRESS, Priority: 1, Protocol: unix.ETH_P_ALL},
		Actions: []netlink.Action{&netlink.MirredAction{
			ActionAttrs: netlink.ActionAttrs{Action: netlink.TC_ACT_STOLEN}, MirredAction: netlink.TCA_EGRESS_REDIR, Ifindex: tap.Attrs().Index,
		}},
	}
}

func needsTC(err error) error {
	if missing(err) {
		return &Unavailable{What: "delays", Why: fmt.Sprintf("the kernel has neither netem nor redirection of packets (%v)", err),
			Fix: "modprobe sch_netem, or modprobe -a sch_ingress cls_u32 act_mirred"}
	}
	return err
}

// openTAP makes a TAP device, which is there until it is closed.
func openTAP(name string) (*os.File, error) {
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("/dev/net/tun: %w", err)
	}
	r, err := unix.NewIfreq(name)
	if err == nil {
		r.SetUint16(unix.IFF_TAP | unix.IFF_NO_PI)
		err = unix.IoctlIfreq(fd, unix.TUNSETIFF, r)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("make %s: %w", name, err), unix.Close(fd))
	}
	return os.NewFile(uintptr(fd), name), nil
}

// openOut opens a socket that sends frames from a device, past its queues and filters: they have been there before.
func openOut(index int) (int, error) {
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0) // protocol 0: it receives nothing
	if err != nil {
		return -1, fmt.Errorf("packet socket: %w", err)
	}
	err = unix.SetsockoptInt(fd, unix.SOL_PACKET, unix.PACKET_QDISC_BYPASS, 1)
	if err == nil {
		err = unix.Bind(fd, &unix.SockaddrLinklayer{Ifindex: index})
	}
	if err != nil {
		return -1, errors.Join(fmt.Errorf("packet socket: %w", err), unix.Close(fd))
	}
	return fd, nil
}

// Set changes what the line does to packets that come from now on.
func (l *DelayLine) Set(i Impairment) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.queue.i = i
}

// Dropped is how many packets there was no room for.
func (l *DelayLine) Dropped() uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.queue.dropped
}

// read takes packets in until close sets it a deadline.
func (l *DelayLine) read() {
	const longest = 1 << 16
	buf := make([]byte, longest)
	for {
		k, err := l.tap.Read(buf)
		if errors.Is(err, os.ErrClosed) || errors.Is(err, os.ErrDeadlineExceeded) {
			return
		}
		if err != nil { // somebody has set the device down
			time.Sleep(time.Millisecond)
			continue
		}
		now := time.Now()
		l.mu.Lock()
		var data []byte
		if last := len(l.spare) - 1; last >= 0 && cap(l.spare[last]) >= k {
			data, l.spare = l.spare[last][:k], l.spare[:last]
		} else {
			data = make([]byte, k, max(k, spareSize))
		}
		copy(data, buf[:k])
		l.queue.put(now, data)
		l.mu.Unlock()
		select {
		case l.wake <- struct{}{}:
		default: // it is awake
		}
	}
}

// Spare buffers hold most packets; as many are kept as a burst needs.
const (
	spareSize = 1600
	spares    = 256
)

// send sends packets when they are due, until the line ends.
func (l *DelayLine) send() {
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	var batch [][]byte
	for {
		now := time.Now()
		var wait time.Duration
		l.mu.Lock()
		for _, data := range batch {
			if len(l.spare) < spares {
				l.spare = append(l.spare, data)
			}
		}
		batch = batch[:0]
		for len(batch) < 64 {
			var data []byte
			if data, wait = l.queue.next(now); data == nil {
				break
			}
			batch = append(batch, data)
		}
		l.mu.Unlock()
		for _, data := range batch {
			_ = unix.Send(l.sock, data, unix.MSG_DONTWAIT) // a packet that cannot be sent is a lost packet
		}
		if len(batch) > 0 {
			select {
			case <-l.ended:
				return
			default:
				continue
			}
		}
		if wait < 0 {
			wait = time.Hour
		}
		timer.Reset(wait)
		select {
		case <-l.wake:
		case <-timer.C:
		case <-l.ended:
			return
		}
	}
}

// Close ends the line. What it holds comes at once.
func (l *DelayLine) Close() error {
	if err := l.close(); err != nil {
		return fmt.Errorf("end the delay line on %s/%s: %w", l.ns, l.dev, err)
	}
	return nil
}

func (l *DelayLine) close() error {
	var errs []error
	// First of all the filter: a packet that is redirected to a device that is gone is lost.
	err := l.ns.nl.FilterDel(&netlink.U32{FilterAttrs: netlink.FilterAttrs{
		LinkIndex: l.index, Parent: netlink.HANDLE_MIN_EGRESS, Priority: 1, Protocol: unix.ETH_P_ALL,
	}})
	if err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOENT) && !errors.Is(err, unix.ENODEV) {
		errs = append(errs, err)
	}
	if l.tap != nil {
		errs = append(errs, l.tap.SetReadDeadline(time.Now().Add(lastPackets)))
	}
	close(l.ended)
	l.done.Wait()
	if l.tap != nil {
		errs = append(errs, l.tap.Close())
	}
	if l.sock >= 0 {
		for len(l.queue.held) > 0 {
			data, _ := l.queue.next(l.queue.held[0].due)
			_ = unix.Send(l.sock, data, unix.MSG_DONTWAIT) // as in send
		}
		errs = append(errs, unix.Close(l.sock))
	}
	return errors.Join(errs...)
}
