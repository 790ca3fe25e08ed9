package bgp

import (
	"math/rand/v2"
	"regexp"
	"strings"
	"testing"

	"sitewire/bgp/policy"
)

// agree checks that the rewritten expression says about "OWN path" what the original says about "path".
func agree(t *testing.T, expr string, own uint32, path []uint32) {
	t.Helper()
	original, err := policy.CompileASPath(expr)
	if err != nil {
		return
	}
	text, err := behindOwn(expr, own)
	if err != nil {
		return // said so at Validate
	}
	shifted, err := regexp.Compile(text)
	if err != nil {
		t.Fatalf("%q became %q: %v", expr, text, err)
	}
	if strings.Contains(text, "_") {
		t.Fatalf("%q became %q: GoBGP would expand the _", expr, text)
	}
	sent := policy.FormatASPath(append([]uint32{own}, path...))
	if want, got := original.Match(path), shifted.MatchString(sent); got != want {
		t.Errorf("%q on %v: %v; as %q on %q: %v", expr, path, want, text, sent, got)
	}
}

func TestBehindOwn(t *testing.T) {
	const own = 65000
	exprs := []string{
		"^$", "", "^65001$", "^65001_", "_65001_", "_65001$", "^65001 65002$", "^(65001|65002)_", "_(65001|65002)$",
		"65", "^6500", "65001_65002", "^65001_65002_", "_65000_", "^65000_", "_65000$", "^.*65002$", "^[0-9]+$",
		"^[0-9]+ [0-9]+$", "(_65001)?_65002", "^(65001 )*65002$", "_", "__", "^_$", "1$", "^6", "^(65001 ){1,2}65002$",
		"^(65001 ){0,2}65002", `(^65001|65003$)`, "x|^$", "65001^65002",
	}
	paths := [][]uint32{
		nil, {65001}, {65002}, {65001, 65002}, {65002, 65001}, {65001, 65001, 65002}, {65000}, {65003, 65000},
		{650}, {1}, {65001, 65002, 65003}, {6500165002 & 0xffffffff},
	}
	for _, e := range exprs {
		if _, err := behindOwn(e, own); err != nil {
			t.Errorf("%q: %v", e, err)
		}
		for _, p := range paths {
			agree(t, e, own, p)
		}
	}
}

func TestBehindOwnRandom(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	atoms := []string{"_", "^", "$", "1", "2", "12", " ", "(1|2)", "[12]", ".", "(_1)", "(^|2)", "(1 )*", "2+", "1?", "(2 ){1,2}", ".*"}
	for range 4000 {
		var b strings.Builder
		for range 1 + r.IntN(5) {
			b.WriteString(atoms[r.IntN(len(atoms))])
		}
		path := make([]uint32, r.IntN(4))
		for i := range path {
			path[i] = []uint32{1, 2, 12, 21}[r.IntN(4)]
		}
		agree(t, b.String(), []uint32{1, 12, 3}[r.IntN(3)], path)
	}
}

func FuzzBehindOwn(f *testing.F) {
	f.Add("^65001_", uint32(1), uint32(65001), uint32(2))
	f.Add("_1(2|_3)*$", uint32(12), uint32(1), uint32(23))
	f.Fuzz(func(t *testing.T, expr string, own, a, b uint32) {
		if len(expr) > 60 {
			t.Skip()
		}
		for _, path := range [][]uint32{nil, {a}, {a, b}, {own, b}} {
			agree(t, expr, own, path)
		}
	})
}
