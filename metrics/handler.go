package metrics

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"mime"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/klauspost/compress/gzip"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"github.com/prometheus/common/expfmt"
)

// scrapeTimeout is how long a request waits for its page. It is below Prometheus' usual timeout of 10 s.
const scrapeTimeout = 8 * time.Second

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
	h := &scrapeHandler{collector: o.Collector, log: o.Log}
	h.pages = newPages(h.render, o.Log)
	h.drafts.New = func() any { return new(draft) }
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
		// Of the whole page, and here.
		DisableCompression: true,
	}
	h.process = promhttp.HandlerFor(process, opts)
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

// scrapeHandler serves /metrics. The client library negotiates the format and writes the metrics of the process. Ours are written here in
// the formats that Prometheus asks for; in any other the client library writes it all.
type scrapeHandler struct {
	collector    *Collector
	process, all http.Handler
	pages        *pages
	drafts       sync.Pool // of *draft
	log          *slog.Logger
}

// draft is the memory that a rendering needs besides the page's, kept for the next.
type draft struct {
	text    text
	wire    wire
	library bytes.Buffer // what the client library writes
	zip     *gzip.Writer
}

// response is an http.ResponseWriter that keeps what is written.
type response struct {
	header http.Header
	status int
	body   *bytes.Buffer
}

func newResponse(body *bytes.Buffer) *response {
	body.Reset()
	return &response{header: http.Header{}, status: http.StatusOK, body: body}
}

func (r *response) Header() http.Header         { return r.header }
func (r *response) WriteHeader(status int)      { r.status = status }
func (r *response) Write(b []byte) (int, error) { return r.body.Write(b) }

func (h *scrapeHandler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	ctx, cancel := context.WithTimeout(r.Context(), scrapeTimeout)
	defer cancel()
	key := pageKey{
		format: expfmt.NegotiateAccept(r.Header, expfmt.DefaultOpenMetricsAcceptedFormats()...),
		gzip:   acceptsGzip(r.Header),
	}
	if names := r.URL.Query()["name[]"]; len(names) > 0 {
		key.names = strings.Join(slices.Compact(slices.Sorted(slices.Values(names))), "\n")
	}
	p, release, err := h.pages.get(ctx, key, r.Header.Values("Accept"))
	if err != nil {
		w.Header().Set("Retry-After", "1")
		http.Error(w, "Too many scrapes at a time, try again later.", http.StatusServiceUnavailable)
		return
	}
	maps.Copy(w.Header(), p.header)
	err = p.send(w)
	release(err == nil)
	if err != nil && r.Context().Err() == nil {
		h.log.Debug("scrape not sent", "error", err)
	}
}

// render makes a page.
func (h *scrapeHandler) render(p *page) {
	d := h.drafts.Get().(*draft)
	defer h.drafts.Put(d)
	var out io.Writer = p.body
	if p.key.gzip {
		if d.zip == nil {
			d.zip, _ = gzip.NewWriterLevel(nil, gzip.BestSpeed) // it fails for unknown levels only
		}
		d.zip.Reset(p.body)
		out = d.zip
	}
	var query url.Values
	var wanted map[string]bool
	if p.key.names != "" {
		query, wanted = url.Values{"name[]": strings.Split(p.key.names, "\n")}, map[string]bool{}
		for _, name := range query["name[]"] {
			wanted[name] = true
		}
	}
	form := formOf(string(p.key.format))
	ask := &http.Request{Method: http.MethodGet, URL: &url.URL{Path: "/metrics", RawQuery: query.Encode()}, Header: http.Header{"Accept": p.accept}}
	answer := newResponse(&d.library)
	if form != otherForm {
		h.process.ServeHTTP(answer, ask)
	}
	if form == otherForm || answer.status != http.StatusOK {
		form, answer = otherForm, newResponse(&d.library)
		h.all.ServeHTTP(answer, ask)
	}
	switch form {
	case textForm, openMetricsForm:
		d.text.reset(form.dialect(), len(h.collector.metrics))
		h.collector.collect(&emitter{text: &d.text})
		d.writeText(out, h.collector.byName, wanted)
	case protobufForm:
		d.wire.reset(h.collector)
		h.collector.collect(&emitter{wire: &d.wire})
		d.writeWire(out, h.collector.byName, wanted)
	default:
		_, _ = out.Write(d.library.Bytes()) // to memory, which does not fail
	}
	if d.zip != nil && out == d.zip {
		_ = d.zip.Close()
		answer.header.Set("Content-Encoding", "gzip")
	}
	answer.header.Add("Vary", "Accept-Encoding")
	answer.header.Set("Content-Length", strconv.Itoa(p.body.Len()))
	p.header, p.status = answer.header, answer.status
}

// eof is the last line of an OpenMetrics exposition.
const eof = "# EOF\n"

// writeText writes the exposition to memory, families in the order of their names: the process' begin with go_, process_ and promhttp_. If
// wanted is not nil, only these are written.
func (d *draft) writeText(w io.Writer, byName []*metric, wanted map[string]bool) {
	_, _ = w.Write(bytes.TrimSuffix(d.library.Bytes(), []byte(eof)))
	for _, m := range byName {
		samples := d.text.samples[m.index]
		if len(samples) == 0 || wanted != nil && !wanted[m.Name] {
			continue
		}
		_, _ = io.WriteString(w, m.head[d.text.dialect])
		_, _ = w.Write(samples)
	}
	if d.text.dialect == openMetrics {
		_, _ = io.WriteString(w, eof)
	}
}

// writeWire does the same for protocol buffers.
func (d *draft) writeWire(w io.Writer, byName []*metric, wanted map[string]bool) {
	_, _ = w.Write(d.library.Bytes())
	for _, m := range byName {
		samples := d.wire.samples[m.index]
		if len(samples) == 0 || wanted != nil && !wanted[m.Name] {
			continue
		}
		_, _ = w.Write(d.wire.appendHead(nil, m))
		_, _ = w.Write(samples)
	}
}

// form is what we make of a content type.
type form int

const (
	otherForm form = iota // the client library's business
	textForm
	openMetricsForm
	protobufForm
)

func (f form) dialect() dialect {
	if f == openMetricsForm {
		return openMetrics
	}
	return prometheusText
}

// formOf names the form of a content type that the client library chose.
func formOf(contentType string) form {
	kind, params, err := mime.ParseMediaType(contentType)
	switch {
	case err != nil:
	case kind == "text/plain" && params["version"] == "0.0.4":
		return textForm
	case kind == "application/openmetrics-text" && (params["version"] == "1.0.0" || params["version"] == "0.0.1"):
		return openMetricsForm
	case kind == "application/vnd.google.protobuf" && params["encoding"] == "delimited" && params["proto"] == "io.prometheus.client.MetricFamily":
		return protobufForm
	}
	return otherForm
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
