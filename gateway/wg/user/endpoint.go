package user

import (
	"net/netip"
	"sync/atomic"

	"golang.zx2c4.com/wireguard/conn"
)

// Endpoint is where a peer is, and which of our addresses it knows us by. The destination never changes after creation;
// the source is swapped atomically, since wireguard-go clears it and sends from different goroutines.
type Endpoint struct {
	dst netip.AddrPort
	src atomic.Pointer[source]
}

var _ conn.Endpoint = (*Endpoint)(nil)

// source is the local address that a datagram was sent to, kept as the source of the answers ("sticky source"): a peer
// behind NAT or a stateful firewall drops answers from any other address.
type source struct {
	addr    netip.Addr
	ifindex uint32 // interface the datagram came in on
	// epoch of the underlay in which the source was learnt or last found valid; see Bind.UnderlayChanged.
	epoch uint64
}

// same reports whether both mean the same address on the same interface.
func (s *source) same(o source) bool {
	return s != nil && s.addr == o.addr && s.ifindex == o.ifindex
}

// ClearSrc forgets the source, so that the kernel chooses one again.
func (e *Endpoint) ClearSrc() { e.src.Store(nil) }

// SrcToString returns the source address, or "" when the kernel chooses.
func (e *Endpoint) SrcToString() string {
	if a := e.SrcIP(); a.IsValid() {
		return a.String()
	}
	return ""
}

// DstToString returns the destination as ADDRESS:PORT.
func (e *Endpoint) DstToString() string { return e.dst.String() }

// DstToBytes identifies the destination in cookies (WireGuard paper, section 5.4.7: the external address of the sender).
func (e *Endpoint) DstToBytes() []byte {
	a := e.dst.Addr().WithZone("").AsSlice()
	return append(a, byte(e.dst.Port()>>8), byte(e.dst.Port()))
}

// DstIP returns the destination address.
func (e *Endpoint) DstIP() netip.Addr { return e.dst.Addr() }

// SrcIP returns the source address, or the zero address when the kernel chooses.
func (e *Endpoint) SrcIP() netip.Addr {
	if s := e.src.Load(); s != nil {
		return s.addr
	}
	return netip.Addr{}
}

// newEndpoint unmaps IPv4-mapped addresses, so that the family of the address is the family of the socket.
func newEndpoint(dst netip.AddrPort) *Endpoint {
	return &Endpoint{dst: netip.AddrPortFrom(dst.Addr().Unmap(), dst.Port())}
}
