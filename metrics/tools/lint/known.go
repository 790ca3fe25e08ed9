// Package lint finds what is wrong with dashboards and rules before anybody needs them at night.
//
// Job: parse every PromQL expression with Prometheus' own parser and compare it with the metrics that the daemon exports, with their
// labels and kinds; check the rules of Grafana's dashboard linter and those of this repository.
// Owner: nothing. Inputs: metrics.Catalogue, the dashboards, the rule files, the runbooks. Outputs: a list of problems, as text.
// Invariants: an expression that can never return what its author meant is a problem, whatever promtool says of its syntax.
package lint

import (
	"maps"
	"slices"
	"strings"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	dto "github.com/prometheus/client_model/go"

	"sitewire/metrics"
)

// Kind tells how a series may be used.
type Kind int

// Kinds of series.
const (
	Gauge   Kind = iota // as it is
	Counter             // only by its rate or increase; so are the parts of a histogram
)

// Series is what is known of all series of a name.
type Series struct {
	Kind   Kind
	Labels labelSet
	Metric string // name in the catalogue, for the parts of a histogram that of the whole
}

// labelSet is a set of label names. A nil set is one that is not known: anything may be in it.
type labelSet map[string]bool

func set(names ...string) labelSet {
	s := labelSet{}
	for _, n := range names {
		s[n] = true
	}
	return s
}

func (s labelSet) has(name string) bool { return s == nil || s[name] }

func (s labelSet) with(names ...string) labelSet {
	if s == nil {
		return nil
	}
	out := maps.Clone(s)
	for _, n := range names {
		out[n] = true
	}
	return out
}

func (s labelSet) less(names ...string) labelSet {
	if s == nil {
		return nil
	}
	out := maps.Clone(s)
	for _, n := range names {
		delete(out, n)
	}
	return out
}

func (s labelSet) only(names ...string) labelSet {
	out := set(names...)
	return out
}

func (s labelSet) String() string {
	return "(" + strings.Join(slices.Sorted(maps.Keys(s)), ", ") + ")"
}

// Known are the series that exist.
type Known map[string]Series

// target are the labels that Prometheus gives to everything it scrapes.
var target = []string{"job", "instance"}

// Daemon returns the series that a gateway exports, and those that Prometheus adds.
func Daemon(catalogue []metrics.Metric) Known {
	k := Known{}
	for _, m := range catalogue {
		labels := set(m.Labels...).with(target...)
		switch m.Kind {
		case metrics.Histogram:
			k.histogram(m.Name, labels)
		case metrics.Counter:
			k[m.Name] = Series{Counter, labels, m.Name}
		default:
			k[m.Name] = Series{Gauge, labels, m.Name}
		}
	}
	k.process()
	plain := set(target...)
	for _, name := range []string{"up", "scrape_duration_seconds", "scrape_samples_scraped"} {
		k[name] = Series{Gauge, plain, ""}
	}
	// Alerts carry the labels of what they are about.
	k["ALERTS"], k["ALERTS_FOR_STATE"] = Series{Gauge, nil, ""}, Series{Gauge, nil, ""}
	return k
}

func (k Known) histogram(name string, labels labelSet) {
	k[name+"_bucket"] = Series{Counter, labels.with("le"), name}
	k[name+"_sum"] = Series{Counter, labels, name}
	k[name+"_count"] = Series{Counter, labels, name}
}

// process adds what the collectors of the process and of the Go runtime export.
func (k Known) process() {
	r := prometheus.NewPedanticRegistry()
	r.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	families, err := r.Gather()
	if err != nil {
		panic(err) // this process' own files under /proc
	}
	for _, f := range families {
		labels := set(target...)
		for _, m := range f.Metric {
			for _, l := range m.Label {
				labels = labels.with(l.GetName())
			}
		}
		kind := Gauge
		if f.GetType() == dto.MetricType_COUNTER {
			kind = Counter
		}
		k[f.GetName()] = Series{kind, labels, ""}
	}
}
