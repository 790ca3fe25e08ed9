package fib

import (
	"encoding/binary"
	"iter"
	"net/netip"
	"strings"

	"golang.org/x/sys/unix"
)

// The layout of netlink messages: everything in host order, everything aligned to four bytes.

// header is a struct nlmsghdr.
type header struct {
	typ, flags uint16
	seq, port  uint32
}

const (
	headerLen = unix.SizeofNlMsghdr
	attrLen   = unix.SizeofRtAttr
)

func align(n int) int { return (n + 3) &^ 3 }

// begin appends a message header; finish must follow when the body is complete.
func begin(b []byte, typ, flags uint16, seq uint32) (_ []byte, start int) {
	start = len(b)
	b = append(b, make([]byte, headerLen)...)
	binary.NativeEndian.PutUint16(b[start+4:], typ)
	binary.NativeEndian.PutUint16(b[start+6:], flags|unix.NLM_F_REQUEST)
	binary.NativeEndian.PutUint32(b[start+8:], seq)
	return b, start
}

func finish(b []byte, start int) []byte {
	binary.NativeEndian.PutUint32(b[start:], uint32(len(b)-start))
	return b
}

// addFlags sets flags of the complete message at start.
func addFlags(b []byte, start int, flags uint16) {
	f := binary.NativeEndian.Uint16(b[start+6:])
	binary.NativeEndian.PutUint16(b[start+6:], f|flags)
}

// setSeq numbers the complete message at start.
func setSeq(b []byte, start int, seq uint32) { binary.NativeEndian.PutUint32(b[start+8:], seq) }

// attr appends a struct rtattr with its value.
func attr(b []byte, typ uint16, value ...byte) []byte {
	b = binary.NativeEndian.AppendUint16(b, uint16(attrLen+len(value)))
	b = binary.NativeEndian.AppendUint16(b, typ)
	b = append(b, value...)
	for len(b)%4 != 0 {
		b = append(b, 0)
	}
	return b
}

func attr32(b []byte, typ uint16, value uint32) []byte {
	var v [4]byte
	binary.NativeEndian.PutUint32(v[:], value)
	return attr(b, typ, v[:]...)
}

// beginNested appends an attribute whose value follows; endNested closes it.
func beginNested(b []byte, typ uint16) (_ []byte, start int) { return attr(b, typ), len(b) }

func endNested(b []byte, start int) []byte {
	binary.NativeEndian.PutUint16(b[start:], uint16(len(b)-start))
	return b
}

// messages walks the messages of a datagram. A malformed rest ends the walk: the kernel does not make any.
func messages(b []byte) iter.Seq2[header, []byte] {
	return func(yield func(header, []byte) bool) {
		for len(b) >= headerLen {
			n := int(binary.NativeEndian.Uint32(b))
			if n < headerLen || n > len(b) {
				return
			}
			h := header{
				typ: binary.NativeEndian.Uint16(b[4:]), flags: binary.NativeEndian.Uint16(b[6:]),
				seq: binary.NativeEndian.Uint32(b[8:]), port: binary.NativeEndian.Uint32(b[12:]),
			}
			if !yield(h, b[headerLen:n]) {
				return
			}
			b = b[min(align(n), len(b)):]
		}
	}
}

// attrs walks attributes. The flags in the upper bits of the type (nested, network order) are left out.
func attrs(b []byte) iter.Seq2[uint16, []byte] {
	return func(yield func(uint16, []byte) bool) {
		for len(b) >= attrLen {
			n := int(binary.NativeEndian.Uint16(b))
			if n < attrLen || n > len(b) {
				return
			}
			if !yield(binary.NativeEndian.Uint16(b[2:])&0x3fff, b[attrLen:n]) {
				return
			}
			b = b[min(align(n), len(b)):]
		}
	}
}

// answer is the error of an NLMSG_ERROR or NLMSG_DONE message; nil for an acknowledgement.
func answer(h header, body []byte) error {
	if len(body) < 4 {
		return &Error{Errno: unix.EBADMSG}
	}
	code := int32(binary.NativeEndian.Uint32(body))
	if code == 0 || h.typ == unix.NLMSG_DONE && code > 0 {
		return nil
	}
	e := &Error{Errno: unix.Errno(-code)}
	if h.flags&unix.NLM_F_ACK_TLVS == 0 {
		return e
	}
	rest := body[4:]
	if h.typ == unix.NLMSG_ERROR {
		// The request follows: its header only, if capped.
		n := headerLen
		if h.flags&unix.NLM_F_CAPPED == 0 && len(rest) >= headerLen {
			n = align(int(binary.NativeEndian.Uint32(rest)))
		}
		rest = rest[min(n, len(rest)):]
	}
	for typ, v := range attrs(rest) {
		if typ == unix.NLMSGERR_ATTR_MSG {
			e.Text = strings.TrimSuffix(strings.TrimRight(string(v), "\x00"), ".")
		}
	}
	return e
}

// addr reads an address of 4 or 16 bytes; anything else gives the zero Addr.
func addr(v []byte) netip.Addr {
	a, _ := netip.AddrFromSlice(v)
	return a
}

func u32(v []byte) uint32 {
	if len(v) < 4 {
		return 0
	}
	return binary.NativeEndian.Uint32(v)
}
