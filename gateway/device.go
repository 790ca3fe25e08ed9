package gateway

import (
	"context"
	"errors"
	"maps"
	"slices"
	"time"

	"sitewire/gateway/host"
	"sitewire/gateway/wg"
)

// device is an open device. Owned by the tunnels goroutine.
type device struct {
	spec    deviceSpec
	dev     wg.Device // nil: could not be opened; retried
	backend string
	mtu     int
	peers   map[string]*peer
	err     error
	retryAt time.Time
	backoff time.Duration
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
	d.dev, d.backend, d.err, d.backoff = dev, b.Name, nil, 0
	t.log.Info("device up", "device", d.spec.Name, "backend", b.Name, "mtu", cfg.MTU, "listen_port", cfg.ListenPort)
	return nil
}

func (t *tunnels) setLink(ctx context.Context, d *device) error {
	if d.dev == nil {
		return nil // the retry does it
	}
	d.mtu = t.mtu(ctx, d)
	err := t.host.SetLink(ctx, host.LinkConfig{Name: d.spec.Name, MTU: d.mtu, Addresses: d.spec.Addresses, Up: true})
	if e, ok := errors.AsType[*host.SettingError](err); ok {
		t.log.Warn("a setting of the device is not as it should be", "device", d.spec.Name, "error", e)
		return nil
	}
	return err
}

// reopen brings a device back that could not be opened or disappeared. Its peers lose their sessions; the syncer's
// comparison restores their allowed-IPs.
func (t *tunnels) reopen(ctx context.Context, d *device, now time.Time) {
	if now.Before(d.retryAt) {
		return
	}
	err := t.open(ctx, d)
	if err == nil {
		err = t.setLink(ctx, d)
	}
	for _, p := range d.peers {
		if err != nil {
			t.setState(p, wg.TunnelDown, "device: "+err.Error(), now)
			continue
		}
		cfg := p.spec.PeerConfig
		cfg.Endpoint = p.configured
		err = d.dev.Apply(ctx, wg.Delta{SetPeers: []wg.PeerConfig{cfg}})
	}
	if err != nil {
		d.backoff = min(max(2*d.backoff, time.Second), 30*time.Second)
		d.retryAt, d.err = now.Add(d.backoff), err
		if d.dev != nil {
			d.dev.Close(false)
			d.dev = nil
		}
	}
}

// closeDevice removes d from the world if it is ours to remove.
func (t *tunnels) closeDevice(name string, remove bool) {
	d := t.devices[name]
	delete(t.devices, name)
	if d.dev == nil {
		return
	}
	if err := d.dev.Close(remove); err != nil {
		t.log.Warn("device did not close", "device", name, "error", err)
		return
	}
	t.log.Info("device removed", "device", name)
}

// Close closes all devices; it must come after Run returned.
func (t *tunnels) Close(remove bool) {
	for _, name := range slices.Sorted(maps.Keys(t.devices)) {
		t.closeDevice(name, remove)
	}
}

// mtu of a device: as configured, else what the path to its peers' endpoints leaves.
func (t *tunnels) mtu(ctx context.Context, d *device) int {
	if d.spec.MTU != 0 {
		return d.spec.MTU
	}
	const usual = 1420 // 1500 less the overhead of WireGuard over IPv6
	m := usual
	for _, p := range d.peers {
		ep := p.endpoint()
		if !ep.IsValid() {
			continue
		}
		path, err := t.host.PathMTU(ctx, ep.Addr(), d.spec.FirewallMark)
		if err != nil || path == 0 {
			continue
		}
		overhead := 80
		if ep.Addr().Unmap().Is4() {
			overhead = 60
		}
		m = min(m, path-overhead)
	}
	return max(m, 1280)
}
