package main

import (
	"context"
	"fmt"
	"slices"
	"time"

	"sitewire/bgp/rpki"
	"sitewire/gateway/config"
	"sitewire/gateway/wg"
	"sitewire/metrics"
	"sitewire/routes"
)

// serveMetrics serves Prometheus until ctx ends.
func (d *process) serveMetrics(ctx context.Context) error {
	log := d.log.With("part", "metrics")
	source := metrics.Source{
		Process: d.processMetrics, Kernel: d.kernelMetrics,
		Tunnels: d.gateway.Tunnels, BGP: d.gateway.Sessions, Routes: d.gateway.Routing,
		API:    d.apiMetrics,
		Probes: d.prober.Snapshot,
		RPKI:   d.gateway.Origins,
	}
	if d.cfg.Metrics.DeviceCounters {
		source.Devices = d.gateway.DeviceCounters
	}
	h, err := metrics.Handler(metrics.HandlerOptions{
		Started: d.started,
		Log:     log,
		Collector: metrics.NewCollector(metrics.CollectorOptions{
			Log: log, Source: source, EndpointInfo: d.cfg.Metrics.EndpointInfo,
		}),
	})
	if err != nil {
		return fmt.Errorf("handler: %w", err)
	}
	return metrics.NewServer(metrics.ServerOptions{Listen: d.cfg.Metrics.Listen, WebConfig: d.cfg.Metrics.WebConfig, Handler: h, Log: log}).Run(ctx)
}

// checkWebConfig checks the file of metrics.web_config for package config.
func checkWebConfig(path string) (config.WebSecurity, error) {
	s, err := metrics.CheckWebConfig(path)
	return config.WebSecurity(s), err
}

// processMetrics tells what runs here and under which configuration.
func (d *process) processMetrics() metrics.Process {
	cfg, info, reloads, b := d.gateway.Config(), d.gateway.ConfigInfo(), d.gateway.ReloadCounts(), readBuild()
	p := metrics.Process{
		Build:       metrics.Build{Version: b.versionText(), Revision: b.Revision},
		Started:     d.started,
		Site:        cfg.Site,
		ASN:         cfg.ASN,
		RouterID:    cfg.RouterID,
		Table:       cfg.Routes.Table,
		Components:  d.components(cfg),
		LogMessages: d.logs.Counts(),
		Config: metrics.Config{
			LastReloadSuccessful: reloads.LastOK, LastSuccess: reloads.LastSuccess,
			Reloads: reloads.Reloads, ReloadFailures: reloads.Failures,
			Hash: info.Hash, RestartRequired: len(info.RestartRequired) > 0,
		},
	}
	if reloads.LastSuccess.IsZero() && info.LastError == "" { // the load at start
		p.Config.LastReloadSuccessful, p.Config.LastSuccess = true, info.Applied
	}
	if polled := d.devices.lastPoll(); !polled.IsZero() { // without tunnels there is nothing to be old
		p.Snapshots = map[string]time.Time{"wireguard": polled}
	}
	return p
}

// components tells which parts are in use and run without an error. A part that ends takes the process along, so what is left to tell is
// whether it has come up and does its periodic work.
func (d *process) components(cfg *config.Config) map[string]bool {
	const (
		missed = 3 // comparisons with the kernel that may fail in a row
		grace  = 10 * time.Second
	)
	up := map[string]bool{
		"wireguard": d.devices.healthy(d.gateway.Tunnels()),
		"rtnetlink": time.Since(d.gateway.Routing().LastReconcile) < missed*cfg.Routes.ReconcileEvery+grace,
		"api":       d.serving.Load(),
	}
	if probes(cfg) {
		up["probe"] = d.prober.Trouble() == nil
	}
	if cfg.ASN != 0 {
		up["bgp"] = !d.gateway.Sessions().Time.IsZero()
	}
	if len(cfg.RPKI.Sources) > 0 {
		up["rpki"] = payloadsInForce(d.gateway.Origins())
	}
	return up
}

// probes tells whether any tunnel is to be probed.
func probes(cfg *config.Config) bool {
	return slices.ContainsFunc(cfg.Peers, func(p *config.Peer) bool { return p.Probe > 0 })
}

// payloadsInForce reports whether every table has a source whose payloads are in use.
func payloadsInForce(s *rpki.Snapshot) bool {
	filled := map[string]bool{}
	for _, x := range s.Sources {
		filled[x.Table] = filled[x.Table] || !x.Updated.IsZero() && !x.Expired
	}
	for _, ok := range filled {
		if !ok {
			return false
		}
	}
	return true
}

// kernelMetrics counts what was asked of the kernel, and of WireGuard. Of routes, an operation that fails counts under what it was about, whichever of its
// requests failed.
func (d *process) kernelMetrics() *metrics.Kernel {
	const subsystem = "rtnetlink"
	replace, remove := metrics.Request{Subsystem: subsystem, Operation: "route_replace"}, metrics.Request{Subsystem: subsystem, Operation: "route_delete"}
	s := d.fib.Stats()
	k := &metrics.Kernel{
		Requests: map[metrics.Request]uint64{replace: s.Replaces, remove: s.Deletes},
		Errors:   map[metrics.RequestError]uint64{},
		Overruns: map[string]uint64{subsystem: s.Overruns},
		Resyncs:  map[string]uint64{subsystem: s.Resyncs},
	}
	for key, n := range s.Errors {
		op := replace
		if key.Op == routes.Withdraw {
			op = remove
		}
		k.Errors[metrics.RequestError{Request: op, Errno: key.Errno}] = n
	}
	rest := d.host.Stats()
	for r, n := range rest.Requests {
		k.Requests[metrics.Request(r)] += n
	}
	for f, n := range rest.Failures {
		k.Errors[metrics.RequestError{Request: metrics.Request(f.Request), Errno: f.Errno}] += n
	}
	d.devices.counts(k)
	drift := d.gateway.Drift()
	k.Drift = map[string]metrics.Drift{
		"device_changed": {Detected: drift.DevicesLost + rest.Mended.Devices, Repaired: drift.DevicesRestored + rest.Mended.Devices},
		"peer_missing":   {Detected: drift.PeersMissing, Repaired: drift.PeersRestored},
		"peer_extra":     {Detected: drift.PeersExtra},
		"rule_missing":   {Detected: rest.Mended.Rules, Repaired: rest.Mended.Rules},
	}
	return k
}

// linkCounters reads the packet counters of devices, if that is asked for.
func (d *process) linkCounters() func(context.Context) (map[string]wg.LinkCounters, error) {
	if !d.cfg.Metrics.DeviceCounters {
		return nil
	}
	return d.host.LinkCounters
}

// apiMetrics tells how the API is used.
func (d *process) apiMetrics() metrics.API {
	s := d.api.Stats()
	out := metrics.API{Calls: make(map[metrics.APICall]uint64, len(s.Calls)), Durations: s.Durations}
	for call, n := range s.Calls {
		out.Calls[metrics.APICall(call)] = n
	}
	return out
}
