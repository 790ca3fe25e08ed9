package main

import (
	"strings"
	"testing"
)

func run(t *testing.T, input string, checks ...string) (output string, ok bool) {
	t.Helper()
	var out strings.Builder
	r := newReport(&out)
	if err := r.read(strings.NewReader(input)); err != nil {
		t.Fatal(err)
	}
	ok = r.finish(checks)
	return out.String(), ok
}

func TestReport(t *testing.T) {
	for _, c := range []struct {
		name, input string
		checks      []string
		want        []string
		ok          bool
	}{
		{
			name: "pass and skip",
			input: `{"Action":"run","Package":"p","Test":"A"}
{"Action":"output","Package":"p","Test":"A","Output":"noise\n"}
{"Action":"pass","Package":"p","Test":"A"}
{"Action":"output","Package":"p","Test":"B","Output":"    b_test.go:3: SKIP-REASON kind=tun name=x fix=\"y\"\n"}
{"Action":"output","Package":"p","Test":"B","Output":"--- SKIP: B\n"}
{"Action":"skip","Package":"p","Test":"B"}
{"Action":"pass","Package":"p","Elapsed":1.25}`,
			want: []string{"ok       1.2 s  p\n", "Skipped tests:\n  p B: kind=tun name=x fix=\"y\"\n1 passed, 0 failed, 1 skipped\n"},
			ok:   true,
		},
		{
			name: "failure shows its output",
			input: `{"Action":"output","Package":"p","Test":"A","Output":"    a_test.go:3: broken\n"}
{"Action":"fail","Package":"p","Test":"A"}
{"Action":"fail","Package":"p"}`,
			want: []string{"p A failed:\n    a_test.go:3: broken\n", "Skipped tests: none.\n0 passed, 1 failed, 0 skipped\n"},
		},
		{
			name: "panic",
			input: `{"Action":"output","Package":"p","Test":"A","Output":"panic: ouch\n"}
{"Action":"fail","Package":"p"}`,
			want: []string{"p A did not end:\npanic: ouch\n", "0 passed, 1 failed, 0 skipped\n"},
		},
		{
			name: "does not build",
			input: `{"ImportPath":"p","Action":"build-output","Output":"p.go:1: undefined\n"}
{"ImportPath":"p","Action":"build-fail"}
{"Action":"fail","Package":"p","FailedBuild":"p"}`,
			want: []string{"p.go:1: undefined\n", "0 passed, 1 failed, 0 skipped\n"},
		},
		{
			name:   "failed check",
			input:  `{"Action":"pass","Package":"p"}`,
			checks: []string{"vet"},
			want:   []string{"Failed check: vet\n0 passed, 1 failed, 0 skipped\n"},
		},
		{
			name: "passed in a guest",
			input: `{"Action":"output","Package":"m/a/b","Test":"A","Output":"SKIP-REASON kind=link name=wireguard\n"}
{"Action":"skip","Package":"m/a/b","Test":"A"}
{"Action":"output","Package":"m/a/b","Test":"B","Output":"SKIP-REASON kind=link name=wireguard\n"}
{"Action":"skip","Package":"m/a/b","Test":"B"}
{"Action":"output","Package":"m/a/b","Test":"C","Output":"SKIP-REASON kind=program name=x\n"}
{"Action":"skip","Package":"m/a/b","Test":"C"}
{"Action":"pass","Package":"m/topologies/guest","Test":"TestGuest/a.b/A"}
{"Action":"fail","Package":"m/topologies/guest","Test":"TestGuest/a.b/B"}
{"Action":"pass","Package":"m/topologies/guest","Test":"TestGuest/a.b/C"}
{"Action":"pass","Package":"m/a/b"}`,
			want: []string{"passed in a guest:\n  m/a/b A\nSkipped tests:\n  m/a/b B: kind=link name=wireguard\n  m/a/b C: kind=program name=x\n2 passed, 1 failed, 2 skipped\n"},
		},
		{
			name: "passed without the race detector",
			input: `{"Action":"output","Package":"m/a","Test":"A/x","Output":"SKIP-REASON kind=race name=y\n"}
{"Action":"skip","Package":"m/a","Test":"A/x"}
{"Action":"output","Package":"m/a","Test":"B","Output":"SKIP-REASON kind=race name=y\n"}
{"Action":"skip","Package":"m/a","Test":"B"}
{"Action":"pass","Package":"m/a","Test":"A/z"}
{"Action":"pass","Package":"m/a","Test":"A"}
{"Action":"pass","Package":"m/a"}
{"Action":"pass","Package":"m/a","Test":"A/x"}
{"Action":"pass","Package":"m/a","Test":"A/z"}
{"Action":"pass","Package":"m/a","Test":"A"}
{"Action":"pass","Package":"m/a"}`,
			want: []string{"passed without it:\n  m/a A/x\nSkipped tests:\n  m/a B: kind=race name=y\n3 passed, 0 failed, 1 skipped\n"},
			ok:   true,
		},
		{
			name: "nothing ran",
			want: []string{"Failed check: no-package-was-tested\n0 passed, 1 failed, 0 skipped\n"},
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			out, ok := run(t, c.input, c.checks...)
			if ok != c.ok {
				t.Errorf("finish returned %v", ok)
			}
			for _, want := range c.want {
				if !strings.Contains(out, want) {
					t.Errorf("no %q in:\n%s", want, out)
				}
			}
		})
	}
}

func TestAgain(t *testing.T) {
	r := newReport(new(strings.Builder))
	if err := r.read(strings.NewReader(`{"Action":"output","Package":"m/b","Test":"B/x","Output":"SKIP-REASON kind=race name=y\n"}
{"Action":"skip","Package":"m/b","Test":"B/x"}
{"Action":"output","Package":"m/b","Test":"B/z","Output":"SKIP-REASON kind=race name=y\n"}
{"Action":"skip","Package":"m/b","Test":"B/z"}
{"Action":"output","Package":"m/b","Test":"A","Output":"SKIP-REASON kind=race name=y\n"}
{"Action":"skip","Package":"m/b","Test":"A"}
{"Action":"output","Package":"m/a","Test":"C","Output":"SKIP-REASON kind=tun name=y\n"}
{"Action":"skip","Package":"m/a","Test":"C"}`)); err != nil {
		t.Fatal(err)
	}
	if got, want := r.again(), "m/b ^(A|B)$\n"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
}
