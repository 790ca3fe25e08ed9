package rpki

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net/netip"
)

// Versions of the protocol: RFC 6810 and RFC 8210.
const (
	version0 = 0
	version1 = 1
)

// Types of PDUs (RFC 8210 section 5).
const (
	serialNotify  = 0
	serialQuery   = 1
	resetQuery    = 2
	cacheResponse = 3
	ipv4Prefix    = 4
	ipv6Prefix    = 6
	endOfData     = 7
	cacheReset    = 8
	routerKey     = 9
	errorReport   = 10
)

// Error codes (RFC 8210 section 12).
const (
	errCorruptData        = 0
	errNoDataAvailable    = 2
	errUnsupportedVersion = 4
	errUnsupportedType    = 5
)

const (
	headerSize = 8
	// maxPDU bounds what has no size of its own: error reports and router keys.
	maxPDU = 1 << 16
)

// pdu is one message, with the fields of its type.
type pdu struct {
	version, kind uint8
	session       uint16 // session ID; of an error report its code
	serial        uint32
	// Of prefixes. A bad one is kept as such: it is one row, and its frame is sound.
	vrp      VRP
	bad      error
	announce bool
	// Of End of Data, in seconds; zero in version 0.
	refresh, retry, expire uint32
	text                   string // of an error report
}

// errMalformed says that the stream is not RTR, or no longer.
var errMalformed = errors.New("malformed RTR message")

// size returns the length of a PDU of this type, and of variable ones the least.
func size(version, kind uint8) (n int, fixed, known bool) {
	switch kind {
	case serialNotify, serialQuery:
		return 12, true, true
	case resetQuery, cacheResponse, cacheReset:
		return headerSize, true, true
	case ipv4Prefix:
		return 20, true, true
	case ipv6Prefix:
		return 32, true, true
	case endOfData:
		if version == version0 {
			return 12, true, true
		}
		return 24, true, true
	case routerKey:
		return 32, false, version != version0
	case errorReport:
		return 16, false, true
	}
	return 0, false, false
}

// readPDU reads one message. It takes no more memory than maxPDU, whatever the length says.
func readPDU(r io.Reader) (pdu, error) {
	var head [headerSize]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return pdu{}, err
	}
	p := pdu{version: head[0], kind: head[1], session: binary.BigEndian.Uint16(head[2:])}
	length := binary.BigEndian.Uint32(head[4:])
	if p.version > version1 {
		return p, fmt.Errorf("%w: version %d", errMalformed, p.version)
	}
	n, fixed, known := size(p.version, p.kind)
	switch {
	case !known:
		return p, fmt.Errorf("%w: type %d of version %d", errMalformed, p.kind, p.version)
	case length > maxPDU || int(length) < n || fixed && int(length) != n:
		return p, fmt.Errorf("%w: type %d with a length of %d", errMalformed, p.kind, length)
	}
	body := make([]byte, length-headerSize)
	if _, err := io.ReadFull(r, body); err != nil {
		if errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		return p, err
	}
	return p, p.decode(body)
}

func (p *pdu) decode(b []byte) error {
	switch p.kind {
	case serialNotify, serialQuery:
		p.serial = binary.BigEndian.Uint32(b)
	case ipv4Prefix:
		p.prefix(b, netip.AddrFrom4([4]byte(b[4:8])), binary.BigEndian.Uint32(b[8:]))
	case ipv6Prefix:
		p.prefix(b, netip.AddrFrom16([16]byte(b[4:20])), binary.BigEndian.Uint32(b[20:]))
	case endOfData:
		p.serial = binary.BigEndian.Uint32(b)
		if p.version != version0 {
			p.refresh, p.retry, p.expire = binary.BigEndian.Uint32(b[4:]), binary.BigEndian.Uint32(b[8:]), binary.BigEndian.Uint32(b[12:])
		}
	case errorReport: // the PDU that it is about, then a text
		about := uint64(binary.BigEndian.Uint32(b))
		if about+8 > uint64(len(b)) {
			return fmt.Errorf("%w: error report is cut off", errMalformed)
		}
		text := b[4+about:]
		n := uint64(binary.BigEndian.Uint32(text))
		if n+4 != uint64(len(text)) {
			return fmt.Errorf("%w: error report is cut off", errMalformed)
		}
		p.text = string(text[4:])
	}
	return nil
}

func (p *pdu) prefix(b []byte, a netip.Addr, asn uint32) {
	p.announce = b[0]&1 != 0
	prefix := netip.PrefixFrom(a, int(b[1]))
	p.vrp, p.bad = NewVRP(prefix, int(b[2]), asn)
}

// append encodes the message. Router keys, which we neither send nor use, are not encoded.
func (p *pdu) append(b []byte) []byte {
	start := len(b)
	b = append(b, p.version, p.kind)
	b = binary.BigEndian.AppendUint16(b, p.session)
	b = append(b, 0, 0, 0, 0) // length
	switch p.kind {
	case serialNotify, serialQuery:
		b = binary.BigEndian.AppendUint32(b, p.serial)
	case ipv4Prefix, ipv6Prefix:
		flags := byte(0)
		if p.announce {
			flags = 1
		}
		b = append(b, flags, byte(p.vrp.Prefix.Bits()), p.vrp.MaxLength, 0)
		b = append(b, p.vrp.Prefix.Addr().AsSlice()...)
		b = binary.BigEndian.AppendUint32(b, p.vrp.ASN)
	case endOfData:
		b = binary.BigEndian.AppendUint32(b, p.serial)
		if p.version != version0 {
			b = binary.BigEndian.AppendUint32(b, p.refresh)
			b = binary.BigEndian.AppendUint32(b, p.retry)
			b = binary.BigEndian.AppendUint32(b, p.expire)
		}
	case errorReport:
		b = append(b, 0, 0, 0, 0)
		b = binary.BigEndian.AppendUint32(b, uint32(len(p.text)))
		b = append(b, p.text...)
	}
	binary.BigEndian.PutUint32(b[start+4:], uint32(len(b)-start))
	return b
}
