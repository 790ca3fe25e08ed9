package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"testing"
	"time"

	"sitewire/topologies/netns"
	"sitewire/topologies/netns/nstest"
	"sitewire/topologies/netns/peers"
)

// metricsAddress is where the daemons of these tests are scraped; see site.head.
const metricsAddress = "127.0.0.1:9100"

// TestPrometheus: a real Prometheus scrapes a running gateway and answers what an operator asks first, promtool finds
// nothing to complain about, and the series tell a tunnel that died from one that lives.
func TestPrometheus(t *testing.T) {
	nstest.Need(t, nstest.Program("prometheus"), nstest.Program("promtool"))
	l := newLab(t)
	a, b := l.site("ours"), l.site("theirs")
	d := a.run(a.head() + quickTimers + "peers:\n" + b.gatewayYAML(a))
	e := b.run(b.head() + quickTimers + "peers:\n" + a.gatewayYAML(b))
	d.sessionsUp(1)
	e.sessionsUp(1)
	reach(t, a, b)

	promtool(t, a.ns)
	p := startPrometheus(t, a.ns)
	p.until(`up{job="sitewire"}`, 1)
	p.until(`sitewire_tunnel_up{peer="theirs"}`, 1)
	p.until(`sitewire_bgp_session_up{peer="theirs"}`, 1)
	p.until(`sitewire_fib_routes{family="ipv4"}`, 1)
	p.until(`sitewire_fib_routes{family="ipv6"}`, 1)
	p.until(`sitewire_tunnel_allowed_ips{peer="theirs",family="ipv4"}`, 1)
	p.until(`sum(sitewire_route_convergence_duration_seconds_count{operation="announce"}) >= bool 2`, 1)
	p.until(`sum(sitewire_drift_unresolved)`, 0)

	e.kill()
	p.until(`sitewire_bgp_session_up{peer="theirs"}`, 0)
	p.until(`sitewire_tunnel_up{peer="theirs"}`, 0)
	p.until(`sum(sitewire_fib_routes)`, 0)
	p.until(`up{job="sitewire"}`, 1)
	promtool(t, a.ns)
}

// TestPrometheusNative: a real Prometheus that was told to take native histograms asks for protocol buffers and computes quantiles over
// native buckets; this is also how docs/metrics.md knows what the one in Debian 12 does with the classic ones.
func TestPrometheusNative(t *testing.T) {
	nstest.Need(t, nstest.Program("prometheus"))
	l := newLab(t)
	a, b := l.site("ours"), l.site("theirs")
	d := a.run(a.head() + quickTimers + "peers:\n" + b.gatewayYAML(a))
	e := b.run(b.head() + quickTimers + "peers:\n" + a.gatewayYAML(b))
	d.sessionsUp(1)
	p := startPrometheus(t, a.ns, "--enable-feature=native-histograms")
	const series = `sitewire_route_convergence_duration_seconds`
	p.until(`sum(histogram_count(`+series+`{operation="announce"})) >= bool 2`, 1)

	// Routes that come while it watches.
	more := strings.Replace(b.head(), "announce: [", "announce: [10.99.0.0/16, 10.98.0.0/16, ", 1)
	e.reload(more + quickTimers + "peers:\n" + a.gatewayYAML(b))
	p.until(`histogram_count(sum(increase(`+series+`{operation="announce"}[1m]))) > bool 0`, 1)
	p.until(`histogram_quantile(0.9, sum(rate(`+series+`{operation="announce"}[1m]))) > bool 0`, 1)
	p.until(`histogram_quantile(0.9, sum(rate(`+series+`{operation="announce"}[1m]))) < bool 5`, 1)
	if !strings.Contains(scrape(t, a.ns), series+`_bucket{`) {
		t.Error("no classic buckets in the text format")
	}
	classic := p.value(`count({__name__=~"sitewire_.+_bucket"}) or vector(0)`)
	t.Logf("%s keeps %g series of classic buckets beside native histograms", strings.SplitN(nstest.Run(t, a.ns, "prometheus", "--version"), "\n", 2)[0], classic)
	// All other series are as ever.
	p.until(`sitewire_tunnel_up{peer="theirs"}`, 1)
	p.until(`up{job="sitewire"}`, 1)
}

// scrape returns the exposition, as curl inside the namespace would see it.
func scrape(t testing.TB, n *netns.NS) string {
	t.Helper()
	body, err := fetch(t.Context(), n, "http://"+metricsAddress+"/metrics")
	must(t, err)
	return string(body)
}

// promtool asserts that `promtool check metrics` has nothing to say about the exposition.
func promtool(t testing.TB, n *netns.NS) {
	t.Helper()
	cmd := n.Command(t.Context(), "promtool", "check", "metrics")
	cmd.Stdin = strings.NewReader(scrape(t, n))
	if out, err := cmd.CombinedOutput(); err != nil || len(out) > 0 {
		t.Errorf("promtool check metrics: %v\n%s", err, out)
	}
}

// prometheus is a running Prometheus.
type prometheus struct {
	t  testing.TB
	ns *netns.NS
}

// startPrometheus runs Prometheus beside the gateway, scraping it each second, with more flags.
func startPrometheus(t testing.TB, n *netns.NS, flags ...string) *prometheus {
	t.Helper()
	const address = "127.0.0.1:9090"
	d, err := peers.Start(t.Context(), n, peers.Spec{
		Name: "prometheus", Program: "prometheus",
		Args: append([]string{
			"--config.file={dir}/prometheus.yml", "--storage.tsdb.path={dir}/data", "--web.listen-address=" + address, "--log.level=warn",
		}, flags...),
		Files: map[string]string{"prometheus.yml": fmt.Sprintf(`global: { scrape_interval: 1s }
scrape_configs:
  - job_name: sitewire
    static_configs: [ { targets: [ %q ] } ]
`, metricsAddress)},
		Ready: func(ctx context.Context) error {
			_, err := fetch(ctx, n, "http://"+address+"/-/ready")
			return err
		},
	})
	must(t, err)
	d.Watch(t)
	return &prometheus{t, n}
}

// until waits until a query has exactly one result, with this value.
func (p *prometheus) until(query string, want float64) {
	p.t.Helper()
	nstest.Eventually(p.t, 30*time.Second, query, func() error {
		got, err := p.ask(query)
		if err == nil && got != want {
			err = fmt.Errorf("%g, want %g", got, want)
		}
		return err
	})
}

// value asks once.
func (p *prometheus) value(query string) float64 {
	p.t.Helper()
	got, err := p.ask(query)
	must(p.t, err)
	return got
}

// ask runs a query that has one result.
func (p *prometheus) ask(query string) (float64, error) {
	body, err := fetch(p.t.Context(), p.ns, "http://127.0.0.1:9090/api/v1/query?query="+url.QueryEscape(query))
	if err != nil {
		return 0, err
	}
	var answer struct {
		Data struct {
			Result []struct {
				Metric map[string]string
				Value  [2]any // time and value, the latter as text
			}
		}
	}
	if err := json.Unmarshal(body, &answer); err != nil {
		return 0, err
	}
	if n := len(answer.Data.Result); n != 1 {
		return 0, fmt.Errorf("%d results", n)
	}
	text, _ := answer.Data.Result[0].Value[1].(string)
	return strconv.ParseFloat(text, 64)
}

// fetch gets a page from inside a namespace.
func fetch(ctx context.Context, n *netns.NS, address string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	client := http.Client{Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, network, address string) (c net.Conn, err error) {
			err = n.Do(func() (err error) {
				c, err = (&net.Dialer{}).DialContext(ctx, network, address)
				return err
			})
			return c, err
		},
	}}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	if err != nil {
		return nil, err
	}
	resp, err := client.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s: %.200s", address, resp.Status, body)
	}
	return body, err
}
