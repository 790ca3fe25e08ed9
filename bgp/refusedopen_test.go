package bgp

import (
	"testing"
	"time"
)

// A NOTIFICATION that ended a session is not taken for one that refused an OPEN (RFC 4271 section 6.2).
func TestNotificationThatEndedASessionRefusedNoOpen(t *testing.T) {
	before := time.Now()
	sent := polled{sent: Messages{Notification: 1}}
	for _, c := range []struct {
		name string
		n    neighbour
		want bool
	}{
		{"never up", neighbour{}, true},
		{"ended long ago", neighbour{session: session{lastDown: before.Add(-time.Minute)}}, true},
		{"ended since the last look", neighbour{session: session{lastDown: before.Add(time.Second)}}, false},
		{"up", neighbour{session: session{state: Established}}, false},
	} {
		c.n.refusedOpen(sent, before)
		if got := c.n.lastError != ""; got != c.want {
			t.Errorf("%s: %q", c.name, c.n.lastError)
		}
	}
}
