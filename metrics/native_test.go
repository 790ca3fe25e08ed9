package metrics

import (
	"errors"
	"io"
	"math"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"google.golang.org/protobuf/testing/protocmp"

	"sitewire/routes"
)

// families scrapes a handler as protocol buffers.
func families(t *testing.T, f *fake) map[string]*dto.MetricFamily {
	t.Helper()
	resp := request(t, handler(t, f), "/metrics", acceptProtobuf, "")
	d := expfmt.NewDecoder(resp.Body, expfmt.ResponseFormat(resp.Header))
	out := map[string]*dto.MetricFamily{}
	for {
		var m dto.MetricFamily
		if err := d.Decode(&m); errors.Is(err, io.EOF) {
			return out
		} else if err != nil {
			t.Fatal(err)
		}
		out[m.GetName()] = &m
	}
}

// Every histogram has native buckets beside the classic ones, also before anything was counted.
func TestEveryHistogramIsNativeToo(t *testing.T) {
	for name, f := range map[string]*fake{"counted": gateway(), "not yet": {process: Process{Started: at(0)}, bgp: gateway().bgp, routes: &routes.Status{}}} {
		all, seen := families(t, f), 0
		for _, m := range Catalogue() {
			if m.Kind != Histogram || all[m.Name] == nil {
				continue
			}
			seen++
			for _, x := range all[m.Name].Metric {
				h := x.Histogram
				n := h.GetZeroCount()
				var last int64
				for _, d := range h.PositiveDelta {
					last += d
					n += uint64(last)
				}
				switch {
				case h.GetSchema() != 3 || h.GetZeroThreshold() <= 0 || h.GetZeroThreshold() > 1e-6:
					t.Errorf("%s: %s: schema %d, zero threshold %g", name, m.Name, h.GetSchema(), h.GetZeroThreshold())
				case n != h.GetSampleCount():
					t.Errorf("%s: %s: %d in native buckets, %d observations", name, m.Name, n, h.GetSampleCount())
				case len(h.Bucket) == 0:
					t.Errorf("%s: %s has no classic buckets", name, m.Name)
				case !h.CreatedTimestamp.AsTime().Equal(at(0)):
					t.Errorf("%s: %s: created %s", name, m.Name, h.CreatedTimestamp.AsTime())
				}
			}
		}
		if seen < 4 {
			t.Errorf("%s: only %d histograms", name, seen)
		}
	}
}

// The client library, told the same durations, exports the same.
func TestNativeIsTheLibrarys(t *testing.T) {
	const longest = 128
	random := rand.New(rand.NewPCG(3, 8))
	seconds := map[string][]float64{
		"nothing":       nil,
		"zero":          {0, 0},
		"one":           {0.003},
		"far apart":     {0.000002, 0.000002, 1.5, 100},
		"small gaps":    {0.010, 0.0115, 0.014, 0.014, 0.020},
		"around bounds": nil,
		"random":        nil,
	}
	for exponent := -19.; exponent <= 7; exponent += 1. / 8 {
		bound := math.Exp2(exponent)
		seconds["around bounds"] = append(seconds["around bounds"], bound, math.Nextafter(bound, 0), math.Min(longest, bound*1.0001))
	}
	for range 2000 {
		seconds["random"] = append(seconds["random"], math.Exp2(random.Float64()*27-20))
	}
	for name, list := range seconds {
		t.Run(name, func(t *testing.T) {
			bounds := routes.Bounds()
			o := prometheus.HistogramOpts{
				Name: "sitewire_reconcile_duration_seconds", Help: "-", Buckets: bounds[:], NativeHistogramBucketFactor: 1.1, NativeHistogramZeroThreshold: routes.FineThreshold,
			}
			library := prometheus.NewHistogram(o)
			var h routes.Histogram
			for _, s := range list {
				d := time.Duration(s * float64(time.Second)) // what both are told
				h.Observe(d)
				library.Observe(d.Seconds())
			}
			var want dto.Metric
			if err := library.Write(&want); err != nil {
				t.Fatal(err)
			}
			f := gateway()
			f.routes = &routes.Status{ReconcileDuration: h}
			got := families(t, f)[o.Name].Metric[0]
			got.Histogram.CreatedTimestamp = want.Histogram.CreatedTimestamp
			if d := cmp.Diff(&want, got, protocmp.Transform()); d != "" {
				t.Errorf("-library +ours:\n%s", d)
			}
		})
	}
}

// What is longer than the last bucket counts in it, and in the sum as it is.
func TestLongDurationsAreClamped(t *testing.T) {
	f := gateway()
	f.routes = &routes.Status{ReconcileDuration: observed(128, 129, 86400)}
	h := families(t, f)["sitewire_reconcile_duration_seconds"].Metric[0].Histogram
	if len(h.PositiveDelta) != 1 || h.PositiveDelta[0] != 3 || h.GetPositiveSpan()[0].GetOffset() != 7*8 {
		t.Errorf("spans %v, deltas %v: want all in the bucket that ends at 128 s", h.PositiveSpan, h.PositiveDelta)
	}
	if got := h.GetSampleSum(); got != 128+129+86400 {
		t.Errorf("sum %g", got)
	}
}
