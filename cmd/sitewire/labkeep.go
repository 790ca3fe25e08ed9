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
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"sitewire/topologies"
	"sitewire/topologies/lab"
)

// Descriptors that `lab up` hands to `lab keep`: where to listen, where to say how far it is, and the directory of places.
const (
	keepSocket = 3
	keepReady  = 4
	keepPlaces = 5
)

// What `lab keep` says while it comes up, a line each: readyWord, or progressWord and how many nodes run and which is next.
const (
	readyWord    = "ready"
	progressWord = "progress"
)

// startLab starts a keeper and waits until the network is up. A keeper whose `lab up` has gone before that ends too.
func (a *app) startLab(ctx context.Context, w *topologies.Network, sites int) error {
	place, err := lab.At(w.Name)
	if err != nil {
		return err
	}
	birth, err := place.Listen()
	if errors.Is(err, lab.ErrRunning) {
		return fmt.Errorf("%s is running already: `sitewire lab down %[1]s` ends it", w.Name)
	}
	if err != nil {
		return err
	}
	defer birth.Close()
	ready, theirs, err := os.Pipe()
	if err != nil {
		return errors.Join(err, birth.Abandon())
	}
	defer ready.Close()
	cmd := exec.Command("/proc/self/exe", "lab", "keep", w.Name, "--sites", strconv.Itoa(sites))
	cmd.Dir = "/" // nobody's directory is held for as long as the lab runs
	cmd.Stdout, cmd.Stderr = birth.Log, birth.Log
	cmd.ExtraFiles = []*os.File{birth.Socket, theirs, birth.Dir} // keepSocket, keepReady, keepPlaces
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	err = cmd.Start()
	theirs.Close()
	if err != nil {
		return errors.Join(err, birth.Abandon())
	}
	if err := birth.Started(cmd.Process.Pid); err != nil {
		return errors.Join(err, cmd.Process.Kill())
	}
	stop := context.AfterFunc(ctx, func() { _ = ready.SetReadDeadline(time.Now()) }) // Ctrl-C
	defer stop()
	err = a.awaitLab(ready, w)
	if ctx.Err() != nil {
		return errors.Join(context.Cause(ctx), ifRunning(place.Down()))
	}
	if err != nil {
		_ = cmd.Wait() // what it says last
		return errors.Join(fmt.Errorf("%s did not come up: %s", w.Name, strings.TrimSpace(birth.Said())), ifRunning(place.Down()))
	}
	p := a.paint()
	if err := a.nodeTable(w, p); err != nil {
		return err
	}
	gateway := w.ByRole(topologies.Gateway)[0].Name
	_, err = fmt.Fprintf(a.stdout, `
Enter a node:   sitewire lab exec %[1]s %[2]s
Ask a gateway:  sitewire lab exec %[1]s %[2]s -- sitewire peers
Break a cable:  sitewire lab impair %[1]s %[2]s:uplink --loss 10
End it all:     sitewire lab down %[1]s
`, w.Name, gateway)
	return err
}

// ifRunning leaves out that a lab does not run which is to end.
func ifRunning(err error) error {
	if errors.Is(err, lab.ErrNotRunning) {
		return nil
	}
	return err
}

// awaitLab reads what the keeper says until it is ready, and tells who watches a terminal how far it is.
func (a *app) awaitLab(ready io.Reader, w *topologies.Network) error {
	const patience = 2 * time.Second // what takes less needs no progress
	start := time.Now()
	shown := false
	defer func() {
		if shown {
			fmt.Fprint(a.stderr, "\r\x1b[K")
		}
	}()
	lines := bufio.NewScanner(ready)
	for lines.Scan() {
		switch word, rest, _ := strings.Cut(lines.Text(), " "); word {
		case readyWord:
			return nil
		case progressWord:
			if time.Since(start) > patience && isTerminal(a.stderr) {
				shown = true
				fmt.Fprintf(a.stderr, "\r\x1b[K%s: %s of %d nodes", w.Name, rest, len(w.Nodes))
			}
		}
	}
	return errors.Join(io.ErrUnexpectedEOF, lines.Err())
}

// newLabKeep is what startLab starts: it holds a running network.
func newLabKeep(*app) *cobra.Command {
	var sites int
	cmd := &cobra.Command{
		Use:    "keep NAME",
		Hidden: true,
		Args:   cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			w, err := topologies.Build(args[0], sites)
			if err != nil {
				return err
			}
			places := os.NewFile(keepPlaces, "places")
			if _, err := places.Stat(); err != nil {
				return errors.New("this is what `sitewire lab up` starts")
			}
			unix.CloseOnExec(keepPlaces)
			err = labInside()
			if err == nil {
				err = keepLab(cmd.Context(), w, sites)
			}
			return errors.Join(err, lab.RemoveInherited(places, w.Name))
		},
	}
	sitesFlag(cmd, &sites)
	return cmd
}

// keepLab brings a network up and serves it until a client asks for the end, or a signal does.
func keepLab(ctx context.Context, w *topologies.Network, sites int) (err error) {
	inherited := os.NewFile(keepSocket, "socket")
	listener, err := net.FileListener(inherited)
	inherited.Close()
	if err != nil {
		return fmt.Errorf("the socket that `sitewire lab up` hands over: %w", err)
	}
	defer listener.Close()
	socket, ok := listener.(*net.UnixListener)
	if !ok {
		return fmt.Errorf("`sitewire lab up` handed over a socket of %s", listener.Addr().Network())
	}
	unix.CloseOnExec(keepReady)
	ready := os.NewFile(keepReady, "ready")
	defer ready.Close()

	keeper := lab.NewKeeper(w, sites)
	serving, stopServing := context.WithCancel(context.WithoutCancel(ctx))
	served := make(chan error, 1)
	go func() { served <- keeper.Run(serving, socket) }()
	defer func() {
		stopServing()
		err = errors.Join(err, <-served)
	}()
	coming, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	go func() {
		select {
		case <-keeper.Down():
			cancel(errors.New("it was taken down while it came up"))
		case <-coming.Done():
		}
	}()
	up := make(chan struct{})
	go func() {
		if readerGone(up) {
			cancel(errors.New("`sitewire lab up` has gone"))
		}
	}()
	l, err := upLab(coming, w, func(running int, n *topologies.Node) {
		fmt.Fprintf(ready, "%s %d\n", progressWord, running) // who does not listen has gone, which is noticed elsewhere
	})
	close(up)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, l.Close()) }()
	keeper.Keep(l) // before it is said: an exec may follow at once
	if _, err := io.WriteString(ready, readyWord+"\n"); err != nil {
		return errors.New("`sitewire lab up` has gone")
	}
	ready.Close()
	select {
	case <-keeper.Down():
	case <-ctx.Done():
	}
	return nil
}

// readerGone waits until nobody can read any more what is written to keepReady, or done is closed.
func readerGone(done <-chan struct{}) bool {
	const every = 100 // ms
	for {
		fds := []unix.PollFd{{Fd: keepReady}}
		if _, err := unix.Poll(fds, every); err == nil && fds[0].Revents&(unix.POLLERR|unix.POLLNVAL) != 0 {
			select {
			case <-done:
				return false
			default:
				return true
			}
		}
		select {
		case <-done:
			return false
		default:
		}
	}
}
