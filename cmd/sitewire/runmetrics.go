package main

import (
	"context"
	"fmt"
	"time"

	"sitewire/metrics"
	"sitewire/routes"
)

// serveMetrics serves Prometheus until ctx ends.
func (d *process) serveMetrics(ctx context.Context) error {
	log := d.log.With("part", "metrics")
	h, err := metrics.Handler(metrics.HandlerOptions{
		Started: d.started,
		Log:     log,
		Collector: metrics.NewCollector(metrics.CollectorOptions{
			Log: log,
			Source: metrics.Source{
				Process: d.processMetrics, Kernel: d.kernelMetrics,
				Tunnels: d.gateway.Tunnels, BGP: d.gateway.Sessions, Routes: d.gateway.Routing,
			},
		}),
	})
	if err != nil {
		return fmt.Errorf("handler: %w", err)
	}
	return metrics.NewServer(metrics.ServerOptions{Listen: d.cfg.Metrics.Listen, Handler: h, Log: log}).Run(ctx)
}

// processMetrics tells what runs here and under which configuration.
func (d *process) processMetrics() metrics.Process {
	cfg, info, reloads, b := d.gateway.Config(), d.gateway.ConfigInfo(), d.gateway.ReloadCounts(), readBuild()
	p := metrics.Process{
		Build: metrics.Build{Version: b.versionText(), Revision: b.Revision},
		Site:  cfg.Site, ASN: cfg.ASN, RouterID: cfg.RouterID,
		LogMessages: d.logs.Counts(),
		Snapshots:   map[string]time.Time{"fib": d.gateway.Routing().At},
		Config: metrics.Config{
			LastReloadSuccessful: reloads.LastOK, LastSuccess: reloads.LastSuccess,
			Reloads: reloads.Reloads, ReloadFailures: reloads.Failures,
			Hash: info.Hash, RestartRequired: len(info.RestartRequired) > 0,
		},
	}
	if reloads.LastSuccess.IsZero() && info.LastError == "" { // the load at start
		p.Config.LastReloadSuccessful, p.Config.LastSuccess = true, info.Applied
	}
	return p
}

// kernelMetrics counts what the routes' driver asked of the kernel. Errors are counted by operation, requests are not: a batch has many.
func (d *process) kernelMetrics() *metrics.Kernel {
	const subsystem = "rtnetlink"
	s := d.fib.Stats()
	k := &metrics.Kernel{
		Requests: map[metrics.Request]uint64{{Subsystem: subsystem, Operation: "route_write"}: s.Requests},
		Errors:   map[metrics.RequestError]uint64{},
		Overruns: map[string]uint64{subsystem: s.Overruns},
		Resyncs:  map[string]uint64{subsystem: s.Resyncs},
	}
	for key, n := range s.Errors {
		op := "route_replace"
		if key.Op == routes.Withdraw {
			op = "route_delete"
		}
		k.Errors[metrics.RequestError{Request: metrics.Request{Subsystem: subsystem, Operation: op}, Errno: key.Errno}] = n
	}
	return k
}
