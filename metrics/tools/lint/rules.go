package lint

import (
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/rulefmt"
	"github.com/prometheus/prometheus/promql/parser"
)

// Rules are recording and alerting rules.
type Rules struct {
	recorded []named
	alerts   []named
}

// named is a rule with the file that it is in.
type named struct {
	rulefmt.Rule
	file string
}

// LoadRules reads rule files as Prometheus does.
func LoadRules(files ...string) (*Rules, error) {
	out := &Rules{}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			return nil, err
		}
		groups, errs := rulefmt.Parse(text, false, model.LegacyValidation, parser.NewParser(parser.Options{}), slog.New(slog.NewTextHandler(io.Discard, nil)))
		if len(errs) > 0 {
			return nil, fmt.Errorf("%s: %v", file, errs)
		}
		for _, g := range groups.Groups {
			for _, r := range g.Rules {
				if r.Record != "" {
					out.recorded = append(out.recorded, named{r, filepath.Base(file)})
				} else {
					out.alerts = append(out.alerts, named{r, filepath.Base(file)})
				}
			}
		}
	}
	return out, nil
}

// Alerts are the names of the alerts.
func (r *Rules) Alerts() (names []string) {
	for _, a := range r.alerts {
		names = append(names, a.Alert)
	}
	return names
}

// Record adds the recorded series to those that are known, with the labels that follow from their expressions.
func (r *Rules) Record(known Known) {
	// A rule may use one that comes later; the chain is short.
	for range r.recorded {
		for _, rule := range r.recorded {
			x := &expression{known: known, used: map[string]bool{}}
			labels := x.check(rule.Expr)
			for name := range rule.Labels {
				labels = labels.with(name)
			}
			known[rule.Record] = Series{Gauge, labels, ""}
		}
	}
}

var (
	ofLabel = regexp.MustCompile(`\$labels\.(\w+)`)
	level   = regexp.MustCompile(`^[a-z_]+:[a-zA-Z_0-9]+:[a-z_0-9]+$`)
)

// Check reports what is wrong with the rules. Runbooks is the folder of the runbooks.
func (r *Rules) Check(known Known, runbooks string, used map[string]bool) (problems []string) {
	seen := map[string]bool{}
	for _, rule := range slices.Concat(r.recorded, r.alerts) {
		name := rule.Alert + rule.Record
		if seen[name] {
			problems = append(problems, fmt.Sprintf("%s: %s twice", rule.file, name))
		}
		seen[name] = true
		x := &expression{known: known, used: used}
		labels := x.check(rule.Expr)
		for extra := range rule.Labels {
			labels = labels.with(extra)
		}
		if rule.Record != "" && !level.MatchString(name) {
			x.problem("a recorded series is named labels:metric:operation")
		}
		if rule.Alert != "" {
			x.alert(&rule, labels, runbooks)
		}
		for _, p := range x.problems {
			problems = append(problems, fmt.Sprintf("%s: %s: %s", rule.file, name, p))
		}
	}
	return problems
}

func (x *expression) alert(rule *named, result labelSet, runbooks string) {
	if !slices.Contains([]string{"critical", "warning", "info"}, rule.Labels["severity"]) {
		x.problem("severity %q is none of critical, warning, info", rule.Labels["severity"])
	}
	for _, name := range []string{"summary", "description", "runbook_url"} {
		if rule.Annotations[name] == "" {
			x.problem("no annotation %s", name)
		}
	}
	if strings.Contains(rule.Annotations["summary"], "{{") {
		x.problem("the summary is a template: it would not be the same for all alerts of a group")
	}
	for name, text := range rule.Annotations {
		for _, m := range ofLabel.FindAllStringSubmatch(text, -1) {
			if !result.has(m[1]) {
				x.problem("the annotation %s names the label %s, which the alert does not have: %s", name, m[1], result)
			}
		}
	}
	if url := rule.Annotations["runbook_url"]; !strings.HasSuffix(url, "/"+rule.Alert+".md") {
		x.problem("the runbook %q is not named after the alert", url)
	}
	if _, err := os.Stat(filepath.Join(runbooks, rule.Alert+".md")); err != nil {
		x.problem("no runbook: %v", err)
	}
}
