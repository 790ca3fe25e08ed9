package e2e

import (
	"fmt"
	"io"
	"net"
	"net/netip"
	"slices"
	"testing"
	"time"

	"sitewire/topologies/netns"
	"sitewire/topologies/netns/nstest"
)

// BenchmarkKernelThroughput sends TCP from host to host, through two gateways with the kernel's WireGuard that sitewire manages, and
// through two more that `wg` and `ip` set up: the same devices, addresses, MTU and routes otherwise. Both take turns many times a second, so
// that a machine which is busy at times is busy for both.
func BenchmarkKernelThroughput(b *testing.B) {
	const window, atLeast = 20 * time.Second, 10 // of measurement, and pairs of chunks
	const least = 0.8                            // of the throughput by hand; the figure to look at is the ratio
	l := newKernelLab(b)
	fra, nyc, left, right := l.site("fra"), l.site("nyc"), l.site("left"), l.site("right")
	df := fra.run(fra.head() + "  backend: kernel\n" + kernelTimers + "peers:\n" + nyc.kernelYAML(fra))
	dn := nyc.run(nyc.head() + "  backend: kernel\n" + kernelTimers + "peers:\n" + fra.kernelYAML(nyc))
	df.sessionsUp(1)
	dn.sessionsUp(1)
	nstest.Eventually(b, time.Minute, "host to reach host", func() error {
		return netns.Reach(b.Context(), fra.host, fra.host4, nyc.host4)
	})
	mtu := df.peer("nyc").MTU
	left.wireguardByHand(right, mtu)
	right.wireguardByHand(left, mtu)
	reach(b, left, right)

	managed, byHand := openPump(b, fra, nyc), openPump(b, left, right)
	chunk := managed.warm(byHand)
	for b.Loop() {
		var ours, theirs []time.Duration
		for begin := time.Now(); time.Since(begin) < window || len(ours) < atLeast; {
			if len(ours)%2 == 0 {
				ours = append(ours, managed.send(chunk))
				theirs = append(theirs, byHand.send(chunk))
			} else {
				theirs = append(theirs, byHand.send(chunk))
				ours = append(ours, managed.send(chunk))
			}
		}
		slices.Sort(ours)
		slices.Sort(theirs)
		rate := func(all []time.Duration) float64 { return float64(chunk) * 8 / all[len(all)/2].Seconds() / 1e6 }
		ratio := rate(ours) / rate(theirs)
		b.ReportMetric(rate(ours), "Mbit/s")
		b.ReportMetric(rate(theirs), "by-hand-Mbit/s")
		b.ReportMetric(ratio, "ratio")
		b.ReportMetric(float64(len(ours)), "pairs")
		if ratio < least {
			b.Errorf("%.0f %% of the throughput of devices set up by hand", 100*ratio)
		}
	}
	b.ReportMetric(0, "ns/op")
	if kind := df.peer("nyc").Backend; kind != "kernel" {
		b.Errorf("sitewire used the backend %s", kind)
	}
}

// wireguardByHand makes the site's end of a tunnel as its operator would without sitewire.
func (s *site) wireguardByHand(to *site, mtu int) {
	t := s.t
	t.Helper()
	const device, port = "wg0", 51820
	nstest.Run(t, s.ns, "ip", "link", "add", device, "mtu", fmt.Sprint(mtu), "type", "wireguard")
	cmd := s.ns.Command(t.Context(), "wg", "set", device, "listen-port", fmt.Sprint(port), "private-key", "/dev/stdin",
		"peer", to.pub().String(), "endpoint", netip.AddrPortFrom(to.out4, port).String(), "allowed-ips", to.lan4.String()+","+to.lan6.String())
	stdin, err := cmd.StdinPipe()
	must(t, err)
	go func() {
		_, _ = io.WriteString(stdin, s.key.Reveal()) // wg says what it did not get
		stdin.Close()
	}()
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%s: wg set: %v: %s", s.name, err, out)
	}
	must(t, s.ns.Up(device))
	for _, p := range []netip.Prefix{to.lan4, to.lan6} {
		must(t, s.ns.Route(p, netip.Addr{}, device))
	}
}

// pump is a TCP connection whose far end says when everything that was sent has arrived.
type pump struct {
	t    testing.TB
	conn net.Conn
	buf  []byte
}

// openPump connects the host behind one site with that behind another.
func openPump(t testing.TB, from, to *site) *pump {
	t.Helper()
	var l net.Listener
	must(t, to.host.Do(func() (err error) {
		l, err = net.Listen("tcp4", net.JoinHostPort(to.host4.String(), "5001"))
		return err
	}))
	defer l.Close()
	p := &pump{t: t, buf: make([]byte, 128<<10)}
	must(t, from.host.Do(func() (err error) {
		p.conn, err = net.DialTimeout("tcp4", l.Addr().String(), nstest.Patience(10*time.Second))
		return err
	}))
	t.Cleanup(func() { p.conn.Close() })
	far, err := l.Accept()
	must(t, err)
	go func() {
		defer far.Close()
		buf := make([]byte, 128<<10)
		var size [8]byte
		for {
			if _, err := io.ReadFull(far, size[:]); err != nil {
				return // the near end is closed
			}
			var left int
			if _, err := fmt.Sscanf(string(size[:]), "%08x", &left); err != nil {
				return
			}
			for left > 0 {
				n, err := far.Read(buf[:min(left, len(buf))])
				if err != nil {
					return
				}
				left -= n
			}
			if _, err := far.Write([]byte{1}); err != nil {
				return
			}
		}
	}()
	return p
}

// warm lets both connections find their pace and returns how many bytes take about a tenth of a second.
func (p *pump) warm(other *pump) (n int) {
	const enough, most = 100 * time.Millisecond, 8 << 20
	for n = 256 << 10; n < most; n *= 2 {
		other.send(n)
		if p.send(n) >= enough {
			break
		}
	}
	return n
}

// send sends n bytes and returns how long it took until they had arrived.
func (p *pump) send(n int) time.Duration {
	p.t.Helper()
	must(p.t, p.conn.SetDeadline(time.Now().Add(nstest.Patience(20*time.Second))))
	begin := time.Now()
	_, err := fmt.Fprintf(p.conn, "%08x", n)
	for left := n; left > 0 && err == nil; left -= len(p.buf) {
		_, err = p.conn.Write(p.buf[:min(left, len(p.buf))])
	}
	must(p.t, err)
	_, err = io.ReadFull(p.conn, make([]byte, 1))
	must(p.t, err)
	return time.Since(begin)
}
