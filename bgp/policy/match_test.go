package policy

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"regexp"
	"strings"
	"testing"
)

func TestParsePrefixRange(t *testing.T) {
	for _, tt := range []struct {
		in, out string // an empty out is an error
	}{
		{"10.0.0.0/8", "10.0.0.0/8"},
		{"10.0.0.0/8+", "10.0.0.0/8+"},
		{"10.0.0.0/8{8,32}", "10.0.0.0/8+"},
		{"10.0.0.0/8{15,24}", "10.0.0.0/8{15,24}"},
		{"10.0.0.0/8{15, 24}", "10.0.0.0/8{15,24}"},
		{"10.0.0.0/8{8,8}", "10.0.0.0/8"},
		{"fd00::/8{44,64}", "fd00::/8{44,64}"},
		{"::/0+", "::/0+"},
		{"10.0.0.1/8", ""},
		{"10.0.0.0/8{7,24}", ""},
		{"10.0.0.0/8{24,15}", ""},
		{"10.0.0.0/8{24,33}", ""},
		{"10.0.0.0/8{24}", ""},
		{"10.0.0.0/8{24,25", ""},
		{"10.0.0.0/8{-1,25}", ""},
		{"10.0.0.0/8-", ""},
		{"10.0.0.0/8++", ""},
		{"10.0.0.0", ""},
		{"::ffff:10.0.0.0/104", ""},
		{"", ""},
		{"{1,2}", ""},
	} {
		r, err := ParsePrefixRange(tt.in)
		switch {
		case tt.out == "" && err == nil:
			t.Errorf("%q: no error, %v", tt.in, r)
		case tt.out != "" && (err != nil || r.String() != tt.out):
			t.Errorf("%q: %v, %v; want %s", tt.in, r, err, tt.out)
		}
	}
}

func TestParseCommunity(t *testing.T) {
	for in, want := range map[string]string{
		"64511:24": "64511:24", "0:0": "0:0", "065:01": "65:1", "4242420001:1:2": "4242420001:1:2",
		"no-export": "65535:65281", "no-advertise": "65535:65282", "local-as": "65535:65283",
		"blackhole": "65535:666", "graceful-shutdown": "65535:0",
		"65536:1": "", "1:65536": "", "4294967296:1:1": "", "1": "", "1:2:3:4": "", ":": "", "1:": "", "a:b": "", "-1:2": "", "": "", "1:*": "", "no_export": "",
	} {
		got, err := ParseCommunity(in)
		if got != want || (err != nil) != (want == "") {
			t.Errorf("%q: %q, %v; want %q", in, got, err, want)
		}
	}
}

// gobgp is the translation that GoBGP v4.8.0 applies to an as-path set (internal/pkg/table/policy.go): four forms are
// compared as numbers, everything else is a regular expression over the printed path.
func gobgp(expr string, path []uint32) bool {
	text := FormatASPath(path)
	contains := func(f func(i int) bool) bool {
		for i := range path {
			if f(i) {
				return true
			}
		}
		return false
	}
	num := func(re string) (asn uint32, ok bool) {
		m := regexp.MustCompile(re).FindStringSubmatch(expr)
		if m == nil {
			return 0, false
		}
		_, err := fmt.Sscan(m[1], &asn)
		return asn, err == nil
	}
	if n, ok := num(`^\^([0-9]+)_$`); ok {
		return len(path) > 0 && path[0] == n
	}
	if n, ok := num(`^_([0-9]+)\$$`); ok {
		return len(path) > 0 && path[len(path)-1] == n
	}
	if n, ok := num(`^_([0-9]+)_$`); ok {
		return contains(func(i int) bool { return path[i] == n })
	}
	if n, ok := num(`^\^([0-9]+)\$$`); ok {
		return len(path) == 1 && path[0] == n
	}
	return regexp.MustCompile(strings.ReplaceAll(expr, "_", "(^|[,{}() ]|$)")).MatchString(text)
}

func TestASPath(t *testing.T) {
	paths := [][]uint32{
		nil, {1}, {64512}, {64512, 666}, {666, 64512}, {1, 666, 2}, {6666}, {1, 6661, 2}, {64512, 64512, 64512},
		{4242420001, 4242420002}, {4294967295},
	}
	exprs := []string{
		"^64512_", "_64512$", "_666_", "^64512$", "^$", ".*", "", "_", "^64512_666$", "^64512(_64512)*$", "_6+_", "666",
		"^[0-9]+$", "^64512_[0-9]+_", "_(666|6661)_", "^4242420001_", "_4294967295$", "^_64512_", "^1 666 2$", "_64512_666_",
	}
	matched := 0
	for _, e := range exprs {
		m, err := CompileASPath(e)
		if err != nil {
			t.Errorf("%q: %v", e, err)
			continue
		}
		for _, p := range paths {
			got := m.Match(p)
			if want := gobgp(e, p); got != want {
				t.Errorf("%q on %v: %v, GoBGP %v", e, p, got, want)
			}
			if got {
				matched++
			}
		}
	}
	if matched == 0 {
		t.Error("nothing matches at all")
	}
	for _, bad := range []string{"(", "_4294967296_", "[", "*"} {
		if _, err := CompileASPath(bad); err == nil || !strings.Contains(err.Error(), bad) {
			t.Errorf("%q: %v", bad, err)
		}
	}
}

func randomPrefix(r *rand.Rand) netip.Prefix {
	if r.IntN(2) == 0 {
		var b [4]byte
		binary.BigEndian.PutUint32(b[:], r.Uint32())
		if r.IntN(2) == 0 {
			b[0] = []byte{0, 10, 127, 169, 224, 240, 255}[r.IntN(7)]
			b[1] &= 3
		}
		return netip.PrefixFrom(netip.AddrFrom4(b), r.IntN(33)).Masked()
	}
	var b [16]byte
	binary.BigEndian.PutUint64(b[:], r.Uint64())
	if r.IntN(2) == 0 {
		b = [16]byte{}
		copy(b[r.IntN(14):], []byte{0xff, 0xff})
		b[15] = byte(r.IntN(2))
	} else if r.IntN(2) == 0 {
		b[0], b[1] = 0xfe, byte(r.IntN(256))
	}
	return netip.PrefixFrom(netip.AddrFrom16(b), r.IntN(129)).Masked()
}

// TestMartianAgainstTable compares the fast form with the list that is shown to people and given to the speaker.
func TestMartianAgainstTable(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	list, hits := Martians(), 0
	for range 200_000 {
		p := randomPrefix(r)
		want := MatchesPrefix(list, p)
		if got := martian(p); got != want {
			t.Fatalf("%v: %v, table %v", p, got, want)
		}
		if want {
			hits++
		}
	}
	if hits < 1000 {
		t.Errorf("only %d martians among the samples", hits)
	}
}

// TestPrefixSetAgainstList compares the compiled set with a walk over the list.
func TestPrefixSetAgainstList(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	hits := 0
	for range 200 {
		var list []PrefixRange
		for range 1 + r.IntN(20) {
			p := randomPrefix(r)
			low := p.Bits() + r.IntN(p.Addr().BitLen()-p.Bits()+1)
			list = append(list, PrefixRange{p, low, low + r.IntN(p.Addr().BitLen()-low+1)})
		}
		set := newPrefixSet(list)
		for range 200 {
			p := randomPrefix(r)
			if base := list[r.IntN(len(list))].Prefix; r.IntN(2) == 0 && base.Addr().BitLen() == p.Addr().BitLen() && base.Bits() < p.Bits() {
				p = netip.PrefixFrom(base.Addr(), p.Bits())
			}
			want := MatchesPrefix(list, p)
			if got := set.contains(p); got != want {
				t.Fatalf("%v in %v: %v, want %v", p, list, got, want)
			}
			if want {
				hits++
			}
		}
	}
	if hits < 1000 {
		t.Errorf("only %d hits among the samples", hits)
	}
}

func FuzzParse(f *testing.F) {
	for _, s := range []string{"10.0.0.0/8{15,24}", "fd00::/8+", "64511:24", "no-export", "1:2:*", "^64512_", "_(1|2)$"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if r, err := ParsePrefixRange(s); err == nil {
			again, err := ParsePrefixRange(r.String())
			if err != nil || again != r {
				t.Errorf("%q prints as %v, which reads as %v, %v", s, r, again, err)
			}
		}
		if c, err := ParseCommunity(s); err == nil {
			if again, err := ParseCommunity(c); err != nil || again != c {
				t.Errorf("%q reads as %q, which reads as %q, %v", s, c, again, err)
			}
		}
		if p, err := parsePattern(s); err == nil {
			p.match("64511:24")
		}
		if m, err := CompileASPath(s); err == nil {
			m.Match([]uint32{64512, 1})
		}
	})
}

// BenchmarkImport evaluates a route that only the last of ten thousand ranges accepts.
func BenchmarkImport(b *testing.B) {
	for _, n := range []int{10, 10_000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			var list []PrefixRange
			for i := range n {
				var a [4]byte
				binary.BigEndian.PutUint32(a[:], 0x0a000000+uint32(i)<<8)
				list = append(list, PrefixRange{netip.PrefixFrom(netip.AddrFrom4(a), 24), 24, 24 + i%3})
			}
			p := &Policy{Import: []Rule{{Name: "list", Match: Match{Prefixes: list}, Action: Accept}}}
			if err := p.Compile(); err != nil {
				b.Fatal(err)
			}
			r, c := learned(list[n-1].Prefix.String()), session()
			b.ReportAllocs()
			for b.Loop() {
				if v := p.EvalImport(r, c); !v.Accepted {
					b.Fatal(v)
				}
			}
		})
	}
}
