package bgp

import (
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"testing"
	"time"

	"sitewire/bgp/bgptest"
)

// TestStuckInOpenConfirm: an end that lost a collision never sends its KEEPALIVE. The session is not left to the hold
// time.
func TestStuckInOpenConfirm(t *testing.T) {
	l := newLab(t, passive("nyc", 2, 65001, accepting()))
	o := l.options(2, 65001)
	o.HoldTime, o.RouterID = 90, netip.MustParseAddr("10.0.0.2")
	conn := opened(l, o)
	defer conn.Close()
	begin := time.Now()
	conn.SetReadDeadline(begin.Add(confirmTime + patient/2))
	if _, err := io.Copy(io.Discard, conn); errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatalf("still open after %v", time.Since(begin))
	}
	if d := time.Since(begin); d < confirmTime-time.Second {
		t.Errorf("given up after %v, want %v", d, confirmTime)
	}
	l.peer(2, 65001)
}

// Whether a session is still in OpenConfirm is not known while GoBGP's events are late, and nothing moves on while GoBGP deletes a large table,
// or walks one for what to send.
func TestOpenConfirmIsJudgedInTime(t *testing.T) {
	now := time.Now()
	a := netip.MustParseAddr("192.0.2.1")
	for name, c := range map[string]struct {
		since, free, late time.Duration // before now, and how late the last event was
		prefixes          int
		stuck             bool
	}{
		"waits":                     {since: confirmTime - 1, free: time.Hour},
		"waits for too long":        {since: confirmTime, free: time.Hour, stuck: true},
		"events are late":           {since: time.Minute, free: time.Hour, late: confirmTime},
		"a table was being deleted": {since: time.Minute, free: time.Second},
		"and is not any more":       {since: time.Minute, free: confirmTime, stuck: true},
		"a table is sent":           {since: 2 * confirmTime, free: time.Hour, prefixes: 1_000_000},
		"and nobody sends it":       {since: time.Minute, free: time.Hour, prefixes: 1_000_000, stuck: true},
	} {
		t.Run(name, func(t *testing.T) {
			n := &neighbour{session: session{state: OpenConfirm, since: now.Add(-c.since)}}
			l := &loop{
				Speaker: &Speaker{view: &view{byAddr: map[netip.Addr]*neighbour{a: n}, late: c.late, prefixes: [2]int{c.prefixes, 0}}},
				peers:   map[netip.Addr]*peer{a: {added: true}}, free: now.Add(-c.free),
			}
			if _, stuck := l.overdue(now); stuck[a] != c.stuck {
				t.Errorf("stuck: %t", stuck[a])
			}
		})
	}
}

// opened returns a connection on which both ends have sent their OPEN. GoBGP hangs up on a neighbour that it was told of but a moment
// ago, and on a busy machine that moment lasts.
func opened(l *lab, o bgptest.Options) net.Conn {
	l.t.Helper()
	ctx := l.context()
	for {
		conn, err := bgptest.Connect(ctx, o)
		if err == nil {
			if _, err = conn.Write(o.Open()); err == nil {
				conn.SetReadDeadline(time.Now().Add(patient))
				_, err = io.ReadFull(conn, make([]byte, 19)) // the header of its OPEN
			}
			if err == nil {
				return conn
			}
			conn.Close()
		}
		if ctx.Err() != nil {
			l.t.Fatalf("no OPEN came: %v", err)
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// TestGivesWay: RFC 4271 section 6.8 is not needed where only one end dials. The one with the higher address waits.
func TestGivesWay(t *testing.T) {
	for name, c := range map[string]struct {
		local, remote string
		passive       bool // the neighbour does not dial
		waits         bool
	}{
		"the higher address":                            {"127.0.0.9", "127.0.0.3", false, true},
		"the lower address":                             {"127.0.0.1", "127.0.0.3", false, false},
		"the higher address, to one that does not dial": {"127.0.0.9", "127.0.0.3", true, false},
	} {
		ln, err := net.Listen("tcp", net.JoinHostPort(c.remote, "0"))
		if err != nil {
			t.Fatal(err)
		}
		defer ln.Close()
		n := passive("nyc", 3, 65001, accepting())
		n.Passive, n.Waits, n.Port = false, c.passive, uint16(ln.Addr().(*net.TCPAddr).Port)
		n.LocalAddress = netip.MustParseAddr(c.local)
		n.ConnectRetry = 2 * time.Second
		begin := time.Now()
		newLab(t, n)
		ln.(*net.TCPListener).SetDeadline(begin.Add(patient))
		conn, err := ln.Accept()
		if err != nil {
			t.Fatalf("%s: never dialled: %v", name, err)
		}
		conn.Close()
		if d := time.Since(begin); (d >= giveWay) != c.waits {
			t.Errorf("%s: dialled after %v", name, d)
		}
	}
}
