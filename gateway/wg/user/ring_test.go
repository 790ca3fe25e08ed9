package user

import (
	"bytes"
	"encoding/binary"
	"net/netip"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"
	"golang.zx2c4.com/wireguard/conn"
)

// message is a datagram as the kernel would leave it in a slot.
type message struct {
	data    []byte
	from    string
	scope   uint32
	to      string // "": no packet information
	segment int
	flags   int32
}

// fill stands in for read.
func fill(t *testing.T, r *ring, messages ...message) {
	t.Helper()
	if !r.empty() {
		t.Fatal("a ring is filled only when it is empty")
	}
	if len(messages) > len(r.msgs) {
		r.resize(maxSlots)
	}
	r.head, r.at, r.filled = 0, 0, len(messages)
	for i, m := range messages {
		h := &r.msgs[i]
		h.n = uint32(copy(r.bufs[i], m.data))
		h.hdr.Flags = m.flags
		h.hdr.Namelen = putSockaddr(&r.names[i], netip.MustParseAddrPort(m.from), m.scope)
		control := r.ctrls[i*rxControl : i*rxControl : (i+1)*rxControl]
		if m.to != "" {
			to := netip.MustParseAddr(m.to)
			if to.Is4() {
				*(*unix.Inet4Pktinfo)(grow(&control, unix.IPPROTO_IP, unix.IP_PKTINFO, unix.SizeofInet4Pktinfo)) =
					unix.Inet4Pktinfo{Ifindex: 7, Spec_dst: to.As4(), Addr: to.As4()}
			} else {
				*(*unix.Inet6Pktinfo)(grow(&control, unix.IPPROTO_IPV6, unix.IPV6_PKTINFO, unix.SizeofInet6Pktinfo)) =
					unix.Inet6Pktinfo{Ifindex: 7, Addr: to.As16()}
			}
		}
		if m.segment > 0 {
			*(*int32)(grow(&control, unix.SOL_UDP, unix.UDP_GRO, 4)) = int32(m.segment)
		}
		h.hdr.SetControllen(len(control))
	}
}

type drained struct {
	data string
	ep   conn.Endpoint
}

// drainAll calls drain with batches of the given size until the ring is empty.
func drainAll(r *ring, batch int) (out []drained) {
	bufs, sizes, eps := make([][]byte, batch), make([]int, batch), make([]conn.Endpoint, batch)
	for i := range bufs {
		bufs[i] = make([]byte, 1<<16)
	}
	for !r.empty() {
		n := r.drain(bufs, sizes, eps)
		for i := range n {
			out = append(out, drained{string(bufs[i][:sizes[i]]), eps[i]})
		}
	}
	return out
}

func pattern(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(i*31 ^ i>>8)
	}
	return b
}

// What GRO merged comes out in the pieces it was, whatever the size of the caller's batch.
func TestRingCutsAndKeepsLeftovers(t *testing.T) {
	big := pattern(40_010)
	for _, batch := range []int{1, 3, 28, 29, 128} {
		r := newRing(func() uint64 { return 0 })
		fill(t, r,
			message{data: []byte("alone"), from: "192.0.2.1:1", to: "10.0.0.1"},
			message{data: big, from: "192.0.2.1:1", to: "10.0.0.1", segment: 1432},
			message{data: pattern(1432), from: "192.0.2.1:1", to: "10.0.0.1", segment: 1432},
			message{data: []byte("tail"), from: "192.0.2.2:2", to: "10.0.0.2"},
		)
		got := drainAll(r, batch)
		if want := 1 + 28 + 1 + 1; len(got) != want {
			t.Fatalf("batch %d: %d pieces, want %d", batch, len(got), want)
		}
		var all bytes.Buffer
		for i, d := range got[1:29] {
			if want := min(1432, len(big)-i*1432); len(d.data) != want {
				t.Fatalf("batch %d: piece %d has %d bytes, want %d", batch, i, len(d.data), want)
			}
			if d.ep != got[1].ep {
				t.Fatalf("batch %d: the pieces of one message have several endpoints", batch)
			}
			all.WriteString(d.data)
		}
		if !bytes.Equal(all.Bytes(), big) {
			t.Fatalf("batch %d: the pieces are not what was merged", batch)
		}
		last := got[len(got)-1]
		if got[0].data != "alone" || last.data != "tail" || last.ep.DstToString() != "192.0.2.2:2" || last.ep.SrcIP() != netip.MustParseAddr("10.0.0.2") {
			t.Fatalf("batch %d: first %q, last %q from %s", batch, got[0].data, last.data, last.ep.DstToString())
		}
	}
}

func TestRingDropsWhatCannotBeUsed(t *testing.T) {
	r := newRing(func() uint64 { return 0 })
	fill(t, r,
		message{from: "192.0.2.1:1"},
		message{data: []byte("cut off"), from: "192.0.2.1:1", flags: unix.MSG_TRUNC},
		message{data: []byte("good"), from: "[2001:db8::1]:9"},
	)
	*(*uint16)(unsafe.Pointer(&r.names[2])) = unix.AF_UNIX
	if got := drainAll(r, 8); len(got) != 0 {
		t.Errorf("handed out %v", got)
	}
	if n := r.drain(make([][]byte, 1), make([]int, 1), make([]conn.Endpoint, 1)); n != 0 {
		t.Errorf("an empty ring handed out %d datagrams", n)
	}
	// A piece larger than the caller's buffer is dropped, not truncated.
	fill(t, r, message{data: pattern(100), from: "192.0.2.1:1", segment: 60})
	bufs, sizes := [][]byte{make([]byte, 50), make([]byte, 50)}, make([]int, 2)
	if n := r.drain(bufs, sizes, make([]conn.Endpoint, 2)); n != 1 || sizes[0] != 40 || !r.empty() {
		t.Errorf("%d datagrams, the first of %d bytes", n, sizes[0])
	}
}

// A stream from one peer makes one endpoint; a new one is made when anything about it differs.
func TestRingReusesEndpoints(t *testing.T) {
	epoch := uint64(0)
	r := newRing(func() uint64 { return epoch })
	one := message{data: []byte("x"), from: "192.0.2.1:1", to: "10.0.0.1"}
	next := func(m message) *Endpoint {
		fill(t, r, m)
		return drainAll(r, 1)[0].ep.(*Endpoint)
	}
	first := next(one)
	if next(one) != first {
		t.Error("the same peer got another endpoint")
	}
	moved := one
	moved.to = "10.0.0.2"
	if e := next(moved); e == first || e.SrcIP() != netip.MustParseAddr("10.0.0.2") {
		t.Error("another local address must make another endpoint")
	}
	first = next(one)
	epoch++
	second := next(one)
	if second == first || second.src.Load().epoch != epoch {
		t.Error("a change of the underlay must make another endpoint")
	}
	second.ClearSrc()
	if third := next(one); third == second || !third.SrcIP().IsValid() || second.SrcIP().IsValid() {
		t.Error("a cleared source must be learnt again, by another endpoint")
	}
	roamed := one
	roamed.from = "192.0.2.1:2"
	if e := next(roamed); e.DstToString() != "192.0.2.1:2" {
		t.Errorf("roamed to %s", e.DstToString())
	}
	zone := message{data: []byte("x"), from: "[fe80::1]:5", scope: 3, to: "fe80::2"}
	if e := next(zone); e.DstToString() != "[fe80::1%3]:5" || e.src.Load().ifindex != 7 {
		t.Errorf("link-local endpoint %s, source %+v", e.DstToString(), e.src.Load())
	}
}

func TestRingGrowsWhenFilled(t *testing.T) {
	r := newRing(func() uint64 { return 0 })
	b := openBind(t, BindOptions{})
	s, err := listen(false, 0, "")
	must(t, err)
	defer s.close()
	_ = s.raw.Control(func(fd uintptr) { _ = unix.SetsockoptInt(int(fd), unix.IPPROTO_UDP, unix.UDP_GRO, 0) })
	to := endpoint(t, b, netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), s.port).String())
	const total = 2 * maxSlots
	for i := range total {
		must(t, b.Send([][]byte{{byte(i)}}, to))
	}
	var sizes []int
	for got := 0; got < total; {
		must(t, s.read(r))
		sizes = append(sizes, r.filled)
		for _, d := range drainAll(r, 7) {
			if d.data[0] != byte(got) {
				t.Fatalf("datagram %d arrived as number %d", d.data[0], got)
			}
			got++
		}
	}
	if sizes[0] != minSlots || sizes[1] != maxSlots {
		t.Errorf("reads of %v datagrams, want %d and then %d", sizes, minSlots, maxSlots)
	}
}

func TestParseControl(t *testing.T) {
	var b []byte
	b = append(b, make([]byte, 256)...)[:0]
	if src, seg := parseControl(nil); src.addr.IsValid() || seg != 0 {
		t.Error("something was read out of nothing")
	}
	b = putSource(b, &source{addr: netip.MustParseAddr("fe80::1"), ifindex: 9})
	*(*uint16)(grow(&b, unix.SOL_UDP, unix.UDP_GRO, 2)) = 1200
	src, seg := parseControl(b)
	if src.addr != netip.MustParseAddr("fe80::1") || src.ifindex != 9 || seg != 1200 {
		t.Errorf("source %+v, segment %d", src, seg)
	}
	if src, _ := parseControl(putSource(b[:0], &source{addr: netip.MustParseAddr("2001:db8::1"), ifindex: 9})); src.ifindex != 0 {
		t.Error("a global source must not pin the interface")
	}
	if src, _ := parseControl(putSource(b[:0], &source{addr: netip.MustParseAddr("10.0.0.1"), ifindex: 9})); src.ifindex != 0 {
		t.Error("an IPv4 source must not pin the interface")
	}
}

func FuzzParseControl(f *testing.F) {
	b := make([]byte, 0, 256)
	b = putSource(b, &source{addr: netip.MustParseAddr("10.0.0.1")})
	b = putSegment(b, 1200)
	f.Add(b)
	f.Add(binary.NativeEndian.AppendUint64(nil, 1<<40))
	f.Fuzz(func(t *testing.T, control []byte) {
		aligned := append(make([]byte, 0, len(control)+16), control...)
		if _, segment := parseControl(aligned); segment < 0 {
			t.Errorf("segment %d", segment)
		}
	})
}
