package main

import (
	"encoding/json"
	"fmt"
	"io/fs"
	"regexp"
	"slices"
	"strings"

	"sitewire/metrics"
)

// panel is what matters here of a Grafana panel; a row that is folded has panels of its own.
type panel struct {
	Title   string
	Type    string
	Panels  []panel
	Targets []struct{ RefID, Expr string }
}

// dashboard is what matters here of Grafana's dashboard model.
type dashboard struct {
	UID         string
	Panels      []panel
	Annotations struct{ List []struct{ Name, Expr string } }
	Templating  struct {
		List []struct {
			Name, Type string
			Query      any // text, or an object with it
		}
	}
}

// noData lists expressions that return nothing in this lab, with the reason: "dashboard: panel: expression's ref", or "rule NAME". An entry
// that does return data is a mistake too.
var noData = map[string]string{
	"sitewire-bgp: NOTIFICATIONs in the chosen time: A": "GoBGP does not tell which NOTIFICATION ended a session that has graceful restart, and no other is sent here",
	"sitewire-bgp: NOTIFICATIONs in the chosen time: B": "the same",
	"sitewire-overview: Gateways: K":                    "no change waits to be confirmed",
}

// panels: every expression of every panel has shown a number in the life of this lab, and so have annotations and variables.
func (o *observed) panels() {
	files, err := fs.Glob(metrics.Assets, "grafana/*.json")
	if err != nil {
		o.Fatal(err)
	}
	for _, file := range files {
		text, err := fs.ReadFile(metrics.Assets, file)
		if err != nil {
			o.Fatal(err)
		}
		var d dashboard
		if err := json.Unmarshal(text, &d); err != nil {
			o.Fatalf("%s: %v", file, err)
		}
		for p := range eachPanel(d.Panels) {
			for _, target := range p.Targets {
				if target.Expr != "" {
					o.shows(fmt.Sprintf("%s: %s: %s", d.UID, p.Title, target.RefID), target.Expr)
				}
			}
		}
		for _, a := range d.Annotations.List {
			if a.Expr != "" {
				o.shows(fmt.Sprintf("%s: annotation %s", d.UID, a.Name), a.Expr)
			}
		}
		for _, v := range d.Templating.List {
			if v.Type == "query" {
				o.variable(fmt.Sprintf("%s: variable %s", d.UID, v.Name), v.Query)
			}
		}
	}
}

// shows checks that an expression has shown a number, unless there is a reason for it not to.
func (o *observed) shows(where, expr string) {
	n, err := o.values(expand(expr))
	reason, listed := noData[where]
	o.asked[where] = true
	switch {
	case err != nil:
		o.Errorf("%s: %s: %v", where, expr, err)
	case n == 0 && !listed:
		o.Errorf("%s shows nothing: %s", where, expr)
	case n > 0 && listed:
		o.Errorf("%s is listed as without data (%s), and shows %d numbers", where, reason, n)
	}
}

func eachPanel(panels []panel) func(yield func(panel) bool) {
	return func(yield func(panel) bool) {
		for _, p := range panels {
			if !yield(p) {
				return
			}
			for q := range eachPanel(p.Panels) {
				if !yield(q) {
					return
				}
			}
		}
	}
}

// labelValues is the form of a variable's query: label_values(SELECTOR, LABEL).
var labelValues = regexp.MustCompile(`^label_values\((.*), *(\w+)\)$`)

// variable checks that a variable offers something to choose.
func (o *observed) variable(where string, query any) {
	text, ok := query.(string)
	if object, isObject := query.(map[string]any); isObject {
		text, ok = object["query"].(string)
	}
	m := labelValues.FindStringSubmatch(text)
	if !ok || m == nil {
		o.Errorf("%s: not understood: %v", where, query)
		return
	}
	series := o.query(fmt.Sprintf(`count by (%s) (last_over_time(%s[1h]))`, m[2], expand(m[1])))
	if !slices.ContainsFunc(series, func(s sample) bool { return s.Metric[m[2]] != "" }) {
		o.Errorf("%s offers nothing: %s", where, text)
	}
}

// grafanaVariable is a variable in any of Grafana's notations: $name, ${name}, ${name:format}, [[name]].
var grafanaVariable = regexp.MustCompile(`\$(\w+)|\$\{(\w+)(?::\w+)?\}|\[\[(\w+)\]\]`)

// expand puts values for Grafana's variables as Grafana would: those of time for one hour at a step of 5 s, and all for those that are chosen.
func expand(expr string) string {
	return grafanaVariable.ReplaceAllStringFunc(expr, func(v string) string {
		switch strings.Trim(v, "${}[]") {
		case "__rate_interval":
			return "15s"
		case "__interval":
			return "5s"
		case "__range":
			return "1h"
		case "__range_s":
			return "3600"
		}
		return ".+"
	})
}
