package user

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
	"unsafe"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
	"golang.zx2c4.com/wireguard/tun"

	"sitewire/gateway/wg"
)

const (
	tunPath = "/dev/net/tun"
	// batchBytes ends a batch of reads. wireguard-go encrypts a batch on one core, so bulk traffic, which comes in frames of
	// up to 64 KiB, must be spread over several batches, while a batch of small packets can be as long as it likes.
	batchBytes = 64 << 10
	// queueLength is the number of packets that wait in the kernel while we are not scheduled; what exceeds it is lost. The
	// kernel's 500 are 5 ms at 100,000 packets/s, less than a busy scheduler takes.
	queueLength = 2000
	// vanish is how long to wait for the TUN of a process that was just killed to disappear.
	vanish = 2 * time.Second
	// poll interval meanwhile.
	poll = 20 * time.Millisecond
)

// batchTUN is a tun.Device that keeps reading while packets are ready: wireguard-go's own returns one frame per read and
// so pays a wake-up, a lock and a system call on the other side for every small packet. Writing, with its GRO, is
// wireguard-go's, but for what Write says. Read belongs to one goroutine; the rest may be called from any.
type batchTUN struct {
	tun.Device
	raw    syscall.RawConn
	log    *slog.Logger
	bad    limiter
	mtu    atomic.Int32
	udp    bool // the kernel takes merged UDP: Linux 6.2
	events chan tun.Event
	once   sync.Once

	// Owned by the reader.
	buf   []byte
	split segmenter
	turn  yielder
	out   tunBatch
	fill  func(fd uintptr) bool // t.fillFrom, made once
}

// tunBatch is one Read under way.
type tunBatch struct {
	bufs   [][]byte
	sizes  []int
	offset int
	n      int // packets so far
	taken  int // their bytes
	err    error
}

// openTUN creates a TUN interface in the namespace of the calling thread, down and without addresses.
func openTUN(ctx context.Context, name string, mtu int, log *slog.Logger) (*batchTUN, error) {
	fd, err := createTUN(ctx, name)
	if err != nil {
		return nil, err
	}
	inner, got, err := tun.CreateUnmonitoredTUNFromFD(fd)
	if err != nil {
		_ = unix.Close(fd)
		return nil, fmt.Errorf("interface %s: %w", name, err)
	}
	t, err := newBatchTUN(inner, mtu, log)
	if err == nil && got != name {
		err = fmt.Errorf("the kernel named it %s", got)
	}
	if err == nil {
		err = setLink(name, mtu)
	}
	if err != nil {
		return nil, fmt.Errorf("interface %s: %w", name, errors.Join(err, inner.Close()))
	}
	return t, nil
}

func newBatchTUN(inner tun.Device, mtu int, log *slog.Logger) (*batchTUN, error) {
	raw, err := inner.File().SyscallConn()
	if err != nil {
		return nil, err
	}
	t := &batchTUN{Device: inner, raw: raw, log: log, events: make(chan tun.Event, 1), buf: make([]byte, vnetLen+1<<16)}
	t.mtu.Store(int32(mtu))
	t.fill = t.fillFrom
	const tcp = unix.TUN_F_CSUM | unix.TUN_F_TSO4 | unix.TUN_F_TSO6
	if err := raw.Control(func(fd uintptr) { // wireguard-go asked the same and does not tell
		t.udp = unix.IoctlSetInt(int(fd), unix.TUNSETOFFLOAD, tcp|unix.TUN_F_USO4|unix.TUN_F_USO6) == nil
	}); err != nil {
		return nil, err
	}
	return t, nil
}

// createTUN makes the interface, and fails if one of that name exists. IFF_TUN_EXCL makes the kernel itself refuse, so
// there is no moment between looking and taking.
func createTUN(ctx context.Context, name string) (fd int, err error) {
	for deadline := time.Now().Add(vanish); ; {
		fd, err = unix.Open(tunPath, unix.O_RDWR|unix.O_CLOEXEC, 0)
		if err != nil {
			return -1, fmt.Errorf("%s: %w", tunPath, err)
		}
		var ifr *unix.Ifreq
		if ifr, err = unix.NewIfreq(name); err == nil {
			// VNET_HDR gives segmentation offload both ways.
			ifr.SetUint16(unix.IFF_TUN | unix.IFF_NO_PI | unix.IFF_VNET_HDR | unix.IFF_TUN_EXCL)
			if err = unix.IoctlIfreq(fd, unix.TUNSETIFF, ifr); err == nil {
				return fd, nil
			}
		}
		_ = unix.Close(fd)
		if !errors.Is(err, unix.EBUSY) {
			return -1, fmt.Errorf("create interface %s: %w", name, err)
		}
		// A TUN can be the one of our own last life, which goes away with its file descriptor. Anything else stays.
		kind := linkKind(name)
		if kind != "tuntap" && kind != "" || time.Now().After(deadline) {
			return -1, fmt.Errorf("create interface %s: %w (kind %s); it was not touched", name, wg.ErrLinkExists, kind)
		}
		select {
		case <-ctx.Done():
			return -1, fmt.Errorf("create interface %s: %w (kind %s): %w", name, wg.ErrLinkExists, kind, ctx.Err())
		case <-time.After(poll):
		}
	}
}

// linkKind returns the kind of a link of the calling thread's namespace, "" if it is gone.
func linkKind(name string) string {
	l, err := netlink.LinkByName(name)
	if err != nil {
		return ""
	}
	return l.Type()
}

// setLink sets what must be right before the first packet: the MTU and the length of the queue. By rtnetlink: the ioctl
// for the queue is refused in a user namespace.
func setLink(name string, mtu int) error {
	l, err := netlink.LinkByName(name)
	if err != nil {
		return err
	}
	if err := netlink.LinkSetMTU(l, mtu); err != nil {
		return fmt.Errorf("MTU %d: %w", mtu, err)
	}
	if err := netlink.LinkSetTxQLen(l, queueLength); err != nil {
		return fmt.Errorf("queue length %d: %w", queueLength, err)
	}
	return nil
}

// Read implements tun.Device: it blocks for the first packet and takes what else is ready.
func (t *batchTUN) Read(bufs [][]byte, sizes []int, offset int) (int, error) {
	t.turn.yield()
	t.out = tunBatch{bufs: bufs, sizes: sizes, offset: offset}
	err := t.raw.Read(t.fill)
	n := t.out.n
	if err != nil {
		err = os.ErrClosed
	} else {
		err = t.out.err
	}
	t.out = tunBatch{}
	return n, err
}

// fillFrom reads what is ready and cuts it into packets until the batch is long enough. It reports false if there was nothing.
func (t *batchTUN) fillFrom(fd uintptr) bool {
	b := &t.out
	for b.n < len(b.bufs) {
		if t.split.empty() {
			if b.taken >= batchBytes {
				return true
			}
			n, err := readNow(fd, t.buf)
			switch {
			case err == unix.EAGAIN:
				return b.n > 0
			case err == unix.EBADFD: // the interface was deleted
				b.err = os.ErrClosed
				return true
			case err != nil:
				b.err = fmt.Errorf("read TUN: %w", err)
				return true
			case n <= vnetLen:
				continue
			}
			frame := t.buf[:n]
			if err := t.split.start(parseVnet(frame), frame[vnetLen:]); err != nil {
				t.bad.warn(t.log, "dropped a packet", "error", err, "bytes", len(frame))
				continue
			}
		}
		size := t.split.emit(b.bufs[b.n][b.offset:])
		if size == 0 {
			continue
		}
		b.sizes[b.n] = size
		b.taken += size
		b.n++
	}
	return true
}

// readNow reads from a descriptor that does not block, without telling Go's scheduler: that costs as much as a small packet's read does.
func readNow(fd uintptr, buf []byte) (int, error) {
	for {
		n, _, errno := unix.RawSyscall(unix.SYS_READ, fd, uintptr(unsafe.Pointer(unsafe.SliceData(buf))), uintptr(len(buf)))
		switch errno {
		case 0:
			return int(n), nil
		case unix.EINTR:
		default:
			return 0, errno
		}
	}
}

// Write implements tun.Device. It leaves no packets in bufs: wireguard-go has such a slice for each peer and only cuts it
// to length 0 between batches, so that each peer would keep its longest batch ever in memory, 64 KiB for every packet.
func (t *batchTUN) Write(bufs [][]byte, offset int) (int, error) {
	defer clear(bufs)
	if offset < vnetLen {
		return 0, fmt.Errorf("write TUN: %d bytes in front of a packet, want %d", offset, vnetLen)
	}
	m := mergers.Get().(*merger)
	defer m.release()
	m.start(bufs, offset, t.udp)
	var errs []error
	written := 0
	for i := range m.groups {
		switch err := t.writeFrame(m.frame(&m.groups[i])); {
		case err == nil:
			written += m.groups[i].n
		case errors.Is(err, os.ErrClosed):
			return written, err
		default:
			errs = append(errs, err)
		}
	}
	return written, errors.Join(errs...)
}

// writeFrame takes the descriptor's write lock only to wait, so that peers do not wait for each other.
func (t *batchTUN) writeFrame(iovs []unix.Iovec) (err error) {
	try := func(fd uintptr) bool {
		for {
			_, _, errno := unix.Syscall(unix.SYS_WRITEV, fd, uintptr(unsafe.Pointer(&iovs[0])), uintptr(len(iovs)))
			switch errno {
			case unix.EINTR:
			case unix.EAGAIN:
				return false
			case 0:
				err = nil
				return true
			case unix.EBADFD: // the interface was deleted
				err = os.ErrClosed
				return true
			default:
				err = fmt.Errorf("write TUN: %w", errno)
				return true
			}
		}
	}
	done := false
	if t.raw.Control(func(fd uintptr) { done = try(fd) }) != nil || !done && t.raw.Write(try) != nil {
		return os.ErrClosed
	}
	return err
}

// BatchSize implements tun.Device.
func (t *batchTUN) BatchSize() int { return batchSize }

// MTU implements tun.Device. It is the value last given to us: the interface may be in another namespace by now.
func (t *batchTUN) MTU() (int, error) { return int(t.mtu.Load()), nil }

// changeMTU tells wireguard-go, which pads packets up to the MTU but not beyond.
func (t *batchTUN) changeMTU(mtu int) {
	if t.mtu.Swap(int32(mtu)) == int32(mtu) {
		return
	}
	select {
	case t.events <- tun.EventMTUUpdate:
	default: // one is pending and will read the new value
	}
}

// Events implements tun.Device.
func (t *batchTUN) Events() <-chan tun.Event { return t.events }

// Close implements tun.Device. The interface disappears.
func (t *batchTUN) Close() (err error) {
	t.once.Do(func() {
		err = t.Device.Close()
		close(t.events)
	})
	return err
}
