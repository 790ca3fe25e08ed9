package user

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"sync/atomic"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/net/ipv4"
	"golang.org/x/sys/unix"
	"golang.zx2c4.com/wireguard/conn"
	"golang.zx2c4.com/wireguard/device"
	"golang.zx2c4.com/wireguard/tun"

	"sitewire/gateway/wg"
	"sitewire/gateway/wg/wgtest"
	"sitewire/topologies/netns"
	"sitewire/topologies/netns/nstest"
)

// benchSite is one end of a tunnel, made of our parts or of the library's.
type benchSite struct {
	ns    *netns.NS
	dev   *device.Device
	port  uint16
	inner netip.Addr
}

// newBenchPair makes a tunnel between two namespaces. The underlay is a veth pair.
func newBenchPair(b *testing.B, stock bool, tag string) (sites [2]benchSite) {
	b.Helper()
	kind := map[bool]string{false: "own", true: "stock"}[stock] + tag
	for i := range sites {
		sites[i].ns = nstest.NS(b, fmt.Sprintf("%s-%d", kind, i))
		sites[i].inner = netip.AddrFrom4([4]byte{10, 0, 0, byte(i + 1)})
		sites[i].port = uint16(51820 + i)
	}
	nstest.Need(b, nstest.TUN)
	must(b, netns.Link(sites[0].ns, "wan0", sites[1].ns, "wan0", netns.LinkOpts{AddrsA: prefixes("192.0.2.1/24"), AddrsB: prefixes("192.0.2.2/24")}))
	for i := range sites {
		s := &sites[i]
		must(b, s.ns.Do(func() error { return s.open(b, stock, i) }))
		must(b, s.ns.Addr("wg0", netip.PrefixFrom(s.inner, 24)))
		must(b, s.ns.Up("wg0"))
		other := [2]string{"1", "0"}[i]
		must(b, s.dev.IpcSet(fmt.Sprintf("public_key=%s\nendpoint=192.0.2.%d:%d\nallowed_ip=10.0.0.%d/32\n",
			wgtest.Peer(other).PublicKey.Hex(), 2-i, 51820+1-i, 2-i)))
	}
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	must(b, netns.Reach(ctx, sites[0].ns, netip.Addr{}, sites[1].inner))
	return sites
}

func (s *benchSite) open(b *testing.B, stock bool, i int) error {
	if stock {
		inner, err := stockTUN(b)
		if err != nil {
			return err
		}
		s.dev = device.NewDevice(inner, conn.NewStdNetBind(), &device.Logger{Verbosef: device.DiscardLogf, Errorf: device.DiscardLogf})
	} else {
		own, err := openTUN(b.Context(), "wg0", 1420, (&logBuffer{}).logger())
		if err != nil {
			return err
		}
		s.dev = newDevice("wg0", own, NewBind(BindOptions{}), (&logBuffer{}).logger()).dev
	}
	b.Cleanup(s.dev.Close)
	if err := s.dev.IpcSet(fmt.Sprintf("private_key=%s\nlisten_port=%d\n", wgtest.PrivateKey(fmt.Sprint(i)).Hex(), s.port)); err != nil {
		return err
	}
	return s.dev.Up()
}

// stockTUN is the library's own TUN, without its listeners, which have nothing to do with speed.
func stockTUN(b *testing.B) (tun.Device, error) {
	fd, err := createTUN(b.Context(), "wg0")
	if err != nil {
		return nil, err
	}
	t, _, err := tun.CreateUnmonitoredTUNFromFD(fd)
	if err != nil {
		_ = unix.Close(fd)
		return nil, err
	}
	return t, stockMTU()
}

// stockMTU sets the MTU as the library does, and nothing else.
func stockMTU() error {
	l, err := netlink.LinkByName("wg0")
	if err != nil {
		return err
	}
	return netlink.LinkSetMTU(l, 1420)
}

// flood sends 64-byte datagrams through the tunnel for a while, in bursts of one system call, and returns how many were
// sent and arrived. pace is packets per second, 0 as fast as it goes.
func flood(b *testing.B, sites [2]benchSite, span time.Duration, pace float64) (sent, arrived float64) {
	b.Helper()
	var rx, tx *net.UDPConn
	must(b, sites[1].ns.Do(func() error {
		rx = listenUDP(b, netip.AddrPortFrom(sites[1].inner, 0).String())
		return rx.SetReadBuffer(4 << 20)
	}))
	must(b, sites[0].ns.Do(func() (err error) {
		tx, err = net.DialUDP("udp", nil, rx.LocalAddr().(*net.UDPAddr))
		return err
	}))
	defer tx.Close()
	const burst = 64
	messages := func() []ipv4.Message {
		out := make([]ipv4.Message, burst)
		for i := range out {
			out[i].Buffers = [][]byte{make([]byte, 64)}
		}
		return out
	}
	var got atomic.Int64
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		in, msgs := ipv4.NewPacketConn(rx), messages()
		for {
			n, err := in.ReadBatch(msgs, 0)
			if err != nil {
				return
			}
			got.Add(int64(n))
		}
	}()
	out, msgs := ipv4.NewPacketConn(tx), messages()
	start := time.Now()
	for n := 0; ; n += burst {
		now := time.Since(start)
		if now > span {
			break
		}
		if due := time.Duration(float64(n) / max(pace, 1) * float64(time.Second)); pace > 0 && due > now {
			time.Sleep(due - now)
		}
		k, err := out.WriteBatch(msgs, 0)
		if err != nil {
			b.Fatal(err)
		}
		sent += float64(k)
	}
	// What is on its way still arrives: wait until nothing does.
	for last := int64(-1); last != got.Load(); time.Sleep(50 * time.Millisecond) {
		last = got.Load()
	}
	must(b, rx.Close())
	<-ended
	return sent, float64(got.Load())
}

// BenchmarkSmallPackets floods a tunnel with 64-byte datagrams, with our TUN and bind and with the library's in turn, so
// that both see the same machine; then it offers both the same 100,000 packets/s and reports what is lost of them.
// Figures of different runs cannot be compared; the ratio can.
func BenchmarkSmallPackets(b *testing.B) {
	own, stock := newBenchPair(b, false, ""), newBenchPair(b, true, "")
	const (
		span = 500 * time.Millisecond
		pace = 100_000
	)
	var arrived, offered, lost [2]float64
	for b.Loop() {
		for i, sites := range [][2]benchSite{own, stock} {
			_, n := flood(b, sites, span, 0)
			arrived[i] += n
			sent, n := flood(b, sites, span, pace)
			offered[i] += sent
			lost[i] += sent - n
		}
	}
	seconds := float64(b.N) * span.Seconds()
	b.ReportMetric(arrived[0]/seconds, "own-packets/s")
	b.ReportMetric(arrived[1]/seconds, "stock-packets/s")
	b.ReportMetric(arrived[0]/arrived[1], "ratio")
	b.ReportMetric(100*lost[0]/offered[0], "own-loss-%")
	b.ReportMetric(100*lost[1]/offered[1], "stock-loss-%")
}

// BenchmarkStream is one TCP stream, in the same way.
func BenchmarkStream(b *testing.B) {
	own, stock := newBenchPair(b, false, "-tcp"), newBenchPair(b, true, "-tcp")
	const span = 700 * time.Millisecond
	var bits [2]float64
	rounds := 0
	for b.Loop() {
		bits[0] += stream(b, own, span)
		bits[1] += stream(b, stock, span)
		rounds++
	}
	b.ReportMetric(bits[0]/float64(rounds)/1e9, "own-Gbit/s")
	b.ReportMetric(bits[1]/float64(rounds)/1e9, "stock-Gbit/s")
	b.ReportMetric(bits[0]/bits[1], "ratio")
}

func stream(b *testing.B, sites [2]benchSite, span time.Duration) float64 {
	b.Helper()
	var l net.Listener
	must(b, sites[1].ns.Do(func() (err error) {
		l, err = net.Listen("tcp", netip.AddrPortFrom(sites[1].inner, 0).String())
		return err
	}))
	defer l.Close()
	done := make(chan int64, 1)
	go func() {
		c, err := l.Accept()
		if err != nil {
			done <- 0
			return
		}
		defer c.Close()
		var n int64
		buf := make([]byte, 1<<18)
		for {
			k, err := c.Read(buf)
			n += int64(k)
			if err != nil {
				done <- n
				return
			}
		}
	}()
	var c net.Conn
	must(b, sites[0].ns.Do(func() (err error) {
		c, err = net.DialTimeout("tcp", l.Addr().String(), 5*time.Second)
		return err
	}))
	buf := make([]byte, 1<<18)
	start := time.Now()
	for time.Since(start) < span {
		if _, err := c.Write(buf); err != nil {
			b.Fatal(err)
		}
	}
	must(b, c.Close())
	return float64(<-done*8) / time.Since(start).Seconds()
}

// BenchmarkStats reads one peer's counters while the device has many allowed-IPs, by the accessor and by the text.
func BenchmarkStats(b *testing.B) {
	nstest.Need(b, nstest.TUN)
	d := openIn(b, nstest.NS(b, "stats"), config("wg0", "self"), Options{NoControl: true})
	var list []wg.AllowedIP
	peer := wgtest.Peer("a")
	for i := range 50_000 {
		list = append(list, wg.AllowedIP{Prefix: netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(i >> 8), byte(i), 0}), 24), Peer: peer.PublicKey})
	}
	must(b, d.Apply(b.Context(), wg.Delta{SetPeers: []wg.PeerConfig{peer}, Allow: list}))
	access := d.access
	for name, a := range map[string]*accessor{"accessor": access, "text": nil} {
		b.Run(name, func(b *testing.B) {
			d.access = a
			for b.Loop() {
				if _, err := d.Stats(b.Context()); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
