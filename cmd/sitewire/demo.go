package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"sitewire/topologies/netns"
)

// demoTime bounds `demo --once`; one run takes about half of it.
const demoTime = 55 * time.Second

func newDemo(a *app) *cobra.Command {
	var o demoOptions
	cmd := &cobra.Command{
		Use:   "demo",
		Short: "Three sites in network namespaces on this machine: see it work, then try it",
		Long: `Builds three sites with a gateway and a LAN each, joined by an "internet", in namespaces of their own: nothing on this
machine changes, and all of it vanishes when the demo ends, however it ends. Root is not needed.

It brings the tunnels, sessions and routes up, pings between all LANs, cuts one tunnel, shows the traffic moving to the
other path and how long that took, heals it, and then gives you a shell (on a terminal) or waits for Ctrl-C.

With --once it ends there with a verdict: exit code 0 if all worked, 1 if not.

With --observe a Prometheus inside, with sitewire's alerting rules, scrapes the gateways, and can be looked at from a
browser on this machine; so can Grafana with the dashboards, if it is installed.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := demoPossible(); err != nil {
				return err
			}
			return a.runDemo(cmd.Context(), o)
		},
	}
	o.flags(cmd)
	cmd.AddCommand(newDemoIn())
	return cmd
}

// demoPossible says what this machine lacks.
func demoPossible() error {
	if !netns.Inside() {
		if err := netns.Usable(); err != nil {
			return err
		}
		return errors.New("the demo did not get namespaces of its own: start it as `sitewire demo`, with the flags behind")
	}
	return netns.UsableTUN()
}

// runDemo builds the sites, gives the tour and stays until it is told to go.
func (a *app) runDemo(ctx context.Context, o demoOptions) (err error) {
	p := a.paint()
	say := &narrator{errWriter: errWriter{w: a.stdout}, p: p, start: time.Now()}
	listeners, err := takeListeners()
	if err != nil {
		return err
	}
	lab, err := newDemoLab(o.observe)
	if err != nil {
		return err
	}
	defer func() {
		lab.stop()
		if o.keep {
			dir, kept := lab.keep()
			if err = errors.Join(err, kept); kept == nil {
				fmt.Fprintln(a.stderr, "configurations and logs are in", dir)
			}
		}
	}()
	say.printf("%s\n", lab.picture(p))
	if err := lab.startGateways(); err != nil {
		return err
	}
	if o.observe {
		if err := lab.startObserving(listeners); err != nil {
			return err
		}
	}
	tour, cancel := context.WithTimeout(ctx, demoTime)
	defer cancel()
	tour, forget := lab.alive(tour)
	defer forget()
	if err := lab.tour(tour, say); err != nil {
		if ctx.Err() != nil {
			return errors.New("interrupted")
		}
		lab.printLogs(a.stderr)
		if !o.once && isTerminal(a.stdin) {
			// Whoever watches may want to look around; the verdict stays.
			fmt.Fprintln(a.stderr, "sitewire: demo:", err)
			return errors.Join(silently(exitFailure), a.demoShell(lab))
		}
		return fmt.Errorf("demo: %w", err)
	}
	if o.once {
		return say.err
	}
	say.printf("\n%s", lab.hints(p, isTerminal(a.stdin)))
	if say.err != nil {
		return say.err
	}
	if isTerminal(a.stdin) {
		return a.demoShell(lab)
	}
	return lab.wait(ctx)
}

// narrator prints what happens with the time since the demo began.
type narrator struct {
	errWriter
	p     painter
	start time.Time
}

func (n *narrator) step(format string, args ...any) {
	n.printf("%s %s\n", n.p.paint(faint, fmt.Sprintf("%6.1fs", time.Since(n.start).Seconds())), fmt.Sprintf(format, args...))
}

func (n *narrator) title(format string, args ...any) {
	n.printf("\n%s\n", n.p.paint(bold, fmt.Sprintf(format, args...)))
}

func (l *demoLab) picture(p painter) string {
	s := `
  fra-lan --- fra =========== nyc --- nyc-lan
                \\           //
                 \\         //        ===  WireGuard tunnel with a BGP session in it
                  ==  sin  ==         ---  LAN
                       |
                    sin-lan

`
	t := newTable(left("  SITE"), right("AS"), left("LAN"), left("LAN6"), left("INTERNET"))
	for _, site := range l.sites {
		var outer []string
		for _, k := range l.links {
			if k.a == site || k.b == site {
				outer = append(outer, k.addr(site).String()+" (to "+k.other(site).name+")")
			}
		}
		t.row(text("  "+site.name), text(fmt.Sprint(site.asn)), text(site.lan4.String()), text(site.lan6.String()), text(strings.Join(outer, ", ")))
	}
	var b strings.Builder
	_ = t.write(&b, p, true) // memory does not fail
	return s + b.String()
}

func (l *demoLab) hints(p painter, shell bool) string {
	where := ""
	if l.observer != nil {
		where = l.observer.where(p) + "\n"
	}
	if !shell {
		return where + "The sites stay up until Ctrl-C (SIGINT). On a terminal you would get a shell to look around.\n"
	}
	return where + p.paint(bold, "Now you.") + ` The name of a site runs a command there; alone it opens a shell there:

  fra sitewire status                    health, tunnels, sessions
  fra sitewire explain 172.20.2.10       how packets get there, and why
  fra sitewire routes                    what BGP learned
  fra wg show                            the same tunnels, seen by WireGuard's own tool
  fra ip route show proto 83             the same routes, seen by the kernel
  fra cat /run/sitewire/sitewire.yaml    the whole configuration of a site
  fra cat /run/sitewire/log              what its gateway said
  fra-lan ping 172.20.2.10               from one LAN to another
  internet ip link set sin-wan-fra down  break something, and see it with fra sitewire status

Leave with exit or Ctrl-D: everything vanishes.
`
}

// keep copies the processes' logs and what files the sites and the observer have to a directory that outlives the demo.
func (l *demoLab) keep() (string, error) {
	dir, err := os.MkdirTemp("", "sitewire-demo-")
	if err != nil {
		return "", err
	}
	files := map[string]string{} // from where, by name there
	for _, s := range l.sites {
		files[s.name+".yaml"] = filepath.Join(s.dir(), "sitewire.yaml")
	}
	for _, p := range l.processes {
		files[p.name+".log"] = p.log
	}
	for to, from := range files {
		b, err := os.ReadFile(from)
		if err == nil {
			err = os.WriteFile(filepath.Join(dir, to), b, 0o600)
		}
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			return dir, err
		}
	}
	if l.observer != nil {
		return dir, os.CopyFS(filepath.Join(dir, "observer"), os.DirFS(l.observer.dir))
	}
	return dir, nil
}
