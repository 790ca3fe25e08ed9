package peers

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"sitewire/topologies/netns"
)

// FRR is a running FRR: zebra, bgpd and what else was asked for, with sockets of their own.
type FRR struct {
	ns      *netns.NS
	name    string
	dir     string
	daemons []*Daemon
}

// StartFRR runs zebra, bgpd and any other FRR daemons named ("bfdd", "staticd"), and loads an integrated configuration (frr.conf).
func StartFRR(ctx context.Context, ns *netns.NS, name, config string, more ...string) (*FRR, error) {
	f := &FRR{ns: ns, name: name, dir: Dir(ns, name)}
	if err := f.startAll(ctx, config, more); err != nil {
		return nil, errors.Join(fmt.Errorf("start %s in %s: %w", name, ns, err), f.Kill())
	}
	return f, nil
}

func (f *FRR) startAll(ctx context.Context, config string, more []string) error {
	programs := []string{"zebra", "bgpd"}
	if _, err := netns.Program("mgmtd"); err == nil {
		programs = slices.Insert(programs, 0, "mgmtd") // FRR 9 and later
	}
	for _, program := range append(programs, more...) {
		spec, err := f.spec(program)
		if err != nil {
			return err
		}
		d, err := Start(ctx, f.ns, spec)
		if err != nil {
			return err
		}
		f.daemons = append(f.daemons, d)
	}
	conf := filepath.Join(f.dir, "frr.conf")
	if err := os.WriteFile(conf, []byte(config), 0o600); err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(f.dir, "vtysh.conf"), nil, 0o600); err != nil {
		return err
	}
	_, err := f.vtysh(ctx, "-f", conf)
	return err
}

// groups is the /etc/group that FRR sees. It runs as the lab's root, because in a user namespace there may be nobody else, and insists
// that this user be in its group for vtysh.
const groups = "root:x:0:root\nfrr:x:0:root\nfrrvty:x:0:root\n"

func (f *FRR) spec(program string) (Spec, error) {
	path, err := netns.Program(program)
	if err != nil {
		return Spec{}, err
	}
	file := func(suffix string) string { return filepath.Join(f.dir, program+suffix) }
	return Spec{
		// A directory of its own for the log and the empty configuration; the sockets are shared.
		Name:    filepath.Join(f.name, program),
		Program: "sh",
		Args: []string{
			// Every command has a mount namespace of its own, so this changes nobody else's /etc.
			"-c", `mount --bind "$0" /etc/group && exec "$@"`, "{dir}/group", path,
			"-f", "{dir}/empty.conf", "-i", file(".pid"), "-z", filepath.Join(f.dir, "zserv.api"), "--vty_socket", f.dir,
			"-A", "127.0.0.1", "-P", "0", "-u", "root", "-g", "root", "--log", "stdout", "--log-level", "informational",
		},
		Files: map[string]string{"empty.conf": "", "group": groups},
		Ready: func(context.Context) error {
			_, err := os.Stat(file(".vty"))
			return err
		},
	}, nil
}

// Vtysh runs commands: Vtysh(ctx, "show bgp summary json"), or Vtysh(ctx, "configure terminal", "router bgp 65001", "no neighbor …").
func (f *FRR) Vtysh(ctx context.Context, commands ...string) (string, error) {
	var args []string
	for _, c := range commands {
		args = append(args, "-c", c)
	}
	return f.vtysh(ctx, args...)
}

func (f *FRR) vtysh(ctx context.Context, args ...string) (string, error) {
	return ask(ctx, f.ns, "vtysh", append([]string{"--vty_socket", f.dir, "--config_dir", f.dir}, args...)...)
}

// Daemon is one of the daemons, or nil if it was not started: Daemon("bgpd").Kill().
func (f *FRR) Daemon(program string) *Daemon {
	for _, d := range f.daemons {
		if filepath.Base(d.name) == program {
			return d
		}
	}
	return nil
}

// Stop ends all daemons, the last one started first.
func (f *FRR) Stop() error { return f.each((*Daemon).Stop) }

// Kill ends all daemons with SIGKILL.
func (f *FRR) Kill() error { return f.each((*Daemon).Kill) }

func (f *FRR) each(end func(*Daemon) error) error {
	var errs []error
	for _, d := range slices.Backward(f.daemons) {
		errs = append(errs, end(d))
	}
	return errors.Join(errs...)
}

// Log is what all daemons have printed so far.
func (f *FRR) Log() string {
	var b strings.Builder
	for _, d := range f.daemons {
		fmt.Fprintf(&b, "== %s\n%s", d.name, d.Log())
	}
	return b.String()
}

// Watch is Daemon.Watch for all daemons.
func (f *FRR) Watch(t TB) *FRR {
	t.Helper()
	for _, d := range f.daemons {
		d.Watch(t)
	}
	return f
}
