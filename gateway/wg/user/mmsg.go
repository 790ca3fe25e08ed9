package user

import (
	"encoding/binary"
	"net/netip"
	"strconv"
	"unsafe"

	"golang.org/x/sys/unix"
)

// mmsghdr is struct mmsghdr of recvmmsg(2) and sendmmsg(2), which x/sys/unix does not have.
type mmsghdr struct {
	hdr unix.Msghdr
	n   uint32 // bytes received or sent
}

// sockaddr has room for either family; the kernel reads and writes it by the family field, which comes first in both.
type sockaddr = unix.RawSockaddrInet6

var (
	controlPktinfo6 = unix.CmsgSpace(unix.SizeofInet6Pktinfo)
	controlSegment  = unix.CmsgSpace(2) // UDP_SEGMENT: u16
	controlGRO      = unix.CmsgSpace(4) // UDP_GRO: int
	rxControl       = controlPktinfo6 + controlGRO
	txControl       = controlPktinfo6 + controlSegment
)

// recvmmsg receives at least one message, or returns EAGAIN.
func recvmmsg(fd uintptr, msgs []mmsghdr) (int, error) { return mmsg(unix.SYS_RECVMMSG, fd, msgs) }

// sendmmsg sends at least the first message, or returns its error.
func sendmmsg(fd uintptr, msgs []mmsghdr) (int, error) { return mmsg(unix.SYS_SENDMMSG, fd, msgs) }

func mmsg(call, fd uintptr, msgs []mmsghdr) (int, error) {
	for {
		n, _, errno := unix.Syscall6(call, fd, uintptr(unsafe.Pointer(unsafe.SliceData(msgs))), uintptr(len(msgs)), 0, 0, 0)
		switch errno {
		case 0:
			return int(n), nil
		case unix.EINTR:
		default:
			return 0, errno
		}
	}
}

// htons turns a port into network byte order, and back.
func htons(port uint16) uint16 {
	var b [2]byte
	binary.BigEndian.PutUint16(b[:], port)
	return binary.NativeEndian.Uint16(b[:])
}

// putSockaddr writes a and returns the length for the kernel. scope is the interface of a link-local address.
func putSockaddr(sa *sockaddr, a netip.AddrPort, scope uint32) uint32 {
	port := htons(a.Port())
	if a.Addr().Is4() {
		v4 := (*unix.RawSockaddrInet4)(unsafe.Pointer(sa))
		*v4 = unix.RawSockaddrInet4{Family: unix.AF_INET, Port: port, Addr: a.Addr().As4()}
		return unix.SizeofSockaddrInet4
	}
	*sa = sockaddr{Family: unix.AF_INET6, Port: port, Addr: a.Addr().As16(), Scope_id: scope}
	return unix.SizeofSockaddrInet6
}

// getSockaddr reads what the kernel wrote. scope is the interface of a link-local address, else 0.
func getSockaddr(sa *sockaddr) (a netip.AddrPort, scope uint32) {
	port := htons(sa.Port)
	switch sa.Family {
	case unix.AF_INET:
		return netip.AddrPortFrom(netip.AddrFrom4((*unix.RawSockaddrInet4)(unsafe.Pointer(sa)).Addr), port), 0
	case unix.AF_INET6:
		return netip.AddrPortFrom(netip.AddrFrom16(sa.Addr), port), sa.Scope_id
	}
	return netip.AddrPort{}, 0
}

// putSource appends the control message that sets the source address of a datagram.
//
// The interface stays free unless the address is link-local: with one given, Linux takes every IPv4 destination for
// on-link when that interface has no route, and the datagrams vanish in ARP instead of following the routing table.
func putSource(control []byte, src *source) []byte {
	if src.addr.Is4() {
		data := grow(&control, unix.IPPROTO_IP, unix.IP_PKTINFO, unix.SizeofInet4Pktinfo)
		*(*unix.Inet4Pktinfo)(data) = unix.Inet4Pktinfo{Spec_dst: src.addr.As4()}
		return control
	}
	info := unix.Inet6Pktinfo{Addr: src.addr.As16()}
	if src.addr.IsLinkLocalUnicast() {
		info.Ifindex = src.ifindex
	}
	*(*unix.Inet6Pktinfo)(grow(&control, unix.IPPROTO_IPV6, unix.IPV6_PKTINFO, unix.SizeofInet6Pktinfo)) = info
	return control
}

// putSegment appends the control message that makes the kernel cut a datagram into pieces of size bytes.
func putSegment(control []byte, size int) []byte {
	*(*uint16)(grow(&control, unix.SOL_UDP, unix.UDP_SEGMENT, 2)) = uint16(size)
	return control
}

// grow appends a control message header with zeroed room for n bytes, which must be in control's capacity.
func grow(control *[]byte, level, kind int32, n int) unsafe.Pointer {
	at := len(*control)
	*control = (*control)[:at+unix.CmsgSpace(n)]
	clear((*control)[at:])
	h := (*unix.Cmsghdr)(unsafe.Pointer(&(*control)[at]))
	h.Level, h.Type = level, kind
	h.SetLen(unix.CmsgLen(n))
	return unsafe.Pointer(&(*control)[at+unix.CmsgLen(0)])
}

// parseControl returns where a datagram was sent to, and the size of the pieces it was merged from (0: not merged).
// The kernel writes control messages in any order; unknown ones are skipped.
func parseControl(control []byte) (src source, segment int) {
	for len(control) >= unix.SizeofCmsghdr {
		hdr, data, rest, err := unix.ParseOneSocketControlMessage(control)
		if err != nil {
			return src, segment
		}
		control = rest
		switch {
		case hdr.Level == unix.IPPROTO_IP && hdr.Type == unix.IP_PKTINFO && len(data) >= unix.SizeofInet4Pktinfo:
			// struct in_pktinfo: int ifindex, spec_dst (the local address), addr (the header's destination).
			src = source{ifindex: binary.NativeEndian.Uint32(data), addr: netip.AddrFrom4([4]byte(data[4:8]))}
		case hdr.Level == unix.IPPROTO_IPV6 && hdr.Type == unix.IPV6_PKTINFO && len(data) >= unix.SizeofInet6Pktinfo:
			src = source{addr: netip.AddrFrom16([16]byte(data[:16])), ifindex: binary.NativeEndian.Uint32(data[16:])}
		case hdr.Level == unix.SOL_UDP && hdr.Type == unix.UDP_GRO && len(data) >= 4:
			segment = int(int32(binary.NativeEndian.Uint32(data)))
		case hdr.Level == unix.SOL_UDP && hdr.Type == unix.UDP_GRO && len(data) >= 2:
			segment = int(binary.NativeEndian.Uint16(data))
		}
	}
	if src.addr.IsUnspecified() || src.addr.IsMulticast() {
		src = source{}
	}
	return src, max(segment, 0)
}

// scopeOf turns the zone of a link-local address into an interface index, in the namespace of the socket. Zones of
// received addresses are numbers, so that no lookup is made per datagram; names come from the configuration, and are
// looked up each time because an interface that was made again has another index.
func scopeOf(fd uintptr, zone string) (uint32, error) {
	if n, err := strconv.ParseUint(zone, 10, 32); err == nil {
		return uint32(n), nil
	}
	ifr, err := unix.NewIfreq(zone)
	if err != nil {
		return 0, err
	}
	if err := unix.IoctlIfreq(int(fd), unix.SIOCGIFINDEX, ifr); err != nil {
		return 0, err
	}
	return ifr.Uint32(), nil
}
