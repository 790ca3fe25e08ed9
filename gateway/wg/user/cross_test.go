package user

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"testing"
	"time"

	"golang.zx2c4.com/wireguard/conn"
	"golang.zx2c4.com/wireguard/device"
	"golang.zx2c4.com/wireguard/tun/tuntest"

	"sitewire/gateway/wg"
)

// lane is one UDP socket of a relay: what an end sends there leaves the other lane, later.
type lane struct {
	conn *net.UDPConn
	to   netip.AddrPort // the end that this lane faces
}

// relay is a long way between two ends on loopback.
func relay(t *testing.T, delay time.Duration, portA, portB uint16) (forA, forB netip.AddrPort) {
	t.Helper()
	loopback := netip.AddrFrom4([4]byte{127, 0, 0, 1})
	var lanes [2]lane
	for i, port := range []uint16{portA, portB} {
		c, err := net.ListenUDP("udp4", net.UDPAddrFromAddrPort(netip.AddrPortFrom(loopback, 0)))
		if err != nil {
			t.Fatal(err)
		}
		lanes[i] = lane{c, netip.AddrPortFrom(loopback, port)}
	}
	var running sync.WaitGroup
	for i := range lanes {
		in, out := lanes[i], lanes[1-i]
		running.Go(func() {
			for buf := make([]byte, 1<<16); ; {
				n, _, err := in.conn.ReadFromUDPAddrPort(buf)
				if errors.Is(err, net.ErrClosed) {
					return
				} else if err != nil {
					continue // nobody listens at that port yet
				}
				data := bytes.Clone(buf[:n])
				time.AfterFunc(delay, func() { _, _ = out.conn.WriteToUDPAddrPort(data, out.to) })
			}
		})
	}
	t.Cleanup(func() {
		for _, l := range lanes {
			_ = l.conn.Close()
		}
		running.Wait()
	})
	at := func(l lane) netip.AddrPort { return l.conn.LocalAddr().(*net.UDPAddr).AddrPort() }
	return at(lanes[0]), at(lanes[1])
}

// end is a WireGuard device without an interface.
type end struct {
	tun *tuntest.ChannelTUN
	dev *device.Device
	key wg.Secret
	ip  netip.Addr
}

func newEnd(t *testing.T, bind conn.Bind, ip string) *end {
	t.Helper()
	key, err := wg.NewPrivateKey()
	if err != nil {
		t.Fatal(err)
	}
	e := &end{tuntest.NewChannelTUN(), nil, key, netip.MustParseAddr(ip)}
	e.dev = device.NewDevice(e.tun.TUN(), bind, device.NewLogger(device.LogLevelSilent, ""))
	t.Cleanup(e.dev.Close)
	e.set(t, "private_key=%s\nlisten_port=0\n", key.Hex())
	if err := e.dev.Up(); err != nil {
		t.Fatal(err)
	}
	return e
}

func (e *end) set(t *testing.T, format string, args ...any) {
	t.Helper()
	if err := e.dev.IpcSet(fmt.Sprintf(format, args...)); err != nil {
		t.Fatal(err)
	}
}

func (e *end) port(t *testing.T) (port uint16) {
	t.Helper()
	text, err := e.dev.IpcGet()
	if err != nil {
		t.Fatal(err)
	}
	for line := range bytes.Lines([]byte(text)) {
		if _, err := fmt.Sscanf(string(line), "listen_port=%d", &port); err == nil {
			return port
		}
	}
	t.Fatal("the device has no port")
	return 0
}

func (e *end) peer(t *testing.T, o *end, at netip.AddrPort) {
	e.set(t, "public_key=%s\nendpoint=%s\nallowed_ip=%s/32\n", o.key.Public().Hex(), at, o.ip)
}

// Both ends begin a handshake in the same moment, on a way that takes longer than the jitter of a retry is wide: without a rule for who
// waits, packets flow after 5 s at the earliest, when they flow at all.
func TestCrossingHandshakes(t *testing.T) {
	ours := func() conn.Bind { return NewBind(BindOptions{}) }
	stock := func() conn.Bind { return conn.NewStdNetBind() }
	for _, c := range []struct {
		name string
		a, b func() conn.Bind
	}{{"both", ours, ours}, {"with wireguard-go", ours, stock}} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			missed := 0
			const rounds = 6 // who waits longer is chance
			for range rounds {
				a, b := newEnd(t, c.a(), "10.0.0.1"), newEnd(t, c.b(), "10.0.0.2")
				forA, forB := relay(t, 30*time.Millisecond, a.port(t), b.port(t))
				a.peer(t, b, forA)
				b.peer(t, a, forB)
				began := time.Now()
				for _, x := range [][2]*end{{a, b}, {b, a}} {
					x[0].tun.Outbound <- tuntest.Ping(x[1].ip, x[0].ip)
				}
				for _, x := range []*end{a, b} {
					select {
					case <-x.tun.Inbound:
					case <-time.After(device.RekeyTimeout - time.Since(began)):
						missed++
					}
				}
			}
			if missed > 1 { // a machine that stands still for a moment may lose one
				t.Errorf("in %d rounds packets did not arrive within %v %d times: both handshakes were lost", rounds, device.RekeyTimeout, missed)
			}
		})
	}
}

// handshake is what a handshake message looks like from outside.
func handshake(kind uint32, size int, sender, receiver uint32, ephemeral byte) []byte {
	m := make([]byte, size)
	binary.LittleEndian.PutUint32(m, kind)
	binary.LittleEndian.PutUint32(m[senderAt:], sender)
	if kind == device.MessageResponseType {
		binary.LittleEndian.PutUint32(m[receiverAt:], receiver)
	} else {
		m[ephemeralAt] = ephemeral
	}
	return m
}

func TestInitiationsWait(t *testing.T) {
	initiation := func(sender uint32, ephemeral byte) []byte {
		return handshake(device.MessageInitiationType, device.MessageInitiationSize, sender, 0, ephemeral)
	}
	response := func(receiver uint32) []byte {
		return handshake(device.MessageResponseType, device.MessageResponseSize, 77, receiver, 0)
	}
	for _, c := range []struct {
		name      string
		own       []byte // sent first, nil: nothing
		arrive    [][]byte
		immediate []int // of those that arrive, handed on at once
		later     []int // handed on later
		after     time.Duration
	}{
		{name: "nothing is under way", arrive: [][]byte{initiation(1, 5)}, immediate: []int{0}},
		{name: "ours is the smaller", own: initiation(9, 4), arrive: [][]byte{initiation(1, 5)}, later: []int{0}, after: shortHold},
		{name: "ours is the greater", own: initiation(9, 6), arrive: [][]byte{initiation(1, 5)}, later: []int{0}, after: longHold},
		{name: "ours is answered", own: initiation(9, 6), arrive: [][]byte{initiation(1, 5), response(9)}, immediate: []int{1}},
		{name: "another is answered", own: initiation(9, 4), arrive: [][]byte{initiation(1, 5), response(8)}, immediate: []int{1}, later: []int{0}, after: shortHold},
		{name: "only one waits", own: initiation(9, 4), arrive: [][]byte{initiation(1, 5), initiation(2, 5)}, immediate: []int{1}, later: []int{0}, after: shortHold},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			b, peer := openBind(t, BindOptions{}), openBind(t, BindOptions{})
			to := func(l *listening) conn.Endpoint {
				e, err := b.ParseEndpoint(fmt.Sprintf("127.0.0.1:%d", l.port))
				if err != nil {
					t.Fatal(err)
				}
				return e
			}
			send := func(from *listening, data []byte, e conn.Endpoint) {
				t.Helper()
				if err := from.Send([][]byte{bytes.Clone(data)}, e); err != nil {
					t.Fatal(err)
				}
			}
			began := time.Now()
			if c.own != nil {
				send(b, c.own, to(peer))
			}
			expect := func(which int) {
				t.Helper()
				for {
					if got := b.next(t); got.data != "" {
						if got.data != string(c.arrive[which]) {
							t.Fatalf("got %x, want message %d", got.data[:12], which)
						}
						return
					}
				}
			}
			for _, m := range c.arrive { // through a batch of its own each: peer is no WireGuard, its Bind knows nothing of it
				e := newEndpoint(netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), b.port))
				send(peer, m, e)
			}
			for _, i := range c.immediate {
				expect(i)
			}
			for _, i := range c.later {
				expect(i)
				if waited := time.Since(began); waited < c.after {
					t.Errorf("handed on after %v, want %v", waited, c.after)
				}
			}
			last := response(0)
			send(peer, last, newEndpoint(netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), b.port)))
			for {
				if got := b.next(t); got.data == string(last) {
					break
				} else if got.data != "" {
					t.Fatalf("%x was handed on as well", got.data[:12])
				}
			}
		})
	}
}
