package e2e

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"sitewire/bgp"
	"sitewire/gateway"
	"sitewire/topologies/netns/nstest"
)

// TestDisabledSession: `enabled: false` and a reload take a session down for good, the other end hears why, its routes go and nothing
// calls it a problem; the other session is not touched. `enabled: true` brings it back.
func TestDisabledSession(t *testing.T) {
	l := newLab(t)
	a, b, c := l.site("ours"), l.site("theirs"), l.site("other")
	yaml := func(enabled bool) string {
		return a.head() + quickTimers + "peers:\n" + b.gatewayYAML(a) + fmt.Sprintf("    bgp: { enabled: %t }\n", enabled) + c.gatewayYAML(a)
	}
	d := a.run(yaml(true))
	e := b.run(b.head() + quickTimers + "peers:\n" + a.gatewayYAML(b))
	c.run(c.head() + quickTimers + "peers:\n" + a.gatewayYAML(c))
	d.sessionsUp(2)
	reach(t, a, b)

	r := d.reload(yaml(false))
	if len(r.Changes) != 1 || !strings.Contains(r.Changes[0], "bgp.enabled true -> false") {
		t.Errorf("changes %q", r.Changes)
	}
	nstest.Eventually(t, 10*time.Second, "the session to be down", func() error {
		if s := d.session("theirs"); s.State != bgp.Idle || !s.AdminDown || s.Downs["admin_down"] != 1 {
			return fmt.Errorf("%s, admin down %t, %v", s.State, s.AdminDown, s.Downs)
		}
		return nil
	})
	nstest.Eventually(t, 10*time.Second, "the routes to go", func() error {
		if p := d.peer("theirs"); p.Routes["ipv4"]+p.Routes["ipv6"] > 0 {
			return fmt.Errorf("%v", p.Routes)
		}
		return nil
	})
	// Both ends keep routes over NOTIFICATIONs, so it is a Hard Reset (RFC 8538).
	nstest.Eventually(t, 5*time.Second, "the other end to hear of it", func() error {
		if s := e.session("ours"); s.State == bgp.Established || s.Downs["hard_reset"] != 1 {
			return fmt.Errorf("%s, %v, %s", s.State, s.Downs, s.LastError)
		}
		return nil
	})
	// It keeps calling, in vain, and that changes nothing here.
	time.Sleep(6 * time.Second)
	var st gateway.Status
	must(t, d.get("/v1/status", &st))
	if st.Health != "ok" || len(st.Problems) > 0 || st.Sessions != (gateway.Tally{Up: 1, All: 1, Disabled: 1}) {
		t.Errorf("health %s, %v, sessions %+v", st.Health, st.Problems, st.Sessions)
	}
	text := scrape(t, a.ns)
	for _, series := range []string{
		`sitewire_bgp_session_admin_up{peer="theirs",session="theirs"} 0`, `sitewire_bgp_session_admin_up{peer="other",session="other"} 1`,
		`sitewire_bgp_session_up{peer="theirs",session="theirs"} 0`, `sitewire_bgp_session_downs_total{peer="theirs",reason="admin_down",session="theirs"} 1`,
	} {
		if !strings.Contains(text, series+"\n") {
			t.Errorf("no %s", series)
		}
	}

	d.reload(yaml(true))
	d.sessionsUp(2)
	reach(t, a, b)
	if s := d.session("other"); s.Establishments != 1 {
		t.Errorf("the other session came up %d times", s.Establishments)
	}
}
