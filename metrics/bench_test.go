package metrics

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"syscall"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// BenchmarkScrape is one scrape over HTTP's handler as Prometheus makes it: ours, and beside it the client library's own over a registry with
// the same metrics.
func BenchmarkScrape(b *testing.B) {
	for _, n := range []int{100, 1000} {
		for _, format := range []struct{ name, accept, encoding string }{
			{"plain", acceptOpenMetrics, "identity"},
			{"gzip", acceptOpenMetrics, "gzip"},
			{"protobuf", acceptProtobuf, "gzip"},
		} {
			for name, h := range map[string]http.Handler{"ours": handler(b, large(n)), "library": library(b, large(n))} {
				b.Run(fmt.Sprintf("peers=%d/%s/%s", n, format.name, name), func(b *testing.B) {
					b.ReportAllocs()
					var bytes int
					before := cpuTime(b)
					for b.Loop() {
						w := &counter{header: http.Header{}}
						r := httptest.NewRequest("GET", "/metrics", nil)
						r.Header.Set("Accept", format.accept)
						r.Header.Set("Accept-Encoding", format.encoding)
						h.ServeHTTP(w, r)
						bytes = w.bytes
					}
					b.ReportMetric(float64((cpuTime(b)-before).Microseconds())/1000/float64(b.N), "cpu-ms/op")
					b.ReportMetric(float64(bytes)/1024, "KiB/scrape")
				})
			}
		}
	}
}

// cpuTime is what the process has used so far: on a machine that others use too, it says more than the time that passed.
func cpuTime(b *testing.B) time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// library is the client library's handler over what our handler exports.
func library(t testing.TB, f *fake) http.Handler {
	t.Helper()
	reg := prometheus.NewRegistry()
	for _, c := range []prometheus.Collector{f.collector(t), collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{})} {
		if err := reg.Register(c); err != nil {
			t.Fatal(err)
		}
	}
	return promhttp.HandlerFor(reg, promhttp.HandlerOpts{Registry: reg, EnableOpenMetrics: true})
}

// counter is an http.ResponseWriter that only counts.
type counter struct {
	header http.Header
	bytes  int
}

func (c *counter) Header() http.Header { return c.header }
func (c *counter) WriteHeader(int)     {}
func (c *counter) Write(b []byte) (int, error) {
	c.bytes += len(b)
	return len(b), nil
}
