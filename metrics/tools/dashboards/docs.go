package dashboards

import (
	"fmt"
	"strings"
)

const docsIntro = `# Dashboards

<!-- Made from the dashboards' Go values by: cd metrics/tools && go test ./dashboards -update -->

Four Grafana dashboards are in [metrics/grafana](../metrics/grafana), for Grafana 10 and later. They are linked with each other: begin with
the overview, and click on what is red.

To provision them, copy ` + "`metrics/grafana/*.json`" + ` to ` + "`/var/lib/grafana/dashboards/sitewire`" + ` and the files under
` + "`metrics/grafana/provisioning`" + ` to ` + "`/etc/grafana/provisioning`" + `, set your Prometheus' address in the data source's file, and restart
Grafana. To try one, import its JSON under Dashboards → New → Import.

They need nothing but the metrics of [metrics.md](metrics.md). The table of alerts needs the rules in
[metrics/prometheus](../metrics/prometheus) to be loaded in Prometheus. Prometheus 2.42 is old enough, later ones and those that speak its
language (Mimir, Thanos, VictoriaMetrics) are new enough.

On every board you choose the data source, the job and the gateways; on most also sites and peers. A panel's "i" says what its
panel below says: which question it answers, what is normal, and what to do otherwise.

What many gateways do not have (BFD, RPKI, monitored prefixes, counters of devices) is in rows that are closed at first.
`

// Docs tells in words what every panel shows.
func Docs(boards []Board) string {
	var out strings.Builder
	out.WriteString(docsIntro)
	for i := range boards {
		b := &boards[i]
		fmt.Fprintf(&out, "\n## %s\n\n%s\n\nUID `%s`, file [%s.json](../metrics/grafana/%s.json).\n", b.Title, b.Purpose, b.UID, b.UID, b.UID)
		for j := range b.Rows {
			row := &b.Rows[j]
			fmt.Fprintf(&out, "\n### %s\n\n| panel | question | normal | otherwise |\n|---|---|---|---|\n", row.Title)
			for k := range row.Panels {
				p := &row.Panels[k]
				do := p.Do
				if len(p.Alerts) > 0 {
					do += " Alerts: " + strings.Join(p.Alerts, ", ") + "."
				}
				fmt.Fprintf(&out, "| **%s** (%s) | %s | %s | %s |\n", p.Title, p.Kind, p.Question, p.Normal, do)
			}
		}
	}
	return out.String()
}
