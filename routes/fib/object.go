package fib

import (
	"cmp"
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"

	"golang.org/x/sys/unix"
)

// object is a nexthop object in the kernel's terms (struct nhmsg with its attributes, linux/nexthop.h): a way out, or a
// group of them. Of a group only members is set.
type object struct {
	id       uint32
	protocol uint8
	member
	// members are the ids of a group's ways, sorted: packets are spread evenly.
	members []uint32
}

// member is a way out that objects share. family is that of the object: an IPv4 route may use an IPv6 object that has a
// gateway, and a way without gateway must be of the route's own family.
type member struct {
	family uint8
	nexthop
}

// Sizes in linux/nexthop.h.
const (
	nhmsgLen   = 8
	nhGroupLen = 8
	weightOf   = 4 // offset of the weight minus one in a struct nexthop_grp
)

func (m member) String() string {
	s := fmt.Sprintf("dev #%d", m.index)
	if m.via.IsValid() {
		s = "via " + m.via.String() + " " + s
	}
	return s
}

func compareMembers(a, b member) int {
	return cmp.Or(cmp.Compare(a.family, b.family), compareHops(a.nexthop, b.nexthop))
}

// append encodes the object as a message of type RTM_NEWNEXTHOP.
func (o object) append(b []byte, flags uint16) []byte {
	b, start := begin(b, unix.RTM_NEWNEXTHOP, flags, 0)
	nhFlags := uint32(0)
	if o.onlink {
		nhFlags = unix.RTNH_F_ONLINK
	}
	family := o.family
	if o.members != nil {
		family = unix.AF_UNSPEC
	}
	b = append(b, family, 0, o.protocol, 0)
	b = binary.NativeEndian.AppendUint32(b, nhFlags)
	b = attr32(b, unix.NHA_ID, o.id)
	if o.members != nil {
		group := make([]byte, nhGroupLen*len(o.members))
		for i, id := range o.members {
			binary.NativeEndian.PutUint32(group[i*nhGroupLen:], id)
		}
		return finish(attr(b, unix.NHA_GROUP, group...), start)
	}
	b = attr32(b, unix.NHA_OIF, uint32(o.index))
	if o.via.IsValid() {
		b = attr(b, unix.NHA_GATEWAY, o.via.AsSlice()...)
	}
	return finish(b, start)
}

// appendBlackhole encodes an object that drops packets, which needs no device: to see whether there can be any.
func appendBlackhole(b []byte, id uint32, protocol uint8, flags uint16) []byte {
	b, start := begin(b, unix.RTM_NEWNEXTHOP, flags, 0)
	b = append(b, unix.AF_INET, 0, protocol, 0, 0, 0, 0, 0)
	b = attr32(b, unix.NHA_ID, id)
	return finish(attr(b, unix.NHA_BLACKHOLE), start)
}

// appendObjectDelete encodes a message of type RTM_DELNEXTHOP. Protocol and family must be 0 there. The kernel deletes the
// routes that use the object as well, without a notification.
func appendObjectDelete(b []byte, id uint32) []byte {
	b, start := begin(b, unix.RTM_DELNEXTHOP, 0, 0)
	b = append(b, make([]byte, nhmsgLen)...)
	return finish(attr32(b, unix.NHA_ID, id), start)
}

// appendObjectDump encodes the request for all objects of the namespace.
func appendObjectDump(seq uint32) []byte {
	b, start := begin(nil, unix.RTM_GETNEXTHOP, unix.NLM_F_DUMP, seq)
	return finish(append(b, make([]byte, nhmsgLen)...), start)
}

// parseObject decodes the body of a RTM_NEWNEXTHOP message.
func parseObject(body []byte) (o object, ok bool) {
	if len(body) < nhmsgLen {
		return object{}, false
	}
	o.family, o.protocol = body[0], body[2]
	o.onlink = u32(body[4:])&unix.RTNH_F_ONLINK != 0
	for typ, v := range attrs(body[nhmsgLen:]) {
		switch typ {
		case unix.NHA_ID:
			o.id = u32(v)
		case unix.NHA_OIF:
			o.index = int(u32(v))
		case unix.NHA_GATEWAY:
			o.via = addr(v)
		case unix.NHA_GROUP:
			o.members = []uint32{}
			for ; len(v) >= nhGroupLen; v = v[nhGroupLen:] {
				o.members = append(o.members, u32(v))
				if v[weightOf] != 0 {
					o.members = append(o.members, 0) // uneven: none of ours, and equal to none
				}
			}
			slices.Sort(o.members)
		}
	}
	return o, o.id != 0
}

// memberOf is the way out for a route of a prefix's family.
func memberOf(prefix netip.Prefix, n nexthop) member {
	m := member{family: unix.AF_INET, nexthop: n}
	if n.via.IsValid() && n.via.Is6() || !n.via.IsValid() && prefix.Addr().Is6() {
		m.family = unix.AF_INET6
	}
	return m
}
