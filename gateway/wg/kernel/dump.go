package kernel

import (
	"bytes"
	"encoding/binary"
	"errors"
	"net/netip"
	"time"

	"golang.org/x/sys/unix"

	"sitewire/gateway/wg"
)

// errMalformed says that an answer is not one of the wireguard family. It is not quoted: it may hold a key.
var errMalformed = errors.New("malformed answer of the kernel's wireguard family")

// attrs walks over the attributes of a message without copying them.
type attrs struct {
	rest []byte
	typ  uint16
	val  []byte
	bad  bool
}

// next moves to the next attribute. At the end, and at what is no attribute, it returns false; the latter sets bad.
func (a *attrs) next() bool {
	if len(a.rest) == 0 {
		return false
	}
	if len(a.rest) < attrLen {
		a.bad = true
		return false
	}
	n := int(binary.NativeEndian.Uint16(a.rest))
	if n < attrLen || n > len(a.rest) {
		a.bad = true
		return false
	}
	a.typ = binary.NativeEndian.Uint16(a.rest[2:]) & typeMask
	a.val = a.rest[attrLen:n]
	a.rest = a.rest[min(align(n), len(a.rest)):]
	return true
}

// state is a device as a dump describes it.
type state struct {
	public wg.PublicKey // zero: the device has no key
	port   uint16
	mark   uint32
	peers  []wg.PeerStats
	// scopes are the interface indexes of endpoints that have one, by position in peers. The zone's name is not in the dump.
	scopes map[int]uint32
	// allowed is read only if wantAllowed is set.
	allowed     []wg.AllowedIP
	wantAllowed bool
	// parked are throw-away peers that an interrupted removal left. They are in no other field.
	parked []wg.PublicKey

	last    wg.PublicKey // of the message before, which the next may continue
	started bool
}

// reset forgets everything and keeps the room.
func (s *state) reset(wantAllowed bool) {
	*s = state{peers: s.peers[:0], allowed: s.allowed[:0], wantAllowed: wantAllowed}
}

// add takes in one message of the dump (genlmsghdr and attributes), and overwrites the secrets in it.
func (s *state) add(b []byte) error {
	if len(b) < genlHeaderLen {
		return errMalformed
	}
	a := attrs{rest: b[genlHeaderLen:]}
	for a.next() {
		switch {
		case a.typ == devicePrivateKey:
			clear(a.val)
		case a.typ == devicePublicKey && len(a.val) == wg.KeySize:
			s.public = wg.PublicKey(a.val)
		case a.typ == devicePort && len(a.val) == 2:
			s.port = binary.NativeEndian.Uint16(a.val)
		case a.typ == deviceMark && len(a.val) == 4:
			s.mark = binary.NativeEndian.Uint32(a.val)
		case a.typ == devicePeers:
			list := attrs{rest: a.val}
			for list.next() {
				if err := s.addPeer(list.val); err != nil {
					return err
				}
			}
			if list.bad {
				return errMalformed
			}
		case a.typ == devicePublicKey, a.typ == devicePort, a.typ == deviceMark:
			return errMalformed
		}
	}
	if a.bad {
		return errMalformed
	}
	return nil
}

// addPeer takes in one peer. One that does not fit into a message is continued in the next, with nothing but its key and more allowed-IPs.
func (s *state) addPeer(b []byte) error {
	var (
		p       wg.PeerStats
		scope   uint32
		allowed []byte
		keyed   bool
	)
	a := attrs{rest: b}
	for a.next() {
		ok := true
		switch a.typ {
		case peerPublicKey:
			if ok = len(a.val) == wg.KeySize; ok {
				p.PublicKey, keyed = wg.PublicKey(a.val), true
			}
		case peerPresharedKey:
			clear(a.val)
		case peerEndpoint:
			p.Endpoint, scope, ok = parseSockaddr(a.val)
		case peerHandshake:
			p.LastHandshake, ok = parseTime(a.val)
		case peerReceived:
			p.ReceiveBytes, ok = parseUint64(a.val)
		case peerSent:
			p.TransmitBytes, ok = parseUint64(a.val)
		case peerAllowedIPs:
			allowed = a.val
		}
		if !ok {
			return errMalformed
		}
	}
	if a.bad || !keyed {
		return errMalformed
	}
	continued := s.started && s.last == p.PublicKey
	s.last, s.started = p.PublicKey, true
	if parking(p.PublicKey) {
		if !continued {
			s.parked = append(s.parked, p.PublicKey)
		}
		return nil
	}
	if !continued {
		if scope != 0 {
			if s.scopes == nil {
				s.scopes = map[int]uint32{}
			}
			s.scopes[len(s.peers)] = scope
		}
		s.peers = append(s.peers, p)
	}
	if !s.wantAllowed {
		return nil
	}
	list := attrs{rest: allowed}
	for list.next() {
		prefix, ok := parseAllowed(list.val)
		if !ok {
			return errMalformed
		}
		s.allowed = append(s.allowed, wg.AllowedIP{Prefix: prefix, Peer: p.PublicKey})
	}
	if list.bad {
		return errMalformed
	}
	return nil
}

func parseAllowed(b []byte) (p netip.Prefix, ok bool) {
	var (
		addr   netip.Addr
		family uint16
		bits   = -1
	)
	a := attrs{rest: b}
	for a.next() {
		switch a.typ {
		case allowedFamily:
			if len(a.val) != 2 {
				return p, false
			}
			family = binary.NativeEndian.Uint16(a.val)
		case allowedAddr:
			addr, _ = netip.AddrFromSlice(a.val)
		case allowedBits:
			if len(a.val) != 1 {
				return p, false
			}
			bits = int(a.val[0])
		}
	}
	if a.bad || family == unix.AF_INET && !addr.Is4() || family == unix.AF_INET6 && !addr.Is6() || family != unix.AF_INET && family != unix.AF_INET6 {
		return p, false
	}
	p = netip.PrefixFrom(addr, bits)
	return p, p.IsValid()
}

// parseSockaddr reads an endpoint and the interface index that its zone is.
func parseSockaddr(b []byte) (a netip.AddrPort, scope uint32, ok bool) {
	if len(b) < 2 {
		return a, 0, false
	}
	switch family := binary.NativeEndian.Uint16(b); {
	case family == unix.AF_INET && len(b) >= unix.SizeofSockaddrInet4:
		return netip.AddrPortFrom(netip.AddrFrom4([4]byte(b[4:8])), binary.BigEndian.Uint16(b[2:])), 0, true
	case family == unix.AF_INET6 && len(b) >= unix.SizeofSockaddrInet6:
		return netip.AddrPortFrom(netip.AddrFrom16([16]byte(b[8:24])), binary.BigEndian.Uint16(b[2:])), binary.NativeEndian.Uint32(b[24:]), true
	}
	return a, 0, false
}

// parseTime reads a struct __kernel_timespec; all zero is never.
func parseTime(b []byte) (t time.Time, ok bool) {
	if len(b) != 16 {
		return t, false
	}
	sec, nsec := int64(binary.NativeEndian.Uint64(b)), int64(binary.NativeEndian.Uint64(b[8:]))
	if sec == 0 && nsec == 0 {
		return t, true
	}
	return time.Unix(sec, nsec), true
}

func parseUint64(b []byte) (uint64, bool) {
	if len(b) != 8 {
		return 0, false
	}
	return binary.NativeEndian.Uint64(b), true
}

// parkingMark begins the key of every throw-away peer. Nobody has the private key to such a public key, so no handshake can ever concern it.
const parkingMark = "sitewire parking"

// parking tells a throw-away peer by its key.
func parking(k wg.PublicKey) bool { return bytes.HasPrefix(k[:], []byte(parkingMark)) }
