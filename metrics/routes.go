package metrics

import (
	"maps"
	"strconv"
	"time"

	"sitewire/routes"
)

// routeMetrics is the group of routes and allowed-IPs, how fast they follow BGP, and what the kernel makes of them.
type routeMetrics struct {
	allowedIPs, allowedIPsDesired                   *metric
	routes, without, fib, changes                   *metric
	convergence, stages, initial, failover          *metric
	diversions, diverted                            *metric
	pending, oldestPending, opFailures, opRetries   *metric
	reconciles, failures, reconcileDuration, lastOK *metric
	driftDetected, driftRepaired, drift             *metric
	moves, conflicts, foreign                       *metric
}

func newRouteMetrics(c *catalogue) *routeMetrics {
	r := &routeMetrics{}
	c.group("Tunnels")
	r.allowedIPs = c.gauge("tunnel_allowed_ips", "Allowed-IPs of the peer as acknowledged by its device.", "peer", "family")
	r.allowedIPsDesired = c.gauge("tunnel_allowed_ips_desired", "Allowed-IPs that the peer should have.", "peer", "family")

	c.group("Routes and convergence")
	r.routes = c.gauge("routes", "Routes that should be in the kernel, by the peer that they lead to. One over several peers counts for each of them.", "family", "source", "peer")
	r.without = c.gauge("prefixes_without_route", "Prefixes that have a best path and yet no route.", "family", "reason")
	r.fib = c.gauge("fib_routes", "Unicast routes of ours that the kernel acknowledged.", "family", "table")
	r.changes = c.counter("route_changes_total", "Changes of routes that the kernel acknowledged.", "family", "operation")
	r.convergence = c.histogram("route_convergence_duration_seconds", "Time from reading the UPDATE, or from noticing that a session or tunnel was lost, to the acknowledgement of allowed-IPs and route.", "operation", "family")
	r.stages = c.histogram("route_stage_duration_seconds", "Time that a change spent in one stage of convergence.", "stage")
	r.failover = c.histogram("failover_duration_seconds", "Time from noticing that a session, tunnel or link was lost to the acknowledgement of the last route that replaced one that led there. Losses that nothing could replace do not count. It counts some seconds after the last replacement.", "trigger")
	r.diversions = c.counter("diversions_total", "Tunnels whose routes took their other ways all at once because the tunnel was lost (needs nexthop objects in the kernel).")
	r.diverted = c.gauge("diversions_active", "Tunnels that are diverted now: lost, or back and not carrying routes again yet.")
	r.initial = c.gauge("initial_convergence_seconds", "Time from the start until every neighbour had ended its first announcements (or the wait for it ended) and the kernel was as it should be; 0 until then.")

	c.group("Keeping in step")
	r.pending = c.gauge("reconcile_pending_changes", "Prefixes whose change is decided and not acknowledged yet.")
	r.oldestPending = c.gauge("reconcile_oldest_pending_timestamp_seconds", "Unix time since which the oldest pending change waits; 0 if there is none. If it stands still, BGP and the kernel disagree.")
	r.opFailures = c.counter("reconcile_operation_failures_total", "Writes of routes and allowed-IPs that failed; each is tried again.", "operation")
	r.opRetries = c.counter("reconcile_operation_retries_total", "Repeated attempts to bring a prefix in step.")
	r.reconciles = c.counter("reconcile_runs_total", "Full comparisons with the kernel and the devices.", "trigger")
	r.failures = c.counter("reconcile_failures_total", "Full comparisons with the kernel and the devices that failed.", "trigger")
	r.reconcileDuration = c.histogram("reconcile_duration_seconds", "Time that a full comparison took.")
	r.lastOK = c.gauge("reconcile_last_success_timestamp_seconds", "Unix time of the last full comparison that succeeded; 0 if none did.")
	r.driftDetected = c.counter("drift_detected_total", "Differences found between what we wrote and what is there.", "kind")
	r.driftRepaired = c.counter("drift_repaired_total", "Differences that were put right.", "kind")
	r.drift = c.gauge("drift_unresolved", "Differences that are there now and not repaired yet. Foreign allowed-IPs are not among them.", "kind")
	r.moves = c.counter("allowed_ips_moves_total", "Prefixes that went from one peer of the device to another; normal on failover.", "device")
	r.conflicts = c.gauge("allowed_ips_conflicts", "Prefixes that more than one peer of the device wants; WireGuard gives each to one.", "device")
	r.foreign = c.gauge("allowed_ips_foreign", "Allowed-IPs on the device that somebody else put there. They stay, unless they take a prefix that is ours.", "device")
	return r
}

func (r *routeMetrics) collect(e *emitter, s *scrape) {
	st := s.routes
	if st == nil {
		return
	}
	r.counts(e, s)
	families := []routes.Family{routes.IPv4, routes.IPv6}
	for op := range routes.Operations {
		for _, f := range families {
			e.counter(r.changes, st.Changes[op][f], f.String(), op.String())
			e.routesHistogram(r.convergence, &st.Convergence[op][f], op.String(), f.String())
		}
	}
	for stage := range routes.Stages {
		e.routesHistogram(r.stages, &st.Stages[stage], stage.String())
	}
	for kind := routes.LossUnknown + 1; kind < routes.LossKinds; kind++ {
		e.routesHistogram(r.failover, &st.Failover[kind], kind.String())
	}
	e.counter(r.diversions, st.Installed.Diversions)
	e.gauge(r.diverted, float64(len(st.Diversions)))
	var initial time.Duration
	if !st.Synced.IsZero() && !s.process.Started.IsZero() {
		initial = st.Synced.Sub(s.process.Started)
	}
	e.gauge(r.initial, initial.Seconds())

	e.gauge(r.pending, float64(st.Pending))
	e.time(r.oldestPending, st.OldestPending)
	for kind, n := range st.Failures {
		e.counter(r.opFailures, n, routes.OpKind(kind).String())
	}
	e.counter(r.opRetries, st.Retries)
	for t := range routes.Triggers {
		e.counter(r.reconciles, st.Reconciles[t], t.String())
		e.counter(r.failures, st.ReconcileFailures[t], t.String())
	}
	e.routesHistogram(r.reconcileDuration, &st.ReconcileDuration)
	e.time(r.lastOK, st.LastReconcile)
	for k := range routes.DriftKinds {
		e.counter(r.driftDetected, st.DriftDetected[k], k.String())
		e.counter(r.driftRepaired, st.DriftRepaired[k], k.String())
		unresolved := st.DriftUnresolved[k]
		if k == routes.AllowedIPExtra { // what is not ours is nothing to repair
			unresolved -= len(st.Foreign)
		}
		e.gauge(r.drift, float64(unresolved), k.String())
	}
	if s.kernel != nil {
		for _, kind := range otherDrift() {
			e.counter(r.driftDetected, s.kernel.Drift[kind].Detected, kind)
			e.counter(r.driftRepaired, s.kernel.Drift[kind].Repaired, kind)
		}
	}
}

// counts sends what is counted by peer and by device. What is configured but not counted yet is 0.
func (r *routeMetrics) counts(e *emitter, s *scrape) {
	st := s.routes
	families := []routes.Family{routes.IPv4, routes.IPv6}
	// With room from the start: growing them is a fifth of a scrape of a thousand peers.
	peers := len(s.tunnels)
	installed, desired := make(map[routes.PeerFamily]int, 2*peers), make(map[routes.PeerFamily]int, 2*peers)
	selected := make(map[routes.RouteKey]int, max(2*peers, len(st.Desired.Routes)))
	moves, conflicts, foreign := make(map[string]uint64, peers), make(map[string]int, peers), make(map[string]int, peers)
	for i := range s.tunnels {
		for _, f := range families {
			key := routes.PeerFamily{Peer: s.tunnels[i].Peer, Family: f}
			installed[key], desired[key] = 0, 0
		}
		device := s.tunnels[i].Device
		moves[device], conflicts[device], foreign[device] = 0, 0, 0
	}
	if s.bgp != nil {
		for i := range s.bgp.Sessions {
			x := &s.bgp.Sessions[i]
			if x.IPv4 != nil {
				selected[routes.RouteKey{Family: routes.IPv4, Source: routes.BGP, Label: x.Peer}] = 0
			}
			if x.IPv6 != nil {
				selected[routes.RouteKey{Family: routes.IPv6, Source: routes.BGP, Label: x.Peer}] = 0
			}
		}
	}
	maps.Copy(installed, st.Installed.AllowedIPs)
	maps.Copy(desired, st.Desired.AllowedIPs)
	maps.Copy(selected, st.Desired.Routes)
	maps.Copy(moves, st.Installed.Moves)
	maps.Copy(conflicts, st.Desired.Conflicts)
	for _, a := range st.Foreign {
		foreign[a.Device]++
	}

	for k, n := range installed {
		e.gauge(r.allowedIPs, float64(n), k.Peer, k.Family.String())
	}
	for k, n := range desired {
		e.gauge(r.allowedIPsDesired, float64(n), k.Peer, k.Family.String())
	}
	for k, n := range selected {
		e.gauge(r.routes, float64(n), k.Family.String(), k.Source.String(), k.Label)
	}
	for device, n := range moves {
		e.counter(r.moves, n, device)
	}
	for device, n := range conflicts {
		e.gauge(r.conflicts, float64(n), device)
	}
	for device, n := range foreign {
		e.gauge(r.foreign, float64(n), device)
	}
	table := strconv.FormatUint(uint64(s.process.Table), 10)
	for _, f := range families {
		e.gauge(r.without, float64(st.Desired.Unresolved[f]), f.String(), "unresolved")
		e.gauge(r.without, float64(st.Desired.Refused[f]), f.String(), "refused")
		e.gauge(r.without, float64(st.Desired.Down[f]), f.String(), "down")
		e.gauge(r.fib, float64(st.Installed.Routes[f]), f.String(), table)
	}
}
