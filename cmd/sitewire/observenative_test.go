package main

import (
	"fmt"
	"net/netip"
	"time"

	"sitewire/metrics"
)

// startNative starts a second Prometheus beside the first, which takes native histograms: this version of it then leaves the classic ones
// out, so it cannot be the one that the dashboards are shown.
func (o *observed) startNative() *demoObserver {
	o.Helper()
	p := *o.lab.observer
	p.address = netip.MustParseAddrPort("127.0.0.1:9091")
	if err := o.lab.startPrometheus(&p, "prometheus-native", "--enable-feature=native-histograms"); err != nil {
		o.Fatal(err)
	}
	return &p
}

// native: every histogram is a native one to a Prometheus that asks for it, with observations where there must have been some.
func (o *observed) native(p *demoObserver) {
	for _, m := range metrics.Catalogue() {
		if m.Kind != metrics.Histogram {
			continue
		}
		o.until(10*time.Second, m.Name+" as a native histogram", func() error {
			counts, err := p.query(o.Context(), fmt.Sprintf("count by (instance) (histogram_count(%s))", m.Name))
			if err == nil && len(counts) != len(o.lab.sites) {
				err = fmt.Errorf("of %d gateways, want %d", len(counts), len(o.lab.sites))
			}
			return err
		})
	}
	const median = `histogram_quantile(0.5, sum(sitewire_route_convergence_duration_seconds))`
	found, err := p.query(o.Context(), median)
	if err != nil {
		o.Fatal(err)
	}
	if len(found) != 1 || !(found[0].value() > 0 && found[0].value() < 5) {
		o.Errorf("%s = %v, want seconds", median, found)
	}
}
