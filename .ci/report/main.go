// Command report reads `go test -json` from standard input and prints what a person wants to know.
//
// Job: a line for each package as it ends, the output of what failed, the list of skipped tests with their reasons, and the totals.
// Inputs: test2json events; -failed names checks that failed before, which count as failures.
// Outputs: the report; its last line is `N passed, N failed, N skipped`. The exit code is 1 if anything failed or nothing was read. With -again
// it prints what the race detector skipped instead: a line for each package, with a pattern for `go test -run`.
// A test that this machine's kernel cannot run and that passed in a guest is listed by itself and does not count as skipped: it counts
// among the passed ones, as a subtest of the test that ran the guest. So is one that was skipped under the race detector and passed without it.
// Invariants: subtests count as tests; a package that fails without a failed test (it does not build, it panics, it times out) counts as one failure.
package main

import (
	"bufio"
	"cmp"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"
)

// event is one line of test2json (see `go doc test2json`).
type event struct {
	Action, Package, ImportPath, Test, Output string
	Elapsed                                   float64
}

type key struct{ pkg, test string }

type skip struct {
	key
	reason string
}

type report struct {
	out      io.Writer
	text     map[key]*strings.Builder // output of tests that have not ended
	failures map[string]int           // failed tests by package
	skips    []skip
	inGuest  map[key]bool // tests that passed in a guest
	passes   map[key]bool // tests that passed

	packages, passed, failed int
}

func main() {
	failed := flag.String("failed", "", "checks that failed, separated by spaces")
	again := flag.Bool("again", false, "print which tests the race detector skipped")
	flag.Parse()
	r := newReport(os.Stdout)
	if *again {
		r.out = io.Discard
		if err := r.read(os.Stdin); err != nil {
			fmt.Fprintln(os.Stderr, "report:", err)
			os.Exit(1)
		}
		fmt.Print(r.again())
		return
	}
	if err := r.read(os.Stdin); err != nil {
		fmt.Fprintln(os.Stderr, "report:", err)
		r.failed++
	}
	if !r.finish(strings.Fields(*failed)) {
		os.Exit(1)
	}
}

func newReport(out io.Writer) *report {
	return &report{out: out, text: make(map[key]*strings.Builder), failures: make(map[string]int), inGuest: make(map[key]bool), passes: make(map[key]bool)}
}

func (r *report) read(in io.Reader) error {
	s := bufio.NewScanner(in)
	s.Buffer(nil, 16<<20)
	for s.Scan() {
		var e event
		if json.Unmarshal(s.Bytes(), &e) != nil {
			fmt.Fprintln(r.out, s.Text()) // the go command itself has something to say
			continue
		}
		r.event(e)
	}
	return s.Err()
}

func (r *report) event(e event) {
	k := key{cmp.Or(e.Package, e.ImportPath), e.Test}
	switch e.Action {
	case "output", "build-output":
		if r.text[k] == nil {
			r.text[k] = new(strings.Builder)
		}
		r.text[k].WriteString(e.Output)
		return
	case "build-fail":
		fmt.Fprint(r.out, r.take(k))
		return
	case "pass", "fail", "skip":
	default:
		return
	}
	text := r.take(k)
	if e.Test == "" {
		r.endPackage(e, text)
		return
	}
	switch e.Action {
	case "pass":
		if !r.passes[k] { // tests beside one that runs again do, too
			r.passed++
		}
		r.passes[k] = true
		if twin, ok := r.twin(k); ok {
			r.inGuest[twin] = true
		}
	case "fail":
		r.failed++
		r.failures[e.Package]++
		fmt.Fprintf(r.out, "\n%s %s failed:\n%s", e.Package, e.Test, text)
	case "skip":
		r.skips = append(r.skips, skip{k, reason(text)})
	}
}

func (r *report) endPackage(e event, text string) {
	r.packages++
	if e.Action == "fail" && r.failures[e.Package] == 0 {
		r.failed++
		// A panic or a timeout belongs to tests that never ended.
		for _, k := range r.unfinished(e.Package) {
			fmt.Fprintf(r.out, "\n%s %s did not end:\n%s", e.Package, k.test, r.take(k))
		}
		fmt.Fprint(r.out, text)
	}
	verdict := map[string]string{"pass": "ok", "fail": "FAIL", "skip": "none"}[e.Action]
	fmt.Fprintf(r.out, "%-5s%7.1f s  %s\n", verdict, e.Elapsed, e.Package)
}

func (r *report) unfinished(pkg string) []key {
	var keys []key
	for k := range r.text {
		if k.pkg == pkg && k.test != "" {
			keys = append(keys, k)
		}
	}
	slices.SortFunc(keys, func(a, b key) int { return strings.Compare(a.test, b.test) })
	return keys
}

func (r *report) take(k key) string {
	b := r.text[k]
	delete(r.text, k)
	if b == nil {
		return ""
	}
	return b.String()
}

// reason finds why a test was skipped: the typed reason if there is one, else what the test logged last.
func reason(text string) string {
	found := "no reason given"
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		if _, after, ok := strings.Cut(line, "SKIP-REASON "); ok {
			return after
		}
		if line != "" && !strings.HasPrefix(line, "===") && !strings.HasPrefix(line, "---") {
			found = line
		}
	}
	return found
}

// twin is the test that ran in a guest and is reported as k: package topologies/guest calls it TEST/PACKAGE/TEST, with dots for the
// slashes of the package's path in the module.
func (r *report) twin(k key) (key, bool) {
	module, ok := strings.CutSuffix(k.pkg, "/topologies/guest")
	parts := strings.SplitN(k.test, "/", 3)
	if !ok || len(parts) < 3 {
		return key{}, false
	}
	return key{module + "/" + strings.ReplaceAll(parts[1], ".", "/"), parts[2]}, true
}

// again lists the packages with tests that the race detector skipped, each with a pattern of those.
func (r *report) again() string {
	tests := map[string][]string{}
	for _, s := range r.skips {
		if strings.HasPrefix(s.reason, raceSkip) {
			name, _, _ := strings.Cut(s.test, "/")
			tests[s.pkg] = append(tests[s.pkg], name)
		}
	}
	var b strings.Builder
	for _, pkg := range slices.Sorted(maps.Keys(tests)) {
		slices.Sort(tests[pkg])
		fmt.Fprintf(&b, "%s ^(%s)$\n", pkg, strings.Join(slices.Compact(tests[pkg]), "|"))
	}
	return b.String()
}

// Reasons for which a test is skipped that runs elsewhere.
const (
	kernelSkip = "kind=link "
	raceSkip   = "kind=race "
)

// ran takes the skips out that are for a reason and whose test passed elsewhere, and lists them.
func (r *report) ran(reason string, passed map[key]bool, where string) {
	var ran []skip
	r.skips = slices.DeleteFunc(r.skips, func(s skip) bool {
		if !passed[s.key] || !strings.HasPrefix(s.reason, reason) {
			return false
		}
		ran = append(ran, s)
		return true
	})
	if len(ran) > 0 {
		fmt.Fprintln(r.out, where)
	}
	for _, s := range ran {
		fmt.Fprintf(r.out, "  %s %s\n", s.pkg, s.test)
	}
}

// finish prints the skips and the totals and reports whether all is well.
func (r *report) finish(checks []string) bool {
	fmt.Fprintln(r.out)
	r.ran(kernelSkip, r.inGuest, "Skipped for this machine's kernel, passed in a guest:")
	r.ran(raceSkip, r.passes, "Skipped under the race detector, passed without it:")
	if len(r.skips) == 0 {
		fmt.Fprintln(r.out, "Skipped tests: none.")
	} else {
		fmt.Fprintln(r.out, "Skipped tests:")
	}
	for _, s := range r.skips {
		fmt.Fprintf(r.out, "  %s %s: %s\n", s.pkg, s.test, s.reason)
	}
	if r.packages == 0 {
		checks = append(checks, "no-package-was-tested")
	}
	for _, c := range checks {
		fmt.Fprintln(r.out, "Failed check:", c)
		r.failed++
	}
	fmt.Fprintf(r.out, "%d passed, %d failed, %d skipped\n", r.passed, r.failed, len(r.skips))
	return r.failed == 0
}
