package metrics

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"

	"sitewire/routes"
)

// histogramMetric has classic and native buckets. Of those that the client library makes of given counts, each has
// either.
type histogramMetric struct {
	prometheus.Metric // native
	classic           []*dto.Bucket
	dated             bool // it is known since when is counted
}

// Write implements prometheus.Metric.
func (h *histogramMetric) Write(out *dto.Metric) error {
	if err := h.Metric.Write(out); err != nil {
		return err
	}
	out.Histogram.Bucket = h.classic
	if !h.dated {
		out.Histogram.CreatedTimestamp = nil
	}
	return nil
}

// newHistogram makes a metric of what was counted since a time, zero if that is not known.
func newHistogram(m *metric, h durations, created time.Time, labels []string) (prometheus.Metric, error) {
	out := &histogramMetric{dated: !created.IsZero()}
	var n uint64
	for i, c := range h.counts {
		n += c
		if i < len(h.bounds) { // the infinite one is the count of all
			out.classic = append(out.classic, &dto.Bucket{UpperBound: new(h.bounds[i]), CumulativeCount: new(n)})
		}
	}
	fine := map[int]int64{}
	for i, c := range h.fine.All() {
		fine[i] = int64(c)
	}
	var err error
	out.Metric, err = prometheus.NewConstNativeHistogram(m.desc, n, h.sum, fine, nil, h.fine.Least, routes.FineSchema, routes.FineThreshold, created, labels...)
	return out, err
}
