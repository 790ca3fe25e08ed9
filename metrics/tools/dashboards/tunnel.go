package dashboards

func tunnel() Board {
	return Board{
		UID:         "sitewire-tunnel",
		Title:       "sitewire: tunnels",
		Purpose:     "WireGuard: is a tunnel alive, does it carry traffic both ways, how good is the path. Choose a peer, or come by a link from the overview.",
		Variables:   []string{"site", "peer"},
		Annotations: []string{restarts, sessionDowns},
		Rows: []Row{{
			Title: "Is a tunnel broken?",
			Panels: []Panel{{
				Title: "Tunnels down", Kind: Stat, W: 4, H: 4, Unit: "none", Steps: anyRed, NoValue: "no tunnels",
				Question: "How many of the chosen tunnels are not heard from?",
				Normal:   "0.",
				Do:       "`sitewire explain` an address behind the peer. Bytes out but none in: the far side, NAT or a firewall. None out either: the endpoint's name or route.",
				Alerts:   []string{"SitewireTunnelDown"},
				Queries:  []Query{{Expr: `sum(sitewire_tunnel_up{peer} == bool 0)`, Instant: true}},
			}, {
				Title: "Tunnels that never came up", Kind: Stat, W: 4, H: 4, Unit: "none", Steps: anyRed, NoValue: "no tunnels",
				Question: "How many of the chosen tunnels have had no handshake since the daemon started?",
				Normal:   "0, except in the first minutes of a new peer.",
				Do:       "Compare public keys and preshared key on both sides, then endpoint and UDP port. WireGuard does not answer a wrong key at all.",
				Alerts:   []string{"SitewireTunnelNeverUp"},
				Queries:  []Query{{Expr: `sum(sitewire_tunnel_last_handshake_timestamp_seconds{peer} == bool 0)`, Instant: true}},
			}, {
				Title: "Tunnels heard only one way", Kind: Stat, W: 4, H: 4, Unit: "none", Steps: anyRed, NoValue: "no tunnels",
				Question: "Over how many of the chosen tunnels is more than 100 B/s sent and nothing received?",
				Normal:   "0.",
				Do:       "The far side does not accept us: its allowed-IPs, its firewall, or its endpoint for us is old.",
				Alerts:   []string{"SitewireTunnelOneWay"},
				Queries: []Query{{Expr: `sum((rate(sitewire_tunnel_transmit_bytes_total{peer}[$__rate_interval]) > bool 100) * (rate(sitewire_tunnel_receive_bytes_total{peer}[$__rate_interval]) == bool 0))`,
					Instant: true}},
			}, {
				Title: "Worst loss", Kind: Stat, W: 4, H: 4, Unit: "percentunit", Steps: lossSteps, NoValue: "probes off",
				Question: "What part of the probes is lost in the worst of the chosen tunnels?",
				Normal:   "0 %.",
				Do:       "See loss and round-trip time below for since when; compare with the throughput: a full uplink drops.",
				Alerts:   []string{"SitewireTunnelPacketLoss"},
				Queries: []Query{{Expr: `max(rate(sitewire_tunnel_probes_lost_total{peer}[$__rate_interval]) / (rate(sitewire_tunnel_probes_sent_total{peer}[$__rate_interval]) > 0))`,
					Instant: true}},
			}, {
				Title: "Path MTU too small", Kind: Stat, W: 4, H: 4, Unit: "none", Steps: anyRed, NoValue: "not probed",
				Question: "On how many of the chosen tunnels do packets of the device's size not fit through the path?",
				Normal:   "0. Small packets pass all the same: sessions come up and large transfers hang.",
				Do:       "Lower the device's MTU to the path MTU in the table below, on both sides, or let the uplink carry larger packets.",
				Queries: []Query{{Expr: `sum(((sitewire_tunnel_path_mtu_bytes{peer} > 0) * on (job, instance, peer) group_left (device) sitewire_tunnel_info{peer}) < bool on (job, instance, device) group_left () sitewire_device_mtu_bytes{gw})`,
					Instant: true}},
			}, {
				Title: "Allowed-IPs missing", Kind: Stat, W: 4, H: 4, Unit: "none", Steps: anyRed, NoValue: "no tunnels",
				Question: "How many allowed-IPs should the chosen peers have that their devices do not have?",
				Normal:   "0, for moments more while a table is taken in.",
				Do:       "WireGuard drops what is not allowed, silently. Look at drift and failed writes on the routing board.",
				Queries: []Query{{Expr: `sum(clamp_min(sitewire_tunnel_allowed_ips_desired{peer} - sitewire_tunnel_allowed_ips{peer}, 0))`,
					Instant: true}},
			}},
		}, {
			Title: "Liveness",
			Panels: []Panel{{
				Title: "Tunnel state", Kind: StateTimeline, W: 12, H: 9, Unit: "none", Steps: upSteps, States: upDown, NoValue: "no tunnels",
				Question: "When was each chosen tunnel up?",
				Normal:   "Green throughout.",
				Do:       "Regular short gaps: keepalives are off behind NAT, or a probe interval is too long. Long gaps: see handshakes and endpoint changes.",
				Queries:  []Query{{Expr: `sitewire_tunnel_up{peer}`, Legend: "{{instance}} → {{peer}}"}},
			}, {
				Title: "Age of the last handshake", Kind: TimeSeries, W: 12, H: 9, Unit: "s", Min: new(0.0), Steps: ageSteps, Lines: true, NoValue: "no handshake yet",
				Question: "When did each tunnel last agree on keys?",
				Normal:   "A saw between 0 and about 125 s while there is traffic (165 s if only the responder sends). An idle tunnel without keepalive just grows older.",
				Do:       "Over 180 s WireGuard has thrown the keys away: the peer does not answer.",
				Queries: []Query{{Expr: `(time() - sitewire_tunnel_last_handshake_timestamp_seconds{peer}) and sitewire_tunnel_last_handshake_timestamp_seconds{peer} > 0`,
					Legend: "{{instance}} → {{peer}}"}},
			}, {
				Title: "Handshakes in the last hour", Kind: TimeSeries, W: 12, H: 8, Unit: "none", Decimals: new(0.0), Min: new(0.0), Steps: neutral, NoValue: "no tunnels",
				Question: "How often were keys renewed?",
				Normal:   "About 30 in an hour with traffic: one every 120 s.",
				Do:       "Far more: two hosts use the same key, or a side restarts. Far fewer with traffic: replies are lost.",
				Queries:  []Query{{Expr: `increase(sitewire_tunnel_handshakes_total{peer}[1h])`, Legend: "{{instance}} → {{peer}}"}},
			}, {
				Title: "Endpoint changes and failed look-ups in the last hour", Kind: TimeSeries, W: 12, H: 8, Unit: "none", Decimals: new(0.0), Min: new(0.0), Steps: neutral, NoValue: "no tunnels",
				Question: "Does the peer's outer address move, and can its name be resolved?",
				Normal:   "0. A mobile site or a NAT that forgets changes it now and then, at most every five minutes.",
				Do:       "A change every 120 s: two hosts use one key. Failed look-ups: the gateway's DNS or the name.",
				Alerts:   []string{"SitewireTunnelEndpointFlapping"},
				Queries: []Query{
					{Expr: `increase(sitewire_tunnel_endpoint_changes_total{peer}[1h])`, Legend: "{{instance}} → {{peer}} changes"},
					{Expr: `increase(sitewire_tunnel_endpoint_resolution_failures_total{peer}[1h])`, Legend: "{{instance}} → {{peer}} failed look-ups"},
					{Expr: `increase(sitewire_tunnel_endpoint_resolutions_total{peer}[1h])`, Legend: "{{instance}} → {{peer}} look-ups"},
				},
			}},
		}, {
			Title: "Traffic and quality",
			Panels: []Panel{{
				Title: "Throughput", Kind: TimeSeries, W: 24, H: 9, Unit: "bps", Steps: neutral, Below: "out$", NoValue: "no tunnels",
				Question: "How much does each tunnel carry, in above and out below the line?",
				Normal:   "Both directions, in the usual rhythm. WireGuard's own bytes are included.",
				Do:       "Out without in: see \"heard only one way\". A flat top: the uplink or a CPU is full.",
				Queries: []Query{
					{Expr: `8 * rate(sitewire_tunnel_receive_bytes_total{peer}[$__rate_interval])`, Legend: "{{instance}} → {{peer}} in"},
					{Expr: `8 * rate(sitewire_tunnel_transmit_bytes_total{peer}[$__rate_interval])`, Legend: "{{instance}} → {{peer}} out"},
				},
			}, {
				Title: "Round-trip times of all probes", Kind: Heatmap, W: 12, H: 9, Unit: "s", Steps: neutral, NoValue: "Probes are off on these tunnels.",
				Question: "How are the round-trip times inside the chosen tunnels spread?",
				Normal:   "A narrow band for each distance.",
				Do:       "A band that widens with the load is a queue; a second band is a second path.",
				Queries:  []Query{{Expr: `sum by (le) (increase(sitewire_tunnel_probe_rtt_seconds_bucket{peer}[$__rate_interval]))`, Legend: "{{le}}"}},
			}, {
				Title: "Round-trip time by peer", Kind: TimeSeries, W: 12, H: 9, Unit: "s", Min: new(0.0), Steps: neutral, NoValue: "Probes are off on these tunnels.",
				Question: "How long do the median and the slowest twentieth and hundredth of the probes take?",
				Normal:   "Lines close together, at what the distance makes.",
				Do:       "p99 far above p50: queues or a busy CPU. All of one peer step up: the path changed.",
				Queries: []Query{
					{Expr: `histogram_quantile(0.50, sum by (instance, peer, le) (rate(sitewire_tunnel_probe_rtt_seconds_bucket{peer}[$__rate_interval])))`, Legend: "{{instance}} → {{peer}} p50"},
					{Expr: `histogram_quantile(0.95, sum by (instance, peer, le) (rate(sitewire_tunnel_probe_rtt_seconds_bucket{peer}[$__rate_interval])))`, Legend: "{{instance}} → {{peer}} p95"},
					{Expr: `histogram_quantile(0.99, sum by (instance, peer, le) (rate(sitewire_tunnel_probe_rtt_seconds_bucket{peer}[$__rate_interval])))`, Legend: "{{instance}} → {{peer}} p99"},
				},
			}, {
				Title: "Loss", Kind: TimeSeries, W: 12, H: 8, Unit: "percentunit", Min: new(0.0), Steps: lossSteps, Lines: true, NoValue: "Probes are off on these tunnels.",
				Question: "What part of the probes inside each tunnel is lost?",
				Normal:   "0 %. The lines are at 1 % and 5 %.",
				Do:       "Loss in both directions of one path is the path; loss seen by one end alone is that end's receive side.",
				Alerts:   []string{"SitewireTunnelPacketLoss"},
				Queries: []Query{{Expr: `rate(sitewire_tunnel_probes_lost_total{peer}[$__rate_interval]) / (rate(sitewire_tunnel_probes_sent_total{peer}[$__rate_interval]) > 0)`,
					Legend: "{{instance}} → {{peer}}"}},
			}, {
				Title: "Path MTU and device MTU, in bytes", Kind: TimeSeries, W: 12, H: 8, Unit: "none", Steps: neutral, NoValue: "Path MTU is not probed.",
				Question: "Do packets of the device's size fit through the path?",
				Normal:   "Every path MTU is at or above its device's MTU.",
				Do:       "Below: lower the MTU in the configuration on both sides to what the path carries.",
				Queries: []Query{
					{Expr: `sitewire_tunnel_path_mtu_bytes{peer} > 0`, Legend: "{{instance}} → {{peer}} path"},
					{Expr: `sitewire_device_mtu_bytes{gw} and on (job, instance, device) sitewire_tunnel_info{peer}`, Legend: "{{instance}} {{device}} device"},
				},
			}},
		}, {
			Title: "Who is it, and what may pass?",
			Panels: []Panel{{
				Title: "Tunnels", Kind: Table, W: 24, H: 8, Unit: "none", Steps: neutral, NoValue: "no tunnels", SortBy: "up",
				Question: "What is each tunnel made of?",
				Normal:   "A keepalive of 25 s for peers behind NAT, 0 elsewhere; a path MTU at or above the device's.",
				Do:       "Compare with the far side's table: keys, preshared key and MTU must agree.",
				Queries: []Query{
					{Expr: `max by (instance, peer, site, device, backend, psk, public_key) (sitewire_tunnel_info{peer})`, Instant: true},
					{Expr: `max by (instance, peer) (sitewire_tunnel_up{peer})`, Instant: true},
					{Expr: `max by (instance, peer) (sitewire_tunnel_persistent_keepalive_seconds{peer})`, Instant: true},
					{Expr: `max by (instance, peer) (sitewire_device_mtu_bytes{gw} * on (job, instance, device) group_right () sitewire_tunnel_info{peer})`, Instant: true},
					{Expr: `max by (instance, peer) (sitewire_tunnel_path_mtu_bytes{peer} > 0)`, Instant: true},
				},
				Columns: []Column{
					{Field: "instance", Name: "gateway"},
					{Field: "peer", Name: "peer", Link: "sitewire-bgp"},
					{Field: "site", Name: "site"},
					{Field: "Value #B", Name: "up", States: []State{{"0", "down", "red"}, {"1", "up", "green"}}},
					{Field: "device", Name: "device"},
					{Field: "backend", Name: "WireGuard"},
					{Field: "Value #D", Name: "device MTU", Unit: "none"},
					{Field: "Value #E", Name: "path MTU", Unit: "none"},
					{Field: "Value #C", Name: "keepalive", Unit: "s"},
					{Field: "psk", Name: "preshared key"},
					{Field: "public_key", Name: "public key"},
				},
			}, {
				Title: "Allowed-IPs, programmed and wanted", Kind: TimeSeries, W: 12, H: 8, Unit: "none", Min: new(0.0), Steps: neutral, NoValue: "no tunnels",
				Question: "Does each peer have the allowed-IPs that it should have?",
				Normal:   "Each pair of lines lies on one another.",
				Do:       "Fewer programmed than wanted: traffic of those prefixes is dropped. More: they were not taken away yet.",
				Queries: []Query{
					{Expr: `sitewire_tunnel_allowed_ips{peer}`, Legend: "{{instance}} → {{peer}} {{family}} programmed"},
					{Expr: `sitewire_tunnel_allowed_ips_desired{peer}`, Legend: "{{instance}} → {{peer}} {{family}} wanted"},
				},
			}, {
				Title: "Outer addresses", Kind: Table, W: 12, H: 8, Unit: "none", Steps: neutral, NoValue: "Endpoints are exported only if the configuration asks for it.",
				Question: "From which address and port does each peer speak?",
				Normal:   "The configured endpoint, or any for a peer behind NAT.",
				Do:       "An unexpected address: NAT, a new uplink, or another host with the same key.",
				Queries:  []Query{{Expr: `max by (instance, peer, endpoint) (sitewire_tunnel_endpoint_info{peer})`, Instant: true}},
				Columns:  []Column{{Field: "instance", Name: "gateway"}, {Field: "peer", Name: "peer"}, {Field: "endpoint", Name: "endpoint"}},
			}},
		}, {
			Title: "Devices (only where device counters are on)", Collapsed: true,
			Panels: []Panel{{
				Title: "Packets", Kind: TimeSeries, W: 12, H: 8, Unit: "pps", Steps: neutral, Below: "out$", NoValue: "Device counters are off.",
				Question: "How many packets does each WireGuard device carry, in above and out below the line?",
				Normal:   "In step with the throughput.",
				Do:       "Many packets and few bytes: small packets fill a CPU long before an uplink.",
				Queries: []Query{
					{Expr: `rate(sitewire_device_receive_packets_total{gw}[$__rate_interval])`, Legend: "{{instance}} {{device}} in"},
					{Expr: `rate(sitewire_device_transmit_packets_total{gw}[$__rate_interval])`, Legend: "{{instance}} {{device}} out"},
				},
			}, {
				Title: "Errors and drops", Kind: TimeSeries, W: 12, H: 8, Unit: "pps", Min: new(0.0), Steps: neutral, NoValue: "Device counters are off.",
				Question: "Does a WireGuard device lose packets?",
				Normal:   "0.",
				Do:       "Transmit errors: no endpoint, or no allowed-IP for the destination. Transmit drops: no handshake while packets wait. Receive errors: a source that is not allowed.",
				Queries: []Query{
					{Expr: `rate(sitewire_device_receive_errors_total{gw}[$__rate_interval])`, Legend: "{{instance}} {{device}} receive errors"},
					{Expr: `rate(sitewire_device_transmit_errors_total{gw}[$__rate_interval])`, Legend: "{{instance}} {{device}} transmit errors"},
					{Expr: `rate(sitewire_device_receive_drops_total{gw}[$__rate_interval])`, Legend: "{{instance}} {{device}} receive drops"},
					{Expr: `rate(sitewire_device_transmit_drops_total{gw}[$__rate_interval])`, Legend: "{{instance}} {{device}} transmit drops"},
				},
			}},
		}},
	}
}
