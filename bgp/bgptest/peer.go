// Package bgptest is a small BGP speaker for tests: it says exactly what it is told to say.
//
// Job: one session with the speaker under test, with chosen capabilities; UPDATEs with chosen attributes and next-hop
// encodings, or any bytes; what the other side sends, decoded.
// Owner: each Peer owns its connection; a goroutine reads it.
// Inputs: Options, Update values, raw bytes.
// Outputs: Received routes, the NOTIFICATION that ended the session.
// Invariants: nothing is sent that the test did not ask for but KEEPALIVEs; no policy, no RIB beyond the last UPDATE of
// a prefix. Tests use addresses of 127.0.0.0/8, one to each peer.
package bgptest

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/netip"
	"sync"
	"syscall"
	"time"
)

// Message types of RFC 4271 and RFC 2918.
const (
	TypeOpen         = 1
	TypeUpdate       = 2
	TypeNotification = 3
	TypeKeepalive    = 4
	TypeRouteRefresh = 5
)

// Options of a Peer.
type Options struct {
	// Local address to speak from; the port is the kernel's.
	Local netip.Addr
	// Remote speaker.
	Remote   netip.AddrPort
	ASN      uint32
	RouterID netip.Addr // the zero value is 10. and the ASN's last bytes
	// HoldTime in seconds; 0 is 90.
	HoldTime uint16
	// IPv4 and IPv6 are the families to offer. Neither, and no capability for families is sent.
	IPv4, IPv6 bool
	// ExtendedNextHop announces IPv4 with IPv6 next hops (RFC 8950).
	ExtendedNextHop bool
	// GracefulRestart announces RFC 4724 with this restart time in seconds; Restarting sets the restart bit. The
	// forwarding state is always said to be kept. RestartNotification sets the N bit of RFC 8538.
	GracefulRestart                 uint16
	Restarting, RestartNotification bool
	// ReceiveBuffer of the connection in bytes; 0 is the kernel's choice. A small one is soon full when nothing is read (see Peer.Pause).
	ReceiveBuffer int
}

// Peer is an established session.
type Peer struct {
	conn    net.Conn
	options Options
	// Open is the OPEN of the other side, without header.
	Open []byte

	write   sync.Mutex
	reading gate

	mu           sync.Mutex
	routes       map[netip.Prefix]Received
	updates      int
	prefixes     int
	withdrawn    map[netip.Prefix]int
	eor          [2]bool
	notification []byte
	changed      chan struct{} // closed and replaced with each message
	done         chan struct{}
}

// Dial opens a session and returns when it is established. It tries again while the other side refuses.
func Dial(ctx context.Context, o Options) (*Peer, error) {
	if o.HoldTime == 0 {
		o.HoldTime = 90
	}
	if !o.RouterID.IsValid() {
		o.RouterID = netip.AddrFrom4([4]byte{10, byte(o.ASN >> 16), byte(o.ASN >> 8), byte(o.ASN)})
	}
	for {
		p, err := dial(ctx, o)
		if err == nil {
			return p, nil
		}
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("session with %v: %w", o.Remote, errors.Join(ctx.Err(), err))
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// Connect opens the TCP connection only, for tests of what may come before an OPEN.
func Connect(ctx context.Context, o Options) (net.Conn, error) {
	d := net.Dialer{LocalAddr: net.TCPAddrFromAddrPort(netip.AddrPortFrom(o.Local, 0))}
	if o.ReceiveBuffer > 0 {
		d.Control = func(_, _ string, c syscall.RawConn) (err error) {
			if e := c.Control(func(fd uintptr) {
				err = syscall.SetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_RCVBUF, o.ReceiveBuffer)
			}); e != nil {
				return e
			}
			return err
		}
	}
	return d.DialContext(ctx, "tcp", o.Remote.String())
}

func dial(ctx context.Context, o Options) (*Peer, error) {
	conn, err := Connect(ctx, o)
	if err != nil {
		return nil, err
	}
	p := &Peer{conn: conn, options: o, routes: map[netip.Prefix]Received{}, withdrawn: map[netip.Prefix]int{}, changed: make(chan struct{}), done: make(chan struct{})}
	p.reading.moved.L = &p.reading.mu
	if err := p.handshake(ctx); err != nil {
		conn.Close()
		return nil, err
	}
	go p.read()
	go p.keepalive()
	return p, nil
}

func (p *Peer) handshake(ctx context.Context) error {
	if deadline, ok := ctx.Deadline(); ok {
		if err := p.conn.SetDeadline(deadline); err != nil {
			return err
		}
		defer p.conn.SetDeadline(time.Time{})
	}
	if err := p.Send(p.options.Open()); err != nil {
		return err
	}
	for seen := 0; seen < 2; {
		typ, body, err := readMessage(p.conn)
		if err != nil {
			return err
		}
		switch typ {
		case TypeOpen:
			p.Open = body
			if err := p.Send(Message(TypeKeepalive, nil)); err != nil {
				return err
			}
			seen++
		case TypeKeepalive:
			seen++
		default:
			return fmt.Errorf("message of type %d instead of OPEN and KEEPALIVE: %x", typ, body)
		}
	}
	return nil
}

// Open returns the OPEN message that these options lead to.
func (o Options) Open() []byte {
	var caps []byte
	add := func(code byte, value ...byte) { caps = append(append(caps, code, byte(len(value))), value...) }
	if o.IPv4 {
		add(1, 0, 1, 0, 1)
	}
	if o.IPv6 {
		add(1, 0, 2, 0, 1)
	}
	if o.ExtendedNextHop {
		add(5, 0, 1, 0, 1, 0, 2)
	}
	if o.GracefulRestart > 0 {
		value := binary.BigEndian.AppendUint16(nil, o.GracefulRestart&0x0fff)
		if o.Restarting {
			value[0] |= 0x80
		}
		if o.RestartNotification {
			value[0] |= 0x40
		}
		if o.IPv4 {
			value = append(value, 0, 1, 1, 0x80)
		}
		if o.IPv6 {
			value = append(value, 0, 2, 1, 0x80)
		}
		add(64, value...)
	}
	add(65, binary.BigEndian.AppendUint32(nil, o.ASN)...)
	short := uint16(23456) // AS_TRANS
	if o.ASN < 65536 {
		short = uint16(o.ASN)
	}
	body := []byte{4}
	body = binary.BigEndian.AppendUint16(body, short)
	body = binary.BigEndian.AppendUint16(body, o.HoldTime)
	body = append(body, o.RouterID.AsSlice()...)
	body = append(body, byte(len(caps)+2), 2, byte(len(caps)))
	return Message(TypeOpen, append(body, caps...))
}

// Message puts a header in front of a body.
func Message(typ byte, body []byte) []byte {
	m := make([]byte, 0, 19+len(body))
	for range 16 {
		m = append(m, 0xff)
	}
	m = binary.BigEndian.AppendUint16(m, uint16(19+len(body)))
	return append(append(m, typ), body...)
}

func readMessage(r io.Reader) (typ byte, body []byte, err error) {
	var header [19]byte
	if _, err := io.ReadFull(r, header[:]); err != nil {
		return 0, nil, err
	}
	n := int(binary.BigEndian.Uint16(header[16:])) - 19
	if n < 0 {
		return 0, nil, errors.New("message shorter than its header")
	}
	body = make([]byte, n)
	_, err = io.ReadFull(r, body)
	return header[18], body, err
}

// Send writes any bytes.
func (p *Peer) Send(b []byte) error {
	p.write.Lock()
	defer p.write.Unlock()
	_, err := p.conn.Write(b)
	return err
}

// Announce sends an UPDATE.
func (p *Peer) Announce(u Update) error { return p.Send(u.Encode()) }

// Withdraw sends withdrawals.
func (p *Peer) Withdraw(prefixes ...netip.Prefix) error { return p.Send(Withdrawal(prefixes...)) }

// EndOfRIB sends the marker of a family (RFC 4724 section 2).
func (p *Peer) EndOfRIB(ipv6 bool) error {
	if !ipv6 {
		return p.Send(Message(TypeUpdate, make([]byte, 4)))
	}
	return p.Send(Message(TypeUpdate, []byte{0, 0, 0, 6, 0x80, 15, 3, 0, 2, 1}))
}

// Close drops the connection without a word, as a crash does.
func (p *Peer) Close() {
	p.conn.Close()
	p.Resume()
	<-p.done
}

// Notify sends a NOTIFICATION and closes.
func (p *Peer) Notify(code, subcode byte) error {
	err := p.Send(Message(TypeNotification, []byte{code, subcode}))
	p.Close()
	return err
}

// Done is closed when the session ended.
func (p *Peer) Done() <-chan struct{} { return p.done }

// Notification returns code and subcode of the NOTIFICATION that the other side sent, if it did.
func (p *Peer) Notification() (code, subcode byte, ok bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.notification) < 2 {
		return 0, 0, false
	}
	return p.notification[0], p.notification[1], true
}

// Routes returns what the other side announces now.
func (p *Peer) Routes() map[netip.Prefix]Received {
	p.mu.Lock()
	defer p.mu.Unlock()
	return maps.Clone(p.routes)
}

// Withdrawn returns how often a prefix was withdrawn.
func (p *Peer) Withdrawn(prefix netip.Prefix) int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.withdrawn[prefix]
}

// Stats returns the UPDATEs received, with the prefixes that they announced, and the number of routes now.
func (p *Peer) Stats() (updates, prefixes, routes int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.updates, p.prefixes, len(p.routes)
}

// Ended reports whether End-of-RIB came.
func (p *Peer) Ended(ipv6 bool) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if ipv6 {
		return p.eor[1]
	}
	return p.eor[0]
}

// Wait returns when the condition holds after a message, or an error when the context or the session ends before.
func (p *Peer) Wait(ctx context.Context, ok func(map[netip.Prefix]Received) bool) error {
	for {
		p.mu.Lock()
		changed := p.changed
		p.mu.Unlock()
		if ok(p.Routes()) {
			return nil
		}
		select {
		case <-changed:
		case <-p.done:
			return errors.New("the session ended")
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// Pause reads nothing any more, after a message that is waited for; KEEPALIVEs still go out.
func (p *Peer) Pause() { p.reading.set(true, 0) }

// Take reads some messages more.
func (p *Peer) Take(messages int) { p.reading.set(true, messages) }

// Resume reads on.
func (p *Peer) Resume() { p.reading.set(false, 0) }

// gate lets messages be read.
type gate struct {
	mu     sync.Mutex
	moved  sync.Cond
	closed bool
	left   int // to be let through although it is closed
}

func (g *gate) set(closed bool, left int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.closed, g.left = closed, left
	g.moved.Broadcast()
}

func (g *gate) pass() {
	g.mu.Lock()
	defer g.mu.Unlock()
	for g.closed && g.left == 0 {
		g.moved.Wait()
	}
	g.left = max(g.left-1, 0)
}

func (p *Peer) read() {
	defer close(p.done)
	defer p.conn.Close()
	for {
		p.reading.pass()
		typ, body, err := readMessage(p.conn)
		if err != nil {
			return
		}
		at := time.Now()
		p.mu.Lock()
		switch typ {
		case TypeNotification:
			p.notification = body
		case TypeUpdate:
			p.updates++
			p.take(body, at)
		}
		close(p.changed)
		p.changed = make(chan struct{})
		p.mu.Unlock()
	}
}

func (p *Peer) keepalive() {
	t := time.NewTicker(max(time.Duration(p.options.HoldTime)*time.Second/3, 300*time.Millisecond))
	defer t.Stop()
	for {
		select {
		case <-p.done:
			return
		case <-t.C:
			if p.Send(Message(TypeKeepalive, nil)) != nil {
				return
			}
		}
	}
}
