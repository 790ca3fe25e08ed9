package guest

import (
	"errors"
	"fmt"
	"io"
	"regexp"
	"strings"
	"testing"
)

// results collects the events of one run and replays each top-level test as a subtest when it has ended.
type results struct {
	t      *testing.T
	due    map[string]bool // tests that were to run and have not ended
	order  []string        // the keys of due, as listed
	tests  map[string]*test
	bench  string // the benchmark that runs
	failed bool   // the run as a whole
	bad    int    // tests that failed
}

// test is a test of the guest with its subtests.
type test struct {
	name     string // below its parent
	output   strings.Builder
	children []*test
	outcome  string // pass, fail, skip, or empty if it has not ended
	seconds  float64
}

func newResults(t *testing.T, names []string) *results {
	r := &results{t: t, due: make(map[string]bool), order: names, tests: make(map[string]*test)}
	for _, n := range names {
		r.due[n] = true
	}
	return r
}

func (r *results) event(e event) {
	if e.Test == "" {
		switch e.Action {
		case "output":
			r.say(e.Output)
		case "fail":
			r.failed = true
		}
		return
	}
	top, _, _ := strings.Cut(e.Test, "/")
	if top != r.bench {
		r.settle()
	}
	if strings.HasPrefix(top, "Benchmark") {
		r.bench = top
	}
	n := r.test(e.Test)
	switch e.Action {
	case "output":
		n.output.WriteString(e.Output)
	case "pass", "fail", "skip":
		n.outcome, n.seconds = e.Action, e.Elapsed
		if !strings.Contains(e.Test, "/") {
			r.top(e.Test)
		}
	}
}

// settle reports the benchmark that ran last. Nobody says that a benchmark has ended: it has if it, or each of its parts, has a line of
// results.
func (r *results) settle() {
	name := r.bench
	r.bench = ""
	if n := r.tests[name]; n != nil && r.due[name] {
		n.settle()
		r.top(name)
	}
}

var benchLine = regexp.MustCompile(`(?m)^Benchmark\S+\s+\d+\s`)

func (n *test) settle() {
	for _, c := range n.children {
		c.settle()
	}
	if n.outcome == "" && (len(n.children) > 0 || benchLine.MatchString(n.output.String())) {
		n.outcome = "pass"
	}
}

// test returns the node of that name, and makes it under its nearest ancestor.
func (r *results) test(name string) *test {
	if n := r.tests[name]; n != nil {
		return n
	}
	n := &test{name: name}
	for i := strings.LastIndexByte(name, '/'); i > 0; i = strings.LastIndexByte(name[:i], '/') {
		if parent := r.tests[name[:i]]; parent != nil {
			n.name = name[i+1:]
			parent.children = append(parent.children, n)
			break
		}
	}
	r.tests[name] = n
	return n
}

func (r *results) top(name string) {
	if r.tests[name].replay(r.t) {
		r.bad++
	}
	delete(r.due, name)
}

// say writes what belongs to no test, except the verdict on the whole run.
func (r *results) say(text string) {
	switch strings.TrimSpace(text) {
	case "", "PASS", "FAIL":
	default:
		_, _ = io.WriteString(r.t.Output(), text)
	}
}

// replay reports the test as a subtest of t, with its subtests. It returns whether the test failed.
func (n *test) replay(t *testing.T) (failed bool) {
	t.Run(n.name, func(t *testing.T) {
		if n.seconds >= 1 {
			fmt.Fprintf(t.Output(), "took %.1f s in the guest\n", n.seconds)
		}
		for text := range strings.Lines(n.output.String()) {
			if !isMarker(text) {
				_, _ = io.WriteString(t.Output(), text)
			}
		}
		for _, c := range n.children {
			c.replay(t)
		}
		switch n.outcome {
		case "fail":
			t.Fail()
		case "skip":
			t.SkipNow()
		case "":
			t.Error("it began in the guest and did not end")
		}
		failed = t.Failed()
	})
	return failed || n.outcome == "fail"
}

// isMarker finds the lines that package testing writes around a test.
func isMarker(text string) bool {
	text = strings.TrimLeft(text, " ")
	for _, mark := range []string{"=== RUN", "=== PAUSE", "=== CONT", "=== NAME", "--- PASS: ", "--- FAIL: ", "--- SKIP: ", "--- BENCH: "} {
		if strings.HasPrefix(text, mark) {
			return true
		}
	}
	return false
}

// finish reports what has not ended, and a run that failed though none of its tests did.
func (r *results) finish() error {
	r.settle()
	var errs []error
	for _, name := range r.order {
		if !r.due[name] {
			continue
		}
		if r.tests[name] != nil {
			r.top(name)
			continue
		}
		r.t.Run(name, func(t *testing.T) { t.Error("it was to run in the guest and did not") })
		r.bad++
	}
	if r.failed && r.bad == 0 {
		errs = append(errs, errors.New("the run failed, but none of its tests"))
	}
	return errors.Join(errs...)
}
