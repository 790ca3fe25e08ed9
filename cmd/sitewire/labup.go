package main

import (
	"context"
	"errors"
	"os"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"sitewire/topologies"
	"sitewire/topologies/check"
	"sitewire/topologies/lab"
)

// entersLab tells whether a command line is one that has to live in namespaces of its own.
func entersLab(args []string) bool {
	if len(args) < 2 || args[0] != "lab" || slices.Contains(args, "--help") || slices.Contains(args, "-h") {
		return false
	}
	return args[1] == "keep" || args[1] == "up" && slices.Contains(args, "--check")
}

func newLabUp(a *app) *cobra.Command {
	var sites int
	var check bool
	cmd := &cobra.Command{
		Use:   "up NAME",
		Short: "Start a network and leave it running",
		Long: `Starts a network in namespaces, prints its nodes and how to enter them, and leaves it running; ` + "`sitewire lab down`" + ` ends it.

With --check it waits until all sessions are up, checks that every host reaches every other one and that BGP, the kernel and
WireGuard agree, takes the network down and exits with the verdict.`,
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: completeLab(nil),
		RunE: func(cmd *cobra.Command, args []string) error {
			w, err := topologies.Build(args[0], sites)
			if err != nil {
				return withCode(exitUsage, err)
			}
			if err := lab.Missing(w); err != nil {
				return err
			}
			if check {
				return a.checkLab(cmd.Context(), w)
			}
			return a.startLab(cmd.Context(), w, sites)
		},
	}
	sitesFlag(cmd, &sites)
	cmd.Flags().BoolVar(&check, "check", false, "check that all works, take the network down, and say so")
	return cmd
}

// upLab brings a network up with this program; progress may be nil.
func upLab(ctx context.Context, w *topologies.Network, progress func(int, *topologies.Node)) (*lab.Lab, error) {
	exe, err := os.Executable()
	if err != nil {
		return nil, err
	}
	return lab.Up(ctx, w, lab.Options{Sitewire: exe, Progress: progress})
}

// checkTime is how long a network may take until all holds: a minute, and more the larger it is.
func checkTime(w *topologies.Network) time.Duration {
	return time.Minute + time.Duration(len(w.Nodes))*time.Second
}

// checkLab brings a network up, checks it and takes it down.
func (a *app) checkLab(ctx context.Context, w *topologies.Network) (err error) {
	if err := labInside(); err != nil {
		return err
	}
	start := time.Now()
	l, err := upLab(ctx, w, nil)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, l.Close()) }()
	out := errWriter{w: a.stdout}
	out.printf("%s: %d nodes up after %.1f s\n", w.Name, len(w.Nodes), time.Since(start).Seconds())
	ctx, cancel := context.WithTimeout(ctx, checkTime(w))
	defer cancel()
	return errors.Join(out.err, a.verdict(check.Common(ctx, l)), l.Dead())
}
