package main

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"syscall"
	"time"
)

// demoProcess is a program that the demo keeps running: a gateway, or what watches the gateways.
type demoProcess struct {
	name  string // of the gateway's site, or of the program
	log   string // file with all that it says
	cmd   *exec.Cmd
	ended chan struct{} // closed when the process has ended; then err says how
	err   error
	site  bool // it is a gateway
	extra bool // the demo goes on without it
}

// launch starts a program that ends with the lab at the latest.
func (l *demoLab) launch(name string, cmd *exec.Cmd, log string) (*demoProcess, error) {
	f, err := os.OpenFile(log, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return nil, err
	}
	defer f.Close() // the process has its own
	cmd.Stdout, cmd.Stderr = f, f
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	p := &demoProcess{name: name, log: log, cmd: cmd, ended: make(chan struct{})}
	l.processes = append(l.processes, p)
	go func() {
		p.err = cmd.Wait()
		close(p.ended)
	}()
	return p, nil
}

// String is how messages call the process.
func (p *demoProcess) String() string {
	if p.site {
		return "the gateway of " + p.name
	}
	return p.name
}

// dead says how the process has ended, if it has.
func (p *demoProcess) dead() error {
	select {
	case <-p.ended:
		return fmt.Errorf("%s has ended: %w", p, cmp.Or(p.err, errors.New("exit status 0")))
	default:
		return nil
	}
}

// dead names a process that has ended and that the demo needs.
func (l *demoLab) dead() error {
	for _, p := range l.processes {
		if err := p.dead(); err != nil && !p.extra {
			return err
		}
	}
	return nil
}

// alive returns a context that ends when a process does that the demo needs.
func (l *demoLab) alive(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancelCause(ctx)
	for _, p := range l.processes {
		if p.extra {
			continue
		}
		go func() {
			select {
			case <-p.ended:
				cancel(l.dead())
			case <-ctx.Done():
			}
		}()
	}
	return ctx, func() { cancel(nil) }
}

// stop asks the processes to end and waits a moment; what does not end is killed with the lab.
func (l *demoLab) stop() {
	patience, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	for _, p := range l.processes {
		_ = p.cmd.Process.Signal(syscall.SIGTERM) // it may have ended
	}
	for _, p := range l.processes {
		select {
		case <-p.ended:
		case <-patience.Done():
		}
	}
}

// printLogs prints the last lines of each process's log.
func (l *demoLab) printLogs(w io.Writer) {
	const lines = 15
	for _, p := range l.processes {
		b, err := os.ReadFile(p.log)
		if err != nil {
			continue
		}
		all := bytes.Split(bytes.TrimSpace(b), []byte("\n"))
		fmt.Fprintf(w, "--- last words of %s ---\n%s\n", p, bytes.Join(all[max(0, len(all)-lines):], []byte("\n")))
	}
}

// wait keeps the sites up until the context ends or a process does that the demo needs.
func (l *demoLab) wait(ctx context.Context) error {
	alive, cancel := l.alive(ctx)
	defer cancel()
	<-alive.Done()
	return l.dead()
}
