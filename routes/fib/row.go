package fib

import (
	"cmp"
	"encoding/binary"
	"net/netip"
	"slices"

	"golang.org/x/sys/unix"
)

// row is a route in the kernel's terms. The zero value of a field matches anything when a row is deleted.
type row struct {
	dst      netip.Prefix
	table    uint32
	protocol uint8
	scope    uint8
	kind     uint8 // RTN_*
	tos      uint8
	metric   uint32
	src      netip.Addr
	hops     []nexthop
	// group is the id of a nexthop object that the row uses. Then hops are only what it leads to.
	group uint32
	// cloned rows are the kernel's cache, not the table.
	cloned bool
}

// nexthop is a way out. An IPv4 row may have an IPv6 via (RFC 8950).
type nexthop struct {
	index  int // of the device
	via    netip.Addr
	onlink bool // the kernel shall not check that via is on a connected network
}

func compareHops(a, b nexthop) int {
	return cmp.Or(cmp.Compare(a.index, b.index), a.via.Compare(b.via))
}

// sameHop ignores onlink: it is about writing, the packets go the same way.
func sameHop(a, b nexthop) bool { return compareHops(a, b) == 0 }

// anyScope in a deletion matches every scope.
const anyScope = unix.RT_SCOPE_NOWHERE

// devOnly stands for "no gateway" in a multipath row of IPv6: the kernel refuses a nexthop without one there ("Device only routes can not be
// added for IPv6 using the multipath API"). On a device without neighbour discovery, which every tunnel is, the gateway is not used for
// anything: WireGuard picks the peer by the packet's destination. The last eight bytes read "sitewire".
var devOnly = netip.AddrFrom16([16]byte{0xfe, 0x80, 8: 's', 'i', 't', 'e', 'w', 'i', 'r', 'e'})

// append encodes the row as a message of type RTM_NEWROUTE or RTM_DELROUTE.
func (r row) append(b []byte, typ, flags uint16, seq uint32) []byte {
	b, start := begin(b, typ, flags, seq)
	family, table := byte(unix.AF_INET), byte(unix.RT_TABLE_COMPAT)
	if r.dst.Addr().Is6() {
		family = unix.AF_INET6
	}
	if r.table < 256 {
		table = byte(r.table)
	}
	rtmFlags := uint32(0)
	if r.group == 0 && len(r.hops) == 1 && r.hops[0].onlink {
		rtmFlags = unix.RTNH_F_ONLINK
	}
	b = append(b, family, byte(r.dst.Bits()), 0, r.tos, table, r.protocol, r.scope, r.kind)
	b = binary.NativeEndian.AppendUint32(b, rtmFlags)
	b = attr(b, unix.RTA_DST, r.dst.Addr().AsSlice()...)
	b = attr32(b, unix.RTA_TABLE, r.table)
	if r.metric != 0 {
		b = attr32(b, unix.RTA_PRIORITY, r.metric)
	}
	if r.src.IsValid() {
		b = attr(b, unix.RTA_PREFSRC, r.src.AsSlice()...)
	}
	switch n := len(r.hops); {
	case r.group != 0:
		b = attr32(b, rtaNexthopID, r.group)
	case n == 0:
	case n == 1:
		if r.hops[0].index != 0 {
			b = attr32(b, unix.RTA_OIF, uint32(r.hops[0].index))
		}
		b = appendVia(b, r.dst, r.hops[0].via)
	default:
		b = r.appendMultipath(b)
	}
	return finish(b, start)
}

func (r row) appendMultipath(b []byte) []byte {
	b, nest := beginNested(b, unix.RTA_MULTIPATH)
	for _, h := range r.hops {
		start := len(b) // a struct rtnexthop: length, flags, weight-1, device
		flags := byte(0)
		if h.onlink {
			flags = unix.RTNH_F_ONLINK
		}
		b = append(b, 0, 0, flags, 0)
		b = binary.NativeEndian.AppendUint32(b, uint32(h.index))
		b = appendVia(b, r.dst, h.via)
		binary.NativeEndian.PutUint16(b[start:], uint16(len(b)-start))
	}
	return endNested(b, nest)
}

// appendVia encodes a gateway: RTA_GATEWAY in the row's own family, RTA_VIA in the other.
func appendVia(b []byte, dst netip.Prefix, via netip.Addr) []byte {
	switch {
	case !via.IsValid():
		return b
	case via.Is6() && dst.Addr().Is4():
		v := binary.NativeEndian.AppendUint16(make([]byte, 0, 18), unix.AF_INET6)
		return attr(b, unix.RTA_VIA, append(v, via.AsSlice()...)...)
	}
	return attr(b, unix.RTA_GATEWAY, via.AsSlice()...)
}

// rtaNexthopID is RTA_NH_ID, which x/sys lacks.
const rtaNexthopID = 30

// parseRow decodes the body of a RTM_NEWROUTE or RTM_DELROUTE message. ok is false for what is no IPv4 or IPv6 route.
func parseRow(body []byte) (r row, ok bool) {
	if len(body) < unix.SizeofRtMsg {
		return row{}, false
	}
	zero := netip.IPv4Unspecified()
	switch body[0] {
	case unix.AF_INET:
	case unix.AF_INET6:
		zero = netip.IPv6Unspecified()
	default:
		return row{}, false
	}
	flags := u32(body[8:])
	r = row{
		tos: body[3], table: uint32(body[4]), protocol: body[5], scope: body[6], kind: body[7],
		cloned: flags&unix.RTM_F_CLONED != 0,
	}
	dst := zero
	single := nexthop{onlink: flags&unix.RTNH_F_ONLINK != 0}
	for typ, v := range attrs(body[unix.SizeofRtMsg:]) {
		switch typ {
		case unix.RTA_DST:
			dst = addr(v)
		case unix.RTA_TABLE:
			r.table = u32(v)
		case unix.RTA_PRIORITY:
			r.metric = u32(v)
		case unix.RTA_PREFSRC:
			r.src = addr(v)
		case unix.RTA_OIF:
			single.index = int(u32(v))
		case unix.RTA_GATEWAY:
			single.via = addr(v)
		case unix.RTA_VIA:
			single.via = parseVia(v)
		case rtaNexthopID:
			r.group = u32(v)
		case unix.RTA_MULTIPATH:
			r.hops = parseMultipath(v)
		}
	}
	r.dst = netip.PrefixFrom(dst, int(body[1]))
	if r.kind != unix.RTN_UNICAST {
		r.hops = nil // IPv6 gives unreachable routes the device lo
	} else if len(r.hops) == 0 {
		r.hops = []nexthop{single}
	}
	return r, r.dst.IsValid()
}

func parseMultipath(v []byte) (hops []nexthop) {
	for len(v) >= unix.SizeofRtNexthop {
		n := int(binary.NativeEndian.Uint16(v))
		if n < unix.SizeofRtNexthop || n > len(v) {
			break
		}
		h := nexthop{index: int(u32(v[4:])), onlink: v[2]&unix.RTNH_F_ONLINK != 0}
		for typ, a := range attrs(v[unix.SizeofRtNexthop:n]) {
			switch typ {
			case unix.RTA_GATEWAY:
				h.via = addr(a)
			case unix.RTA_VIA:
				h.via = parseVia(a)
			}
		}
		hops = append(hops, h)
		v = v[min(align(n), len(v)):]
	}
	return hops
}

func parseVia(v []byte) netip.Addr {
	if len(v) < 2 {
		return netip.Addr{}
	}
	return addr(v[2:])
}

// normalHops sorts the hops, drops duplicates and turns devOnly back into what it stands for.
func normalHops(hops []nexthop) []nexthop {
	for i := range hops {
		if hops[i].via == devOnly {
			hops[i].via = netip.Addr{}
		}
	}
	if len(hops) > 1 {
		slices.SortFunc(hops, compareHops)
		hops = slices.CompactFunc(hops, sameHop)
	}
	return hops
}

// appendRouteDump encodes the request for all routes of a family in a table, with one protocol number unless protocol is 0.
func appendRouteDump(b []byte, family uint8, table uint32, protocol uint8, seq uint32) []byte {
	b, start := begin(b, unix.RTM_GETROUTE, unix.NLM_F_DUMP, seq)
	b = append(b, family, 0, 0, 0, 0, protocol, 0, 0, 0, 0, 0, 0)
	b = attr32(b, unix.RTA_TABLE, table)
	return finish(b, start)
}
