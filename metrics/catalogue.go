package metrics

import (
	"slices"

	"github.com/prometheus/client_golang/prometheus"

	"sitewire/bgp"
	"sitewire/bgp/rpki"
	"sitewire/gateway/probe"
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
			API:     func() API { return API{} },
			Devices: func() map[string]wg.LinkCounters { return nil },
			Probes:  func() []*probe.Stats { return nil },
			RPKI:    func() *rpki.Snapshot { return nil },
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

// metric is a Metric with what describes it to the client library and what makes text of it.
type metric struct {
	Metric
	layout
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
	m.layout = newLayout(len(c.metrics), &m.Metric)
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
