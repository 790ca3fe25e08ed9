package gateway

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"sitewire/bgp"
	"sitewire/gateway/config"
	"sitewire/gateway/host"
	"sitewire/gateway/wg"
	"sitewire/gateway/wg/wgtest"
	"sitewire/routes"
	"sitewire/routes/routestest"
)

var update = flag.Bool("update", false, "rewrite golden files")

var errTest = errors.New("injected failure")

// Secrets of the rig's configurations, beside the private keys of wgtest.
const testPassword = "correct-horse-battery"

// rig is a gateway over fakes that write down what is done to them, in one journal. Use it inside synctest: its clock
// is the bubble's.
type rig struct {
	t       *testing.T
	dir     string
	gw      *Gateway
	feed    *routes.Feed
	world   *routestest.World
	host    *fakeHost
	speaker *fakeSpeaker
	names   *fakeNames
	backend *fakeBackend
	journal *journal
	log     *lockedBuffer
	ended   chan error
}

// newRig makes a gateway with the configuration; it does not run yet. DIR and KEY(name) in the text are replaced.
func newRig(t *testing.T, text string) *rig {
	t.Helper()
	r := &rig{
		t: t, dir: t.TempDir(), feed: routes.NewFeed(), journal: &journal{}, log: &lockedBuffer{}, ended: make(chan error, 1),
		world: routestest.NewWorld(nil, map[string]netip.Prefix{"eth0": pfx("10.0.0.0/24")}),
		names: &fakeNames{answers: map[string][]netip.Addr{}},
	}
	r.world.After(func(op routes.Op) {
		r.journal.add("%s", op)
		r.allowedFirst(op)
	})
	r.host = &fakeHost{journal: r.journal, links: map[string]string{}, mtu: 1500}
	r.backend = &fakeBackend{t: t, journal: r.journal, world: r.world, devices: map[string]*simDevice{}}
	for name, secret := range map[string]string{"private.key": wgtest.PrivateKey("own").Reveal(), "psk": wgtest.PrivateKey("psk").Reveal(), "password": testPassword} {
		writeFile(t, filepath.Join(r.dir, name), secret+"\n")
	}
	r.write(text)
	cfg, err := r.load("")
	if err != nil {
		t.Fatal(err)
	}
	r.gw = New(Options{
		Config: cfg, Load: r.load, Backend: r.backend.get, Host: r.host, FIB: r.world.FIB(), Feed: r.feed, Resolver: r.names.resolve,
		NewSpeaker: func(c bgp.Config, _ bgp.Sink) Speaker {
			r.speaker = &fakeSpeaker{journal: r.journal, changed: make(chan struct{}, 1), snapshot: &bgp.Snapshot{}}
			r.speaker.note(c)
			return r.speaker
		},
		Log: slog.New(slog.NewTextHandler(r.log, &slog.HandlerOptions{Level: slog.LevelDebug})), Version: "v0",
	})
	t.Cleanup(func() { r.noSecrets("the log", r.log.String()) })
	return r
}

// running makes a gateway and runs it; the journal begins when it is ready.
func running(t *testing.T, text string) *rig {
	t.Helper()
	r := newRig(t, text)
	r.run()
	select {
	case <-r.gw.Ready():
	default:
		t.Fatalf("not ready; log:\n%s", r.log.String())
	}
	r.journal.take()
	return r
}

// run starts the gateway and waits until nothing moves.
func (r *rig) run() {
	r.t.Helper()
	ctx, cancel := context.WithCancel(r.t.Context())
	go func() { r.ended <- r.gw.Run(ctx) }()
	r.t.Cleanup(cancel)
	synctest.Wait()
}

// stop ends the gateway and returns what Run returned.
func (r *rig) stop(teardown bool) error {
	r.gw.Stop(teardown)
	return <-r.ended
}

// after lets time go by.
func (r *rig) after(d time.Duration) {
	time.Sleep(d) // of the bubble
	synctest.Wait()
}

func (r *rig) load(path string) (*config.Config, error) {
	if path == "" {
		path = filepath.Join(r.dir, "sitewire.yaml")
	}
	return config.Load(path, config.Options{})
}

func (r *rig) write(text string) {
	r.t.Helper()
	text = strings.ReplaceAll(text, "DIR", r.dir)
	for _, name := range []string{"nyc", "nyc-2", "store", "ams", "zrh"} {
		text = strings.ReplaceAll(text, "KEY("+name+")", wgtest.Peer(name).PublicKey.String())
	}
	writeFile(r.t, filepath.Join(r.dir, "sitewire.yaml"), text)
}

// reload puts another text in force, as `sitewire reload` does.
func (r *rig) reload(text string) error {
	r.t.Helper()
	r.write(text)
	_, err := r.gw.Reload(r.t.Context(), "api")
	synctest.Wait()
	return err
}

func (r *rig) mustReload(text string) {
	r.t.Helper()
	if err := r.reload(text); err != nil {
		r.t.Fatal(err)
	}
}

// did compares what happened since the last call with lines of text. What the speaker is told and what becomes of
// routes is compared apart from the rest: BGP and the syncer follow the tunnels by themselves.
func (r *rig) did(want string) {
	r.t.Helper()
	apart := func(lines []string) []string {
		var of [3][]string
		for _, l := range lines {
			switch word, _, _ := strings.Cut(l, " "); word {
			case "bgp":
				of[0] = append(of[0], l)
			case "install", "withdraw":
				of[1] = append(of[1], l)
			default:
				of[2] = append(of[2], l)
			}
		}
		return slices.Concat(of[:]...)
	}
	if diff := cmp.Diff(apart(lines(want)), apart(r.journal.take())); diff != "" {
		r.t.Errorf("operations (-want +got):\n%s", diff)
	}
}

// didInOrder compares what one goroutine did: a start, a reload or a stop.
func (r *rig) didInOrder(want string) {
	r.t.Helper()
	if diff := cmp.Diff(lines(want), r.journal.take()); diff != "" {
		r.t.Errorf("operations (-want +got):\n%s", diff)
	}
}

// hear lets the peer answer: a handshake and some bytes, from its endpoint or, if it is given, another.
func (r *rig) hear(deviceName, peer string, from ...string) {
	r.t.Helper()
	ok := r.backend.device(deviceName).Update(wgtest.Peer(peer).PublicKey, func(s *wg.PeerStats) {
		s.LastHandshake = time.Now()
		s.ReceiveBytes += 148
		for _, f := range from {
			s.Endpoint = netip.MustParseAddrPort(f)
		}
	})
	if !ok {
		r.t.Fatalf("%s has no peer %s", deviceName, peer)
	}
	r.after(time.Second)
}

// tunnel returns the snapshot of one.
func (r *rig) tunnel(peer string) wg.Tunnel {
	r.t.Helper()
	for _, x := range r.gw.Tunnels() {
		if x.Peer == peer {
			return x
		}
	}
	r.t.Fatalf("no tunnel to %s", peer)
	return wg.Tunnel{}
}

func (r *rig) wantState(peer string, s wg.TunnelState, reason string) {
	r.t.Helper()
	if x := r.tunnel(peer); x.State != s || !strings.Contains(x.Reason, reason) {
		r.t.Errorf("tunnel %s is %s (%s), want %s (%s)", peer, x.State, x.Reason, s, reason)
	}
}

func (r *rig) wantEndpoint(peer, want string) {
	r.t.Helper()
	if got := r.tunnel(peer).Endpoint.String(); got != want {
		r.t.Errorf("endpoint of %s is %s, want %s", peer, got, want)
	}
}

// learn gives the gateway a best path through a neighbour.
func (r *rig) learn(neighbour, prefix string) {
	r.feed.PutPath(neighbour, pfx(prefix), &routes.Path{
		NextHop: ip("fe80::2%wg-nyc"), Received: time.Now(), Session: 1, Attrs: &routes.Attrs{ASPath: []uint32{4242420002}, Origin: "igp", LocalPref: 100},
	})
	r.feed.PutBest(routes.BestChange{Prefix: pfx(prefix), Neighbour: neighbour, NextHop: ip("fe80::2%wg-nyc"), Replace: true, At: time.Now()})
	r.after(10 * time.Millisecond)
}

// allowedFirst fails if a route is installed through a tunnel that the prefix is not allowed on.
func (r *rig) allowedFirst(op routes.Op) {
	if op.Kind != routes.Install {
		return
	}
	for _, h := range op.Route.Hops {
		d := r.backend.device(h.Device)
		if d == nil {
			continue // not a tunnel
		}
		if _, ok := d.Owner(op.Route.Prefix); !ok {
			r.t.Errorf("%s: nobody on %s owns the prefix", op, h.Device)
		}
	}
}

// withdrawnFirst fails if an allowed-IP or a device goes while a route relies on it.
func (b *fakeBackend) withdrawnFirst(device, op string) {
	_, prefix, taken := strings.Cut(op, " allowed-ips -")
	for _, x := range b.world.Routes() {
		if taken && x.Prefix.String() != prefix {
			continue
		}
		if slices.ContainsFunc(x.Hops, func(h routes.Hop) bool { return h.Device == device }) {
			b.t.Errorf("%s: the route %s is still there", op, x)
		}
	}
}

// noSecrets fails if a text has a key or password in any form.
func (r *rig) noSecrets(what, text string) {
	r.t.Helper()
	for _, s := range []wg.Secret{wgtest.PrivateKey("own"), wgtest.PrivateKey("psk")} {
		if strings.Contains(text, s.Reveal()) || strings.Contains(text, s.Hex()) {
			r.t.Errorf("a key is in %s", what)
		}
	}
	if strings.Contains(text, testPassword) {
		r.t.Errorf("the password is in %s", what)
	}
}

func pfx(s string) netip.Prefix { return netip.MustParsePrefix(s) }
func ip(s string) netip.Addr    { return netip.MustParseAddr(s) }

func lines(s string) (out []string) {
	for l := range strings.Lines(s) {
		if l = strings.TrimSpace(l); l != "" {
			out = append(out, l)
		}
	}
	return out
}

func writeFile(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

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

func (j *journal) take() []string {
	j.mu.Lock()
	defer j.mu.Unlock()
	l := j.lines
	j.lines = nil
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
}

// simDevice is a fake device in the fake kernel.
type simDevice struct {
	*wgtest.Fake
	backend *fakeBackend
	port    uint16
}

func (b *fakeBackend) get(name string) (Backend, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return Backend{Name: "fake", Open: b.open}, b.missing
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
	for name, d := range b.devices {
		if cfg.ListenPort != 0 && d.port == cfg.ListenPort {
			return nil, fmt.Errorf("port %d: in use by %s", cfg.ListenPort, name)
		}
	}
	d := &simDevice{wgtest.New(cfg), b, cfg.ListenPort}
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
	return d, nil
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
}

func (s *fakeSpeaker) Run(ctx context.Context) error {
	if s.broken != nil {
		return s.broken
	}
	s.journal.add("speaker begins")
	<-ctx.Done()
	s.journal.add("speaker ends")
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

// keepHearing lets the peer answer every half minute.
func (r *rig) keepHearing(deviceName, peer string, d time.Duration) {
	r.t.Helper()
	for range d / (30 * time.Second) {
		r.hear(deviceName, peer)
		r.after(29 * time.Second)
	}
}

// until waits for a tunnel to get into a state.
func (r *rig) until(peer string, s wg.TunnelState) {
	r.t.Helper()
	for range 600 {
		if r.tunnel(peer).State == s {
			return
		}
		r.after(time.Second)
	}
	r.t.Fatalf("tunnel %s is still %s, want %s", peer, r.tunnel(peer).State, s)
}
