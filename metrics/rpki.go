package metrics

import "sitewire/routes"

// rpkiMetrics is the group of sources of validated ROA payloads.
type rpkiMetrics struct {
	up, serial, vrps, updated *metric
}

func newRPKIMetrics(c *catalogue) *rpkiMetrics {
	c.group("RPKI, if there are sources")
	return &rpkiMetrics{
		up:      c.gauge("rpki_session_up", "1 if the cache has answered on the present connection, or the file could be read when last looked at.", "server"),
		serial:  c.gauge("rpki_serial", "Serial number of the cache's payloads; 0 for files.", "server"),
		vrps:    c.gauge("rpki_vrps", "Validated ROA payloads of the source in use.", "server", "family"),
		updated: c.gauge("rpki_last_update_timestamp_seconds", "Unix time at which the source last confirmed its payloads: the cache's last answer; the last change of a file whose metadata say when it was generated; the last look at any other file. 0 before the first.", "server"),
	}
}

func (r *rpkiMetrics) collect(e *emitter, s *scrape) {
	if s.rpki == nil {
		return
	}
	for i := range s.rpki.Sources {
		x := &s.rpki.Sources[i]
		e.flag(r.up, x.Up, x.Name)
		e.gauge(r.serial, float64(x.Serial), x.Name)
		e.gauge(r.vrps, float64(x.IPv4), x.Name, routes.IPv4.String())
		e.gauge(r.vrps, float64(x.IPv6), x.Name, routes.IPv6.String())
		e.time(r.updated, x.Updated, x.Name)
	}
}
