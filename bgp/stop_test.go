package bgp

import (
	"bytes"
	"fmt"
	"net/netip"
	"runtime/pprof"
	"testing"
	"time"

	"sitewire/bgp/bgptest"
)

// A stop tells every neighbour. With small tables GoBGP does it alone; with large ones all are told before it drops the first, and only
// then GoBGP races with itself.
func TestStopTellsAll(t *testing.T) {
	for _, c := range []struct {
		name     string
		prefixes int // from each neighbour
		large    bool
	}{
		{"small tables", 20, false},
		{"large tables", tellFirst / 10, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			if c.large {
				gobgpRaces(t, "gobgp-session-end", "overwrites a published configuration when sessions end while paths are on their way")
			}
			testStopTellsAll(t, c.prefixes, c.large)
		})
	}
}

func testStopTellsAll(t *testing.T, prefixes int, large bool) {
	const neighbours = 10
	c := Config{ASN: ownASN, RouterID: routerID}
	for i := range byte(neighbours) {
		c.Neighbours = append(c.Neighbours, passive(fmt.Sprintf("n%d", i), 10+i, 65001+uint32(i), accepting()))
	}
	l := startLab(t, c)
	var peers []*bgptest.Peer
	for i := range byte(neighbours) {
		p := l.peer(10+i, 65001+uint32(i))
		announceMany(t, p, from4(10+i, 65001+uint32(i)), 100+i, prefixes)
		peers = append(peers, p)
	}
	for i := range neighbours {
		l.session(fmt.Sprintf("n%d", i), "complete", func(s Session) bool { return s.State == Established && s.IPv4 != nil && s.IPv4.Received == prefixes })
	}
	if told := l.view.received() >= tellFirst; told != large {
		t.Fatalf("told before: %t", told)
	}
	l.end()
	for i, p := range peers {
		select {
		case <-p.Done():
		case <-time.After(patient):
			t.Errorf("the session with neighbour %d did not end", i)
		}
		if code, _, told := p.Notification(); !told || code != 6 {
			t.Errorf("neighbour %d was not told (NOTIFICATION %d)", i, code)
		}
	}
}

// announceMany announces so many prefixes of first.0.0.0/8.
func announceMany(t *testing.T, p *bgptest.Peer, u bgptest.Update, first byte, prefixes int) {
	t.Helper()
	for from := 0; from < prefixes; from += 500 {
		u.Prefixes = nil
		for j := from; j < min(from+500, prefixes); j++ {
			u.Prefixes = append(u.Prefixes, netip.PrefixFrom(netip.AddrFrom4([4]byte{first, byte(j >> 8), byte(j), 0}), 24))
		}
		announce(t, p, u)
	}
}

// Nothing is left of a session that is taken away while another neighbour has the same paths: no queue that GoBGP goes on to hold.
func TestLostSessionLeavesNothing(t *testing.T) {
	l := newLab(t, passive("a", 2, 65001, accepting()), passive("b", 3, 65002, accepting()))
	const prefixes = 3000
	table := func(x byte, asn uint32) *bgptest.Peer {
		p := l.peer(x, asn)
		announceMany(t, p, from4(x, asn), 100, prefixes)
		return p
	}
	complete := func(s Session) bool {
		return s.State == Established && s.IPv4 != nil && s.IPv4.Received == prefixes
	}
	table(3, 65002)
	l.session("b", "complete", complete)
	queues := func() int {
		var b bytes.Buffer
		if err := pprof.Lookup("goroutine").WriteTo(&b, 2); err != nil {
			t.Fatal(err)
		}
		return bytes.Count(b.Bytes(), []byte("InfiniteChannel).infiniteBuffer("))
	}
	before := queues()
	if before == 0 {
		t.Fatal("no queue found: GoBGP has others now")
	}
	for range 3 {
		p := table(2, 65001)
		l.session("a", "complete", complete)
		l.SetLiveness("a", false)
		l.ended(p)
		l.session("a", "gone", func(s Session) bool { return s.State == Idle && s.IPv4.Received == 0 })
		l.SetLiveness("a", true)
	}
	l.peer(2, 65001)
	for limit := time.Now().Add(patient); queues() > before; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(limit) {
			t.Fatalf("%d queues, %d before", queues(), before)
		}
	}
}
