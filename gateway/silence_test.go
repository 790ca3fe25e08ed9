package gateway

import (
	"testing"
	"time"

	"sitewire/bgp"
	"sitewire/gateway/wg"
)

func TestDeadPath(t *testing.T) {
	at := func(s int) time.Time { return time.Unix(1000+int64(s), 0) }
	up := wg.Tunnel{State: wg.TunnelUp, PersistentKeepalive: 25 * time.Second, LastReceive: at(0), LastHandshake: at(-60)}
	ended := func(s int) *bgp.Session { return &bgp.Session{State: bgp.Idle, LastDown: at(s)} }
	with := func(f func(*wg.Tunnel)) wg.Tunnel { x := up; f(&x); return x }
	for name, c := range map[string]struct {
		tunnel  wg.Tunnel
		session *bgp.Session
		want    bool
	}{
		"no session yet":                          {up, nil, false},
		"established":                             {up, &bgp.Session{State: bgp.Established, LastDown: at(90)}, false},
		"never was up":                            {up, &bgp.Session{State: bgp.Active}, false},
		"the other end restarts: it said so":      {up, ended(1), false},
		"the hold time ran out in silence":        {up, ended(90), true},
		"... noticed a poll late":                 {up, ended(89), true},
		"the hold time ran out, the tunnel lives": {up, ended(40), false},
		"heard again since":                       {with(func(x *wg.Tunnel) { x.LastReceive = at(91) }), ended(90), false},
		"a handshake since":                       {with(func(x *wg.Tunnel) { x.LastHandshake = at(91) }), ended(90), false},
		"the tunnel is down":                      {with(func(x *wg.Tunnel) { x.State = wg.TunnelDown }), nil, true},
		"down without keepalive":                  {with(func(x *wg.Tunnel) { x.State, x.PersistentKeepalive = wg.TunnelDown, 0 }), ended(90), false},
		"never heard":                             {wg.Tunnel{State: wg.TunnelNew, PersistentKeepalive: time.Second}, ended(90), false},
	} {
		if got := deadPath(c.tunnel, c.session, 0); got != c.want {
			t.Errorf("%s: %v", name, got)
		}
	}
	if !deadPath(up, ended(3), 3*time.Second) || deadPath(up, ended(3), 9*time.Second) {
		t.Error("the session's own hold time does not count")
	}
}
