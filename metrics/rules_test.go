package metrics

import (
	"maps"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/goccy/go-yaml"
)

// rulesFile is where the rules are, seen from this package.
const rulesFile = "prometheus/sitewire.rules.yaml"

// rule is a recording rule or an alert.
type rule struct {
	Record, Alert, Expr string
	Labels, Annotations map[string]string
}

type ruleFile struct {
	Groups []struct {
		Name  string
		Rules []rule
	}
}

// allRules reads the rules as they are shipped.
func allRules(t *testing.T) []rule {
	t.Helper()
	var f ruleFile
	decode(t, rulesFile, &f)
	var all []rule
	for _, g := range f.Groups {
		all = append(all, g.Rules...)
	}
	if len(all) < 40 {
		t.Fatalf("only %d rules", len(all))
	}
	return all
}

// alerts of the rules, by name.
func alerts(t *testing.T) map[string]rule {
	t.Helper()
	out := map[string]rule{}
	for _, r := range allRules(t) {
		if r.Alert == "" {
			continue
		}
		if _, twice := out[r.Alert]; twice {
			t.Errorf("%s twice", r.Alert)
		}
		out[r.Alert] = r
	}
	return out
}

func decode(t *testing.T, file string, v any) {
	t.Helper()
	text, err := os.ReadFile(file)
	if err == nil {
		err = yaml.Unmarshal(text, v)
	}
	if err != nil {
		t.Fatalf("%s: %v", file, err)
	}
}

// metricNames finds names of metrics in rules and prose. Names of recorded series have the metric's name after a colon, and a name that
// ends in "_" is a family of names.
var metricNames = regexp.MustCompile(`(?:^|[^:\w./-])(sitewire_[a-z0-9_]*[a-z0-9])(_?)`)

// known are the names of series that the daemon exports, and of those that the rules record.
func known(t *testing.T) map[string]bool {
	t.Helper()
	out := map[string]bool{}
	for _, m := range Catalogue() {
		out[m.Name] = true
		if m.Kind == Histogram {
			for _, suffix := range []string{"_bucket", "_sum", "_count"} {
				out[m.Name+suffix] = true
			}
		}
	}
	return out
}

// Every metric that a rule looks at exists.
func TestRulesHaveTheirMetrics(t *testing.T) {
	exists, seen := known(t), 0
	for _, r := range allRules(t) {
		for _, match := range metricNames.FindAllStringSubmatch(r.Expr, -1) {
			seen++
			if name := match[1]; !exists[name] {
				t.Errorf("%s%s: there is no %s", r.Alert, r.Record, name)
			}
		}
	}
	if seen < 60 {
		t.Errorf("only %d names of metrics found in the rules", seen)
	}
}

func TestPromtoolCheck(t *testing.T) {
	tool := promtool(t)
	for _, args := range [][]string{
		{"check", "rules", "--lint=all", "sitewire.rules.yaml"},
		{"check", "config", "prometheus.example.yml"},
		{"test", "rules", "sitewire.rules_test.yaml"},
	} {
		t.Run(strings.Join(args[:2], " "), func(t *testing.T) {
			cmd := exec.CommandContext(t.Context(), tool, args...)
			cmd.Dir = "prometheus"
			if out, err := cmd.CombinedOutput(); err != nil {
				t.Errorf("promtool %s: %v\n%s", strings.Join(args, " "), err, out)
			}
		})
	}
}

// ruleTest is what a case of the rules' own tests expects of an alert.
type ruleTest struct {
	Alertname string
	ExpAlerts []struct {
		ExpLabels map[string]string `yaml:"exp_labels"`
	} `yaml:"exp_alerts"`
}

func ruleTests(t *testing.T) []ruleTest {
	t.Helper()
	var file struct {
		Tests []struct {
			AlertRuleTest []ruleTest `yaml:"alert_rule_test"`
		}
	}
	decode(t, "prometheus/sitewire.rules_test.yaml", &file)
	var all []ruleTest
	for _, group := range file.Tests {
		all = append(all, group.AlertRuleTest...)
	}
	return all
}

// Each alert is tested with series for which it fires, and at a moment at which it does not.
func TestAlertsAreTested(t *testing.T) {
	fires, silent := map[string]bool{}, map[string]bool{}
	for _, c := range ruleTests(t) {
		if len(c.ExpAlerts) > 0 {
			fires[c.Alertname] = true
		} else {
			silent[c.Alertname] = true
		}
	}
	for name := range alerts(t) {
		if !fires[name] || !silent[name] {
			t.Errorf("%s: tested firing %v, silent %v", name, fires[name], silent[name])
		}
	}
}

// What the example mutes exists, and the labels by which it does are on both alerts.
func TestInhibitions(t *testing.T) {
	var file struct {
		InhibitRules []struct {
			SourceMatchers []string `yaml:"source_matchers"`
			TargetMatchers []string `yaml:"target_matchers"`
			Equal          []string
		} `yaml:"inhibit_rules"`
	}
	decode(t, "prometheus/alertmanager.example.yml", &file)
	if len(file.InhibitRules) < 3 {
		t.Fatalf("only %d rules", len(file.InhibitRules))
	}
	// Alertmanager takes two labels that are missing for equal ones, so both alerts must have them. The rules' tests know which labels an
	// alert has.
	labels := map[string]map[string]string{}
	for _, c := range ruleTests(t) {
		for _, a := range c.ExpAlerts {
			labels[c.Alertname] = a.ExpLabels
		}
	}
	matcher := regexp.MustCompile(`^alertname(=|=~|!=)"(.+)"$`)
	for _, r := range file.InhibitRules {
		for _, m := range slices.Concat(r.SourceMatchers, r.TargetMatchers) {
			parts := matcher.FindStringSubmatch(m)
			if parts == nil {
				t.Errorf("%s: not understood", m)
				continue
			}
			names := strings.Split(parts[2], "|")
			if parts[2] == "Sitewire.+" {
				names = slices.Collect(maps.Keys(labels))
			}
			for _, name := range names {
				if labels[name] == nil {
					t.Errorf("%s: there is no alert %s", m, name)
					continue
				}
				for _, label := range r.Equal {
					if labels[name][label] == "" {
						t.Errorf("%s: %s does not have the label %s", m, name, label)
					}
				}
			}
		}
	}
}
