package bgp

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"time"
)

// An inquiry is made at its pace while there are events, once more if one came right before, else at its rest.
func TestInquiry(t *testing.T) {
	const pace, rest = 5 * time.Second, 30 * time.Second
	var q inquiry
	events, now := uint64(0), time.Unix(1_000_000_000, 0)
	var last time.Time
	var got []int
	for second := range 150 {
		at := now.Add(time.Duration(second) * time.Second)
		switch second {
		case 42, 43, 44, 100, 103:
			events, last = events+1, at
		}
		if q.due(at, events, rest) {
			q.asked(at, events, last, pace)
			got = append(got, second)
		}
	}
	// 42 and 100: events long after the last question; 47 and 105: more of them, and what follows from the first.
	want := []int{0, 30, 42, 47, 77, 100, 105, 135}
	if !slices.Equal(got, want) {
		t.Errorf("asked at %v, want %v", got, want)
	}
}

// A flood begins and ends with the rate of events.
func TestFlood(t *testing.T) {
	var f flood
	events, now := uint64(5000), time.Unix(1_000_000_000, 0)
	var got []int
	for tick := range 80 { // ten a second
		switch {
		case tick >= 20 && tick < 40:
			events += 100
		case tick%10 == 0:
			events += 300 // now and then
		}
		if f.look(now.Add(time.Duration(tick)*100*time.Millisecond), events); f.on {
			got = append(got, tick)
		}
	}
	if len(got) != 20 || got[0] != 30 || got[19] != 49 {
		t.Errorf("a flood in ticks %v, want 30 to 49", got)
	}
}

// What is advertised on a session is counted as soon as it is up, and again when what was learned meanwhile is in. The round of all
// neighbours, which is long, is not waited for.
func TestFirstCount(t *testing.T) {
	const soon = adviseEvery / 2
	l := startLab(t, Config{
		ASN: ownASN, RouterID: routerID, Neighbours: []Neighbour{passive("a", 2, 65001, accepting()), passive("b", 3, 65002, accepting())},
		Announce: []Announcement{{Prefix: netip.MustParsePrefix("10.1.0.0/16")}, {Prefix: netip.MustParsePrefix("10.2.0.0/16")}},
	})
	counted := func(want int) {
		t.Helper()
		s := l.session("a", fmt.Sprintf("with %d advertised", want), func(s Session) bool { return s.State == Established && s.IPv4.Advertised == want })
		if took := time.Since(s.Since); took > soon {
			t.Errorf("%d prefixes were counted %v after the session came up", want, took)
		}
	}
	a := l.peer(2, 65001)
	counted(2)
	announce(t, l.peer(3, 65002), from4(3, 65002), "10.3.0.0/16")
	counted(3)
	a.Close()
	l.session("a", "down", func(s Session) bool { return s.State != Established && s.IPv4.Advertised == 0 })
	l.peer(2, 65001)
	counted(3)
}

// A snapshot is dated anew when GoBGP answered, changed or not, and not by the loop's turning alone.
func TestSnapshotAges(t *testing.T) {
	l := &loop{Speaker: New(Options{Sink: newFeed()})}
	l.view.dirty = true
	l.publish()
	first := l.Snapshot()
	l.publish()
	if l.Snapshot() != first {
		t.Fatal("published although nothing happened")
	}
	l.answered = time.Now()
	l.latency.Observe(time.Millisecond)
	l.publish()
	second := l.Snapshot()
	if !second.Time.After(first.Time) || second.Calls.Counts[0] != 1 || first.Calls.Counts[0] != 0 {
		t.Errorf("after a poll: %s, %d calls; before it %s, %d", second.Time, second.Calls.Counts[0], first.Time, first.Calls.Counts[0])
	}
	l.publish()
	if l.Snapshot() != second {
		t.Error("dated anew without another answer")
	}
}
