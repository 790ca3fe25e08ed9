package user

import (
	"net/netip"
	"strconv"
	"unsafe"

	"golang.org/x/sys/unix"
	"golang.zx2c4.com/wireguard/conn"
)

const (
	// slotSize holds the largest datagram, merged by GRO or not.
	slotSize = 1 << 16
	// minSlots serve an idle device; a ring that is filled by one read grows to maxSlots. Each slot is 64 KiB of address
	// space, of which an ordinary datagram touches one page.
	minSlots, maxSlots = 4, 32
)

// ring receives datagrams into slots of its own and hands them out cut into the pieces that GRO merged. What does not
// fit the caller's batch waits for the next call, so every read can use all slots, however many pieces each will give.
// One receiving goroutine owns it.
type ring struct {
	msgs  []mmsghdr
	iovs  []unix.Iovec
	names []sockaddr
	ctrls []byte
	bufs  [][]byte

	filled int // slots that the last read filled
	head   int // the slot handed out next; head == filled: empty
	at     int // bytes of it handed out already
	piece  int // size of its pieces, valid when at > 0
	last   *Endpoint
	// epoch is read for every new source; see Bind.UnderlayChanged.
	epoch func() uint64
}

func newRing(epoch func() uint64) *ring {
	r := &ring{epoch: epoch}
	r.resize(minSlots)
	return r
}

// resize must be called on an empty ring only. It keeps the buffers it has.
func (r *ring) resize(n int) {
	r.msgs, r.iovs, r.names = make([]mmsghdr, n), make([]unix.Iovec, n), make([]sockaddr, n)
	r.ctrls = make([]byte, n*rxControl)
	for len(r.bufs) < n {
		r.bufs = append(r.bufs, make([]byte, slotSize))
	}
	for i := range n {
		r.iovs[i].Base = unsafe.SliceData(r.bufs[i])
		r.iovs[i].SetLen(slotSize)
		h := &r.msgs[i].hdr
		h.Name = (*byte)(unsafe.Pointer(&r.names[i]))
		h.Iov = &r.iovs[i]
		h.SetIovlen(1)
		h.Control = &r.ctrls[i*rxControl]
	}
}

// empty reports whether the next datagram must come from the socket.
func (r *ring) empty() bool { return r.head == r.filled }

// read fills the empty ring from the socket with one system call, without blocking.
func (r *ring) read(fd uintptr) error {
	if r.filled == len(r.msgs) && len(r.msgs) < maxSlots {
		r.resize(maxSlots)
	}
	r.head, r.at, r.filled = 0, 0, 0
	for i := range r.msgs { // the kernel overwrote these lengths
		r.msgs[i].hdr.Namelen = unix.SizeofSockaddrInet6
		r.msgs[i].hdr.SetControllen(rxControl)
	}
	n, err := recvmmsg(fd, r.msgs)
	r.filled = n
	return err
}

// drain hands out as many pieces as fit, and returns how many.
func (r *ring) drain(bufs [][]byte, sizes []int, eps []conn.Endpoint) (n int) {
	for n < len(bufs) && !r.empty() {
		m := &r.msgs[r.head]
		if r.at == 0 && !r.begin(m) {
			r.head++
			continue
		}
		data := r.bufs[r.head][r.at:m.n]
		data = data[:min(len(data), r.piece)]
		if r.at += len(data); r.at >= int(m.n) {
			r.head, r.at = r.head+1, 0
		}
		if len(data) > len(bufs[n]) { // cannot be a WireGuard message
			continue
		}
		sizes[n], eps[n] = copy(bufs[n], data), r.last
		n++
	}
	return n
}

// begin reads the addresses of a message, and reports whether it is worth handing out.
func (r *ring) begin(m *mmsghdr) bool {
	if m.n == 0 || m.hdr.Flags&unix.MSG_TRUNC != 0 {
		return false
	}
	from, scope := getSockaddr(&r.names[r.head])
	if !from.IsValid() {
		return false
	}
	src, piece := parseControl(unsafe.Slice(m.hdr.Control, m.hdr.Controllen))
	r.piece = piece
	if piece == 0 {
		r.piece = int(m.n)
	}
	r.last = r.endpoint(from, scope, src)
	return true
}

// endpoint returns the object of the previous message if it fits, so that a stream from one peer allocates nothing.
func (r *ring) endpoint(from netip.AddrPort, scope uint32, src source) *Endpoint {
	if scope != 0 {
		from = netip.AddrPortFrom(from.Addr().WithZone(strconv.FormatUint(uint64(scope), 10)), from.Port())
	}
	epoch := r.epoch()
	if e := r.last; e != nil && e.dst == from {
		if s := e.src.Load(); s.same(src) && s.epoch == epoch || s == nil && !src.addr.IsValid() {
			return e
		}
	}
	e := newEndpoint(from)
	if src.addr.IsValid() {
		src.epoch = epoch
		e.src.Store(&src)
	}
	return e
}
