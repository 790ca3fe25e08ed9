package metrics

import (
	"slices"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"sitewire/bgp"
	"sitewire/gateway/wg"
	"sitewire/routes"
)

// Kind of a metric, as in the TYPE line of the exposition.
type Kind string

// Kinds of metrics.
const (
	Counter   Kind = "counter"
	Gauge     Kind = "gauge"
	Histogram Kind = "histogram"
)

// Metric describes a metric: what dashboards, alerts and documentation may rely on.
type Metric struct {
	Group  string // heading in the documentation
	Name   string
	Kind   Kind
	Labels []string
	Help   string
}

// Catalogue lists every metric of this package that a Collector can export, in the order of the documentation.
func Catalogue() []Metric {
	c := NewCollector(CollectorOptions{
		Source: Source{
			Process: func() Process { return Process{} },
			Tunnels: func() []wg.Tunnel { return nil },
			BGP:     func() *bgp.Snapshot { return nil },
			Routes:  func() *routes.Status { return nil },
			Kernel:  func() *Kernel { return nil },
		},
		EndpointInfo: true,
	})
	out := make([]Metric, 0, len(c.metrics))
	for _, m := range c.metrics {
		out = append(out, m.Metric)
		out[len(out)-1].Labels = slices.Clone(m.Labels)
	}
	return out
}

// metric is a Metric with its descriptor.
type metric struct {
	Metric
	desc *prometheus.Desc
}

// catalogue makes metrics and remembers them in order.
type catalogue struct {
	heading string
	metrics []*metric
}

// group sets the heading of the metrics that follow.
func (c *catalogue) group(heading string) { c.heading = heading }

func (c *catalogue) add(kind Kind, name, help string, labels []string) *metric {
	name = "sitewire_" + name
	m := &metric{
		Metric: Metric{Group: c.heading, Name: name, Kind: kind, Labels: labels, Help: help},
		desc:   prometheus.NewDesc(name, help, labels, nil),
	}
	c.metrics = append(c.metrics, m)
	return m
}

func (c *catalogue) counter(name, help string, labels ...string) *metric {
	return c.add(Counter, name, help, labels)
}

func (c *catalogue) gauge(name, help string, labels ...string) *metric {
	return c.add(Gauge, name, help, labels)
}

func (c *catalogue) histogram(name, help string, labels ...string) *metric {
	return c.add(Histogram, name, help, labels)
}

// emitter sends samples to a scrape and keeps the first error, which is about a label value that is not UTF-8.
type emitter struct {
	ch  chan<- prometheus.Metric
	err error
}

func (e *emitter) send(m prometheus.Metric, err error) {
	if err != nil {
		if e.err == nil {
			e.err = err
		}
		return
	}
	e.ch <- m
}

func (e *emitter) counter(m *metric, v uint64, labels ...string) {
	e.send(prometheus.NewConstMetric(m.desc, prometheus.CounterValue, float64(v), labels...))
}

func (e *emitter) gauge(m *metric, v float64, labels ...string) {
	e.send(prometheus.NewConstMetric(m.desc, prometheus.GaugeValue, v, labels...))
}

func (e *emitter) flag(m *metric, v bool, labels ...string) {
	var f float64
	if v {
		f = 1
	}
	e.gauge(m, f, labels...)
}

// time sends a Unix time with milliseconds; a time that is not set is 0.
func (e *emitter) time(m *metric, t time.Time, labels ...string) {
	var f float64
	if !t.IsZero() {
		f = float64(t.UnixMilli()) / 1000
	}
	e.gauge(m, f, labels...)
}

// histogram sends classic buckets, which Prometheus wants cumulative. Counts are those of each bucket alone, with one
// more than there are bounds, for what exceeds them all. Bounds and sum are in seconds.
func (e *emitter) histogram(m *metric, bounds []float64, counts []uint64, sum float64, labels ...string) {
	buckets := make(map[float64]uint64, len(bounds))
	var n uint64
	for i, c := range counts {
		n += c
		if i < len(bounds) {
			buckets[bounds[i]] = n
		}
	}
	e.send(prometheus.NewConstHistogram(m.desc, n, sum, buckets, labels...))
}
