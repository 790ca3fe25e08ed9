package host

import (
	"context"
	"fmt"
	"net/netip"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// TCPConnection is an established TCP connection of this network namespace.
type TCPConnection struct {
	// Local and Remote ends; link-local ones have the name of their device as zone.
	Local, Remote netip.AddrPort
	// RTT is the smoothed round-trip time (RFC 6298). Retransmits counts segments that were sent again.
	RTT         time.Duration
	Retransmits uint32
	// Acked counts the bytes that the other end has acknowledged; Unread, those written here that it has not.
	Acked  uint64
	Unread uint32
}

// TCPConnections lists the established connections, as `ss -ti` does. IPv6 may be missing.
func (h *Host) TCPConnections(ctx context.Context) ([]TCPConnection, error) {
	const established = 1 // TCP_ESTABLISHED in the kernel's tcp_states.h
	var out []TCPConnection
	names := map[int]string{}
	for _, family := range families {
		if err := ctx.Err(); err != nil {
			return nil, fmt.Errorf("TCP connections: %w", err)
		}
		list, err := netlink.SocketDiagTCPInfo(uint8(family))
		if err != nil {
			if family == unix.AF_INET6 && len(out) > 0 {
				return out, nil
			}
			return nil, fmt.Errorf("TCP connections: %w", err)
		}
		for _, c := range list {
			if c.InetDiagMsg == nil || c.TCPInfo == nil || c.InetDiagMsg.State != established {
				continue
			}
			id := c.InetDiagMsg.ID
			out = append(out, TCPConnection{
				Local: end(id.Source, id.SourcePort, id.Interface, names), Remote: end(id.Destination, id.DestinationPort, id.Interface, names),
				RTT: time.Duration(c.TCPInfo.Rtt) * time.Microsecond, Retransmits: c.TCPInfo.Total_retrans,
				Acked: c.TCPInfo.Bytes_acked, Unread: c.InetDiagMsg.WQueue,
			})
		}
	}
	return out, nil
}

// end is one end of a connection. IPv4 on a socket of IPv6 is IPv4.
func end(ip []byte, port uint16, device uint32, names map[int]string) netip.AddrPort {
	a, _ := netip.AddrFromSlice(ip)
	a = a.Unmap()
	if a.Is6() && a.IsLinkLocalUnicast() && device != 0 {
		name, ok := names[int(device)]
		if !ok {
			if link, err := netlink.LinkByIndex(int(device)); err == nil { // gone since: no zone
				name = link.Attrs().Name
			}
			names[int(device)] = name
		}
		a = a.WithZone(name)
	}
	return netip.AddrPortFrom(a, port)
}
