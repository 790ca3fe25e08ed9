package lint

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"sitewire/metrics"
	"sitewire/metrics/tools/board"
)

const repository = "../../.."

// unused are metrics that neither a dashboard nor a rule looks at, with the reason.
var unused = map[string]string{
	"sitewire_config_hash": "compares gateways that are meant to have the same configuration; which those are, only the operator knows",
}

func ruleFiles(t *testing.T) []string {
	files, err := filepath.Glob(filepath.Join(repository, "metrics/prometheus/*rules.y*ml"))
	if err != nil {
		t.Fatal(err)
	}
	if len(files) == 0 {
		t.Fatal("no rules")
	}
	return files
}

func load(t *testing.T) (*Rules, []*board.Board) {
	rules, err := LoadRules(ruleFiles(t)...)
	if err != nil {
		t.Fatal(err)
	}
	files, err := filepath.Glob(filepath.Join(repository, "metrics/grafana/*.json"))
	if err != nil || len(files) == 0 {
		t.Fatalf("no dashboards: %v", err)
	}
	var boards []*board.Board
	for _, file := range files {
		b, err := board.Load(file)
		if err != nil {
			t.Fatal(err)
		}
		boards = append(boards, b)
	}
	return rules, boards
}

// Dashboards and rules are without a problem, and look at every metric of the daemon.
func TestRepository(t *testing.T) {
	rules, boards := load(t)
	all := metrics.Catalogue()
	known, used := Daemon(all), map[string]bool{}
	rules.Record(known)
	runbooks := filepath.Join(repository, "docs/runbooks")
	for _, p := range rules.Check(known, runbooks, used) {
		t.Error(p)
	}
	for _, p := range Boards(boards, known, rules.Alerts(), used) {
		t.Error(p)
	}
	if len(used) < 90 {
		t.Errorf("only %d metrics are looked at: the expressions were not read", len(used))
	}
	for _, m := range all {
		reason, listed := unused[m.Name]
		switch {
		case !used[m.Name] && !listed:
			t.Errorf("%s is on no dashboard and in no rule: use it, or list it as unused with a reason", m.Name)
		case used[m.Name] && listed:
			t.Errorf("%s is used by now: take it off the list", m.Name)
		case listed && reason == "":
			t.Errorf("%s is unused without a reason", m.Name)
		}
	}
	for name := range unused {
		if !slices.ContainsFunc(all, func(m metrics.Metric) bool { return m.Name == name }) {
			t.Errorf("%s is listed as unused and does not exist", name)
		}
	}
}

// Every mistake that the check is for is found by it, and what is right is not called wrong.
func TestExpressions(t *testing.T) {
	const gw = `{job=~"value-of-job",instance=~"value-of-instance"}`
	for _, c := range []struct{ expr, want string }{
		{`sitewire_tunnel_up` + gw, ""},
		{`8 * rate(sitewire_tunnel_receive_bytes_total` + gw + `[61s])`, ""},
		{`increase(sitewire_tunnel_handshakes_total` + gw + `[1h])`, ""},
		{`sum by (peer) (sitewire_bgp_session_up` + gw + ` * on (job, instance, peer) group_left (site) sitewire_bgp_peer_info` + gw + `)`, ""},
		{`sum by (site) (sitewire_bgp_session_up` + gw + ` * on (job, instance, peer) group_left (site) sitewire_bgp_peer_info` + gw + `)`, ""},
		{`histogram_quantile(0.9, sum by (le) (rate(sitewire_route_stage_duration_seconds_bucket` + gw + `[61s])))`, ""},
		{`rate(sitewire_route_stage_duration_seconds_sum` + gw + `[61s]) / rate(sitewire_route_stage_duration_seconds_count` + gw + `[61s])`, ""},
		{`label_replace(sitewire_tunnel_up` + gw + `, "to", "$1", "peer", "(.*)") * on (to) group_left () sum by (to) (label_replace(up` + gw + `, "to", "$1", "instance", "(.*)"))`, ""},
		{`sitewire_tunnel_up` + gw + ` unless on (peer) sitewire_bgp_session_up` + gw, ""},
		{`time() - process_start_time_seconds` + gw, ""},
		{`max_over_time(sum(sitewire_tunnel_up` + gw + `)[1h:1m])`, ""},
		{`ALERTS{job=~"value-of-job",instance=~"value-of-instance",whatever="x"}`, ""},

		{`sum(`, "parse error"},
		{`sitewire_tunnel_upp` + gw, "no such metric"},
		{`{job=~"value-of-job",instance=~"value-of-instance"}`, "does not name a metric"},
		{`sitewire_route_stage_duration_seconds` + gw, "no such metric"},
		{`sitewire_tunnel_up`, `not limited by job=~"$job"`},
		{`sitewire_tunnel_up{job=~"value-of-job"}`, `not limited by instance=~"$instance"`},
		{`sitewire_tunnel_up{job="value-of-job",instance=~"value-of-instance"}`, `not limited by job=~"$job"`},
		{`sitewire_tunnel_up{job=~"value-of-job",instance=~"value-of-instance",site="x"}`, "has no label site"},
		{`rate(sitewire_tunnel_up` + gw + `[61s])`, "which is a gauge"},
		{`increase(sitewire_tunnel_allowed_ips` + gw + `[1h])`, "which is a gauge"},
		{`sitewire_tunnel_receive_bytes_total` + gw, "is a counter"},
		{`sum(sitewire_tunnel_receive_bytes_total` + gw + `)`, "is a counter"},
		{`max_over_time(sitewire_tunnel_receive_bytes_total` + gw + `[1h])`, "is a counter"},
		{`sum by (le) (sitewire_route_stage_duration_seconds_bucket` + gw + `)`, "is a counter"},
		{`process_cpu_seconds_total` + gw, "is a counter"},
		{`rate(sitewire_tunnel_receive_bytes_total` + gw + `[5m])`, "use $__rate_interval"},
		{`rate(sum(sitewire_tunnel_receive_bytes_total` + gw + `)[61s:])`, "of an aggregate"},
		{`histogram_quantile(0.9, sum by (stage) (rate(sitewire_route_stage_duration_seconds_bucket` + gw + `[61s])))`, "no label le"},
		{`histogram_quantile(0.9, rate(sitewire_route_stage_duration_seconds_sum` + gw + `[61s]))`, "no label le"},
		{`sum by (session) (sitewire_tunnel_up` + gw + `)`, "is not a label of"},
		{`sum without (session) (sitewire_tunnel_up` + gw + `)`, "is not a label of"},
		{`sum by (peer) (sum by (instance) (sitewire_tunnel_up` + gw + `))`, "is not a label of"},
		{`sitewire_tunnel_up` + gw + ` * sitewire_bgp_session_up` + gw, "never matches"},
		{`sitewire_tunnel_up` + gw + ` and ignoring (family) sitewire_bgp_session_up` + gw, "never matches"},
		{`sitewire_tunnel_up` + gw + ` * on (session) sitewire_bgp_session_up` + gw, "not a label of both sides"},
		{`sitewire_bgp_session_up` + gw + ` * on (job, instance, peer) group_left (device) sitewire_bgp_peer_info` + gw, "not a label of the other side"},
	} {
		x := &expression{known: Daemon(metrics.Catalogue()), dashboard: true, used: map[string]bool{}}
		x.check(c.expr)
		compare(t, c.expr, x.problems, c.want)
	}
}

func compare(t *testing.T, what string, problems []string, want string) {
	t.Helper()
	all := strings.Join(problems, "\n")
	switch {
	case want == "" && all != "":
		t.Errorf("%s is right, yet: %s", what, all)
	case want != "" && !strings.Contains(all, want):
		t.Errorf("%s: %q is not found, but: %q", what, want, all)
	}
}

func TestLegends(t *testing.T) {
	for _, c := range []struct{ legend, want string }{
		{"{{peer}} of {{ instance }}", ""},
		{"all", ""},
		{"{{site}}", "names site, which the result does not have"},
	} {
		x := &expression{known: Daemon(metrics.Catalogue()), used: map[string]bool{}}
		x.legend(c.legend, x.check(`sitewire_tunnel_up`))
		compare(t, c.legend, x.problems, c.want)
	}
}

func TestRules(t *testing.T) {
	const good = `groups:
  - name: test
    rules:
      - record: instance_peer:sitewire_tunnel_receive_bytes:rate5m
        expr: rate(sitewire_tunnel_receive_bytes_total[5m])
      - alert: SitewireTest
        expr: instance_peer:sitewire_tunnel_receive_bytes:rate5m > 1
        labels: {severity: warning}
        annotations:
          summary: Something is wrong.
          description: '{{ $labels.peer }} is wrong.'
          runbook_url: docs/runbooks/SitewireTest.md
`
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "SitewireTest.md"), []byte("# What to do\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ old, new, want string }{
		{"", "", ""},
		{"rate(sitewire_tunnel_receive_bytes_total[5m])", "sum(rate(sitewire_tunnel_receive_bytes_total[5m]))", "names the label peer, which the alert does not have"},
		{"rate(sitewire_tunnel_receive_bytes_total[5m])", "rate(sitewire_tunnel_receive_bytes_total[1m])", "fewer than four scrapes"},
		{"rate5m > 1", "rate1m > 1", "no such metric"},
		{"record: instance_peer:sitewire_tunnel_receive_bytes:rate5m", "record: receive_bytes", "a recorded series is named"},
		{"severity: warning", "severity: high", "severity"},
		{"severity: warning", "level: warning", "severity"},
		{"summary: Something", "title: Something", "no annotation summary"},
		{"Something is wrong.", "'{{ $labels.peer }} is wrong.'", "the summary is a template"},
		{"$labels.peer }} is", "$labels.session }} is", "names the label session"},
		{"description:", "text:", "no annotation description"},
		{"runbook_url:", "runbook:", "no annotation runbook_url"},
		{"runbooks/SitewireTest.md", "runbooks/SitewireOther.md", "not named after the alert"},
		{"alert: SitewireTest", "alert: SitewireOther", "no runbook"},
		{"alert: SitewireTest", "record: instance_peer:sitewire_tunnel_receive_bytes:rate5m", "twice"},
	} {
		text := strings.Replace(good, c.old, c.new, 1)
		if c.want == "twice" { // a recording rule has no annotations
			text = text[:strings.Index(text, "        annotations:")]
		}
		file := filepath.Join(dir, "rules.yaml")
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		rules, err := LoadRules(file)
		if err != nil {
			t.Errorf("%s: %v", c.new, err)
			continue
		}
		known := Daemon(metrics.Catalogue())
		rules.Record(known)
		compare(t, c.new, rules.Check(known, dir, map[string]bool{}), c.want)
	}
}

// Each mistake in a dashboard is found: a board of the repository is changed in one place.
func TestBoards(t *testing.T) {
	good, err := os.ReadFile(filepath.Join(repository, "metrics/grafana/sitewire-tunnel.json"))
	if err != nil {
		t.Fatal(err)
	}
	rules, all := load(t)
	known := Daemon(metrics.Catalogue())
	rules.Record(known)
	for _, c := range []struct{ old, new, want string }{
		{"", "", ""},
		{`"uid": "sitewire-tunnel"`, `"uid": "sitewire-bgp"`, "taken"},
		{`"schemaVersion": 39`, `"schemaVersion": 36`, "schema version"},
		{`"editable": false`, `"editable": true`, "editable"},
		{`"refresh": "30s"`, `"refresh": "30s", "id": 7`, "database"},
		{`"uid": "${datasource}"`, `"uid": "prometheus-1"`, "data source"},
		{`"name": "instance"`, `"name": "gateway"`, "no variable instance"},
		{`"multi": true`, `"multi": false`, "several and all"},
		{`"refresh": 2`, `"refresh": 1`, "the list follows the time"},
		{`"definition": "label_values(sitewire_build_info,`, `"definition": "label_values(sitewire_build_infos,`, ""}, // for people only
		{`"query": "label_values(sitewire_build_info, job)`, `"query": "label_values(sitewire_build_infos, job)`, "no such metric"},
		{`"title": "Tunnels down"`, `"title": ""`, "no title"},
		{`"description": "How many of the chosen`, `"description": "", "pluginVersion": "How many of the chosen`, "no description"},
		{"Alerts: SitewireTunnelDown", "Alerts: SitewireTunnelDead", "which does not exist"},
		{`"unit": "none"`, `"unit": ""`, "no unit"},
		{`"noValue": "no tunnels"`, `"noValue": ""`, "no text for no data"},
		{`"refId": "B"`, `"refId": "A"`, "is missing or taken"},
		{`"id": 3,`, `"id": 2,`, "missing or taken"},
		{`"x": 4`, `"x": 3`, "lies upon"},
		{`"instant": true`, `"instant": false`, "are instant queries"},
		{`$__rate_interval`, `$__interval`, "a variable that the board does not have"},
		{`"legendFormat": "{{instance}}`, `"legendFormat": "{{site}}`, "names site"},
		{`/d/sitewire-bgp?`, `/d/sitewire-bgb?`, "which is no board"},
		{`sitewire_tunnel_up{job=~\"$job\"`, `sitewire_tunnel_up{job=~\"$site\"`, "not limited by job"},
		{`"legendFormat": "{{le}}"`, `"legendFormat": "{{instance}}"`, "names instance"},
	} {
		text := strings.Replace(string(good), c.old, c.new, 1)
		if text == string(good) && c.old != "" {
			t.Fatalf("%s is not in the file", c.old)
		}
		b, err := board.Decode([]byte(text))
		if err != nil {
			t.Errorf("%s: %v", c.new, err)
			continue
		}
		boards := []*board.Board{b}
		for _, other := range all {
			if !strings.HasSuffix(other.File, "tunnel.json") {
				boards = append(boards, other)
			}
		}
		compare(t, c.new, Boards(boards, known, rules.Alerts(), map[string]bool{}), c.want)
	}
}
