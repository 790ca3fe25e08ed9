// Package gateway is the daemon: it turns a configuration into tunnels, BGP sessions and routes, and keeps them so.
//
// Job: life-cycle of the parts, Apply of a configuration, the status API.
// Owner: the Gateway's Run goroutine owns which configuration is in force; tunnels own devices; the syncer owns routes.
// Inputs: *config.Config; wake-ups of the parts.
// Outputs: status, explanations; everything else happens through the parts.
// Invariants: a configuration is validated before anything of it is applied; what did not change is not touched; new
// is made before old is removed; netlink, GoBGP and Prometheus stay behind interfaces.
package gateway

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"sitewire/bgp"
	"sitewire/bgp/rpki"
	"sitewire/gateway/config"
	"sitewire/gateway/host"
	"sitewire/gateway/probe"
	"sitewire/gateway/wg"
	"sitewire/routes"
)

// Host is what the gateway asks of the machine besides devices and routes.
type Host interface {
	SetLink(context.Context, host.LinkConfig) error
	SetRules(context.Context, host.RulesConfig) error
	SetFirewall(context.Context, host.FirewallConfig) error
	PathMTU(ctx context.Context, endpoint netip.Addr, mark uint32) (int, error)
	Teardown(context.Context) error
}

// Speaker is the BGP speaker.
type Speaker interface {
	Run(context.Context, *bgp.Restart) error
	Set(context.Context, bgp.Config) error
	SetLiveness(neighbour string, alive bool)
	Snapshot() *bgp.Snapshot
	Changed() <-chan struct{}
}

// Prober sends echoes through the tunnels.
type Prober interface {
	Set([]probe.Target)
	Snapshot() []*probe.Stats
}

// Options of a Gateway. All are needed unless said otherwise.
type Options struct {
	Config *config.Config
	// Load reads the configuration again, for a reload; with a path it reads that file, for a diff.
	Load func(path string) (*config.Config, error)
	// Backend returns the backend for a configured name, or says why it cannot be had.
	Backend func(name string) (Backend, error)
	Host    Host
	FIB     routes.FIB
	// Switcher of the FIB; nil if it has none.
	Switcher routes.Switcher
	// KernelRoute asks the kernel for the route that it uses for an address, whoever wrote it: its text, empty if there
	// is none, and whether it is ours. Only for explanations; may be nil.
	KernelRoute func(context.Context, netip.Addr) (text string, ours bool, err error)
	NewSpeaker  func(bgp.Config, bgp.Sink) Speaker
	// Prober is told what to probe; whoever made it runs it. Nil probes nothing.
	Prober   Prober
	Resolver Resolver
	Log      *slog.Logger
	Version  string
	// Poll is the period of reading the devices' statistics; 0 means one second.
	Poll time.Duration
	// LinkCounters reads the packet counters of tunnel devices, by name; nil leaves them alone.
	LinkCounters func(context.Context) (map[string]wg.LinkCounters, error)
	// StateDir is where what goes on without this process is written down; empty keeps nothing.
	StateDir string
	// BootID of the kernel (/proc/sys/kernel/random/boot_id): what was written down in another boot is not there any more.
	BootID string
	// Feed is made by New if nil.
	Feed *routes.Feed
}

// Gateway is one running daemon.
type Gateway struct {
	o       Options
	log     *slog.Logger
	tunnels *tunnels
	feed    *routes.Feed
	syncer  *routes.Syncer
	speaker Speaker
	origins *rpki.Manager
	ready   chan struct{}
	applies chan applyRequest
	started time.Time

	// Owned by Run.
	alive     map[string]bool // by peer, as the speaker was told
	sessions  sessionLog
	waiting   bool // for the tunnel of a session that was given up
	lastSpeak bgp.Config
	spoken    bool
	refilled  uint64                // tunnelIndex.remade that the syncer was told of
	cleared   bool                  // what an earlier run left has gone
	restarts  bool                  // forwarding went on before this process
	known     map[string]remembered // by neighbour, what a restart of ours should know
	troubles  map[string]string     // what fails now, as last logged

	current  atomic.Pointer[inForce]
	reloads  reloadCounters
	teardown atomic.Bool
	beat     atomic.Int64 // Unix nanoseconds of the loop's last turn
	stopping chan struct{}
	stopOnce sync.Once
	ended    chan struct{} // closed when nothing is applied any more
}

// inForce is a configuration and when it came to be. Immutable.
type inForce struct {
	cfg  *config.Config
	info ConfigInfo
}

type applyRequest struct {
	ctx     context.Context
	cfg     *config.Config
	trigger string
	reply   chan error
}

// New makes a Gateway that has not touched anything yet.
func New(o Options) *Gateway {
	if o.Feed == nil {
		o.Feed = routes.NewFeed()
	}
	if o.Poll == 0 {
		o.Poll = time.Second
	}
	g := &Gateway{
		o:       o,
		log:     o.Log,
		tunnels: newTunnels(o),
		feed:    o.Feed,
		ready:   make(chan struct{}),
		applies: make(chan applyRequest),
		started: time.Now(),
		alive:   map[string]bool{},

		troubles: map[string]string{},
		stopping: make(chan struct{}),
		ended:    make(chan struct{}),
	}
	g.sessions.log = o.Log
	g.tunnels.inTunnel = g.inTunnel
	g.syncer = routes.New(routes.Options{FIB: o.FIB, Tunnels: g.tunnels, Feed: g.feed, Switcher: o.Switcher, Log: o.Log})
	g.origins = rpki.New(rpki.Options{Config: rpkiConfig(o.Config), Log: o.Log.With("part", "rpki")})
	g.speaker = o.NewSpeaker(g.speech(o.Config, nil), g.feed)
	g.current.Store(&inForce{cfg: o.Config, info: ConfigInfo{
		Path: o.Config.Path, Hash: hash(o.Config), Generation: 1, Applied: time.Now(),
	}})
	return g
}

func (g *Gateway) String() string { return "gateway" }

// Ready is closed once the first configuration is in place.
func (g *Gateway) Ready() <-chan struct{} { return g.ready }

// Config in force.
func (g *Gateway) Config() *config.Config { return g.current.Load().cfg }

// Tunnels, Sessions and Routing return the newest snapshots, for metrics.
func (g *Gateway) Tunnels() []wg.Tunnel      { return *g.tunnels.snapshot.Load() }
func (g *Gateway) Sessions() *bgp.Snapshot   { return g.speaker.Snapshot() }
func (g *Gateway) Routing() *routes.Status   { return g.syncer.Snapshot() }
func (g *Gateway) Origins() *rpki.Snapshot   { return g.origins.Snapshot() }
func (g *Gateway) Heartbeat() time.Time      { return time.Unix(0, g.beat.Load()) }
func (g *Gateway) ConfigInfo() ConfigInfo    { return g.current.Load().info }
func (g *Gateway) ReloadCounts() ReloadCount { return g.reloads.load() }

// Stop ends Run. With teardown everything that the gateway made in the system is removed; without, whatever can go on
// without this process (kernel devices, their routes) does, and so it does when Run fails.
func (g *Gateway) Stop(teardown bool) {
	g.stopOnce.Do(func() {
		g.teardown.Store(teardown)
		close(g.stopping)
	})
}

// Run brings the configuration up and keeps it until ctx ends or Stop is called. An error means that the gateway could
// not start or that a part of it broke; a clean stop returns nil.
func (g *Gateway) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() {
		select {
		case <-g.stopping:
			cancel()
		case <-ctx.Done():
		}
	}()

	// The parts end after the speaker: sessions go first, then routes and tunnels.
	parts, endParts := context.WithCancel(context.WithoutCancel(ctx))
	defer endParts()
	group, groupCtx := errgroup.WithContext(parts)
	group.Go(func() error { return named(g.tunnels, g.tunnels.Run(groupCtx)) })
	group.Go(func() error { return named(g.syncer, g.syncer.Run(groupCtx)) })
	group.Go(func() error { return named(g.origins, g.origins.Run(groupCtx)) })

	err := g.start(ctx)
	started := err == nil
	if started {
		err = g.serve(ctx, groupCtx)
	}
	close(g.ended)
	if ctx.Err() != nil && errors.Is(err, context.Canceled) {
		err = nil // stopped while it started
	}
	// What fails is tried again by whoever watches over the process: what forwards then goes on.
	remove := g.teardown.Load() || err != nil && !g.tunnels.earlier.Load() && !(started && g.tunnels.Lasting())
	if remove {
		err = errors.Join(err, g.removeAll())
	}
	endParts()
	if e := group.Wait(); !errors.Is(e, context.Canceled) {
		err = errors.Join(err, e)
	}
	// A start that failed does not cost its owner a device that was taken over.
	g.tunnels.Close(remove, g.teardown.Load())
	return err
}

func named(task fmt.Stringer, err error) error {
	if err == nil || errors.Is(err, context.Canceled) {
		return err
	}
	return fmt.Errorf("%s: %w", task, err)
}

// start makes everything but the sessions.
func (g *Gateway) start(ctx context.Context) error {
	cfg := g.Config()
	specs := deviceSpecs(cfg)
	if err := g.tunnels.Recall(ctx, specs); err != nil {
		return err
	}
	g.setProbes(cfg, nil)
	if err := g.o.Host.SetRules(ctx, rulesConfig(cfg)); err != nil {
		return fmt.Errorf("policy rules: %w", err)
	}
	g.setFirewall(ctx, cfg)
	if err := g.tunnels.Add(ctx, specs); err != nil {
		return err
	}
	var err error
	if g.restarts, err = g.tunnels.Kept(ctx); err != nil {
		return err
	}
	return g.syncer.SetPolicy(ctx, routesPolicy(cfg))
}

// setFirewall guards and clamps. A kernel without nftables loses both and keeps the rest.
func (g *Gateway) setFirewall(ctx context.Context, cfg *config.Config) {
	err := g.o.Host.SetFirewall(ctx, firewallConfig(cfg))
	g.note(ctx, "no firewall: the BGP port is not guarded and TCP segments are not clamped", err)
}

// note logs what fails again and again when it begins, and when it changes. Without an error it is over.
func (g *Gateway) note(ctx context.Context, what string, err error) {
	switch {
	case err == nil:
		delete(g.troubles, what)
	case ctx.Err() == nil && g.troubles[what] != err.Error():
		g.troubles[what] = err.Error()
		g.log.Warn(what, "error", err)
	}
}

// serve is the gateway's loop.
func (g *Gateway) serve(ctx, parts context.Context) error {
	speaking, hush := context.WithCancel(context.WithoutCancel(ctx))
	defer hush()
	spoke := make(chan error, 1)
	restart := g.restart(ctx)
	go func() { spoke <- g.speaker.Run(speaking, restart) }()
	defer func() { g.fallSilent(ctx); hush(); <-spoke }()

	close(g.ready)
	care, guard, pulse := time.NewTicker(5*time.Second), time.NewTicker(30*time.Second), time.NewTicker(g.o.Poll)
	defer pulse.Stop()
	defer care.Stop()
	defer guard.Stop()
	for {
		g.beat.Store(time.Now().UnixNano())
		select {
		case <-ctx.Done():
			return nil
		case <-parts.Done():
			return nil // the group's error says why
		case err := <-spoke:
			spoke <- err
			return fmt.Errorf("bgp: %w", err)
		case r := <-g.applies:
			r.reply <- g.apply(r.ctx, r.cfg)
		case <-g.tunnels.changed:
			g.follow(ctx)
		case <-g.speaker.Changed():
			g.follow(ctx)
		case <-g.origins.Changed():
			g.follow(ctx)
		case <-pulse.C: // a session that was given up begins again with the first packet
			if g.waiting {
				g.follow(ctx)
			}
		case <-care.C:
			g.follow(ctx)
			cfg := g.Config()
			g.note(ctx, "policy rules not in place", g.o.Host.SetRules(ctx, rulesConfig(cfg)))
		case <-guard.C: // its rules are replaced as a whole, hence less often
			g.setFirewall(ctx, g.Config())
		}
	}
}

// ErrEnded says that the gateway has stopped, or is about to.
var ErrEnded = errors.New("the gateway is stopping")

// Apply puts a configuration in force. What did not change is not touched; on error the old one stays in force.
func (g *Gateway) Apply(ctx context.Context, cfg *config.Config, trigger string) error {
	r := applyRequest{ctx: ctx, cfg: cfg, trigger: trigger, reply: make(chan error, 1)}
	select {
	case g.applies <- r:
	case <-g.ended:
		return ErrEnded
	case <-ctx.Done():
		return ctx.Err()
	}
	select {
	case err := <-r.reply:
		g.reloads.count(trigger, err == nil)
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Reload loads the file again and applies it. It returns what changed.
func (g *Gateway) Reload(ctx context.Context, trigger string) ([]string, error) {
	old := g.Config()
	cfg, err := g.o.Load(old.Path)
	if err != nil {
		g.reloads.count(trigger, false)
		g.refused(err)
		return nil, err
	}
	changes := changeLines(old, cfg)
	if err := g.Apply(ctx, cfg, trigger); err != nil {
		g.refused(err)
		return nil, err
	}
	return changes, nil
}

// refused notes why a configuration was not taken.
func (g *Gateway) refused(err error) {
	g.log.Error("configuration refused, the old one stays in force", "error", err)
	for {
		old := g.current.Load()
		now := *old
		now.info.LastError, now.info.RestartRequired = err.Error(), nil
		if e, ok := errors.AsType[*RestartError](err); ok {
			now.info.RestartRequired = e.Settings
		}
		if g.current.CompareAndSwap(old, &now) {
			return
		}
	}
}

// apply runs on the gateway's goroutine: new before old, and back to the old where new fails.
func (g *Gateway) apply(ctx context.Context, cfg *config.Config) error {
	old := g.current.Load()
	if bad := config.RestartKeys(old.cfg, cfg); len(bad) > 0 {
		return &RestartError{bad}
	}
	undo := func(err error) error {
		ctx := context.WithoutCancel(ctx)
		return errors.Join(err, g.applyParts(ctx, old.cfg), g.tunnels.Prune(ctx, deviceSpecs(old.cfg)))
	}
	if err := g.applyParts(ctx, cfg); err != nil {
		return undo(err)
	}
	if err := g.tunnels.Prune(ctx, deviceSpecs(cfg)); err != nil {
		return undo(err)
	}
	info := ConfigInfo{Path: cfg.Path, Hash: hash(cfg), Generation: old.info.Generation + 1, Applied: time.Now()}
	g.current.Store(&inForce{cfg: cfg, info: info})
	g.setProbes(cfg, g.Tunnels())
	g.log.Info("configuration applied", "generation", info.Generation, "hash", info.Hash)
	return nil
}

// RestartError says that a configuration differs in what is fixed for the life of the process.
type RestartError struct{ Settings []string }

func (e *RestartError) Error() string {
	return strings.Join(e.Settings, ", ") + " cannot change while running: restart sitewire to apply the file"
}

// applyParts adds before it removes: devices and peers, then sessions, then routes and allowed-IPs. Devices and peers
// that are to go are still there when it returns.
func (g *Gateway) applyParts(ctx context.Context, cfg *config.Config) error {
	if err := g.o.Host.SetRules(ctx, rulesConfig(cfg)); err != nil {
		return fmt.Errorf("policy rules: %w", err)
	}
	g.setFirewall(ctx, cfg)
	if err := g.tunnels.Add(ctx, deviceSpecs(cfg)); err != nil {
		return err
	}
	g.origins.Set(rpkiConfig(cfg))
	want := g.speech(cfg, g.Tunnels())
	if err := g.speaker.Set(ctx, want); err != nil {
		return fmt.Errorf("bgp: %w", err)
	}
	g.lastSpeak, g.spoken = want, true
	if err := g.syncer.SetPolicy(ctx, routesPolicy(cfg)); err != nil {
		return fmt.Errorf("routes: %w", err)
	}
	return nil
}

// removeAll takes everything out of the system again.
func (g *Gateway) removeAll() error {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	return errors.Join(g.syncer.Teardown(ctx), g.o.Host.Teardown(ctx))
}
