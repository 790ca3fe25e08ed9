// Package docker runs a network of package topologies in containers, with a real Docker engine of its own.
//
// Job: start a Docker daemon inside a namespace of package netns, make images in it, deploy one of the committed containerlab files as
// containerlab does (containers without a network, cables between their namespaces, then the file's commands), and run commands on its nodes.
// Owner: whoever called Start owns the Engine and all containers in it; a Lab's containers belong to the Lab.
// Inputs: the programs of the package docker.io (dockerd, containerd, runc, docker) and `ip`; containerlab/NAME/.
// Outputs: running containers, seen through `docker exec`.
// Invariants: the machine's own Docker, its configuration, its images and its network are neither used nor seen; the engine's files live in
// memory and go with the lab of package netns, as its processes do, however it ends.
package docker

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"sitewire/topologies/netns"
	"sitewire/topologies/netns/peers"
)

// programs are what an Engine cannot do without.
var programs = [...]string{"dockerd", "containerd", "runc", "docker", "ip"}

// fixEngine is what to do where there is no container engine.
const fixEngine = "as root, apt-get install docker.io (in a container: docker run --privileged)"

// Engine is a running Docker daemon.
type Engine struct {
	ns     *netns.NS
	dir    string
	daemon *peers.Daemon
	cgroup string // the parent of all containers' control groups
}

// showCgroups makes a shell see the machine's control groups: the /sys of a namespace shows its own devices and hides the one that has them.
const showCgroups = `
until [ -e /sys/fs/cgroup/cgroup.procs ] || [ -d /sys/fs/cgroup/devices ]; do
	umount /sys || { echo "no control groups below /sys/fs/cgroup" >&2; exit 1; }
done
`

// sweepCgroups removes what engines have left that were killed. One that has just been made may be another engine's, without processes yet.
const sweepCgroups = `
find /sys/fs/cgroup -depth -type d -path "*/sitewire-????????*" -mmin +10 -exec rmdir {} + 2>/dev/null
`

// Start starts a daemon in a namespace and returns when it answers. Where a program is missing or the daemon cannot run, the error is an
// *netns.Unavailable.
func Start(ctx context.Context, ns *netns.NS) (*Engine, error) {
	for _, p := range programs {
		if _, err := netns.Program(p); err != nil {
			return nil, unavailable(err)
		}
	}
	if os.Getuid() != 0 {
		return nil, unavailable(errors.New("not root"))
	}
	e := &Engine{ns: ns, dir: filepath.Join(ns.StateDir(), "docker"), cgroup: "sitewire-" + strings.ToLower(rand.Text()[:8])}
	if err := os.MkdirAll(e.dir, 0o700); err != nil {
		return nil, err
	}
	daemon, err := peers.Start(ctx, ns, peers.Spec{
		Name: "dockerd", Program: "sh",
		Args: []string{
			"-c", showCgroups + sweepCgroups + `exec dockerd "$@"`, "dockerd", "--config-file", "{dir}/daemon.json", "--host", e.host(), "--pidfile", e.path("pid"),
			"--data-root", e.path("data"), "--exec-root", e.path("exec"),
			// Nothing of a network: labs plug their own cables.
			"--bridge=none", "--iptables=false", "--ip6tables=false", "--ip-forward=false", "--ip-masq=false",
			"--exec-opt", "native.cgroupdriver=cgroupfs", "--cgroup-parent", "/" + e.cgroup,
		},
		Env:   []string{"PATH=" + os.Getenv("PATH") + ":/usr/local/sbin:/usr/sbin:/sbin"},
		Files: map[string]string{"daemon.json": "{}\n"}, // not the machine's /etc/docker/daemon.json
		Ready: func(ctx context.Context) error {
			_, err := e.Docker(ctx, "version")
			return err
		},
	})
	if err != nil {
		return nil, errors.Join(unavailable(err), e.removeFiles())
	}
	e.daemon = daemon
	return e, nil
}

func unavailable(err error) *netns.Unavailable {
	return &netns.Unavailable{What: "a container engine", Why: err.Error(), Fix: fixEngine}
}

func (e *Engine) path(name string) string { return filepath.Join(e.dir, name) }
func (e *Engine) host() string            { return "unix://" + e.path("socket") }

// Docker runs the docker command line to its end and returns its standard output. A command that fails is an error that quotes what it said.
func (e *Engine) Docker(ctx context.Context, args ...string) ([]byte, error) {
	return e.docker(ctx, nil, args...)
}

func (e *Engine) docker(ctx context.Context, stdin io.Reader, args ...string) ([]byte, error) {
	cmd := e.Command(ctx, "docker", args...)
	cmd.Stdin = stdin
	return output(cmd, "docker "+strings.Join(args, " "))
}

// Command is a command, to be started, for which this engine is Docker.
func (e *Engine) Command(ctx context.Context, name string, args ...string) *exec.Cmd {
	cmd := e.ns.Command(ctx, name, args...)
	// The builder that needs no plugin, and none of the user's contexts, credentials and proxies.
	cmd.Env = append(os.Environ(), "DOCKER_HOST="+e.host(), "DOCKER_CONFIG="+e.path("client"), "DOCKER_BUILDKIT=0", "DOCKER_CONTEXT=")
	return cmd
}

// output runs a command and quotes what it said if it failed.
func output(cmd *exec.Cmd, name string) ([]byte, error) {
	out, err := cmd.Output()
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		err = fmt.Errorf("%s: %w: %s", name, err, bytes.TrimSpace(append(out, exit.Stderr...)))
	}
	return out, err
}

// Build builds an image from a Dockerfile in a context directory.
func (e *Engine) Build(ctx context.Context, tag, dockerfile, dir string) error {
	_, err := e.Docker(ctx, "build", "--network=none", "--tag", tag, "--file", dockerfile, dir)
	return err
}

// Size is an image's size in bytes.
func (e *Engine) Size(ctx context.Context, tag string) (int64, error) {
	out, err := e.Docker(ctx, "image", "inspect", "--format", "{{.Size}}", tag)
	if err != nil {
		return 0, err
	}
	var n int64
	_, err = fmt.Sscan(string(out), &n)
	return n, err
}

// Containers lists the ids of all containers, running or not.
func (e *Engine) Containers(ctx context.Context) ([]string, error) {
	out, err := e.Docker(ctx, "ps", "--all", "--quiet")
	return strings.Fields(string(out)), err
}

// Close removes all containers, ends the daemon and removes what it has written.
func (e *Engine) Close(ctx context.Context) error {
	ids, err := e.Containers(ctx)
	if len(ids) > 0 {
		_, rmErr := e.Docker(ctx, append([]string{"rm", "--force", "--volumes"}, ids...)...)
		err = errors.Join(err, rmErr)
	}
	return errors.Join(err, e.daemon.Stop(), e.removeFiles(), e.removeCgroups(ctx))
}

// removeFiles removes the engine's directory. Its mounts were in the daemon's own mount namespace and went with it.
func (e *Engine) removeFiles() error { return os.RemoveAll(e.dir) }

// removeCgroups removes what is not in the lab: the control groups that the containers were in, empty by now.
func (e *Engine) removeCgroups(ctx context.Context) error {
	_, err := output(e.ns.Command(ctx, "sh", "-c", showCgroups+`find /sys/fs/cgroup -depth -type d -path "*/$0*" -exec rmdir {} +`, e.cgroup), "remove control groups")
	return err
}
