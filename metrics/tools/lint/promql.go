package lint

import (
	"fmt"
	"regexp"
	"strings"
	"time"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/promql/parser"
)

// Ranges that stand for those that Grafana computes while an expression is checked; odd, so that nobody writes them by hand.
const (
	rateInterval = 61 * time.Second
	chosenRange  = 3601 * time.Second
)

// Shortest fixed ranges: on dashboards what is shorter must follow the step, in rules four scrapes of 30 s must fit.
const (
	minFixed = 30 * time.Minute
	minRule  = 2 * time.Minute
)

// rating functions make rates of counters.
var rating = set("rate", "irate", "increase", "resets")

// expression is one PromQL expression under examination.
type expression struct {
	known     Known
	dashboard bool // on a dashboard: must be limited to the chosen job and instance, ranges follow the step
	used      map[string]bool
	problems  []string
}

// check parses an expression and reports everything that is wrong with it, and the labels of its result.
func (x *expression) check(expr string) labelSet {
	parsed, err := parser.NewParser(parser.Options{}).ParseExpr(expr)
	if err != nil {
		x.problem("%v", err)
		return nil
	}
	return x.labels(parsed, "")
}

func (x *expression) problem(format string, args ...any) {
	x.problems = append(x.problems, fmt.Sprintf(format, args...))
}

// labels returns the labels of an expression's result. In is the innermost function over a range around it.
func (x *expression) labels(e parser.Expr, in string) labelSet {
	switch e := e.(type) {
	case *parser.VectorSelector:
		return x.selector(e, in)
	case *parser.MatrixSelector:
		x.window(e.Range, in)
		return x.labels(e.VectorSelector, in)
	case *parser.SubqueryExpr:
		if rating[in] && aggregates(e.Expr) {
			x.problem("%s of an aggregate: a counter that restarts makes the sum jump; aggregate the rates instead", in)
		}
		return x.labels(e.Expr, "subquery")
	case *parser.ParenExpr:
		return x.labels(e.Expr, in)
	case *parser.StepInvariantExpr:
		return x.labels(e.Expr, in)
	case *parser.UnaryExpr:
		return x.labels(e.Expr, in)
	case *parser.AggregateExpr:
		return x.aggregate(e, in)
	case *parser.BinaryExpr:
		return x.binary(e, in)
	case *parser.Call:
		return x.call(e)
	default: // numbers and strings
		return set()
	}
}

func (x *expression) selector(v *parser.VectorSelector, in string) labelSet {
	name := v.Name
	if name == "" {
		x.problem("%s does not name a metric", v)
		return nil
	}
	series, ok := x.known[name]
	if !ok {
		x.problem("%s: no such metric", name)
		return nil
	}
	if series.Metric != "" {
		x.used[series.Metric] = true
	} else {
		x.used[name] = true
	}
	for _, m := range v.LabelMatchers {
		if m.Name != model.MetricNameLabel && !series.Labels.has(m.Name) {
			x.problem("%s has no label %s; it has %s", name, m.Name, series.Labels)
		}
	}
	if x.dashboard {
		for _, want := range target {
			if !limited(v.LabelMatchers, want) {
				x.problem(`%s is not limited by %s=~"$%s"`, name, want, want)
			}
		}
	}
	switch {
	case series.Kind == Counter && !rating[in]:
		x.problem("%s is a counter: its value means nothing without rate or increase", name)
	case series.Kind == Gauge && rating[in]:
		x.problem("%s of %s, which is a gauge", in, name)
	}
	return series.Labels
}

// limited says whether the matchers contain the board's variable for the label, as variables are expanded for a check.
func limited(matchers []*labels.Matcher, label string) bool {
	for _, m := range matchers {
		if m.Name == label && m.Type == labels.MatchRegexp && m.Value == sentinel(label) {
			return true
		}
	}
	return false
}

// sentinel is the value of a variable during a check.
func sentinel(variable string) string { return "value-of-" + variable }

func (x *expression) window(d time.Duration, in string) {
	if !rating[in] {
		return
	}
	if x.dashboard && d != rateInterval && d != chosenRange && d < minFixed {
		x.problem("%s over %s: use $__rate_interval, which follows the step and the scrape interval", in, d)
	}
	if !x.dashboard && d < minRule {
		x.problem("%s over %s: fewer than four scrapes of 30 s", in, d)
	}
}

func (x *expression) aggregate(e *parser.AggregateExpr, in string) labelSet {
	inner := x.labels(e.Expr, in)
	for _, l := range e.Grouping {
		if !inner.has(l) {
			x.problem("%s by or without %s, which is not a label of %s", e.Op, l, e.Expr)
		}
	}
	switch {
	case e.Op == parser.TOPK || e.Op == parser.BOTTOMK:
		return inner
	case e.Op == parser.COUNT_VALUES:
		return inner.only(e.Grouping...).with(strings.Trim(e.Param.String(), `"`))
	case e.Without:
		return inner.less(e.Grouping...)
	default:
		return inner.only(e.Grouping...)
	}
}

func (x *expression) call(c *parser.Call) labelSet {
	name := c.Func.Name
	result := set()
	for i, arg := range c.Args {
		if arg.Type() == parser.ValueTypeVector || arg.Type() == parser.ValueTypeMatrix {
			result = x.labels(c.Args[i], name)
		} else {
			x.labels(arg, "")
		}
	}
	switch name {
	case "histogram_quantile":
		if !result.has("le") {
			x.problem("histogram_quantile of what has no label le: the buckets were summed up")
		}
		return result.less("le")
	case "label_replace", "label_join":
		return result.with(strings.Trim(c.Args[1].String(), `"`))
	case "absent", "absent_over_time":
		return nil
	case "scalar", "vector", "time":
		return set()
	}
	return result
}

func (x *expression) binary(e *parser.BinaryExpr, in string) labelSet {
	l, r := x.labels(e.LHS, in), x.labels(e.RHS, in)
	if e.LHS.Type() == parser.ValueTypeScalar {
		return r
	}
	if e.RHS.Type() == parser.ValueTypeScalar {
		return l
	}
	m := e.VectorMatching
	if e.Op == parser.LOR {
		if l == nil || r == nil {
			return nil
		}
		for name := range r {
			l = l.with(name)
		}
		return l
	}
	if m.On {
		for _, name := range m.MatchingLabels {
			if !l.has(name) || !r.has(name) {
				x.problem("%s on %s, which is not a label of both sides", e.Op, name)
			}
		}
	} else if l != nil && r != nil {
		if a, b := l.less(m.MatchingLabels...), r.less(m.MatchingLabels...); a.String() != b.String() {
			x.problem("%s never matches: the left side has %s, the right side %s", e.Op, a, b)
		}
	}
	many, one := l, r
	if m.Card == parser.CardOneToMany {
		many, one = r, l
	}
	for _, name := range m.Include {
		if !one.has(name) {
			x.problem("group_left or group_right of %s, which is not a label of the other side", name)
		}
	}
	if m.Card == parser.CardOneToOne && m.On && !e.Op.IsSetOperator() {
		return many.only(m.MatchingLabels...)
	}
	return many.with(m.Include...)
}

// aggregates says whether an expression contains an aggregation.
func aggregates(e parser.Expr) bool {
	found := false
	parser.Inspect(e, func(n parser.Node, _ []parser.Node) error {
		_, ok := n.(*parser.AggregateExpr)
		found = found || ok
		return nil
	})
	return found
}

var placeholder = regexp.MustCompile(`\{\{\s*([A-Za-z_]\w*)\s*\}\}`)

// legend reports labels that a legend names and the result does not have.
func (x *expression) legend(format string, result labelSet) {
	for _, m := range placeholder.FindAllStringSubmatch(format, -1) {
		if !result.has(m[1]) {
			x.problem("the legend %q names %s, which the result does not have: %s", format, m[1], result)
		}
	}
}
