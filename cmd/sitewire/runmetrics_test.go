package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"sitewire/gateway/config"
	"sitewire/gateway/wg"
	"sitewire/metrics"
)

// TestRunMetrics asks a daemon with one peer for what only package main knows.
func TestRunMetrics(t *testing.T) {
	if !inLab(t) {
		return
	}
	d := newLabDaemon(t)
	var keys [2]wg.Secret
	for i := range keys {
		var err error
		if keys[i], err = wg.NewPrivateKey(); err != nil {
			t.Fatal(err)
		}
	}
	d.put("private.key", keys[0].Reveal()+"\n")
	// No listen: the address is the default.
	d.put("sitewire.yaml", d.yaml(fmt.Sprintf("wireguard: { private_key: \"${file:%s/private.key}\" }\nroutes: { table: 4242 }\n"+
		"peers: { a: { public_key: %s, endpoint: \"127.0.0.1:51999\", allowed_ips: [10.2.0.0/24] } }\n", d.dir, keys[1].Public())))
	before := time.Now()
	d.start()

	var text string
	d.until("all components to be up", func() (err error) {
		if text, err = d.scrape(metrics.DefaultListen); err != nil {
			return err
		}
		for _, c := range []string{"wireguard", "bgp", "rtnetlink", "api"} {
			if line := fmt.Sprintf("sitewire_component_up{component=%q} 1\n", c); !strings.Contains(text, line) {
				return errors.New("missing: " + line)
			}
		}
		if !strings.Contains(text, `sitewire_fib_routes{family="ipv4",table="4242"}`) {
			return errors.New("the table is not 4242")
		}
		if !strings.Contains(text, `sitewire_snapshot_timestamp_seconds{snapshot="wireguard"}`) {
			return errors.New("the device was not polled yet")
		}
		return nil
	})
	for series, age := range map[string]time.Duration{
		`process_start_time_seconds`:                                time.Minute,
		`sitewire_snapshot_timestamp_seconds{snapshot="wireguard"}`: 10 * time.Second,
		`sitewire_snapshot_timestamp_seconds{snapshot="fib"}`:       time.Minute,
	} {
		v := value(t, text, series)
		if at := time.UnixMilli(int64(v * 1000)); at.Before(before.Add(-time.Second)) || time.Since(at) > age {
			t.Errorf("%s is %s, want after %s", series, at, before)
		}
	}
	// The unreachable route of what is announced was written.
	if n := value(t, text, `sitewire_netlink_requests_total{operation="route_replace",subsystem="rtnetlink"}`); n < 1 {
		t.Errorf("%g requests for routes", n)
	}
	// Errors are counted under the names of the requests, from the start.
	operation := regexp.MustCompile(`(?m)^sitewire_netlink_(requests|errors)_total\{.*operation="([a-z_]+)"`)
	counted := map[string]map[string]bool{"requests": {}, "errors": {}}
	for _, m := range operation.FindAllStringSubmatch(text, -1) {
		counted[m[1]][m[2]] = true
	}
	if !maps.Equal(counted["requests"], counted["errors"]) {
		t.Errorf("requests of the operations %v, errors of %v", slices.Sorted(maps.Keys(counted["requests"])), slices.Sorted(maps.Keys(counted["errors"])))
	}
	for _, operation := range []string{"route_delete", "route_replace", "rule_add", "link_set", "table_replace", "set_device", "get_device"} {
		if !counted["requests"][operation] {
			t.Errorf("%s is not counted", operation)
		}
	}
	// The device was made and is polled.
	for _, operation := range []string{"set_device", "get_device"} {
		if n := value(t, text, fmt.Sprintf(`sitewire_netlink_requests_total{operation=%q,subsystem="wireguard"}`, operation)); n < 1 {
			t.Errorf("%g times %s", n, operation)
		}
	}
	if n := value(t, text, `sitewire_netlink_requests_total{operation="rule_add",subsystem="rtnetlink"}`); n < 1 {
		t.Errorf("%g rules added", n)
	}
}

// TestMetricsOff: a daemon that is told not to serve metrics listens on TCP for BGP only.
func TestMetricsOff(t *testing.T) {
	if !inLab(t) {
		return
	}
	for _, off := range []string{"off", `""`} {
		d := newLabDaemon(t)
		d.put("sitewire.yaml", d.yaml("metrics: { listen: "+off+" }\nbgp: { port: 1179 }\n"))
		d.start()
		if _, err := d.scrape(metrics.DefaultListen); !errors.Is(err, syscall.ECONNREFUSED) {
			t.Errorf("listen: %s: a scrape ends with %v", off, err)
		}
		for _, file := range []string{"/proc/net/tcp", "/proc/net/tcp6"} {
			b, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			for line := range strings.Lines(string(b)) {
				if strings.Contains(line, " 0A ") && !strings.Contains(line, fmt.Sprintf(":%04X ", 1179)) { // TCP_LISTEN
					t.Errorf("listen: %s: somebody listens:\n%s", off, line)
				}
			}
		}
		d.stop()
	}
}

// TestDefaultMetricsAddress: the configuration's default is the one that docs/metrics.md tells.
func TestDefaultMetricsAddress(t *testing.T) {
	d := newLabDaemon(t)
	cfg, err := config.Load(d.put("sitewire.yaml", d.yaml("")), config.Options{})
	if err != nil {
		t.Fatal(err)
	}
	if cfg.Metrics.Listen != metrics.DefaultListen {
		t.Errorf("the configuration says %q, package metrics %q", cfg.Metrics.Listen, metrics.DefaultListen)
	}
}

// paced is a device that was last read at a time.
type paced struct {
	wg.Device
	at   time.Time
	read func(*paced) error
}

func (p *paced) Name() string                                  { return "wg-a" }
func (p *paced) StatsTime() time.Time                          { return p.at }
func (p *paced) Stats(context.Context) ([]wg.PeerStats, error) { return nil, p.read(p) }

// TestRequestsCounted: what the kernel was asked counts, also in vain, and what was answered from memory does not.
func TestRequestsCounted(t *testing.T) {
	var w deviceWatch
	p := &paced{}
	d := &watchedDevice{p, &w}
	begin := time.Now()
	for i, step := range []struct {
		read func(*paced) error
		want uint64
	}{
		{func(p *paced) error { p.at = begin; return nil }, 1},
		{func(*paced) error { return nil }, 1},
		{func(p *paced) error { p.at = begin.Add(1); return nil }, 2},
		{func(*paced) error { return errors.New("gone") }, 3},
	} {
		p.read = step.read
		_, _ = d.Stats(t.Context())
		if got := w.requests[getDevice]; got != step.want {
			t.Errorf("step %d: %d requests, want %d", i, got, step.want)
		}
	}
}

// TestDeviceWatch: a device that fails, and is still wanted, means that WireGuard is not well.
func TestDeviceWatch(t *testing.T) {
	var w deviceWatch
	tunnels := []wg.Tunnel{{Peer: "a", Device: "wg-a"}, {Peer: "b", Device: "wg-b"}}
	if !w.healthy(tunnels) || !w.lastPoll().IsZero() {
		t.Error("not well before anything happened")
	}
	w.note("wg-b", errors.New("gone"))
	if w.healthy(tunnels) || !w.healthy(tunnels[:1]) {
		t.Error("wg-b failed, and only wg-b")
	}
	w.note("wg-b", nil)
	if !w.healthy(tunnels) {
		t.Error("wg-b came back")
	}
}

// value is the value of a series in an exposition.
func value(t *testing.T, text, series string) float64 {
	t.Helper()
	for line := range strings.Lines(text) {
		if v, ok := strings.CutPrefix(strings.TrimSpace(line), series+" "); ok {
			f, err := strconv.ParseFloat(v, 64)
			if err != nil {
				t.Error(err)
			}
			return f
		}
	}
	t.Errorf("no series %s", series)
	return 0
}
