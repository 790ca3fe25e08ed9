package fib

import (
	"encoding/binary"
	"encoding/hex"
	"net/netip"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

// golden rows and the messages that they are by rtnetlink(7), little endian; TestForms shows that the kernel agrees.
var golden = []struct {
	name string
	row  row
	hex  string
}{
	{"IPv4 through a device", row{dst: p("10.1.0.0/16"), table: 254, protocol: 83, scope: unix.RT_SCOPE_LINK, kind: unix.RTN_UNICAST, metric: 512, hops: []nexthop{{index: 7}}},
		"3c000000" + "1800" + "0105" + "2a000000" + "00000000" + // header: RTM_NEWROUTE, request+replace+create, 42
			"02100000" + "fe53fd01" + "00000000" +
			"08000100" + "0a010000" + // RTA_DST
			"08000f00" + "fe000000" + // RTA_TABLE
			"08000600" + "00020000" + // RTA_PRIORITY
			"08000400" + "07000000"}, // RTA_OIF
	{"IPv4 through IPv6, onlink, source, large table", row{dst: p("10.1.2.3/32"), table: 4242, protocol: 83, kind: unix.RTN_UNICAST, metric: 512, src: ip("10.9.9.9"), hops: []nexthop{{index: 7, via: ip("fd00::9"), onlink: true}}},
		"5c000000" + "1800" + "0105" + "2a000000" + "00000000" +
			"02200000" + "fc530001" + "04000000" + // RTNH_F_ONLINK
			"08000100" + "0a010203" +
			"08000f00" + "92100000" +
			"08000600" + "00020000" +
			"08000700" + "0a090909" + // RTA_PREFSRC
			"08000400" + "07000000" +
			"16001200" + "0a00" + "fd000000000000000000000000000009" + "0000"}, // RTA_VIA
	{"IPv6 multipath", row{dst: p("2001:db8::/32"), table: 254, protocol: 83, kind: unix.RTN_UNICAST, metric: 512, hops: []nexthop{{index: 7, via: devOnly}, {index: 8, via: ip("fe80::9")}}},
		"7c000000" + "1800" + "0105" + "2a000000" + "00000000" +
			"0a200000" + "fe530001" + "00000000" +
			"14000100" + "20010db8000000000000000000000000" +
			"08000f00" + "fe000000" +
			"08000600" + "00020000" +
			"3c000900" + // RTA_MULTIPATH
			"1c00" + "0000" + "07000000" + "14000500" + "fe800000000000007369746577697265" +
			"1c00" + "0000" + "08000000" + "14000500" + "fe800000000000000000000000000009"},
	{"IPv6 unreachable", row{dst: p("fd00::/8"), table: 254, protocol: 83, kind: unix.RTN_UNREACHABLE, metric: UnreachableMetric},
		"40000000" + "1800" + "0105" + "2a000000" + "00000000" +
			"0a080000" + "fe530007" + "00000000" +
			"14000100" + "fd000000000000000000000000000000" +
			"08000f00" + "fe000000" +
			"08000600" + "ffffffff"},
}

func TestEncode(t *testing.T) {
	if binary.NativeEndian.Uint16([]byte{1, 0}) != 1 {
		t.Skip("SKIP-REASON kind=cpu name=little-endian why=\"the goldens are written for little endian\"")
	}
	for _, g := range golden {
		t.Run(g.name, func(t *testing.T) {
			b := g.row.append(nil, unix.RTM_NEWROUTE, unix.NLM_F_CREATE|unix.NLM_F_REPLACE, 42)
			if diff := cmp.Diff(g.hex, hex.EncodeToString(b)); diff != "" {
				t.Fatal(diff)
			}
			for h, body := range messages(b) {
				got, ok := parseRow(body)
				if !ok || h.typ != unix.RTM_NEWROUTE || h.seq != 42 {
					t.Fatalf("header %+v, %v", h, ok)
				}
				want := g.row
				if len(want.hops) == 0 {
					want.hops = nil
				}
				if got.dst != want.dst || got.table != want.table || got.metric != want.metric || got.src != want.src || got.kind != want.kind ||
					got.protocol != want.protocol || got.scope != want.scope || !slices.Equal(got.hops, want.hops) {
					t.Errorf("decoded %+v, want %+v", got, want)
				}
			}
		})
	}
}

func TestAnswer(t *testing.T) {
	// An EINVAL with the capped request and "Nexthop has invalid gateway." as the kernel sends it.
	text := append([]byte("Nexthop has invalid gateway."), 0)
	body := append(attr32(nil, 0, 0)[:0], 0xea, 0xff, 0xff, 0xff)
	body = append(body, make([]byte, headerLen)...)
	body = attr(body, unix.NLMSGERR_ATTR_MSG, text...)
	err := answer(header{typ: unix.NLMSG_ERROR, flags: unix.NLM_F_CAPPED | unix.NLM_F_ACK_TLVS}, body)
	if err == nil || err.Error() != "invalid argument (Nexthop has invalid gateway)" {
		t.Errorf("got %v", err)
	}
	if err := answer(header{typ: unix.NLMSG_ERROR}, make([]byte, 20)); err != nil {
		t.Errorf("acknowledgement: %v", err)
	}
	if err := answer(header{typ: unix.NLMSG_ERROR}, nil); err == nil {
		t.Error("short message: no error")
	}
}

// FuzzParse: whatever bytes come, decoding neither panics nor makes an invalid prefix.
func FuzzParse(f *testing.F) {
	for _, g := range golden {
		f.Add(g.row.append(nil, unix.RTM_NEWROUTE, 0, 1))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		for h, body := range messages(b) {
			if e, ok := parseEvent(h.typ, h.flags, body); ok && e.row != nil && !e.row.dst.IsValid() {
				t.Errorf("%+v", e.row)
			}
			_ = answer(h, body)
		}
	})
}

func TestStale(t *testing.T) {
	six := func(metric uint32, hops ...nexthop) row {
		return row{dst: p("2001:db8::/32"), kind: unix.RTN_UNICAST, metric: metric, hops: hops}
	}
	four := func(metric uint32, hops ...nexthop) row { r := six(metric, hops...); r.dst = p("10.0.0.0/8"); return r }
	a, b, g := nexthop{index: 1}, nexthop{index: 2}, nexthop{index: 1, via: netip.MustParseAddr("fe80::1")}
	for _, c := range []struct {
		name     string
		old, new row
		want     int
	}{
		{"another metric goes", four(77, a), four(512, a), 1},
		{"the same row stays", four(512, a), four(512, a), 0},
		{"a second row goes", four(512, b), four(512, a), 1},
		{"IPv6 second device goes", six(512, b), six(512, a), 1},
		{"IPv6 deletion by device would hit the new row", six(512, a), six(512, g), 0},
		{"IPv6 multipath goes hop by hop", six(77, a, b), six(512, a), 2},
	} {
		if got := stale(c.old, c.new); len(got) != c.want {
			t.Errorf("%s: %d deletions, want %d: %+v", c.name, len(got), c.want, got)
		}
	}
}
