package user

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"sync/atomic"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// socketBuffer in bytes, as wireguard-go asks for. A burst that the crypto workers cannot take at once waits here.
const socketBuffer = 7 << 20

// socket is one UDP socket of a Bind, for one family.
type socket struct {
	file *os.File
	raw  syscall.RawConn
	v6   bool
	port uint16
	// gso is cleared when the kernel says that this path cannot cut datagrams.
	gso atomic.Bool
}

// listen opens a socket in the calling thread's namespace.
func listen(v6 bool, port uint16, device string) (_ *socket, err error) {
	family, name := unix.AF_INET, "udp4"
	if v6 {
		family, name = unix.AF_INET6, "udp6"
	}
	fd, err := unix.Socket(family, unix.SOCK_DGRAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, unix.IPPROTO_UDP)
	if err != nil {
		return nil, fmt.Errorf("%s socket: %w", name, err)
	}
	s := &socket{v6: v6}
	defer func() {
		if err != nil {
			_ = unix.Close(fd)
		}
	}()
	if err := s.options(fd, device); err != nil {
		return nil, fmt.Errorf("%s socket: %w", name, err)
	}
	sa, local := sockaddr{Family: uint16(family), Port: htons(port)}, sockaddr{}
	size := uint32(unix.SizeofSockaddrInet6)
	if !v6 {
		size = unix.SizeofSockaddrInet4
	}
	if _, _, errno := unix.Syscall(unix.SYS_BIND, uintptr(fd), uintptr(unsafe.Pointer(&sa)), uintptr(size)); errno != 0 {
		return nil, fmt.Errorf("%s port %d: %w", name, port, errno)
	}
	size = unix.SizeofSockaddrInet6
	if _, _, errno := unix.Syscall(unix.SYS_GETSOCKNAME, uintptr(fd), uintptr(unsafe.Pointer(&local)), uintptr(unsafe.Pointer(&size))); errno != 0 {
		return nil, fmt.Errorf("%s port %d: %w", name, port, errno)
	}
	s.port = htons(local.Port)
	s.file = os.NewFile(uintptr(fd), name)
	if s.raw, err = s.file.SyscallConn(); err != nil { // only for a nil file
		return nil, fmt.Errorf("%s socket: %w", name, err)
	}
	return s, nil
}

func (s *socket) options(fd int, device string) error {
	// Beyond net.core.[rw]mem_max with CAP_NET_ADMIN; up to it without. Less room costs speed, not correctness.
	for _, o := range []int{unix.SO_RCVBUF, unix.SO_SNDBUF, unix.SO_RCVBUFFORCE, unix.SO_SNDBUFFORCE} {
		_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, o, socketBuffer)
	}
	level, pktinfo := unix.IPPROTO_IP, unix.IP_PKTINFO
	if s.v6 {
		level, pktinfo = unix.IPPROTO_IPV6, unix.IPV6_RECVPKTINFO
		if err := unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_V6ONLY, 1); err != nil {
			return fmt.Errorf("IPV6_V6ONLY: %w", err)
		}
	}
	if err := unix.SetsockoptInt(fd, level, pktinfo, 1); err != nil {
		return fmt.Errorf("packet information: %w", err)
	}
	if device != "" {
		if err := unix.BindToDevice(fd, device); err != nil {
			return fmt.Errorf("bind to interface %s: %w", device, err)
		}
	}
	// Both are optional: without them every datagram is a message of its own.
	_ = unix.SetsockoptInt(fd, unix.IPPROTO_UDP, unix.UDP_GRO, 1)
	_, err := unix.GetsockoptInt(fd, unix.IPPROTO_UDP, unix.UDP_SEGMENT)
	s.gso.Store(err == nil)
	return nil
}

// read fills the ring, and blocks until there is something. It returns net.ErrClosed once the socket is closed, and
// os.ErrDeadlineExceeded after wake.
func (s *socket) read(r *ring) (err error) {
	if closed := s.raw.Read(func(fd uintptr) bool {
		err = r.read(fd)
		return !errors.Is(err, unix.EAGAIN)
	}); errors.Is(closed, os.ErrDeadlineExceeded) {
		return closed
	} else if closed != nil {
		return net.ErrClosed
	}
	return err
}

// wake makes read return, now or when it is called next, until awake is called. A closed socket needs no waking.
func (s *socket) wake() { _ = s.file.SetReadDeadline(time.Unix(1, 0)) }

// awake lets read block again.
func (s *socket) awake() { _ = s.file.SetReadDeadline(time.Time{}) }

// scope returns the interface index of a link-local destination's zone, 0 for other addresses.
func (s *socket) scope(a netip.Addr) (scope uint32, err error) {
	if a.Zone() == "" {
		return 0, nil
	}
	if closed := s.raw.Control(func(fd uintptr) { scope, err = scopeOf(fd, a.Zone()) }); closed != nil {
		return 0, net.ErrClosed
	}
	if err != nil {
		return 0, fmt.Errorf("zone %s: %w", a.Zone(), err)
	}
	return scope, nil
}

func (s *socket) setMark(mark uint32) (err error) {
	if closed := s.raw.Control(func(fd uintptr) {
		err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_MARK, int(mark))
	}); closed != nil {
		return net.ErrClosed
	}
	if err != nil {
		return fmt.Errorf("%s: firewall mark %#x: %w", s.file.Name(), mark, err)
	}
	return nil
}

func (s *socket) close() error {
	if s == nil {
		return nil
	}
	return s.file.Close()
}
