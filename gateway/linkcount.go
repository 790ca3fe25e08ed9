package gateway

import (
	"context"
	"time"

	"sitewire/gateway/wg"
)

// countEvery is how often the devices' packet counters are read, if at all.
const countEvery = 5 * time.Second

// countLinks reads the packet counters of the devices when they are due. What cannot be read stays as it was.
func (t *tunnels) countLinks(ctx context.Context, now time.Time) {
	if t.counters == nil || now.Sub(t.countedAt) < countEvery {
		return
	}
	t.countedAt = now
	all, err := t.counters(ctx)
	if err != nil {
		if ctx.Err() == nil && t.countTrouble != err.Error() {
			t.countTrouble = err.Error()
			t.log.Warn("packet counters of devices not read", "error", err)
		}
		return
	}
	t.countTrouble = ""
	own := make(map[string]wg.LinkCounters, len(t.devices))
	for name := range t.devices {
		if c, ok := all[name]; ok {
			own[name] = c
		}
	}
	t.links.Store(&own)
}

// DeviceCounters returns the devices' packet counters as last read, by name; empty unless Options.LinkCounters is set. It is not
// to be changed.
func (g *Gateway) DeviceCounters() map[string]wg.LinkCounters {
	if m := g.tunnels.links.Load(); m != nil {
		return *m
	}
	return nil
}
