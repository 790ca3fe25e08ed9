package netns

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"

	"golang.org/x/sys/unix"
)

// execArg as argument 0 tells Enter to go into a namespace and become another program. The arguments after it are the namespace's name,
// the program's path and then the program's own arguments from number 0 on.
const execArg = "sitewire-netns-exec"

// Command returns a command that will run inside the namespace. Set Dir, Env, Stdin and so on and start it as any other.
//
// The command sees its own /run, kept for the life of the namespace and shared by all its commands: `wg show` finds the socket that
// wireguard-go made in /run/wireguard before, and two namespaces may use the same interface names. /run/netns and the lab's own
// directory are the same everywhere. /sys shows the namespace's devices, /var/tmp is the namespace's own, and the machine's own
// configuration of BIRD, FRR, Prometheus, WireGuard and sitewire under /etc is hidden: they see what PutEtc put there.
//
// A name without a slash is looked up in PATH and in the directories of daemons. The command does not outlive the lab, so it needs no
// Pdeathsig (which acts when the starting thread ends: with Go that may be at any time).
func (n *NS) Command(ctx context.Context, name string, args ...string) *exec.Cmd {
	path, err := Program(name)
	cmd := exec.CommandContext(ctx, "/proc/self/exe")
	cmd.Args = append([]string{execArg, n.name, path, name}, args...)
	if err != nil {
		cmd.Err = err
	}
	return cmd
}

// execInside is the second half of Command, in the child: the same executable, started anew. It does not return.
func execInside() {
	err := fmt.Errorf("want a namespace, a path and arguments, got %q", os.Args[1:])
	if len(os.Args) >= 4 {
		err = becomeInside(os.Args[1], os.Args[2], os.Args[3:])
	}
	fmt.Fprintln(os.Stderr, "netns:", err)
	os.Exit(126)
}

func becomeInside(name, path string, argv []string) error {
	// exec replaces all threads by the calling one, with this one's namespaces.
	runtime.LockOSThread()
	if err := setNetNS(nsPath(name)); err != nil {
		return err
	}
	if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
		return fmt.Errorf("unshare mounts for %s: %w", name, err)
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make mounts private for %s: %w", name, err)
	}
	own := runDir(name)
	for _, bind := range [][2]string{
		{netnsDir, filepath.Join(own, "netns")},
		{labRoot, filepath.Join(own, filepath.Base(labRoot))},
		{own, "/run"},
		{filepath.Join(stateDir(name), "var-tmp"), "/var/tmp"}, // FRR keeps crash logs there, and leaves them
	} {
		if err := unix.Mount(bind[0], bind[1], "", unix.MS_BIND|unix.MS_REC, ""); err != nil {
			return fmt.Errorf("bind %s to %s: %w", bind[0], bind[1], err)
		}
	}
	if err := coverEtc(name); err != nil {
		return fmt.Errorf("cover /etc for %s: %w", name, err)
	}
	for _, dir := range hostConfig {
		err := unix.Mount(etcDir(name, filepath.Base(dir)), dir, "", unix.MS_BIND, "")
		if err != nil && err != unix.ENOENT {
			return fmt.Errorf("hide %s: %w", dir, err)
		}
	}
	mountSys()
	if err := unix.Exec(path, argv, os.Environ()); err != nil {
		return fmt.Errorf("exec %s in %s: %w", path, name, err)
	}
	return nil
}

// hostConfig is what no daemon in a lab may take for its own configuration, or use the keys of.
var hostConfig = [...]string{"/etc/bird", "/etc/frr", "/etc/gobgp", "/etc/prometheus", "/etc/sitewire", "/etc/wireguard"}

// etcDir is what commands see in the place of one of them.
func etcDir(name, base string) string { return filepath.Join(stateDir(name), "etc", base) }

// stateDir holds all that a namespace owns in the file system. Its path is the same for the lab and for every command.
func stateDir(name string) string { return filepath.Join(labRoot, "ns", name) }

// runDir is what commands in the namespace see as /run.
func runDir(name string) string { return filepath.Join(stateDir(name), "run") }

func setNetNS(path string) error {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open namespace %s: %w", path, err)
	}
	defer unix.Close(fd)
	if err := unix.Setns(fd, unix.CLONE_NEWNET); err != nil {
		return fmt.Errorf("enter namespace %s: %w", path, err)
	}
	return nil
}
