// Package netns builds networks out of Linux namespaces, for `sitewire demo` and for every test that needs real devices.
//
// Job: put the whole program into namespaces of its own, make named network namespaces in there, wire them up, break the wires, and
// measure what gets through.
// Owner: the lab (one per process tree) is owned by its init, see Enter; an NS is owned by whoever called New. An NS's methods may be
// called from several goroutines.
// Inputs: what the caller asks for; no files, no configuration.
// Outputs: namespaces, devices and processes that all vanish with the process that called Enter, however it ends.
// Invariants: nothing here can touch the devices, routes, sysctls or files in /run of the host: New refuses to work outside a lab.
// Root is not needed where user namespaces are allowed. Linux only.
package netns

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"

	"golang.org/x/sys/unix"
)

// Unavailable is the error for something this machine does not offer. It is a reason to skip a test, and tells the reader what to do.
type Unavailable struct {
	// What is missing, in one word or name: "namespaces", "/dev/net/tun".
	What string `json:"what"`
	// Why it is missing: what was tried and what the kernel answered.
	Why string `json:"why"`
	// Fix is what to do about it, in the imperative.
	Fix string `json:"fix"`
}

func (u *Unavailable) Error() string {
	return fmt.Sprintf("%s not usable here: %s; to fix it: %s", u.What, u.Why, u.Fix)
}

const (
	fixNamespaces = "run as root, or allow user namespaces (sysctl -w user.max_user_namespaces=15000)"
	fixAppArmor   = "run as root, or sysctl -w kernel.apparmor_restrict_unprivileged_userns=0"
	fixTUN        = "modprobe tun, and run as root or chmod 0666 /dev/net/tun (in a container: --device /dev/net/tun)"
)

// Usable reports, as an *Unavailable, why Enter could not work for this process. It tries the real system call on /bin/true and changes nothing.
// Inside a lab it returns nil.
func Usable() error {
	if Inside() {
		return nil
	}
	truth, err := Program("true")
	if err != nil {
		return unavailableNamespaces(err)
	}
	// The death signal in labAttr is about the thread that forks.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	cmd := exec.Command(truth)
	cmd.SysProcAttr = labAttr()
	if err := cmd.Run(); err != nil {
		return unavailableNamespaces(err)
	}
	if restrictedByAppArmor() {
		return unavailableNamespaces(errors.New("kernel.apparmor_restrict_unprivileged_userns is 1"))
	}
	return nil
}

// UsableTUN reports, as an *Unavailable, why this process cannot make TUN devices.
func UsableTUN() error {
	const name = "/dev/net/tun"
	f, err := os.OpenFile(name, os.O_RDWR, 0)
	if err != nil {
		return &Unavailable{What: name, Why: err.Error(), Fix: fixTUN}
	}
	if err := f.Close(); err != nil {
		return fmt.Errorf("close %s: %w", name, err)
	}
	return nil
}

// Program finds an executable by name. It also looks where daemons live, because the PATH of an unprivileged user often leaves those out.
func Program(name string) (string, error) {
	path, err := exec.LookPath(name)
	if err == nil || strings.Contains(name, "/") {
		return path, err
	}
	for _, dir := range []string{"/usr/local/sbin", "/usr/sbin", "/sbin", "/usr/lib/frr", "/usr/libexec/frr"} {
		if p, e := exec.LookPath(dir + "/" + name); e == nil {
			return p, nil
		}
	}
	return "", err
}

func unavailableNamespaces(err error) *Unavailable {
	fix := fixNamespaces
	if restrictedByAppArmor() {
		fix = fixAppArmor
	}
	return &Unavailable{What: "namespaces", Why: err.Error(), Fix: fix}
}

// restrictedByAppArmor: Ubuntu lets everybody make a user namespace and then denies every capability in it.
func restrictedByAppArmor() bool {
	b, err := os.ReadFile("/proc/sys/kernel/apparmor_restrict_unprivileged_userns")
	return err == nil && strings.TrimSpace(string(b)) == "1" && unix.Geteuid() != 0
}
