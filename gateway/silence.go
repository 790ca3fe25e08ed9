package gateway

import (
	"time"

	"sitewire/bgp"
	"sitewire/gateway/wg"
)

// defaultHold is the hold time of a session that does not say (RFC 4271 section 10).
const defaultHold = 90 * time.Second

// pollSlack is how late the poll of the devices may notice a packet.
const pollSlack = 2 * time.Second

// deadPath tells whether a session should be given up, with all that graceful restart would keep of it.
//
// Its tunnel is down: nothing gets through. Or the session ended after its tunnel had been silent for the hold time, and
// nothing was heard since: that is no restart, at whose beginning the other end says something and during which its
// device answers (RFC 4724 assumes that forwarding goes on), but a path that carries nothing. Without keepalive a
// tunnel may need the session's own packets to come back, so there it is kept.
func deadPath(t wg.Tunnel, s *bgp.Session, hold time.Duration) bool {
	if t.PersistentKeepalive == 0 {
		return false
	}
	if t.State == wg.TunnelDown {
		return true
	}
	if s == nil || s.State == bgp.Established || s.LastDown.IsZero() {
		return false
	}
	heard := t.LastReceive
	if t.LastHandshake.After(heard) {
		heard = t.LastHandshake
	}
	if hold == 0 {
		hold = defaultHold
	}
	return !heard.IsZero() && s.LastDown.Sub(heard) >= max(hold-pollSlack, hold/3)
}
