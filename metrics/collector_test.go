package metrics

import (
	"bytes"
	"flag"
	"fmt"
	"log/slog"
	"maps"
	"net/http/httptest"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"sitewire/bgp"
	"sitewire/gateway/wg"
	"sitewire/routes"
)

var update = flag.Bool("update", false, "write the golden files and docs/metrics.md")

// exposition is the text that a scrape of the collector alone returns. The registry is pedantic: it checks that what
// is collected was described, with the same labels.
func exposition(t testing.TB, c *Collector) string {
	t.Helper()
	reg := prometheus.NewPedanticRegistry()
	if err := reg.Register(c); err != nil {
		t.Fatal(err)
	}
	w := httptest.NewRecorder()
	promhttp.HandlerFor(reg, promhttp.HandlerOpts{ErrorHandling: promhttp.HTTPErrorOnError}).ServeHTTP(w, httptest.NewRequest("GET", "/metrics", nil))
	if w.Code != 200 {
		t.Fatalf("scrape: %d %s", w.Code, w.Body)
	}
	return w.Body.String()
}

// golden compares got with a file, or writes the file.
func golden(t *testing.T, path, got string) {
	t.Helper()
	if *update {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(string(want), got); d != "" {
		t.Errorf("%s is not what is exported; names and labels are an interface. If the change is meant: go test ./metrics -update\n%s", path, d)
	}
}

var goVersion = regexp.MustCompile(`goarch="[^"]*",goos="[^"]*",goversion="[^"]*"`)

func TestExposition(t *testing.T) {
	got := exposition(t, gateway().collector(t))
	golden(t, "testdata/metrics.txt", goVersion.ReplaceAllString(got, `goarch="amd64",goos="linux",goversion="go1.26"`))
}

// sample finds one line of an exposition by the start of it.
func sample(t *testing.T, text, series string) string {
	t.Helper()
	for line := range strings.Lines(text) {
		if v, ok := strings.CutPrefix(line, series+" "); ok {
			return strings.TrimSpace(v)
		}
	}
	t.Errorf("no series %s", series)
	return ""
}

// A peer that was just configured must have its series at 0, so that alerts on 0 and the first increase work.
func TestSeriesFromTheStart(t *testing.T) {
	f := gateway()
	f.tunnels = []wg.Tunnel{{Peer: "a", Device: "sw-a", State: wg.TunnelNew}}
	f.bgp = &bgp.Snapshot{Sessions: []bgp.Session{{Name: "a", Peer: "a", Tunnel: true, State: bgp.Idle, IPv4: &bgp.Counts{}, BFD: &bgp.BFDStatus{}}}}
	f.routes = &routes.Status{}
	text := exposition(t, f.collector(t))
	for _, series := range []string{
		`sitewire_tunnel_up{peer="a"}`,
		`sitewire_tunnel_last_handshake_timestamp_seconds{peer="a"}`,
		`sitewire_tunnel_receive_bytes_total{peer="a"}`,
		`sitewire_bgp_session_up{peer="a",session="a"}`,
		`sitewire_bgp_session_established_timestamp_seconds{peer="a",session="a"}`,
		`sitewire_bgp_session_downs_total{peer="a",reason="hold_timer_expired",session="a"}`,
		`sitewire_bgp_session_downs_total{peer="a",reason="bfd_down",session="a"}`,
		`sitewire_bgp_session_downs_total{peer="a",reason="tunnel_down",session="a"}`,
		`sitewire_bgp_messages_received_total{message="update",peer="a",session="a"}`,
		`sitewire_bgp_prefixes_accepted{family="ipv4",peer="a",session="a"}`,
		`sitewire_bgp_prefix_limit{family="ipv4",peer="a",session="a"}`,
		`sitewire_tunnel_allowed_ips{family="ipv6",peer="a"}`,
		`sitewire_tunnel_allowed_ips_desired{family="ipv4",peer="a"}`,
		`sitewire_routes{family="ipv4",peer="a",source="bgp"}`,
		`sitewire_allowed_ips_conflicts{device="sw-a"}`,
		`sitewire_allowed_ips_foreign{device="sw-a"}`,
		`sitewire_allowed_ips_moves_total{device="sw-a"}`,
		`sitewire_route_convergence_duration_seconds_count{family="ipv6",operation="withdraw"}`,
		`sitewire_failover_duration_seconds_count{trigger="bfd"}`,
		`sitewire_diversions_total`,
		`sitewire_diversions_active`,
		`sitewire_reconcile_oldest_pending_timestamp_seconds`,
		`sitewire_drift_unresolved{kind="allowed_ip_wrong_peer"}`,
		`sitewire_initial_convergence_seconds`,
		`sitewire_config_reload_failures_total{trigger="api"}`,
		`sitewire_netlink_errors_total{errno="EPERM",operation="route_replace",subsystem="rtnetlink"}`,
		`sitewire_netlink_resyncs_total{subsystem="rtnetlink"}`,
	} {
		if got := sample(t, text, series); got != "0" {
			t.Errorf("%s is %q, want 0", series, got)
		}
	}
	if strings.Contains(text, `family="ipv6",peer="a",session`) || strings.Contains(text, `sitewire_routes{family="ipv6",peer="a"`) {
		t.Error("series for a family that is not offered")
	}
}

// A session that is configured not to run says so, and is not up.
func TestDisabledSession(t *testing.T) {
	f := gateway()
	for i := range f.bgp.Sessions {
		if s := &f.bgp.Sessions[i]; s.Name == "nyc" {
			s.State, s.AdminDown = bgp.Idle, true
		}
	}
	text := exposition(t, f.collector(t))
	for series, want := range map[string]string{
		`sitewire_bgp_session_admin_up{peer="nyc",session="nyc"}`:   "0",
		`sitewire_bgp_session_up{peer="nyc",session="nyc"}`:         "0",
		`sitewire_bgp_session_admin_up{peer="core",session="core"}`: "1",
	} {
		if got := sample(t, text, series); got != want {
			t.Errorf("%s is %s, want %s", series, got, want)
		}
	}
}

// Each state of a tunnel: a stale one is not down, since nothing was expected of it.
func TestTunnelUp(t *testing.T) {
	text := exposition(t, gateway().collector(t))
	for peer, want := range map[string]string{"nyc": "1", "store-17": "1", "osl": "0", "new": "0"} {
		if got := sample(t, text, fmt.Sprintf("sitewire_tunnel_up{peer=%q}", peer)); got != want {
			t.Errorf("%s: up is %s, want %s", peer, got, want)
		}
	}
}

// Foreign allowed-IPs are told of, and are no drift.
func TestForeignIsNoDrift(t *testing.T) {
	f := gateway()
	f.routes.DriftUnresolved[routes.AllowedIPExtra] = len(f.routes.Foreign) + 2
	text := exposition(t, f.collector(t))
	for series, want := range map[string]string{
		`sitewire_drift_unresolved{kind="allowed_ip_extra"}`:     "2",
		`sitewire_allowed_ips_foreign{device="sw-hub"}`:          "1",
		`sitewire_allowed_ips_foreign{device="sw-nyc"}`:          "0",
		`sitewire_drift_detected_total{kind="allowed_ip_extra"}`: "1",
	} {
		if got := sample(t, text, series); got != want {
			t.Errorf("%s is %s, want %s", series, got, want)
		}
	}
}

// Endpoints are exported only if asked for.
func TestEndpointInfo(t *testing.T) {
	f := gateway()
	if text := exposition(t, f.collector(t)); strings.Contains(text, "198.51.100.7") {
		t.Error("an endpoint is exported although nobody asked for it")
	}
	c := NewCollector(CollectorOptions{Source: f.source(), EndpointInfo: true, Log: slog.New(slog.DiscardHandler)})
	text := exposition(t, c)
	sample(t, text, `sitewire_tunnel_endpoint_info{endpoint="198.51.100.7:51820",peer="nyc"}`)
	if n := strings.Count(text, "sitewire_tunnel_endpoint_info{"); n != 1 {
		t.Errorf("%d endpoints, want only the one that is known", n)
	}
}

// Before the first snapshots there is only the process to tell of; that is no failure.
func TestNoSnapshotsYet(t *testing.T) {
	text := exposition(t, (&fake{}).collector(t))
	for _, g := range []string{"process", "tunnels", "bgp", "routes", "kernel"} {
		if got := sample(t, text, fmt.Sprintf("sitewire_collector_success{collector=%q}", g)); got != "1" {
			t.Errorf("%s: success %s, want 1", g, got)
		}
	}
	if strings.Contains(text, "sitewire_bgp_info") {
		t.Error("BGP identity of a gateway without BGP")
	}
}

// Groups whose source is nil are neither described nor collected.
func TestOnlyTunnels(t *testing.T) {
	f := gateway()
	c := NewCollector(CollectorOptions{Source: Source{Tunnels: f.source().Tunnels}, Log: slog.New(slog.DiscardHandler)})
	for line := range strings.Lines(exposition(t, c)) {
		if strings.HasPrefix(line, "sitewire_") && !strings.HasPrefix(line, "sitewire_tunnel_") &&
			!strings.HasPrefix(line, "sitewire_device_") && !strings.HasPrefix(line, "sitewire_collector_") {
			t.Errorf("unexpected %s", line)
		}
	}
}

// A group that fails, with an error or a panic, is flagged and logged, and the others are still there.
func TestGroupFails(t *testing.T) {
	for name, spoil := range map[string]func(*fake){
		"label":  func(f *fake) { f.bgp.Sessions[0].Name = "\xff" },
		"panics": func(f *fake) { f.bgp.Sessions[0].Peer = "boom" },
	} {
		t.Run(name, func(t *testing.T) {
			f := gateway()
			spoil(f)
			var log bytes.Buffer
			c := f.collector(t)
			c.log = slog.New(slog.NewTextHandler(&log, nil))
			i := slices.IndexFunc(c.groups, func(g group) bool { return g.name == "bgp" })
			collect := c.groups[i].collect
			c.groups[i].collect = func(e *emitter, s *scrape) {
				if s.bgp.Sessions[0].Peer == "boom" {
					panic("boom")
				}
				collect(e, s)
			}
			text := exposition(t, c)
			if got := sample(t, text, `sitewire_collector_success{collector="bgp"}`); got != "0" {
				t.Errorf("success %s, want 0", got)
			}
			if got := sample(t, text, `sitewire_collector_success{collector="tunnels"}`); got != "1" {
				t.Errorf("tunnels: success %s, want 1", got)
			}
			sample(t, text, `sitewire_tunnel_up{peer="nyc"}`)
			if !strings.Contains(log.String(), "collector=bgp") {
				t.Errorf("not logged: %s", log.String())
			}
		})
	}
}

func TestLint(t *testing.T) {
	reg := prometheus.NewPedanticRegistry()
	if err := reg.Register(gateway().collector(t)); err != nil {
		t.Fatal(err)
	}
	problems, err := testutil.GatherAndLint(reg)
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range problems {
		t.Errorf("%s: %s", p.Metric, p.Text)
	}
}

func TestConfigHash(t *testing.T) {
	for hex, want := range map[string]uint64{"": 0, "ff": 255, "ffffffffffff00": 1<<48 - 1, "0123456789abcdef": 0x0123456789ab} {
		got, err := hash48(hex)
		if err != nil || got != want || uint64(float64(got)) != got {
			t.Errorf("hash48(%q) = %d, %v, want %d", hex, got, err, want)
		}
	}
	if _, err := hash48("not hex"); err == nil {
		t.Error("no error for a hash that is none")
	}
}

// This is what a Prometheus has to keep for a gateway with 100 peers that speak both families: as configured by default,
// and with everything that can be asked for.
func TestCardinality(t *testing.T) {
	const peers = 100
	f := large(peers)
	f.devices = map[string]wg.LinkCounters{}
	for i := range f.tunnels {
		f.devices[f.tunnels[i].Device] = wg.LinkCounters{}
	}
	all := f.source()
	usual := all
	usual.Devices, usual.Probes, usual.RPKI = nil, nil, nil
	plain := *f.bgp // without BFD and monitored prefixes
	plain.Sessions = slices.Clone(plain.Sessions)
	for i := range plain.Sessions {
		plain.Sessions[i].BFD, plain.Sessions[i].Monitored = nil, nil
	}
	usual.BGP = func() *bgp.Snapshot { return &plain }
	for _, c := range []struct {
		name string
		o    CollectorOptions
		most int
		has  map[string]int
	}{
		{"by default", CollectorOptions{Source: usual}, 7200, map[string]int{"sitewire_tunnel_up": peers}},
		{"everything", CollectorOptions{Source: all, EndpointInfo: true}, 11000, map[string]int{
			"sitewire_device_receive_packets_total": peers, "sitewire_tunnel_endpoint_info": peers, "sitewire_tunnel_probes_sent_total": peers,
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			c.o.Log = slog.New(slog.DiscardHandler)
			byMetric, n := map[string]int{}, 0
			for line := range strings.Lines(exposition(t, NewCollector(c.o))) {
				if name, _, _ := strings.Cut(line, "{"); !strings.HasPrefix(line, "#") {
					byMetric[name]++
					n++
				}
			}
			t.Logf("%d series", n)
			if n > c.most {
				names := slices.SortedFunc(maps.Keys(byMetric), func(a, b string) int { return byMetric[b] - byMetric[a] })
				t.Errorf("%d series, want at most %d; most of %v", n, c.most, names[:10])
			}
			for name, want := range c.has {
				if byMetric[name] != want {
					t.Errorf("%d of %s, want %d", byMetric[name], name, want)
				}
			}
		})
	}
}
