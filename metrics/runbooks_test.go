package metrics

import (
	"cmp"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// runbookDir is where the runbooks are, seen from this package.
const runbookDir = "../docs/runbooks"

// What whoever is woken gets to read: how bad it is, one sentence that is always the same (people learn it by heart, and tools group by it),
// the particulars, and a page that goes on from there.
func TestAlertsHaveRunbooks(t *testing.T) {
	all := alerts(t)
	for name, r := range all {
		if !slices.Contains([]string{"critical", "warning", "info"}, r.Labels["severity"]) {
			t.Errorf("%s has severity %q", name, r.Labels["severity"])
		}
		if s := r.Annotations["summary"]; s == "" || strings.Contains(s, "{{") || !strings.HasSuffix(s, ".") {
			t.Errorf("%s: summary %q", name, s)
		}
		if d := r.Annotations["description"]; !strings.Contains(d, "{{ $labels.instance }}") || !strings.HasSuffix(d, ".") {
			t.Errorf("%s: description %q", name, d)
		}
		if url, want := r.Annotations["runbook_url"], "docs/runbooks/"+name+".md"; url != want {
			t.Errorf("%s: runbook_url %q, want %q", name, url, want)
		}
		page, err := os.ReadFile(filepath.Join(runbookDir, name+".md"))
		if err != nil {
			t.Error(err)
			continue
		}
		var headings []string
		for line := range strings.Lines(string(page)) {
			if strings.HasPrefix(line, "# ") || strings.HasPrefix(line, "## ") {
				headings = append(headings, strings.TrimSpace(line))
			}
		}
		if want := []string{"# " + name, "## Meaning", "## Impact", "## Diagnose", "## Fix"}; !slices.Equal(headings, want) {
			t.Errorf("%s.md has the headings %q, want %q", name, headings, want)
		}
		if !strings.Contains(string(page), r.Labels["severity"]) {
			t.Errorf("%s.md does not say that the severity is %s", name, r.Labels["severity"])
		}
	}
	files, err := filepath.Glob(filepath.Join(runbookDir, "*.md"))
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		name := strings.TrimSuffix(filepath.Base(f), ".md")
		if _, ok := all[name]; !ok && name != "README" {
			t.Errorf("%s is about an alert that does not exist", f)
		}
	}
}

// Runbooks name metrics that exist, and alerts that exist.
func TestRunbooksNameWhatExists(t *testing.T) {
	files, err := filepath.Glob(filepath.Join(runbookDir, "*.md"))
	if err != nil {
		t.Fatal(err)
	}
	exists, all, alertNames := known(t), alerts(t), regexp.MustCompile(`\bSitewire[A-Z]\w+`)
	seen := 0
	for _, f := range files {
		page, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		for _, match := range metricNames.FindAllStringSubmatch(string(page), -1) {
			seen++
			if name := match[1]; match[2] == "" && !exists[name] {
				t.Errorf("%s names %s, which does not exist", f, name)
			}
		}
		for _, name := range alertNames.FindAllString(string(page), -1) {
			if _, ok := all[name]; !ok {
				t.Errorf("%s names the alert %s, which does not exist", f, name)
			}
		}
	}
	if seen < 30 {
		t.Errorf("only %d names of metrics found in the runbooks", seen)
	}
}

// The index of the runbooks is made from the rules: go test ./metrics -run TestRunbookIndex -update.
func TestRunbookIndex(t *testing.T) {
	file := filepath.Join(runbookDir, "README.md")
	page, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	const begin, end = "<!-- made from the rules -->\n", "<!-- end -->\n"
	before, rest, ok := strings.Cut(string(page), begin)
	_, after, closed := strings.Cut(rest, end)
	if !ok || !closed {
		t.Fatalf("%s lacks the lines %q and %q", file, begin, end)
	}
	all := alerts(t)
	rank := []string{"critical", "warning", "info"}
	names := slices.SortedFunc(maps.Keys(all), func(a, b string) int {
		return cmp.Or(slices.Index(rank, all[a].Labels["severity"])-slices.Index(rank, all[b].Labels["severity"]), strings.Compare(a, b))
	})
	var b strings.Builder
	b.WriteString("| alert | severity | what it says |\n|---|---|---|\n")
	for _, name := range names {
		fmt.Fprintf(&b, "| [%s](%s.md) | %s | %s |\n", name, name, all[name].Labels["severity"], all[name].Annotations["summary"])
	}
	golden(t, file, before+begin+b.String()+end+after)
}
