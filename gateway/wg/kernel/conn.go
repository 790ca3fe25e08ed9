package kernel

import (
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// conversation is what a Device says to the kernel. The tests have one that obeys the kernel's rules in memory. Its two methods may be called
// at the same time, but neither twice.
type conversation interface {
	// set sends one SET_DEVICE, which the kernel has carried out, or refused, when set returns.
	set(msg []byte) error
	// dump sends one GET_DEVICE and hands every message of the answer to each, valid and its to change until it returns. errInterrupted says
	// that the device changed meanwhile.
	dump(request []byte, each func(msg []byte) error) error
	close()
}

// errInterrupted: the device changed under a dump; what was read may lack peers or entries.
var errInterrupted = errors.New("dump interrupted by changes of the device")

const (
	// recvSize holds the largest datagram that the kernel makes of a dump (32 KiB) with room to spare; the kernel fills it as far as it likes.
	recvSize = 64 << 10
	// answerTimeout bounds the wait for answers, which the kernel gives while it handles the request: it is never reached in practice.
	answerTimeout = 30 * time.Second
)

// conn is the family "wireguard" in the network namespace of the thread that opened it. It has two sockets, so that a change need not wait
// for a dump.
type conn struct {
	family           uint16
	writing, reading *socket
}

// dial finds the family, for which the kernel loads the module if it has it.
func dial() (*conn, error) { return dialFamily(familyName) }

func dialFamily(name string) (*conn, error) {
	h, err := netlink.NewHandle(unix.NETLINK_GENERIC)
	if err != nil {
		return nil, unavailable(fmt.Errorf("open a generic netlink socket: %w", err))
	}
	defer h.Close()
	family, err := h.GenlFamilyGet(name)
	if err != nil {
		return nil, unavailable(err)
	}
	c := &conn{family: family.ID}
	// The answer to a change is short: an errno and a sentence.
	if c.writing, err = newSocket(family.ID, 4<<10); err != nil {
		return nil, err
	}
	if c.reading, err = newSocket(family.ID, recvSize); err != nil {
		c.writing.Close()
		return nil, err
	}
	return c, nil
}

func (c *conn) close() {
	c.reading.Close()
	c.writing.Close()
}

func (c *conn) set(msg []byte) error { return c.writing.exchange(unix.NLM_F_ACK, msg, nil) }

func (c *conn) dump(request []byte, each func([]byte) error) error {
	return c.reading.exchange(unix.NLM_F_DUMP, request, each)
}

// socket is a generic netlink socket for requests to one family. It reads into one buffer, where the library's own way of receiving
// allocates 64 KiB for each datagram.
type socket struct {
	*nl.NetlinkSocket
	family uint16
	buf    []byte
}

func newSocket(family uint16, room int) (*socket, error) {
	s, err := nl.GetNetlinkSocketAt(netns.None(), netns.None(), unix.NETLINK_GENERIC)
	if err != nil {
		return nil, fmt.Errorf("open a generic netlink socket: %w", err)
	}
	timeout := unix.NsecToTimeval(answerTimeout.Nanoseconds())
	err = errors.Join(
		s.SetSendTimeout(&timeout),
		s.SetExtAck(true), // errors come with a sentence
		// And do not carry the request back, which may hold keys and has up to 56 KB.
		unix.SetsockoptInt(s.GetFd(), unix.SOL_NETLINK, unix.NETLINK_CAP_ACK, 1))
	if err != nil {
		s.Close()
		return nil, fmt.Errorf("set up a generic netlink socket: %w", err)
	}
	return &socket{s, family, make([]byte, room)}, nil
}

// exchange sends one request and reads its answer to the end, which is the acknowledgement or the end of the dump, whatever each returns.
func (s *socket) exchange(flags int, request []byte, each func([]byte) error) error {
	req := nl.NewNetlinkRequest(int(s.family), flags)
	req.AddRawData(request)
	if err := s.Send(req); err != nil {
		return err
	}
	var fail error
	for deadline := time.Now().Add(answerTimeout); ; {
		b, err := s.receive(deadline)
		if err == unix.ENOBUFS {
			fail = errInterrupted // some of it is lost, the rest comes
			continue
		}
		if err != nil {
			return err
		}
		for len(b) >= headerLen {
			n := int(binary.NativeEndian.Uint32(b))
			if n < headerLen || n > len(b) {
				return errMalformed
			}
			typ, flags := binary.NativeEndian.Uint16(b[4:]), binary.NativeEndian.Uint16(b[6:])
			seq, body := binary.NativeEndian.Uint32(b[8:]), b[headerLen:n]
			b = b[min(align(n), len(b)):]
			if seq != req.Seq {
				continue // of a request that was given up
			}
			if flags&unix.NLM_F_DUMP_INTR != 0 && fail == nil {
				fail = errInterrupted
			}
			switch typ {
			case unix.NLMSG_DONE, unix.NLMSG_ERROR:
				// An error that ends a dump comes in the DONE message.
				if err := answer(typ, flags, body); err != nil && (fail == nil || fail == errInterrupted) {
					fail = err
				}
				return fail
			case s.family:
				// What was interrupted is handed on too: it is the caller's to judge.
				if fail == nil || fail == errInterrupted {
					if err := each(body); err != nil {
						fail = err
					}
				}
			}
		}
	}
}

// receive returns the next datagram from the kernel, valid until the next call.
func (s *socket) receive(deadline time.Time) ([]byte, error) {
	for {
		n, from, err := unix.Recvfrom(s.GetFd(), s.buf, unix.MSG_TRUNC)
		switch addr, ok := from.(*unix.SockaddrNetlink); {
		case err == unix.EINTR:
		case err == unix.EAGAIN:
			wait := time.Until(deadline)
			if wait <= 0 {
				return nil, err
			}
			fds := []unix.PollFd{{Fd: int32(s.GetFd()), Events: unix.POLLIN}}
			if _, err := unix.Poll(fds, int(wait.Milliseconds())+1); err != nil && err != unix.EINTR {
				return nil, err
			}
		case err != nil:
			return nil, err
		case !ok || addr.Pid != nl.PidKernel:
		case n > len(s.buf):
			return nil, unix.ENOBUFS // cut short: as good as lost
		default:
			return s.buf[:n], nil
		}
	}
}

// answer is the error in an NLMSG_ERROR (struct nlmsgerr) or NLMSG_DONE, with the kernel's sentence if there is one; nil is success.
func answer(typ, flags uint16, body []byte) error {
	if len(body) < 4 {
		return nil
	}
	errno := unix.Errno(-int32(binary.NativeEndian.Uint32(body)))
	if errno == 0 {
		return nil
	}
	rest := body[4:]
	if typ == unix.NLMSG_ERROR {
		rest = rest[min(headerLen, len(rest)):] // of the request
	}
	if flags&unix.NLM_F_ACK_TLVS != 0 {
		for a := (attrs{rest: rest}); a.next(); {
			if a.typ == unix.NLMSGERR_ATTR_MSG {
				return fmt.Errorf("%w: %s", errno, unix.ByteSliceToString(a.val))
			}
		}
	}
	return errno
}
