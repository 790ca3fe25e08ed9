package user

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"
)

// flowPackets are the packets of one flow, as they come out of a tunnel: segments of 1000 bytes of a payload of that size.
func flowPackets(t testing.TB, v6, udp bool, port uint16, size, options int) (list [][]byte) {
	t.Helper()
	const ack, psh = 0x10, 0x08
	h, in := frame(v6, udp, pattern(size), options, ack|psh)
	binary.BigEndian.PutUint16(in[h.csumStart:], port)
	var s segmenter
	must(t, s.start(h, in))
	for out := make([]byte, 1<<16); !s.empty(); {
		list = append(list, bytes.Clone(out[:s.emit(out)]))
	}
	return list
}

// batchOf puts packets where wireguard-go has them: behind room for a header.
func batchOf(packets [][]byte) (bufs [][]byte) {
	const offset = 16
	for _, p := range packets {
		bufs = append(bufs, append(bytes.Repeat([]byte{0xee}, offset), p...))
	}
	return bufs
}

// frames merges packets, and cuts what the kernel would get into packets again, as it would.
func frames(t testing.TB, packets [][]byte, udp bool) (out [][]byte, count int) {
	t.Helper()
	var m merger
	m.start(batchOf(packets), 16, udp)
	for i := range m.groups {
		var whole []byte
		for _, v := range m.frame(&m.groups[i]) {
			whole = append(whole, unsafe.Slice(v.Base, v.Len)...)
		}
		var s segmenter
		must(t, s.start(parseVnet(whole), whole[vnetLen:]))
		for buf := make([]byte, 1<<16); !s.empty(); {
			out = append(out, bytes.Clone(buf[:s.emit(buf)]))
		}
	}
	return out, len(m.groups)
}

func TestMergerJoins(t *testing.T) {
	for _, v6 := range []bool{false, true} {
		for _, udp := range []bool{false, true} {
			t.Run(fmt.Sprintf("v6=%v,udp=%v", v6, udp), func(t *testing.T) {
				a, b := flowPackets(t, v6, udp, 1, 39_500, 12), flowPackets(t, v6, udp, 2, 20_000, 0)
				var mixed [][]byte
				for i := range a {
					mixed = append(mixed, a[i])
					if i < len(b) {
						mixed = append(mixed, b[i])
					}
				}
				got, n := frames(t, mixed, true)
				if n != 2 {
					t.Errorf("two flows came as %d frames", n)
				}
				for i, want := range append(a, b...) {
					if !bytes.Equal(got[i], want) {
						t.Fatalf("packet %d changed:\n%x\n%x", i, got[i], want)
					}
				}
				if _, n := frames(t, mixed, false); udp && n != len(mixed) {
					t.Errorf("%d datagrams came as %d frames where the kernel takes none merged", len(mixed), n)
				}
			})
		}
	}
}

func TestMergerLimits(t *testing.T) {
	long := flowPackets(t, false, false, 1, 64_500, 0)
	if len(long) != 65 {
		t.Fatalf("%d packets", len(long))
	}
	if _, n := frames(t, long, true); n != 2 {
		t.Errorf("65 packets came as %d frames, want one of 64 and one of 1", n)
	}
	big := flowPackets(t, false, false, 1, 65_000, 0)
	var huge [][]byte
	for i := range 60 { // 1,400 bytes each
		p := append(bytes.Clone(big[0]), pattern(400)...)
		binary.BigEndian.PutUint32(p[24:], 0xfffffff0+uint32(i)*1400)
		binary.BigEndian.PutUint16(p[4:], 0xfffe+uint16(i))
		huge = append(huge, fixed(p))
	}
	if out, n := frames(t, huge, true); n != 2 || len(out) != len(huge) {
		t.Errorf("84,000 bytes came as %d frames and %d packets, want 2 and %d", n, len(out), len(huge))
	}
}

// fixed makes lengths and checksums of an IPv4 or IPv6 packet right.
func fixed(p []byte) []byte {
	be := binary.BigEndian
	q, csum := packet{data: p, ip: 20, proto: p[9]}, 16
	if p[0]>>4 == 6 {
		q.ip, q.proto = 40, p[6]
		be.PutUint16(p[4:], uint16(len(p)-40))
	} else {
		be.PutUint16(p[2:], uint16(len(p)))
		be.PutUint16(p[10:], 0)
		be.PutUint16(p[10:], ^plainSum(p[:20]))
	}
	t := q.transport()
	if q.proto == unix.IPPROTO_UDP {
		csum = 6
		be.PutUint16(t[4:], uint16(len(t)))
	}
	be.PutUint16(t[csum:], 0)
	be.PutUint16(t[csum:], ^fold(sum(t, q.pseudo(len(t)))))
	return p
}

// disturb makes one packet differ from what its flow would go on with. Some ways leave it valid, others do not.
func disturb(rng *rand.Rand, p []byte) (what string) {
	ip := 20
	if p[0]>>4 == 6 {
		ip = 40
	}
	tcp := p[9] == unix.IPPROTO_TCP && ip == 20 || p[6] == unix.IPPROTO_TCP && ip == 40
	repair := true
	switch k := rng.IntN(9); {
	case k == 0:
		what, repair = "broken payload", false
		p[len(p)-1] ^= 1
	case k == 1 && ip == 20:
		what, repair = "broken IP header", false
		p[10] ^= 1
	case k == 2:
		what = "traffic class"
		p[1] ^= 0x10
	case k == 3:
		what = "hop limit"
		p[map[int]int{20: 8, 40: 7}[ip]]--
	case k == 4 && ip == 20:
		what = "fragment"
		p[6] |= 0x20
	case k == 5 && tcp:
		what = "acknowledgement"
		p[ip+11]++
	case k == 6 && tcp:
		what = "flags"
		p[ip+13] |= byte(1) << rng.IntN(8)
	case k == 7 && tcp:
		what = "window"
		p[ip+15]++
	default:
		what = "identification or flow label"
		p[map[int]int{20: 5, 40: 3}[ip]] ^= 0x40
	}
	if repair {
		fixed(p)
	}
	return what
}

// TestMergerKeepsPackets merges flows that are mixed and disturbed at random. What the kernel would make of the frames must be the packets
// that came, each flow in its order, and nothing may pass a packet that belongs to no known flow.
func TestMergerKeepsPackets(t *testing.T) {
	rng := rand.New(rand.NewPCG(3, 4))
	flowOf := func(p []byte) string {
		if q, ok := parse(p, true); ok {
			return fmt.Sprintf("%x %x", q.data[0]>>4, q.transport()[:4])
		}
		return "none"
	}
	merged := 0
	for round := range 2000 {
		var flows [][][]byte
		for port := range 1 + rng.IntN(5) {
			flows = append(flows, flowPackets(t, rng.IntN(2) == 0, rng.IntN(2) == 0, uint16(port), 1+rng.IntN(12_000), 4*rng.IntN(4)))
		}
		var in [][]byte
		var how []string
		for len(flows) > 0 {
			k := rng.IntN(len(flows))
			p := flows[k][0]
			if flows[k] = flows[k][1:]; len(flows[k]) == 0 {
				flows = append(flows[:k], flows[k+1:]...)
			}
			if rng.IntN(8) == 0 {
				how = append(how, fmt.Sprint(len(in), ": ", disturb(rng, p)))
			}
			in = append(in, p)
		}
		want := make([][]byte, len(in)) // merging writes headers
		for i := range in {
			want[i] = bytes.Clone(in[i])
		}
		got, n := frames(t, in, true)
		merged += len(in) - n
		if len(got) != len(want) {
			t.Fatalf("round %d: %d packets of %d; %v", round, len(got), len(want), how)
		}
		byFlow := func(list [][]byte) map[string][][]byte {
			m := map[string][][]byte{}
			for _, p := range list {
				m[flowOf(p)] = append(m[flowOf(p)], p)
			}
			return m
		}
		have := byFlow(got)
		for flow, list := range byFlow(want) {
			for i, p := range list {
				if i >= len(have[flow]) || !bytes.Equal(have[flow][i], p) {
					t.Fatalf("round %d: flow %s: packet %d changed or moved; %v", round, flow, i, how)
				}
			}
		}
		for i, p := range want { // what came before a packet of no flow is before it
			if flowOf(p) == "none" && !bytes.Equal(got[i], p) {
				t.Fatalf("round %d: packet %d of no flow was passed; %v", round, i, how)
			}
		}
	}
	if merged < 2000 {
		t.Errorf("only %d packets were merged at all", merged)
	}
}

func FuzzMerger(f *testing.F) {
	for _, p := range [][]byte{flowPackets(f, false, false, 1, 100, 0)[0], flowPackets(f, true, true, 1, 100, 0)[0]} {
		f.Add(p, p)
	}
	f.Fuzz(func(t *testing.T, a, b []byte) {
		if len(a) == 0 || len(b) == 0 || len(a) > 1<<15 || len(b) > 1<<15 {
			return
		}
		want := [][]byte{bytes.Clone(a), bytes.Clone(b)}
		got, _ := frames(t, [][]byte{a, b}, true)
		for i := range want {
			if !bytes.Equal(got[i], want[i]) {
				t.Fatalf("packet %d:\n%x\n%x", i, got[i], want[i])
			}
		}
	})
}
