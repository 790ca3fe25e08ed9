package bgp

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"net/netip"
	"strings"
	"testing"
	"time"

	"sitewire/bgp/bgptest"
	"sitewire/bgp/policy"
)

// header makes a message whose header is as told.
func header(marker byte, length uint16, typ byte, body ...byte) []byte {
	m := bytes.Repeat([]byte{marker}, 16)
	m = binary.BigEndian.AppendUint16(m, length)
	return append(append(m, typ), body...)
}

// Whatever one peer sends, the process lives and the others do not notice.
func TestMalformed(t *testing.T) {
	// A new neighbour for each case: one that fails again and again is made to wait longer and longer.
	list := []Neighbour{passive("bad", 2, 65001, accepting()), passive("good", 3, 65002, accepting()), passive("witness", 4, 65003, accepting())}
	for i := range byte(60) {
		n := passive(fmt.Sprint("bad-", i), 100+i, 65001, accepting())
		n.RemoteIPv4 = hop4(2)
		list = append(list, n)
	}
	l := newLab(t, list...)
	good, witness := l.peer(3, 65002), l.peer(4, 65003)
	announce(t, good, from4(3, 65002), "10.3.0.0/16")
	l.gets(witness, "10.3.0.0/16")

	hop := bgptest.Attr(nil, 0x40, 3, hop4(2).AsSlice())
	origin := bgptest.Attr(nil, 0x40, 1, []byte{0})
	path := bgptest.Attr(nil, 0x40, 2, []byte{2, 1, 0, 0, 0xfd, 0xe9})
	prefix := []byte{16, 10, 2}
	update := func(nlri []byte, attrs ...[]byte) []byte {
		all := bytes.Join(attrs, nil)
		body := append([]byte{0, 0}, binary.BigEndian.AppendUint16(nil, uint16(len(all)))...)
		return bgptest.Message(bgptest.TypeUpdate, append(append(body, all...), nlri...))
	}

	// Before OPEN.
	early := []struct {
		name string
		raw  []byte
		code byte // of the NOTIFICATION; 0: the connection just ends, or waits for more
	}{
		{"unknown type", header(0xff, 19, 99), 1},
		{"type 0", header(0xff, 19, 0), 1},
		{"bad marker", header(0, 19, 4), 1},
		{"length 18", header(0xff, 18, 1), 1},
		{"length 65535", header(0xff, 65535, 2), 1},
		{"update", update(prefix, origin, path, hop), 5},
		{"empty open", header(0xff, 19, 1), 1},
		{"open version 9", header(0xff, 29, 1, 9, 0xfd, 0xe9, 0, 90, 10, 0, 0, 1, 0), 2},
		{"open cut short", header(0xff, 33, 1, 4, 0xfd, 0xe9, 0, 90, 10, 0, 0, 1, 30, 2, 28, 65, 4), 1},
		{"noise", bytes.Repeat([]byte("GET / HTTP/1.1\r\n"), 4), 1},
	}
	for i, tt := range early {
		t.Run("before open/"+tt.name, func(t *testing.T) {
			got := l.reaction(t, byte(150+i), tt.raw)
			t.Logf("answered %x", got)
			if code := notificationCode(got); code != tt.code {
				t.Errorf("NOTIFICATION %d, want %d", code, tt.code)
			}
			l.sound(t, good, witness)
		})
	}

	// On an established session. Where RFC 7606 says withdraw, the session stays.
	tests := []struct {
		name string
		raw  []byte
		ends bool
		want string // verdict of 10.2.0.0/16: "" none, "accepted"
	}{
		{"unknown type", header(0xff, 19, 99), true, ""},
		{"bad marker", header(0, 19, 4), true, ""},
		{"length 18", header(0xff, 18, 4), true, ""},
		{"second open", l.options(2, 65001).Open(), true, ""},
		{"origin of two bytes", update(prefix, bgptest.Attr(nil, 0x40, 1, []byte{0, 0}), path, hop), false, ""},
		{"origin 9", update(prefix, bgptest.Attr(nil, 0x40, 1, []byte{9}), path, hop), false, ""},
		{"no origin", update(prefix, path, hop), false, ""},
		{"no path", update(prefix, origin, hop), false, ""},
		{"no next hop", update(prefix, origin, path), false, ""},
		{"path of an unknown segment", update(prefix, origin, bgptest.Attr(nil, 0x40, 2, []byte{9, 1, 0, 0, 0xfd, 0xe9}), hop), false, ""},
		{"path cut short", update(prefix, origin, bgptest.Attr(nil, 0x40, 2, []byte{2, 9, 0, 0, 0xfd, 0xe9}), hop), false, ""},
		{"communities of three bytes", update(prefix, origin, path, hop, bgptest.Attr(nil, 0xc0, 8, []byte{1, 2, 3})), false, ""},
		{"large communities of five bytes", update(prefix, origin, path, hop, bgptest.Attr(nil, 0xc0, 32, []byte{1, 2, 3, 4, 5})), false, ""},
		{"AS4_PATH first", update(prefix, bgptest.Attr(nil, 0xc0, 17, []byte{2, 1, 0, 0, 0xfd, 0xe9}), origin, path, hop), false, "accepted"},
		{"empty prefix SID", update(prefix, origin, path, hop, bgptest.Attr(nil, 0xc0, 40, nil)), false, "any"},
		{"unknown optional attribute", update(prefix, origin, path, hop, bgptest.Attr(nil, 0xc0, 200, []byte{1})), false, "accepted"},
		{"prefix of 33 bits", update([]byte{33, 10, 2, 0, 0, 0}, origin, path, hop), true, ""},
	}
	for i, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			name := fmt.Sprint("bad-", i)
			o := l.options(byte(100+i), 65001)
			o.RouterID = netip.AddrFrom4([4]byte{10, 77, 0, byte(i)})
			p := l.dial(o)
			l.session(name, "up", func(s Session) bool { return s.State == Established })
			if err := p.Send(tt.raw); err != nil {
				t.Fatal(err)
			}
			if tt.ends {
				select {
				case <-p.Done():
				case <-time.After(patient):
					t.Error("the session stays")
				}
				if code, sub, ok := p.Notification(); ok {
					t.Logf("NOTIFICATION %d/%d", code, sub)
				} else {
					t.Error("no NOTIFICATION")
				}
			} else {
				// What follows on the same session is taken.
				announce(t, p, from4(2, 65001), "10.9.0.0/16")
				l.gets(witness, "10.9.0.0/16")
				// GoBGP tells us after it has told the witness, and in the order in which things came.
				l.feed.wait(t, "what followed", func() bool { return l.feed.path(name, "10.9.0.0/16") != nil })
				l.feed.mu.Lock()
				got := ""
				if path := l.feed.path(name, "10.2.0.0/16"); path != nil && path.Rejected == "" {
					got = "accepted"
				}
				l.feed.mu.Unlock()
				if got != tt.want && tt.want != "any" {
					t.Errorf("the route is %q, want %q", got, tt.want)
				}
			}
			p.Close()
			l.session(name, "down", func(s Session) bool { return s.State != Established })
			l.sound(t, good, witness)
		})
	}
	for _, s := range l.Snapshot().Sessions {
		if !strings.HasPrefix(s.Name, "bad") && s.Establishments != 1 {
			t.Errorf("%s lost its session: %+v", s.Name, s)
		}
	}
	if n := l.Snapshot().NotificationsSent["bad-0"]; n["Header/Bad Message Type"] == 0 {
		t.Errorf("notifications counted: %v", n)
	}
}

// reaction connects from 127.0.0.x, writes raw bytes, and returns what comes back until the connection ends. It tries
// again while it is turned away before GoBGP's own OPEN.
func (l *lab) reaction(t *testing.T, x byte, raw []byte) []byte {
	t.Helper()
	for l.context().Err() == nil {
		conn, err := bgptest.Connect(l.context(), l.options(x, 65001))
		if err != nil {
			t.Fatal(err)
		}
		if err := conn.SetDeadline(time.Now().Add(2 * time.Second)); err != nil {
			t.Fatal(err)
		}
		_, err = conn.Write(raw)
		got, _ := io.ReadAll(conn)
		conn.Close()
		if err == nil && len(got) > 0 {
			return got
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Fatal("always turned away")
	return nil
}

// notificationCode finds the error code of the last message in a stream, if it is a NOTIFICATION.
func notificationCode(stream []byte) byte {
	var last byte
	for len(stream) >= 19 {
		n := int(binary.BigEndian.Uint16(stream[16:]))
		if n < 19 || n > len(stream) {
			break
		}
		last = 0
		if stream[18] == bgptest.TypeNotification && n >= 21 {
			last = stream[19]
		}
		stream = stream[n:]
	}
	return last
}

// sound checks that routes still flow between the others.
func (l *lab) sound(t *testing.T, good, witness *bgptest.Peer) {
	t.Helper()
	announce(t, good, from4(3, 65002), "10.200.0.0/16")
	l.gets(witness, "10.200.0.0/16")
	withdraw(t, good, "10.200.0.0/16")
	l.absent(witness, "10.200.0.0/16")
	if _, ok := witness.Routes()[netip.MustParsePrefix("10.3.0.0/16")]; !ok {
		t.Error("the other neighbour's route is gone")
	}
}

func TestRefusals(t *testing.T) {
	p := accepting()
	p.MaxASPath = 3
	l := startLab(t, Config{
		ASN: ownASN, RouterID: routerID, Neighbours: []Neighbour{passive("a", 2, 65001, p), passive("b", 3, 65002, accepting())},
		Own: []netip.Prefix{netip.MustParsePrefix("10.50.0.0/16")}, Endpoints: []netip.Addr{netip.MustParseAddr("198.51.100.7"), netip.MustParseAddr("2001:db8::7")},
	})
	a, b := l.peer(2, 65001), l.peer(3, 65002)
	third := from4(2, 65001)
	third.NextHop = []netip.Addr{hop4(9)}
	set := from4(2, 65001)
	set.ASSet = []uint32{7}
	six := bgptest.Update{ASPath: []uint32{65001}, NextHop: []netip.Addr{hop6(2)}}
	for _, tt := range []struct {
		prefix string
		update bgptest.Update
		reason string
	}{
		{"127.0.0.0/8", from4(2, 65001), policy.Martian},
		{"ff00::/8", six, policy.Martian},
		{"0.0.0.0/0", from4(2, 65001), policy.DefaultRoute},
		{"128.0.0.0/1", from4(2, 65001), policy.DefaultRoute},
		{"::/0", six, policy.DefaultRoute},
		{"10.50.3.0/24", from4(2, 65001), policy.OwnPrefix},
		{"198.51.0.0/16", from4(2, 65001), policy.CoversTunnel},
		{"2001:db8::/32", six, policy.CoversTunnel},
		{"10.2.0.0/16", from4(2, 65009), policy.FirstAS},
		{"10.3.0.0/16", from4(2, 65001, 1, 2, 3), policy.ASPathLength},
		{"10.4.0.0/16", from4(2, 65001, 0), policy.ASZero},
		{"10.5.0.0/16", from4(2, 65001, ownASN), policy.ASLoop},
		{"10.6.0.0/16", third, policy.NextHop},
		{"10.7.0.0/16", set, ASSet},
	} {
		announce(t, a, tt.update, tt.prefix)
		l.feed.wait(t, tt.prefix, func() bool {
			path := l.feed.path("a", tt.prefix)
			return path != nil && path.Rejected == tt.reason && l.feed.bestOf(tt.prefix) == ""
		})
	}
	announce(t, a, from4(2, 65001), "10.1.0.0/16")
	l.gets(b, "10.1.0.0/16")
	l.eventually("what went on", func() string {
		got := map[netip.Prefix]string{}
		for p := range b.Routes() {
			got[p] = ""
		}
		return diff(map[netip.Prefix]string{netip.MustParsePrefix("10.1.0.0/16"): ""}, got)
	})
}
