// Package lab runs a network of package topologies in network namespaces of this machine.
//
// Job: bring a Network up: namespaces, cables, addresses, routes, sitewire, BIRD, FRR and wireguard-go; run commands on its nodes; change
// how its cables behave.
// Owner: whoever called Up owns the Lab and its processes.
// Inputs: a Network, the sitewire program.
// Outputs: a running network, seen through the nodes' own commands.
// Invariants: all of it lives in the caller's lab of package netns, so it ends with the caller; what a node runs is what package
// topologies rendered; nothing of the host changes.
package lab

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"sync/atomic"
	"syscall"
	"time"

	"sitewire/topologies"
	"sitewire/topologies/netns"
	"sitewire/topologies/netns/peers"
)

// Options for Up.
type Options struct {
	// Sitewire is the path of the program that gateways run.
	Sitewire string
	// Env is added to the gateways' environment, as KEY=VALUE.
	Env []string
	// Progress is called before each node's programs start, with how many nodes run already, and the node; it may be nil.
	Progress func(running int, n *topologies.Node)
}

func (o Options) progress(running int, n *topologies.Node) {
	if o.Progress != nil {
		o.Progress(running, n)
	}
}

// Lab is a running network.
type Lab struct {
	network *topologies.Network
	opts    Options
	nodes   map[string]*netns.NS
	daemons []daemon
	// impairing is a slot: who is in it owns ways.
	impairing chan struct{}
	ways      map[string]*netns.Way // by the port where packets leave
	impaired  atomic.Pointer[[]Impaired]
}

type daemon struct {
	node *topologies.Node
	*peers.Daemon
}

// stopPatience is how long all daemons together may take to end in good order.
const stopPatience = 10 * time.Second

// Up brings the network up and returns when every program runs, which is before the tunnels and sessions are up. It must be called inside
// a lab of package netns. If it fails, nothing is left.
func Up(ctx context.Context, w *topologies.Network, o Options) (*Lab, error) {
	l := &Lab{network: w, opts: o, nodes: make(map[string]*netns.NS, len(w.Nodes)),
		impairing: make(chan struct{}, 1), ways: map[string]*netns.Way{}}
	if err := l.up(ctx); err != nil {
		return nil, errors.Join(fmt.Errorf("network %s: %w", w.Name, err), l.Close())
	}
	return l, nil
}

func (l *Lab) up(ctx context.Context) error {
	for _, n := range l.network.Nodes {
		ns, err := netns.New(n.Name)
		if err != nil {
			return err
		}
		l.nodes[n.Name] = ns
		if n.Forwards() {
			if err := ns.Forward(); err != nil {
				return err
			}
		}
	}
	for _, k := range l.network.Links {
		if err := netns.Link(l.nodes[k.A.Node.Name], k.A.Interface, l.nodes[k.B.Node.Name], k.B.Interface, netns.LinkOpts{
			AddrsA: k.A.Addresses, AddrsB: k.B.Addresses,
		}); err != nil {
			return err
		}
	}
	for _, n := range l.network.Nodes {
		for _, r := range n.Routes {
			if err := l.nodes[n.Name].Route(r.Prefix, r.Via, ""); err != nil {
				return err
			}
		}
	}
	if err := l.impairLinks(ctx); err != nil {
		return err
	}
	for i, n := range l.network.Nodes {
		l.opts.progress(i, n)
		if err := context.Cause(ctx); err != nil {
			return err
		}
		if err := l.start(ctx, n); err != nil {
			return err
		}
	}
	return nil
}

// start starts what the node runs.
func (l *Lab) start(ctx context.Context, n *topologies.Node) error {
	switch {
	case n.Role == topologies.Gateway:
		return l.startGateway(ctx, n)
	case n.Foreign():
		return l.startForeign(ctx, n)
	}
	return nil
}

// dir holds a node's files: what it sees as /run/sitewire.
func (l *Lab) dir(n *topologies.Node) string {
	return filepath.Join(l.nodes[n.Name].RunDir(), "sitewire")
}

func (l *Lab) startGateway(ctx context.Context, n *topologies.Node) error {
	if err := os.MkdirAll(l.dir(n), 0o700); err != nil {
		return err
	}
	file := filepath.Join(l.dir(n), "sitewire.yaml")
	if err := os.WriteFile(file, []byte(l.network.SitewireConfig(n)), 0o600); err != nil {
		return err
	}
	d, err := peers.Start(ctx, l.nodes[n.Name], peers.Spec{
		Name: "sitewire", Program: l.opts.Sitewire, Args: []string{"run", "--config", "/run/sitewire/sitewire.yaml"},
		Env: append([]string{
			topologies.KeyVariable + "=" + topologies.Key(l.network.Name, n.Name).Reveal(), "NOTIFY_SOCKET=", "SITEWIRE_SOCKET=",
		}, l.opts.Env...),
		Ready: func(context.Context) error {
			_, err := os.Stat(filepath.Join(l.dir(n), "sitewire.sock"))
			return err
		},
	})
	if err != nil {
		return err
	}
	l.daemons = append(l.daemons, daemon{n, d})
	return nil
}

// Network is what runs.
func (l *Lab) Network() *topologies.Network { return l.network }

// NS is a node's namespace, nil if there is no such node.
func (l *Lab) NS(node string) *netns.NS { return l.nodes[node] }

// Command is a command on a node, to be started.
func (l *Lab) Command(ctx context.Context, node string, argv ...string) (*exec.Cmd, error) {
	ns := l.nodes[node]
	switch {
	case ns == nil:
		return nil, l.network.NoNode(node)
	case len(argv) == 0:
		return nil, errors.New("no command")
	}
	if argv[0] == "sitewire" {
		argv = append([]string{l.opts.Sitewire}, argv[1:]...)
	}
	return ns.Command(ctx, argv[0], argv[1:]...), nil
}

// Exec implements check.Runner.
func (l *Lab) Exec(ctx context.Context, node string, argv ...string) ([]byte, error) {
	cmd, err := l.Command(ctx, node, argv...)
	if err != nil {
		return nil, err
	}
	out, err := cmd.Output()
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		err = fmt.Errorf("%w: %s", err, bytes.TrimSpace(exit.Stderr))
	}
	return out, err
}

// Log is what a node's daemon has printed.
func (l *Lab) Log(node string) string {
	for _, d := range l.daemons {
		if d.node.Name == node {
			return d.Log()
		}
	}
	return ""
}

// Ended names the nodes whose gateway or foreign daemon has ended by itself.
func (l *Lab) Ended() []string {
	var names []string
	for _, d := range l.daemons {
		if d.Ended() && !slices.Contains(names, d.node.Name) {
			names = append(names, d.node.Name)
		}
	}
	return names
}

// Dead names a gateway or foreign daemon that has ended by itself.
func (l *Lab) Dead() error {
	for _, d := range l.daemons {
		if d.Ended() {
			return fmt.Errorf("what %s runs has ended; its log ends:\n%s", d.node.Name, d.Log())
		}
	}
	return nil
}

// Close ends all daemons and removes the namespaces.
func (l *Lab) Close() error {
	var errs []error
	for _, d := range l.daemons {
		if d.node.Role == topologies.Gateway && !d.Ended() {
			errs = append(errs, d.Signal(syscall.SIGTERM)) // all at once; what does not end is killed with its namespace
		}
	}
	patience := time.Now().Add(stopPatience)
	for _, d := range l.daemons {
		for d.node.Role == topologies.Gateway && !d.Ended() && time.Now().Before(patience) {
			time.Sleep(time.Millisecond)
		}
	}
	errs = append(errs, l.closeWays()...)
	for _, ns := range l.nodes {
		errs = append(errs, ns.Close())
	}
	clear(l.nodes)
	return errors.Join(errs...)
}
