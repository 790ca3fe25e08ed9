package kernel

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"sitewire/gateway/wg"
)

// DefaultMTU leaves room for WireGuard over IPv6 on an Ethernet underlay of 1500 bytes: 40 + 8 + 32.
const DefaultMTU = 1420

// Options of a Device. The zero value is usable.
type Options struct {
	// Logger of the device; nil discards.
	Logger *slog.Logger
	// Underlay is the path of the network namespace of the UDP sockets, such as /run/netns/wan. "" is the namespace that Open is called in,
	// which is always that of the interface. A device that is adopted keeps its sockets where they are.
	Underlay string
	// Group is the device group that marks links as the gateway's (see host.DefaultGroup), in which they are made. A link that carries it is given another private key
	// if the configuration has another one; any other link with another key is refused. 0: refuse always.
	Group uint32
	// Share is the part of the time that reading all devices of an Opener may take, 0.05 by default: the kernel tells of peers only together
	// with their allowed-IPs, so that a poll of a device with a million of them takes hundreds of milliseconds. Stats answers with what it read
	// before until 1/Share times the length of the last reading has passed, times the number of devices, but for no longer than MaxAge, 10 s by
	// default.
	Share  float64
	MaxAge time.Duration
}

// Opener binds the options to Open. Its devices share what was found out about the kernel.
func (o Options) Opener() wg.Opener {
	known := &capability{}
	return func(ctx context.Context, cfg wg.DeviceConfig) (wg.Device, error) {
		d, err := openDevice(ctx, cfg, o, known)
		if err != nil {
			return nil, err
		}
		return d, nil
	}
}

// Device is a WireGuard interface of the kernel. It is found by its index: another one that takes its name later is none of ours.
type Device struct {
	name    string
	index   int
	adopted bool
	log     *slog.Logger
	talk    conversation
	links   links
	known   *capability
	share   float64
	maxAge  time.Duration
	now     func() time.Time

	closed atomic.Bool

	// mu is held by one change, and by a reading that must not be interrupted by ours. It comes before readMu.
	mu     sync.Mutex
	msg    message
	public wg.PublicKey
	// peers are those that were there when last read, and what was set since.
	peers map[wg.PublicKey]bool
	// ledger is nil until it is needed, and whenever it may be wrong. read says when it was.
	ledger *ledger
	read   pace
	// whole is what was last read under mu, and hint how many allowed-IPs that were.
	whole state
	hint  int

	// readMu is held by one reading.
	readMu sync.Mutex
	quick  state
	stats  statsCache
}

var _ wg.Device = (*Device)(nil)

// Open creates the interface in the network namespace of the calling thread and leaves it down and without addresses; or it adopts a
// WireGuard interface of that name, with its peers, sessions, addresses and state, and writes only the port and mark that differ. It fails
// with wg.ErrLinkExists, and touches nothing, if the link is of another kind or has another private key (but see Options.Group), and with an
// *Unavailable if the kernel has no WireGuard or does not let us. The kernel refuses a port that is taken when the link is set up, not here.
func Open(ctx context.Context, cfg wg.DeviceConfig, o Options) (*Device, error) {
	return openDevice(ctx, cfg, o, &capability{})
}

func openDevice(ctx context.Context, cfg wg.DeviceConfig, o Options, known *capability) (_ *Device, err error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("device %s: %w", cfg.Name, err)
	}
	defer func() {
		if err != nil {
			err = fmt.Errorf("device %s: %w", cfg.Name, err)
		}
	}()
	talk, err := dial()
	if err != nil {
		return nil, err
	}
	links, err := openHandles(o.Underlay)
	if err != nil {
		talk.close()
		return nil, err
	}
	d := newDevice(cfg, o, talk, links, known)
	if err := d.open(ctx, cfg, links, o.Group); err != nil {
		d.release()
		return nil, err
	}
	return d, nil
}

// newDevice makes a Device on any conversation, without a link yet.
func newDevice(cfg wg.DeviceConfig, o Options, talk conversation, links links, known *capability) *Device {
	log := o.Logger
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	known.devices.Add(1)
	return &Device{
		name: cfg.Name, public: cfg.PrivateKey.Public(), log: log.With("device", cfg.Name), talk: talk, links: links, known: known,
		share: cmp.Or(o.Share, 0.05), maxAge: cmp.Or(o.MaxAge, 10*time.Second), now: time.Now, peers: map[wg.PublicKey]bool{},
	}
}

// open finds or makes the link and gives it its settings.
func (d *Device) open(ctx context.Context, cfg wg.DeviceConfig, h handles, group uint32) error {
	link, err := h.find(ctx, cfg.Name)
	if err != nil {
		return err
	}
	if link != nil {
		d.index, d.adopted = link.Attrs().Index, true
		return d.adopt(ctx, cfg, group != 0 && link.Attrs().Group == group)
	}
	if link, err = h.create(cfg.Name, cmp.Or(cfg.MTU, DefaultMTU), group); err != nil {
		return err
	}
	d.index = link.Attrs().Index
	d.msg.reset(d.index)
	d.msg.settings(cfg)
	if err := d.talk.set(d.msg.bytes()); err != nil {
		return errors.Join(fmt.Errorf("private key, port and mark: %w", err), h.remove(d.index))
	}
	return nil
}

// adopt takes over a running device. Only what differs is written.
func (d *Device) adopt(ctx context.Context, cfg wg.DeviceConfig, ours bool) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	s, err := d.readAll(ctx, false)
	if err != nil {
		return fmt.Errorf("adopt: %w", err)
	}
	d.msg.reset(d.index)
	if s.public != d.public {
		if !ours && !s.public.IsZero() {
			return fmt.Errorf("%w and has another private key (public key %s); it was not touched: configure its key, remove it (`ip link del %s`) or name the device otherwise",
				wg.ErrLinkExists, s.public, cfg.Name)
		}
		d.msg.attr(devicePrivateKey, cfg.PrivateKey[:]...)
		delete(d.peers, d.public) // a device cannot be its own peer
		d.stats.forget()
	}
	if s.mark != cfg.FirewallMark {
		d.msg.uint32(deviceMark, cfg.FirewallMark)
	}
	if cfg.ListenPort != 0 && s.port != cfg.ListenPort {
		d.msg.uint16(devicePort, cfg.ListenPort)
	}
	for _, k := range s.parked {
		d.log.Info("removing what an interrupted removal of allowed-IPs left behind", "public_key", k)
		d.msg.beginPeer(k, peerUpdateOnly|peerRemove)
	}
	if d.msg.empty() {
		return nil
	}
	if err := d.talk.set(d.msg.bytes()); err != nil {
		return fmt.Errorf("adopt: settings: %w", err)
	}
	return nil
}

// Name of the interface.
func (d *Device) Name() string { return d.name }

// Adopted tells whether the interface was there before Open.
func (d *Device) Adopted() bool { return d.adopted }

// Close implements wg.Device. Without remove the interface goes on as it is, sessions and traffic included.
func (d *Device) Close(remove bool) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.readMu.Lock()
	defer d.readMu.Unlock()
	if d.closed.Swap(true) {
		return nil
	}
	defer d.release()
	if remove {
		if err := d.links.remove(d.index); err != nil {
			return fmt.Errorf("device %s: remove: %w", d.name, err)
		}
	}
	return nil
}

// release closes the sockets and overwrites what may hold keys.
func (d *Device) release() {
	d.known.devices.Add(-1)
	d.talk.close()
	d.links.close()
	clear(d.msg.b)
}

func (d *Device) usable(ctx context.Context) error {
	if d.closed.Load() {
		return fmt.Errorf("device %s: %w", d.name, wg.ErrClosed)
	}
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("device %s: %w", d.name, err)
	}
	return nil
}

// failed says what was being done, and what the kernel's answer means.
func (d *Device) failed(doing string, err error) error {
	errno, _ := errors.AsType[syscall.Errno](err)
	switch errno {
	case unix.ENODEV, unix.EOPNOTSUPP: // deleted, or even another kind of device with its index
		return fmt.Errorf("device %s: %s: %w: %w", d.name, doing, wg.ErrClosed, err)
	case unix.EPERM, unix.EACCES:
		err = unavailable(err)
	case unix.EADDRINUSE:
		doing += ": another program or device has the UDP port (`ss -ulpn` and `wg show all listen-port` tell which)"
	}
	return fmt.Errorf("device %s: %s: %w", d.name, doing, err)
}
