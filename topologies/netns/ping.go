package netns

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strconv"
	"syscall"
	"time"

	"golang.org/x/net/icmp"
	"golang.org/x/net/ipv4"
	"golang.org/x/net/ipv6"
	"golang.org/x/sys/unix"
)

// PingOpts says how to ping. The zero value sends one request and waits a second for the answer.
type PingOpts struct {
	// Count is the number of requests; 0 is 1.
	Count int
	// Interval between two requests; 0 is 10 ms.
	Interval time.Duration
	// Timeout is how long to wait for answers after the last request; 0 is 1 s.
	Timeout time.Duration
	// Size is the number of bytes after the ICMP header; less than 32 is 32.
	Size int
}

// Ping sends ICMP echo requests from an address of the namespace (the zero Addr lets the kernel choose) to another and counts the answers,
// each once. It returns early when all have come. An error means that the requests could not be sent at all; silence is (sent, 0, nil).
// A link-local address needs its zone, by name or index: fe80::1%wan0.
func Ping(ctx context.Context, from *NS, src, dst netip.Addr, o PingOpts) (sent, received int, err error) {
	o.Count = max(o.Count, 1)
	if o.Interval <= 0 {
		o.Interval = 10 * time.Millisecond
	}
	if o.Timeout <= 0 {
		o.Timeout = time.Second
	}
	f, err := StartFlow(from, []netip.Addr{dst}, FlowOpts{Src: src, Interval: o.Interval, Size: o.Size, Count: o.Count})
	if err != nil {
		return 0, 0, err
	}
	// The time runs from the last request on: on a busy machine sending takes longer than it should.
	all := make(chan struct{})
	go func() {
		f.sender.Wait()
		close(all)
	}()
	var pause <-chan time.Time
wait:
	for {
		select {
		case <-f.Complete():
			break wait
		case <-all:
			all, pause = nil, time.After(o.Timeout)
		case <-pause:
			break wait
		case <-ctx.Done():
			err = context.Cause(ctx)
			break wait
		}
	}
	r := f.Stop(0)[0]
	if err == nil && r.Refused == r.Sent {
		err = r.Err
	}
	if err != nil {
		return r.Sent, r.Received, fmt.Errorf("ping %s from %s: %w", dst, from, err)
	}
	return r.Sent, r.Received, nil
}

// Reach polls with Ping until dst answers, and returns Ping's last words when ctx ends.
func Reach(ctx context.Context, from *NS, src, dst netip.Addr) error {
	return WaitFor(ctx, 50*time.Millisecond, fmt.Sprintf("%s to reach %s", from, dst), func() error {
		_, got, err := Ping(ctx, from, src, dst, PingOpts{Timeout: 200 * time.Millisecond})
		if err == nil && got == 0 {
			err = errors.New("no answer")
		}
		return err
	})
}

// wire is a socket that carries the packets of a flow for one address family: raw ICMP echo, or UDP if port is not 0.
type wire struct {
	conn net.PacketConn
	port uint16
	v6   bool
	id   int
}

// openWire opens the socket inside the namespace, where it stays.
func (n *NS) openWire(v6 bool, src netip.Addr, port uint16) (*wire, error) {
	network, local := "ip4:icmp", netip.IPv4Unspecified()
	if v6 {
		network, local = "ip6:ipv6-icmp", netip.IPv6Unspecified()
	}
	if src.IsValid() {
		local = src
	}
	w := &wire{port: port, v6: v6, id: os.Getpid() & 0xffff}
	local, err := n.numericZone(local)
	if err != nil {
		return nil, err
	}
	listen := net.ListenConfig{Control: roomy}
	err = n.Do(func() (err error) {
		if port != 0 {
			w.conn, err = listen.ListenPacket(context.Background(), "udp", netip.AddrPortFrom(local, 0).String())
			return err
		}
		if w.conn, err = listen.ListenPacket(context.Background(), network, local.String()); err != nil {
			return err
		}
		if v6 {
			var only ipv6.ICMPFilter
			only.SetAll(true)
			only.Accept(ipv6.ICMPTypeEchoReply)
			return ipv6.NewPacketConn(w.conn).SetICMPFilter(&only)
		}
		var only ipv4.ICMPFilter
		only.SetAll(true)
		only.Accept(ipv4.ICMPTypeEchoReply)
		return ipv4.NewPacketConn(w.conn).SetICMPFilter(&only)
	})
	if err != nil {
		return nil, fmt.Errorf("open socket in %s: %w", n, err)
	}
	return w, nil
}

// roomy gives a socket room for the answers of seconds: a test that is not run for a while must not count its own queue's overflow as a
// loss of the network.
func roomy(_, _ string, c syscall.RawConn) error {
	const room = 8 << 20 // bytes
	return c.Control(func(fd uintptr) {
		// Beyond the machine's limit needs a privilege that user namespaces do not give; then the limit has to do.
		if unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, room) != nil {
			_ = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUF, room)
		}
	})
}

// numericZone turns an interface name after the % into its index in this namespace: package net would look the name up
// where the goroutine happens to run, and remember it for all namespaces.
func (n *NS) numericZone(a netip.Addr) (netip.Addr, error) {
	if a.Zone() == "" {
		return a, nil
	}
	if _, err := strconv.Atoi(a.Zone()); err == nil {
		return a, nil
	}
	i, err := n.Index(a.Zone())
	if err != nil {
		return a, err
	}
	return a.WithZone(strconv.Itoa(i)), nil
}

func (w *wire) send(dst netip.Addr, seq int, payload []byte) error {
	err := w.write(dst, seq, payload)
	if errors.Is(err, unix.ENOBUFS) {
		return nil // dropped on the way out, by a fault or a full queue: lost, not refused
	}
	return err
}

func (w *wire) write(dst netip.Addr, seq int, payload []byte) error {
	if w.port != 0 {
		_, err := w.conn.WriteTo(payload, net.UDPAddrFromAddrPort(netip.AddrPortFrom(dst, w.port)))
		return err
	}
	m := icmp.Message{Type: ipv4.ICMPTypeEcho, Body: &icmp.Echo{ID: w.id, Seq: seq & 0xffff, Data: payload}}
	if w.v6 {
		m.Type = ipv6.ICMPTypeEchoRequest // the kernel fills the checksum in
	}
	b, err := m.Marshal(nil)
	if err != nil {
		return err
	}
	_, err = w.conn.WriteTo(b, &net.IPAddr{IP: dst.AsSlice(), Zone: dst.Zone()})
	return err
}

// receive returns the payload of the next answer, which may be anybody's.
func (w *wire) receive(buf []byte) ([]byte, error) {
	for {
		k, _, err := w.conn.ReadFrom(buf)
		if err != nil {
			return nil, err
		}
		if w.port != 0 {
			return buf[:k], nil
		}
		proto := ipv4.ICMPTypeEchoReply.Protocol()
		if w.v6 {
			proto = ipv6.ICMPTypeEchoReply.Protocol()
		}
		m, err := icmp.ParseMessage(proto, buf[:k])
		if err != nil || (m.Type != ipv4.ICMPTypeEchoReply && m.Type != ipv6.ICMPTypeEchoReply) {
			continue
		}
		if echo, ok := m.Body.(*icmp.Echo); ok {
			return echo.Data, nil
		}
	}
}
