package metrics

import (
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"
)

// dialect is one of the two text formats. They differ little: OpenMetrics 1.0 names a counter's family without _total, writes numbers with a
// point, and ends with a line that says so.
type dialect int

const (
	prometheusText dialect = iota // version 0.0.4
	openMetrics                   // versions 0.0.1 and 1.0.0
	dialects                      // their number
)

// layout is what of a metric's text is always the same.
type layout struct {
	index int              // in the catalogue
	head  [dialects]string // HELP and TYPE
	order []int            // labels by name
	lead  []string         // before the value of each of them: `{family="`, `",peer="`
	close string           // after the last one
}

func newLayout(index int, m *Metric) layout {
	l := layout{index: index}
	for d := range dialects {
		name, help := m.Name, strings.NewReplacer(`\`, `\\`, "\n", `\n`).Replace(m.Help)
		if d == openMetrics {
			name, help = strings.TrimSuffix(name, "_total"), strings.ReplaceAll(help, `"`, `\"`)
		}
		l.head[d] = fmt.Sprintf("# HELP %s %s\n# TYPE %s %s\n", name, help, name, m.Kind)
	}
	for i := range m.Labels {
		l.order = append(l.order, i)
	}
	slices.SortFunc(l.order, func(a, b int) int { return strings.Compare(m.Labels[a], m.Labels[b]) })
	before := "{"
	for _, i := range l.order {
		l.lead = append(l.lead, before+m.Labels[i]+`="`)
		before = `",`
	}
	if len(l.order) > 0 {
		l.close = `"}`
	}
	return l
}

// text collects the samples of one scrape in text form, apart for each metric. It exists because making and checking a protocol buffer for
// each sample, as the client library does, takes twenty times as long, which matters with a thousand peers.
//
// Owner: one scrape at a time.
type text struct {
	dialect dialect
	samples [][]byte // by metric.index
}

// reset empties it and keeps its memory.
func (t *text) reset(d dialect, metrics int) {
	t.dialect = d
	t.samples = slices.Grow(t.samples[:0], metrics)[:metrics]
	for i := range t.samples {
		t.samples[i] = t.samples[i][:0]
	}
}

// sample appends the line of one sample.
func (t *text) sample(m *metric, v float64, labels []string) error {
	b, err := m.appendSeries(t.samples[m.index], "", labels)
	if err != nil {
		return err
	}
	b = append(append(b, m.close...), ' ')
	t.samples[m.index] = append(t.appendFloat(b, v), '\n')
	return nil
}

// histogram appends the lines of a histogram; see emitter.histogram.
func (t *text) histogram(m *metric, bounds []float64, counts []uint64, sum float64, labels []string) error {
	b := t.samples[m.index]
	var n uint64
	for i, c := range counts {
		n += c
		bound := math.Inf(1)
		if i < len(bounds) {
			bound = bounds[i]
		}
		var err error
		if b, err = m.appendSeries(b, "_bucket", labels); err != nil {
			return err
		}
		if len(labels) == 0 {
			b = append(b, `{le="`...)
		} else {
			b = append(b, `",le="`...)
		}
		b = append(t.appendFloat(b, bound), `"} `...)
		b = append(t.appendCount(b, n), '\n')
	}
	for _, suffix := range []string{"_sum", "_count"} {
		var err error
		if b, err = m.appendSeries(b, suffix, labels); err != nil {
			return err
		}
		b = append(append(b, m.close...), ' ')
		if suffix == "_sum" {
			b = t.appendFloat(b, sum)
		} else {
			b = t.appendCount(b, n)
		}
		b = append(b, '\n')
	}
	t.samples[m.index] = b
	return nil
}

// appendSeries appends the name and the labels, without what closes them.
func (m *metric) appendSeries(b []byte, suffix string, labels []string) ([]byte, error) {
	if len(labels) != len(m.order) {
		return nil, fmt.Errorf("%s: %d values for %d labels", m.Name, len(labels), len(m.order))
	}
	b = append(append(b, m.Name...), suffix...)
	for i, at := range m.order {
		b = append(b, m.lead[i]...)
		var ok bool
		if b, ok = appendLabel(b, labels[at]); !ok {
			return nil, fmt.Errorf("%s: label %s: %q is not UTF-8", m.Name, m.Labels[at], labels[at])
		}
	}
	return b, nil
}

// appendLabel appends a label's value, escaped; not ok is one that is not UTF-8.
func appendLabel(b []byte, s string) (_ []byte, ok bool) {
	for i := range len(s) {
		if c := s[i]; c >= utf8.RuneSelf || c == '\\' || c == '"' || c == '\n' {
			if !utf8.ValidString(s) {
				return nil, false
			}
			return append(b, labelEscapes.Replace(s)...), true
		}
	}
	return append(b, s...), true
}

var labelEscapes = strings.NewReplacer(`\`, `\\`, "\n", `\n`, `"`, `\"`)

// appendFloat prints as the client library does.
func (t *text) appendFloat(b []byte, v float64) []byte {
	const short = 1e6 // integers below are not printed with an exponent
	switch {
	case math.IsInf(v, 1):
		return append(b, "+Inf"...)
	case v == math.Trunc(v) && math.Abs(v) < short:
		b = strconv.AppendInt(b, int64(v), 10)
		if t.dialect == openMetrics {
			b = append(b, ".0"...)
		}
		return b
	}
	return strconv.AppendFloat(b, v, 'g', -1, 64) // has a point or an exponent
}

// appendCount prints the count of a histogram, which OpenMetrics has as an integer.
func (t *text) appendCount(b []byte, n uint64) []byte {
	if t.dialect == openMetrics {
		return strconv.AppendUint(b, n, 10)
	}
	return t.appendFloat(b, float64(n))
}
