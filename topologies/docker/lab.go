package docker

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"sitewire/topologies"
	"sitewire/topologies/clabfile"
)

// atOnce is how many nodes are worked on at a time.
const atOnce = 4

// Lab is a deployed containerlab file.
type Lab struct {
	engine  *Engine
	network *topologies.Network
	file    *clabfile.File
	dir     string
	pids    map[string]int // process 1 of each node, as the lab of package netns numbers it
}

// Deploy deploys dir/NAME.clab.yml as containerlab does: containers that have no network and their file systems, then the cables between
// their namespaces, then the commands of each node. It returns when the last command has ended, which is before tunnels and sessions are
// up. If it fails, nothing is left.
func (e *Engine) Deploy(ctx context.Context, w *topologies.Network, dir string) (*Lab, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, err
	}
	file, err := clabfile.Read(filepath.Join(dir, w.Name+".clab.yml"), nil)
	if err != nil {
		return nil, err
	}
	l := &Lab{engine: e, network: w, file: file, dir: dir, pids: map[string]int{}}
	if err := l.up(ctx); err != nil {
		return nil, errors.Join(fmt.Errorf("lab %s: %w", w.Name, err), l.Destroy(context.WithoutCancel(ctx)))
	}
	return l, nil
}

func (l *Lab) up(ctx context.Context) error {
	// Programs of other people that share a node's network are left out: there may be no registry to take them from.
	names := slices.DeleteFunc(slices.Sorted(maps.Keys(l.file.Topology.Nodes)), func(name string) bool { return l.network.Node(name) == nil })
	if err := l.each(ctx, names, l.run); err != nil {
		return err
	}
	for _, name := range names {
		out, err := l.engine.Docker(ctx, "inspect", "--format", "{{.State.Pid}}", l.container(name))
		if err != nil {
			return err
		}
		if l.pids[name], err = strconv.Atoi(strings.TrimSpace(string(out))); err != nil || l.pids[name] == 0 {
			return fmt.Errorf("%s has ended at once; its log is: %s", name, l.Log(ctx, name))
		}
	}
	for _, k := range l.file.Topology.Links {
		if err := l.plug(ctx, k); err != nil {
			return err
		}
	}
	return l.each(ctx, names, func(ctx context.Context, name string) error {
		for _, line := range l.file.Topology.Nodes[name].Exec {
			argv, err := clabfile.Words(line)
			if err != nil {
				return fmt.Errorf("%s: %s: %w", name, line, err)
			}
			if _, err := l.Exec(ctx, name, argv...); err != nil {
				return err
			}
		}
		return nil
	})
}

// each calls f for each node, some at a time, and returns the first error.
func (l *Lab) each(ctx context.Context, names []string, f func(context.Context, string) error) error {
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(atOnce)
	for _, name := range names {
		g.Go(func() error { return f(ctx, name) })
	}
	return g.Wait()
}

// container is a node's container as containerlab names it.
func (l *Lab) container(node string) string { return topologies.Container(l.network, node) }

// run starts a node's container.
func (l *Lab) run(ctx context.Context, name string) error {
	n := l.file.Topology.Nodes[name]
	args := []string{
		"run", "--detach", "--name", l.container(name), "--hostname", name, "--network", cmp.Or(n.NetworkMode, "none"), // nobody is there to look at published ports
		"--device", "/dev/net/tun", "--cap-add", "NET_ADMIN",
	}
	// containerlab gives all nodes all there is. A gateway does without; FRR's zebra does not start without this.
	if l.network.Node(name).Role == topologies.FRR {
		args = append(args, "--cap-add", "SYS_ADMIN")
	}
	for _, key := range slices.Sorted(maps.Keys(n.Sysctls)) {
		args = append(args, "--sysctl", key+"="+n.Sysctls[key])
	}
	for _, key := range slices.Sorted(maps.Keys(n.Env)) {
		args = append(args, "--env", key+"="+n.Env[key])
	}
	for _, bind := range n.Binds {
		if !filepath.IsAbs(bind) {
			bind = filepath.Join(l.dir, bind)
		}
		args = append(args, "--volume", bind)
	}
	command, err := clabfile.Words(n.Cmd)
	if err != nil {
		return fmt.Errorf("%s: %s: %w", name, n.Cmd, err)
	}
	_, err = l.engine.Docker(ctx, append(append(args, n.Image), command...)...)
	return err
}

// plug connects two nodes by a cable whose ends are up.
func (l *Lab) plug(ctx context.Context, k clabfile.Link) error {
	ip := func(args ...string) error {
		_, err := output(l.engine.ns.Command(ctx, "ip", args...), "ip "+strings.Join(args, " "))
		return err
	}
	mtu := strconv.Itoa(k.MTU)
	var pids, ports [2]string
	for i, end := range k.Endpoints {
		node, port, _ := strings.Cut(end, ":")
		if l.pids[node] == 0 {
			return fmt.Errorf("the cable at %s: there is no such node", end)
		}
		pids[i], ports[i] = strconv.Itoa(l.pids[node]), port
	}
	if err := ip("link", "add", ports[0], "mtu", mtu, "netns", pids[0], "type", "veth", "peer", "name", ports[1], "mtu", mtu, "netns", pids[1]); err != nil {
		return err
	}
	for i := range pids {
		argv := []string{"--target", pids[i], "--net", "ip", "link", "set", ports[i], "up"}
		if _, err := output(l.engine.ns.Command(ctx, "nsenter", argv...), "nsenter "+strings.Join(argv, " ")); err != nil {
			return err
		}
	}
	return nil
}

// Network is what runs.
func (l *Lab) Network() *topologies.Network { return l.network }

// Exec implements check.Runner.
func (l *Lab) Exec(ctx context.Context, node string, argv ...string) ([]byte, error) {
	return l.engine.Docker(ctx, append([]string{"exec", l.container(node)}, argv...)...)
}

// logLines is how much of a node's log is shown.
const logLines = 40

// Log is the end of what a node's process 1 has printed.
func (l *Lab) Log(ctx context.Context, node string) string {
	cmd := l.engine.Command(ctx, "docker", "logs", "--tail", strconv.Itoa(logLines), l.container(node))
	out, err := cmd.CombinedOutput()
	if err != nil {
		return fmt.Sprintf("%s(%v)", out, err)
	}
	return string(out)
}

// destroyTime is how long the removal of a lab may take.
const destroyTime = time.Minute

// Destroy removes the lab's containers, and the cables with them.
func (l *Lab) Destroy(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, destroyTime)
	defer cancel()
	out, err := l.engine.Docker(ctx, "ps", "--all", "--quiet", "--filter", "name=^"+l.container(""))
	if ids := strings.Fields(string(out)); err == nil && len(ids) > 0 {
		_, err = l.engine.Docker(ctx, append([]string{"rm", "--force", "--volumes"}, ids...)...)
	}
	return err
}
