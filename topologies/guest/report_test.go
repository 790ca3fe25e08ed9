package guest

import (
	"bytes"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"testing"

	"sitewire/topologies/guest/line"
)

// caseEnv makes a test play the case itself instead of starting this program again to watch what becomes of it.
const caseEnv = "SITEWIRE_GUEST_CASE"

// watch runs the case of a test in a process of its own and returns whether that passed, and what it printed.
func watch(t *testing.T, test, name string) (passed bool, out string) {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), exe, "-test.v", "-test.run=^"+test+"$")
	cmd.Env = append(os.Environ(), caseEnv+"="+name)
	b, err := cmd.CombinedOutput()
	return err == nil, string(b)
}

// said makes the lines of a guest that runs one binary, with what that prints.
func said(names []string, output string, exit int) []line.Record {
	return []line.Record{
		{Kind: line.Hello, Text: "6.1"}, {Kind: line.Tests, Tests: names}, {Kind: line.Output, Data: []byte(output)},
		{Kind: line.End, Exit: exit}, {Kind: line.Bye},
	}
}

// The output of test binaries, with the marks that -test.v=test2json sets.
const (
	goodOutput = "\x16=== RUN   TestA\n\x16=== RUN   TestA/x/y\n    a_test.go:3: hello\n\x16--- PASS: TestA/x/y (0.50s)\n" +
		"\x16=== NAME  TestA\n\x16--- PASS: TestA (1.50s)\n\x16=== NAME  \n\x16=== RUN   TestB\n" +
		"    b_test.go:4: SKIP-REASON kind=link name=vrf fix=\"none\" why=\"none\"\n\x16--- SKIP: TestB (0.00s)\n\x16=== NAME  \n\x16PASS\n"
	benchOutput = "\x16=== RUN   BenchmarkC\nBenchmarkC\n\x16=== RUN   BenchmarkC/d\nBenchmarkC/d\n" +
		"BenchmarkC/d-2   \t       1\t  2027531 ns/op\t  3.1 ratio\n\x16=== NAME  \n\x16PASS\n"
	badOutput = "\x16=== RUN   TestA\n\x16=== RUN   TestA/x\n    a_test.go:3: wrong\n\x16--- FAIL: TestA/x (0.00s)\n" +
		"\x16=== NAME  TestA\n\x16--- FAIL: TestA (0.00s)\n\x16=== NAME  \n\x16FAIL\n"
	openOutput = "\x16=== RUN   TestA\n    a_test.go:3: hello\n"
)

var reportCases = map[string]struct {
	records []line.Record
	bench   string
	passes  bool
	says    []string // regular expressions
}{
	"good": {said([]string{"TestA", "TestB"}, goodOutput, 0), "", true, []string{
		`PASS: TestReport/a\.b/TestA/x/y`, `a_test.go:3: hello`, `took 1\.5 s`, `SKIP: TestReport/a\.b/TestB`, `SKIP-REASON kind=link`,
	}},
	"benchmark":           {said([]string{"BenchmarkC"}, benchOutput, 0), ".", true, []string{`PASS: TestReport/a\.b/BenchmarkC/d`, `3\.1 ratio`}},
	"benchmark cut short": {said([]string{"BenchmarkC"}, "\x16=== RUN   BenchmarkC\nBenchmarkC\n", 0), ".", false, []string{`FAIL: TestReport/a\.b/BenchmarkC`, "did not end"}},
	"failed":              {said([]string{"TestA"}, badOutput, 1), "", false, []string{`FAIL: TestReport/a\.b/TestA/x`, `a_test.go:3: wrong`}},
	"did not end":         {said([]string{"TestA"}, openOutput, 0), "", false, []string{`FAIL: TestReport/a\.b/TestA`, "did not end", "hello"}},
	"did not run":         {said([]string{"TestA", "TestB", "TestC"}, goodOutput, 0), "", false, []string{`FAIL: TestReport/a\.b/TestC`, "was to run in the guest and did not"}},
	"exit code":           {said([]string{"TestA", "TestB"}, goodOutput, 2), "", false, []string{"exit code 2"}},
	"failed as a whole":   {said([]string{"TestA", "TestB"}, strings.Replace(goodOutput, "\x16PASS", "\x16FAIL", 1), 1), "", false, []string{"the run failed, but none of its tests"}},
	"selects nothing":     {said(nil, "PASS\n", 0), "", false, []string{"select none"}},
	"killed": {slices.Replace(said([]string{"TestA", "TestB"}, goodOutput, 0), 3, 4, line.Record{Kind: line.End, Text: "killed: it did not end"}),
		"", false, []string{"killed: it did not end"}},
	"lost in a test":   {said([]string{"TestA"}, openOutput, 0)[:3], "", false, []string{"lines end after record 3", "the end of the story", "did not end"}},
	"lost at the end":  {said([]string{"TestA", "TestB"}, goodOutput, 0)[:4], "", false, []string{"lines end after record 4"}},
	"no boot":          {nil, "", false, []string{"lines end after record 0", "the end of the story"}},
	"init has trouble": {append(said(nil, "", 0)[:1], line.Record{Kind: line.Fault, Text: "no such file"}), "", false, []string{"init cannot go on: no such file"}},
}

// TestReport plays what a guest might say. A child reports it, because most of it makes tests fail.
func TestReport(t *testing.T) {
	if name := os.Getenv(caseEnv); name != "" {
		c := reportCases[name]
		var b bytes.Buffer
		w := line.NewWriter(&b)
		for _, rec := range c.records {
			if err := w.Write(rec); err != nil {
				t.Fatal(err)
			}
		}
		r := newReport(&b)
		r.why = func() string { return "the end of the story" }
		r.all(t, []Binary{{Package: "sitewire/a/b", Run: "Test", Bench: c.bench}})
		return
	}
	for name, c := range reportCases {
		t.Run(name, func(t *testing.T) {
			passed, out := watch(t, "TestReport", name)
			if passed != c.passes {
				t.Errorf("passed: %v", passed)
			}
			for _, want := range c.says {
				if !regexp.MustCompile(want).MatchString(out) {
					t.Errorf("does not say %q", want)
				}
			}
			if t.Failed() {
				t.Log(out)
			}
		})
	}
}

func TestSelected(t *testing.T) {
	all := []Binary{{Package: "sitewire/gateway/wg/kernel", Run: "Test", Bench: "Poll"}, {Package: "sitewire/topologies/netns", Run: "^TestKernel"}}
	for _, c := range []struct{ pattern, want string }{
		{"", "gateway.wg.kernel Test Poll, topologies.netns ^TestKernel "},
		{"TestGuest", "gateway.wg.kernel Test Poll, topologies.netns ^TestKernel "},
		{"TestGuest/netns", "topologies.netns ^TestKernel "},
		{"^TestGuest$/wg.kernel/TestMove/x", "gateway.wg.kernel TestMove/x TestMove/x"},
		{"TestGuest/nobody", ""},
		{"TestGuest|TestReport", "gateway.wg.kernel Test Poll, topologies.netns ^TestKernel "},
	} {
		var got []string
		for _, b := range selected(all, "TestGuest", c.pattern) {
			got = append(got, label(b.Package)+" "+b.Run+" "+b.Bench)
		}
		if strings.Join(got, ", ") != c.want {
			t.Errorf("-run %s selects %q, want %q", c.pattern, got, c.want)
		}
	}
}
