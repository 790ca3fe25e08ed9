package netns

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"

	"github.com/vishvananda/netlink"
	vns "github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// ErrOutside is returned by New in a process that is not in a lab.
var ErrOutside = errors.New("not in a lab: call netns.Enter first in main or TestMain")

// NS is a network namespace of the lab, with a netlink handle bound to it.
type NS struct {
	name string
	here bool // see Here
	fd   vns.NsHandle
	nl   *netlink.Handle
}

// New makes a network namespace, names it as `ip netns add` would (so `ip netns exec NAME` works inside the lab) and sets lo up.
// It starts from the same settings on every machine: no reverse path filter, no duplicate address detection (IPv6 addresses are
// usable at once), no forwarding.
func New(name string) (*NS, error) {
	if !Inside() {
		return nil, ErrOutside
	}
	if name == "" || len(name) > 64 || strings.ContainsAny(name, "/. ") {
		return nil, fmt.Errorf("namespace name %q: want 1 to 64 letters, digits or dashes", name)
	}
	dirs := []string{"run/netns", "run/" + filepath.Base(labRoot), "run/wireguard", "run/lock", "var-tmp"}
	for _, dir := range hostConfig {
		dirs = append(dirs, "etc/"+filepath.Base(dir))
	}
	for _, dir := range dirs {
		if err := os.MkdirAll(filepath.Join(stateDir(name), dir), 0o755); err != nil {
			return nil, fmt.Errorf("namespace %s: %w", name, err)
		}
	}
	if err := bindNew(name); err != nil {
		return nil, fmt.Errorf("namespace %s: %w", name, err)
	}
	n := &NS{name: name, fd: vns.None()}
	if err := n.open(); err != nil {
		return nil, errors.Join(fmt.Errorf("namespace %s: %w", name, err), n.Close())
	}
	return n, nil
}

// Here is the namespace that this process is in, of a lab or not, for what only reads and sends: Do, Ping and StartFlow. Nothing else works.
func Here() *NS { return &NS{name: "this namespace", here: true, fd: vns.None()} }

// ContainerEnv is set in the images of containerlab/images. It says that the network namespace is one of a container of a lab, whose
// devices may be changed.
const ContainerEnv = "SITEWIRE_CONTAINER"

// Node is Here with everything but New's own work: for the commands that set a node of a lab up from inside. It refuses to work anywhere but
// in a lab or a container of one, so that nothing changes the devices of a machine.
func Node() (*NS, error) {
	if !Inside() && os.Getenv(ContainerEnv) == "" {
		return nil, fmt.Errorf("not in a node of a lab (%s is not set): this command would change the network of this machine", ContainerEnv)
	}
	n := Here()
	nl, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return nil, err
	}
	n.nl = nl
	return n, nil
}

// bindNew makes the namespace on a thread that is thrown away afterwards, and gives it its name.
func bindNew(name string) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // and never unlock: the thread ends with this goroutine
		done <- func() error {
			f, err := os.OpenFile(nsPath(name), os.O_CREATE|os.O_EXCL|os.O_RDONLY, 0o444)
			if err != nil {
				return err
			}
			if err = f.Close(); err == nil {
				err = unix.Unshare(unix.CLONE_NEWNET)
			}
			if err == nil {
				err = unix.Mount("/proc/thread-self/ns/net", nsPath(name), "", unix.MS_BIND, "")
			}
			if err != nil {
				return errors.Join(err, os.Remove(nsPath(name)))
			}
			return nil
		}()
	}()
	return <-done
}

func (n *NS) open() (err error) {
	if n.fd, err = vns.GetFromPath(nsPath(n.name)); err != nil {
		return err
	}
	if n.nl, err = netlink.NewHandleAt(n.fd, unix.NETLINK_ROUTE); err != nil {
		return err
	}
	for _, key := range []string{
		"net.ipv4.conf.all.rp_filter=0", "net.ipv4.conf.default.rp_filter=0", "net.ipv4.ip_forward=0",
		"net.ipv6.conf.all.accept_dad=0", "net.ipv6.conf.default.accept_dad=0",
		"net.ipv6.conf.all.disable_ipv6=0", "net.ipv6.conf.default.disable_ipv6=0",
	} {
		k, v, _ := strings.Cut(key, "=")
		// A kernel without IPv6 has no such setting, and nothing to set.
		if err := n.Sysctl(k, v); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
	}
	return n.Up("lo")
}

// Name is the namespace's name, as `ip netns` lists it.
func (n *NS) Name() string { return n.name }

// String is Name, for logs.
func (n *NS) String() string { return n.name }

// Path is the file that the namespace is bound to: /run/netns/NAME.
func (n *NS) Path() string { return nsPath(n.name) }

// RunDir is the directory that the namespace's commands see as /run, as this process sees it.
func (n *NS) RunDir() string { return runDir(n.name) }

// StateDir is a directory that goes away with the namespace, for configurations and logs. This process and the namespace's commands
// see it under the same path.
func (n *NS) StateDir() string { return stateDir(n.name) }

// Netlink is the handle bound to the namespace, for what the methods here do not offer.
func (n *NS) Netlink() *netlink.Handle { return n.nl }

// Do runs f on this goroutine with its thread inside the network namespace. Sockets and TUN devices that f opens belong to the
// namespace for ever; goroutines that f starts run outside. Mounts do not change: /run/wireguard is the lab's, not the namespace's.
func (n *NS) Do(f func() error) (err error) {
	if n.here {
		return f()
	}
	runtime.LockOSThread()
	back, err := vns.Get()
	if err != nil {
		runtime.UnlockOSThread()
		return fmt.Errorf("namespace %s: %w", n.name, err)
	}
	defer func() {
		if e := vns.Set(back); e != nil {
			// The thread stays locked, so that it ends with this goroutine and nobody else inherits the namespace.
			err = errors.Join(err, fmt.Errorf("leave namespace %s: %w", n.name, e))
		} else {
			runtime.UnlockOSThread()
		}
		back.Close()
	}()
	if err := vns.Set(n.fd); err != nil {
		return fmt.Errorf("enter namespace %s: %w", n.name, err)
	}
	return f()
}

// Close kills the processes that still run in the namespace and removes it. Devices go with it once no socket of this process is left inside.
func (n *NS) Close() error {
	var errs []error
	if n.fd.IsOpen() {
		errs = append(errs, n.killAll())
	}
	if n.nl != nil {
		n.nl.Close()
		n.nl = nil
	}
	if n.fd.IsOpen() {
		errs = append(errs, n.fd.Close())
	}
	if err := unix.Unmount(nsPath(n.name), unix.MNT_DETACH); err != nil && err != unix.EINVAL && err != unix.ENOENT {
		errs = append(errs, err)
	}
	if err := os.Remove(nsPath(n.name)); err != nil && !errors.Is(err, os.ErrNotExist) {
		errs = append(errs, err)
	}
	errs = append(errs, os.RemoveAll(stateDir(n.name)))
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("close namespace %s: %w", n.name, err)
	}
	return nil
}

// killAll ends every process whose network namespace is this one. The lab has its own process namespace, so it can meet nobody else's.
func (n *NS) killAll() error {
	var own unix.Stat_t
	if err := unix.Fstat(int(n.fd), &own); err != nil {
		return err
	}
	procs, err := os.ReadDir("/proc")
	if err != nil {
		return err
	}
	for _, p := range procs {
		pid, err := strconv.Atoi(p.Name())
		if err != nil || pid == 1 || pid == os.Getpid() {
			continue
		}
		var st unix.Stat_t
		if unix.Stat(filepath.Join("/proc", p.Name(), "ns/net"), &st) == nil && st.Ino == own.Ino && st.Dev == own.Dev {
			_ = unix.Kill(pid, unix.SIGKILL) // it may have ended meanwhile
		}
	}
	return nil
}
