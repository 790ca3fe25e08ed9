package metrics

import "embed"

// Assets are the rules for Prometheus and the dashboards for Grafana, for whoever sets one up: prometheus/*.rules.yaml and
// grafana/*.json.
//
//go:embed prometheus/*.rules.yaml grafana/*.json
var Assets embed.FS
