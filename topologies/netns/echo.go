package netns

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"

	"golang.org/x/net/ipv4"
	"golang.org/x/net/ipv6"
)

// Responder sends UDP packets back to where they came from. Stop it with Close.
type Responder struct {
	conns []net.PacketConn
	done  sync.WaitGroup
}

// Echo answers UDP packets to a port, on every address of the namespace and from the address that was asked.
func Echo(n *NS, port uint16) (*Responder, error) {
	r := &Responder{}
	for _, all := range []netip.Addr{netip.IPv4Unspecified(), netip.IPv6Unspecified()} {
		network := "udp6"
		if all.Is4() {
			network = "udp4"
		}
		var c *net.UDPConn
		err := n.Do(func() (err error) {
			c, err = net.ListenUDP(network, net.UDPAddrFromAddrPort(netip.AddrPortFrom(all, port)))
			return err
		})
		if err != nil {
			return nil, errors.Join(fmt.Errorf("echo in %s: %w", n, err), r.Close())
		}
		r.conns = append(r.conns, c)
		loop := echo6
		if all.Is4() {
			loop = echo4
		}
		r.done.Go(func() { loop(c) })
	}
	return r, nil
}

// Close stops answering.
func (r *Responder) Close() error {
	var errs []error
	for _, c := range r.conns {
		errs = append(errs, c.Close())
	}
	r.done.Wait()
	return errors.Join(errs...)
}

// A router has many addresses; without the control message the kernel would answer from the one that is nearest to the asker.

func echo4(c *net.UDPConn) {
	p := ipv4.NewPacketConn(c)
	_ = p.SetControlMessage(ipv4.FlagDst|ipv4.FlagInterface, true) // or the answer's source is the kernel's choice
	buf := make([]byte, 65536)
	for {
		k, cm, from, err := p.ReadFrom(buf)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			continue
		}
		var out *ipv4.ControlMessage
		if cm != nil {
			out = &ipv4.ControlMessage{Src: cm.Dst}
		}
		_, _ = p.WriteTo(buf[:k], out, from) // an answer that cannot be sent is a lost packet, which the asker counts
	}
}

func echo6(c *net.UDPConn) {
	p := ipv6.NewPacketConn(c)
	_ = p.SetControlMessage(ipv6.FlagDst|ipv6.FlagInterface, true)
	buf := make([]byte, 65536)
	for {
		k, cm, from, err := p.ReadFrom(buf)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			continue
		}
		var out *ipv6.ControlMessage
		if cm != nil {
			out = &ipv6.ControlMessage{Src: cm.Dst}
			if cm.Dst.IsLinkLocalUnicast() {
				// The address is enough only together with its link; package net's zone names are another namespace's.
				out.IfIndex = cm.IfIndex
				if ua, ok := from.(*net.UDPAddr); ok {
					ua.Zone = ""
				}
			}
		}
		_, _ = p.WriteTo(buf[:k], out, from)
	}
}
