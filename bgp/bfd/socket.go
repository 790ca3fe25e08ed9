package bfd

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"sync"
	"syscall"
	"time"

	"golang.org/x/net/ipv4"
	"golang.org/x/net/ipv6"
	"golang.org/x/sys/unix"
)

// again is the pace at which sockets that could not be opened, or broke, are tried again.
const again = time.Second

// socket sends to one neighbour: from a port of its own in the range of RFC 5881 section 4, with TTL 255.
// Owner: the session's goroutine. It is opened when it is first used, because the device may come later.
type socket struct {
	local  netip.Addr
	remote netip.AddrPort
	conn   *net.UDPConn
	retry  time.Time
	err    error
}

func (s *socket) send(b []byte) error {
	if s.conn == nil {
		if time.Now().Before(s.retry) {
			return s.err
		}
		s.retry = time.Now().Add(again)
		if s.conn, s.err = dial(s.local, s.remote); s.err != nil {
			s.conn = nil
			return s.err
		}
	}
	_, err := s.conn.Write(b)
	if errors.Is(err, unix.ECONNREFUSED) {
		return nil // an answer to an earlier packet: the neighbour does not listen, and the session tells that already
	}
	if err != nil { // a device that went and came back is another one to the kernel
		s.close()
		s.err = err
	}
	return err
}

func (s *socket) close() {
	if s.conn != nil {
		s.conn.Close()
		s.conn = nil
	}
}

func dial(local netip.Addr, remote netip.AddrPort) (*net.UDPConn, error) {
	const first, last, tries = 49152, 65535, 8
	d := net.Dialer{Control: func(_, _ string, c syscall.RawConn) error { return control(c, remote.Addr().Is6()) }}
	var err error
	for range tries {
		from := &net.UDPAddr{Port: first + rand.IntN(last-first+1)}
		if local.IsValid() {
			from.IP, from.Zone = local.AsSlice(), local.Zone()
		}
		d.LocalAddr = from
		var c net.Conn
		if c, err = d.DialContext(context.Background(), "udp", remote.String()); err == nil { // of UDP, so that nothing waits
			return c.(*net.UDPConn), nil
		}
		if !errors.Is(err, unix.EADDRINUSE) {
			break
		}
	}
	if e, ok := errors.AsType[*net.OpError](err); ok {
		err = e.Err // the rest names a port that is another one each time
	}
	return nil, fmt.Errorf("from %v to %v: %w", local, remote.Addr(), err)
}

// control sets what goes out: TTL 255, and a class that queues on the way prefer (CS6, RFC 4594 section 3.1).
func control(c syscall.RawConn, six bool) error {
	const ttl, class = 255, 48 << 2
	var err error
	set := func(fd uintptr) {
		if six {
			err = errors.Join(unix.SetsockoptInt(int(fd), unix.IPPROTO_IPV6, unix.IPV6_UNICAST_HOPS, ttl),
				unix.SetsockoptInt(int(fd), unix.IPPROTO_IPV6, unix.IPV6_TCLASS, class))
			return
		}
		err = errors.Join(unix.SetsockoptInt(int(fd), unix.IPPROTO_IP, unix.IP_TTL, ttl), unix.SetsockoptInt(int(fd), unix.IPPROTO_IP, unix.IP_TOS, class))
	}
	return errors.Join(c.Control(set), err)
}

// listen receives while there are sessions, until ctx ends.
func (s *Server) listen(ctx context.Context) {
	for ctx.Err() == nil {
		s.mu.Lock()
		n := len(s.sessions)
		s.mu.Unlock()
		if n == 0 {
			s.say("")
			select {
			case <-s.wanted:
			case <-ctx.Done():
			}
			continue
		}
		if err := s.receive(ctx); err != nil && ctx.Err() == nil {
			s.say(err.Error())
			select {
			case <-time.After(again):
			case <-ctx.Done():
			}
		}
	}
}

// say notes trouble with receiving, and logs it when it begins.
func (s *Server) say(trouble string) {
	if was := s.trouble.Swap(&trouble); trouble != "" && (was == nil || *was != trouble) {
		s.log.Warn("BFD does not receive", "error", trouble)
	}
}

// receive listens on both families and returns when one of the sockets breaks, or nobody wants it any more. IPv6 may
// be missing.
func (s *Server) receive(ctx context.Context) error {
	four, err := net.ListenUDP("udp4", &net.UDPAddr{Port: Port})
	if err != nil {
		return fmt.Errorf("UDP port %d: %w", Port, err)
	}
	defer four.Close()
	four4 := ipv4.NewPacketConn(four)
	if err := four4.SetControlMessage(ipv4.FlagTTL, true); err != nil {
		return fmt.Errorf("UDP port %d: TTL: %w", Port, err)
	}
	six, err := net.ListenUDP("udp6", &net.UDPAddr{Port: Port})
	if err != nil && !errors.Is(err, unix.EAFNOSUPPORT) && !errors.Is(err, unix.EADDRNOTAVAIL) {
		return fmt.Errorf("UDP port %d, IPv6: %w", Port, err)
	}
	s.say("")
	broken := make(chan error, 2)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer four.Close()
	wg.Go(func() {
		broken <- s.read(func(b []byte) (n, ttl int, from net.Addr, err error) {
			n, cm, from, err := four4.ReadFrom(b)
			if cm != nil {
				ttl = cm.TTL
			}
			return n, ttl, from, err
		})
	})
	if six != nil {
		defer six.Close()
		six6 := ipv6.NewPacketConn(six)
		if err := six6.SetControlMessage(ipv6.FlagHopLimit, true); err != nil {
			return fmt.Errorf("UDP port %d: hop limit: %w", Port, err)
		}
		wg.Go(func() {
			broken <- s.read(func(b []byte) (n, ttl int, from net.Addr, err error) {
				n, cm, from, err := six6.ReadFrom(b)
				if cm != nil {
					ttl = cm.HopLimit
				}
				return n, ttl, from, err
			})
		})
	}
	for {
		select {
		case <-ctx.Done():
			return nil
		case err := <-broken:
			return fmt.Errorf("UDP port %d: %w", Port, err)
		case <-s.wanted:
			s.mu.Lock()
			n := len(s.sessions)
			s.mu.Unlock()
			if n == 0 {
				return nil
			}
		}
	}
}

// read delivers packets until the socket is closed.
func (s *Server) read(next func([]byte) (n, ttl int, from net.Addr, err error)) error {
	b := make([]byte, 512) // a control packet has 24 bytes, with authentication at most 52
	for {
		n, ttl, from, err := next(b)
		if errors.Is(err, net.ErrClosed) {
			return err
		}
		if err != nil {
			s.drop(dropRead)
			return err
		}
		if u, ok := from.(*net.UDPAddr); ok {
			s.deliver(u.AddrPort().Addr().Unmap(), ttl, b[:n])
		}
	}
}
