package bgp

import (
	"fmt"
	"net/netip"
	"testing"
	"time"

	"sitewire/bgp/bgptest"
)

// crowd is a speaker that starts with so many neighbours that it gathers; all but the first two are behind dead tunnels.
func crowd(t *testing.T, restart *Restart) *lab {
	t.Helper()
	c := Config{ASN: ownASN, RouterID: routerID, Announce: []Announcement{{Prefix: netip.MustParsePrefix("10.1.0.0/16")}}}
	for i := range gatherFrom {
		c.Neighbours = append(c.Neighbours, passive(fmt.Sprintf("n%d", i), byte(2+i), 65001+uint32(i), accepting()))
	}
	l := runLab(t, c, func(*Options) {}, restart)
	for i := 2; i < gatherFrom; i++ {
		l.SetLiveness(fmt.Sprintf("n%d", i), false)
	}
	return l
}

// A speaker that starts says nothing until the tables of all are in, and then each of its choices once.
func TestGather(t *testing.T) {
	l := crowd(t, nil)
	a := l.peer(2, 65001)
	worse := from4(2, 65001)
	worse.ASPath = append(worse.ASPath, 65101, 65102)
	announce(t, a, worse, "10.9.0.0/16")
	announce(t, a, from4(2, 65001), "10.2.0.0/16")
	l.feed.wait(t, "10.9.0.0/16 by n0", func() bool { return l.feed.bestOf("10.9.0.0/16") == "n0" })
	time.Sleep(gatherQuiet + settleTime) // everything that could make it speak but the session that is missing
	if updates, _, routes := a.Stats(); updates > 0 || routes > 0 {
		t.Errorf("%d updates with %d routes while a session was missing", updates, routes)
	}
	b := l.peer(3, 65002)
	announce(t, b, from4(3, 65002), "10.3.0.0/16")
	announce(t, b, from4(3, 65002), "10.9.0.0/16")
	for p, want := range map[*bgptest.Peer][]string{a: {"10.1.0.0/16", "10.3.0.0/16", "10.9.0.0/16"}, b: {"10.1.0.0/16", "10.2.0.0/16"}} {
		for _, prefix := range want {
			l.gets(p, prefix)
		}
	}
	// From then on everything is told at once.
	announce(t, b, from4(3, 65002), "10.4.0.0/16")
	l.gets(a, "10.4.0.0/16")
	if _, told, _ := a.Stats(); told != 4 {
		t.Errorf("told of %d prefixes, want each of 4 once", told)
	}
	if _, told, _ := b.Stats(); told != 2 {
		t.Errorf("told of %d prefixes, want each of 2 once", told)
	}
}

// A neighbour that does not come holds the others up for gatherLimit, and no longer.
func TestGatherLimit(t *testing.T) {
	l := crowd(t, nil)
	begin := time.Now()
	a := l.peer(2, 65001)
	l.gets(a, "10.1.0.0/16")
	if took := time.Since(begin); took < gatherLimit-time.Second {
		t.Errorf("told after %v, want %v", took, gatherLimit)
	}
}

// A restarted speaker is held back by GoBGP, until End-of-RIB, and only towards those with graceful restart.
func TestGatherNotAfterRestart(t *testing.T) {
	l := crowd(t, &Restart{})
	begin := time.Now()
	a := l.peer(2, 65001)
	l.gets(a, "10.1.0.0/16")
	if took := time.Since(begin); took > gatherLimit-time.Second {
		t.Errorf("told after %v", took)
	}
}

// What covers a tunnel's end is refused from when the end is known, and neighbours that sent nothing of the kind are not touched.
func TestEndpointsTouchOnlyTheirRoutes(t *testing.T) {
	l := newLab(t, passive("a", 2, 65001, accepting()), passive("b", 3, 65002, accepting()), passive("c", 4, 65003, accepting()))
	a, b, c := l.peer(2, 65001), l.peer(3, 65002), l.peer(4, 65003)
	announce(t, a, from4(2, 65001), "10.9.0.0/16")
	announce(t, c, from4(4, 65003), "10.8.0.0/16")
	l.gets(b, "10.8.0.0/16")
	l.gets(b, "10.9.0.0/16")
	covering, other := netip.MustParsePrefix("10.9.0.0/16"), netip.MustParsePrefix("10.8.0.0/16")
	time.Sleep(settleTime + 2*publishEvery) // what changed while the sessions came up is sent again
	_, before, _ := b.Stats()

	l.set(func(c *Config) { c.Endpoints = []netip.Addr{netip.MustParseAddr("10.9.1.1")} })
	if err := b.Wait(l.context(), func(m map[netip.Prefix]bgptest.Received) bool { _, ok := m[covering]; return !ok }); err != nil {
		t.Fatalf("%s covers the end of a tunnel and is announced: %v", covering, err)
	}
	l.set(func(c *Config) { c.Endpoints = []netip.Addr{netip.MustParseAddr("10.77.1.1")} })
	l.gets(b, covering.String())
	l.set(func(c *Config) { c.Endpoints = nil })
	time.Sleep(settleTime)
	if _, after, _ := b.Stats(); after != before+1 {
		t.Errorf("%d announcements, want one", after-before)
	}
	if n := b.Withdrawn(other); n > 0 {
		t.Errorf("%s was withdrawn %d times", other, n)
	}
}
