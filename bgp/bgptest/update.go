package bgptest

import (
	"encoding/binary"
	"net/netip"
	"slices"
	"time"
)

// Path attribute types.
const (
	attrOrigin      = 1
	attrASPath      = 2
	attrNextHop     = 3
	attrMED         = 4
	attrLocalPref   = 5
	attrCommunities = 8
	attrReach       = 14
	attrUnreach     = 15
	attrLarge       = 32
)

// Update is an UPDATE that announces prefixes of one family.
type Update struct {
	Prefixes []netip.Prefix
	ASPath   []uint32
	// ASSet, if not empty, follows the path as an AS_SET.
	ASSet []uint32
	// NextHop is written as it is: one address, or two of 16 bytes. IPv4 prefixes with one IPv4 next hop go into the
	// old fields, everything else into MP_REACH_NLRI.
	NextHop     []netip.Addr
	Origin      byte
	MED         *uint32
	LocalPref   *uint32
	Communities []uint32
	Large       [][3]uint32
	// Extra are further attributes, encoded.
	Extra []byte
	// NoMandatory leaves ORIGIN and AS_PATH away.
	NoMandatory bool
}

// Encode returns the message.
func (u Update) Encode() []byte {
	classic := len(u.NextHop) == 1 && u.NextHop[0].Is4() && len(u.Prefixes) > 0 && u.Prefixes[0].Addr().Is4()
	var nlri []byte
	for _, p := range u.Prefixes {
		nlri = appendPrefix(nlri, p)
	}
	var attrs []byte
	if !classic {
		value := []byte{0, 1, 1}
		if len(u.Prefixes) > 0 && u.Prefixes[0].Addr().Is6() {
			value[1] = 2
		}
		var hop []byte
		for _, a := range u.NextHop {
			hop = append(hop, a.AsSlice()...)
		}
		value = append(append(append(value, byte(len(hop))), hop...), 0)
		attrs = Attr(attrs, 0x80, attrReach, append(value, nlri...))
	}
	if !u.NoMandatory {
		attrs = Attr(attrs, 0x40, attrOrigin, []byte{u.Origin})
		var path []byte
		if len(u.ASPath) > 0 {
			path = append(path, 2, byte(len(u.ASPath)))
			for _, asn := range u.ASPath {
				path = binary.BigEndian.AppendUint32(path, asn)
			}
		}
		if len(u.ASSet) > 0 {
			path = append(path, 1, byte(len(u.ASSet)))
			for _, asn := range u.ASSet {
				path = binary.BigEndian.AppendUint32(path, asn)
			}
		}
		attrs = Attr(attrs, 0x40, attrASPath, path)
	}
	if classic {
		attrs = Attr(attrs, 0x40, attrNextHop, u.NextHop[0].AsSlice())
	}
	if u.MED != nil {
		attrs = Attr(attrs, 0x80, attrMED, binary.BigEndian.AppendUint32(nil, *u.MED))
	}
	if u.LocalPref != nil {
		attrs = Attr(attrs, 0x40, attrLocalPref, binary.BigEndian.AppendUint32(nil, *u.LocalPref))
	}
	if len(u.Communities) > 0 {
		var value []byte
		for _, c := range u.Communities {
			value = binary.BigEndian.AppendUint32(value, c)
		}
		attrs = Attr(attrs, 0xc0, attrCommunities, value)
	}
	if len(u.Large) > 0 {
		var value []byte
		for _, c := range u.Large {
			for _, part := range c {
				value = binary.BigEndian.AppendUint32(value, part)
			}
		}
		attrs = Attr(attrs, 0xc0, attrLarge, value)
	}
	attrs = append(attrs, u.Extra...)
	body := append([]byte{0, 0}, binary.BigEndian.AppendUint16(nil, uint16(len(attrs)))...)
	body = append(body, attrs...)
	if classic {
		body = append(body, nlri...)
	}
	return Message(TypeUpdate, body)
}

// Attr appends one path attribute.
func Attr(b []byte, flags, typ byte, value []byte) []byte {
	if len(value) > 255 {
		b = append(b, flags|0x10, typ)
		b = binary.BigEndian.AppendUint16(b, uint16(len(value)))
	} else {
		b = append(b, flags, typ, byte(len(value)))
	}
	return append(b, value...)
}

// Withdrawal returns a message that withdraws prefixes of either family.
func Withdrawal(prefixes ...netip.Prefix) []byte {
	var v4, v6 []byte
	for _, p := range prefixes {
		if p.Addr().Is4() {
			v4 = appendPrefix(v4, p)
		} else {
			v6 = appendPrefix(v6, p)
		}
	}
	var attrs []byte
	if v6 != nil {
		attrs = Attr(nil, 0x80, attrUnreach, append([]byte{0, 2, 1}, v6...))
	}
	body := binary.BigEndian.AppendUint16(nil, uint16(len(v4)))
	body = append(body, v4...)
	body = binary.BigEndian.AppendUint16(body, uint16(len(attrs)))
	return Message(TypeUpdate, append(body, attrs...))
}

func appendPrefix(b []byte, p netip.Prefix) []byte {
	b = append(b, byte(p.Bits()))
	return append(b, p.Addr().AsSlice()[:(p.Bits()+7)/8]...)
}

// Received is a route as the other side announced it.
type Received struct {
	NextHop     []netip.Addr
	ASPath      []uint32
	Origin      byte
	MED         *uint32
	LocalPref   *uint32
	Communities []uint32
	Large       [][3]uint32
	At          time.Time
}

// take reads an UPDATE; the caller holds the mutex. What is malformed is left away: the other side is no fuzzer.
func (p *Peer) take(body []byte, at time.Time) {
	gone, rest, ok := cut16(body)
	attrs, nlri, ok2 := cut16(rest)
	if !ok || !ok2 {
		return
	}
	if len(gone)+len(attrs)+len(nlri) == 0 {
		p.eor[0] = true
	}
	for _, q := range prefixes(gone, false) {
		p.gone(q)
	}
	r := Received{At: at}
	var announced []netip.Prefix
	for len(attrs) >= 3 {
		flags, typ, value := attrs[0], attrs[1], attrs[3:]
		n := int(attrs[2])
		if flags&0x10 != 0 && len(attrs) >= 4 {
			n, value = int(binary.BigEndian.Uint16(attrs[2:])), attrs[4:]
		}
		if n > len(value) {
			return
		}
		attrs, value = value[n:], value[:n]
		switch {
		case typ == attrReach && n >= 5:
			v6, hop := value[1] == 2, value[4:]
			if int(value[3])+1 > len(hop) {
				return
			}
			hop, rest := hop[:value[3]], hop[value[3]+1:]
			r.NextHop = addresses(hop)
			announced = append(announced, prefixes(rest, v6)...)
		case typ == attrUnreach && n >= 3:
			if n == 3 {
				p.eor[value[1]-1] = true
			}
			for _, q := range prefixes(value[3:], value[1] == 2) {
				p.gone(q)
			}
		default:
			r.attribute(typ, value)
		}
	}
	for _, q := range append(announced, prefixes(nlri, false)...) {
		p.routes[q] = r
		p.prefixes++
	}
}

func (p *Peer) gone(q netip.Prefix) {
	delete(p.routes, q)
	p.withdrawn[q]++
}

func (r *Received) attribute(typ byte, value []byte) {
	n := len(value)
	switch {
	case typ == attrOrigin && n == 1:
		r.Origin = value[0]
	case typ == attrASPath:
		for len(value) >= 2 && len(value) >= 2+4*int(value[1]) {
			r.ASPath = append(r.ASPath, words(value[2:2+4*int(value[1])])...)
			value = value[2+4*int(value[1]):]
		}
	case typ == attrNextHop:
		r.NextHop = addresses(value)
	case typ == attrMED && n == 4:
		r.MED = new(binary.BigEndian.Uint32(value))
	case typ == attrLocalPref && n == 4:
		r.LocalPref = new(binary.BigEndian.Uint32(value))
	case typ == attrCommunities:
		r.Communities = words(value)
	case typ == attrLarge:
		for part := range slices.Chunk(words(value), 3) {
			r.Large = append(r.Large, [3]uint32(part))
		}
	}
}

func words(b []byte) []uint32 {
	var out []uint32
	for part := range slices.Chunk(b[:len(b)/4*4], 4) {
		out = append(out, binary.BigEndian.Uint32(part))
	}
	return out
}

func addresses(b []byte) []netip.Addr {
	size := min(len(b), 16)
	if size == 0 {
		return nil
	}
	var out []netip.Addr
	for part := range slices.Chunk(b, size) {
		if a, ok := netip.AddrFromSlice(part); ok {
			out = append(out, a)
		}
	}
	return out
}

func cut16(b []byte) (field, rest []byte, ok bool) {
	if len(b) < 2 || len(b) < 2+int(binary.BigEndian.Uint16(b)) {
		return nil, nil, false
	}
	n := 2 + int(binary.BigEndian.Uint16(b))
	return b[2:n], b[n:], true
}

func prefixes(b []byte, v6 bool) []netip.Prefix {
	var out []netip.Prefix
	for len(b) > 0 {
		bits := int(b[0])
		n := (bits + 7) / 8
		if len(b) < 1+n || n > 16 {
			return out
		}
		var raw [16]byte
		copy(raw[:], b[1:1+n])
		a := netip.AddrFrom4([4]byte(raw[:4]))
		if v6 {
			a = netip.AddrFrom16(raw)
		}
		if p := netip.PrefixFrom(a, bits); p.IsValid() {
			out = append(out, p)
		}
		b = b[1+n:]
	}
	return out
}
