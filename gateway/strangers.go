package gateway

import (
	"sync/atomic"

	"sitewire/gateway/wg"
)

// Drift counts what others did to devices, and what of it was put right.
type Drift struct {
	// DevicesLost are devices that went away or do not answer any more, and DevicesRestored those that are back.
	DevicesLost, DevicesRestored uint64
	// PeersMissing are peers of ours that somebody took from a device, and PeersRestored those that are back.
	PeersMissing, PeersRestored uint64
	// PeersExtra are peers that somebody else put on a device of ours. They stay.
	PeersExtra uint64
}

// driftCounters are those of tunnels; anybody may read them.
type driftCounters struct {
	devicesLost, devicesRestored, peersMissing, peersRestored, peersExtra atomic.Uint64
}

// Drift returns what others did to the devices since the start.
func (g *Gateway) Drift() Drift {
	c := &g.tunnels.drift
	return Drift{
		DevicesLost: c.devicesLost.Load(), DevicesRestored: c.devicesRestored.Load(),
		PeersMissing: c.peersMissing.Load(), PeersRestored: c.peersRestored.Load(), PeersExtra: c.peersExtra.Load(),
	}
}

// strangers tells once of each peer on a device that is none of ours.
func (t *tunnels) strangers(d *device, stats []wg.PeerStats) {
	if len(stats) <= len(d.peers) && len(d.strangers) == 0 {
		return // nearly always
	}
	now := map[wg.PublicKey]bool{}
	for i := range stats {
		key := stats[i].PublicKey
		if d.byKey(key) != nil || t.left.peers[keyOnDevice{d.spec.Name, key}] {
			continue
		}
		now[key] = true
		if !d.strangers[key] {
			t.drift.peersExtra.Add(1)
			t.log.Warn("device has a peer that is not configured, it stays: remove it with `wg set`", "device", d.spec.Name, "public_key", key)
		}
	}
	d.strangers = now
}
