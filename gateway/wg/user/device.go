package user

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strings"
	"sync"

	"golang.zx2c4.com/wireguard/device"
	"golang.zx2c4.com/wireguard/tun"

	"sitewire/gateway/wg"
)

// DefaultMTU leaves room for WireGuard over IPv6 on an Ethernet underlay of 1500 bytes: 40 + 8 + 32.
const DefaultMTU = 1420

// Options of a Device. The zero value is usable.
type Options struct {
	// Logger of the device; nil discards.
	Logger *slog.Logger
	// ControlDir is the directory of the UAPI socket, ControlDir by default. NoControl does without the socket.
	ControlDir string
	NoControl  bool
	// Underlay is the path of the network namespace of the UDP sockets, such as /run/netns/wan.
	// "" is the namespace that Open is called in, which is always that of the interface.
	Underlay string
	// Interface to bind the UDP sockets to (SO_BINDTODEVICE): uplink pinning. "" is none.
	Interface string
}

// Opener binds the options to Open.
func (o Options) Opener() wg.Opener {
	return func(ctx context.Context, cfg wg.DeviceConfig) (wg.Device, error) {
		d, err := Open(ctx, cfg, o)
		if err != nil {
			return nil, err
		}
		return d, nil
	}
}

// Device is a WireGuard interface in this process.
type Device struct {
	name    string
	log     *slog.Logger
	dev     *device.Device
	tun     tun.Device
	bind    *Bind // nil if a test brought another one
	ns      *os.File
	control *control
	access  *accessor // nil: read the text

	mu      sync.Mutex // one change at a time
	closing sync.Once
	closeOK error
}

var _ wg.Device = (*Device)(nil)

// Open creates the interface in the network namespace of the calling thread, starts WireGuard on it, and leaves the link
// down and without addresses. It fails with wg.ErrLinkExists, and touches nothing, if a link of that name exists. A UAPI
// socket that cannot be made costs a warning and `wg show`, nothing else.
func Open(ctx context.Context, cfg wg.DeviceConfig, o Options) (_ *Device, err error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	if cfg.MTU == 0 {
		cfg.MTU = DefaultMTU
	}
	log := o.Logger
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	log = log.With("device", cfg.Name)
	// The namespace is remembered: sockets are opened again, from any thread, when the port changes.
	ns, err := currentNamespace()
	if err == nil && o.Underlay != "" {
		err = ns.Close()
		if err == nil {
			ns, err = os.Open(o.Underlay)
		}
	}
	if err != nil {
		return nil, fmt.Errorf("device %s: underlay: %w", cfg.Name, err)
	}
	t, err := openTUN(ctx, cfg.Name, cfg.MTU, log)
	if err != nil {
		return nil, errors.Join(err, ns.Close())
	}
	d := newDevice(cfg.Name, t, NewBind(BindOptions{Logger: log, Namespace: ns, Interface: o.Interface}), log)
	d.ns = ns
	if err := d.start(cfg); err != nil {
		return nil, errors.Join(err, d.Close(true))
	}
	if !o.NoControl {
		dir := o.ControlDir
		if dir == "" {
			dir = ControlDir
		}
		if d.control, err = listenControl(dir, cfg.Name, d.dev.IpcHandle); err != nil {
			log.Warn("no UAPI socket: `wg show` will not find this device", "error", err)
		}
	}
	return d, nil
}

// newDevice runs wireguard-go on any TUN and bind.
func newDevice(name string, t tun.Device, bind *Bind, log *slog.Logger) *Device {
	d := &Device{name: name, log: log, tun: t, bind: bind}
	var err error
	if d.access, err = newAccessor(); err != nil {
		log.Warn("statistics are read the slow way, and packets carried with wireguard-go's own buffers", "error", err)
	}
	g := &gate{Device: t, ready: make(chan struct{})}
	d.dev = device.NewDevice(g, bind, deviceLogger(log))
	if d.access != nil {
		d.access.exchangeBuffers(d.dev)
	}
	close(g.ready)
	return d
}

// start gives the device its key, port and mark, and opens the sockets.
func (d *Device) start(cfg wg.DeviceConfig) error {
	text := fmt.Sprintf("private_key=%s\nlisten_port=%d\nfwmark=%d\n", cfg.PrivateKey.Hex(), cfg.ListenPort, cfg.FirewallMark)
	if err := d.set(text, "settings"); err != nil {
		return err
	}
	if err := d.dev.Up(); err != nil {
		return fmt.Errorf("device %s: %w", d.name, err)
	}
	return nil
}

// Name of the interface.
func (d *Device) Name() string { return d.name }

// Done is closed when the device has stopped, be it that its interface was deleted from outside.
func (d *Device) Done() <-chan struct{} { return d.dev.Wait() }

// ListenPort returns the UDP port in use, which the kernel may have chosen.
func (d *Device) ListenPort() uint16 { return d.bind.Port() }

// UnderlayChanged makes the next datagram to each peer check its sticky source; see Bind.UnderlayChanged.
func (d *Device) UnderlayChanged() { d.bind.UnderlayChanged() }

// MTUChanged must be told the new MTU of the interface, in bytes, whenever it is set: encrypted packets are padded up to
// it, and a stale value makes full packets up to 15 bytes too long for the underlay.
func (d *Device) MTUChanged(mtu int) {
	if t, ok := d.tun.(*batchTUN); ok {
		t.changeMTU(mtu)
	}
}

// Apply implements wg.Device.
func (d *Device) Apply(ctx context.Context, delta wg.Delta) error {
	if err := delta.Validate(); err != nil {
		return fmt.Errorf("device %s: %w", d.name, err)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := d.usable(ctx); err != nil {
		return err
	}
	if delta.Device != nil {
		if err := d.settings(*delta.Device); err != nil {
			return err
		}
	}
	for _, p := range delta.SetPeers {
		var b strings.Builder
		peerText(&b, p)
		if err := d.set(b.String(), "peer "+p.PublicKey.String()); err != nil {
			return err
		}
	}
	for i, a := range delta.Allow {
		// wireguard-go would skip it silently, and the route that follows would lead nowhere.
		if i > 0 && a.Peer == delta.Allow[i-1].Peer {
			continue
		}
		if d.dev.LookupPeer(device.NoisePublicKey(a.Peer)) == nil {
			return fmt.Errorf("device %s: peer %s: allowed-IP %s: %w", d.name, a.Peer, a.Prefix, wg.ErrNoPeer)
		}
	}
	if err := d.entries(ctx, delta.Allow, ""); err != nil {
		return err
	}
	if err := d.entries(ctx, delta.Disallow, "-"); err != nil {
		return err
	}
	for _, k := range delta.RemovePeers {
		d.dev.RemovePeer(device.NoisePublicKey(k))
	}
	return nil
}

// settings changes the device's own settings, and only what differs: setting the port closes and opens the sockets.
func (d *Device) settings(c wg.DeviceConfig) error {
	text := fmt.Sprintf("private_key=%s\nfwmark=%d\n", c.PrivateKey.Hex(), c.FirewallMark)
	if err := d.set(text, "private key and firewall mark"); err != nil {
		return err
	}
	old := d.bind.Port()
	if c.ListenPort == 0 || c.ListenPort == old {
		return nil
	}
	err := d.set(fmt.Sprintf("listen_port=%d\n", c.ListenPort), fmt.Sprintf("listen port %d", c.ListenPort))
	if err == nil || old == 0 {
		return err
	}
	// wireguard-go closed the old sockets first and is left without any.
	return errors.Join(err, d.set(fmt.Sprintf("listen_port=%d\n", old), fmt.Sprintf("back to listen port %d", old)))
}

// texts are for the text of allowed-IPs, which is long while a table comes in.
var texts = sync.Pool{New: func() any { return new(bytes.Buffer) }}

func (d *Device) entries(ctx context.Context, list []wg.AllowedIP, sign string) error {
	b := texts.Get().(*bytes.Buffer)
	defer texts.Put(b)
	for len(list) > 0 {
		if err := ctx.Err(); err != nil {
			return fmt.Errorf("device %s: %w", d.name, err)
		}
		n := min(chunk, len(list))
		b.Reset()
		allowedText(b, list[:n], sign)
		if err := d.setFrom(b, "allowed-IPs"); err != nil {
			return err
		}
		list = list[n:]
	}
	return nil
}

// set runs one UAPI operation. Its error says what was set, and the number of the failure, but never the text.
func (d *Device) set(text, what string) error { return d.setFrom(strings.NewReader(text), what) }

// setFrom is set with a text that is read.
func (d *Device) setFrom(text io.Reader, what string) error {
	err := d.dev.IpcSetOperation(text)
	if err == nil {
		return nil
	}
	if closed := d.usable(context.Background()); closed != nil {
		return closed
	}
	if ipc, ok := errors.AsType[*device.IPCError](err); ok {
		return fmt.Errorf("device %s: %s: %w", d.name, what, ipcErrno(ipc))
	}
	return fmt.Errorf("device %s: %s: unexpected error of type %T", d.name, what, err)
}

func (d *Device) usable(ctx context.Context) error {
	select {
	case <-d.dev.Wait():
		return fmt.Errorf("device %s: %w", d.name, wg.ErrClosed)
	default:
	}
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("device %s: %w", d.name, err)
	}
	return nil
}

// Stats implements wg.Device. It does not read allowed-IPs, and takes none of the locks that traffic needs for long.
func (d *Device) Stats(ctx context.Context) ([]wg.PeerStats, error) {
	if err := d.usable(ctx); err != nil {
		return nil, err
	}
	if d.access != nil {
		peers := d.access.peers(d.dev)
		out := make([]wg.PeerStats, 0, len(peers))
		for k, p := range peers {
			out = append(out, d.access.stats(k, p))
		}
		return out, nil
	}
	peers, err := d.get()
	if err != nil {
		return nil, err
	}
	out := make([]wg.PeerStats, 0, len(peers))
	for _, p := range peers {
		out = append(out, p.stats)
	}
	return out, nil
}

// AllowedIPs implements wg.Device.
func (d *Device) AllowedIPs(ctx context.Context) ([]wg.AllowedIP, error) {
	if err := d.usable(ctx); err != nil {
		return nil, err
	}
	if d.access != nil {
		return d.access.allowedIPs(d.dev), nil
	}
	peers, err := d.get()
	if err != nil {
		return nil, err
	}
	var out []wg.AllowedIP
	for _, p := range peers {
		for _, prefix := range p.allowed {
			out = append(out, wg.AllowedIP{Prefix: prefix, Peer: p.stats.PublicKey})
		}
	}
	return out, nil
}

// get reads the whole device as text, and overwrites the text, which holds the private key.
func (d *Device) get() ([]uapiPeer, error) {
	var text bytes.Buffer
	defer func() { clear(text.Bytes()) }()
	if err := d.dev.IpcGetOperation(&text); err != nil {
		return nil, fmt.Errorf("device %s: read: %w", d.name, err)
	}
	peers, err := parseGet(bytes.NewReader(text.Bytes()))
	if err != nil {
		return nil, fmt.Errorf("device %s: %w", d.name, err)
	}
	return peers, nil
}

// Close implements wg.Device. The interface, the sockets and the UAPI socket disappear whatever remove says.
func (d *Device) Close(bool) error {
	d.closing.Do(func() {
		d.closeOK = d.control.close()
		d.dev.Close()
		<-d.dev.Wait()
		if d.ns != nil {
			d.closeOK = errors.Join(d.closeOK, d.ns.Close())
		}
	})
	if d.closeOK != nil {
		return fmt.Errorf("device %s: close: %w", d.name, d.closeOK)
	}
	return nil
}
