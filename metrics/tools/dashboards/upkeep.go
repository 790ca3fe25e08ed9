package dashboards

// routingUpkeep is the lower half of the routing board: keeping in step, the kernel, and the process.
func routingUpkeep() []Row {
	return []Row{{
		Title: "Keeping in step",
		Panels: []Panel{{
			Title: "Drift found and repaired in the last hour", Kind: TimeSeries, W: 12, H: 8, Unit: "none", Decimals: new(0.0), Min: new(0.0), Steps: neutral, NoValue: "no data",
			Question: "Does somebody else change routes or allowed-IPs, and do we put it right?",
			Normal:   "0; a few after a link went down, since the kernel drops IPv4 routes then without a word. Each pair of lines lies on one another.",
			Do:       "Regular drift is another writer: systemd-networkd (ManageForeignRoutes), NetworkManager, wg-quick, another routing daemon. `ip monitor route` shows it.",
			Alerts:   []string{"SitewireDriftRecurring"},
			Queries: []Query{
				{Expr: `sum by (instance, kind) (increase(sitewire_drift_detected_total{gw}[1h]))`, Legend: "{{instance}} {{kind}} found"},
				{Expr: `sum by (instance, kind) (increase(sitewire_drift_repaired_total{gw}[1h]))`, Legend: "{{instance}} {{kind}} repaired"},
			},
		}, {
			Title: "Drift not repaired, by kind", Kind: TimeSeries, W: 12, H: 8, Unit: "none", Min: new(0.0), Steps: neutral, NoValue: "no data",
			Question: "What differs and stays so?",
			Normal:   "0.",
			Do:       "The kind names the object; the failed writes beside and the log name the error.",
			Alerts:   []string{"SitewireDriftUnresolved"},
			Queries:  []Query{{Expr: `sitewire_drift_unresolved{gw}`, Legend: "{{instance}} {{kind}}"}},
		}, {
			Title: "Changes waiting", Kind: TimeSeries, W: 12, H: 8, Unit: "none", Min: new(0.0), Steps: neutral, NoValue: "no data",
			Question: "Does work pile up?",
			Normal:   "Peaks that fall at once.",
			Do:       "A plateau: the kernel refuses them; each is tried again with growing pauses.",
			Alerts:   []string{"SitewireSyncStuck"},
			Queries:  []Query{{Expr: `sitewire_reconcile_pending_changes{gw}`, Legend: "{{instance}}"}},
		}, {
			Title: "Writes that failed, and repeats", Kind: TimeSeries, W: 12, H: 8, Unit: "ops", Min: new(0.0), Steps: neutral, NoValue: "no data",
			Question: "Which step does the kernel or the device refuse?",
			Normal:   "0.",
			Do:       "allow, disallow: the WireGuard device. install, withdraw: the routing table. The errno is below.",
			Queries: []Query{
				{Expr: `rate(sitewire_reconcile_operation_failures_total{gw}[$__rate_interval])`, Legend: "{{instance}} {{operation}} failed"},
				{Expr: `rate(sitewire_reconcile_operation_retries_total{gw}[$__rate_interval])`, Legend: "{{instance}} prefixes tried again"},
			},
		}, {
			Title: "Full comparisons in the last hour", Kind: TimeSeries, W: 12, H: 8, Unit: "none", Decimals: new(0.0), Min: new(0.0), Steps: neutral, NoValue: "no data",
			Question: "How often is everything compared with the kernel, what causes it, and does it fail?",
			Normal:   "periodic at its interval, no failures.",
			Do:       "Many by netlink: notifications are lost or devices come and go. Failures: the log names the cause.",
			Alerts:   []string{"SitewireReconcileFailing"},
			Queries: []Query{
				{Expr: `increase(sitewire_reconcile_runs_total{gw}[1h])`, Legend: "{{instance}} {{trigger}}"},
				{Expr: `increase(sitewire_reconcile_failures_total{gw}[1h])`, Legend: "{{instance}} {{trigger}} failed"},
			},
		}, {
			Title: "Duration of a full comparison", Kind: TimeSeries, W: 12, H: 8, Unit: "s", Min: new(0.0), Steps: neutral, NoValue: "no comparison in this time",
			Question: "How long does a comparison take (slowest tenth, last 30 minutes)?",
			Normal:   "Milliseconds to a second, in proportion to the routes.",
			Do:       "Growing without more routes: the host is busy.",
			Queries: []Query{{Expr: `histogram_quantile(0.9, sum by (instance, le) (rate(sitewire_reconcile_duration_seconds_bucket{gw}[30m])))`,
				Legend: "{{instance}}"}},
		}, {
			Title: "Prefixes moved between peers in the last hour", Kind: TimeSeries, W: 12, H: 8, Unit: "none", Decimals: new(0.0), Min: new(0.0), Steps: neutral, NoValue: "no tunnels",
			Question: "How many prefixes changed their peer within a device?",
			Normal:   "0; a step for each failover on a shared device.",
			Do:       "Constant moves: two sites announce the same prefix and their paths are equally good.",
			Queries:  []Query{{Expr: `increase(sitewire_allowed_ips_moves_total{gw}[1h])`, Legend: "{{instance}} {{device}}"}},
		}, {
			Title: "Allowed-IPs that conflict or are not ours", Kind: TimeSeries, W: 12, H: 8, Unit: "none", Min: new(0.0), Steps: neutral, NoValue: "no tunnels",
			Question: "Which devices carry allowed-IPs that two peers want, or that somebody else set?",
			Normal:   "0.",
			Do:       "Foreign ones were set by hand or by wg-quick: they stay until they are removed there.",
			Alerts:   []string{"SitewireAllowedIPsConflict"},
			Queries: []Query{
				{Expr: `sitewire_allowed_ips_conflicts{gw}`, Legend: "{{instance}} {{device}} conflicts"},
				{Expr: `sitewire_allowed_ips_foreign{gw}`, Legend: "{{instance}} {{device}} foreign"},
			},
		}},
	}, {
		Title: "Kernel and BGP server",
		Panels: []Panel{{
			Title: "Netlink requests", Kind: TimeSeries, W: 12, H: 8, Unit: "reqps", Min: new(0.0), Stack: true, Steps: neutral, NoValue: "no requests in this time",
			Question: "What does the daemon ask the kernel, and how often?",
			Normal:   "Bursts with route changes, little or nothing between them.",
			Do:       "A steady high rate with no route changes: drift or retries, see above.",
			Queries: []Query{{Expr: `sum by (instance, subsystem, operation) (rate(sitewire_netlink_requests_total{gw}[$__rate_interval])) > 0`,
				Legend: "{{instance}} {{subsystem}} {{operation}}"}},
		}, {
			Title: "Netlink errors", Kind: TimeSeries, W: 12, H: 8, Unit: "reqps", Min: new(0.0), Steps: neutral, NoValue: "No request failed.",
			Question: "What does the kernel answer to requests that fail?",
			Normal:   "All lines at 0. The log names the request that failed.",
			Do:       "EPERM: the unit lost a capability. ENODEV: somebody removed a device. EINVAL: a next hop that is not on-link. ENOBUFS: too much at once, it is tried again.",
			Alerts:   []string{"SitewireNetlinkErrors"},
			Queries: []Query{{Expr: `sum by (instance, errno) (rate(sitewire_netlink_errors_total{gw}[$__rate_interval]))`,
				Legend: "{{instance}} {{errno}}"}},
		}, {
			Title: "Lost notifications in the last hour", Kind: TimeSeries, W: 12, H: 8, Unit: "none", Decimals: new(0.0), Min: new(0.0), Steps: neutral, NoValue: "no data",
			Question: "Did the kernel drop notifications, and did we read everything again?",
			Normal:   "0. One full read for each loss.",
			Do:       "Often: something floods the routing table, another routing daemon with a full table for example.",
			Alerts:   []string{"SitewireNetlinkOverrun"},
			Queries: []Query{
				{Expr: `increase(sitewire_netlink_overruns_total{gw}[1h])`, Legend: "{{instance}} {{subsystem}} lost"},
				{Expr: `increase(sitewire_netlink_resyncs_total{gw}[1h])`, Legend: "{{instance}} {{subsystem}} full reads"},
			},
		}, {
			Title: "Calls into the BGP server", Kind: TimeSeries, W: 12, H: 8, Unit: "s", Min: new(0.0), Log: true, Steps: neutral, NoValue: "no BGP",
			Question: "How long do calls hold up the BGP server (slowest hundredth of the last hour)?",
			Normal:   "Milliseconds. It reads no message while one runs.",
			Do:       "Over a second: large tables with many peers; look at the CPU below.",
			Queries: []Query{{Expr: `histogram_quantile(0.99, sum by (instance, le) (rate(sitewire_bgp_server_operation_duration_seconds_bucket{gw}[1h])))`,
				Legend: "{{instance}}"}},
		}},
	}, {
		Title: "The daemon itself",
		Panels: []Panel{{
			Title: "CPU", Kind: TimeSeries, W: 8, H: 8, Unit: "percentunit", Min: new(0.0), Steps: neutral, NoValue: "no data",
			Question: "How many CPUs does the daemon use (100 % is one)?",
			Normal:   "A few percent with kernel WireGuard; userspace WireGuard encrypts in the daemon and follows the traffic.",
			Do:       "High without traffic: UPDATEs, drift or scrapes.",
			Queries:  []Query{{Expr: `rate(process_cpu_seconds_total{gw}[$__rate_interval])`, Legend: "{{instance}}"}},
		}, {
			Title: "Memory", Kind: TimeSeries, W: 8, H: 8, Unit: "bytes", Min: new(0.0), Steps: neutral, NoValue: "no data",
			Question: "How much memory does the daemon hold?",
			Normal:   "In proportion to paths and peers, and then flat.",
			Do:       "Growth for days at the same number of routes is a leak: report it with a heap profile.",
			Queries: []Query{
				{Expr: `process_resident_memory_bytes{gw}`, Legend: "{{instance}} resident"},
				{Expr: `go_memstats_heap_inuse_bytes{gw}`, Legend: "{{instance}} heap"},
			},
		}, {
			Title: "Goroutines and open files", Kind: TimeSeries, W: 8, H: 8, Unit: "none", Min: new(0.0), Steps: neutral, NoValue: "no data",
			Question: "Does the daemon leak goroutines or files?",
			Normal:   "Flat, in proportion to the peers.",
			Do:       "Growth that does not end: report it with a goroutine dump.",
			Queries: []Query{
				{Expr: `go_goroutines{gw}`, Legend: "{{instance}} goroutines"},
				{Expr: `process_open_fds{gw}`, Legend: "{{instance}} files"},
			},
		}, {
			Title: "Log messages", Kind: TimeSeries, W: 8, H: 8, Unit: "none", Min: new(0.0), Bars: true, Stack: true, Steps: neutral, NoValue: "no data",
			Series:   map[string]string{"error": "red", "warn": "orange", "info": "green", "debug": "blue"},
			Question: "When did the daemons log, and how seriously?",
			Normal:   "info at changes; no warn or error.",
			Do:       "Read the log at the time of the bars.",
			Queries:  []Query{{Expr: `sum by (level) (increase(sitewire_log_messages_total{gw}[$__rate_interval]))`, Legend: "{{level}}"}},
		}, {
			Title: "Age of the exported data", Kind: TimeSeries, W: 8, H: 8, Unit: "s", Min: new(0.0), Steps: neutral, NoValue: "no data",
			Question: "Are these metrics fresh?",
			Normal:   "wireguard a few seconds, bgp under 30 s, fib under the interval of full comparisons (a minute).",
			Do:       "Growing: that sampler stands still; everything these boards say of its part is old. Restart the daemon and report it.",
			Queries:  []Query{{Expr: `time() - sitewire_snapshot_timestamp_seconds{gw}`, Legend: "{{instance}} {{snapshot}}"}},
		}, {
			Title: "Cost of a scrape", Kind: TimeSeries, W: 8, H: 8, Unit: "s", Min: new(0.0), Steps: neutral, NoValue: "no data",
			Question: "How long does collecting each part of the metrics take?",
			Normal:   "Milliseconds.",
			Do:       "Prometheus' own time (scrape) far above the parts: the way to the gateway or a slow reader.",
			Queries: []Query{
				{Expr: `sitewire_collector_duration_seconds{gw}`, Legend: "{{instance}} {{collector}}"},
				{Expr: `scrape_duration_seconds{gw}`, Legend: "{{instance}} scrape"},
			},
		}, {
			Title: "Requests to the API", Kind: TimeSeries, W: 8, H: 8, Unit: "reqps", Min: new(0.0), Steps: neutral, NoValue: "no requests",
			Question: "Who asks the daemon for what, and is it refused?",
			Normal:   "Little: people and the command line.",
			Do:       "Codes of 500 and more are bugs; of 400 wrong calls.",
			Queries: []Query{{Expr: `sum by (instance, method, route, code) (rate(sitewire_api_requests_total{gw}[$__rate_interval]))`,
				Legend: "{{instance}} {{method}} {{route}} {{code}}"}},
		}, {
			Title: "Duration of API requests", Kind: TimeSeries, W: 8, H: 8, Unit: "s", Min: new(0.0), Steps: neutral, NoValue: "no requests",
			Question: "How long do requests to the API take (slowest twentieth, last hour)?",
			Normal:   "Milliseconds; a reload takes as long as its changes.",
			Do:       "Slow everywhere: the daemon is busy, see CPU.",
			Queries: []Query{{Expr: `histogram_quantile(0.95, sum by (instance, route, le) (rate(sitewire_api_request_duration_seconds_bucket{gw}[1h])))`,
				Legend: "{{instance}} {{route}}"}},
		}, {
			Title: "Loads of the configuration in the chosen time", Kind: Table, W: 8, H: 8, Unit: "none", Decimals: new(0.0), Steps: neutral, NoValue: "no data", SortBy: "refused",
			Question: "How often was the configuration loaded, by what, and refused?",
			Normal:   "As often as somebody changed it; none refused.",
			Do:       "`sitewire check` prints why it is refused, with file, line and column.",
			Alerts:   []string{"SitewireConfigReloadFailed"},
			Queries: []Query{
				{Expr: `sum by (instance, trigger) (increase(sitewire_config_reloads_total{gw}[$__range]))`, Instant: true},
				{Expr: `sum by (instance, trigger) (increase(sitewire_config_reload_failures_total{gw}[$__range]))`, Instant: true},
			},
			Columns: []Column{
				{Field: "instance", Name: "gateway"}, {Field: "trigger", Name: "trigger"},
				{Field: "Value #A", Name: "loads", Unit: "none"}, {Field: "Value #B", Name: "refused", Unit: "none", Steps: anyOrange},
			},
		}},
	}}
}
