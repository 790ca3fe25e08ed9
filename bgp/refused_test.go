package bgp

import (
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"sitewire/bgp/bgptest"
)

// TestWrongASN: RFC 4271 section 6.2, Bad Peer AS. Whoever refuses, the session says what to look at.
func TestWrongASN(t *testing.T) {
	says := func(l *lab, name string) {
		t.Helper()
		l.session(name, "its cause", func(s Session) bool { return strings.Contains(s.LastError, "compare asn at both ends") })
	}
	t.Run("the neighbour refuses", func(t *testing.T) {
		ln, err := net.Listen("tcp", "127.0.0.3:0")
		if err != nil {
			t.Fatal(err)
		}
		defer ln.Close()
		go func() {
			for {
				conn, err := ln.Accept()
				if err != nil {
					return
				}
				conn.Write(bgptest.Options{ASN: 65001, HoldTime: 90, RouterID: netip.MustParseAddr("10.0.0.3")}.Open())
				conn.Write(bgptest.Message(3, []byte{2, 2})) // OPEN Message Error, Bad Peer AS
				time.AfterFunc(time.Second, func() { conn.Close() })
			}
		}()
		n := passive("nyc", 3, 65001, accepting())
		n.Passive, n.Port, n.ConnectRetry = false, uint16(ln.Addr().(*net.TCPAddr).Port), 2*time.Second
		says(newLab(t, n), "nyc")
	})
	t.Run("we refuse", func(t *testing.T) {
		l := newLab(t, passive("nyc", 2, 65001, accepting()))
		for range 3 {
			conn, err := bgptest.Connect(l.context(), l.options(2, 65009))
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			o := l.options(2, 65009)
			o.HoldTime, o.RouterID = 90, netip.MustParseAddr("10.0.0.2")
			if _, err := conn.Write(o.Open()); err != nil {
				t.Fatal(err)
			}
			time.Sleep(time.Second)
		}
		says(l, "nyc")
	})
}
