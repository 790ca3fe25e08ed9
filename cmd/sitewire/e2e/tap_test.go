package e2e

import (
	"encoding/binary"
	"net"
	"net/netip"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"sitewire/topologies/netns"
)

const (
	// steadyEvery is the time between two packets of sendSteady, and steadyPort where they go.
	steadyEvery = time.Millisecond
	steadyPort  = 4789
	bfdPort     = 3784
)

// sendSteady sends numbered packets to the targets in turn, one each steadyEvery, until the returned function is called, which
// tells when each was sent.
func sendSteady(b testing.TB, from *netns.NS, src netip.Addr, targets []netip.Addr) (stop func() map[uint64]time.Time) {
	b.Helper()
	var c *net.UDPConn
	must(b, from.Do(func() (err error) {
		c, err = net.ListenUDP("udp4", net.UDPAddrFromAddrPort(netip.AddrPortFrom(src, 0)))
		return err
	}))
	sent, quit := map[uint64]time.Time{}, make(chan struct{})
	var all sync.WaitGroup
	all.Go(func() {
		defer c.Close()
		begin := time.Now()
		for seq := uint64(0); ; seq++ {
			select {
			case <-quit:
				return
			case <-time.After(time.Until(begin.Add(time.Duration(seq) * steadyEvery))):
			}
			sent[seq] = time.Now()
			to := netip.AddrPortFrom(targets[seq%uint64(len(targets))], steadyPort)
			if _, err := c.WriteToUDPAddrPort(binary.BigEndian.AppendUint64(nil, seq), to); err != nil {
				b.Errorf("packet %d to %s: %v", seq, to, err)
				return
			}
		}
	})
	return func() map[uint64]time.Time { close(quit); all.Wait(); return sent }
}

// packetTap watches a device: which packets of sendSteady leave through it, and when the last one of BFD came in.
type packetTap struct {
	fd  int
	all sync.WaitGroup

	mu    sync.Mutex
	heard time.Time
	left  map[uint64]time.Time
	last  uint64 // highest number that left
	first uint64 // of the run without a gap that ends with last
}

func tap(b testing.TB, ns *netns.NS, device string) *packetTap {
	b.Helper()
	index, err := ns.Index(device)
	must(b, err)
	p := &packetTap{left: map[uint64]time.Time{}}
	protocol := int(binary.NativeEndian.Uint16([]byte{unix.ETH_P_ALL >> 8, unix.ETH_P_ALL & 0xff}))
	must(b, ns.Do(func() (err error) {
		p.fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, protocol)
		return err
	}))
	must(b, unix.SetsockoptInt(p.fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 16<<20))
	must(b, unix.SetsockoptInt(p.fd, unix.SOL_SOCKET, unix.SO_TIMESTAMPNS, 1))
	must(b, unix.SetsockoptTimeval(p.fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Usec: 20_000}))
	must(b, unix.Bind(p.fd, &unix.SockaddrLinklayer{Protocol: uint16(protocol), Ifindex: index}))
	p.all.Add(1)
	go p.read(b)
	return p
}

// read reads until end closes the socket to it.
func (p *packetTap) read(b testing.TB) {
	defer p.all.Done()
	buf, oob := make([]byte, 2048), make([]byte, 128)
	for {
		n, on, _, from, err := unix.Recvmsg(p.fd, buf, oob, 0)
		switch {
		case err == unix.EAGAIN || err == unix.EINTR:
			p.mu.Lock()
			ended := p.left == nil
			p.mu.Unlock()
			if ended {
				return
			}
			continue
		case err != nil:
			b.Errorf("tap: %v", err)
			return
		}
		ll, ok := from.(*unix.SockaddrLinklayer)
		at, stamped := stamp(oob[:on])
		if !ok || !stamped {
			b.Errorf("tap: a packet without device or time")
			return
		}
		p.see(buf[:n], ll.Pkttype == unix.PACKET_OUTGOING, at)
	}
}

// stamp is the time that the kernel saw a packet.
func stamp(oob []byte) (at time.Time, ok bool) {
	list, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return time.Time{}, false
	}
	for _, m := range list {
		if m.Header.Level == unix.SOL_SOCKET && m.Header.Type == unix.SCM_TIMESTAMPNS && len(m.Data) >= 16 {
			return time.Unix(int64(binary.NativeEndian.Uint64(m.Data)), int64(binary.NativeEndian.Uint64(m.Data[8:]))), true
		}
	}
	return time.Time{}, false
}

// see takes in a packet, from its IP header on.
func (p *packetTap) see(packet []byte, out bool, at time.Time) {
	var udp []byte
	switch {
	case len(packet) > 28 && packet[0]>>4 == 4 && packet[9] == unix.IPPROTO_UDP:
		udp = packet[int(packet[0]&0xf)*4:]
	case len(packet) > 48 && packet[0]>>4 == 6 && packet[6] == unix.IPPROTO_UDP:
		udp = packet[40:]
	default:
		return
	}
	if len(udp) < 16 {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	switch port := binary.BigEndian.Uint16(udp[2:]); {
	case p.left == nil:
	case port == bfdPort && !out:
		p.heard = at
	case port == steadyPort && out:
		seq := binary.BigEndian.Uint64(udp[8:])
		if len(p.left) == 0 || seq != p.last+1 {
			p.first = seq
		}
		p.left[seq], p.last = at, seq
	}
}

// run is how many packets have left in a row, none missing.
func (p *packetTap) run() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.left) == 0 {
		return 0
	}
	return int(p.last - p.first + 1)
}

// end stops watching. heard is when the last packet of BFD came in, left when each packet of sendSteady left.
func (p *packetTap) end() (heard time.Time, left map[uint64]time.Time) {
	p.mu.Lock()
	heard, left = p.heard, p.left
	p.left = nil
	p.mu.Unlock()
	p.all.Wait()
	unix.Close(p.fd)
	return heard, left
}
