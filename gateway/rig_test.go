package gateway

import (
	"context"
	"errors"
	"flag"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"sitewire/bgp"
	"sitewire/gateway/config"
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
	r.make(text)
	t.Cleanup(func() { r.noSecrets("the log", r.log.String()) })
	return r
}

// make makes a gateway in this world, which another one may have been in before.
func (r *rig) make(text string) {
	r.t.Helper()
	r.write(text)
	cfg, err := r.load("")
	if err != nil {
		r.t.Fatal(err)
	}
	r.gw = New(Options{
		Config: cfg, Load: r.load, Backend: r.backend.get, Host: r.host, FIB: r.world.FIB(), Feed: r.feed, Resolver: r.names.resolve,
		NewSpeaker: func(c bgp.Config, _ bgp.Sink) Speaker {
			r.speaker = &fakeSpeaker{journal: r.journal, changed: make(chan struct{}, 1), snapshot: &bgp.Snapshot{}}
			r.speaker.note(c)
			return r.speaker
		},
		StateDir: filepath.Join(r.dir, "state"),

		Log: slog.New(slog.NewTextHandler(r.log, &slog.HandlerOptions{Level: slog.LevelDebug})), Version: "v0",
	})
}

// again is a new process after the one before has ended.
func (r *rig) again(text string) {
	r.t.Helper()
	r.feed, r.ended = routes.NewFeed(), make(chan error, 1)
	r.make(text)
	r.run()
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
	for _, name := range []string{"nyc", "nyc-2", "store", "ams", "zrh", "four", "lte", "off", "plain", "sleepy"} {
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
