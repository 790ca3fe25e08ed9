package metrics

import (
	"bytes"
	"compress/gzip"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"mime"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

const (
	// maxScrapes is how many may run at a time.
	maxScrapes = 4
	// scrapeTimeout is below Prometheus' usual timeout of 10 s.
	scrapeTimeout = 8 * time.Second
)

// HandlerOptions for Handler.
type HandlerOptions struct {
	Collector *Collector
	// Started is when the process did.
	Started time.Time
	Log     *slog.Logger
}

// Handler serves /metrics, with the Go runtime's and the process' own metrics besides the collector's, and a landing
// page that links to it. It fails only if the collector's metrics contradict each other.
func Handler(o HandlerOptions) (http.Handler, error) {
	h := &scrapeHandler{collector: o.Collector, slots: make(chan struct{}, maxScrapes), log: o.Log}
	h.pages.New = func() any { return new(page) }
	process, ours := prometheus.NewRegistry(), prometheus.NewRegistry()
	for _, c := range []prometheus.Collector{collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{})} {
		if err := process.Register(c); err != nil {
			return nil, fmt.Errorf("metrics registry: %w", err)
		}
	}
	if err := ours.Register(o.Collector); err != nil {
		return nil, fmt.Errorf("metrics registry: %w", err)
	}
	opts := promhttp.HandlerOpts{
		ErrorLog:          scrapeLog{o.Log},
		ErrorHandling:     promhttp.ContinueOnError,
		Registry:          process,
		EnableOpenMetrics: true,
		ProcessStartTime:  o.Started,
	}
	plain := opts
	plain.DisableCompression = true
	h.process = promhttp.HandlerFor(process, plain)
	opts.Timeout = scrapeTimeout
	h.all = promhttp.HandlerFor(prometheus.Gatherers{process, ours}, opts)

	mux := http.NewServeMux()
	mux.Handle("GET /metrics", h)
	mux.HandleFunc("GET /{$}", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/html; charset=utf-8")
		// An error here is the client's going away.
		_, _ = w.Write([]byte(landingPage))
	})
	return mux, nil
}

const landingPage = `<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><title>sitewire</title></head>
<body><h1>sitewire</h1><p><a href="/metrics">Metrics</a></p></body></html>
`

// scrapeLog is a promhttp.Logger.
type scrapeLog struct{ log *slog.Logger }

func (l scrapeLog) Println(v ...any) {
	l.log.Warn("scrape failed", "error", fmt.Sprint(v...))
}

// scrapeHandler serves /metrics. The client library negotiates the format and writes the metrics of the process. Ours are written here if
// that format is a text format that package text has; for any other, and for a choice of metrics (name[]), the client library does it all.
type scrapeHandler struct {
	collector    *Collector
	process, all http.Handler
	slots        chan struct{}
	pages        sync.Pool // of *page
	log          *slog.Logger
}

// page is what one scrape needs, kept for the next.
type page struct {
	text    text
	process response
	zip     *gzip.Writer
}

// response is an http.ResponseWriter that keeps what is written.
type response struct {
	header http.Header
	status int
	body   bytes.Buffer
}

func (r *response) Header() http.Header         { return r.header }
func (r *response) WriteHeader(status int)      { r.status = status }
func (r *response) Write(b []byte) (int, error) { return r.body.Write(b) }

func (h *scrapeHandler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	select {
	case h.slots <- struct{}{}:
		defer func() { <-h.slots }()
	default:
		http.Error(w, fmt.Sprintf("%d scrapes are running, try again later.", maxScrapes), http.StatusServiceUnavailable)
		return
	}
	p := h.pages.Get().(*page)
	defer h.pages.Put(p)
	p.process.header, p.process.status = http.Header{}, http.StatusOK
	p.process.body.Reset()
	h.process.ServeHTTP(&p.process, r)
	d, ok := dialectOf(p.process.header.Get("Content-Type"))
	if !ok || p.process.status != http.StatusOK || r.URL.Query().Has("name[]") {
		h.all.ServeHTTP(w, r)
		return
	}
	p.text.reset(d, len(h.collector.metrics))
	h.collector.collect(&emitter{text: &p.text})

	header := w.Header()
	maps.Copy(header, p.process.header)
	header.Add("Vary", "Accept-Encoding")
	var out io.Writer = w
	if acceptsGzip(r.Header) {
		header.Set("Content-Encoding", "gzip")
		if p.zip == nil {
			p.zip, _ = gzip.NewWriterLevel(nil, gzip.BestSpeed) // it fails for unknown levels only
		}
		p.zip.Reset(w)
		out = p.zip
	}
	err := p.write(out, h.collector.byName)
	if out == p.zip && err == nil {
		err = p.zip.Close()
	}
	if err != nil && r.Context().Err() == nil {
		h.log.Debug("scrape not sent", "error", err)
	}
}

// eof is the last line of an OpenMetrics exposition.
const eof = "# EOF\n"

// write writes the exposition, families in the order of their names: the process' begin with go_, process_ and promhttp_.
func (p *page) write(w io.Writer, byName []*metric) error {
	if _, err := w.Write(bytes.TrimSuffix(p.process.body.Bytes(), []byte(eof))); err != nil {
		return err
	}
	for _, m := range byName {
		samples := p.text.samples[m.index]
		if len(samples) == 0 {
			continue
		}
		if _, err := io.WriteString(w, m.head[p.text.dialect]); err != nil {
			return err
		}
		if _, err := w.Write(samples); err != nil {
			return err
		}
	}
	if p.text.dialect != openMetrics {
		return nil
	}
	_, err := io.WriteString(w, eof)
	return err
}

// dialectOf names the dialect of a content type that the client library chose.
func dialectOf(contentType string) (d dialect, ok bool) {
	kind, params, err := mime.ParseMediaType(contentType)
	switch {
	case err != nil:
		return 0, false
	case kind == "text/plain":
		return prometheusText, params["version"] == "0.0.4"
	case kind == "application/openmetrics-text":
		return openMetrics, params["version"] == "1.0.0" || params["version"] == "0.0.1"
	}
	return 0, false
}

// acceptsGzip tells whether a client takes gzip (RFC 9110 section 12.5.3). Whatever else it prefers, it gets that or nothing.
func acceptsGzip(h http.Header) bool {
	for coding := range strings.SplitSeq(strings.Join(h.Values("Accept-Encoding"), ","), ",") {
		name, weight, weighted := strings.Cut(strings.ReplaceAll(coding, " ", ""), ";q=")
		if name == "gzip" {
			return !weighted || strings.Trim(weight, "0.") != "" // 0, 0.0 and so on mean never
		}
	}
	return false
}
