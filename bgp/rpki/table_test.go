package rpki

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"

	"sitewire/bgp/policy"
)

func vrp(t testing.TB, prefix string, maxLength int, asn uint32) VRP {
	t.Helper()
	v, err := NewVRP(netip.MustParsePrefix(prefix), maxLength, asn)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func TestValidate(t *testing.T) {
	const a, b = 4242420001, 4242420002
	var anycast []VRP
	for i := range uint32(6) {
		anycast = append(anycast, vrp(t, "172.20.0.81/32", 32, a+i))
	}
	table := TableOf(append(anycast,
		vrp(t, "172.20.16.0/27", 29, a),
		vrp(t, "172.20.32.0/27", 27, a), vrp(t, "172.20.32.0/27", 27, 0),
		vrp(t, "172.20.48.0/24", 24, 0),
		vrp(t, "10.0.0.0/8", 16, a), vrp(t, "10.1.0.0/16", 24, b),
		vrp(t, "fd42:1::/48", 64, a),
		vrp(t, "0.0.0.0/0", 0, b),
	)...)
	for _, c := range []struct {
		prefix string
		origin uint32
		want   policy.Validity
	}{
		{"172.20.16.0/27", a, policy.Valid},
		{"172.20.16.0/27", b, policy.Invalid},
		{"172.20.16.0/29", a, policy.Valid},
		{"172.20.16.0/30", a, policy.Invalid}, // longer than the maximum
		{"172.20.16.0/26", a, policy.Invalid}, // only the payload for 0.0.0.0/0 covers it
		{"172.20.32.0/27", a, policy.Valid},   // an AS 0 payload beside a matching one says nothing (RFC 6483 section 4)
		{"172.20.48.0/24", a, policy.Invalid},
		{"172.20.48.0/24", policy.NoOrigin, policy.Invalid}, // AS 0 never matches, nor does a set
		{"10.1.2.0/24", a, policy.Invalid},
		{"10.1.2.0/24", b, policy.Valid},
		{"10.1.0.0/16", a, policy.Valid}, // by the shorter payload
		{"10.2.0.0/17", a, policy.Invalid},
		{"0.0.0.0/0", b, policy.Valid},
		{"fd42:1::/48", a, policy.Valid},
		{"fd42:1:0:1::/64", a, policy.Valid},
		{"fd42:1::/65", a, policy.Invalid},
		{"fd42:2::/48", a, policy.NotFound}, // 0.0.0.0/0 is of the other family
		{"::/0", b, policy.NotFound},
		{"172.20.0.81/32", a + 5, policy.Valid},
		{"172.20.0.81/32", a + 6, policy.Invalid},
	} {
		if got := table.Validate(netip.MustParsePrefix(c.prefix), c.origin); got != c.want {
			t.Errorf("%s from AS%d: %v, want %v", c.prefix, c.origin, got, c.want)
		}
	}
	for _, v := range anycast {
		if got := table.Validate(v.Prefix, v.ASN); got != policy.Valid {
			t.Errorf("%v: %v", v, got)
		}
	}
}

// TestFlapTable holds the reason for tables: AS 0 payloads refuse a route only where no other payload matches it.
func TestFlapTable(t *testing.T) {
	p := netip.MustParsePrefix("172.20.16.0/27")
	good, flap := vrp(t, p.String(), 29, 4242420001), vrp(t, p.String(), 32, 0)
	merged := NewSet(map[string]*Table{policy.DefaultTable: TableOf(good, flap)})
	apart := NewSet(map[string]*Table{policy.DefaultTable: TableOf(good), "flap": TableOf(flap)})
	pol := &policy.Policy{Name: "test", Import: []policy.Rule{
		{Name: "flapping", Match: policy.Match{RPKI: []policy.Validity{policy.Invalid}, RPKITable: "flap"}, Action: policy.Reject},
		{Name: "valid", Match: policy.Match{RPKI: []policy.Validity{policy.Valid}}, Action: policy.Accept},
	}}
	eval := func(s *Set) string {
		c := &policy.Context{LocalASN: 1, NeighbourASN: 4242420001, Neighbour: netip.MustParseAddr("10.0.0.2"), Origins: s}
		return pol.EvalImport(policy.Route{Prefix: p, ASPath: []uint32{4242420001}, NextHop: c.Neighbour}, c).Rule
	}
	if got := eval(apart); got != "flapping" {
		t.Errorf("in a table of its own the flap payload leads to %q", got)
	}
	if got := eval(merged); got != "valid" {
		t.Errorf("merged into the main table the flap payload leads to %q", got)
	}
}

// slowly is RFC 6811 section 2.1 as it is written.
func slowly(list []VRP, p netip.Prefix, origin uint32) policy.Validity {
	out := policy.NotFound
	for _, v := range list {
		if v.Prefix.Addr().Is4() != p.Addr().Is4() || v.Prefix.Bits() > p.Bits() || !v.Prefix.Contains(p.Addr()) {
			continue
		}
		if v.ASN != 0 && v.ASN == origin && p.Bits() <= int(v.MaxLength) {
			return policy.Valid
		}
		out = policy.Invalid
	}
	return out
}

// small makes prefixes that often cover each other.
func small(b []byte) netip.Prefix {
	a := netip.AddrFrom4([4]byte{10, b[0] & 3, b[1] & 0xc0, 0})
	bits := 8 + int(b[2])%25
	if b[2]&0x80 != 0 {
		a, bits = netip.AddrFrom16([16]byte{0xfd, b[0] & 3, b[1] & 0xc0, 15: b[1] & 1}), 8+int(b[2])%121
	}
	return netip.PrefixFrom(a, bits).Masked()
}

func FuzzValidate(f *testing.F) {
	r := rand.New(rand.NewPCG(1, 2))
	for range 20 {
		seed := make([]byte, 4+5*r.IntN(60))
		for i := range seed {
			seed[i] = byte(r.Uint32())
		}
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		if len(data) < 4 {
			return
		}
		p, origin := small(data), uint32(data[3]%4)
		var list []VRP
		for rest := data[4:]; len(rest) >= 5; rest = rest[5:] {
			prefix := small(rest)
			longest := min(prefix.Bits()+int(rest[3]%8), prefix.Addr().BitLen())
			list = append(list, VRP{Prefix: prefix, MaxLength: uint8(longest), ASN: uint32(rest[4] % 4)})
		}
		half := len(list) / 2
		table := NewTable(sorted(slices.Clone(list[:half])), sorted(slices.Clone(list[half:])))
		if got, want := table.Validate(p, origin), slowly(list, p, origin); got != want {
			t.Errorf("%v from AS%d: %v, want %v, by %v", p, origin, got, want, list)
		}
		if got, want := table.Covers(p), slowly(list, p, 99) == policy.Invalid; got != want {
			t.Errorf("%v covered: %v, want %v, by %v", p, got, want, list)
		}
		// What Changes does not name is judged the same by both.
		before, after := NewSet(map[string]*Table{"x": TableOf(list[:half]...)}), NewSet(map[string]*Table{"x": table})
		if !before.Changes(after, []string{"x"})(p) {
			a, _ := before.Validate("x", p, origin)
			if b, _ := after.Validate("x", p, origin); a != b {
				t.Errorf("%v from AS%d goes from %v to %v unnoticed", p, origin, a, b)
			}
		}
	})
}

// BenchmarkValidate is one look-up in a table as large as the Internet's.
func BenchmarkValidate(b *testing.B) {
	r := rand.New(rand.NewPCG(1, 2))
	list := make([]VRP, 500_000)
	for i := range list {
		var a [4]byte
		binary.BigEndian.PutUint32(a[:], r.Uint32())
		bits := 12 + r.IntN(13)
		list[i] = VRP{Prefix: netip.PrefixFrom(netip.AddrFrom4(a), bits).Masked(), MaxLength: uint8(bits), ASN: r.Uint32()}
	}
	for _, n := range []int{4_400, len(list)} {
		table := TableOf(list[:n]...)
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			b.ReportAllocs()
			i := 0
			for b.Loop() {
				table.Validate(list[i%n].Prefix, 1)
				i++
			}
		})
	}
}

// TestDN42Profile: the profile refuses invalid origins, by name, and nothing for want of payloads.
func TestDN42Profile(t *testing.T) {
	p, ok := policy.Profile("dn42")
	if !ok {
		t.Fatal("no profile")
	}
	prefix := netip.MustParsePrefix("172.20.16.0/27")
	full := NewSet(map[string]*Table{policy.DefaultTable: TableOf(vrp(t, prefix.String(), 29, 4242420001))})
	empty := NewSet(map[string]*Table{policy.DefaultTable: TableOf()})
	for _, c := range []struct {
		origins policy.Origins
		origin  uint32
		want    string
	}{
		{full, 4242420001, "dn42"}, {full, 4242420002, policy.RPKIInvalid}, {empty, 4242420002, "dn42"}, {nil, 4242420002, "dn42"},
	} {
		ctx := &policy.Context{LocalASN: 1, NeighbourASN: c.origin, Neighbour: netip.MustParseAddr("10.0.0.2"), Origins: c.origins}
		if got := p.EvalImport(policy.Route{Prefix: prefix, ASPath: []uint32{c.origin}, NextHop: ctx.Neighbour}, ctx).Rule; got != c.want {
			t.Errorf("from AS%d: %s, want %s", c.origin, got, c.want)
		}
	}
}
