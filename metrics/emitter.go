package metrics

import (
	"slices"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"sitewire/routes"
)

// emitter hands on the samples of a scrape, as text, as protocol buffers or to the client library, and keeps the first error, which is about
// a label value that is not UTF-8.
type emitter struct {
	text *text                    // one of them
	wire *wire                    //
	ch   chan<- prometheus.Metric //
	err  error
	// created is since when counts are counted: the start of the process.
	created time.Time
}

func (e *emitter) fail(err error) {
	if e.err == nil {
		e.err = err
	}
}

func (e *emitter) send(m prometheus.Metric, err error) {
	if err != nil {
		e.fail(err)
		return
	}
	if e.wire != nil {
		if err := e.wire.add(m); err != nil {
			e.fail(err)
		}
		return
	}
	e.ch <- m
}

func (e *emitter) sample(m *metric, v float64, labels []string) {
	if e.text != nil {
		if err := e.text.sample(m, v, labels); err != nil {
			e.fail(err)
		}
		return
	}
	if e.wire != nil {
		if err := e.wire.sample(m, v, labels); err != nil {
			e.fail(err)
		}
		return
	}
	kind := prometheus.GaugeValue
	if m.Kind == Counter {
		kind = prometheus.CounterValue
	}
	e.send(prometheus.NewConstMetric(m.desc, kind, v, slices.Clone(labels)...)) // a clone, so that as text nothing goes to the heap
}

func (e *emitter) counter(m *metric, v uint64, labels ...string) { e.sample(m, float64(v), labels) }

func (e *emitter) gauge(m *metric, v float64, labels ...string) { e.sample(m, v, labels) }

func (e *emitter) flag(m *metric, v bool, labels ...string) {
	var f float64
	if v {
		f = 1
	}
	e.sample(m, f, labels)
}

// time sends a Unix time with milliseconds; a time that is not set is 0.
func (e *emitter) time(m *metric, t time.Time, labels ...string) {
	var f float64
	if !t.IsZero() {
		f = float64(t.UnixMilli()) / 1000
	}
	e.sample(m, f, labels)
}

// byName sends a counter for each name: those known beforehand, at 0 until counted, so that rate and increase see the
// first one, and any other that was counted.
func (e *emitter) byName(m *metric, counts map[string]uint64, known []string, labels ...string) {
	const most = 4 // labels before the name
	var room [most + 1]string
	all := append(append(room[:0], labels...), "")
	send := func(name string, n uint64) {
		all[len(all)-1] = name
		e.sample(m, float64(n), all)
	}
	for _, name := range known {
		send(name, counts[name])
	}
	for name, n := range counts {
		if !slices.Contains(known, name) {
			send(name, n)
		}
	}
}

// durations are what a histogram sends. Counts are those of each bucket alone, with one more than there are bounds, for
// what exceeds them all. Bounds and sum are in seconds.
type durations struct {
	bounds []float64
	counts []uint64
	sum    float64
	fine   *routes.Fine
}

// histogram sends the classic buckets as text. To the client library it gives the native ones as well, for the
// protocol buffers in which alone they can be exported.
func (e *emitter) histogram(m *metric, h durations, labels ...string) {
	if e.text != nil {
		if err := e.text.histogram(m, h.bounds, h.counts, h.sum, labels); err != nil {
			e.fail(err)
		}
		return
	}
	e.send(newHistogram(m, h, e.created, labels))
}

// routesHistogram sends a histogram of the routes package.
func (e *emitter) routesHistogram(m *metric, h *routes.Histogram, labels ...string) {
	bounds := routes.Bounds()
	e.histogram(m, durations{bounds[:], h.Counts[:], h.Sum, &h.Fine}, labels...)
}
