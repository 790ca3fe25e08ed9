package dashboards

func routing() Board {
	convergenceSteps := []Step{{Color: "green"}, {0.5, "yellow"}, {2, "red"}}
	return Board{
		UID:         "sitewire-routing",
		Title:       "sitewire: routing and convergence",
		Purpose:     "How fast do routes follow BGP, does the kernel hold what it should, and is the daemon itself well.",
		Variables:   []string{"family"},
		Annotations: []string{restarts, reloads, sessionDowns},
		Rows: append([]Row{{
			Title: "Does the kernel follow BGP?",
			Panels: []Panel{{
				Title: "Changes waiting", Kind: Stat, W: 3, H: 4, Unit: "none", NoValue: "no data",
				Steps:    []Step{{Color: "green"}, {1000, "yellow"}},
				Question: "How many decided changes has the kernel not acknowledged yet?",
				Normal:   "0, more for moments after a site comes or goes.",
				Do:       "Look at how long the oldest waits: many for a second are fine, one for a minute is not.",
				Alerts:   []string{"SitewireSyncStuck"},
				Queries:  []Query{{Expr: `sum(sitewire_reconcile_pending_changes{gw})`, Instant: true}},
			}, {
				Title: "Oldest waiting change", Kind: Stat, W: 3, H: 4, Unit: "s", Decimals: new(0.0), NoValue: "no data",
				Steps:    []Step{{Color: "green"}, {5, "yellow"}, {30, "red"}},
				Question: "How long has a change waited, at worst?",
				Normal:   "0 s.",
				Do:       "Failed writes and netlink errors below tell what resists; `sitewire status` on the gateway names the cause.",
				Alerts:   []string{"SitewireSyncStuck"},
				Queries: []Query{{Expr: `max((time() - sitewire_reconcile_oldest_pending_timestamp_seconds{gw}) * (sitewire_reconcile_oldest_pending_timestamp_seconds{gw} > bool 0))`,
					Instant: true}},
			}, {
				Title: "Changes, p99", Kind: Stat, W: 3, H: 4, Unit: "s", Steps: convergenceSteps, NoValue: "no changes",
				Question: "Within which time were 99 of 100 changes of the chosen time in the kernel?",
				Normal:   "Under half a second. The value is as coarse as the histogram's buckets.",
				Do:       "The stages below tell where the time goes.",
				Alerts:   []string{"SitewireConvergenceSlow"},
				Queries: []Query{{Expr: `histogram_quantile(0.99, sum by (le) (rate(sitewire_route_convergence_duration_seconds_bucket{family}[$__range])))`,
					Instant: true}},
			}, {
				Title: "Drift not repaired", Kind: Stat, W: 3, H: 4, Unit: "none", Steps: anyRed, NoValue: "no data",
				Question: "How many objects in the kernel are not as they should be, right now?",
				Normal:   "0.",
				Do:       "See which kind below and what netlink answers.",
				Alerts:   []string{"SitewireDriftUnresolved"},
				Queries:  []Query{{Expr: `sum(sitewire_drift_unresolved{gw})`, Instant: true}},
			}, {
				Title: "Prefixes without a route", Kind: Stat, W: 3, H: 4, Unit: "none", Steps: anyOrange, NoValue: "no data",
				Question: "How many prefixes have a best path and no route in the kernel?",
				Normal:   "0. Some may be refused on purpose: what covers a tunnel's endpoint, for example.",
				Do:       "`sitewire explain` one of them. unresolved: the next hop is not known; down: its tunnel is down; refused: a rule protects the tunnels.",
				Queries:  []Query{{Expr: `sum(sitewire_prefixes_without_route{family})`, Instant: true}},
			}, {
				Title: "Prefixes that two peers want", Kind: Stat, W: 3, H: 4, Unit: "none", Steps: anyOrange, NoValue: "no tunnels",
				Question: "How many prefixes does more than one peer of a device claim?",
				Normal:   "0 on devices of one peer; on shared devices as many as sites are reached in two ways.",
				Do:       "WireGuard gives each prefix to one peer of a device. If both must carry it, give each peer a device of its own.",
				Alerts:   []string{"SitewireAllowedIPsConflict"},
				Queries:  []Query{{Expr: `sum(sitewire_allowed_ips_conflicts{gw})`, Instant: true}},
			}, {
				Title: "Netlink requests that fail", Kind: Stat, W: 3, H: 4, Unit: "percentunit", Steps: lossSteps, NoValue: "no requests",
				Question: "What part of the requests to the kernel failed in the chosen time?",
				Normal:   "0 %.",
				Do:       "EPERM: a capability is missing. ENODEV: a device is gone. EINVAL: a next hop the kernel does not take. ENOSPC or ENOBUFS: too much at once.",
				Alerts:   []string{"SitewireNetlinkErrors"},
				Queries: []Query{{Expr: `(sum(increase(sitewire_netlink_errors_total{gw}[$__range])) or 0 * sum(increase(sitewire_netlink_requests_total{gw}[$__range]))) / (sum(increase(sitewire_netlink_requests_total{gw}[$__range])) > 0)`,
					Instant: true}},
			}, {
				Title: "Last full comparison", Kind: Stat, W: 3, H: 4, Unit: "s", Decimals: new(0.0), NoValue: "none yet",
				Steps:    []Step{{Color: "green"}, {300, "red"}},
				Question: "How long ago did the slowest gateway last compare everything with its kernel?",
				Normal:   "Under the configured interval, a minute or so.",
				Do:       "Over 5 minutes: comparisons fail; see below and the log.",
				Alerts:   []string{"SitewireReconcileFailing"},
				Queries: []Query{{Expr: `max((time() - sitewire_reconcile_last_success_timestamp_seconds{gw}) and sitewire_reconcile_last_success_timestamp_seconds{gw} > 0)`,
					Instant: true}},
			}},
		}, {
			Title: "Convergence",
			Panels: []Panel{{
				Title: "Time from UPDATE to kernel, all changes", Kind: Heatmap, W: 12, H: 9, Unit: "s", Steps: neutral, NoValue: "No route changed.",
				Question: "How long do changes take from reading the UPDATE to the kernel's acknowledgement of allowed-IPs and route?",
				Normal:   "All in the lowest rows, milliseconds.",
				Do:       "A second cloud higher up: some changes wait for something, see the stages.",
				Queries:  []Query{{Expr: `sum by (le) (increase(sitewire_route_convergence_duration_seconds_bucket{family}[$__rate_interval]))`, Legend: "{{le}}"}},
			}, {
				Title: "Time from UPDATE to kernel, median and slowest hundredth", Kind: TimeSeries, W: 12, H: 9, Unit: "s", Min: new(0.0), Steps: convergenceSteps, Lines: true, NoValue: "No route changed.",
				Question: "How fast did routes follow BGP, at each time in the hour before it?",
				Normal:   "p50 in milliseconds, p99 under half a second; no line where nothing changed for an hour. Changes are rare, so that a slow one is seen for an hour: the heatmap beside tells when.",
				Do:       "Withdrawals slow and announcements fast, or the reverse, points at one stage: see beside.",
				Alerts:   []string{"SitewireConvergenceSlow"},
				Queries: []Query{
					{Expr: `histogram_quantile(0.50, sum by (instance, operation, le) (increase(sitewire_route_convergence_duration_seconds_bucket{family}[1h])))`, Legend: "{{instance}} {{operation}} p50"},
					{Expr: `histogram_quantile(0.99, sum by (instance, operation, le) (increase(sitewire_route_convergence_duration_seconds_bucket{family}[1h])))`, Legend: "{{instance}} {{operation}} p99"},
				},
			}, {
				Title: "Time in each stage", Kind: TimeSeries, W: 12, H: 8, Unit: "s", Min: new(0.0), Steps: neutral, NoValue: "No route changed.",
				Question: "In which stage do changes spend their time (mean of the last hour)?",
				Normal:   "batch a few milliseconds (changes are folded), the others less.",
				Do:       "decide: BGP is busy, see its operations below. allowed_ips: the WireGuard device. fib: the kernel's routing table.",
				Queries: []Query{{Expr: `sum by (instance, stage) (rate(sitewire_route_stage_duration_seconds_sum{gw}[1h])) / (sum by (instance, stage) (rate(sitewire_route_stage_duration_seconds_count{gw}[1h])) > 0)`,
					Legend: "{{instance}} {{stage}}"}},
			}, {
				Title: "Failover, by what noticed the loss", Kind: TimeSeries, W: 12, H: 8, Unit: "s", Min: new(0.0), Log: true, Steps: neutral, NoValue: "Nothing failed over.",
				Question: "After a loss was noticed, how long until the replacement was in the kernel (slowest twentieth of the last hour)?",
				Normal:   "Milliseconds; no line where nothing failed over for an hour. The time until the loss is noticed is not in it: BFD's detection time, or BGP's hold time.",
				Do:       "Seconds: many prefixes moved one by one; see the stages and netlink.",
				Queries: []Query{{Expr: `histogram_quantile(0.95, sum by (instance, trigger, le) (increase(sitewire_failover_duration_seconds_bucket{gw}[1h])))`,
					Legend: "{{instance}} {{trigger}}"}},
			}, {
				Title: "Route changes", Kind: TimeSeries, W: 8, H: 8, Unit: "ops", Min: new(0.0), Stack: true, Steps: neutral, NoValue: "no data",
				Question: "How much does the kernel's table move?",
				Normal:   "0 between events.",
				Do:       "Constant replaces: a path flaps; the UPDATEs on the BGP board tell which peer.",
				Queries: []Query{{Expr: `sum by (instance, operation) (rate(sitewire_route_changes_total{family}[$__rate_interval]))`,
					Legend: "{{instance}} {{operation}}"}},
			}, {
				Title: "Tunnels diverted", Kind: TimeSeries, W: 8, H: 8, Unit: "none", Min: new(0.0), Steps: neutral, NoValue: "no data",
				Question: "Whose routes were sent their other ways all at once because the tunnel was lost?",
				Normal:   "0; 1 from the loss of a tunnel until it carries routes again. Only tunnels with nexthop objects can be diverted.",
				Do:       "Many short ones: a tunnel flaps; see its BFD and the losses on the tunnel board. `sitewire routes` names them.",
				Queries: []Query{
					{Expr: `sitewire_diversions_active{gw}`, Legend: "{{instance}} now"},
					{Expr: `increase(sitewire_diversions_total{gw}[$__rate_interval])`, Legend: "{{instance}} new"},
				},
			}, {
				Title: "Time from start to first sync", Kind: TimeSeries, W: 8, H: 8, Unit: "s", Min: new(0.0), Steps: neutral, NoValue: "no data",
				Question: "How long did the gateway need after its last start until the kernel was as it should be?",
				Normal:   "Seconds; as long as the wait for End-of-RIB if a neighbour is away.",
				Do:       "0 long after a start: it is still not in step, see changes waiting.",
				Queries:  []Query{{Expr: `sitewire_initial_convergence_seconds{gw}`, Legend: "{{instance}}"}},
			}},
		}, {
			Title: "Routes",
			Panels: []Panel{{
				Title: "Loc-RIB and kernel", Kind: TimeSeries, W: 12, H: 8, Unit: "none", Min: new(0.0), Steps: neutral, NoValue: "no routes",
				Question: "Does the kernel hold a route for what BGP knows?",
				Normal:   "Parallel lines. The kernel has static and tunnel routes besides; own prefixes are only in the Loc-RIB.",
				Do:       "The Loc-RIB grows and the kernel does not: prefixes without a route, beside.",
				Queries: []Query{
					{Expr: `sum by (instance, family) (sitewire_fib_routes{family})`, Legend: "{{instance}} {{family}} kernel"},
					{Expr: `sum by (instance, family) (sitewire_rib_prefixes{family})`, Legend: "{{instance}} {{family}} Loc-RIB"},
				},
			}, {
				Title: "Prefixes without a route, by reason", Kind: TimeSeries, W: 12, H: 8, Unit: "none", Min: new(0.0), Steps: neutral, NoValue: "no data",
				Question: "Why do prefixes with a best path have no route?",
				Normal:   "0.",
				Do:       "unresolved: announce or configure a route to the next hop. down: see the tunnel board. refused: `sitewire explain` says which rule.",
				Queries:  []Query{{Expr: `sum by (instance, reason) (sitewire_prefixes_without_route{family})`, Legend: "{{instance}} {{reason}}"}},
			}, {
				Title: "Routes by peer and source", Kind: TimeSeries, W: 24, H: 9, Unit: "none", Min: new(0.0), Stack: true, Steps: neutral, NoValue: "no routes",
				Question: "To whom do the routes lead, and where do they come from?",
				Normal:   "Stable shares. A route over several peers counts for each.",
				Do:       "A share moved from one peer to another: a failover. It did not move back: compare the preferences and the peer's announcements.",
				Queries:  []Query{{Expr: `sum by (instance, peer, source) (sitewire_routes{family}) > 0`, Legend: "{{instance}} → {{peer}} {{source}}"}},
			}},
		}}, routingUpkeep()...),
	}
}
