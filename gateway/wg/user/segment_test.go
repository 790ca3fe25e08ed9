package user

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"testing"

	"golang.org/x/sys/unix"
)

// plainSum is RFC 1071 as written, two bytes at a time.
func plainSum(b []byte) uint16 {
	var s uint32
	for i := 0; i < len(b); i += 2 {
		w := uint32(b[i]) << 8
		if i+1 < len(b) {
			w |= uint32(b[i+1])
		}
		s += w
		s = s&0xffff + s>>16
	}
	return uint16(s)
}

func TestSum(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	for n := range 300 {
		b := make([]byte, n)
		for i := range b {
			b[i] = byte(rng.Uint32() | 0xf0*uint32(n&1)) // many carries
		}
		got, want := fold(sum(b, 0)), plainSum(b)
		if got != want && got^want != 0xffff { // 0 and 0xffff are the same number
			t.Fatalf("%d bytes: sum %#x, want %#x", n, got, want)
		}
	}
	full := bytes.Repeat([]byte{0xff}, 1<<16)
	if got := fold(sum(full, ^uint64(0))); got != 0xffff {
		t.Errorf("sum of ones %#x", got)
	}
}

// frame makes a frame as the kernel would hand it over for segmentation.
func frame(v6, udp bool, payload []byte, options int, flags byte) (vnetHeader, []byte) {
	h := vnetHeader{flags: unix.VIRTIO_NET_HDR_F_NEEDS_CSUM, csumStart: 20, csumOff: 16}
	ip := make([]byte, 20)
	ip[0], ip[8], ip[9] = 0x45, 64, unix.IPPROTO_TCP
	binary.BigEndian.PutUint16(ip[4:], 0xfffe) // the identification wraps
	copy(ip[12:], netip.MustParseAddr("10.1.2.3").AsSlice())
	copy(ip[16:], netip.MustParseAddr("10.4.5.6").AsSlice())
	h.kind = unix.VIRTIO_NET_HDR_GSO_TCPV4
	if v6 {
		h.kind, h.csumStart = unix.VIRTIO_NET_HDR_GSO_TCPV6, 40
		ip = make([]byte, 40)
		ip[0], ip[6], ip[7] = 0x60, unix.IPPROTO_TCP, 64
		copy(ip[8:], netip.MustParseAddr("fd00::1").AsSlice())
		copy(ip[24:], netip.MustParseAddr("fd00::2").AsSlice())
	}
	transport := make([]byte, 20+options)
	binary.BigEndian.PutUint32(transport[4:], 0xfffffff0) // the sequence number wraps
	transport[12], transport[13] = byte(len(transport)/4)<<4, flags
	if udp {
		h.kind, h.csumOff, transport = unix.VIRTIO_NET_HDR_GSO_UDP_L4, 6, make([]byte, 8)
		ip[map[bool]int{false: 9, true: 6}[v6]] = unix.IPPROTO_UDP
	}
	binary.BigEndian.PutUint16(transport, 1234)
	binary.BigEndian.PutUint16(transport[2:], 5678)
	h.segment, h.headers = 1000, 9999 // the length of the headers is not to be trusted
	return h, append(append(ip, transport...), payload...)
}

// check verifies a packet's own lengths and checksums, and returns its payload.
func check(t *testing.T, p []byte, headers int) []byte {
	t.Helper()
	ip, proto, addrs := 20, p[9], p[12:20]
	if p[0]>>4 == 6 {
		ip, proto, addrs = 40, p[6], p[8:40]
		if got := int(binary.BigEndian.Uint16(p[4:])); got != len(p)-40 {
			t.Fatalf("IPv6 payload length %d of a packet of %d", got, len(p))
		}
	} else {
		if got := int(binary.BigEndian.Uint16(p[2:])); got != len(p) {
			t.Fatalf("IPv4 total length %d of a packet of %d", got, len(p))
		}
		if plainSum(p[:20]) != 0xffff {
			t.Fatal("IPv4 header checksum is wrong")
		}
	}
	pseudo := append(bytes.Clone(addrs), 0, proto, byte((len(p)-ip)>>8), byte(len(p)-ip))
	if got := plainSum(append(pseudo, p[ip:]...)); got != 0xffff {
		t.Fatalf("transport checksum is wrong: %#x", got)
	}
	if proto == unix.IPPROTO_UDP && int(binary.BigEndian.Uint16(p[ip+4:])) != len(p)-ip {
		t.Fatal("UDP length is wrong")
	}
	return p[headers:]
}

func TestSegmenter(t *testing.T) {
	for _, v6 := range []bool{false, true} {
		for _, udp := range []bool{false, true} {
			for _, size := range []int{1, 999, 1000, 1001, 5000, 60_001} {
				t.Run(fmt.Sprintf("v6=%v,udp=%v,%d", v6, udp, size), func(t *testing.T) {
					const fin, psh, ack, cwr = 1, 8, 16, 128
					payload := pattern(size)
					h, in := frame(v6, udp, payload, 12, fin|psh|ack|cwr)
					headers := len(in) - size
					ip := int(h.csumStart)
					var s segmenter
					if err := s.start(h, in); err != nil {
						t.Fatal(err)
					}
					var got bytes.Buffer
					out := make([]byte, 1<<16)
					for i := 0; !s.empty(); i++ {
						n := s.emit(out)
						body := check(t, out[:n], headers)
						last := got.Len()+len(body) == size
						if len(body) > 1000 || len(body) != 1000 && !last {
							t.Fatalf("packet %d carries %d bytes", i, len(body))
						}
						if !v6 && binary.BigEndian.Uint16(out[4:]) != 0xfffe+uint16(i) {
							t.Fatalf("packet %d: identification %#x", i, out[4:6])
						}
						if !udp {
							if seq, want := binary.BigEndian.Uint32(out[ip+4:]), 0xfffffff0+uint32(got.Len()); seq != want {
								t.Fatalf("packet %d: sequence number %#x, want %#x", i, seq, want)
							}
							want := byte(ack)
							if i == 0 {
								want |= cwr
							}
							if last {
								want |= fin | psh
							}
							if out[ip+13] != want {
								t.Fatalf("packet %d: flags %#x, want %#x", i, out[ip+13], want)
							}
						}
						got.Write(body)
					}
					if !bytes.Equal(got.Bytes(), payload) {
						t.Error("the payload changed")
					}
				})
			}
		}
	}
}

func TestSegmenterWholePackets(t *testing.T) {
	var s segmenter
	out := make([]byte, 1<<16)
	// The kernel leaves the sum of the pseudo header in the field.
	_, p := frame(false, false, pattern(333), 0, 0)
	for i := range 2 { // the IPv4 header of an unsegmented packet is complete
		binary.BigEndian.PutUint16(p[2:], uint16(len(p)))
		binary.BigEndian.PutUint16(p[10:], [2]uint16{0, ^plainSum(p[:20])}[i])
	}
	pseudo := append(bytes.Clone(p[12:20]), 0, unix.IPPROTO_TCP, byte((len(p)-20)>>8), byte(len(p)-20))
	binary.BigEndian.PutUint16(p[36:], plainSum(pseudo))
	must(t, s.start(vnetHeader{flags: unix.VIRTIO_NET_HDR_F_NEEDS_CSUM, csumStart: 20, csumOff: 16}, p))
	check(t, out[:s.emit(out)], 40)
	plain := pattern(77)
	must(t, s.start(vnetHeader{}, plain))
	if n := s.emit(out); !bytes.Equal(out[:n], pattern(77)) || !s.empty() {
		t.Error("a plain packet changed")
	}
	must(t, s.start(vnetHeader{}, plain))
	if n := s.emit(out[:76]); n != 0 || !s.empty() {
		t.Error("a packet that does not fit must be dropped")
	}
}

func FuzzSegmenter(f *testing.F) {
	for _, udp := range []bool{false, true} {
		h, in := frame(udp, udp, pattern(3000), 4, 16)
		f.Add(h.flags, h.kind, h.segment, h.csumStart, h.csumOff, in)
	}
	f.Fuzz(func(t *testing.T, flags, kind uint8, segment, csumStart, csumOff uint16, in []byte) {
		if len(in) > 1<<16 {
			return
		}
		var s segmenter
		if s.start(vnetHeader{flags, kind, 0, segment, csumStart, csumOff}, in) != nil {
			if !s.empty() {
				t.Error("a refused frame is half taken")
			}
			return
		}
		out := make([]byte, 1<<16)
		for packets, bytes := 0, 0; !s.empty(); packets++ {
			bytes += s.emit(out)
			if packets > len(in) {
				t.Fatalf("%d bytes make more than %d packets", len(in), packets)
			}
		}
	})
}
