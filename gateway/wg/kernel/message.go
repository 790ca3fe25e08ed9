package kernel

import (
	"encoding/binary"
	"net/netip"
	"time"

	"golang.org/x/sys/unix"

	"sitewire/gateway/wg"
)

// maxMessage bounds a message in bytes. An attribute, and so the array of all peers, cannot exceed 65,535; with 56,000 a message has up to
// 2,000 IPv4 or 1,400 IPv6 entries, where the rate no longer grows with the size (measured), and the kernel holds its locks for few
// milliseconds.
const maxMessage = 56_000

// Bytes that the parts of a message take at most.
const (
	peerHead    = attrLen + attrLen + wg.KeySize + attrLen + 4 + attrLen // nest, key, flags, nest of allowed-IPs
	peerSize    = peerHead + attrLen + wg.KeySize + attrLen + unix.SizeofSockaddrInet6 + attrLen + 4
	allowedSize = attrLen + attrLen + 4 + attrLen + 16 + attrLen + 4 + attrLen + 4
)

// message builds one SET_DEVICE: peers in order, each with allowed-IPs.
type message struct {
	b []byte
	// Where the open arrays and their open elements begin; 0: not open.
	peers, peer, allowed int
	key                  wg.PublicKey // of the open peer
}

// reset begins a message for the device with that index. The bytes of the last one, which may hold keys, are overwritten.
func (m *message) reset(index int) {
	clear(m.b)
	*m = message{b: append(m.b[:0], cmdSetDevice, familyVersion, 0, 0)}
	m.uint32(deviceIndex, uint32(index))
}

// empty tells that nothing but the device's index is in the message.
func (m *message) empty() bool { return len(m.b) == genlHeaderLen+attrLen+4 }

// fits tells whether n more bytes do.
func (m *message) fits(n int) bool { return len(m.b)+n <= maxMessage }

// bytes ends the message.
func (m *message) bytes() []byte {
	m.endPeer()
	m.close(&m.peers)
	return m.b
}

// attr appends an attribute with its value.
func (m *message) attr(typ uint16, value ...byte) {
	m.head(typ, len(value))
	m.b = append(m.b, value...)
	m.b = append(m.b, padding[:align(len(value))-len(value)]...)
}

func (m *message) uint16(typ, v uint16) {
	m.head(typ, 2)
	m.b = binary.NativeEndian.AppendUint16(m.b, v)
	m.b = append(m.b, padding[:2]...)
}

func (m *message) uint32(typ uint16, v uint32) {
	m.head(typ, 4)
	m.b = binary.NativeEndian.AppendUint32(m.b, v)
}

func (m *message) head(typ uint16, n int) {
	m.b = binary.NativeEndian.AppendUint16(m.b, uint16(attrLen+n))
	m.b = binary.NativeEndian.AppendUint16(m.b, typ)
}

var padding [3]byte

func (m *message) open(at *int, typ uint16) {
	*at = len(m.b)
	m.attr(typ | nested)
}

func (m *message) close(at *int) {
	if *at != 0 {
		binary.NativeEndian.PutUint16(m.b[*at:], uint16(len(m.b)-*at))
		*at = 0
	}
}

// settings are the device's own. A port of 0 leaves the present one.
func (m *message) settings(c wg.DeviceConfig) {
	m.attr(devicePrivateKey, c.PrivateKey[:]...)
	m.uint32(deviceMark, c.FirewallMark)
	if c.ListenPort != 0 {
		m.uint16(devicePort, c.ListenPort)
	}
}

// beginPeer opens a peer, with allowed-IPs or attributes to follow.
func (m *message) beginPeer(key wg.PublicKey, flags uint32) {
	m.endPeer()
	if m.peers == 0 {
		m.open(&m.peers, devicePeers)
	}
	m.open(&m.peer, 0)
	m.key = key
	m.attr(peerPublicKey, key[:]...)
	if flags != 0 {
		m.uint32(peerFlags, flags)
	}
}

func (m *message) endPeer() {
	m.close(&m.allowed)
	m.close(&m.peer)
}

// setPeer is a whole peer without its allowed-IPs. The kernel compares: what is as it was disturbs nothing.
func (m *message) setPeer(p wg.PeerConfig, scope uint32) {
	m.beginPeer(p.PublicKey, 0)
	m.attr(peerPresharedKey, p.PresharedKey[:]...)
	if p.Endpoint.IsValid() {
		m.attr(peerEndpoint, sockaddr(p.Endpoint, scope)...)
	}
	m.uint16(peerKeepalive, uint16(p.PersistentKeepalive/time.Second))
	m.endPeer()
}

// addAllowed gives a prefix to the open peer, or with flags takes it.
func (m *message) addAllowed(p netip.Prefix, flags uint32) {
	if m.allowed == 0 {
		m.open(&m.allowed, peerAllowedIPs)
	}
	var entry int
	m.open(&entry, 0)
	if p.Addr().Is4() {
		a := p.Addr().As4()
		m.uint16(allowedFamily, unix.AF_INET)
		m.attr(allowedAddr, a[:]...)
	} else {
		a := p.Addr().As16()
		m.uint16(allowedFamily, unix.AF_INET6)
		m.attr(allowedAddr, a[:]...)
	}
	m.attr(allowedBits, byte(p.Bits()))
	if flags != 0 {
		m.uint32(allowedFlags, flags)
	}
	m.close(&entry)
}

// sockaddr is the struct of that name. The scope is the index of the interface that the address's zone names.
func sockaddr(a netip.AddrPort, scope uint32) []byte {
	addr := a.Addr().Unmap()
	if addr.Is4() {
		b := binary.NativeEndian.AppendUint16(nil, unix.AF_INET)
		b = binary.BigEndian.AppendUint16(b, a.Port())
		b = append(b, addr.AsSlice()...)
		return append(b, make([]byte, 8)...)
	}
	b := binary.NativeEndian.AppendUint16(nil, unix.AF_INET6)
	b = binary.BigEndian.AppendUint16(b, a.Port())
	b = append(b, 0, 0, 0, 0) // flow information
	b = append(b, addr.AsSlice()...)
	return binary.NativeEndian.AppendUint32(b, scope)
}

// getDevice is the request for a dump of the device with that index.
func getDevice(index int) []byte {
	m := message{b: []byte{cmdGetDevice, familyVersion, 0, 0}}
	m.uint32(deviceIndex, uint32(index))
	return m.b
}

// getNamed is the request for a dump of the device with that name.
func getNamed(name string) []byte {
	m := message{b: []byte{cmdGetDevice, familyVersion, 0, 0}}
	m.attr(deviceName, append([]byte(name), 0)...)
	return m.b
}
