package fib

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"syscall"
	"time"

	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

const (
	// recvSize holds the largest datagram that the kernel makes of a dump (32 KiB) with room to spare.
	recvSize = 64 << 10
	// recvBuffer is what is asked for incoming messages, in bytes: some ten thousand notifications, or the errors of a whole batch.
	recvBuffer = 8 << 20
	// answerTimeout bounds the wait for answers, which the kernel gives while it handles the request: it is never reached in practice.
	answerTimeout = 30 * time.Second
)

// conn is a NETLINK_ROUTE socket. It belongs for ever to the network namespace of the thread that opened it.
type conn struct {
	file   *os.File
	raw    syscall.RawConn
	port   uint32 // our address: what the kernel puts into the notifications that we cause
	seq    uint32
	buf    []byte
	rcvbuf int // bytes the kernel really gives
	sndbuf int
}

// dial opens a socket subscribed to multicast groups (RTNLGRP_*), if any, before anything can be missed. Notifications caused by the
// sockets of the addresses in skip are not delivered.
func dial(rcvbuf int, skip []uint32, groups ...int) (*conn, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("open a netlink socket: %w", err)
	}
	c := &conn{buf: make([]byte, recvSize)}
	if err := c.setUp(fd, rcvbuf, skip, groups); err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("set up a netlink socket: %w", err)
	}
	c.file = os.NewFile(uintptr(fd), "netlink")
	if c.raw, err = c.file.SyscallConn(); err != nil {
		c.file.Close()
		return nil, fmt.Errorf("set up a netlink socket: %w", err)
	}
	return c, nil
}

func (c *conn) setUp(fd, rcvbuf int, skip []uint32, groups []int) error {
	// Beyond net.core.rmem_max only with CAP_NET_ADMIN in the initial user namespace; less than asked for is fine, see batchLimits.
	if unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, rcvbuf) != nil {
		if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, rcvbuf); err != nil {
			return err
		}
	}
	// Old kernels lack these: error texts are then missing, errors carry the whole request, dumps are filtered here.
	_ = unix.SetsockoptInt(fd, unix.SOL_NETLINK, unix.NETLINK_EXT_ACK, 1)
	_ = unix.SetsockoptInt(fd, unix.SOL_NETLINK, unix.NETLINK_CAP_ACK, 1)
	_ = unix.SetsockoptInt(fd, unix.SOL_NETLINK, unix.NETLINK_GET_STRICT_CHK, 1)
	if len(skip) > 0 {
		if err := skipSenders(fd, skip); err != nil {
			return fmt.Errorf("filter: %w", err)
		}
	}
	if err := unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return err
	}
	for _, g := range groups {
		if err := unix.SetsockoptInt(fd, unix.SOL_NETLINK, unix.NETLINK_ADD_MEMBERSHIP, g); err != nil {
			return fmt.Errorf("subscribe to group %d: %w", g, err)
		}
	}
	sa, err := unix.Getsockname(fd)
	if err != nil {
		return err
	}
	nl, ok := sa.(*unix.SockaddrNetlink)
	if !ok {
		return fmt.Errorf("address of type %T", sa)
	}
	c.port = nl.Pid
	if c.rcvbuf, err = unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF); err != nil {
		return err
	}
	c.sndbuf, err = unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_SNDBUF)
	return err
}

// skipSenders makes the kernel drop the notifications that sockets caused, before they take room in the queue: a large write of ours
// could otherwise push out the one notification of somebody else's change.
func skipSenders(fd int, ports []uint32) error {
	// nlmsg_pid is at offset 12 in host order; the filter machine loads in network order.
	filter := []bpf.Instruction{bpf.LoadAbsolute{Off: 12, Size: 4}}
	for _, port := range ports {
		var native [4]byte
		binary.NativeEndian.PutUint32(native[:], port)
		filter = append(filter, bpf.JumpIf{Cond: bpf.JumpEqual, Val: binary.BigEndian.Uint32(native[:]), SkipFalse: 1}, bpf.RetConstant{Val: 0})
	}
	prog, err := bpf.Assemble(append(filter, bpf.RetConstant{Val: 1<<32 - 1}))
	if err != nil {
		return err
	}
	code := make([]unix.SockFilter, len(prog))
	for i, in := range prog {
		code[i] = unix.SockFilter{Code: in.Op, Jt: in.Jt, Jf: in.Jf, K: in.K}
	}
	return unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &unix.SockFprog{Len: uint16(len(code)), Filter: &code[0]})
}

func (c *conn) close() error { return c.file.Close() }

// send hands messages to the kernel, which has carried all of them out when send returns.
func (c *conn) send(b []byte) error {
	var err error
	if e := c.raw.Write(func(fd uintptr) bool {
		err = unix.Sendto(int(fd), b, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK})
		return err != unix.EAGAIN
	}); e != nil {
		return e
	}
	return err
}

// recv returns the next datagram from the kernel, valid until the next call. ENOBUFS says that some were lost before it.
func (c *conn) recv() ([]byte, error) {
	for {
		var n int
		var from unix.Sockaddr
		var err error
		if e := c.raw.Read(func(fd uintptr) bool {
			n, from, err = unix.Recvfrom(int(fd), c.buf, unix.MSG_TRUNC)
			return err != unix.EAGAIN
		}); e != nil {
			return nil, e
		}
		switch nl, ok := from.(*unix.SockaddrNetlink); {
		case err == unix.EINTR:
		case err != nil:
			return nil, err
		case !ok || nl.Pid != 0: // not from the kernel
		case n > len(c.buf):
			return nil, unix.ENOBUFS // cut short: as good as lost
		default:
			return c.buf[:n], nil
		}
	}
}

// within makes recv fail once ctx ends, until the returned function is called.
func (c *conn) within(ctx context.Context) (restore func()) {
	stop := context.AfterFunc(ctx, func() {
		_ = c.file.SetReadDeadline(time.Unix(1, 0)) // fails only when the file is closed, and then recv fails too
	})
	return func() {
		if !stop() {
			_ = c.file.SetReadDeadline(time.Time{})
		}
	}
}

// errInterrupted: the table changed under a dump; what was read may lack rows or have them twice.
var errInterrupted = errors.New("dump interrupted by changes")

// dumpTries bounds the repetitions of a dump that is interrupted each time.
const dumpTries = 16

// dump sends one dump request (built by request for a sequence number) and hands every message of the answer to each. When the dump is
// interrupted it starts again, after reset. A dump that was begun is read to its end, even if ctx ends: the kernel has the answer at hand,
// and would refuse the next dump of this socket while one is unread.
func (c *conn) dump(ctx context.Context, request func(seq uint32) []byte, reset func(), each func(typ uint16, body []byte) error) error {
	for range dumpTries {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		reset()
		// Lost messages and interruptions heal by another try; nothing else does.
		err := c.dumpOnce(request, each)
		if err != errInterrupted && !errors.Is(err, unix.ENOBUFS) {
			return err
		}
	}
	return errInterrupted
}

func (c *conn) dumpOnce(request func(seq uint32) []byte, each func(typ uint16, body []byte) error) error {
	c.seq++
	seq := c.seq
	if err := c.file.SetReadDeadline(time.Now().Add(answerTimeout)); err != nil {
		return err
	}
	if err := c.send(request(seq)); err != nil {
		return err
	}
	var fail error
	for {
		b, err := c.recv()
		if err == unix.ENOBUFS {
			fail = err
			continue
		}
		if err != nil {
			return err
		}
		for h, body := range messages(b) {
			if h.seq != seq {
				continue // of a request that was given up
			}
			if h.flags&unix.NLM_F_DUMP_INTR != 0 {
				fail = errInterrupted
			}
			switch h.typ {
			case unix.NLMSG_DONE:
				// An error that ends a dump comes in the DONE message.
				if len(body) >= 4 && fail == nil {
					fail = answer(h, body)
				}
				return fail
			case unix.NLMSG_ERROR:
				return answer(h, body)
			default:
				if fail == nil {
					fail = each(h.typ, body)
				}
			}
		}
	}
}

// watch subscribes to a group of route notifications until the returned function is called, which tells whether table stayed as it was.
// The socket is for nothing else.
func (c *conn) watch(group int, table uint32) (unchanged func() (bool, error), err error) {
	if err := c.member(unix.NETLINK_ADD_MEMBERSHIP, group); err != nil {
		return nil, err
	}
	return func() (bool, error) {
		if err := c.member(unix.NETLINK_DROP_MEMBERSHIP, group); err != nil {
			return false, err
		}
		same := true
		for {
			// Nothing more comes: what is there is there at once.
			n, err := c.peek()
			switch {
			case err == unix.EAGAIN:
				return same, nil
			case err == unix.ENOBUFS:
				same = false
			case err != nil:
				return false, err
			}
			for _, body := range messages(c.buf[:n]) {
				if r, ok := parseRow(body); !ok || r.table == table {
					same = false
				}
			}
		}
	}, nil
}

func (c *conn) member(option, group int) error {
	var err error
	if e := c.raw.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), unix.SOL_NETLINK, option, group) }); e != nil {
		return e
	}
	return err
}

// peek reads what is there, without waiting.
func (c *conn) peek() (n int, err error) {
	if e := c.raw.Control(func(fd uintptr) { n, _, err = unix.Recvfrom(int(fd), c.buf, unix.MSG_DONTWAIT) }); e != nil {
		return 0, e
	}
	return max(n, 0), err
}
