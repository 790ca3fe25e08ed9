// Package metrics exports what the daemon knows to Prometheus.
//
// Job: turn snapshots of tunnels, BGP sessions, routes and the process into metrics, and serve them over HTTP.
// Owner: nobody; the Collector keeps no state between scrapes, the Handler only pages in use and memory to reuse.
// LogCounter owns its counters, Server its listener.
// Inputs: the functions of Source, which return immutable snapshots.
// Outputs: /metrics in the Prometheus and OpenMetrics text formats and as protocol buffers; Catalogue for documentation
// and lint.
// Invariants: a scrape reads snapshots and makes no netlink or GoBGP call; names and labels are an interface, held by
// golden tests; every configured peer has its series from the start; no secret, no endpoint (unless asked for) and no
// learned prefix is ever a label.
package metrics

import (
	"fmt"
	"log/slog"
	"maps"
	"runtime/debug"
	"slices"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"sitewire/bgp"
	"sitewire/bgp/rpki"
	"sitewire/gateway/probe"
	"sitewire/gateway/wg"
	"sitewire/routes"
)

// Source gives the snapshots that a scrape exports. The functions are called once for each scrape, from any
// goroutine, must not block and must not be changed afterwards. A nil function leaves its metrics out for good, a nil
// snapshot leaves them out of this scrape.
type Source struct {
	Process func() Process
	// Tunnels lists every configured peer, whether or not its device could be opened.
	Tunnels func() []wg.Tunnel
	// BGP lists every configured neighbour.
	BGP    func() *bgp.Snapshot
	Routes func() *routes.Status
	Kernel func() *Kernel
	API    func() API
	// Devices are the packet counters of devices, by name.
	Devices func() map[string]wg.LinkCounters
	// Probes lists every configured peer, probed or not.
	Probes func() []*probe.Stats
	// RPKI lists the sources of payloads; without any it has no series.
	RPKI func() *rpki.Snapshot
}

// CollectorOptions for NewCollector.
type CollectorOptions struct {
	Source Source
	// EndpointInfo exports the outer addresses of peers. They are personal data and change with roaming, so they are
	// off unless asked for.
	EndpointInfo bool
	Log          *slog.Logger
}

// Collector is a prometheus.Collector over a Source.
type Collector struct {
	source  Source
	groups  []group
	metrics []*metric // in the order of the catalogue
	byName  []*metric
	self    selfMetrics
	log     *slog.Logger
	now     func() time.Time
}

// group is one part of the exposition, with the label value that it has in sitewire_collector_success.
type group struct {
	name    string
	collect func(*emitter, *scrape)
}

// scrape is what one scrape looks at.
type scrape struct {
	process Process
	tunnels []wg.Tunnel
	bgp     *bgp.Snapshot
	routes  *routes.Status
	kernel  *Kernel
	api     API
	devices map[string]wg.LinkCounters
	probes  []*probe.Stats
	rpki    *rpki.Snapshot
}

// NewCollector makes a collector. It calls nothing of the source.
func NewCollector(o CollectorOptions) *Collector {
	c := &Collector{source: o.Source, log: o.Log, now: time.Now}
	cat := &catalogue{}
	c.self = newSelfMetrics(cat)
	if o.Source.Process != nil {
		c.groups = append(c.groups, group{"process", newProcessMetrics(cat).collect})
	}
	if o.Source.Tunnels != nil {
		c.groups = append(c.groups, group{"tunnels", newTunnelMetrics(cat, o.EndpointInfo).collect})
	}
	if o.Source.Probes != nil {
		c.groups = append(c.groups, group{"probes", newProbeMetrics(cat).collect})
	}
	if o.Source.BGP != nil {
		c.groups = append(c.groups, group{"bgp", newBGPMetrics(cat).collect})
	}
	if o.Source.RPKI != nil {
		c.groups = append(c.groups, group{"rpki", newRPKIMetrics(cat).collect})
	}
	if o.Source.Routes != nil {
		c.groups = append(c.groups, group{"routes", newRouteMetrics(cat).collect})
	}
	if o.Source.Kernel != nil {
		c.groups = append(c.groups, group{"kernel", newKernelMetrics(cat).collect})
	}
	if o.Source.API != nil {
		c.groups = append(c.groups, group{"api", newAPIMetrics(cat).collect})
	}
	if o.Source.Devices != nil {
		c.groups = append(c.groups, group{"devices", newDeviceMetrics(cat).collect})
	}
	c.metrics = cat.metrics
	c.byName = slices.SortedFunc(slices.Values(c.metrics), func(a, b *metric) int { return strings.Compare(a.Name, b.Name) })
	return c
}

// Describe implements prometheus.Collector.
func (c *Collector) Describe(ch chan<- *prometheus.Desc) {
	for _, m := range c.metrics {
		ch <- m.desc
	}
}

// Collect implements prometheus.Collector: for other formats than text, and for tests to hold the text against.
func (c *Collector) Collect(ch chan<- prometheus.Metric) { c.collect(&emitter{ch: ch}) }

// collect hands everything to the emitter. A group that fails is logged and flagged in sitewire_collector_success,
// and does not keep the others from being scraped.
func (c *Collector) collect(e *emitter) {
	s := c.snapshots()
	e.created = s.process.Started
	for _, g := range c.groups {
		start := c.now()
		err := run(g, e, s)
		if err != nil {
			c.log.Error("metrics not collected", "collector", g.name, "error", err)
		}
		e.flag(c.self.success, err == nil, g.name)
		e.gauge(c.self.duration, c.now().Sub(start).Seconds(), g.name)
	}
	times := map[string]time.Time{}
	maps.Copy(times, s.process.Snapshots)
	if s.bgp != nil {
		times["bgp"] = s.bgp.Time
	}
	if s.routes != nil {
		times["fib"] = s.routes.At
	}
	for name, t := range times {
		e.time(c.self.snapshot, t, name)
	}
}

func (c *Collector) snapshots() *scrape {
	s := &scrape{}
	if c.source.Process != nil {
		s.process = c.source.Process()
	}
	if c.source.Tunnels != nil {
		s.tunnels = c.source.Tunnels()
	}
	if c.source.BGP != nil {
		s.bgp = c.source.BGP()
	}
	if c.source.Routes != nil {
		s.routes = c.source.Routes()
	}
	if c.source.Kernel != nil {
		s.kernel = c.source.Kernel()
	}
	if c.source.API != nil {
		s.api = c.source.API()
	}
	if c.source.Devices != nil {
		s.devices = c.source.Devices()
	}
	if c.source.Probes != nil {
		s.probes = c.source.Probes()
	}
	if c.source.RPKI != nil {
		s.rpki = c.source.RPKI()
	}
	return s
}

// run collects a group and turns its panic into an error: a mistake in one group must not hide the state of the
// tunnels from the one who looks for the cause.
func run(g group, e *emitter, s *scrape) (err error) {
	e.err = nil
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("panic: %v\n%s", r, debug.Stack())
		}
	}()
	g.collect(e, s)
	return e.err
}

// selfMetrics say how the exposition itself does.
type selfMetrics struct {
	success, duration, snapshot *metric
}

func newSelfMetrics(cat *catalogue) selfMetrics {
	cat.group("Process and configuration")
	return selfMetrics{
		success:  cat.gauge("collector_success", "1 if this part of the metrics was collected without an error.", "collector"),
		duration: cat.gauge("collector_duration_seconds", "Time that collecting this part of the metrics took in this scrape.", "collector"),
		snapshot: cat.gauge("snapshot_timestamp_seconds", "Unix time of the data behind the metrics; one that stands still means a frozen sampler.", "snapshot"),
	}
}
