package metrics

import (
	"sitewire/bgp"
	"sitewire/bgp/bfd"
)

// bfdMetrics are those of BFD sessions. There are none without BFD.
type bfdMetrics struct {
	up, downs, received, transmitted, dropped, detection *metric
}

func newBFDMetrics(c *catalogue) bfdMetrics {
	return bfdMetrics{
		up:          c.gauge("bfd_session_up", "1 while the BFD session is Up. Only for BGP sessions with BFD.", "peer", "session"),
		downs:       c.counter("bfd_session_downs_total", "Times that the BFD session left Up, by its diagnostic.", "peer", "session", "diagnostic"),
		received:    c.counter("bfd_control_packets_received_total", "BFD control packets received.", "peer", "session"),
		transmitted: c.counter("bfd_control_packets_transmitted_total", "BFD control packets sent.", "peer", "session"),
		dropped:     c.counter("bfd_packets_dropped_total", "Received BFD packets that did nothing. Only with a BGP session with BFD.", "reason"),
		detection:   c.gauge("bfd_detection_time_seconds", "Negotiated time without packets after which the neighbour counts as lost; 0 until it was heard.", "peer", "session"),
	}
}

// bfdDiagnostics are those that a session here leaves Up with; they are there from the start.
func bfdDiagnostics() []string {
	return []string{bfd.DetectionTimeExpired.String(), bfd.NeighborSignaledDown.String(), bfd.AdministrativelyDown.String()}
}

func (b *bfdMetrics) collect(e *emitter, s *bgp.Snapshot) {
	known := bfdDiagnostics()
	for i := range s.Sessions {
		x := &s.Sessions[i]
		if x.BFD == nil {
			continue
		}
		e.flag(b.up, x.BFD.State == bfd.Up, x.Peer, x.Name)
		e.byName(b.downs, x.BFD.Downs, known, x.Peer, x.Name)
		e.counter(b.received, x.BFD.Received, x.Peer, x.Name)
		e.counter(b.transmitted, x.BFD.Transmitted, x.Peer, x.Name)
		e.gauge(b.detection, x.BFD.DetectionTime, x.Peer, x.Name)
	}
	for reason, n := range s.BFDDropped {
		e.counter(b.dropped, n, reason)
	}
}
