package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"sitewire/topologies"
	"sitewire/topologies/check"
	"sitewire/topologies/lab"
)

// Descriptors that `lab up` hands to `lab keep`.
const (
	keepSocket = 3
	keepReady  = 4
	readyWord  = "ready"
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
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			w, err := topologies.Build(args[0], sites)
			if err != nil {
				return withCode(exitUsage, err)
			}
			if check {
				return a.checkLab(cmd.Context(), w)
			}
			return a.startLab(w, sites)
		},
	}
	sitesFlag(cmd, &sites)
	cmd.Flags().BoolVar(&check, "check", false, "check that all works, take the network down, and say so")
	return cmd
}

// startLab starts a keeper and waits until the network is up. A keeper whose `lab up` has gone ends too.
func (a *app) startLab(w *topologies.Network, sites int) error {
	place, err := lab.At(w.Name)
	if err != nil {
		return err
	}
	listener, log, err := place.Listen()
	if errors.Is(err, lab.ErrRunning) {
		return fmt.Errorf("%s is running already: `sitewire lab down %[1]s` ends it", w.Name)
	}
	if err != nil {
		return err
	}
	defer log.Close()
	defer listener.Close()
	socket, err := listener.File()
	if err != nil {
		return err
	}
	defer socket.Close()
	ready, theirs, err := os.Pipe()
	if err != nil {
		return err
	}
	defer ready.Close()
	cmd := exec.Command("/proc/self/exe", "lab", "keep", w.Name, "--sites", strconv.Itoa(sites))
	cmd.Stdout, cmd.Stderr = log, log
	cmd.ExtraFiles = []*os.File{socket, theirs} // keepSocket, keepReady
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	err = cmd.Start()
	theirs.Close()
	if err != nil {
		return err
	}
	if err := place.SetPid(cmd.Process.Pid); err != nil {
		return errors.Join(err, cmd.Process.Kill())
	}
	word, err := bufio.NewReader(ready).ReadString('\n')
	if err != nil || strings.TrimSpace(word) != readyWord {
		said := strings.TrimSpace(place.Log())
		return errors.Join(fmt.Errorf("%s did not come up: %s", w.Name, said), place.Down())
	}
	p := a.paint()
	if err := a.nodeTable(w, p); err != nil {
		return err
	}
	gateway := w.ByRole(topologies.Gateway)[0].Name
	_, err = fmt.Fprintf(a.stdout, `
Enter a node:   sitewire lab exec %[1]s %[2]s
Ask a gateway:  sitewire lab exec %[1]s %[2]s -- sitewire peers
End it all:     sitewire lab down %[1]s
`, w.Name, gateway)
	return err
}

// newLabKeep is what startLab starts: it holds a running network.
func newLabKeep(*app) *cobra.Command {
	var sites int
	cmd := &cobra.Command{
		Use:    "keep NAME",
		Hidden: true,
		Args:   cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := labInside(); err != nil {
				return err
			}
			w, err := topologies.Build(args[0], sites)
			if err != nil {
				return err
			}
			return keepLab(cmd.Context(), w)
		},
	}
	sitesFlag(cmd, &sites)
	return cmd
}

func keepLab(ctx context.Context, w *topologies.Network) (err error) {
	inherited := os.NewFile(keepSocket, "socket")
	listener, err := net.FileListener(inherited)
	inherited.Close()
	if err != nil {
		return fmt.Errorf("the socket that `sitewire lab up` hands over: %w", err)
	}
	socket, ok := listener.(*net.UnixListener)
	if !ok {
		return fmt.Errorf("`sitewire lab up` handed over a socket of %s", listener.Addr().Network())
	}
	l, err := upLab(ctx, w)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, l.Close()) }()
	ready := os.NewFile(keepReady, "ready")
	if _, err := io.WriteString(ready, readyWord+"\n"); err != nil {
		return errors.New("`sitewire lab up` has gone")
	}
	ready.Close()
	return lab.NewKeeper(l).Run(ctx, socket)
}

// upLab brings a network up with this program.
func upLab(ctx context.Context, w *topologies.Network) (*lab.Lab, error) {
	exe, err := os.Executable()
	if err != nil {
		return nil, err
	}
	return lab.Up(ctx, w, lab.Options{Sitewire: exe})
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
	l, err := upLab(ctx, w)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, l.Close()) }()
	p := a.paint()
	out := errWriter{w: a.stdout}
	out.printf("%s: %d nodes up after %.1f s\n", w.Name, len(w.Nodes), time.Since(start).Seconds())
	ctx, cancel := context.WithTimeout(ctx, checkTime(w))
	defer cancel()
	for _, r := range check.Common(ctx, l) {
		verdict := p.paint(good, "ok  ")
		if r.Err != nil {
			verdict = p.paint(bad, "FAIL")
			err = silently(exitFailure)
		}
		out.printf("%s %6.1fs  %s (%s)\n", verdict, r.Took.Seconds(), r.Name, r.Detail)
		if r.Err != nil {
			out.printf("%s\n", r.Err)
		}
	}
	return errors.Join(err, l.Dead(), out.err)
}
