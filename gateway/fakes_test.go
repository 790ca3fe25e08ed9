package gateway

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"sitewire/bgp"
	"sitewire/gateway/host"
	"sitewire/gateway/wg"
	"sitewire/gateway/wg/wgtest"
	"sitewire/routes/routestest"
)

// journal is what was done, in order, by whomever.
type journal struct {
	mu    sync.Mutex
	lines []string
}

func (j *journal) add(format string, args ...any) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.lines = append(j.lines, fmt.Sprintf(format, args...))
}

// take returns what was noted since. Devices that were closed one after the other come by name: they are closed side by side.
func (j *journal) take() []string {
	j.mu.Lock()
	defer j.mu.Unlock()
	l := j.lines
	j.lines = nil
	closes := func(line string) bool { return strings.HasPrefix(line, "close ") || strings.HasPrefix(line, "leave ") }
	for from := 0; from < len(l); from++ {
		to := from
		for to < len(l) && closes(l[to]) {
			to++
		}
		slices.Sort(l[from:to])
		from = to
	}
	return l
}

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// fakeBackend makes fake devices that share the rig's journal and appear in the fake kernel.
type fakeBackend struct {
	t       *testing.T
	journal *journal
	world   *routestest.World
	mu      sync.Mutex
	devices map[string]*simDevice
	fail    func(op string) error // opening ("open NAME") and every line of every device
	missing error                 // why there is no backend
	lasting bool                  // devices go on without the gateway, as the kernel's do
}

// simDevice is a fake device in the fake kernel.
type simDevice struct {
	*wgtest.Fake
	backend *fakeBackend
	port    uint16
	// mtu that the device was last told, and how often it was told of a changed underlay.
	mtu, underlays atomic.Int64
	deaf           atomic.Int64 // so many polls fail
	age            atomic.Int64 // of what polls tell, in nanoseconds
	unreadable     atomic.Bool  // nobody can ask who owns what
}

// AllowedIPs fails if the test said so.
func (d *simDevice) AllowedIPs(ctx context.Context) ([]wg.AllowedIP, error) {
	if d.unreadable.Load() {
		return nil, errTest
	}
	return d.Fake.AllowedIPs(ctx)
}

// StatsTime is when the device was looked at for what Stats returns.
func (d *simDevice) StatsTime() time.Time { return time.Now().Add(-time.Duration(d.age.Load())) }

// Stats fails as often as the test said.
func (d *simDevice) Stats(ctx context.Context) ([]wg.PeerStats, error) {
	if d.deaf.Load() > 0 {
		d.deaf.Add(-1)
		return nil, errTest
	}
	return d.Fake.Stats(ctx)
}

// handle is a device that goes on without who opened it.
type handle struct {
	*simDevice
	adopted, closed bool
}

func (h *handle) Adopted() bool { return h.adopted }

func (h *handle) Close(remove bool) error {
	if h.closed {
		return nil
	}
	h.closed = true
	if remove {
		return h.simDevice.Close(true)
	}
	h.backend.journal.add("leave %s", h.Name())
	return nil
}

// MTUChanged and UnderlayChanged are what a userspace device has besides the methods of wg.Device.
func (d *simDevice) MTUChanged(mtu int) { d.mtu.Store(int64(mtu)) }
func (d *simDevice) UnderlayChanged()   { d.underlays.Add(1) }

// wrapped hides everything of a device but the methods of wg.Device, as the program's own devices do.
type wrapped struct{ wg.Device }

func (w wrapped) Unwrap() wg.Device { return w.Device }

func (b *fakeBackend) get(name string) (Backend, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return Backend{Name: "fake", Reason: "tests have no other", Open: b.open, Lasting: b.lasting, Remove: b.remove}, b.missing
}

func (b *fakeBackend) remove(_ context.Context, name string) error {
	if b.device(name) != nil {
		b.gone(name)
		b.journal.add("remove %s", name)
	}
	return nil
}

func (b *fakeBackend) failWith(f func(op string) error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.fail = f
}

func (b *fakeBackend) check(op string) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.fail == nil {
		return nil
	}
	return b.fail(op)
}

func (b *fakeBackend) open(_ context.Context, cfg wg.DeviceConfig) (wg.Device, error) {
	if err := b.check("open " + cfg.Name); err != nil {
		return nil, err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if d := b.devices[cfg.Name]; d != nil && b.lasting {
		b.journal.add("take over %s", cfg.Name)
		return wrapped{&handle{simDevice: d, adopted: true}}, nil
	}
	for name, d := range b.devices {
		if cfg.ListenPort != 0 && d.port == cfg.ListenPort {
			return nil, fmt.Errorf("port %d: in use by %s", cfg.ListenPort, name)
		}
	}
	d := &simDevice{Fake: wgtest.New(cfg), backend: b, port: cfg.ListenPort}
	d.FailWith(func(op string) error {
		if err := b.check(op); err != nil {
			return err
		}
		b.journal.add("%s", op)
		if strings.Contains(op, " allowed-ips -") {
			b.withdrawnFirst(cfg.Name, op)
		}
		return nil
	})
	b.devices[cfg.Name] = d
	b.world.AddDevice(cfg.Name)
	b.journal.add("open %s mtu %d", cfg.Name, cfg.MTU)
	if b.lasting {
		return wrapped{&handle{simDevice: d}}, nil
	}
	return wrapped{d}, nil
}

// device that is open under the name.
func (b *fakeBackend) device(name string) *simDevice {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.devices[name]
}

// vanish removes a device behind the gateway's back, as `ip link del` does.
func (b *fakeBackend) vanish(name string) {
	b.device(name).Fake.Close(true)
	b.gone(name)
}

func (b *fakeBackend) gone(name string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.devices, name)
	b.world.RemoveDevice(name)
}

func (b *fakeBackend) names() []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Sorted(maps.Keys(b.devices))
}

func (d *simDevice) Close(remove bool) error {
	closed, _ := d.Closed()
	err := d.Fake.Close(remove)
	if !closed && remove {
		d.backend.gone(d.Name())
		d.backend.journal.add("close %s remove", d.Name())
	} else if !closed {
		d.backend.journal.add("close %s", d.Name())
	}
	return err
}

// fakeHost writes down what changes.
type fakeHost struct {
	journal *journal
	mu      sync.Mutex
	links   map[string]string // as last set
	rules   *host.RulesConfig
	wall    string
	mtu     int
	fail    func(op string) error
}

func (h *fakeHost) failWith(f func(op string) error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.fail = f
}

func (h *fakeHost) check(op string) error {
	if h.fail == nil {
		return nil
	}
	return h.fail(op)
}

func (h *fakeHost) SetLink(_ context.Context, c host.LinkConfig) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	text := fmt.Sprintf("mtu %d %v up %t", c.MTU, c.Addresses, c.Up)
	if err := h.check("link " + c.Name); err != nil {
		return err
	}
	if h.links[c.Name] != text {
		h.links[c.Name] = text
		h.journal.add("link %s %s", c.Name, text)
	}
	return nil
}

func (h *fakeHost) SetRules(_ context.Context, c host.RulesConfig) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if err := h.check("rules"); err != nil {
		return err
	}
	if h.rules == nil || *h.rules != c {
		h.rules = &c
		h.journal.add("rules mark %#x table %d", c.Mark, c.Table)
	}
	return nil
}

func (h *fakeHost) SetFirewall(_ context.Context, c host.FirewallConfig) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if err := h.check("firewall"); err != nil {
		return err
	}
	if text := fmt.Sprintf("firewall port %d tunnels %v lan %v", c.BGPPort, c.TunnelDevices, c.LANNeighbours); h.wall != text {
		h.wall = text
		h.journal.add("%s", text)
	}
	return nil
}

func (h *fakeHost) PathMTU(_ context.Context, _ netip.Addr, _ uint32) (int, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.mtu, nil
}

func (h *fakeHost) Teardown(context.Context) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.journal.add("host teardown")
	h.rules, h.wall = nil, ""
	clear(h.links)
	return nil
}

// fakeSpeaker has the sessions that the test gives it.
type fakeSpeaker struct {
	journal  *journal
	changed  chan struct{}
	mu       sync.Mutex
	config   bgp.Config
	snapshot *bgp.Snapshot
	fail     func(bgp.Config) error
	broken   error // what Run returns at once
	restart  *bgp.Restart
}

func (s *fakeSpeaker) Run(ctx context.Context, restart *bgp.Restart) error {
	if s.broken != nil {
		return s.broken
	}
	if restart != nil {
		s.restart = restart
		s.journal.add("speaker begins again")
	} else {
		s.journal.add("speaker begins")
	}
	<-ctx.Done()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.config.KeepForwarding {
		s.journal.add("speaker ends without a word")
	} else {
		s.journal.add("speaker ends")
	}
	return nil
}

func (s *fakeSpeaker) Set(_ context.Context, c bgp.Config) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.fail != nil {
		if err := s.fail(c); err != nil {
			return err
		}
	}
	if text := s.note(c); text != "" {
		s.journal.add("%s", text)
	}
	return nil
}

// note keeps c and returns what is new in it.
func (s *fakeSpeaker) note(c bgp.Config) string {
	text := func(c bgp.Config) string {
		var names, announced []string
		for _, n := range c.Neighbours {
			names = append(names, n.Name)
		}
		for _, a := range c.Announce {
			announced = append(announced, a.Prefix.String())
		}
		return fmt.Sprintf("bgp %v announces %v endpoints %v", names, announced, c.Endpoints)
	}
	old := text(s.config)
	s.config = c
	if now := text(c); now != old {
		return now
	}
	return ""
}

func (s *fakeSpeaker) SetLiveness(neighbour string, alive bool) {
	s.journal.add("bgp %s alive %t", neighbour, alive)
}

func (s *fakeSpeaker) Snapshot() *bgp.Snapshot {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.snapshot
}

func (s *fakeSpeaker) set(sessions ...bgp.Session) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.snapshot = &bgp.Snapshot{Time: time.Now(), Sessions: sessions}
}

func (s *fakeSpeaker) Changed() <-chan struct{} { return s.changed }

// fakeNames answers what the test says.
type fakeNames struct {
	mu      sync.Mutex
	answers map[string][]netip.Addr
	fail    error
	slow    map[string]bool // never answers
	asked   int
}

func (n *fakeNames) set(name string, addrs ...string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.answers[name] = nil
	for _, a := range addrs {
		n.answers[name] = append(n.answers[name], ip(a))
	}
}

func (n *fakeNames) setFailure(err error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.fail = err
}

func (n *fakeNames) resolve(ctx context.Context, name string) ([]netip.Addr, error) {
	n.mu.Lock()
	slow, fail, answer := n.slow[name], n.fail, n.answers[name]
	n.asked++
	n.mu.Unlock()
	if slow {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	if fail == nil && answer == nil {
		fail = errors.New("no such host")
	}
	return slices.Clone(answer), fail
}

func (n *fakeNames) count() int {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.asked
}
