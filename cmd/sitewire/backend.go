package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"sitewire/gateway"
	"sitewire/gateway/config"
	"sitewire/gateway/host"
	"sitewire/gateway/wg"
	"sitewire/gateway/wg/kernel"
	"sitewire/gateway/wg/user"
	"sitewire/metrics"
)

// pickBackend chooses a WireGuard backend: what is configured, and with auto the kernel's if it can be had. Unavailable is why it cannot, nil
// if it can.
func pickBackend(want config.Backend, unavailable error) (backend config.Backend, reason string, err error) {
	switch want {
	case config.BackendUserspace:
		return want, "configured", nil
	case config.BackendKernel:
		if unavailable != nil {
			return "", "", fmt.Errorf("wireguard.backend: kernel: %w", unavailable)
		}
		return want, "configured", nil
	case config.BackendAuto, "":
		if unavailable != nil {
			return config.BackendUserspace, "auto: " + unavailable.Error(), nil
		}
		return config.BackendKernel, "auto: the kernel has WireGuard", nil
	}
	return "", "", fmt.Errorf("wireguard.backend %q is not known", want)
}

// probeError tells a probe of the kernel's WireGuard that failed from one that found none. Only the latter may have auto choose the userspace
// backend: tunnels that an earlier run left in the kernel would have to make room for it.
func probeError(want config.Backend, probed error) error {
	if _, known := errors.AsType[*kernel.Unavailable](probed); probed == nil || known || want == config.BackendUserspace {
		return nil
	}
	return fmt.Errorf("it could not be found out whether the kernel has WireGuard (start again, or set wireguard.backend: userspace): %w", probed)
}

// statsAge is how old the kernel's statistics may be where reading them is dear: a tunnel that dies is to be noticed in about the time that the
// file gives it, and one that was heard from is not to be taken for silent when its session ends.
func statsAge(cfg *config.Config) time.Duration {
	age := 10 * time.Second
	for _, p := range cfg.Peers {
		age = min(age, p.DeadAfter/2)
		for _, s := range p.Sessions {
			if s.HoldTime > 0 {
				age = min(age, s.HoldTime/3)
			}
		}
	}
	return age
}

// kernelOptions are those of the kernel's devices.
func kernelOptions(cfg *config.Config, log *slog.Logger) kernel.Options {
	return kernel.Options{Logger: log, Group: host.DefaultGroup, Share: float64(cfg.WireGuard.StatsShare) / 100, MaxAge: statsAge(cfg)}
}

// newBackend returns the backend of that name. Its devices are watched.
func newBackend(name config.Backend, reason string, cfg *config.Config, machine *host.Host, watch *deviceWatch, log *slog.Logger) gateway.Backend {
	log = log.With("part", "wireguard")
	b := gateway.Backend{Name: string(name), Reason: reason, Remove: machine.RemoveTunnel}
	if name == config.BackendKernel {
		b.Lasting = true
		b.Open = watch.opener(kernelOptions(cfg, log).Opener())
		return b
	}
	b.Open = watch.opener(user.Options{Logger: log}.Opener())
	return b
}

// deviceWatch notes, for metrics, when a device last told its state and which devices cannot be opened or asked. It is safe for concurrent
// use.
type deviceWatch struct {
	mu     sync.Mutex
	polled time.Time
	failed map[string]bool // by name of the device
	// requests and errors by operation ("set_device", "get_device").
	requests map[string]uint64
	errors   map[[2]string]uint64 // operation and errno
}

// Operations of a device, as the kernel's generic netlink family has them. A userspace device is asked the same.
const setDevice, getDevice = "set_device", "get_device"

// asked counts a request to a device.
func (w *deviceWatch) asked(operation string, err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.requests == nil {
		w.requests, w.errors = map[string]uint64{}, map[[2]string]uint64{}
	}
	w.requests[operation]++
	if err != nil {
		errno := "other"
		if n, ok := errors.AsType[syscall.Errno](err); ok {
			errno = unix.ErrnoName(n)
		}
		w.errors[[2]string{operation, errno}]++
	}
}

// counts adds the requests to devices, whichever backend they have.
func (w *deviceWatch) counts(k *metrics.Kernel) {
	w.mu.Lock()
	defer w.mu.Unlock()
	request := func(operation string) metrics.Request {
		return metrics.Request{Subsystem: "wireguard", Operation: operation}
	}
	for _, operation := range []string{setDevice, getDevice} {
		k.Requests[request(operation)] = w.requests[operation]
	}
	for key, n := range w.errors {
		k.Errors[metrics.RequestError{Request: request(key[0]), Errno: key[1]}] = n
	}
}

func (w *deviceWatch) opener(open wg.Opener) wg.Opener {
	return func(ctx context.Context, cfg wg.DeviceConfig) (wg.Device, error) {
		d, err := open(ctx, cfg)
		w.note(cfg.Name, err)
		if err != nil {
			return nil, err
		}
		return &watchedDevice{d, w}, nil
	}
}

// note keeps the outcome of opening or asking a device.
func (w *deviceWatch) note(device string, err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	switch {
	case err == nil:
		delete(w.failed, device)
	case w.failed == nil:
		w.failed = map[string]bool{device: true}
	default:
		w.failed[device] = true
	}
}

// lastPoll is when a device was last asked with success; zero if none was.
func (w *deviceWatch) lastPoll() time.Time {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.polled
}

// healthy tells whether all devices of these tunnels work. One that failed and is not configured any more does not count.
func (w *deviceWatch) healthy(tunnels []wg.Tunnel) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	for i := range tunnels {
		if w.failed[tunnels[i].Device] {
			return false
		}
	}
	return true
}

// watchedDevice is a device that tells its watch of every poll.
type watchedDevice struct {
	wg.Device
	watch *deviceWatch
}

// Unwrap returns the device itself, for what only some devices can do; see wg.As.
func (d *watchedDevice) Unwrap() wg.Device { return d.Device }

// statsTime is when the kernel gave what Stats last returned; zero for devices that are asked each time.
func (d *watchedDevice) statsTime() (at time.Time) {
	if r, ok := d.Device.(interface{ StatsTime() time.Time }); ok {
		at = r.StatsTime()
	}
	return at
}

// Stats implements wg.Device. What is answered from memory is no request.
func (d *watchedDevice) Stats(ctx context.Context) ([]wg.PeerStats, error) {
	before := d.statsTime()
	stats, err := d.Device.Stats(ctx)
	if err != nil || before.IsZero() || d.statsTime() != before {
		d.watch.asked(getDevice, err)
	}
	if ctx.Err() == nil {
		d.watch.note(d.Name(), err)
	}
	if err == nil {
		d.watch.mu.Lock()
		d.watch.polled = time.Now()
		d.watch.mu.Unlock()
	}
	return stats, err
}

// Apply implements wg.Device.
func (d *watchedDevice) Apply(ctx context.Context, delta wg.Delta) error {
	err := d.Device.Apply(ctx, delta)
	d.watch.asked(setDevice, err)
	return err
}

// AllowedIPs implements wg.Device.
func (d *watchedDevice) AllowedIPs(ctx context.Context) ([]wg.AllowedIP, error) {
	list, err := d.Device.AllowedIPs(ctx)
	d.watch.asked(getDevice, err)
	return list, err
}
