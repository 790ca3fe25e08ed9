package metrics

import (
	"compress/gzip"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

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

// What is written here is what the client library writes, but for the order of a family's samples.
func TestTextIsTheLibrarys(t *testing.T) {
	odd := gateway()
	odd.process.Site = "quo\"te back\\slash new\nline \u00fcml\u00e4ut \U0001f310"
	odd.tunnels[0].Site = odd.process.Site
	odd.tunnels[1].ReceiveBytes, odd.tunnels[1].TransmitBytes = 999_999, 1_000_000
	for name, f := range map[string]*fake{"gateway": gateway(), "odd values": odd, "large": large(30), "nothing": {}} {
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

// Formats and choices that are the library's business.
func TestLibraryServesTheRest(t *testing.T) {
	h := handler(t, gateway())
	if resp := request(t, h, "/metrics", acceptProtobuf, ""); !strings.Contains(resp.Header.Get("Content-Type"), "protobuf") {
		t.Errorf("content type %q", resp.Header.Get("Content-Type"))
	} else if b, err := io.ReadAll(resp.Body); err != nil || !strings.Contains(string(b), "sitewire_tunnel_up") || !strings.Contains(string(b), "go_goroutines") {
		t.Errorf("not all metrics as protocol buffers: %v", err)
	}
	lines := ours(t, request(t, h, "/metrics?name[]=sitewire_tunnel_up", acceptText, "").Body)
	if len(lines) != 2+len(gateway().tunnels) {
		t.Errorf("one metric asked for, got %q", lines)
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
