package metrics

import "sitewire/gateway/probe"

// probeMetrics is the group of echoes through the tunnels.
type probeMetrics struct {
	sent, lost, rtt, pathMTU *metric
}

func newProbeMetrics(c *catalogue) *probeMetrics {
	c.group("Tunnels")
	return &probeMetrics{
		sent:    c.counter("tunnel_probes_sent_total", "Echoes through the tunnel whose outcome is known: answered in time, or lost. 0 for a peer that is not probed.", "peer"),
		lost:    c.counter("tunnel_probes_lost_total", "Echoes through the tunnel that were not answered in time.", "peer"),
		rtt:     c.histogram("tunnel_probe_rtt_seconds", "Round-trip time of the echoes that were answered.", "peer"),
		pathMTU: c.gauge("tunnel_path_mtu_bytes", "Largest packet that gets through the tunnel, if that is searched for; 0 is unknown.", "peer"),
	}
}

func (p *probeMetrics) collect(e *emitter, s *scrape) {
	bounds := probe.Bounds()
	for _, x := range s.probes {
		e.counter(p.sent, x.Sent, x.Peer)
		e.counter(p.lost, x.Lost, x.Peer)
		e.histogram(p.rtt, durations{bounds[:], x.RTT.Counts[:], x.RTT.Sum, &x.RTT.Fine}, x.Peer)
		e.gauge(p.pathMTU, float64(x.PathMTU), x.Peer)
	}
}
