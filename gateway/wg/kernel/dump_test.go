package kernel

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"sitewire/gateway/wg"
	"sitewire/gateway/wg/wgtest"
	"sitewire/topologies/netns/nstest"
)

// recorded are the messages of a dump with everything in it: a peer over several messages, both families, endpoints, a left-over.
func recorded(t testing.TB) (msgs [][]byte, want []wg.AllowedIP) {
	t.Helper()
	f := newFakeKernel(true)
	f.perMessage = 4
	d := fakeDevice(t, f, Options{})
	a := wgtest.Peer("a")
	a.PresharedKey, a.Endpoint = wgtest.PrivateKey("psk"), netip.MustParseAddrPort("[fe80::1%wan1]:51820")
	want = slices.Concat(wgtest.Allowed("a", "10.0.0.0/8", "fd00::/8", "0.0.0.0/0", "::/0", "192.0.2.1/32", "2001:db8::1/128"), wgtest.Allowed("b", "10.1.0.0/16"))
	must(t, d.Apply(t.Context(), wg.Delta{SetPeers: []wg.PeerConfig{a, wgtest.Peer("empty"), wgtest.Peer("b")}, Allow: want}))
	foreign(t, f, func(m *message) { m.beginPeer(parkingKey(), 0); m.addAllowed(netip.MustParsePrefix("10.9.0.0/16"), 0) })
	must(t, f.dump(getDevice(fakeIndex), func(msg []byte) error { msgs = append(msgs, bytes.Clone(msg)); return nil }))
	return msgs, want
}

func TestSplitPeerIsMerged(t *testing.T) {
	msgs, want := recorded(t)
	if len(msgs) < 3 {
		t.Fatalf("%d messages", len(msgs))
	}
	var s state
	s.reset(true)
	for _, m := range msgs {
		must(t, s.add(m))
	}
	if len(s.peers) != 3 || len(s.parked) != 1 || s.scopes[0] != 1 || !slices.Equal(sorted(s.allowed), sorted(want)) {
		t.Errorf("%d peers, %d left over, scopes %v, allowed-IPs %v", len(s.peers), len(s.parked), s.scopes, s.allowed)
	}
	if s.public != wgtest.PrivateKey("self").Public() {
		t.Error("public key")
	}
	for name := range map[string]bool{"self": true, "psk": true} {
		secret := wgtest.PrivateKey(name)
		for i, m := range msgs {
			if bytes.Contains(m, secret[:]) {
				t.Errorf("message %d still holds the secret of %s", i, name)
			}
		}
	}
	// Without allowed-IPs it is the same, but for those.
	again, _ := recorded(t)
	s.reset(false)
	for _, m := range again {
		must(t, s.add(m))
	}
	if len(s.peers) != 3 || len(s.allowed) != 0 {
		t.Errorf("%d peers, %d allowed-IPs", len(s.peers), len(s.allowed))
	}
}

// Truncated anywhere, a message is refused or read as what is whole of it; it never adds what was not there.
func TestTruncatedMessages(t *testing.T) {
	msgs, want := recorded(t)
	for i, m := range msgs {
		for n := range len(m) {
			var s state
			s.reset(true)
			if err := s.add(m[:n]); err != nil && !errors.Is(err, errMalformed) {
				t.Fatalf("message %d cut to %d bytes: %v", i, n, err)
			}
			for _, a := range s.allowed {
				if !slices.Contains(want, a) {
					t.Fatalf("message %d cut to %d bytes made up %v", i, n, a)
				}
			}
		}
	}
}

func FuzzDump(f *testing.F) {
	msgs, _ := recorded(f)
	for _, m := range msgs {
		f.Add(m, m)
	}
	f.Add([]byte{}, []byte{0, 1, 0, 0, 8, 0, 8, 0x80, 4, 0, 0, 0x80})
	f.Fuzz(func(t *testing.T, one, two []byte) {
		var s, quick state
		s.reset(true)
		quick.reset(false)
		for _, m := range [][]byte{one, two} {
			copied := bytes.Clone(m)
			err := s.add(m)
			if e := quick.add(copied); e != nil && err == nil {
				t.Fatalf("only without allowed-IPs: %v", e)
			}
			if err != nil {
				if !errors.Is(err, errMalformed) {
					t.Fatal(err)
				}
				return
			}
		}
		if !slices.Equal(s.peers, quick.peers) || !slices.Equal(s.parked, quick.parked) {
			t.Fatalf("peers %v with allowed-IPs, %v without", s.peers, quick.peers)
		}
		known := map[wg.PublicKey]bool{}
		for _, p := range s.peers {
			known[p.PublicKey] = true
		}
		for _, a := range s.allowed {
			if !a.Prefix.IsValid() || !known[a.Peer] {
				t.Fatalf("allowed-IP %v of peer %s", a.Prefix, a.Peer)
			}
		}
	})
}

// A dump costs nothing per entry but the entry.
func TestDumpAllocations(t *testing.T) {
	f := newFakeKernel(true)
	f.perMessage = 2000
	d := fakeDevice(t, f, Options{})
	var list []wg.AllowedIP
	key := wgtest.Peer("a").PublicKey
	for i := range 1000 {
		list = append(list, wg.AllowedIP{Prefix: netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(i >> 8), byte(i), 0}), 24), Peer: key})
	}
	must(t, d.Apply(t.Context(), wg.Delta{SetPeers: []wg.PeerConfig{wgtest.Peer("a")}, Allow: list}))
	var msg []byte
	must(t, f.dump(getDevice(fakeIndex), func(m []byte) error { msg = bytes.Clone(m); return nil }))
	s := state{allowed: make([]wg.AllowedIP, 0, 1000), peers: make([]wg.PeerStats, 0, 1)}
	if n := testing.AllocsPerRun(20, func() {
		s.reset(true)
		if err := s.add(msg); err != nil || len(s.allowed) != 1000 {
			t.Fatal(err, len(s.allowed))
		}
	}); n != 0 {
		t.Errorf("%v allocations for 1,000 entries", n)
	}
	var m message
	m.reset(fakeIndex)
	if n := testing.AllocsPerRun(20, func() {
		m.reset(fakeIndex)
		m.beginPeer(list[0].Peer, peerUpdateOnly)
		for _, a := range list {
			m.addAllowed(a.Prefix, allowedRemove)
		}
	}); n != 0 {
		t.Errorf("%v allocations to write 1,000 entries", n)
	}
}

// The socket's own part of a dump, on the family that every kernel has: the controller, which lists the families.
func TestDumpOverSocket(t *testing.T) {
	c, err := dialFamily("nlctrl")
	must(t, err)
	defer c.close()
	const getFamily, nameAttr = 3, 2
	for range 3 { // the socket can be used again
		names := map[string]bool{}
		must(t, c.dump([]byte{getFamily, 2, 0, 0}, func(msg []byte) error {
			a := attrs{rest: msg[genlHeaderLen:]}
			for a.next() {
				if a.typ == nameAttr {
					names[string(bytes.TrimRight(a.val, "\x00"))] = true
				}
			}
			if a.bad {
				return errMalformed
			}
			return nil
		}))
		if !names["nlctrl"] {
			t.Errorf("families %v", names)
		}
		// An error of the receiver ends up with the caller, and the rest of the answer is read.
		boom := errors.New("boom")
		if err := c.dump([]byte{getFamily, 2, 0, 0}, func([]byte) error { return boom }); err != boom {
			t.Errorf("error %v", err)
		}
		// And so does one of the kernel.
		if err := c.dump([]byte{99, 2, 0, 0}, func([]byte) error { return nil }); !errors.Is(err, unix.EOPNOTSUPP) {
			t.Errorf("error %v, want EOPNOTSUPP", err)
		}
		if err := c.set([]byte{99, 2, 0, 0}); !errors.Is(err, unix.EOPNOTSUPP) {
			t.Errorf("error %v, want EOPNOTSUPP", err)
		}
	}
}

// What the kernel says of a failure is passed on, in whichever message it comes.
func TestAnswer(t *testing.T) {
	if binary.NativeEndian.Uint16([]byte{1, 0}) != 1 {
		t.Skip("the bytes below are of a little-endian machine")
	}
	request := strings.Repeat("00", headerLen)
	text := "0b000100" + hex.EncodeToString([]byte("bad bit\x00"))[:14] + "00" // NLMSGERR_ATTR_MSG, 7 bytes
	for name, c := range map[string]struct {
		typ, flags uint16
		body, want string
	}{
		"acknowledged":           {unix.NLMSG_ERROR, 0, "00000000" + request, ""},
		"end of a dump":          {unix.NLMSG_DONE, 0, "00000000", ""},
		"end without a body":     {unix.NLMSG_DONE, 0, "", ""},
		"error":                  {unix.NLMSG_ERROR, 0, "eaffffff" + request, "invalid argument"},
		"error with a sentence":  {unix.NLMSG_ERROR, unix.NLM_F_ACK_TLVS, "eaffffff" + request + text, "invalid argument: bad bit"},
		"error ends a dump":      {unix.NLMSG_DONE, unix.NLM_F_ACK_TLVS, "edffffff" + text, "no such device: bad bit"},
		"error that is cut":      {unix.NLMSG_ERROR, unix.NLM_F_ACK_TLVS, "eaffffff" + request[:8], "invalid argument"},
		"sentence that is cut":   {unix.NLMSG_ERROR, unix.NLM_F_ACK_TLVS, "eaffffff" + request + text[:12], "invalid argument"},
		"another attribute":      {unix.NLMSG_ERROR, unix.NLM_F_ACK_TLVS, "eaffffff" + request + "0800020000000000", "invalid argument"},
		"sentence after another": {unix.NLMSG_ERROR, unix.NLM_F_ACK_TLVS, "eaffffff" + request + "0800020000000000" + text, "invalid argument: bad bit"},
	} {
		got := ""
		if err := answer(c.typ, c.flags, unhex(t, c.body)); err != nil {
			got = err.Error()
			if !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENODEV) {
				t.Errorf("%s: %v has no errno", name, err)
			}
		}
		if got != c.want {
			t.Errorf("%s: %q, want %q", name, got, c.want)
		}
	}
}

// On a kernel without the module the answer says so; with it, there is none. Open agrees.
func TestProbeAgreesWithOpen(t *testing.T) {
	ns := nstest.NS(t, "probe")
	must(t, ns.Do(func() error {
		err := Probe(t.Context())
		u, unavailable := errors.AsType[*Unavailable](err)
		if err != nil && !unavailable || unavailable && u.Fix == "" {
			t.Errorf("%v, want nothing or an *Unavailable that says what to do", err)
		}
		d, openErr := Open(t.Context(), config("wg0", "self"), Options{})
		if openErr == nil {
			must(t, d.Close(true))
		}
		if _, same := errors.AsType[*Unavailable](openErr); same != unavailable {
			t.Errorf("probe: %v; open: %v", err, openErr)
		}
		return nil
	}))
}
