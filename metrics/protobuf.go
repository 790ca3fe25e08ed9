package metrics

import (
	"encoding/binary"
	"fmt"
	"math"
	"slices"
	"unicode/utf8"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
)

// Numbers of the fields of io.prometheus.client's messages (metrics.proto of prometheus/client_model).
const (
	familyName, familyHelp, familyType, familyMetric = 1, 2, 3, 4
	metricLabel, metricGauge, metricCounter          = 1, 2, 3
	labelName, labelValue                            = 1, 2
	valueValue                                       = 1 // of a gauge and of a counter
)

// wire collects the samples of one scrape as length-delimited protocol buffers, apart for each metric. It exists for the reason that text
// does: a server that wants native histograms asks for this format, and with a thousand peers the client library takes a third of a second.
//
// Owner: one scrape at a time.
type wire struct {
	samples [][]byte // by metric.index; each the repeated field of its family
	byDesc  map[*prometheus.Desc]*metric
}

// reset empties it and keeps its memory.
func (w *wire) reset(c *Collector) {
	if w.byDesc == nil {
		w.byDesc = make(map[*prometheus.Desc]*metric, len(c.metrics))
		for _, m := range c.metrics {
			w.byDesc[m.desc] = m
		}
	}
	w.samples = slices.Grow(w.samples[:0], len(c.metrics))[:len(c.metrics)]
	for i := range w.samples {
		w.samples[i] = w.samples[i][:0]
	}
}

// sample appends one sample of a counter or a gauge.
func (w *wire) sample(m *metric, v float64, labels []string) error {
	if len(labels) != len(m.order) {
		return fmt.Errorf("%s: %d values for %d labels", m.Name, len(labels), len(m.order))
	}
	const value = 1 + 8 // tag and double
	size := 2 + value   // tag and length: below 128
	for _, i := range m.order {
		if !utf8.ValidString(labels[i]) {
			return fmt.Errorf("%s: label %s: %q is not UTF-8", m.Name, m.Labels[i], labels[i])
		}
		size += sizeBytes(labelSize(m.Labels[i], labels[i]))
	}
	field := protowire.Number(metricGauge)
	if m.Kind == Counter {
		field = metricCounter
	}
	b := appendLength(w.samples[m.index], familyMetric, size)
	for _, i := range m.order {
		b = appendLength(b, metricLabel, labelSize(m.Labels[i], labels[i]))
		b = appendText(appendText(b, labelName, m.Labels[i]), labelValue, labels[i])
	}
	b = appendLength(b, field, value)
	b = protowire.AppendTag(b, valueValue, protowire.Fixed64Type)
	w.samples[m.index] = binary.LittleEndian.AppendUint64(b, math.Float64bits(v))
	return nil
}

// add appends a metric of the client library: a histogram.
func (w *wire) add(x prometheus.Metric) error {
	m := w.byDesc[x.Desc()]
	if m == nil {
		return fmt.Errorf("%v is not in the catalogue", x.Desc())
	}
	var d dto.Metric
	if err := x.Write(&d); err != nil {
		return fmt.Errorf("%s: %w", m.Name, err)
	}
	b := appendLength(w.samples[m.index], familyMetric, proto.Size(&d))
	b, err := proto.MarshalOptions{UseCachedSize: true}.MarshalAppend(b, &d)
	if err != nil {
		return fmt.Errorf("%s: %w", m.Name, err)
	}
	w.samples[m.index] = b
	return nil
}

// appendHead appends what comes before the samples of a metric: the length of the family's message, its name, help and type.
func (w *wire) appendHead(b []byte, m *metric) []byte {
	kind := map[Kind]dto.MetricType{Counter: dto.MetricType_COUNTER, Gauge: dto.MetricType_GAUGE, Histogram: dto.MetricType_HISTOGRAM}[m.Kind]
	size := sizeBytes(len(m.Name)) + sizeBytes(len(m.Help)) + 2 + len(w.samples[m.index])
	b = protowire.AppendVarint(b, uint64(size))
	b = appendText(appendText(b, familyName, m.Name), familyHelp, m.Help)
	return protowire.AppendVarint(protowire.AppendTag(b, familyType, protowire.VarintType), uint64(kind))
}

// labelSize is the size of a label's message.
func labelSize(name, value string) int { return sizeBytes(len(name)) + sizeBytes(len(value)) }

// sizeBytes is the size of a field of n bytes, whose number is below 16.
func sizeBytes(n int) int { return 1 + protowire.SizeBytes(n) }

// appendLength appends the tag and the length of a field that is a message.
func appendLength(b []byte, field protowire.Number, size int) []byte {
	return protowire.AppendVarint(protowire.AppendTag(b, field, protowire.BytesType), uint64(size))
}

func appendText(b []byte, field protowire.Number, s string) []byte {
	return append(appendLength(b, field, len(s)), s...)
}
