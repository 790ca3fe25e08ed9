package gateway

import (
	"context"
	"errors"
	"maps"
	"slices"
	"time"

	"sitewire/gateway/wg"
)

// This file is about devices that go on without this process: what an earlier run left is taken over as it is, and what
// it left of peers and devices that are no longer configured goes once the routes are in order again.

// leftovers are what an earlier run left and nobody wants: peers on devices that are configured, and whole devices.
type leftovers struct {
	peers   map[keyOnDevice]bool
	devices owned
}

// findLeftovers compares what an earlier run kept with what is configured.
func findLeftovers(kept owned, specs []deviceSpec) leftovers {
	left := leftovers{peers: map[keyOnDevice]bool{}, devices: owned{}}
	maps.Copy(left.devices, kept)
	for _, s := range specs {
		delete(left.devices, s.Name)
		for _, k := range kept[s.Name].Peers {
			if !slices.ContainsFunc(s.Peers, func(p peerSpec) bool { return p.PublicKey == k }) {
				left.peers[keyOnDevice{s.Name, k}] = true
			}
		}
	}
	return left
}

// Recall reads what an earlier run kept. It comes before the first Add.
func (t *tunnels) Recall(ctx context.Context, specs []deviceSpec) error {
	return t.call(ctx, func(ctx context.Context) error {
		var kept owned
		if err := t.store.load(ownedFile, &kept); err != nil { // then nothing but the configuration is known, and nothing is removed
			t.log.Warn("state not read", "error", err)
		}
		t.earlier.Store(len(kept) > 0)
		b, err := t.backend(t.backendName)
		if err != nil {
			return err
		}
		t.left = findLeftovers(kept, specs)
		if !b.Lasting { // another backend than the earlier run's: all of its devices have to make room
			t.left = leftovers{devices: kept}
		}
		for _, name := range slices.Sorted(maps.Keys(t.left.devices)) {
			if port := t.left.devices[name].ListenPort; b.Lasting && !takesPort(specs, port) {
				continue // it has until the routes are in order
			}
			if err := t.removeLeft(ctx, name); err != nil {
				return err
			}
		}
		if b.Lasting {
			t.kept = kept
		} else {
			t.earlier.Store(false)
		}
		return nil
	})
}

// takesPort tells whether one of the devices is to have the port, as when a peer was renamed.
func takesPort(specs []deviceSpec, port uint16) bool {
	return port != 0 && slices.ContainsFunc(specs, func(s deviceSpec) bool { return s.ListenPort == port })
}

// wanted says that a device is configured that an earlier run left; its other peers are still to go.
func (t *tunnels) wanted(s deviceSpec) {
	was, ok := t.left.devices[s.Name]
	if !ok {
		return
	}
	delete(t.left.devices, s.Name)
	maps.Copy(t.left.peers, findLeftovers(owned{s.Name: was}, []deviceSpec{s}).peers)
}

// removeLeft removes a device that an earlier run left.
func (t *tunnels) removeLeft(ctx context.Context, name string) error {
	b, err := t.backend(t.backendName)
	if err == nil && b.Remove != nil {
		err = b.Remove(ctx, name)
	}
	if err != nil {
		return onDevice(name, err)
	}
	delete(t.left.devices, name)
	t.log.Info("device removed", "device", name, "reason", "an earlier run left it and it is not configured")
	return nil
}

// Clear removes what an earlier run left and nobody wants. It comes when no route needs it any more: after the first sync.
func (t *tunnels) Clear(ctx context.Context) error {
	return t.call(ctx, func(ctx context.Context) error { return t.clear(ctx) })
}

func (t *tunnels) clear(ctx context.Context) error {
	var errs []error
	gone := map[string][]wg.PublicKey{}
	for at := range t.left.peers {
		gone[at.device] = append(gone[at.device], at.key)
	}
	for name, keys := range gone {
		d := t.devices[name]
		if d == nil || d.dev == nil {
			continue // later
		}
		if err := d.dev.Apply(ctx, wg.Delta{RemovePeers: keys}); err != nil {
			errs = append(errs, onDevice(name, err))
			continue
		}
		for _, k := range keys {
			delete(t.left.peers, keyOnDevice{name, k})
			t.log.Info("peer removed", "public_key", k, "device", name, "reason", "an earlier run left it and it is not configured")
		}
	}
	for _, name := range slices.Sorted(maps.Keys(t.left.devices)) {
		errs = append(errs, t.removeLeft(ctx, name))
	}
	t.stale = true
	t.publish()
	return errors.Join(errs...)
}

// keep writes down what goes on without this process, if that has changed.
func (t *tunnels) keep() {
	now := owned{}
	maps.Copy(now, t.left.devices)
	for name, d := range t.devices {
		if !d.lasting {
			continue
		}
		o := ownedDevice{ListenPort: d.spec.ListenPort}
		for _, p := range d.peers {
			o.Peers = append(o.Peers, p.spec.PublicKey)
		}
		for at := range t.left.peers {
			if at.device == name {
				o.Peers = append(o.Peers, at.key)
			}
		}
		slices.SortFunc(o.Peers, func(a, b wg.PublicKey) int { return slices.Compare(a[:], b[:]) })
		o.Peers = slices.Compact(o.Peers)
		now[name] = o
	}
	same := func(a, b ownedDevice) bool { return a.ListenPort == b.ListenPort && slices.Equal(a.Peers, b.Peers) }
	if t.stored != nil && maps.EqualFunc(t.stored, now, same) {
		return
	}
	write := func() error { return t.store.save(ownedFile, now) }
	if len(now) == 0 {
		write = func() error { return t.store.remove(ownedFile) }
	}
	if err := write(); err != nil {
		if t.storeTrouble != err.Error() {
			t.storeTrouble = err.Error()
			t.log.Warn("state not written: after a restart, peers that are no longer configured stay on their devices", "error", err)
		}
		return
	}
	t.stored, t.storeTrouble = now, ""
}

// Lasting tells whether the devices, and so forwarding, go on without this process.
func (t *tunnels) Lasting() bool { return t.index.Load().lasting }

// Kept tells whether the tunnels of an earlier run were all found again: then forwarding went on while there was no
// process. A peer that was configured only now is no loss.
func (t *tunnels) Kept(ctx context.Context) (bool, error) {
	answer := make(chan bool, 1) // ctx may end while the question is looked into
	err := t.call(ctx, func(context.Context) error {
		found, lost := 0, false
		for name, d := range t.devices {
			for _, p := range d.peers {
				was := t.kept.has(name, p.spec.PublicKey)
				if was && p.found {
					found++
				}
				lost = lost || was && !p.found
			}
		}
		answer <- found > 0 && !lost
		return nil
	})
	if err != nil {
		return false, err
	}
	return <-answer, nil
}

// adopt takes over the session of a peer that was found on a running device. Who kept it alive cannot be seen; that it
// was heard from recently enough for its keys to be good has to do, until it falls silent for as long as any other.
func (p *peer) adopt(s wg.PeerStats, now time.Time) {
	p.found, p.stats = true, s
	if now.Sub(s.LastHandshake) >= wg.RejectAfterTime {
		return
	}
	p.lastReceive = now
	p.worked = s.Endpoint
	p.state, p.reason = p.liveness(now)
}
