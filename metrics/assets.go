package metrics

import "embed"

// Assets are the alerting rules, for whoever sets a Prometheus up.
//
//go:embed prometheus/sitewire.rules.yaml
var Assets embed.FS
