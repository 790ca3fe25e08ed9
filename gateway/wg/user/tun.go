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
	events chan tun.Event
	once   sync.Once

	// Owned by the reader.
	buf   []byte
	split segmenter
	n     int
	err   error
	wait  bool
	read  func(fd uintptr) bool
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
	t.read = func(fd uintptr) bool {
		for {
			t.n, t.err = unix.Read(int(fd), t.buf)
			switch t.err {
			case unix.EINTR:
			case unix.EAGAIN:
				return !t.wait
			default:
				return true
			}
		}
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
func (t *batchTUN) Read(bufs [][]byte, sizes []int, offset int) (n int, err error) {
	for taken := 0; n < len(bufs); {
		if t.split.empty() {
			if taken >= batchBytes {
				return n, nil
			}
			frame, err := t.frame(n == 0)
			if err != nil || frame == nil {
				return n, err
			}
			if err := t.split.start(parseVnet(frame), frame[vnetLen:]); err != nil {
				t.bad.warn(t.log, "dropped a packet", "error", err, "bytes", len(frame))
				continue
			}
		}
		size := t.split.emit(bufs[n][offset:])
		if size == 0 {
			continue
		}
		sizes[n] = size
		taken += size
		n++
	}
	return n, nil
}

// frame returns one frame with its virtio header; nil if none is ready and wait is false.
func (t *batchTUN) frame(wait bool) ([]byte, error) {
	for {
		t.wait = wait
		if err := t.raw.Read(t.read); err != nil {
			return nil, os.ErrClosed
		}
		switch {
		case t.err == unix.EAGAIN:
			return nil, nil
		case t.err == unix.EBADFD: // the interface was deleted
			return nil, os.ErrClosed
		case t.err != nil:
			return nil, fmt.Errorf("read TUN: %w", t.err)
		case t.n > vnetLen:
			return t.buf[:t.n], nil
		}
	}
}

// Write implements tun.Device. It leaves no packets in bufs: wireguard-go has such a slice for each peer and only cuts it
// to length 0 between batches, so that each peer would keep its longest batch ever in memory, 64 KiB for every packet.
func (t *batchTUN) Write(bufs [][]byte, offset int) (int, error) {
	defer clear(bufs)
	return t.Device.Write(bufs, offset)
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
