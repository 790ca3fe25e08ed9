package user

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
	"golang.zx2c4.com/wireguard/conn"
)

// batchSize is how many packets wireguard-go takes from the TUN or a socket at once, and gives to them.
const batchSize = 64

// portAttempts to find a port that is free in both families.
const portAttempts = 100

// receiveRetry is the pause after a read error that is not the end of the socket, such as want of memory.
const receiveRetry = 100 * time.Millisecond

// BindOptions say where a Bind has its sockets.
type BindOptions struct {
	Logger *slog.Logger
	// Namespace to make the sockets in; nil is that of the thread that calls Open. The Bind does not close it.
	Namespace *os.File
	// Interface to bind the sockets to (SO_BINDTODEVICE); "" is none.
	Interface string
}

// Bind implements conn.Bind: one UDP socket per family, used in batches. Its methods may be called from any goroutine,
// as conn.Bind demands; each receive function belongs to one goroutine.
type Bind struct {
	log    *slog.Logger
	ns     *os.File
	device string
	epoch  atomic.Uint64
	// lengths is what slices are cut from that are only for their length; see forget.
	lengths []byte
	tooBig  limiter
	badRx   limiter
	cross   crossing
	// The functions of these names, unless a test stands in for a kernel that refuses something.
	listen func(v6 bool, port uint16, device string) (*socket, error)
	write  func(s *socket, b *batch, n int) (sent int, err error)

	mu     sync.RWMutex // guards what follows; not held while sending or receiving
	v4, v6 *socket
	mark   uint32
	closed chan struct{} // of the present pair of sockets
}

var _ conn.Bind = (*Bind)(nil)

// NewBind makes a closed Bind. It does no I/O.
func NewBind(o BindOptions) *Bind {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	return &Bind{log: o.Logger, ns: o.Namespace, device: o.Interface, lengths: make([]byte, slotSize), listen: listen, write: (*socket).write}
}

// BatchSize implements conn.Bind.
func (b *Bind) BatchSize() int { return batchSize }

// Open implements conn.Bind. A host without one of the families gets a socket of the other, and its port.
func (b *Bind) Open(port uint16) ([]conn.ReceiveFunc, uint16, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed != nil {
		return nil, 0, conn.ErrBindAlreadyOpen
	}
	open := func() (err error) {
		b.v4, b.v6, err = b.listenBoth(port)
		return err
	}
	enter := open
	if b.ns != nil {
		enter = func() error { return within(b.ns, open) }
	}
	if err := enter(); err != nil {
		err = errors.Join(err, b.v4.close(), b.v6.close())
		b.v4, b.v6 = nil, nil
		return nil, 0, err
	}
	b.closed = make(chan struct{})
	var fns []conn.ReceiveFunc
	if b.v6 != nil {
		port = b.v6.port
		fns = append(fns, b.receive(b.v6, b.closed))
	}
	if b.v4 != nil {
		port = b.v4.port
		fns = append(fns, b.receive(b.v4, b.closed))
	}
	return fns, port, nil
}

// listenBoth opens both families on one port. If the kernel chooses the port of the first, it can be taken in the other.
func (b *Bind) listenBoth(port uint16) (v4, v6 *socket, err error) {
	for attempt := 1; ; attempt++ {
		v4, err = b.listen(false, port, b.device)
		if err != nil && !errors.Is(err, unix.EAFNOSUPPORT) {
			return nil, nil, err
		}
		second := port
		if v4 != nil {
			second = v4.port
		}
		v6, err = b.listen(true, second, b.device)
		switch {
		case err == nil:
			return v4, v6, nil
		case v4 != nil && (errors.Is(err, unix.EAFNOSUPPORT) || errors.Is(err, unix.EADDRNOTAVAIL)):
			return v4, nil, nil // IPv6 is switched off
		case port == 0 && errors.Is(err, unix.EADDRINUSE) && attempt < portAttempts:
			_ = v4.close()
		default:
			return v4, nil, err
		}
	}
}

// receive returns the receive function of one socket. It ends only with the socket: wireguard-go would give it up, and
// the family with it, after a few errors.
func (b *Bind) receive(s *socket, closed <-chan struct{}) conn.ReceiveFunc {
	var (
		r    *ring
		turn yielder
	)
	return func(bufs [][]byte, sizes []int, eps []conn.Endpoint) (int, error) {
		if r == nil {
			r = newRing(b.epoch.Load)
		}
		turn.yield()
		for {
			if n := r.drain(bufs, sizes, eps); n > 0 {
				b.cross.received(s, bufs, sizes[:n], eps)
				return n, nil
			}
			err := s.read(r)
			switch {
			case err == nil:
			case errors.Is(err, os.ErrDeadlineExceeded): // woken
				s.awake()
				n, more := b.cross.due(s, bufs, sizes, eps)
				if more {
					s.wake()
				}
				if n > 0 {
					return n, nil
				}
			case errors.Is(err, net.ErrClosed):
				return 0, err
			default:
				b.badRx.warn(b.log, "cannot receive", "socket", s.file.Name(), "error", err)
				select {
				case <-closed:
					return 0, net.ErrClosed
				case <-time.After(receiveRetry):
				}
			}
		}
	}
}

// Close implements conn.Bind. The Bind can be opened again.
func (b *Bind) Close() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed == nil {
		return nil
	}
	close(b.closed)
	err := errors.Join(b.v4.close(), b.v6.close())
	b.v4, b.v6, b.closed, b.mark = nil, nil, nil, 0
	b.cross.clear()
	return err
}

// SetMark implements conn.Bind: SO_MARK of what is sent from now on.
func (b *Bind) SetMark(mark uint32) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, s := range []*socket{b.v4, b.v6} {
		if s == nil {
			continue
		}
		if err := s.setMark(mark); err != nil {
			return err
		}
	}
	b.mark = mark
	return nil
}

// Port returns the port that the sockets listen on, 0 when closed.
func (b *Bind) Port() uint16 {
	b.mu.RLock()
	defer b.mu.RUnlock()
	switch {
	case b.v4 != nil:
		return b.v4.port
	case b.v6 != nil:
		return b.v6.port
	}
	return 0
}

// ParseEndpoint implements conn.Bind.
func (b *Bind) ParseEndpoint(text string) (conn.Endpoint, error) {
	dst, err := netip.ParseAddrPort(text)
	if err != nil {
		return nil, err
	}
	return newEndpoint(dst), nil
}

func (b *Bind) socketFor(a netip.Addr) (*socket, error) {
	b.mu.RLock()
	defer b.mu.RUnlock()
	s := b.v6
	if a.Is4() {
		s = b.v4
	}
	switch {
	case s != nil:
		return s, nil
	case b.closed == nil:
		return nil, net.ErrClosed
	}
	return nil, fmt.Errorf("send to %s: %w", a, unix.EAFNOSUPPORT)
}

// UnderlayChanged says that addresses, routes or rules of the underlay changed. Before the next datagram to each
// endpoint, its sticky source is checked: if the kernel would now leave by another interface than the one the peer's
// datagrams came in on, the kernel chooses the source again. Call it once per burst of changes, not per change.
func (b *Bind) UnderlayChanged() { b.epoch.Add(1) }

// sourceFor returns the source to send from, nil to let the kernel choose.
func (b *Bind) sourceFor(e *Endpoint) *source {
	src := e.src.Load()
	if src == nil {
		return nil
	}
	epoch := b.epoch.Load()
	if src.epoch == epoch || e.dst.Addr().IsLinkLocalUnicast() {
		return src
	}
	b.mu.RLock()
	mark := b.mark
	b.mu.RUnlock()
	out, err := outgoing(b.ns, e.dst.Addr(), src.addr, mark, b.device)
	if err != nil || out != src.ifindex {
		e.src.CompareAndSwap(src, nil)
		return nil
	}
	checked := &source{addr: src.addr, ifindex: src.ifindex, epoch: epoch}
	e.src.CompareAndSwap(src, checked)
	return checked
}
