package user

import (
	"bytes"
	"encoding/binary"
	"sync"
	"unsafe"

	"golang.org/x/sys/unix"
)

// maxFrame of IP, in bytes.
const maxFrame = 1<<16 - 1

// maxMerge is how many packets one frame is made of at most: UDP_MAX_SEGMENTS before Linux 6.9.
const maxMerge = 64

// merger joins packets that follow each other in a flow into frames that the kernel takes in one piece, as its own receive offload does:
// the opposite of segmenter. Packets are not copied: a frame is a list of places. The order within a flow is kept; packets of different
// flows may pass each other.
type merger struct {
	udp    bool // the kernel takes merged UDP
	groups []group
	next   []int // by packet: the next one of its group
	bufs   [][]byte
	offset int
	open   int // groups before this one get no more packets
	iovs   [maxMerge]unix.Iovec
}

// group is a frame in the making.
type group struct {
	flow           packet // of the first packet
	first, last, n int    // packets
	segment        int    // payload bytes of each packet; the last may have less
	total          int    // bytes of the frame
	checked        bool   // the checksums of the first packet are right
	closed         bool
	push           bool
}

// packet is what merging has to know of one.
type packet struct {
	data    []byte
	proto   uint8 // TCP or UDP
	ip      int   // bytes of the IP header
	headers int   // bytes of all headers
	mergeAs uint8 // VIRTIO_NET_HDR_GSO_*; 0: goes by itself
}

var mergers = sync.Pool{New: func() any { return &merger{} }}

// parse reads the headers of a packet; false if it belongs to no flow that is known here.
func parse(data []byte, udp bool) (p packet, ok bool) {
	be := binary.BigEndian
	switch {
	case len(data) >= 20 && data[0] == 0x45: // no options
		const fragment = 0x3fff // more fragments, and the offset
		p = packet{data: data, proto: data[9], ip: 20}
		if int(be.Uint16(data[2:])) != len(data) || be.Uint16(data[6:])&fragment != 0 {
			return p, false
		}
	case len(data) >= 40 && data[0]>>4 == 6:
		p = packet{data: data, proto: data[6], ip: 40}
		if int(be.Uint16(data[4:])) != len(data)-40 {
			return p, false
		}
	default:
		return p, false
	}
	transport := data[p.ip:]
	switch {
	case p.proto == unix.IPPROTO_TCP && len(transport) >= 20:
		const ack, psh = 0x10, 0x08
		p.headers = p.ip + int(transport[12]>>4)*4
		if p.headers < p.ip+20 || p.headers > len(data) {
			return p, false
		}
		if transport[13]&^psh == ack && p.headers < len(data) {
			p.mergeAs = unix.VIRTIO_NET_HDR_GSO_TCPV4
			if p.ip == 40 {
				p.mergeAs = unix.VIRTIO_NET_HDR_GSO_TCPV6
			}
		}
	case p.proto == unix.IPPROTO_UDP && len(transport) >= 8:
		p.headers = p.ip + 8
		if udp && int(be.Uint16(transport[4:])) == len(transport) && len(transport) > 8 && be.Uint16(transport[6:]) != 0 {
			p.mergeAs = unix.VIRTIO_NET_HDR_GSO_UDP_L4
		}
	default:
		return p, false
	}
	return p, true
}

func (p *packet) transport() []byte { return p.data[p.ip:] }

func (p *packet) payload() int { return len(p.data) - p.headers }

func (p *packet) push() bool { return p.proto == unix.IPPROTO_TCP && p.data[p.ip+13]&0x08 != 0 }

// pseudo is the sum of the pseudo header of a transport that is n bytes long (RFC 9293 section 3.1, RFC 8200 section 8.1).
func (p *packet) pseudo(n int) uint64 {
	addrs := p.data[12:20]
	if p.ip == 40 {
		addrs = p.data[8:40]
	}
	return sum(addrs, uint64(p.proto)+uint64(n))
}

// intact reports whether all checksums of the packet are right. Once merged nobody can tell any more.
func (p *packet) intact() bool {
	if p.ip == 20 && fold(sum(p.data[:20], 0)) != 0xffff {
		return false
	}
	t := p.transport()
	return fold(sum(t, p.pseudo(len(t)))) == 0xffff
}

// sameFlow reports whether both have the same addresses, protocol and ports.
func (p *packet) sameFlow(q *packet) bool {
	if p.ip != q.ip || p.proto != q.proto || *(*[4]byte)(p.transport()) != *(*[4]byte)(q.transport()) {
		return false
	}
	if p.ip == 20 {
		return *(*[8]byte)(p.data[12:]) == *(*[8]byte)(q.data[12:])
	}
	return *(*[32]byte)(p.data[8:]) == *(*[32]byte)(q.data[8:])
}

// follows reports whether p is what segmenting the group with one more packet would give as its last.
func (g *group) follows(p *packet) bool {
	be, first := binary.BigEndian, &g.flow
	if g.closed || p.mergeAs != first.mergeAs || p.headers != first.headers || p.payload() > g.segment ||
		g.total+p.payload() > maxFrame || g.n == maxMerge {
		return false
	}
	a, b := first.data, p.data
	if p.ip == 20 {
		const dontFragment = 0x40
		// The identification of what must not be fragmented means nothing (RFC 6864 section 4.1).
		if a[1] != b[1] || a[6] != b[6] || a[8] != b[8] || a[6]&dontFragment == 0 && be.Uint16(b[4:]) != be.Uint16(a[4:])+uint16(g.n) {
			return false
		}
	} else if *(*[4]byte)(a) != *(*[4]byte)(b) || a[7] != b[7] {
		return false
	}
	if p.proto == unix.IPPROTO_UDP {
		return true
	}
	a, b = a[p.ip:p.headers], b[p.ip:p.headers]
	return be.Uint32(b[4:]) == be.Uint32(a[4:])+uint32(g.n*g.segment) &&
		bytes.Equal(a[8:13], b[8:13]) && bytes.Equal(a[14:16], b[14:16]) && bytes.Equal(a[18:], b[18:])
}

// start forms the groups of a batch. Each packet has room for a virtio header before it.
func (m *merger) start(bufs [][]byte, offset int, udp bool) {
	m.bufs, m.offset, m.udp, m.open = bufs, offset, udp, 0
	m.groups, m.next = m.groups[:0], m.next[:0]
	for i := range bufs {
		m.next = append(m.next, -1)
		m.add(i, bufs[i][offset:])
	}
}

func (m *merger) add(i int, data []byte) {
	p, ok := parse(data, m.udp)
	for k := len(m.groups) - 1; ok && k >= m.open; k-- {
		g := &m.groups[k]
		if !g.flow.sameFlow(&p) {
			continue
		}
		if p.mergeAs == 0 || !g.follows(&p) || !p.intact() || !g.checked && !g.flow.intact() {
			break // and nothing of this flow goes before it
		}
		m.next[g.last] = i
		g.last, g.n, g.checked = i, g.n+1, true
		g.total += p.payload()
		g.push = p.push()
		g.closed = g.push || p.payload() < g.segment
		return
	}
	m.groups = append(m.groups, group{
		flow: p, first: i, last: i, n: 1, segment: p.payload(), total: len(data), closed: p.mergeAs == 0 || p.push(),
	})
	if !ok { // such as a fragment: it may belong to any flow before it
		m.open = len(m.groups)
	}
}

// frame describes one group to the kernel: a virtio header, the headers, and the payloads.
func (m *merger) frame(g *group) []unix.Iovec {
	buf := m.bufs[g.first]
	head := buf[m.offset-vnetLen:]
	clear(head[:vnetLen])
	if g.n > 1 {
		g.finish(head)
	}
	m.iovs[0].Base = unsafe.SliceData(head)
	m.iovs[0].SetLen(len(head))
	n := 1
	for i := m.next[g.first]; i >= 0; i = m.next[i] {
		payload := m.bufs[i][m.offset+g.flow.headers:]
		m.iovs[n].Base = unsafe.SliceData(payload)
		m.iovs[n].SetLen(len(payload))
		n++
	}
	return m.iovs[:n]
}

// finish makes the headers of the first packet those of the frame.
func (g *group) finish(head []byte) {
	p, transport := &g.flow, g.total-g.flow.ip
	be, n := binary.BigEndian, binary.NativeEndian
	csum := 16
	if p.proto == unix.IPPROTO_UDP {
		csum = 6
	}
	head[0], head[1] = unix.VIRTIO_NET_HDR_F_NEEDS_CSUM, p.mergeAs
	n.PutUint16(head[2:], uint16(p.headers))
	n.PutUint16(head[4:], uint16(g.segment))
	n.PutUint16(head[6:], uint16(p.ip))
	n.PutUint16(head[8:], uint16(csum))
	ip := p.data
	if p.ip == 20 {
		be.PutUint16(ip[2:], uint16(g.total))
		be.PutUint16(ip[10:], 0)
		be.PutUint16(ip[10:], ^fold(sum(ip[:20], 0)))
	} else {
		be.PutUint16(ip[4:], uint16(transport))
	}
	t := p.transport()
	if p.proto == unix.IPPROTO_UDP {
		be.PutUint16(t[4:], uint16(transport))
	} else if g.push {
		t[13] |= 0x08
	}
	be.PutUint16(t[csum:], fold(p.pseudo(transport))) // the kernel adds the rest
}

// release forgets the batch.
func (m *merger) release() {
	clear(m.groups)
	clear(m.iovs[:])
	m.bufs = nil
	mergers.Put(m)
}
