package netns

import (
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

const (
	// stageEnv marks the init of a lab; its value is the number of the pipe it reports on.
	stageEnv = "SITEWIRE_LAB_STAGE"
	// labEnv holds the token of the lab that a process lives in. It counts only if labRoot/token says the same.
	labEnv = "SITEWIRE_LAB"
	// labRoot is where a lab keeps its state, on a tmpfs that nobody outside sees.
	labRoot   = "/run/sitewire-lab"
	tokenFile = labRoot + "/token"
	netnsDir  = "/run/netns"
)

// Inside reports whether this process lives in a lab.
func Inside() bool {
	token := os.Getenv(labEnv)
	if token == "" {
		return false
	}
	b, err := os.ReadFile(tokenFile)
	return err == nil && string(b) == token
}

// Enter puts this program into a lab: user (unless root), mount, network and process namespaces of its own, with an empty /run and only lo.
// Call it first in main or TestMain, before flags are parsed and goroutines started. It returns nil when the process is inside.
//
// Outside, it starts this executable again with the same arguments and never returns: it forwards signals and exits with the other's
// exit code (128 + n if signal n ended it). Where that is impossible it returns an *Unavailable, and the program goes on outside.
//
// Between the two stands an init, process 1 of the lab. When it ends the kernel kills everything in the lab and frees its namespaces and
// mounts, and it dies with the process that called Enter, SIGKILL included. So nothing is left behind.
//
// Enter is also where the commands of NS.Command pass through, so a program that makes such commands must call it.
func Enter() error {
	if os.Args[0] == execArg {
		execInside() // does not return
	}
	if fd, ok := os.LookupEnv(stageEnv); ok {
		runInit(fd) // does not return
	}
	if Inside() {
		return nil
	}
	code, err := runLab()
	if err != nil {
		return err
	}
	os.Exit(code)
	return nil
}

// labAttr describes the namespaces of a lab. Root makes no user namespace: in one, daemons could not change to their own users, and
// options like SO_RCVBUFFORCE would fail.
func labAttr() *syscall.SysProcAttr {
	attr := &syscall.SysProcAttr{
		Cloneflags: unix.CLONE_NEWNS | unix.CLONE_NEWNET | unix.CLONE_NEWPID,
		Pdeathsig:  unix.SIGKILL,
		// A session of its own, so that a terminal's Ctrl-C arrives once, through the outer process.
		Setsid: true,
	}
	if hasCap(unix.CAP_SYS_ADMIN) {
		return attr
	}
	attr.Cloneflags |= unix.CLONE_NEWUSER
	attr.UidMappings = []syscall.SysProcIDMap{{HostID: os.Getuid(), Size: 1}}
	attr.GidMappings = []syscall.SysProcIDMap{{HostID: os.Getgid(), Size: 1}}
	return attr
}

func hasCap(c int) bool {
	hdr := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if err := unix.Capget(&hdr, &data[0]); err != nil {
		return false
	}
	return data[c/32].Effective&(1<<(c%32)) != 0
}

// runLab is the outer process: it starts the init and stands in for the program until that ends.
func runLab() (code int, err error) {
	// Pdeathsig is about the thread that forked, so that thread has to live as long as the lab.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()

	report, childEnd, err := os.Pipe()
	if err != nil {
		return 0, fmt.Errorf("pipe to the lab: %w", err)
	}
	defer report.Close()
	// The descriptor is inherited under its own number: ExtraFiles would take the places of descriptors that
	// this process inherited and the program expects (a fuzzing worker's pipes, systemd's sockets).
	fd := childEnd.Fd()
	if _, err := unix.FcntlInt(fd, unix.F_SETFD, 0); err != nil {
		childEnd.Close()
		return 0, fmt.Errorf("pipe to the lab: %w", err)
	}
	sigs := make(chan os.Signal, 16)
	signal.Notify(sigs)
	defer signal.Stop(sigs)

	attr := &os.ProcAttr{
		Env:   append(environWithout(labEnv), stageEnv+"="+strconv.Itoa(int(fd))),
		Files: []*os.File{os.Stdin, os.Stdout, os.Stderr},
		Sys:   labAttr(),
	}
	p, err := os.StartProcess("/proc/self/exe", os.Args, attr)
	childEnd.Close()
	if err != nil {
		return 0, unavailableNamespaces(err)
	}
	answer, readErr := io.ReadAll(report)
	if string(answer) != "ok" {
		_ = p.Kill() // it is ending by itself; its answer says why
		state, waitErr := p.Wait()
		var u Unavailable
		if json.Unmarshal(answer, &u) == nil {
			return 0, &u
		}
		return 0, unavailableNamespaces(errors.Join(fmt.Errorf("the lab's init ended early: %v", state), readErr, waitErr))
	}
	go func() {
		for s := range sigs {
			if forwarded(s) {
				_ = p.Signal(s) // a process that has ended needs no signal
			}
		}
	}()
	state, err := p.Wait()
	if err != nil {
		return 0, fmt.Errorf("wait for the lab: %w", err)
	}
	return exitCode(state.Sys().(syscall.WaitStatus)), nil
}

// forwarded leaves out the signals that are about this very process: the Go runtime's preemption, children, stopping.
func forwarded(s os.Signal) bool {
	switch s {
	case unix.SIGURG, unix.SIGCHLD, unix.SIGPIPE, unix.SIGTSTP, unix.SIGTTIN, unix.SIGTTOU, unix.SIGCONT:
		return false
	}
	return true
}

func exitCode(ws syscall.WaitStatus) int {
	if ws.Signaled() {
		return 128 + int(ws.Signal())
	}
	return ws.ExitStatus()
}

// runInit is process 1 of the lab: it sets the namespaces up, starts the program, reaps, and ends when the program ends.
func runInit(fdText string) {
	os.Unsetenv(stageEnv)
	fd, err := strconv.Atoi(fdText)
	if err != nil || os.Getpid() != 1 {
		fmt.Fprintf(os.Stderr, "netns: %s is set but this is not the init of a lab\n", stageEnv)
		os.Exit(125)
	}
	unix.CloseOnExec(fd)
	report := os.NewFile(uintptr(fd), "report")

	token := rand.Text()
	sigs := make(chan os.Signal, 16)
	signal.Notify(sigs)
	pid := 0
	if err = setUpLab(token); err == nil {
		pid, err = syscall.ForkExec("/proc/self/exe", os.Args, &syscall.ProcAttr{
			Env:   append(environWithout(labEnv), labEnv+"="+token),
			Files: []uintptr{0, 1, 2},
		})
	}
	if err != nil {
		// The outer process prints or returns this; if it is gone nobody needs it.
		_ = json.NewEncoder(report).Encode(unavailableNamespaces(err))
		os.Exit(125)
	}
	_, _ = report.WriteString("ok")
	report.Close()

	go func() {
		for s := range sigs {
			if forwarded(s) {
				_ = syscall.Kill(pid, s.(syscall.Signal))
			}
		}
	}()
	for {
		var ws syscall.WaitStatus
		got, err := syscall.Wait4(-1, &ws, 0, nil)
		switch {
		case err == syscall.EINTR:
		case err != nil:
			fmt.Fprintln(os.Stderr, "netns: wait:", err)
			os.Exit(125)
		case got == pid:
			os.Exit(exitCode(ws))
		}
	}
}

// setUpLab runs in the fresh namespaces. Every step works without privileges outside the lab's own user namespace.
func setUpLab(token string) error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make mounts private: %w", err)
	}
	if err := unix.Mount("proc", "/proc", "proc", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, ""); err != nil {
		return fmt.Errorf("mount /proc: %w", err)
	}
	if err := unix.Mount("tmpfs", "/run", "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "mode=0755"); err != nil {
		return fmt.Errorf("mount /run: %w", err)
	}
	mountSys()
	for _, dir := range []string{labRoot, netnsDir, "/run/wireguard", "/run/lock"} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return fmt.Errorf("lab directory: %w", err)
		}
	}
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return fmt.Errorf("find lo: %w", err)
	}
	if err := netlink.LinkSetUp(lo); err != nil {
		return fmt.Errorf("set lo up: %w", err)
	}
	if err := os.WriteFile(tokenFile, []byte(token), 0o444); err != nil {
		return fmt.Errorf("lab token: %w", err)
	}
	return nil
}

// mountSys makes /sys show the current network namespace. A container engine that hides parts of /sys makes the kernel refuse; then
// /sys/class/net shows the wrong devices, which neither sitewire nor the daemons of a lab read.
func mountSys() {
	_ = unix.Mount("sysfs", "/sys", "sysfs", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC|unix.MS_RDONLY, "")
}

func environWithout(names ...string) []string {
	var env []string
next:
	for _, kv := range os.Environ() {
		for _, name := range names {
			if strings.HasPrefix(kv, name+"=") {
				continue next
			}
		}
		env = append(env, kv)
	}
	return env
}

// nsPath is where a named namespace is bound: the same place as iproute2's.
func nsPath(name string) string { return filepath.Join(netnsDir, name) }
