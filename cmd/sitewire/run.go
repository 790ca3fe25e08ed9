package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"strings"
	"sync/atomic"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"sitewire/bgp"
	"sitewire/gateway"
	"sitewire/gateway/config"
	"sitewire/gateway/host"
	"sitewire/gateway/probe"
	"sitewire/gateway/wg/kernel"
	"sitewire/metrics"
	"sitewire/routes"
	"sitewire/routes/fib"
)

func newRun(a *app) *cobra.Command {
	var path string
	cmd := &cobra.Command{
		Use:   "run",
		Short: "Run the gateway",
		Long: `Runs in the foreground and logs to stderr. SIGHUP reads the configuration again, SIGTERM ends it. It tells systemd when
it is ready and how it is doing, and feeds systemd's watchdog only while the gateway's own loop turns.

Exit codes: 0 stopped, 1 failed (worth a restart), 77 a privilege is missing, 78 the configuration has mistakes (a
restart does not help).`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			load := func(path string) (*config.Config, error) {
				return config.Load(path, config.Options{WebConfig: checkWebConfig})
			}
			cfg, err := load(path)
			if err != nil {
				return withCode(exitConfig, fmt.Errorf("%s is not valid:\n%w", path, err))
			}
			unavailable := kernel.Probe(cmd.Context())
			if err := probeError(cfg.WireGuard.Backend, unavailable); err != nil {
				return err
			}
			backend, reason, wrong := pickBackend(cfg.WireGuard.Backend, unavailable)
			if err := privileged(cfg, backend, unavailable); err != nil {
				return withCode(exitCapability, err)
			}
			if wrong != nil {
				return withCode(exitConfig, wrong)
			}
			if s := cmd.Flags().Lookup("socket"); s.Changed || a.env(socketEnv) != "" {
				fmt.Fprintln(a.stderr, "sitewire: run listens on the socket that its configuration names;", "--socket and", socketEnv, "are for the other commands")
			}
			d := &process{cfg: cfg, load: load, backend: backend, reason: reason, started: time.Now()}
			d.logs = metrics.NewLogCounter(newLogHandler(a.stderr, cfg.Log, d, os.Getenv("JOURNAL_STREAM") != ""))
			d.log = slog.New(d.logs)
			return d.run(cmd.Context())
		},
	}
	cmd.Flags().StringVarP(&path, "config", "c", defaultConfig, "configuration file")
	return cmd
}

// process wires the parts of a gateway together. It is owned by the goroutine that runs it.
type process struct {
	cfg     *config.Config
	load    func(path string) (*config.Config, error)
	backend config.Backend // chosen, never auto
	reason  string         // for that
	logs    *metrics.LogCounter
	log     *slog.Logger
	started time.Time
	fib     *fib.FIB
	host    *host.Host
	gateway *gateway.Gateway
	api     *gateway.API
	prober  *probe.Prober
	devices deviceWatch
	// memoryLimit is what limitMemory found.
	memoryLimit int64
	serving     atomic.Bool // the API listens
	running     atomic.Pointer[gateway.Gateway]
}

// Level implements slog.Leveler: the level of the configuration that is in force, so that a reload turns debugging on and off.
func (d *process) Level() slog.Level {
	if g := d.running.Load(); g != nil {
		return g.Config().Log.Level
	}
	return d.cfg.Log.Level
}

// run makes the parts and keeps them until ctx ends, `sitewire stop` is called, or one of them breaks.
func (d *process) run(ctx context.Context) error {
	version := readBuild().versionText()
	d.log.Info("sitewire starts", "version", version, "site", d.cfg.Site, "config", d.cfg.Path)
	for _, w := range d.cfg.Warnings {
		d.log.Warn("configuration", "warning", w.String())
	}
	d.memoryLimit = d.limitMemory()
	spareProcessors(os.Getenv("GOMAXPROCS"))
	d.log.Info("WireGuard backend chosen", "backend", d.backend, "reason", d.reason)
	if err := notRunning(ctx, d.cfg.Socket); err != nil {
		return err
	}
	unlock, err := host.Lock()
	if err != nil {
		return err
	}
	defer unlock()
	machine := host.New(host.Options{Protocol: d.cfg.Routes.Protocol, Log: d.log.With("part", "host")})
	d.host = machine
	missing, err := machine.Forwarding(ctx)
	if err != nil {
		d.log.Warn("settings of the kernel not read", "error", err)
	}
	for _, m := range missing {
		d.log.Warn("packets may not pass this router: " + m.String())
	}

	d.fib = fib.New(fib.Options{
		Table: int(d.cfg.Routes.Table), Metric: int(d.cfg.Routes.Metric), Protocol: d.cfg.Routes.Protocol,
		Source4: d.cfg.Routes.SourceIPv4, Source6: d.cfg.Routes.SourceIPv6, NoObjects: !d.cfg.Routes.NexthopObjects, Log: d.log.With("part", "fib"),
	})
	if err := d.fib.Open(ctx); err != nil {
		return err
	}
	defer d.fib.Close()
	var switcher routes.Switcher
	if d.fib.CanSwitch() {
		switcher = d.fib
		if d.cfg.Routes.NexthopCompatOff {
			if err := machine.NexthopCompat(); err != nil {
				d.log.Warn("nexthop objects are slower than they could be", "error", err)
			}
		}
	}
	d.prober = probe.New(probe.Options{Log: d.log.With("part", "probe")})
	backend := newBackend(d.backend, d.reason, d.cfg, machine, &d.devices, d.log)
	d.gateway = gateway.New(gateway.Options{
		Config:  d.cfg,
		Load:    d.load,
		Backend: func(string) (gateway.Backend, error) { return backend, nil },
		Host:    machine,
		FIB:     d.fib,

		Switcher: switcher,
		KernelRoute: func(ctx context.Context, a netip.Addr) (string, bool, error) {
			r, err := d.fib.Get(ctx, a)
			return r.Text, r.Ours, err
		},
		NewSpeaker: func(c bgp.Config, sink bgp.Sink) gateway.Speaker {
			return bgp.New(bgp.Options{Config: c, Sink: sink, Connections: connections(machine), Log: d.log.With("part", "bgp")})
		},
		Prober:   d.prober,
		Resolver: resolve,
		Log:      d.log,
		Version:  version,
		StateDir: d.cfg.StateDir,
		BootID:   bootID(d.log),

		LinkCounters: d.linkCounters(),
	})
	d.running.Store(d.gateway)

	// The parts around the gateway outlive it: it needs the kernel's answers while it takes things down, and its status can be asked for.
	// If one of them breaks, the gateway ends in good order.
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	around, endAround := context.WithCancel(context.WithoutCancel(ctx))
	defer endAround()
	group, groupCtx := errgroup.WithContext(around)
	stop := context.AfterFunc(groupCtx, cancel)
	defer stop()
	d.start(group, groupCtx)
	err = d.gatewayRun(ctx, groupCtx)
	tell(d.log, notifyStopping)
	endAround()
	if e := group.Wait(); !errors.Is(e, context.Canceled) {
		err = errors.Join(err, e)
	}
	if err == nil {
		d.log.Info("sitewire has stopped")
	}
	return err
}

// gatewayRun waits for the socket (see API.Run: it must be made before other files are) and runs the gateway.
func (d *process) gatewayRun(ctx, around context.Context) error {
	if err := awaitSocket(ctx, d.cfg.Socket); err != nil {
		if ctx.Err() != nil || around.Err() != nil {
			return nil // asked to stop, or the group's error says why
		}
		return err
	}
	d.serving.Store(true)
	return d.gateway.Run(ctx)
}

// start starts what is around the gateway.
func (d *process) start(group *errgroup.Group, ctx context.Context) {
	task := func(name string, run func(context.Context) error) {
		group.Go(func() error {
			if err := run(ctx); err != nil && !errors.Is(err, context.Canceled) {
				return fmt.Errorf("%s: %w", name, err)
			}
			return nil
		})
	}
	d.api = &gateway.API{Gateway: d.gateway, Path: d.cfg.Socket, Log: d.log.With("part", "api")}
	task(d.api.String(), d.api.Run)
	task("fib", d.fib.Run)
	task(d.prober.String(), d.prober.Run)
	task("systemd", func(ctx context.Context) error { return d.notify(ctx) })
	task("signals", d.reloadOnSignal)
	if os.Getenv("GOGC") == "" { // whoever sets it knows better
		task("memory", newMemory(d.memoryLimit).run)
	}
	if d.cfg.Metrics.Listen != "" {
		task("metrics", d.serveMetrics)
	}
}

// connections asks the kernel for TCP connections.
func connections(machine *host.Host) func(context.Context) ([]bgp.Connection, error) {
	return func(ctx context.Context) ([]bgp.Connection, error) {
		list, err := machine.TCPConnections(ctx)
		out := make([]bgp.Connection, len(list))
		for i, c := range list {
			out[i] = bgp.Connection{
				Local: c.Local, Remote: c.Remote, RTT: c.RTT, Retransmits: uint64(c.Retransmits), Acked: c.Acked, Unread: uint64(c.Unread),
			}
		}
		return out, err
	}
}

// notRunning refuses to start beside a gateway that uses the same socket, before anything is touched.
func notRunning(ctx context.Context, socket string) error {
	var dialer net.Dialer
	c, err := dialer.DialContext(ctx, "unix", socket)
	if err != nil {
		return nil
	}
	c.Close()
	return fmt.Errorf("socket %s: %w", socket, gateway.ErrRunning)
}

// awaitSocket waits until our own API listens.
func awaitSocket(ctx context.Context, socket string) error {
	const limit, every = 10 * time.Second, 5 * time.Millisecond
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	tick := time.NewTicker(every)
	defer tick.Stop()
	for notRunning(ctx, socket) == nil {
		select {
		case <-ctx.Done():
			return fmt.Errorf("the API did not listen on %s: %w", socket, ctx.Err())
		case <-tick.C:
		}
	}
	return nil
}

// resolve looks a host name up. The Go resolver honours the context; libc's would block a thread.
func resolve(ctx context.Context, name string) ([]netip.Addr, error) {
	const patience = 5 * time.Second
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	r := net.Resolver{PreferGo: true}
	return r.LookupNetIP(ctx, "ip", name)
}

// bootID tells one boot of the kernel from another; empty where /proc does not say.
func bootID(log *slog.Logger) string {
	b, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		log.Warn("boot ID not read: devices that somebody else makes after a boot may be taken for those of before", "error", err)
	}
	return strings.TrimSpace(string(b))
}
