package lab

import (
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"sitewire/topologies/netns"
	"sitewire/topologies/netns/nstest"
)

// TestWithoutRoot runs a lab as nobody, where /dev/net/tun is open to all as distributions have it.
func TestWithoutRoot(t *testing.T) {
	const nobody, dir = 65534, "/dev/net" // the mounts are the test program's own, like its namespaces
	nstest.Need(t, nstest.TUN, nstest.Requirement{Kind: "root", Name: "mounts", Check: func() error {
		if err := unix.Mount("tmpfs", dir, "tmpfs", unix.MS_NOSUID, "mode=0755"); err != nil {
			return &netns.Unavailable{What: "mounts", Why: err.Error(), Fix: "run as root with CAP_SYS_ADMIN and CAP_MKNOD"}
		}
		t.Cleanup(func() {
			if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
				t.Error(err)
			}
		})
		if err := unix.Mknod(dir+"/tun", unix.S_IFCHR, int(unix.Mkdev(10, 200))); err != nil {
			return &netns.Unavailable{What: "mounts", Why: err.Error(), Fix: "run as root with CAP_SYS_ADMIN and CAP_MKNOD"}
		}
		return os.Chmod(dir+"/tun", 0o666)
	}})
	self, tmp := filepath.Join(dir, "sitewire"), filepath.Join(dir, "tmp")
	err := func() error {
		in, err := os.Open(program)
		if err != nil {
			return err
		}
		defer in.Close()
		out, err := os.OpenFile(self, os.O_CREATE|os.O_WRONLY, 0o755)
		if err != nil {
			return err
		}
		_, err = io.Copy(out, in)
		return errors.Join(err, out.Close(), os.Mkdir(tmp, 0o700), os.Chown(tmp, nobody, nobody))
	}()
	if err != nil {
		t.Fatal(err)
	}
	run := func(args ...string) string {
		t.Helper()
		cmd := exec.Command(self, append([]string{"lab"}, args...)...)
		cmd.Dir, cmd.Env = "/", []string{"PATH=" + os.Getenv("PATH"), "HOME=/", "TMPDIR=" + tmp}
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}}
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("lab %s: %v\n%s", strings.Join(args, " "), err, out)
		}
		return string(out)
	}
	run("up", "pair")
	run("impair", "pair", "fra:uplink", "--delay", "20ms", "--loss", "1")
	if out := run("impair", "pair"); !strings.Contains(out, "20 ms, 1 % lost") {
		t.Errorf("listed is\n%s", out)
	}
	run("exec", "pair", "fra", "--", "true")
	run("down", "pair")
	if left, err := os.ReadDir(tmp); err != nil || len(left) != 0 {
		t.Errorf("left is %v (%v)", left, err)
	}
}
