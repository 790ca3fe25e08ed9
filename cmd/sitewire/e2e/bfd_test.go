package e2e

import (
	"errors"
	"fmt"
	"maps"
	"strings"
	"testing"
	"time"

	"sitewire/bgp"
	"sitewire/bgp/bfd"
	"sitewire/gateway"
	"sitewire/topologies/netns"
	"sitewire/topologies/netns/nstest"
)

// TestBFD: with BIRD and FRR at the other end of a tunnel, BFD comes up and settles on 200 ms x 3; a path that is cut ends the session and
// takes the routes within a second, where the hold timer would take a minute; and whatever ends the neighbour, the session comes back once and
// stays.
func TestBFD(t *testing.T) {
	for _, other := range []string{"bird", "frr"} {
		t.Run(other, func(t *testing.T) { interopBFD(t, other) })
	}
}

func interopBFD(t *testing.T, other string) {
	l := newLab(t)
	a, b := l.site("ours"), l.site("theirs")
	f := b.wireguard(a)
	f.bfd = true
	begin := func() {
		if other == "bird" {
			f.bird(a, shapeA)
		} else {
			f.frr(a, shapeA)
		}
	}
	begin()
	d := a.run(a.head() + "bgp: { hold_time: 60s, connect_retry: 2s, bfd: wired }\npeers:\n" + b.peerYAML(shapeA))
	d.settled(t, 0)

	// A silent cut: nobody sends a word, only BFD can tell.
	must(t, b.ns.Cut("eth0", netns.Both))
	cut := time.Now()
	d.until(t, "the session to end", 3*time.Second, func(s *bgp.Session) bool { return s.State != bgp.Established })
	ended := time.Since(cut)
	nstest.Eventually(t, 3*time.Second, "the routes to go", func() error {
		if left := d.fib(); len(left) > 0 {
			return fmt.Errorf("%v are left", left)
		}
		return nil
	})
	t.Logf("%s: cut to end of session %v, to empty kernel table %v", other, ended.Round(time.Millisecond), time.Since(cut).Round(time.Millisecond))
	const slack = 400 * time.Millisecond // of a machine that runs other tests
	if ended > 800*time.Millisecond+slack {
		t.Errorf("the cut was seen after %v, want 800 ms", ended)
	}
	s := d.session("theirs")
	if s.Downs["bfd_down"] != 1 || !strings.HasPrefix(s.LastError, "BFD: ") {
		t.Errorf("downs %v, last error %q: want one by BFD", s.Downs, s.LastError)
	}
	if n := s.BFD.Downs[bfd.DetectionTimeExpired.String()]; n != 1 {
		t.Errorf("BFD downs %v, want one by silence", s.BFD.Downs)
	}
	time.Sleep(2 * time.Second)
	must(t, b.ns.Heal("eth0"))
	healed := time.Now()
	d.settled(t, 1)
	t.Logf("%s: repair to both up and %v of peace: %v", other, peace, time.Since(healed).Round(100*time.Millisecond))

	for name, end := range map[string]func() error{"shutdown": func() error { return f.stop() }, "kill": func() error { return f.kill() }} {
		before := d.session("theirs")
		must(t, end())
		d.until(t, "the session to end after "+name, 10*time.Second, func(s *bgp.Session) bool { return s.State != bgp.Established })
		time.Sleep(2 * time.Second) // BFD's detection time passes while BGP is down
		begin()
		// FRR makes its BFD session anew when BGP comes up.
		d.settled(t, total(&before)+1)
		after := d.session("theirs")
		t.Logf("%s, %s: downs %v, BFD downs %v", other, name, after.Downs, after.BFD.Downs)
	}

	text, last := scrape(t, a.ns), d.session("theirs")
	for _, series := range []string{
		`sitewire_bfd_session_up{peer="theirs",session="theirs"} 1`,
		`sitewire_bfd_detection_time_seconds{peer="theirs",session="theirs"} 0.6`,
		fmt.Sprintf(`sitewire_bgp_session_downs_total{peer="theirs",reason="bfd_down",session="theirs"} %d`, last.Downs["bfd_down"]),
	} {
		if !strings.Contains(text, series+"\n") {
			t.Errorf("not exported: %s", series)
		}
	}
	if last.TCP == nil || last.TCP.RTT <= 0 || last.TCP.RTT > 1 {
		t.Errorf("TCP figures %+v, want the round trip's", last.TCP)
	}
}

// peace is how long nothing may happen before a session counts as settled: longer than any flap loop's period with these timers.
const peace = 8 * time.Second

// settled waits until BGP and BFD are up at the pace agreed on, asserts that the session fell as often as expected and that nothing happens
// for a while.
func (d *daemon) settled(t *testing.T, downs uint64) {
	t.Helper()
	d.until(t, "BGP and BFD", 40*time.Second, func(s *bgp.Session) bool {
		return s.State == bgp.Established && s.BFD != nil && s.BFD.State == bfd.Up && s.BFD.DetectionTime == 0.6
	})
	before := d.session("theirs")
	time.Sleep(peace)
	after := d.session("theirs")
	if !maps.Equal(before.Downs, after.Downs) || !maps.Equal(before.BFD.Downs, after.BFD.Downs) || after.State != bgp.Established || after.BFD.State != bfd.Up {
		t.Errorf("flapped: downs %v then %v, BFD downs %v then %v", before.Downs, after.Downs, before.BFD.Downs, after.BFD.Downs)
	}
	if got := total(&after); got != downs {
		t.Errorf("the session fell %d times by now (%v), want %d", got, after.Downs, downs)
	}
}

func total(s *bgp.Session) (n uint64) {
	for _, x := range s.Downs {
		n += x
	}
	return n
}

// until polls the session quickly, for times that are measured.
func (d *daemon) until(t *testing.T, what string, limit time.Duration, ok func(*bgp.Session) bool) {
	t.Helper()
	begin := time.Now()
	for {
		var ss gateway.Sessions
		must(t, d.get("/v1/bgp", &ss))
		var s bgp.Session // there is none in the first moment
		if len(ss.Sessions) > 0 {
			s = ss.Sessions[0]
		}
		if len(ss.Sessions) > 0 && ok(&s) {
			return
		}
		if time.Since(begin) > limit {
			t.Fatalf("waited %v for %s: %v %q, BFD %+v, warnings %v", limit, what, s.State, s.LastError, s.BFD, errors.New(strings.Join(s.Warnings, "; ")))
		}
		time.Sleep(5 * time.Millisecond)
	}
}
