package metrics

import "embed"

// Assets are the alerting rules, for whoever sets a Prometheus up.
//
//go:embed testdata/alerts.yaml
var Assets embed.FS
