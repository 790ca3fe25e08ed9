package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"sitewire/topologies/netns"
)

const (
	// nobodyCommand is the helper that TestDemoUnprivileged starts in a mount namespace of its own; see demoAsNobody.
	nobodyCommand = "demo-as-nobody"
	nobody        = 65534 // user and group
	// exitNoRights is the helper's exit code where root may not do what root usually may: in most containers.
	exitNoRights = 77
)

// TestDemoUnprivileged runs the whole demo as a user without any rights, on a machine whose /dev/net/tun is open to all, as distributions
// have it. This machine's /dev is not touched.
func TestDemoUnprivileged(t *testing.T) {
	if testing.Short() {
		t.Skip("the demo takes seconds")
	}
	stdout, stderr, code := demoUnprivileged(t, "0666")
	if code == exitFailure && strings.Contains(stderr, "user namespaces") {
		unavailable(t, "user namespaces", stderr, "sysctl kernel.unprivileged_userns_clone=1, or kernel.apparmor_restrict_unprivileged_userns=0")
	}
	if code != 0 || stderr != "" {
		t.Errorf("exit code %d, messages:\n%s", code, stderr)
	}
	for _, want := range []string{"uid 65534, capabilities none", "traffic flows again through sin", "All of it worked"} {
		if !strings.Contains(stdout, want) {
			t.Errorf("not said: %q\n%s", want, stdout)
		}
	}
}

// TestDemoSaysWhatIsMissing runs the demo as somebody who may not make TUN devices.
func TestDemoSaysWhatIsMissing(t *testing.T) {
	_, stderr, code := demoUnprivileged(t, "0600")
	if code != exitFailure {
		t.Errorf("exit code %d, want %d", code, exitFailure)
	}
	if !strings.Contains(stderr, "not usable here") || !strings.Contains(stderr, "to fix it:") {
		t.Errorf("it does not say what is missing and how to get it:\n%s", stderr)
	}
}

// demoUnprivileged runs `sitewire demo --once` as nobody, with a TUN device of this mode and more flags.
func demoUnprivileged(t *testing.T, mode string, more ...string) (stdout, stderr string, code int) {
	t.Helper()
	need(t, map[string]func() error{"root": isRoot, "namespaces": netns.Usable, "tun": netns.UsableTUN})
	runtime.LockOSThread() // a death signal is about the thread that starts the process
	defer runtime.UnlockOSThread()
	cmd := self(t.Context(), append([]string{mode}, more...)...)
	cmd.Args[0] = nobodyCommand
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNS, Pdeathsig: syscall.SIGKILL}
	var out, errs strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &errs
	err := cmd.Run()
	if code = exitCode(err); err != nil && code == 0 {
		t.Fatal(err)
	}
	if code == exitNoRights {
		unavailable(t, "mounts", errs.String(), "run as root with CAP_SYS_ADMIN and CAP_MKNOD")
	}
	return out.String(), errs.String(), code
}

// unavailable skips what only the attempt can tell.
func unavailable(t *testing.T, what, why, fix string) {
	t.Helper()
	need(t, map[string]func() error{"unprivileged": func() error {
		return &netns.Unavailable{What: what, Why: strings.TrimSpace(why), Fix: fix}
	}})
}

func isRoot() error {
	if os.Geteuid() != 0 {
		return &netns.Unavailable{What: "root", Why: "only root can become somebody with fewer rights", Fix: "run as root"}
	}
	return nil
}

// demoAsNobody is the helper: in a mount namespace of its own it puts a tmpfs with a TUN device, of the mode that is its argument, and this
// program over /dev/net, and runs the demo as nobody.
func demoAsNobody() {
	err := func() error {
		const dir = "/dev/net"
		if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
			return fmt.Errorf("make mounts private: %w", err)
		}
		exe, err := os.Open("/proc/self/exe") // nobody may not reach the directory that it is in
		if err != nil {
			return err
		}
		defer exe.Close()
		if err := unix.Mount("tmpfs", dir, "tmpfs", unix.MS_NOSUID, "mode=0755"); err != nil {
			return fmt.Errorf("mount %s: %w", dir, err)
		}
		mode, err := strconv.ParseUint(os.Args[1], 8, 9)
		if err != nil {
			return err
		}
		tun := filepath.Join(dir, "tun")
		if err := unix.Mknod(tun, unix.S_IFCHR, int(unix.Mkdev(10, 200))); err != nil {
			return fmt.Errorf("make %s: %w", tun, err)
		}
		if err := os.Chmod(tun, os.FileMode(mode)); err != nil {
			return err
		}
		program, err := os.OpenFile(filepath.Join(dir, "sitewire"), os.O_CREATE|os.O_WRONLY, 0o755)
		if err != nil {
			return err
		}
		_, err = io.Copy(program, exe)
		return errors.Join(err, program.Close())
	}()
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(exitNoRights)
	}
	// The thread that is here first lives as long as the process.
	runtime.LockOSThread()
	// The shell tells who it is, so that the test does not have to believe it.
	cmd := exec.Command("/bin/sh", "-c", `
caps=$(sed -n 's/^CapEff:[^0-9a-f]*//p' /proc/self/status)
[ "$caps" = 0000000000000000 ] && caps=none
echo "uid $(id -u), capabilities $caps"
exec /dev/net/sitewire demo --once "$@"`, "sh")
	cmd.Args = append(cmd.Args, os.Args[2:]...)
	cmd.Dir, cmd.Env = "/", []string{"PATH=" + os.Getenv("PATH"), "HOME=/", "TERM=dumb"}
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}, Pdeathsig: syscall.SIGKILL}
	err = cmd.Run()
	if exitCode(err) == 0 && err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(exitNoRights)
	}
	os.Exit(exitCode(err))
}
