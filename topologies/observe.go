package topologies

import (
	"fmt"
	"net/netip"
	"strings"
)

const metricsPort = 9587 // sitewire's own choice

// observe is a small hub-spoke with eyes.
func observe(int) *Network {
	b := newNetwork("observe", "a hub, two spokes, Prometheus and Grafana",
		"Prometheus asks every gateway how it is, over cables of its own, so that it also sees what happens while tunnels are down. Its rules "+
			"and Grafana's data source and dashboards are those of metrics/prometheus and metrics/grafana, as they are. In containers, "+
			"Prometheus is at http://localhost:9090 and Grafana, which asks for no password, at http://localhost:3000. `./traffic.sh start` "+
			"gives the dashboards something to show. Namespaces (`sitewire lab up observe`) have the network only; `sitewire demo --observe` "+
			"runs Prometheus without containers.")
	internet := b.node("internet", Router, "")
	hub := b.site("hub", Gateway, 1)
	hub.Device = "wg0"
	outer := b.uplink(hub, internet)
	gateways := []*Node{hub}
	for i := range 2 {
		spoke := b.site(fmt.Sprintf("spoke%d", i+1), Gateway, i+2)
		b.uplink(spoke, internet)
		b.tunnel(End{Node: hub, Address: outer, Policy: "hub"}, End{Node: spoke, Policy: "branch"})
		gateways = append(gateways, spoke)
	}
	monitor := b.node("monitor", Monitor, "")
	var targets strings.Builder
	for i, g := range gateways {
		net := netip.PrefixFrom(netip.AddrFrom4([4]byte{192, 0, 2, byte(4 * i)}), 30) // RFC 5737
		own, other := host(net, byte(4*i+1)), host(net, byte(4*i+2))
		b.cable(g, []netip.Prefix{netip.PrefixFrom(other, 30)}, monitor, []netip.Prefix{netip.PrefixFrom(own, 30)})
		// Not on the cable's address only: in a container that comes after the start.
		g.Metrics = fmt.Sprintf(":%d", metricsPort)
		fmt.Fprintf(&targets, "      - targets: [\"%s\"]\n        labels: { instance: %s }\n", netip.AddrPortFrom(other, metricsPort), g.Name)
	}
	monitor.Publish = []uint16{9090, 3000}
	monitor.Sidecars = []Sidecar{{
		Name: "prometheus", Image: [2]string{"PROMETHEUS_IMAGE", "prom/prometheus:v2.53.0"},
		Files: map[string]string{
			"/etc/prometheus/prometheus.yml": "# observe: prometheus\nglobal:\n  scrape_interval: 5s\n  evaluation_interval: 5s\n" +
				"rule_files: [sitewire.rules.yaml]\nscrape_configs:\n  - job_name: sitewire\n    static_configs:\n" + targets.String(),
		},
		Binds: map[string]string{"metrics/prometheus/sitewire.rules.yaml": "/etc/prometheus/sitewire.rules.yaml"},
	}, {
		Name: "grafana", Image: [2]string{"GRAFANA_IMAGE", "grafana/grafana:11.1.0"},
		Env: map[string]string{
			"GF_AUTH_ANONYMOUS_ENABLED":                 "true",
			"GF_AUTH_ANONYMOUS_ORG_ROLE":                "Viewer",
			"GF_ANALYTICS_REPORTING_ENABLED":            "false",
			"GF_ANALYTICS_CHECK_FOR_UPDATES":            "false",
			"GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH": "/var/lib/grafana/dashboards/sitewire/sitewire-overview.json",
		},
		Binds: map[string]string{
			"metrics/grafana/provisioning/datasources": "/etc/grafana/provisioning/datasources",
			"metrics/grafana/provisioning/dashboards":  "/etc/grafana/provisioning/dashboards",
			"metrics/grafana":                          "/var/lib/grafana/dashboards/sitewire",
		},
	}}
	return b.Network
}

// Traffic renders a script that sends data through the tunnels of the network, from each host to the first; empty for a network that
// nobody observes.
func (w *Network) Traffic() string {
	if len(w.ByRole(Monitor)) == 0 {
		return ""
	}
	hosts := w.ByRole(Host)
	server := hosts[0]
	to := w.Ports(server)[0].Addr(false)
	var start, stop strings.Builder
	for i, h := range hosts[1:] {
		port, pid := 5201+i, "/run/traffic-%s.pid"
		fmt.Fprintf(&start, "  docker exec %s iperf3 --server --daemon --port %d --pidfile "+pid+"\n", Container(w, server.Name), port, h.Name)
		fmt.Fprintf(&start, "  docker exec --detach %s iperf3 --client %s --port %d --time 0 --bitrate %dM --pidfile "+pid+"\n",
			Container(w, h.Name), to, port, 2*(i+1), h.Name)
		for _, c := range []*Node{h, server} {
			fmt.Fprintf(&stop, "  docker exec %s sh -c 'kill $(cat "+pid+")'\n", Container(w, c.Name), h.Name)
		}
	}
	return "#!/bin/sh\n# Made by: go generate ./topologies. Sends data from every host to " + server.Name + ": traffic.sh start, traffic.sh stop\n" +
		"case $1 in\nstart)\n" + start.String() + "  ;;\nstop)\n" + stop.String() +
		"  ;;\n*)\n  echo \"usage: $0 start|stop\" >&2\n  exit 2\n  ;;\nesac\n"
}
