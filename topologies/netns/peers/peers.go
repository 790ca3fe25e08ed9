// Package peers runs other people's daemons in a namespace of a lab, to be talked to and compared with.
//
// Job: start BIRD, FRR, gobgpd, wireguard-go or any other program with a configuration given as text, wait until it is ready, ask it
// things, stop it.
// Owner: whoever started the daemon; it ends with Stop or Kill, with its namespace, or with the lab.
// Inputs: configurations as text. The daemons see neither the machine's configuration nor its sockets.
// Outputs: what the daemons' own tools print, and their logs.
// Invariants: every daemon has its own directory below its namespace's state directory; processes are ended by their own id only.
package peers

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"sitewire/topologies/netns"
)

const (
	startTimeout = 20 * time.Second
	stopTimeout  = 10 * time.Second
	pollEvery    = 10 * time.Millisecond
	// logTail is how much of a log an error quotes, in bytes.
	logTail = 4096
)

// Spec describes a program to run.
type Spec struct {
	// Name of this instance, unique in its namespace: the name of its directory.
	Name string
	// Program is looked up as netns.Program does. {dir} in Args stands for the instance's directory.
	Program string
	Args    []string
	// Env is added to the environment, as KEY=VALUE.
	Env []string
	// Files are written to the instance's directory before the start, readable by their owner only.
	Files map[string]string
	// Ready is polled until it returns nil; nil Ready means that being started is enough.
	Ready func(ctx context.Context) error
}

// Daemon is a running program.
type Daemon struct {
	ns   *netns.NS
	name string
	dir  string
	cmd  *exec.Cmd
	done chan struct{} // closed when the process has ended
}

// Start runs a program in a namespace and returns when it is ready. It gives up after 20 s, when ctx ends or when the program does;
// the error then quotes the end of its log. ctx is about starting only: the daemon lives on.
func Start(ctx context.Context, ns *netns.NS, s Spec) (*Daemon, error) {
	d, err := start(ns, s)
	if err != nil {
		return nil, fmt.Errorf("start %s in %s: %w", s.Name, ns, err)
	}
	if s.Ready == nil {
		return d, nil
	}
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	err = netns.WaitFor(ctx, pollEvery, "it to be ready", func() error {
		if d.Ended() {
			cancel()
			return errors.New("it ended")
		}
		return s.Ready(ctx)
	})
	if err != nil {
		err = fmt.Errorf("start %s in %s: %w; its log ends:\n%s", s.Name, ns, err, d.tail())
		return nil, errors.Join(err, d.Kill())
	}
	return d, nil
}

// Dir is the directory that Start makes for an instance.
func Dir(ns *netns.NS, name string) string { return filepath.Join(ns.StateDir(), "peers", name) }

func start(ns *netns.NS, s Spec) (*Daemon, error) {
	d := &Daemon{ns: ns, name: s.Name, dir: Dir(ns, s.Name), done: make(chan struct{})}
	if err := os.MkdirAll(d.dir, 0o755); err != nil {
		return nil, err
	}
	for name, text := range s.Files {
		if err := os.WriteFile(filepath.Join(d.dir, name), []byte(text), 0o600); err != nil {
			return nil, err
		}
	}
	log, err := os.OpenFile(d.logPath(), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, err
	}
	defer log.Close()
	args := make([]string, len(s.Args))
	for i, a := range s.Args {
		args[i] = strings.ReplaceAll(a, "{dir}", d.dir)
	}
	d.cmd = ns.Command(context.Background(), s.Program, args...)
	d.cmd.Dir, d.cmd.Stdout, d.cmd.Stderr = d.dir, log, log
	d.cmd.Env = append(os.Environ(), s.Env...)
	if err := d.cmd.Start(); err != nil {
		return nil, err
	}
	go func() {
		_ = d.cmd.Wait() // how it ended is in the process state
		close(d.done)
	}()
	return d, nil
}

// Pid is the process id inside the lab.
func (d *Daemon) Pid() int { return d.cmd.Process.Pid }

// Done is closed when the process has ended.
func (d *Daemon) Done() <-chan struct{} { return d.done }

// Ended reports whether the process has ended.
func (d *Daemon) Ended() bool {
	select {
	case <-d.done:
		return true
	default:
		return false
	}
}

// Signal sends a signal: SIGHUP to reload, SIGSTOP and SIGCONT to freeze and thaw.
func (d *Daemon) Signal(sig syscall.Signal) error {
	if err := d.cmd.Process.Signal(sig); err != nil {
		return fmt.Errorf("signal %s in %s: %w", d.name, d.ns, err)
	}
	return nil
}

// Stop ends the process with SIGTERM, and with SIGKILL if that does not help, which is an error.
func (d *Daemon) Stop() error {
	_ = d.cmd.Process.Signal(syscall.SIGTERM) // it may have ended
	select {
	case <-d.done:
		return nil
	case <-time.After(stopTimeout):
		return errors.Join(fmt.Errorf("stop %s in %s: SIGTERM did not end it in %v", d.name, d.ns, stopTimeout), d.Kill())
	}
}

// Kill ends the process with SIGKILL, as a crash would.
func (d *Daemon) Kill() error {
	if err := d.cmd.Process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("kill %s in %s: %w", d.name, d.ns, err)
	}
	<-d.done
	return nil
}

// Log is everything that the program has printed so far.
func (d *Daemon) Log() string {
	b, err := os.ReadFile(d.logPath())
	if err != nil {
		return err.Error()
	}
	return string(b)
}

func (d *Daemon) logPath() string { return filepath.Join(d.dir, "log") }

func (d *Daemon) tail() string {
	log := d.Log()
	return log[max(0, len(log)-logTail):]
}

// TB is what Watch needs of a testing.TB.
type TB interface {
	Helper()
	Cleanup(f func())
	Failed() bool
	Logf(format string, args ...any)
	Errorf(format string, args ...any)
}

// Watch stops the daemon when the test ends, and shows the end of its log if the test failed. It returns the daemon.
func (d *Daemon) Watch(t TB) *Daemon {
	t.Helper()
	t.Cleanup(func() {
		if err := d.Stop(); err != nil {
			t.Errorf("%v", err)
		}
		if t.Failed() {
			t.Logf("log of %s in %s ends:\n%s", d.name, d.ns, d.tail())
		}
	})
	return d
}

// ask runs one of a daemon's own tools in its namespace and returns what it prints on standard output.
func ask(ctx context.Context, ns *netns.NS, program string, args ...string) (string, error) {
	cmd := ns.Command(ctx, program, args...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return string(out), fmt.Errorf("%s in %s: %w: %s", program, ns, err, bytes.TrimSpace(append(out, stderr.Bytes()...)))
	}
	return string(out), nil
}
