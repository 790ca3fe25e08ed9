package user

import (
	"errors"
	"fmt"
	"net"
	"sync"
	"unsafe"

	"golang.org/x/sys/unix"
	"golang.zx2c4.com/wireguard/conn"
)

const (
	// maxSegments of one datagram; UDP_MAX_SEGMENTS before Linux 6.9.
	maxSegments = 64
	// maxPayload of a UDP datagram over IPv4, which is the smaller family.
	maxPayload = 1<<16 - 1 - 20 - 8
)

// batch is the reusable memory of one Send.
type batch struct {
	msgs  [conn.IdealBatchSize]mmsghdr
	iovs  [conn.IdealBatchSize]unix.Iovec
	first [conn.IdealBatchSize + 1]int // first buffer of each message, and one past the last
	ctrl  []byte
	name  sockaddr
}

var batches = sync.Pool{New: func() any { return &batch{ctrl: make([]byte, conn.IdealBatchSize*txControl)} }}

// build describes the buffers from next on as messages to the address already in b.name. With gso, runs of equally long
// buffers, the last of which may be shorter, become one message each that the kernel cuts up: no byte is copied.
func (b *batch) build(bufs [][]byte, next int, namelen uint32, src *source, gso bool) (n int) {
	for next < len(bufs) {
		size, total, end := len(bufs[next]), 0, next
		for end < len(bufs) {
			l := len(bufs[end])
			if end > next && (!gso || l > size || total+l > maxPayload || end-next == maxSegments) {
				break
			}
			b.iovs[end].Base = unsafe.SliceData(bufs[end])
			b.iovs[end].SetLen(l)
			total += l
			end++
			if l < size {
				break
			}
		}
		control := b.ctrl[n*txControl : n*txControl : (n+1)*txControl]
		if src != nil {
			control = putSource(control, src)
		}
		if end-next > 1 {
			control = putSegment(control, size)
		}
		h := &b.msgs[n].hdr
		*h = unix.Msghdr{Name: (*byte)(unsafe.Pointer(&b.name)), Namelen: namelen, Iov: &b.iovs[next]}
		h.SetIovlen(end - next)
		if len(control) > 0 {
			h.Control = unsafe.SliceData(control)
			h.SetControllen(len(control))
		}
		b.first[n] = next
		next = end
		n++
	}
	b.first[n] = next
	return n
}

// release drops the references to the caller's buffers.
func (b *batch) release(bufs int) {
	for i := range bufs {
		b.iovs[i].Base = nil
	}
	batches.Put(b)
}

// write sends n messages and returns how many went before an error. It takes the descriptor's write lock only to wait for
// room, so that peers on different cores do not wait for each other.
func (s *socket) write(b *batch, n int) (sent int, err error) {
	try := func(fd uintptr) bool {
		for sent < n {
			var k int
			if k, err = sendmmsg(fd, b.msgs[sent:n]); err != nil {
				return err != unix.EAGAIN
			}
			sent += k
		}
		return true
	}
	done := false
	if s.raw.Control(func(fd uintptr) { done = try(fd) }) != nil {
		return sent, net.ErrClosed
	}
	if !done && s.raw.Write(try) != nil {
		return sent, net.ErrClosed
	}
	return sent, err
}

// Send implements conn.Bind. A datagram that the kernel refuses for its own sake does not hold up the rest of the batch;
// the first such error is returned at the end. As in batchTUN.Write, no packets are left in bufs, but slices of the same
// lengths, which wireguard-go adds up.
func (b *Bind) Send(bufs [][]byte, endpoint conn.Endpoint) error {
	defer b.forget(bufs)
	e, ok := endpoint.(*Endpoint)
	if !ok {
		return conn.ErrWrongEndpointType
	}
	s, err := b.socketFor(e.dst.Addr())
	if err != nil {
		return err
	}
	if len(bufs) == 1 { // wireguard-go sends a handshake message by itself
		b.cross.sending(bufs[0], e.dst)
	}
	t := batches.Get().(*batch)
	defer t.release(len(bufs))
	scope, err := s.scope(e.dst.Addr())
	if err != nil {
		return fmt.Errorf("send to %s: %w", e.dst, err)
	}
	namelen := putSockaddr(&t.name, e.dst, scope)
	src, gso := b.sourceFor(e), s.gso.Load()
	var first error
	for next := 0; next < len(bufs); {
		n := t.build(bufs, next, namelen, src, gso)
		sent, err := b.write(s, t, n)
		next = t.first[sent]
		if err == nil || sent == n {
			continue
		}
		switch merged := t.first[sent+1]-t.first[sent] > 1; {
		case merged && errors.Is(err, unix.EIO): // no checksum offload on the way out: udp(7), UDP_SEGMENT
			gso = false
			if s.gso.Swap(false) {
				b.log.Info("the kernel does not cut datagrams on this path; sending them one by one", "socket", s.file.Name())
			}
		case merged && (errors.Is(err, unix.EMSGSIZE) || errors.Is(err, unix.EINVAL)):
			// A piece is larger than the path MTU. One by one they are fragmented: slow, but they arrive.
			gso = false
			b.tooBig.warn(b.log, "datagrams exceed the path MTU of the underlay and are fragmented; lower the tunnel MTU",
				"endpoint", e.dst, "datagram", len(bufs[next]))
		case src != nil && sourceGone(err):
			e.src.CompareAndSwap(src, nil)
			src = nil
		case errors.Is(err, unix.EMSGSIZE), errors.Is(err, unix.EPERM), errors.Is(err, unix.ENOBUFS):
			if first == nil {
				first = err
			}
			next = t.first[sent+1]
		default:
			return fmt.Errorf("send to %s: %w", e.dst, err)
		}
	}
	if first != nil {
		return fmt.Errorf("send to %s: %w", e.dst, first)
	}
	return nil
}

// forget replaces buffers by slices of the same lengths of memory that is never touched.
func (b *Bind) forget(bufs [][]byte) {
	for i := range bufs {
		bufs[i] = b.lengths[:min(len(bufs[i]), slotSize)]
	}
}

// sourceGone reports whether the error can mean that the sticky source is no longer an address of this host, or that
// nothing leads from it to the destination.
func sourceGone(err error) bool {
	for _, e := range []unix.Errno{unix.EINVAL, unix.EADDRNOTAVAIL, unix.ENETUNREACH, unix.EHOSTUNREACH, unix.ENODEV, unix.ENXIO} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}
