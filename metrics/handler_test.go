package metrics

import (
	"compress/gzip"
	"errors"
	"io"
	"log/slog"
	"maps"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"

	"sitewire/gateway/wg"
)

// Accept headers as Prometheus 2.45 and 3.5 send them for text.
const (
	acceptText        = "text/plain;version=0.0.4;q=0.5,*/*;q=0.1"
	acceptOpenMetrics = "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.5,application/openmetrics-text;version=0.0.1;q=0.4,text/plain;version=0.0.4;q=0.2,*/*;q=0.1"
	acceptProtobuf    = "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited;q=0.6," + acceptText
)

// request asks a handler.
func request(t *testing.T, h http.Handler, url, accept, encoding string) *http.Response {
	t.Helper()
	r := httptest.NewRequest("GET", url, nil)
	r.Header.Set("Accept", accept)
	r.Header.Set("Accept-Encoding", encoding)
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	if w.Code != http.StatusOK {
		t.Fatalf("scrape: %d %s", w.Code, w.Body)
	}
	return w.Result()
}

// ours are the lines of our metrics, each family with its lines in order: the order of samples means nothing.
func ours(t *testing.T, body io.Reader) []string {
	t.Helper()
	b, err := io.ReadAll(body)
	if err != nil {
		t.Fatal(err)
	}
	var lines, family []string
	flush := func() {
		slices.Sort(family)
		lines, family = append(lines, family...), nil
	}
	for line := range strings.Lines(string(b)) {
		if strings.HasPrefix(line, "# HELP ") || line == eof {
			flush()
		}
		if strings.Contains(line, "sitewire_") || line == eof {
			family = append(family, line)
		}
	}
	flush()
	return lines
}

// odd is a gateway with values that need care.
func odd() *fake {
	f := gateway()
	f.process.Site = "quo\"te back\\slash new\nline \u00fcml\u00e4ut \U0001f310"
	f.tunnels[0].Site = f.process.Site
	f.tunnels[1].Site = strings.Repeat("long ", 100)
	f.tunnels[1].ReceiveBytes, f.tunnels[1].TransmitBytes = 999_999, 1_000_000
	return f
}

// What is written here is what the client library writes, but for the order of a family's samples.
func TestTextIsTheLibrarys(t *testing.T) {
	for name, f := range map[string]*fake{"gateway": gateway(), "odd values": odd(), "large": large(30), "nothing": {}} {
		for _, accept := range []string{acceptText, acceptOpenMetrics} {
			reg := prometheus.NewPedanticRegistry()
			if err := reg.Register(f.collector(t)); err != nil {
				t.Fatal(err)
			}
			library := promhttp.HandlerFor(reg, promhttp.HandlerOpts{EnableOpenMetrics: true, ErrorHandling: promhttp.HTTPErrorOnError})
			want, got := request(t, library, "/metrics", accept, ""), request(t, handler(t, f), "/metrics", accept, "")
			if w, g := want.Header.Get("Content-Type"), got.Header.Get("Content-Type"); w != g {
				t.Errorf("%s: content type %q, want %q", name, g, w)
			}
			if d := cmp.Diff(ours(t, want.Body), ours(t, got.Body)); d != "" {
				t.Errorf("%s as %s (-library +ours):\n%s", name, want.Header.Get("Content-Type"), d)
			}
		}
	}
}

// So are the protocol buffers: every message of every family, but for their order.
func TestProtobufIsTheLibrarys(t *testing.T) {
	families := func(h http.Handler) map[string][]string {
		t.Helper()
		resp := request(t, h, "/metrics", acceptProtobuf, "")
		out := map[string][]string{}
		d := expfmt.NewDecoder(resp.Body, expfmt.ResponseFormat(resp.Header))
		for {
			var family dto.MetricFamily
			if err := d.Decode(&family); errors.Is(err, io.EOF) {
				break
			} else if err != nil {
				t.Fatal(err)
			}
			var lines []string
			for _, m := range family.Metric {
				lines = append(lines, m.String())
			}
			slices.Sort(lines)
			if _, twice := out[family.GetName()]; twice {
				t.Errorf("%s twice", family.GetName())
			}
			family.Metric = nil
			out[family.GetName()] = append([]string{family.String()}, lines...)
		}
		return out
	}
	for name, f := range map[string]*fake{"gateway": gateway(), "odd values": odd(), "large": large(30), "nothing": {}} {
		reg := prometheus.NewPedanticRegistry()
		if err := reg.Register(f.collector(t)); err != nil {
			t.Fatal(err)
		}
		want := families(promhttp.HandlerFor(reg, promhttp.HandlerOpts{ErrorHandling: promhttp.HTTPErrorOnError}))
		got := families(handler(t, f))
		if len(got["go_goroutines"]) == 0 {
			t.Errorf("%s: no metrics of the process", name)
		}
		maps.DeleteFunc(got, func(family string, _ []string) bool { return !strings.HasPrefix(family, "sitewire_") })
		if d := cmp.Diff(want, got); d != "" {
			t.Errorf("%s (-library +ours):\n%s", name, d)
		}
	}
}

// Formats that are the library's business.
func TestLibraryServesTheRest(t *testing.T) {
	resp := request(t, handler(t, gateway()), "/metrics", "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=text", "")
	b, err := io.ReadAll(resp.Body)
	if err != nil || !strings.Contains(resp.Header.Get("Content-Type"), "encoding=text") {
		t.Fatalf("content type %q, %v", resp.Header.Get("Content-Type"), err)
	}
	for _, name := range []string{"sitewire_tunnel_up", "go_goroutines"} {
		if !strings.Contains(string(b), name) {
			t.Errorf("no %s", name)
		}
	}
}

// Whoever asks for some metrics gets these, in every format.
func TestChoice(t *testing.T) {
	h := handler(t, gateway())
	for _, accept := range []string{acceptText, acceptOpenMetrics, acceptProtobuf, "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=text"} {
		resp := request(t, h, "/metrics?name[]=sitewire_tunnel_up&name[]=go_goroutines&name[]=sitewire_tunnel_up&name[]=no_such", accept, "")
		b, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		text := string(b)
		for _, name := range []string{"sitewire_tunnel_up", "go_goroutines"} {
			if !strings.Contains(text, name) {
				t.Errorf("%s: no %s", resp.Header.Get("Content-Type"), name)
			}
		}
		for _, name := range []string{"sitewire_tunnel_info", "sitewire_build_info", "go_threads"} {
			if strings.Contains(text, name) {
				t.Errorf("%s: nobody asked for %s", resp.Header.Get("Content-Type"), name)
			}
		}
	}
}

func TestCompression(t *testing.T) {
	h := handler(t, gateway())
	for encoding, want := range map[string]bool{"gzip": true, "deflate, gzip;q=0.5": true, "gzip;q=0": false, "br": false, "": false, "gzip; q=0.0": false} {
		for range 2 { // the second with what the first has left
			resp := request(t, h, "/metrics", acceptOpenMetrics, encoding)
			body := io.Reader(resp.Body)
			if zipped := resp.Header.Get("Content-Encoding") == "gzip"; zipped != want {
				t.Fatalf("%q: compressed %v, want %v", encoding, zipped, want)
			} else if zipped {
				z, err := gzip.NewReader(resp.Body)
				if err != nil {
					t.Fatal(err)
				}
				body = z
			}
			if lines := ours(t, body); len(lines) == 0 || lines[len(lines)-1] != eof {
				t.Errorf("%q: not a whole exposition", encoding)
			}
			if got := resp.Header.Values("Vary"); !slices.Equal(got, []string{"Accept", "Accept-Encoding"}) {
				t.Errorf("Vary: %q", got)
			}
		}
	}
}

// A label value that is no text fails its group as it does with the library, and the group says so.
func TestTextFails(t *testing.T) {
	f := gateway()
	f.tunnels = append([]wg.Tunnel{{Peer: "\xff", Device: "wg0"}}, f.tunnels...)
	h, err := Handler(HandlerOptions{
		Collector: NewCollector(CollectorOptions{Source: f.source(), Log: slog.New(slog.DiscardHandler)}), Log: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	text := strings.Join(ours(t, request(t, h, "/metrics", acceptText, "").Body), "")
	if got := sample(t, text, `sitewire_collector_success{collector="tunnels"}`); got != "0" {
		t.Errorf("success %s, want 0", got)
	}
	if got := sample(t, text, `sitewire_tunnel_up{peer="nyc"}`); got != "1" {
		t.Errorf("up %s, want 1", got)
	}
	if strings.Contains(text, "\xff") {
		t.Error("not UTF-8")
	}
}
