package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"sitewire/gateway"
)

// watchEvery is the period of --watch.
const watchEvery = 2 * time.Second

func newStatus(a *app) *cobra.Command {
	var out output
	var fail, watch bool
	cmd := &cobra.Command{
		Use:   "status",
		Short: "Health first, then tunnels, sessions and routes",
		Long: `Says whether all is well and, if not, what is wrong and what to do about it; then one line for each peer.

With --fail the exit code is 4 if something is wrong, for health checks and scripts.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			show := func(ctx context.Context, w io.Writer) error { return a.showStatus(ctx, w, out, fail) }
			if watch {
				return a.watch(cmd.Context(), show)
			}
			return show(cmd.Context(), a.stdout)
		},
	}
	out.flags(cmd, true)
	cmd.Flags().BoolVar(&fail, "fail", false, "exit with 4 if the gateway is degraded")
	cmd.Flags().BoolVarP(&watch, "watch", "w", false, "show it again every two seconds")
	return cmd
}

func (a *app) showStatus(ctx context.Context, w io.Writer, out output, fail bool) error {
	c := newClient(a.socket)
	st, raw, err := fetch[gateway.Status](ctx, c, "/v1/status", nil)
	if err != nil {
		return err
	}
	if out.json {
		err = printJSON(w, raw)
	} else {
		var peers gateway.Peers
		if peers, _, err = fetch[gateway.Peers](ctx, c, "/v1/peers", nil); err == nil {
			err = renderStatus(w, a.paint(), st, peers.Peers, !out.noHeaders)
		}
	}
	if err == nil && fail && st.Health != "ok" {
		return silently(exitDegraded)
	}
	return err
}

// watch shows something again and again until the context ends: in place on a terminal, else one after the other.
func (a *app) watch(ctx context.Context, show func(context.Context, io.Writer) error) error {
	tick := time.NewTicker(watchEvery)
	defer tick.Stop()
	for first := true; ; first = false {
		var b strings.Builder
		err := show(ctx, &b)
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			// A daemon that is away may come back: what is wrong now is part of the picture.
			if coded, ok := errors.AsType[codedError](err); !ok || coded.code == exitUsage {
				return err
			}
			if coded, _ := errors.AsType[codedError](err); !coded.quiet {
				b.Reset()
				fmt.Fprintln(&b, err)
			}
		}
		switch {
		case isTerminal(a.stdout):
			fmt.Fprintf(a.stdout, "\x1b[H\x1b[2J%s", b.String())
		case first:
			fmt.Fprint(a.stdout, b.String())
		default:
			fmt.Fprintf(a.stdout, "\n%s", b.String())
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// renderStatus prints health with its reasons, then the counts, then one line for each peer.
func renderStatus(w io.Writer, p painter, st gateway.Status, peers []gateway.Peer, headers bool) error {
	e := &errWriter{w: w}
	healthStyle := good
	if st.Health != "ok" {
		healthStyle = bad
	}
	e.printf("%s: %s\n", p.paint(bold, "sitewire "+st.Site), p.paint(healthStyle, st.Health))
	for _, pr := range st.Problems {
		e.printf("  %s %s: %s\n", p.paint(bad, "!"), p.paint(bold, pr.Subject), pr.What)
		if pr.Fix != "" {
			e.printf("    %s %s\n", p.paint(faint, "->"), pr.Fix)
		}
	}
	if len(st.Problems) > 0 {
		e.printf("\n")
	}
	line := func(key, format string, args ...any) {
		if key != "" {
			key += ":"
		}
		e.printf("  %s %s\n", p.paint(bold, fmt.Sprintf("%-9s", key)), fmt.Sprintf(format, args...))
	}
	line("tunnels", "%s up", tally(p, st.Tunnels))
	if st.ASN != 0 {
		disabled := ""
		if n := st.Sessions.Disabled; n > 0 {
			disabled = fmt.Sprintf(", %d admin down", n)
		}
		line("bgp", "%s established%s; AS%d, router ID %s", tally(p, st.Sessions), disabled, st.ASN, st.RouterID)
	}
	line("routes", "%s; %s", families(st.Routes), inSync(p, st))
	line("config", "%s; generation %d, hash %s, applied %s", st.Config.Path, st.Config.Generation, st.Config.Hash, ago(st.Now, st.Config.Applied))
	if st.Config.LastError != "" {
		line("", "%s %s", p.paint(bad, "last reload refused:"), firstLine(st.Config.LastError))
	}
	if len(st.Config.RestartRequired) > 0 {
		line("", "%s %s", p.paint(warn, "restart needed for:"), strings.Join(st.Config.RestartRequired, ", "))
	}
	line("daemon", "version %s, up %s", st.Version, longAge(st.Now.Sub(st.Started)))
	if e.err != nil || len(peers) == 0 {
		return e.err
	}
	e.printf("\n")
	if e.err != nil {
		return e.err
	}
	return renderPeers(w, p, peers, st.Now, headers)
}

func tally(p painter, t gateway.Tally) string {
	s := good
	if t.Up < t.All {
		s = bad
	}
	return p.paint(s, fmt.Sprintf("%d/%d", t.Up, t.All))
}

func inSync(p painter, st gateway.Status) string {
	switch {
	case st.Pending > 0:
		return p.paint(warn, plural(st.Pending, "change")+" on the way to the kernel")
	case !st.Synced:
		return p.paint(warn, "first sync not finished")
	}
	return "in sync"
}

func firstLine(s string) string {
	s, _, more := strings.Cut(strings.TrimSpace(s), "\n")
	if more {
		s += " ..."
	}
	return s
}
