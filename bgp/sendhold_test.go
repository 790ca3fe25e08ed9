package bgp

import (
	"context"
	"net/netip"
	"runtime"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"sitewire/bgp/bgptest"
	"sitewire/gateway/host"
)

// TestSendHoldRule: only who takes nothing at all, for all of the time, is unheard.
func TestSendHoldRule(t *testing.T) {
	const hold = 40 * time.Second
	type sample struct{ acked, unread uint64 }
	for name, c := range map[string]struct {
		hold time.Duration
		// next is the sample of each of 100 seconds; the answer is in which the session is to end, 0 in none.
		next func(second int) sample
		want int
	}{
		"nothing to read":    {hold, func(int) sample { return sample{1000, 0} }, 0},
		"all is read":        {hold, func(s int) sample { return sample{uint64(s), 19} }, 0},
		"nothing is read":    {hold, func(int) sample { return sample{1000, 5000} }, 41},
		"and more is sent":   {hold, func(s int) sample { return sample{1000, uint64(s * 5000)} }, 41},
		"off":                {SendHoldOff, func(int) sample { return sample{1000, 5000} }, 0},
		"by default":         {0, func(int) sample { return sample{1000, 5000} }, 0},
		"a byte every 39 s":  {hold, func(s int) sample { return sample{uint64(s / 39), 5000} }, 0},
		"stops after 30 s":   {hold, func(s int) sample { return sample{uint64(min(s, 30)), 5000} }, 70},
		"reads all at 30 s":  {hold, func(s int) sample { return sample{1000, uint64(5000 * btoi(s != 30))} }, 71},
		"another connection": {hold, func(s int) sample { return sample{uint64(1000 - 500*btoi(s >= 30)), 5000} }, 70},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				v := newView(newFeed(), func() {})
				cfg := passive("a", 2, 65001, accepting())
				cfg.SendHoldTime = c.hold
				v.setConfig(Config{ASN: ownASN, RouterID: routerID, Neighbours: []Neighbour{cfg}})
				v.byName["a"].state, v.byName["a"].establishedAt = Established, time.Now()
				for second := 1; second <= 100; second++ {
					time.Sleep(time.Second)
					s := c.next(second)
					v.setTCP([]Connection{{
						Local: netip.MustParseAddrPort("127.0.0.1:179"), Remote: netip.AddrPortFrom(cfg.Address, 40000), Acked: s.acked, Unread: s.unread,
					}}, time.Now())
					cut, is := v.toCut(time.Now())[cfg.Address]
					if is && (second != c.want || cut.reason != downSendHold || cut.silent != hold || cut.life != time.Duration(second)*time.Second) {
						t.Fatalf("after %d s: %+v, want the end after %d s", second, cut, c.want)
					}
					if is {
						return
					}
				}
				if c.want != 0 {
					t.Errorf("no end, want one after %d s", c.want)
				}
			})
		})
	}
}

// TestSendHoldTime: the default is the RFC's, and short ones are looked at more often.
func TestSendHoldTime(t *testing.T) {
	for _, c := range []struct{ configured, hold, negotiated, want, every time.Duration }{
		{0, 0, 0, 8 * time.Minute, tcpEvery},
		{0, 90 * time.Second, 9 * time.Second, 8 * time.Minute, tcpEvery},
		{0, time.Hour, 0, 2 * time.Hour, tcpEvery},
		{0, time.Hour, 5 * time.Minute, 10 * time.Minute, tcpEvery},
		{time.Minute, 0, 0, time.Minute, 7500 * time.Millisecond},
		{4 * time.Second, 0, 0, 4 * time.Second, tcpSoon},
		{SendHoldOff, 0, 0, 0, tcpEvery},
	} {
		v := newView(newFeed(), func() {})
		cfg := passive("a", 2, 65001, accepting())
		cfg.SendHoldTime, cfg.HoldTime = c.configured, c.hold
		v.setConfig(Config{ASN: ownASN, RouterID: routerID, Neighbours: []Neighbour{cfg}})
		n := v.byName["a"]
		if every, _ := v.tcpPace(); every != 0 {
			t.Errorf("asked every %v with no session", every)
		}
		n.polled.holdTime, n.state = c.negotiated, Established
		if every, _ := v.tcpPace(); n.sendHold() != c.want || every != c.every {
			t.Errorf("%+v: %v, every %v", c, n.sendHold(), every)
		}
	}
}

// startKernelLab is a lab whose speaker asks the kernel.
func startKernelLab(t *testing.T, neighbours ...Neighbour) *lab {
	t.Helper()
	gobgpRaces(t, "gobgp-session-end", "overwrites a published configuration when sessions end while paths are on their way")
	machine := host.New(host.Options{})
	return startLabWith(t, Config{ASN: ownASN, RouterID: routerID, Neighbours: neighbours}, func(o *Options) {
		o.Connections = func(ctx context.Context) ([]Connection, error) {
			list, err := machine.TCPConnections(ctx)
			var out []Connection
			for _, c := range list {
				out = append(out, Connection{Local: c.Local, Remote: c.Remote, RTT: c.RTT, Acked: c.Acked, Unread: uint64(c.Unread)})
			}
			return out, err
		}
	})
}

// paused is a peer whose small buffer soon is full.
func (l *lab) paused(o bgptest.Options) *bgptest.Peer {
	l.t.Helper()
	o.ReceiveBuffer = 16 << 10
	p := l.dial(o)
	p.Pause()
	return p
}

func (l *lab) sends(p *bgptest.Peer, updates [][]byte) {
	l.t.Helper()
	if err := p.Send(slices.Concat(updates...)); err != nil {
		l.t.Fatal(err)
	}
}

// TestSendHold: a neighbour that says KEEPALIVE and reads nothing loses its session and all its routes, in spite of graceful restart, and may
// come back. Those that read, however slowly, stay.
func TestSendHold(t *testing.T) {
	wedged, slow := passive("wedged", 2, 65001, accepting()), passive("slow", 3, 65002, accepting())
	wedged.GracefulRestart, wedged.SendHoldTime, slow.SendHoldTime = true, 6*time.Second, 4*time.Second
	l := startKernelLab(t, wedged, slow, passive("good", 4, 65003, accepting()), passive("source", 5, 65004, accepting()))
	o := l.options(2, 65001)
	o.GracefulRestart, o.RestartNotification = 120, true
	a := l.paused(o)
	announce(t, a, from4(2, 65001), "10.2.0.0/16")
	b := l.paused(l.options(3, 65002))
	good, source := l.peer(4, 65003), l.peer(5, 65004)
	l.gets(good, "10.2.0.0/16")
	stop := make(chan struct{})
	sipping := make(chan struct{})
	go func() {
		defer close(sipping)
		for {
			select {
			case <-stop:
				return
			case <-time.After(200 * time.Millisecond):
				b.Take(100)
			}
		}
	}()
	const routes = 60_000
	table := bgptest.NewTable(routes, 65004, hop4(5), 1)
	l.sends(source, table.Updates)
	l.session("wedged", "warned of", func(s Session) bool {
		return s.State == Established && slices.ContainsFunc(s.Warnings, func(w string) bool { return strings.Contains(w, "reads nothing") })
	})
	s := l.session("wedged", "ended", func(s Session) bool { return s.Downs[downSendHold] == 1 })
	if !strings.Contains(s.LastError, "send hold timer expired") || s.IPv4.Received != 0 {
		t.Errorf("%+v", s)
	}
	l.absent(good, "10.2.0.0/16")
	l.feed.wait(t, "the loss", func() bool { return slices.Contains(l.feed.order, "lost wedged hold_timer") })
	close(stop)
	<-sipping
	if x := l.session("slow", "up", func(s Session) bool { return s.State == Established }); x.Establishments != 1 {
		t.Errorf("the slow one: %+v", x)
	}
	if _, have, _ := b.Stats(); have == 0 || have >= routes {
		t.Errorf("the slow one has read %d prefixes, want some and not all", have)
	}

	again := l.peer(2, 65001)
	l.gets(again, table.Prefixes[0].String())
	l.session("wedged", "up again", func(s Session) bool { return s.State == Established && s.Establishments == 2 })
	for _, name := range []string{"good", "source"} {
		l.session(name, "untouched", func(s Session) bool { return s.State == Established && s.Establishments == 1 })
	}
}

// TestSendHoldFreesQueue: what GoBGP could not send to a neighbour that does not read is let go with its session, and to set the time on a
// session that runs does not end it.
func TestSendHoldFreesQueue(t *testing.T) {
	wedged := passive("wedged", 2, 65001, accepting())
	wedged.SendHoldTime = SendHoldOff
	l := startKernelLab(t, wedged, passive("source", 3, 65002, accepting()))
	a, source := l.paused(l.options(2, 65001)), l.peer(3, 65002)
	const routes, times = 10_000, 16
	long := make([]uint32, 200) // that the kernel's buffers are a small part of it
	for i := range long {
		long[i] = 65002<<16 | uint32(i)
	}
	tables := [2]*bgptest.Table{bgptest.NewTable(routes, 65002, hop4(3), 1), bgptest.NewTable(routes, 65002, hop4(3), 1)}
	for i, p := range tables[1].Updates { // the same prefixes with other attributes
		tables[1].Updates[i] = bgptest.Update{Prefixes: tables[1].Prefixes[i*6 : min(i*6+6, routes)], NextHop: []netip.Addr{hop4(3)}, ASPath: []uint32{65002, uint32(len(p))}, Communities: long}.Encode()
	}
	settled := func() {
		t.Helper()
		announce(t, source, from4(3, 65002), "10.3.0.0/16")
		l.feed.wait(t, "the last one", func() bool { return l.feed.path("source", "10.3.0.0/16") != nil })
		withdraw(t, source, "10.3.0.0/16")
		l.feed.wait(t, "its end", func() bool { return l.feed.path("source", "10.3.0.0/16") == nil })
	}
	l.sends(source, tables[0].Updates)
	settled()
	before := heap()
	for i := range times {
		l.sends(source, tables[(i+1)%2].Updates)
		settled()
	}
	full := heap()
	if full < before+routes*times*100 {
		t.Fatalf("nothing has piled up: %d MB, then %d", before>>20, full>>20)
	}
	if s := l.session("wedged", "up", func(s Session) bool { return s.State == Established }); s.Downs[downSendHold] != 0 {
		t.Errorf("off: %+v", s)
	}
	l.set(func(c *Config) { c.Neighbours[0].SendHoldTime = 2 * time.Second })
	l.session("wedged", "ended", func(s Session) bool { return s.Downs[downSendHold] == 1 && s.Establishments == 1 })
	limit := time.After(patient)
	for now := heap(); now > before+(full-before)/2; now = heap() {
		select {
		case <-time.After(100 * time.Millisecond):
		case <-limit:
			t.Fatalf("%d MB, with its queue %d, and after it %d", before>>20, full>>20, now>>20)
		}
	}
	t.Logf("%d MB, with its queue %d, and after it %d", before>>20, full>>20, heap()>>20)
	runtime.KeepAlive(a)
}

func heap() uint64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}
