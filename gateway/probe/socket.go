package probe

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"syscall"

	"golang.org/x/net/bpf"
	"golang.org/x/net/icmp"
	"golang.org/x/net/ipv4"
	"golang.org/x/net/ipv6"
	"golang.org/x/sys/unix"
)

// OpenError says that no socket for echoes can be had.
type OpenError struct {
	V6  bool
	Err error
}

func (e *OpenError) Error() string {
	family := "IPv4"
	if e.V6 {
		family = "IPv6"
	}
	return fmt.Sprintf("no socket for %s echoes: %v: give sitewire CAP_NET_RAW, or its group a place in net.ipv4.ping_group_range, or write `probe: { interval: off }`", family, e.Err)
}

func (e *OpenError) Unwrap() error { return e.Err }

// socket is a Wire: a raw socket where that is allowed, else a "ping" socket, which the kernel gives to unprivileged
// groups. It serves all devices; each packet says through which one it goes.
type socket struct {
	file *os.File
	conn syscall.RawConn
	v6   bool
	raw  bool
	id   uint16 // ICMP identifier; of a ping socket it is the kernel's choice
	buf  []byte
}

// Sizes in bytes.
const (
	header4   = 20
	header6   = 40
	echoSize  = 8 // header of an echo
	tokenSize = 8
)

// smallest is the size of the smallest packet that can carry a token.
func smallest(v6 bool) int {
	if v6 {
		return header6 + echoSize + tokenSize
	}
	return header4 + echoSize + tokenSize
}

// Open opens a socket in the calling thread's network namespace. An error is an *OpenError.
func Open(v6 bool) (Wire, error) {
	s, err := open(v6, unix.SOCK_RAW)
	if errors.Is(err, unix.EPERM) || errors.Is(err, unix.EACCES) {
		s, err = open(v6, unix.SOCK_DGRAM)
	}
	if err != nil {
		return nil, &OpenError{V6: v6, Err: err}
	}
	return s, nil
}

func open(v6 bool, kind int) (*socket, error) {
	domain, proto := unix.AF_INET, unix.IPPROTO_ICMP
	if v6 {
		domain, proto = unix.AF_INET6, unix.IPPROTO_ICMPV6
	}
	fd, err := unix.Socket(domain, kind|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, proto)
	if err != nil {
		return nil, os.NewSyscallError("socket", err)
	}
	s := &socket{v6: v6, raw: kind == unix.SOCK_RAW, id: uint16(rand.Uint32()), buf: make([]byte, 128)}
	if err := s.configure(fd); err != nil {
		unix.Close(fd)
		return nil, os.NewSyscallError("setsockopt", err)
	}
	s.file = os.NewFile(uintptr(fd), "echo")
	s.conn, err = s.file.SyscallConn()
	if err != nil {
		s.file.Close()
		return nil, err
	}
	return s, nil
}

// configure forbids fragments and, on a raw socket, keeps everything from waking us but the answers to us.
func (s *socket) configure(fd int) error {
	if s.v6 {
		var only ipv6Filter
		only.setAll()
		only.accept(ipv6.ICMPTypeEchoReply)
		return errors.Join(
			// The path's MTU is what we want to find out, so what the kernel believes of it does not count.
			unix.SetsockoptInt(fd, unix.SOL_IPV6, unix.IPV6_MTU_DISCOVER, unix.IPV6_PMTUDISC_PROBE),
			unix.SetsockoptInt(fd, unix.SOL_IPV6, unix.IPV6_DONTFRAG, 1),
			s.onlyRaw(func() error {
				return unix.SetsockoptICMPv6Filter(fd, unix.SOL_ICMPV6, unix.ICMPV6_FILTER, &only.ICMPv6Filter)
			}),
			s.onlyRaw(func() error { return s.filter(fd) }),
		)
	}
	const icmpFilter = 1 // ICMP_FILTER of linux/icmp.h: the types whose bits are set are dropped
	return errors.Join(
		unix.SetsockoptInt(fd, unix.SOL_IP, unix.IP_MTU_DISCOVER, unix.IP_PMTUDISC_PROBE),
		s.onlyRaw(func() error {
			return unix.SetsockoptInt(fd, unix.SOL_RAW, icmpFilter, ^(1 << ipv4.ICMPTypeEchoReply))
		}),
		s.onlyRaw(func() error { return s.filter(fd) }),
	)
}

func (s *socket) onlyRaw(f func() error) error {
	if !s.raw {
		return nil
	}
	return f()
}

// filter lets through only what carries our identifier: on a gateway somebody else may ping much more than we do.
func (s *socket) filter(fd int) error {
	const idOffset = 4
	load := []bpf.Instruction{bpf.LoadAbsolute{Off: idOffset, Size: 2}}
	if !s.v6 { // the IP header comes first
		load = []bpf.Instruction{bpf.LoadMemShift{Off: 0}, bpf.LoadIndirect{Off: idOffset, Size: 2}}
	}
	const whole = 1 << 16
	raw, err := bpf.Assemble(append(load,
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: uint32(s.id), SkipFalse: 1},
		bpf.RetConstant{Val: whole},
		bpf.RetConstant{Val: 0},
	))
	if err != nil {
		return err
	}
	program := make([]unix.SockFilter, len(raw))
	for i, r := range raw {
		program[i] = unix.SockFilter{Code: r.Op, Jt: r.Jt, Jf: r.Jf, K: r.K}
	}
	return unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &unix.SockFprog{Len: uint16(len(program)), Filter: &program[0]})
}

// ipv6Filter is struct icmp6_filter (RFC 3542 section 3.2) as Linux reads it: a bit that is set blocks its type.
type ipv6Filter struct{ unix.ICMPv6Filter }

func (f *ipv6Filter) setAll() {
	for i := range f.Data {
		f.Data[i] = ^uint32(0)
	}
}

func (f *ipv6Filter) accept(t ipv6.ICMPType) { f.Data[t/32] &^= 1 << (t % 32) }

// Send implements Wire. An error means that the packet was not sent.
func (s *socket) Send(e Echo) error {
	packet, err := s.marshal(e)
	if err != nil {
		return err
	}
	var sendErr error
	err = s.conn.Write(func(fd uintptr) bool {
		sendErr = s.send(int(fd), packet, e)
		return !errors.Is(sendErr, unix.EAGAIN)
	})
	if err == nil {
		err = sendErr
	}
	if errors.Is(err, unix.ENOBUFS) {
		return nil // dropped on its way out, by a full queue: lost, as it would be anywhere else
	}
	return err
}

func (s *socket) send(fd int, packet []byte, e Echo) error {
	req, err := unix.NewIfreq(e.Device)
	if err != nil {
		return err
	}
	if err := unix.IoctlIfreq(fd, unix.SIOCGIFINDEX, req); err != nil {
		return fmt.Errorf("device %s: %w", e.Device, err)
	}
	index := req.Uint32()
	if s.v6 {
		info := unix.PktInfo6(&unix.Inet6Pktinfo{Addr: e.Local.As16(), Ifindex: index})
		to := unix.SockaddrInet6{Addr: e.Remote.As16()}
		if e.Remote.IsLinkLocalUnicast() {
			to.ZoneId = index
		}
		return os.NewSyscallError("sendmsg", unix.Sendmsg(fd, packet, info, &to, 0))
	}
	info := unix.PktInfo4(&unix.Inet4Pktinfo{Ifindex: int32(index), Spec_dst: e.Local.As4()})
	return os.NewSyscallError("sendmsg", unix.Sendmsg(fd, packet, info, &unix.SockaddrInet4{Addr: e.Remote.As4()}, 0))
}

// marshal makes the packet without its IP header, as long as asked for, with the token first.
func (s *socket) marshal(e Echo) ([]byte, error) {
	header := header4
	m := icmp.Message{Type: ipv4.ICMPTypeEcho}
	if s.v6 {
		header = header6
		m.Type = ipv6.ICMPTypeEchoRequest // the kernel fills its checksum in
	}
	data := make([]byte, max(tokenSize, e.Size-header-echoSize))
	binary.BigEndian.PutUint64(data, e.Token)
	m.Body = &icmp.Echo{ID: int(s.id), Seq: int(e.Seq), Data: data}
	return m.Marshal(nil)
}

// Receive implements Wire.
func (s *socket) Receive() (Reply, error) {
	for {
		var (
			n    int
			from unix.Sockaddr
			fail error
		)
		err := s.conn.Read(func(fd uintptr) bool {
			n, from, fail = unix.Recvfrom(int(fd), s.buf, 0)
			return !errors.Is(fail, unix.EAGAIN)
		})
		if err != nil {
			return Reply{}, err // closed
		}
		if fail != nil {
			continue // what an ICMP error said of an earlier packet: that one is lost, and counted when its time is over
		}
		if r, ok := s.parse(s.buf[:n], from); ok {
			return r, nil
		}
	}
}

// parse reads the beginning of an answer, which is all that was kept of it.
func (s *socket) parse(b []byte, from unix.Sockaddr) (r Reply, ok bool) {
	kind := byte(ipv4.ICMPTypeEchoReply)
	switch a := from.(type) {
	case *unix.SockaddrInet4:
		r.From = netip.AddrFrom4(a.Addr)
		if s.raw {
			if len(b) < header4 {
				return r, false
			}
			b = b[min(len(b), int(b[0]&0xf)*4):]
		}
	case *unix.SockaddrInet6:
		r.From = netip.AddrFrom16(a.Addr)
		kind = byte(ipv6.ICMPTypeEchoReply)
	}
	if len(b) < echoSize+tokenSize || b[0] != kind {
		return r, false
	}
	r.Token = binary.BigEndian.Uint64(b[echoSize:])
	return r, true
}

// Close implements Wire.
func (s *socket) Close() error { return s.file.Close() }
