package gateway

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"sitewire/gateway/host"
	"sitewire/gateway/wg"
	"sitewire/routes"
)

// device is an open device. Owned by the tunnels goroutine.
type device struct {
	spec    deviceSpec
	dev     wg.Device // nil: could not be opened; retried
	backend string
	lasting bool // it goes on without this process
	mtu     int
	peers   map[string]*peer
	// adopted says that it was there before it was opened. Found are the peers that were on the device when it was opened, and are not taken over yet.
	adopted bool
	found   map[wg.PublicKey]wg.PeerStats
	// deaf is how many polls in a row failed.
	deaf    int
	retryAt time.Time
	backoff time.Duration
	trouble string // with the link, as last logged
	// strangers are peers on the device that are none of ours, as last seen.
	strangers map[wg.PublicKey]bool
}

// linkEvery is how often links, addresses and MTUs are compared with what they should be; where that takes long, because there are very many
// devices, only after linkRest times as long.
const (
	linkEvery = 10 * time.Second
	linkRest  = 20
)

// onDevice has an error name the device that it is about: once, as devices mostly do so themselves.
func onDevice(name string, err error) error {
	if head := "device " + name + ": "; strings.Contains(err.Error(), head) {
		return err
	}
	return fmt.Errorf("device %s: %w", name, err)
}

func (d *device) byKey(k wg.PublicKey) *peer {
	for _, p := range d.peers {
		if p.spec.PublicKey == k {
			return p
		}
	}
	return nil
}

// open opens the device of d, and nothing more.
func (t *tunnels) open(ctx context.Context, d *device) error {
	b, err := t.backend(d.spec.Backend)
	if err != nil {
		return err
	}
	cfg := d.spec.DeviceConfig
	d.mtu = t.mtu(ctx, d)
	cfg.MTU = d.mtu
	dev, err := b.Open(ctx, cfg)
	if err != nil {
		return err
	}
	d.found, d.adopted = nil, false
	if a, ok := wg.As[interface{ Adopted() bool }](dev); ok && a.Adopted() {
		stats, err := dev.Stats(ctx)
		if err != nil {
			return errors.Join(onDevice(d.spec.Name, err), dev.Close(false))
		}
		d.adopted, d.found = true, make(map[wg.PublicKey]wg.PeerStats, len(stats))
		for _, s := range stats {
			d.found[s.PublicKey] = s
		}
	}
	d.dev, d.backend, d.lasting, d.deaf = dev, b.Name, b.Lasting, 0
	what := "device up"
	if d.adopted {
		what = "device taken over as it runs"
	}
	t.log.Info(what, "device", d.spec.Name, "backend", b.Name, "mtu", cfg.MTU, "listen_port", cfg.ListenPort)
	return nil
}

func (t *tunnels) setLink(ctx context.Context, d *device) error {
	if d.dev == nil {
		return nil // the retry does it
	}
	d.mtu = t.mtu(ctx, d)
	err := t.host.SetLink(ctx, host.LinkConfig{Name: d.spec.Name, MTU: d.mtu, Addresses: d.spec.Addresses, Up: true})
	setting, partly := errors.AsType[*host.SettingError](err)
	if err != nil && !partly {
		return err
	}
	if m, ok := wg.As[interface{ MTUChanged(mtu int) }](d.dev); ok {
		m.MTUChanged(d.mtu) // a userspace device pads its packets up to the MTU; to hear of the same one again costs nothing
	}
	if partly {
		d.warn(t, "a setting of the device is not as it should be", setting)
		return nil
	}
	d.trouble = ""
	return nil
}

// warn logs trouble with the link once, until it is another.
func (d *device) warn(t *tunnels, what string, err error) {
	if d.trouble != err.Error() {
		d.trouble = err.Error()
		t.log.Warn(what, "device", d.spec.Name, "error", err)
	}
}

// mendLink puts back what others took from the link: addresses, state, MTU. It also follows the path's MTU, and has a
// silent tunnel look for a new way: its own address may have gone.
func (t *tunnels) mendLink(ctx context.Context, d *device) {
	for _, p := range d.peers {
		if u, ok := wg.As[interface{ UnderlayChanged() }](d.dev); ok && p.state != wg.TunnelUp {
			u.UnderlayChanged()
			break
		}
	}
	if err := t.setLink(ctx, d); err != nil && ctx.Err() == nil {
		d.warn(t, "the device is not as it should be", err)
	}
}

// lose notes that a device is gone, with all sessions.
func (t *tunnels) lose(d *device, err error, now time.Time) {
	t.drift.devicesLost.Add(1)
	t.log.Warn("device lost, opening it again", "device", d.spec.Name, "error", err)
	if err := d.dev.Close(false); err != nil {
		t.log.Warn("device did not close", "device", d.spec.Name, "error", err)
	}
	d.dev, d.retryAt, d.backoff = nil, now, 0
	for _, p := range d.peers {
		p.forget()
		if t.told[p.spec.Name] {
			t.told[p.spec.Name] = false
			t.lost(p.spec.Name, routes.LossLink)
		}
		t.setState(p, wg.TunnelDown, onDevice(d.spec.Name, err).Error(), now)
	}
}

// reopen brings back a device that disappeared, once it is due.
func (t *tunnels) reopen(ctx context.Context, d *device, now time.Time) {
	if now.Before(d.retryAt) {
		return
	}
	err := t.restore(ctx, d)
	if err == nil {
		return
	}
	d.backoff = min(max(2*d.backoff, time.Second), 30*time.Second)
	d.retryAt = now.Add(d.backoff)
	for _, p := range d.peers {
		t.setState(p, wg.TunnelDown, onDevice(d.spec.Name, err).Error(), now)
	}
	if d.dev != nil {
		d.dev.Close(false)
		d.dev = nil
	}
}

// restore opens the device and gives it its peers and addresses. The gateway has the syncer fill in the allowed-IPs.
func (t *tunnels) restore(ctx context.Context, d *device) error {
	if err := t.open(ctx, d); err != nil {
		return err
	}
	for _, p := range d.peers {
		if err := t.setPeer(ctx, d, p); err != nil {
			return err
		}
	}
	if err := t.setLink(ctx, d); err != nil {
		return err
	}
	d.found = nil
	t.drift.devicesRestored.Add(1)
	t.remade++
	return nil
}

// restorePeer brings back a peer that somebody took from the device.
func (t *tunnels) restorePeer(ctx context.Context, d *device, p *peer) {
	t.drift.peersMissing.Add(1)
	t.log.Warn("peer was removed by someone else, adding it again", "peer", p.spec.Name, "device", d.spec.Name)
	p.forget()
	if err := t.setPeer(ctx, d, p); err != nil {
		t.log.Warn("peer not added", "peer", p.spec.Name, "error", err)
		return
	}
	t.drift.peersRestored.Add(1)
	t.remade++
}

// setPeer writes the peer to the device, with where it was last.
func (t *tunnels) setPeer(ctx context.Context, d *device, p *peer) error {
	if err := d.dev.Apply(ctx, wg.Delta{SetPeers: []wg.PeerConfig{p.config(p.endpoint())}}); err != nil {
		return fmt.Errorf("peer %s: %w", p.spec.Name, err)
	}
	return nil
}

// closing is how many devices are closed at once. Nearly all of the time that one takes the kernel waits until nobody looks at it any more.
const closing = 16

// closeDevices closes the devices of these names, side by side, and takes those out of the world for which remove says so.
func (t *tunnels) closeDevices(names []string, remove func(*device) bool) {
	var group errgroup.Group
	group.SetLimit(closing)
	for _, name := range names {
		d := t.devices[name]
		delete(t.devices, name)
		if d.dev == nil {
			continue
		}
		gone := remove(d)
		group.Go(func() error {
			t.closed(d, gone, d.dev.Close(gone))
			return nil
		})
	}
	_ = group.Wait()
}

// closed tells how a device was closed.
func (t *tunnels) closed(d *device, removed bool, err error) {
	switch {
	case err != nil:
		t.log.Warn("device did not close", "device", d.spec.Name, "error", err)
	case removed || !d.lasting:
		t.log.Info("device removed", "device", d.spec.Name)
	default:
		t.log.Info("device goes on by itself", "device", d.spec.Name)
	}
}

// always and unlessAdopted say which devices are removed.
func always(*device) bool          { return true }
func unlessAdopted(d *device) bool { return !d.adopted }

// Close closes all devices, and with remove takes them and what an earlier run left out of the system: with adopted also
// those that were there before. It must come after Run returned.
func (t *tunnels) Close(remove, adopted bool) {
	t.closeDevices(slices.Sorted(maps.Keys(t.devices)), func(d *device) bool { return remove && (adopted || !d.adopted) })
	if !remove {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	for _, name := range slices.Sorted(maps.Keys(t.left.devices)) {
		if err := t.removeLeft(ctx, name); err != nil {
			t.log.Warn("device of an earlier run not removed", "error", err)
		}
	}
	t.keep()
	if err := t.store.remove(neighboursFile); err != nil {
		t.log.Warn("state not removed", "error", err)
	}
}
