package gateway

import (
	"log/slog"
	"slices"
	"time"

	"sitewire/bgp"
)

// sessionLog writes a line for each session that comes up or ends, and for each new warning. Snapshots may skip states in
// between; the counters show that something happened.
//
// Owner: the gateway's goroutine.
type sessionLog struct {
	log  *slog.Logger
	last map[string]bgp.Session
}

func (l *sessionLog) see(sessions []bgp.Session) {
	now := make(map[string]bgp.Session, len(sessions))
	for _, s := range sessions {
		was, up := l.last[s.Name], s.State == bgp.Established
		fresh := s.Establishments != was.Establishments
		if was.State == bgp.Established && (!up || fresh) {
			l.log.Info("session ended", "neighbour", s.Name, "reason", s.LastError, "lasted", s.LastDown.Sub(was.EstablishedAt).Round(time.Second))
		}
		if up && (fresh || was.State != bgp.Established) {
			l.log.Info("session established", "neighbour", s.Name, "asn", s.ASN, "address", s.Address, "router_id", s.RemoteRouterID)
		}
		for _, w := range s.Warnings {
			if !slices.Contains(was.Warnings, w) {
				l.log.Warn("session: "+w, "neighbour", s.Name)
			}
		}
		now[s.Name] = s
	}
	l.last = now
}
