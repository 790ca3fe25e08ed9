package metrics

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// The rules fire on what is really exported: they join on labels, and one label too many makes an alert silent. A peer
// with two sessions must not break a join either, and losing one of them is a session that is down and not an isolated
// site. Everything stands still, except for the series in moving.
func TestAlertsFire(t *testing.T) {
	tool := promtool(t)
	moving := map[string]string{
		`sitewire_reconcile_failures_total{trigger="periodic"}`:                                            "0+1x60",
		`sitewire_reconcile_last_success_timestamp_seconds`:                                                "0x60",
		`sitewire_reconcile_oldest_pending_timestamp_seconds`:                                              "1x60",
		`sitewire_bgp_prefixes_accepted{family="ipv4",peer="nyc",session="nyc"}`:                           "95x60",
		`sitewire_bgp_prefixes_accepted{family="ipv6",peer="osl",session="osl/ipv6"}`:                      "5x10 0x50",
		`sitewire_bgp_session_downs_total{peer="nyc",reason="reset",session="nyc"}`:                        "0+1x60",
		`sitewire_drift_detected_total{kind="route_missing"}`:                                              "0+1x60",
		`sitewire_tunnel_up{peer="osl"}`:                                                                   "1x60",
		`sitewire_tunnel_up{peer="store-17"}`:                                                              "1x10 0x50",
		`sitewire_tunnel_transmit_bytes_total{peer="store-17"}`:                                            "0+60000x60",
		`sitewire_tunnel_endpoint_changes_total{peer="nyc"}`:                                               "0+1x60",
		`sitewire_netlink_requests_total{operation="set_device",subsystem="wireguard"}`:                    "0+60x60",
		`sitewire_netlink_errors_total{errno="EPERM",operation="set_device",subsystem="wireguard"}`:        "0+60x60",
		`sitewire_netlink_overruns_total{subsystem="rtnetlink"}`:                                           "0+1x60",
		`sitewire_tunnel_probes_sent_total{peer="nyc"}`:                                                    "0+10x60",
		`sitewire_tunnel_probes_lost_total{peer="nyc"}`:                                                    "0+1x60",
		`sitewire_tunnel_path_mtu_bytes{peer="nyc"}`:                                                       "1380x60",
		`sitewire_rpki_last_update_timestamp_seconds{server="flaps"}`:                                      "-9000x60",
		`sitewire_collector_success{collector="kernel"}`:                                                   "0x60",
		`sitewire_component_up{component="bgp"}`:                                                           "0x60",
		`sitewire_snapshot_timestamp_seconds{snapshot="bgp"}`:                                              "0x60",
		`sitewire_route_convergence_duration_seconds_bucket{family="ipv4",operation="announce",le="+Inf"}`: "0+60x60",
	}
	// Labels of the alerts that must fire after 50 minutes. Those not named here must not.
	firing := map[string][]string{
		"SitewireSiteIsolated":           {`site="store-17"`},
		"SitewireTunnelDown":             {`peer="store-17",site="store-17"`},
		"SitewireTunnelNeverUp":          {`peer="new",site="new"`},
		"SitewireTunnelOneWay":           {`peer="store-17",site="store-17"`},
		"SitewireTunnelPacketLoss":       {`peer="nyc",site="nyc"`},
		"SitewireTunnelPathMTULow":       {`device="sw-nyc",peer="nyc",site="nyc"`},
		"SitewireTunnelEndpointFlapping": {`peer="nyc",site="nyc"`},
		"SitewireBGPSessionDown":         {`peer="core",session="core",site="fra"`, `peer="osl",session="osl/ipv4",site="osl"`},
		"SitewireBGPSessionFlapping":     {`peer="nyc",session="nyc",site="nyc"`},
		"SitewireBGPNoPrefixes":          {`family="ipv6",peer="osl",session="osl/ipv6",site="osl"`},
		"SitewireBGPPrefixLimitNear":     {`family="ipv4",peer="nyc",session="nyc",site="nyc"`},
		"SitewireRPKIStale":              {`server="flaps"`},
		"SitewireConvergenceSlow":        {``},
		"SitewireSyncStuck":              {``},
		"SitewireReconcileFailing":       {``},
		"SitewireDriftRecurring":         {``},
		"SitewireDriftUnresolved":        {``},
		"SitewireAllowedIPsConflict":     {`device="sw-hub"`},
		"SitewirePrefixesWithoutRoute":   {`family="ipv4",reason="unresolved"`, `family="ipv6",reason="refused"`},
		"SitewireNetlinkErrors":          {``},
		"SitewireNetlinkOverrun":         {`subsystem="rtnetlink"`},
		"SitewireComponentDown":          {`component="bgp"`}, // rtnetlink fails, which SitewireReconcileFailing says
		"SitewireSnapshotStale":          {`snapshot="bgp"`},
		"SitewireConfigReloadFailed":     {``},
		"SitewireCollectorFailing":       {`collector="kernel"`},
	}

	var b strings.Builder
	b.WriteString("rule_files: [rules.yaml]\nevaluation_interval: 1m\ntests:\n  - interval: 1m\n    input_series:\n")
	for line := range strings.Lines(exposition(t, gateway().collector(t))) {
		if strings.HasPrefix(line, "#") {
			continue
		}
		i := strings.LastIndexByte(line, ' ')
		series, values := line[:i], strings.TrimSpace(line[i+1:])+"x60"
		if v, ok := moving[series]; ok {
			values = v
			delete(moving, series)
		}
		name, labels, _ := strings.Cut(series, "{")
		fmt.Fprintf(&b, "      - {series: '%s{job=\"sitewire\",instance=\"a\",%s}', values: '%s'}\n", name, strings.TrimSuffix(labels, "}"), values)
	}
	for series := range moving {
		t.Errorf("no such series: %s", series)
	}
	b.WriteString("    promql_expr_test:\n      - expr: 'sum without (severity, alertstate) (ALERTS{alertstate=\"firing\"})'\n        eval_time: 50m\n        exp_samples:\n")
	for alert, all := range firing {
		for _, labels := range all {
			fmt.Fprintf(&b, "          - {labels: '{alertname=%q,job=\"sitewire\",instance=\"a\",%s}', value: 1}\n", alert, labels)
		}
	}

	dir := t.TempDir()
	rules, err := os.ReadFile(rulesFile)
	if err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string][]byte{"rules.yaml": rules, "test.yaml": []byte(b.String())} {
		if err := os.WriteFile(filepath.Join(dir, name), text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	cmd := exec.CommandContext(t.Context(), tool, "test", "rules", "test.yaml")
	cmd.Dir = dir
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("promtool test rules: %v\n%s", err, out)
	}
}

func TestPromtoolCheckMetrics(t *testing.T) {
	cmd := exec.CommandContext(t.Context(), promtool(t), "check", "metrics")
	cmd.Stdin = strings.NewReader(exposition(t, gateway().collector(t)))
	if out, err := cmd.CombinedOutput(); err != nil || len(out) > 0 {
		t.Errorf("promtool check metrics: %v\n%s", err, out)
	}
}

// promtool returns the program's path. Its absence skips the test, in the form that all tests of this repository use.
func promtool(t *testing.T) string {
	t.Helper()
	path, err := exec.LookPath("promtool")
	if err == nil {
		return path
	}
	reason := fmt.Sprintf("SKIP-REASON kind=program name=promtool fix=%q why=%q", "apt-get install prometheus", err)
	for word := range strings.SplitSeq(os.Getenv("SITEWIRE_REQUIRE"), ",") {
		if slices.Contains([]string{"all", "program", "promtool", "program:promtool"}, strings.TrimSpace(word)) {
			t.Fatalf("SITEWIRE_REQUIRE names what is missing: %s", reason)
		}
	}
	t.Skip(reason)
	return ""
}
