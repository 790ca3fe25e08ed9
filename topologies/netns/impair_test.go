package netns_test

import (
	"net"
	"net/netip"
	"testing"
	"time"

	"sitewire/topologies/netns"
	"sitewire/topologies/netns/nstest"
)

// ways makes a cable and both its directions, which are healed at the end.
func ways(t *testing.T) (left, right *netns.NS, there, back *netns.Way) {
	t.Helper()
	left, right = pair(t)
	there, back = netns.NewWay(left, "wan0", right, "wan0"), netns.NewWay(right, "wan0", left, "wan0")
	for _, w := range []*netns.Way{there, back} {
		t.Cleanup(func() {
			if err := w.Close(); err != nil {
				t.Error(err)
			}
		})
	}
	if lost := ping(t, left, left4, right4, netns.PingOpts{}); lost != 0 {
		t.Fatal("the cable is dead before any fault")
	}
	return left, right, there, back
}

func set(t *testing.T, i netns.Impairment, ways ...*netns.Way) {
	t.Helper()
	for _, w := range ways {
		if err := w.Set(i); err != nil {
			t.Fatal(err)
		}
	}
}

// trips sends some requests, one after the other, and returns the shortest and the longest round trip of those that were answered.
func trips(t *testing.T, from *netns.NS, to netip.Addr, count int) (shortest, longest time.Duration, answered int) {
	t.Helper()
	shortest = time.Hour
	for range count {
		f, err := netns.StartFlow(from, []netip.Addr{to}, netns.FlowOpts{Count: 1})
		if err != nil {
			t.Fatal(err)
		}
		select {
		case <-f.Complete():
		case <-time.After(time.Second):
		}
		if r := f.Stop(0)[0]; r.Received == 1 {
			shortest, longest, answered = min(shortest, r.MaxRTT), max(longest, r.MaxRTT), answered+1
		}
	}
	return shortest, longest, answered
}

func TestWayDelays(t *testing.T) {
	left, _, there, back := ways(t)
	// One way only, for both families.
	set(t, netns.Impairment{Delay: 30 * time.Millisecond}, there)
	for _, to := range []netip.Addr{right4, right6} {
		if low, high, n := trips(t, left, to, 5); n != 5 || low < 29*time.Millisecond || low > 45*time.Millisecond {
			t.Errorf("%d of 5 answers from %s after %v to %v, want 30 ms (by %s)", n, to, low, high, there.By())
		}
	}
	// Both ways, changed while it runs.
	set(t, netns.Impairment{Delay: 20 * time.Millisecond}, there, back)
	if low, high, n := trips(t, left, right4, 5); n != 5 || low < 39*time.Millisecond || low > 55*time.Millisecond {
		t.Errorf("%d of 5 answers after %v to %v, want 40 ms", n, low, high)
	}
	set(t, netns.Impairment{Delay: 20 * time.Millisecond, Jitter: 20 * time.Millisecond}, there)
	if low, high, n := trips(t, left, right4, 20); n != 20 || low < 19*time.Millisecond || high-low < 5*time.Millisecond {
		t.Errorf("%d of 20 answers after %v to %v: where is the jitter?", n, low, high)
	}
	set(t, netns.Impairment{}, there, back)
	if low, _, n := trips(t, left, right4, 5); n != 5 || low > 10*time.Millisecond || there.By() != "" {
		t.Errorf("healed: %d of 5 answers, the first after %v", n, low)
	}
}

// TestDelayLineLosesNothing: packets flow while a line comes, changes and goes, and none is lost. (The first line of all may cost some: see
// plugQueue.)
func TestDelayLineLosesNothing(t *testing.T) {
	left, _, _, _ := ways(t)
	start := func() *netns.DelayLine {
		t.Helper()
		l, err := netns.StartDelayLine(left, "wan0", netns.Impairment{Delay: 30 * time.Millisecond})
		if err != nil {
			t.Fatal(err)
		}
		return l
	}
	end := func(l *netns.DelayLine) {
		t.Helper()
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
	}
	end(start())
	f, err := netns.StartFlow(left, []netip.Addr{right4}, netns.FlowOpts{Interval: time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	for range 3 {
		l := start()
		time.Sleep(50 * time.Millisecond)
		l.Set(netns.Impairment{Delay: 10 * time.Millisecond})
		time.Sleep(50 * time.Millisecond)
		end(l)
		time.Sleep(20 * time.Millisecond)
	}
	if r := f.Stop(time.Second)[0]; r.Received != r.Sent || r.Sent < 100 {
		t.Error(r)
	}
}

func TestWayLoses(t *testing.T) {
	left, _, there, back := ways(t)
	// lost is how many packets of a hundred get lost; as many are sent as a busy machine manages.
	lost := func() float64 {
		t.Helper()
		sent, got, err := netns.Ping(t.Context(), left, left4, right4, netns.PingOpts{Count: 1000, Interval: time.Millisecond, Timeout: time.Second})
		if err != nil || sent < 300 {
			t.Fatalf("%d packets sent: %v", sent, err)
		}
		return 100 * float64(sent-got) / float64(sent)
	}
	set(t, netns.Impairment{Loss: 10, Delay: 5 * time.Millisecond}, there)
	if p := lost(); p < 5.5 || p > 14.5 { // 10 +- 4.7 sigma
		t.Errorf("10%% loss one way lost %.1f%%", p)
	}
	set(t, netns.Impairment{Loss: 10}, there, back)
	if p := lost(); p < 13 || p > 25 { // 19 +- 4.8 sigma
		t.Errorf("10%% loss either way lost %.1f%%", p)
	}
	set(t, netns.Impairment{Hole: 1280}, there)
	set(t, netns.Impairment{}, back)
	if lost := ping(t, left, left4, right4, netns.PingOpts{Count: 5, Timeout: 100 * time.Millisecond}); lost != 0 {
		t.Errorf("the hole lost %d short packets of 5", lost)
	}
	if lost := ping(t, left, left4, right4, netns.PingOpts{Count: 5, Size: 1300, Timeout: 100 * time.Millisecond}); lost != 5 {
		t.Errorf("the hole lost %d long packets of 5", lost)
	}
	set(t, netns.Impairment{Cut: true}, back)
	set(t, netns.Impairment{}, there)
	if lost := ping(t, left, left4, right4, netns.PingOpts{Count: 3, Timeout: 100 * time.Millisecond}); lost != 3 {
		t.Errorf("%d of 3 packets got lost on a cable that is cut one way", lost)
	}
}

// TestWayRate sends more than a line carries, alone and with a delay, which are different means.
func TestWayRate(t *testing.T) {
	left, right, there, _ := ways(t)
	for _, i := range []netns.Impairment{{Rate: 20e6}, {Rate: 20e6, Delay: 10 * time.Millisecond}} {
		set(t, i, there)
		if got := throughput(t, left, right, 1400, time.Second); got < 16e6 || got > 21e6 {
			t.Errorf("%+v carries %.1f Mbit/s by %s", i, got/1e6, there.By())
		} else {
			t.Logf("%+v carries %.1f Mbit/s by %s", i, got/1e6, there.By())
		}
	}
	set(t, netns.Impairment{}, there)
	if got := throughput(t, left, right, 1400, 300*time.Millisecond); got < 30e6 {
		t.Errorf("healed, the cable carries %.1f Mbit/s", got/1e6)
	}
}

// throughput offers UDP packets as fast as it can, some 60 Mbit/s at most, and returns what arrives, in bit/s with headers.
func throughput(t testing.TB, from, to *netns.NS, size int, d time.Duration) float64 {
	t.Helper()
	var in, out *net.UDPConn
	if err := to.Do(func() (err error) {
		in, err = net.ListenUDP("udp4", net.UDPAddrFromAddrPort(netip.AddrPortFrom(right4, 9)))
		return err
	}); err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	if err := from.Do(func() (err error) {
		out, err = net.DialUDP("udp4", nil, net.UDPAddrFromAddrPort(netip.AddrPortFrom(right4, 9)))
		return err
	}); err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	const headers = 14 + 20 + 8
	start := time.Now()
	go func() {
		b := make([]byte, size)
		for time.Since(start) < d+200*time.Millisecond {
			for range 10 {
				out.Write(b) // it may be dropped at once, which is what is measured
			}
			time.Sleep(time.Millisecond)
		}
	}()
	bytes, buf := 0, make([]byte, 1<<16)
	var first time.Time
	if err := in.SetReadDeadline(start.Add(d + 100*time.Millisecond)); err != nil {
		t.Fatal(err)
	}
	for {
		k, err := in.Read(buf)
		if err != nil {
			break
		}
		if now := time.Now(); first.IsZero() {
			if now.Sub(start) > 100*time.Millisecond { // what fills queues at first does not count
				first = now
			}
		} else {
			bytes += k + headers
		}
	}
	return float64(bytes) * 8 / time.Since(first).Seconds()
}

// BenchmarkDelayLine is how many packets a second a delay line passes on, of those that come as fast as one sender can.
func BenchmarkDelayLine(b *testing.B) {
	left, right := nstest.NS(b, "left"), nstest.NS(b, "right")
	if err := netns.Link(left, "wan0", right, "wan0", netns.LinkOpts{
		AddrsA: []netip.Prefix{prefix("198.18.0.1/24")}, AddrsB: []netip.Prefix{prefix("198.18.0.2/24")},
	}); err != nil {
		b.Fatal(err)
	}
	line, err := netns.StartDelayLine(left, "wan0", netns.Impairment{Delay: time.Millisecond})
	if err != nil {
		b.Fatal(err)
	}
	defer line.Close()
	var in, out *net.UDPConn
	if err := right.Do(func() (err error) {
		in, err = net.ListenUDP("udp4", net.UDPAddrFromAddrPort(netip.AddrPortFrom(right4, 9)))
		return err
	}); err != nil {
		b.Fatal(err)
	}
	defer in.Close()
	if err := left.Do(func() (err error) {
		out, err = net.DialUDP("udp4", nil, net.UDPAddrFromAddrPort(netip.AddrPortFrom(right4, 9)))
		return err
	}); err != nil {
		b.Fatal(err)
	}
	defer out.Close()
	const window = 64 // on the way at a time
	packet, buf := make([]byte, 1400), make([]byte, 2000)
	sent, got := 0, 0
	for b.Loop() {
		for sent-got < window {
			if _, err := out.Write(packet); err != nil {
				b.Fatal(err)
			}
			sent++
		}
		if err := in.SetReadDeadline(time.Now().Add(time.Second)); err != nil {
			b.Fatal(err)
		}
		if _, err := in.Read(buf); err != nil {
			b.Fatalf("after %d packets: %v", got, err)
		}
		got++
	}
	b.ReportMetric(float64(got)/b.Elapsed().Seconds(), "packets/s")
}
