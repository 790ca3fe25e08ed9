// Package clabtest deploys the files of containerlab/ itself, in network namespaces.
//
// Job: prove that what is committed is a working lab, on machines that have neither containerlab nor containers: do
// what containerlab would do with it in the order in which it would, and run commands on the nodes.
// Owner: whoever called Deploy owns the Lab.
// Inputs: a topology file as package clabfile has read it, and the files that it binds; the sitewire program; BIRD, FRR and wireguard-go of this machine in place of images.
// Outputs: a running lab, a check.Runner.
// Invariants: an exec that fails is an error, which containerlab only logs; nothing in the files knows about this package.
package clabtest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"sitewire/topologies"
	"sitewire/topologies/clabfile"
	"sitewire/topologies/netns"
	"sitewire/topologies/netns/peers"
)

// Options for Deploy.
type Options struct {
	// Sitewire is the path of the program, whose name must be sitewire: nodes find it in PATH, as in their images.
	Sitewire string
	// Dir is where the file is, and what its binds are relative to.
	Dir string
	// Network is what the file was made of, for the checks.
	Network *topologies.Network
	// Dark lists images that cannot be had here and whose nodes stay dark: they have a network and run nothing.
	Dark []string
}

// Lab is a deployed file.
type Lab struct {
	file  *clabfile.File
	opts  Options
	nodes map[string]*netns.NS
	own   []*netns.NS // without those that are shared
	logs  map[string]func() string
	run   map[string]*peers.Daemon
}

// execTime is how long a command of a file may take.
const execTime = 45 * time.Second

// Deploy does what `containerlab deploy` does with a file: it starts the nodes, plugs the links in while they already run, and then runs
// the exec lines. It must be called inside a lab of package netns. If it fails, nothing is left.
func Deploy(ctx context.Context, f *clabfile.File, o Options) (*Lab, error) {
	l := &Lab{file: f, opts: o, nodes: map[string]*netns.NS{}, logs: map[string]func() string{}, run: map[string]*peers.Daemon{}}
	if err := l.deploy(ctx); err != nil {
		for name := range l.nodes {
			if log := l.Log(name); log != "" {
				err = fmt.Errorf("%w\n== %s\n%s", err, name, log)
			}
		}
		return nil, errors.Join(fmt.Errorf("lab %s: %w", f.Name, err), l.Destroy())
	}
	return l, nil
}

func (l *Lab) deploy(ctx context.Context) error {
	names := slices.Sorted(maps.Keys(l.file.Topology.Nodes))
	for _, name := range names {
		if !strings.HasPrefix(l.node(name).NetworkMode, "container:") {
			ns, err := netns.New(name)
			if err != nil {
				return err
			}
			l.nodes[name], l.own = ns, append(l.own, ns)
		}
	}
	for _, name := range names {
		if x, ok := strings.CutPrefix(l.node(name).NetworkMode, "container:"); ok {
			l.nodes[name] = l.nodes[x]
		}
		if err := l.create(ctx, name); err != nil {
			return fmt.Errorf("node %s: %w", name, err)
		}
	}
	for _, k := range l.file.Topology.Links {
		a, ifA, _ := strings.Cut(k.Endpoints[0], ":")
		b, ifB, _ := strings.Cut(k.Endpoints[1], ":")
		if err := netns.Link(l.nodes[a], ifA, l.nodes[b], ifB, netns.LinkOpts{MTU: k.MTU}); err != nil {
			return err
		}
	}
	for _, ns := range l.own {
		// Containers look for duplicate addresses, so an address is usable only a second after it was set.
		if err := ns.Sysctl("net.ipv6.conf.all.accept_dad", "1"); err != nil {
			return err
		}
	}
	for _, name := range names {
		for _, line := range l.node(name).Exec {
			argv, err := clabfile.Words(line)
			if err != nil {
				return err
			}
			ctx, cancel := context.WithTimeout(ctx, execTime)
			_, err = l.Exec(ctx, name, argv...)
			cancel()
			if err != nil {
				return fmt.Errorf("node %s: exec %s: %w", name, line, err)
			}
		}
	}
	return nil
}

func (l *Lab) node(name string) *clabfile.Node { return l.file.Topology.Nodes[name] }

// create does what is done before the links are there.
func (l *Lab) create(ctx context.Context, name string) error {
	n, ns := l.node(name), l.nodes[name]
	for key, value := range n.Sysctls {
		if err := ns.Sysctl(key, value); err != nil {
			return err
		}
	}
	dark := slices.Contains(l.opts.Dark, n.Image)
	for _, b := range n.Binds {
		w := strings.Split(b, ":")
		from := filepath.Join(l.opts.Dir, w[0])
		if dark { // there is nobody to read it, but it has to be there
			if _, err := os.Stat(from); err != nil {
				return fmt.Errorf("bind %s: %w", b, err)
			}
		} else if err := l.bind(ns, from, w[1]); err != nil {
			return fmt.Errorf("bind %s: %w", b, err)
		}
	}
	var cmd []string
	if n.Cmd != "" {
		var err error
		if cmd, err = clabfile.Words(n.Cmd); err != nil {
			return fmt.Errorf("cmd: %w", err)
		}
	}
	if dark {
		return nil
	}
	return l.start(ctx, name, cmd)
}

// bind lets the node's commands see a file of the folder. Only directories that netns hides anyway can be given away.
func (l *Lab) bind(ns *netns.NS, from, to string) error {
	content, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	return ns.PutEtc(to, content)
}

// start runs what a container of the image runs: see containerlab/images.
func (l *Lab) start(ctx context.Context, name string, cmd []string) error {
	ns := l.nodes[name]
	var argv []string
	switch image, _, _ := strings.Cut(l.node(name).Image, ":"); image {
	case "sitewire":
		argv = append([]string{l.opts.Sitewire}, cmd...)
	case "sitewire-bird":
		if err := os.MkdirAll(filepath.Join(ns.RunDir(), "bird"), 0o755); err != nil {
			return err
		}
		argv = append([]string{"bird", "-f", "-c", "/etc/bird/bird.conf"}, cmd...)
	case "sitewire-frr":
		return l.startFRR(ctx, name)
	case "sitewire-gobgp":
		argv = append([]string{"gobgpd", "-f", "/etc/gobgp/gobgpd.toml", "-t", "toml", "--api-hosts", "127.0.0.1:50051", "--pprof-disable", "--log-plain"}, cmd...)
	case "sitewire-host":
		return nil
	case "prom/prometheus":
		argv = append([]string{"prometheus", "--config.file=/etc/prometheus/prometheus.yml", "--storage.tsdb.path=" + filepath.Join(ns.StateDir(), "data")}, cmd...)
	default:
		return fmt.Errorf("image %s: nothing is known here of what it runs", l.node(name).Image)
	}
	d, err := peers.Start(ctx, ns, peers.Spec{Name: name, Program: argv[0], Args: argv[1:], Env: l.env(name)})
	if err != nil {
		return err
	}
	l.run[name], l.logs[name] = d, d.Log
	return nil
}

// startFRR runs FRR with the file that it was given.
func (l *Lab) startFRR(ctx context.Context, name string) error {
	var config []byte
	for _, b := range l.node(name).Binds {
		if w := strings.Split(b, ":"); w[1] == "/etc/frr/frr.conf" {
			var err error
			if config, err = os.ReadFile(filepath.Join(l.opts.Dir, w[0])); err != nil {
				return err
			}
		}
	}
	if config == nil {
		return errors.New("no /etc/frr/frr.conf is bound")
	}
	ns := l.nodes[name]
	f, err := peers.StartFRR(ctx, ns, "frr", string(config))
	if err != nil {
		return err
	}
	l.logs[name] = f.Log
	// vtysh finds it where it is in the image. The daemons have made that directory, and use another.
	run := filepath.Join(ns.RunDir(), "frr")
	if err := os.RemoveAll(run); err != nil {
		return err
	}
	return os.Symlink(peers.Dir(ns, "frr"), run)
}

// env is a node's environment.
func (l *Lab) env(name string) []string {
	env := []string{
		"PATH=" + filepath.Dir(l.opts.Sitewire) + ":" + os.Getenv("PATH"), netns.ContainerEnv + "=1", "NOTIFY_SOCKET=", "SITEWIRE_SOCKET=", "NO_COLOR=1",
	}
	for k, v := range l.node(name).Env {
		env = append(env, k+"="+v)
	}
	return env
}

// Network implements check.Runner.
func (l *Lab) Network() *topologies.Network { return l.opts.Network }

// Exec implements check.Runner, as `docker exec` does.
func (l *Lab) Exec(ctx context.Context, node string, argv ...string) ([]byte, error) {
	ns := l.nodes[node]
	if ns == nil {
		return nil, fmt.Errorf("%s has no node %q", l.file.Name, node)
	}
	program := argv[0]
	if program == "sitewire" {
		program = l.opts.Sitewire
	}
	cmd := ns.Command(ctx, program, argv[1:]...)
	cmd.Env = append(os.Environ(), l.env(node)...)
	out, err := cmd.Output()
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		err = fmt.Errorf("%w: %s%s", err, bytes.TrimSpace(exit.Stderr), bytes.TrimSpace(out))
	}
	return out, err
}

// NS is a node's namespace.
func (l *Lab) NS(node string) *netns.NS { return l.nodes[node] }

// Log is what a node's programs have printed.
func (l *Lab) Log(node string) string {
	if log := l.logs[node]; log != nil {
		return log()
	}
	return ""
}

// Dead is an error if a program of a node has ended by itself.
func (l *Lab) Dead() error {
	for name, d := range l.run {
		if d.Ended() {
			return fmt.Errorf("what %s runs has ended; its log:\n%s", name, d.Log())
		}
	}
	return nil
}

// Destroy ends everything.
func (l *Lab) Destroy() error {
	var errs []error
	for _, d := range l.run {
		if !d.Ended() {
			errs = append(errs, d.Signal(syscall.SIGTERM))
		}
	}
	patience := time.After(10 * time.Second)
	for _, d := range l.run {
		select {
		case <-d.Done():
		case <-patience:
			patience = nil // the others have had their time too; closing kills them
		}
		if patience == nil {
			break
		}
	}
	for _, ns := range l.own {
		errs = append(errs, ns.Close())
	}
	return errors.Join(errs...)
}
