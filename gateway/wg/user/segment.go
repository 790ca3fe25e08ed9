package user

import (
	"encoding/binary"
	"errors"
	"math/bits"

	"golang.org/x/sys/unix"
)

// vnetLen is the length of struct virtio_net_hdr (virtio 1.2, section 5.1.6), which precedes each frame of the TUN.
const vnetLen = 10

// maxHeaders of a frame to cut, in bytes: IPv6 with extension headers, and TCP with options. Each packet repeats them.
const maxHeaders = 512

// vnetHeader is struct virtio_net_hdr in the host's byte order, as TUN uses it by default.
type vnetHeader struct {
	flags, kind        uint8
	headers, segment   uint16 // bytes of headers; bytes of payload in each packet
	csumStart, csumOff uint16
}

func parseVnet(b []byte) vnetHeader {
	n := binary.NativeEndian
	return vnetHeader{b[0], b[1], n.Uint16(b[2:]), n.Uint16(b[4:]), n.Uint16(b[6:]), n.Uint16(b[8:])}
}

// errFrame says that a frame contradicts its own header.
var errFrame = errors.New("malformed frame from the TUN")

// segmenter cuts one frame, which the kernel left for us to segment, into the packets that go on the wire. It keeps its
// place, so that a frame can be spread over several batches. The zero value is empty.
type segmenter struct {
	frame   []byte // the frame without its virtio header; its checksum fields are zeroed
	kind    uint8
	ip      int // length of the IP headers
	headers int // length of all headers
	segment int // payload bytes of each packet
	csum    int // offset of the transport checksum
	next    int // offset of the next payload byte
	index   int // number of the next packet
}

// start takes a frame, which must stay unchanged until the segmenter is empty.
func (s *segmenter) start(h vnetHeader, frame []byte) error {
	*s = segmenter{}
	if len(frame) == 0 {
		return errFrame
	}
	if h.kind == unix.VIRTIO_NET_HDR_GSO_NONE {
		if h.flags&unix.VIRTIO_NET_HDR_F_NEEDS_CSUM != 0 {
			at := int(h.csumStart) + int(h.csumOff)
			if at+2 > len(frame) || int(h.csumStart) > len(frame) {
				return errFrame
			}
			// The field holds the sum of the pseudo header, so it is simply a part of what is summed.
			binary.BigEndian.PutUint16(frame[at:], ^fold(sum(frame[h.csumStart:], 0)))
		}
		*s = segmenter{frame: frame, headers: len(frame)}
		return nil
	}
	seg := segmenter{
		frame: frame, kind: h.kind, ip: int(h.csumStart), segment: int(h.segment), csum: int(h.csumStart) + int(h.csumOff),
	}
	version, least := frame[0]>>4, 20
	if version == 6 {
		least = 40
	}
	switch {
	case version != 4 && version != 6, seg.ip < least, seg.ip+20 > len(frame) && h.kind != unix.VIRTIO_NET_HDR_GSO_UDP_L4,
		seg.ip+8 > len(frame), seg.segment == 0:
		return errFrame
	case h.kind == unix.VIRTIO_NET_HDR_GSO_TCPV4 && version == 4, h.kind == unix.VIRTIO_NET_HDR_GSO_TCPV6 && version == 6:
		// The header length in h can be wrong on a forwarded frame; the TCP header (RFC 9293 section 3.1) has its own.
		tcp := int(frame[seg.ip+12]>>4) * 4
		if tcp < 20 || h.csumOff != 16 {
			return errFrame
		}
		seg.headers = seg.ip + tcp
	case h.kind == unix.VIRTIO_NET_HDR_GSO_UDP_L4:
		if h.csumOff != 6 {
			return errFrame
		}
		seg.headers = seg.ip + 8
	default:
		return errFrame
	}
	if seg.headers >= len(frame) || seg.headers > maxHeaders {
		return errFrame
	}
	seg.next = seg.headers
	binary.BigEndian.PutUint16(frame[seg.csum:], 0)
	if version == 4 {
		binary.BigEndian.PutUint16(frame[10:], 0)
	}
	*s = seg
	return nil
}

// empty reports whether every packet was handed out.
func (s *segmenter) empty() bool { return s.frame == nil }

// emit writes the next packet to out and returns its length, 0 if it does not fit, which drops it.
func (s *segmenter) emit(out []byte) int {
	if s.segment == 0 { // a whole packet
		frame := s.frame
		s.frame = nil
		if len(frame) > len(out) {
			return 0
		}
		return copy(out, frame)
	}
	payload := s.frame[s.next:min(s.next+s.segment, len(s.frame))]
	last := s.next+len(payload) == len(s.frame)
	index := s.index
	s.next += len(payload)
	s.index++
	length := s.headers + len(payload)
	if length <= len(out) {
		out = out[:length]
		copy(out, s.frame[:s.headers])
		copy(out[s.headers:], payload)
		s.finish(out, index, last)
	} else {
		length = 0
	}
	if last {
		s.frame = nil
	}
	return length
}

// finish sets the fields that differ from packet to packet.
func (s *segmenter) finish(p []byte, index int, last bool) {
	be := binary.BigEndian
	addrs, proto := p[8:40], uint64(unix.IPPROTO_UDP)
	if p[0]>>4 == 4 {
		addrs = p[12:20]
		be.PutUint16(p[2:], uint16(len(p)))
		be.PutUint16(p[4:], be.Uint16(p[4:])+uint16(index))
		be.PutUint16(p[10:], ^fold(sum(p[:s.ip], 0)))
	} else {
		be.PutUint16(p[4:], uint16(len(p)-40))
	}
	transport := p[s.ip:]
	if s.kind == unix.VIRTIO_NET_HDR_GSO_UDP_L4 {
		be.PutUint16(transport[4:], uint16(len(transport)))
	} else {
		const fin, psh, cwr, flags = 0x01, 0x08, 0x80, 13
		proto = unix.IPPROTO_TCP
		be.PutUint32(transport[4:], be.Uint32(transport[4:])+uint32(index)*uint32(s.segment))
		if !last {
			transport[flags] &^= fin | psh
		}
		if index > 0 {
			transport[flags] &^= cwr // RFC 3168 section 6.1.2: on the first packet only
		}
	}
	check := ^fold(sum(transport, sum(addrs, proto+uint64(len(transport)))))
	if check == 0 && proto == unix.IPPROTO_UDP {
		check = 0xffff // RFC 768: zero means no checksum
	}
	be.PutUint16(p[s.csum:], check)
}

// sum adds b to a ones' complement sum (RFC 1071) kept in 64 bits.
func sum(b []byte, acc uint64) uint64 {
	be := binary.BigEndian
	var c uint64
	for len(b) >= 32 {
		acc, c = bits.Add64(acc, be.Uint64(b), 0)
		acc, c = bits.Add64(acc, be.Uint64(b[8:]), c)
		acc, c = bits.Add64(acc, be.Uint64(b[16:]), c)
		acc, c = bits.Add64(acc, be.Uint64(b[24:]), c)
		acc, c = bits.Add64(acc, 0, c)
		acc += c
		b = b[32:]
	}
	for len(b) >= 8 {
		acc, c = bits.Add64(acc, be.Uint64(b), 0)
		acc += c
		b = b[8:]
	}
	if len(b) > 0 {
		var tail [8]byte
		copy(tail[:], b)
		acc, c = bits.Add64(acc, be.Uint64(tail[:]), 0)
		acc += c
	}
	return acc
}

// fold reduces a sum to 16 bits.
func fold(acc uint64) uint16 {
	acc = acc>>32 + acc&0xffffffff
	acc = acc>>32 + acc&0xffffffff
	acc = acc>>16 + acc&0xffff
	acc = acc>>16 + acc&0xffff
	acc = acc>>16 + acc&0xffff
	return uint16(acc)
}
