package bgp

import (
	"strings"
	"time"

	"sitewire/routes"
)

// losing notes that GoBGP drops what a neighbour announced. It does so before it tells that the session is lost, and why;
// where the session was lost before, a restart was waited for, in vain.
func (v *view) losing(n *neighbour, at time.Time) {
	kind := routes.LossUnknown
	switch {
	case n.cfg.Disabled:
		kind = routes.LossAdmin
	case n.state != Established:
		kind = routes.LossHoldTimer
	}
	if n.lostAt.IsZero() {
		v.lost(n, kind, at)
	}
}

// lost tells of a loss, or more of the one that began. A graceful restart is none: forwarding goes on (RFC 4724 section
// 4.2).
func (v *view) lost(n *neighbour, kind routes.LossKind, at time.Time) {
	if kind == gracefully {
		return
	}
	if n.lostAt.IsZero() || at.Sub(n.lostAt) > oneLoss {
		n.lostAt = at
	}
	v.sink.PutLoss(n.cfg.Name, kind, n.lostAt)
}

// oneLoss is how far apart GoBGP's dropping of paths and its telling why may be.
const oneLoss = time.Second

// gracefully is no kind of loss.
const gracefully = routes.LossKinds

// lossKind translates the reason of a down, and what a NOTIFICATION said.
func lossKind(reason, words string) routes.LossKind {
	switch reason {
	case "graceful_restart":
		return gracefully
	case "bfd_down":
		return routes.LossBFD
	case downTunnel:
		return routes.LossTunnel
	case "hold_timer_expired", downSendHold, "restart_timer_expired":
		return routes.LossHoldTimer
	case "read_failed", "write_failed":
		return routes.LossLink
	case "notification_received", "notification_sent":
		if strings.Contains(words, "Hold Timer Expired") {
			return routes.LossHoldTimer
		}
	}
	return routes.LossAdmin
}
