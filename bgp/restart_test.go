package bgp

import (
	"bytes"
	"context"
	"net/netip"
	"testing"
	"time"

	"sitewire/bgp/bgptest"
)

// restartCapability returns the value of the graceful restart capability (RFC 4724 section 3) in an OPEN.
func restartCapability(t *testing.T, open []byte) []byte {
	t.Helper()
	// Version, AS, hold time, router ID, length of parameters; then parameters of type 2, which are capabilities.
	for params := open[10:]; len(params) >= 2; params = params[2+int(params[1]):] {
		for caps := params[2 : 2+int(params[1])]; params[0] == 2 && len(caps) >= 2; caps = caps[2+int(caps[1]):] {
			if caps[0] == 64 {
				return caps[2 : 2+int(caps[1])]
			}
		}
	}
	t.Fatalf("no graceful restart in %x", open)
	return nil
}

// Flags of the capability, and what each family has: AFI, SAFI and the F bit.
const (
	bitR, bitN = 0x80, 0x40
	bitF       = 0x80
)

// A speaker that starts for the first time, or whose forwarding state was lost, says neither that it restarts nor that it
// forwards; a restarted one says both, in its first session only.
func TestRestartBits(t *testing.T) {
	for _, restarting := range []bool{false, true} {
		n := passive("a", 2, 65001, accepting())
		n.GracefulRestart = true
		var restart *Restart
		if restarting {
			restart = &Restart{}
		}
		l := runLab(t, Config{ASN: ownASN, RouterID: routerID, Neighbours: []Neighbour{n}, RestartTime: 77 * time.Second}, func(*Options) {}, restart)
		o := l.options(2, 65001)
		o.GracefulRestart = 60
		a := l.dial(o)
		first := []byte{bitN, 77, 0, 1, 1, 0, 0, 2, 1, 0}
		if restarting {
			first = []byte{bitR | bitN, 77, 0, 1, 1, bitF, 0, 2, 1, bitF}
		}
		if got := restartCapability(t, a.Open); !bytes.Equal(got, first) {
			t.Errorf("restarting %t: capability %x, want %x", restarting, got, first)
		}
		if err := a.Notify(6, 2); err != nil {
			t.Fatal(err)
		}
		l.session("a", "down", func(s Session) bool { return s.State != Established && s.Establishments == 1 })
		if got, want := restartCapability(t, l.dial(o).Open), []byte{bitN, 77, 0, 1, 1, 0, 0, 2, 1, 0}; !bytes.Equal(got, want) {
			t.Errorf("restarting %t, second session: capability %x, want %x", restarting, got, want)
		}
		l.end()
	}
}

// restarted is a restarted speaker with two neighbours and a prefix of its own.
func restarted(t *testing.T, deferral time.Duration) (l *lab, options [2]bgptest.Options) {
	t.Helper()
	c := Config{
		ASN: ownASN, RouterID: routerID, DeferralTime: deferral,
		Announce: []Announcement{{Prefix: netip.MustParsePrefix("10.1.0.0/16")}},
	}
	for i, name := range []string{"a", "b"} {
		n := passive(name, byte(2+i), 65001+uint32(i), accepting())
		n.GracefulRestart = true
		c.Neighbours = append(c.Neighbours, n)
	}
	l = runLab(t, c, func(*Options) {}, &Restart{})
	for i := range options {
		options[i] = l.options(byte(2+i), 65001+uint32(i))
		options[i].GracefulRestart = 60
	}
	return l, options
}

func endOfRIB(t *testing.T, p *bgptest.Peer) {
	t.Helper()
	for _, v6 := range []bool{false, true} {
		if err := p.EndOfRIB(v6); err != nil {
			t.Fatal(err)
		}
	}
}

// A restarted speaker says nothing until all neighbours have sent what they have: what it would send before is not what
// it selects in the end, and End-of-RIB would have its helpers drop the rest.
func TestRestartDefers(t *testing.T) {
	l, o := restarted(t, time.Minute)
	a := l.dial(o[0])
	announce(t, a, from4(2, 65001), "10.2.0.0/16")
	endOfRIB(t, a)
	l.session("a", "read", func(s Session) bool { return s.IPv4 != nil && s.IPv4.EOR && s.IPv6.EOR })
	// A changed policy has everything sent again to who is told anything at all.
	l.set(func(c *Config) {
		for i := range c.Neighbours {
			p := *accepting()
			p.Import[0].Set.LocalPref = new(uint32(200))
			p.Export[0].Set.Prepend = 1
			c.Neighbours[i].Policy = &p
		}
	})
	b := l.dial(o[1])
	announce(t, b, from4(3, 65002), "10.3.0.0/16")
	l.feed.wait(t, "10.3.0.0/16", func() bool { return l.feed.bestOf("10.3.0.0/16") == "b" })
	time.Sleep(settleTime + 2*deferEvery) // what is sent again after a session came up is due
	for _, p := range []*bgptest.Peer{a, b} {
		if updates, _, routes := p.Stats(); updates > 0 || routes > 0 || p.Ended(false) {
			t.Errorf("%d updates with %d routes before the last End-of-RIB", updates, routes)
		}
	}
	endOfRIB(t, b)
	for p, want := range map[*bgptest.Peer][]string{a: {"10.1.0.0/16", "10.3.0.0/16"}, b: {"10.1.0.0/16", "10.2.0.0/16"}} {
		for _, prefix := range want {
			l.gets(p, prefix)
		}
		if err := p.Wait(l.context(), func(map[netip.Prefix]bgptest.Received) bool { return p.Ended(false) && p.Ended(true) }); err != nil {
			t.Errorf("no End-of-RIB: %v", err)
		}
		for _, prefix := range want {
			if n := p.Withdrawn(netip.MustParsePrefix(prefix)); n > 0 {
				t.Errorf("%s was withdrawn %d times", prefix, n)
			}
		}
	}
}

// A neighbour that does not come back holds the others up for the deferral time, and no longer.
func TestRestartDeferralEnds(t *testing.T) {
	const deferral = 2 * time.Second
	l, o := restarted(t, deferral)
	a := l.dial(o[0])
	begin := time.Now()
	endOfRIB(t, a)
	l.gets(a, "10.1.0.0/16")
	if took := time.Since(begin); took < deferral-500*time.Millisecond {
		t.Errorf("told after %v, want %v", took, deferral)
	}
}

// A stop for a restart says nothing: no NOTIFICATION, and no neighbour's routes are withdrawn from the others. A plain stop
// does say.
func TestKeepForwarding(t *testing.T) {
	for _, keep := range []bool{false, true} {
		l, o := restarted(t, time.Minute)
		peers := []*bgptest.Peer{l.dial(o[0]), l.dial(o[1])}
		prefixes := []string{"10.20.0.0/16", "10.30.0.0/16"}
		for i, p := range peers {
			announce(t, p, from4(byte(2+i), 65001+uint32(i)), prefixes[i])
			endOfRIB(t, p)
		}
		for i, p := range peers {
			l.gets(p, prefixes[1-i])
		}
		l.set(func(c *Config) { c.KeepForwarding = keep })
		l.end()
		if !keep {
			l.ended(peers[0])
			if code, _, ok := peers[0].Notification(); !ok || code != 6 {
				t.Errorf("a stop sent NOTIFICATION %d (%t), want Cease", code, ok)
			}
			continue
		}
		time.Sleep(time.Second) // for what must not come
		for i, p := range peers {
			select {
			case <-p.Done():
				t.Errorf("session %d ended before the process", i)
			default:
			}
			if _, _, ok := p.Notification(); ok {
				t.Errorf("neighbour %d got a NOTIFICATION", i)
			}
			if _, ok := p.Routes()[netip.MustParsePrefix(prefixes[1-i])]; !ok {
				t.Errorf("the other's route was withdrawn from neighbour %d", i)
			}
		}
	}
}

// Before a restarted speaker's End-of-RIB comes all that it has, IPv4 over an IPv6 session too: the neighbour took it before, and the policy that
// holds it back until its OPEN was read would let it go for a moment.
func TestRestartExtendedNextHop(t *testing.T) {
	v6 := netip.MustParseAddr("::1")
	c := Config{
		ASN: ownASN, RouterID: routerID,
		Neighbours: []Neighbour{{Name: "a", Address: v6, LocalAddress: v6, ASN: 65001, Passive: true, IPv4: true, IPv6: true, Policy: accepting(), Peer: "a", GracefulRestart: true}},
	}
	for i := range 100 {
		c.Announce = append(c.Announce, Announcement{Prefix: netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 1, byte(i), 0}), 24)})
	}
	l := runLab(t, c, func(*Options) {}, &Restart{ExtendedNextHop: map[string]bool{"a": true}})
	p := l.dial(bgptest.Options{Local: v6, Remote: netip.AddrPortFrom(v6, l.port), ASN: 65001, IPv4: true, IPv6: true, ExtendedNextHop: true, GracefulRestart: 60})
	endOfRIB(t, p) // at once
	at := -1
	if err := p.Wait(l.context(), func(m map[netip.Prefix]bgptest.Received) bool {
		if at < 0 && p.Ended(false) {
			at = len(p.Routes())
		}
		return at >= 0
	}); err != nil {
		t.Fatal(err)
	}
	if at < 100 {
		t.Errorf("%d of 100 routes came before End-of-RIB", at)
	}
}

// What a speaker is told before it runs is what it begins with.
func TestSetBeforeRun(t *testing.T) {
	prefix := netip.MustParsePrefix("10.1.0.0/16")
	c := Config{ASN: ownASN, RouterID: routerID, ListenPort: -1}
	s := New(Options{Config: c, Sink: newFeed()})
	c.Announce = []Announcement{{Prefix: prefix}}
	if err := s.Set(t.Context(), c); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error)
	go func() { ended <- s.Run(ctx, nil) }()
	<-s.Ready()
	if err := s.do(ctx, func(l *loop) error {
		if _, ok := l.own[prefix]; !ok {
			t.Errorf("announces %v", l.own)
		}
		return nil
	}); err != nil {
		t.Error(err)
	}
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}
