package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"testing/fstest"
	"time"

	"golang.org/x/sys/unix"

	"sitewire/gateway/config"
	"sitewire/gateway/host"
	"sitewire/gateway/wg"
	"sitewire/gateway/wg/kernel"
	"sitewire/topologies/netns"
)

// systemd listens to sd_notify(3).
type systemd struct {
	t    *testing.T
	conn *net.UnixConn
}

func newSystemd(t *testing.T, path string) *systemd {
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return &systemd{t, conn}
}

// await reads messages until one has the word, and returns it.
func (s *systemd) await(word string) string {
	s.t.Helper()
	if err := s.conn.SetReadDeadline(time.Now().Add(20 * time.Second)); err != nil {
		s.t.Fatal(err)
	}
	var seen []string
	for buf := make([]byte, 4096); ; {
		n, err := s.conn.Read(buf)
		if err != nil {
			s.t.Fatalf("%s did not come: %v; came: %q", word, err, seen)
		}
		if seen = append(seen, string(buf[:n])); strings.Contains(seen[len(seen)-1], word) {
			return seen[len(seen)-1]
		}
	}
}

// ownNetwork puts a command into a network namespace of its own, so that it can touch nothing of this machine.
func ownNetwork(cmd *exec.Cmd) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET, Pdeathsig: syscall.SIGKILL}
	if os.Geteuid() != 0 {
		cmd.SysProcAttr.Cloneflags |= syscall.CLONE_NEWUSER
		cmd.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{HostID: os.Getuid(), Size: 1}}
		cmd.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{HostID: os.Getgid(), Size: 1}}
	}
}

// TestRun takes a daemon without peers through its life as systemd sees it.
func TestRun(t *testing.T) {
	need(t, map[string]func() error{"namespaces": netns.Usable})
	// The death signal of ownNetwork is about the thread that starts the process.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	dir, err := os.MkdirTemp("", "sw")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	file, socket := filepath.Join(dir, "sitewire.yaml"), filepath.Join(dir, "s")
	write := func(more string) {
		t.Helper()
		text := fmt.Sprintf("site: fra\nasn: 4242420001\nrouter_id: 172.20.1.1\nannounce: [172.20.1.0/24]\nsocket: %s\nstate_dir: %s\n%s", socket, dir, more)
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("")
	systemd := newSystemd(t, filepath.Join(dir, "n"))
	var stderr bytes.Buffer
	daemon := self(context.Background(), "run", "--config", file)
	daemon.Env = append(os.Environ(), "NOTIFY_SOCKET="+filepath.Join(dir, "n"), "WATCHDOG_USEC=1500000")
	daemon.Stderr = &stderr
	ownNetwork(daemon)
	if err := daemon.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- daemon.Wait() }()
	t.Cleanup(func() {
		daemon.Process.Kill()
		if t.Failed() {
			t.Logf("the daemon's log:\n%s", stderr.Bytes())
		}
	})

	if ready := systemd.await("READY=1"); !strings.Contains(ready, "STATUS=ok: 0/0 tunnels, 0/0 BGP") {
		t.Errorf("systemd was told %q", ready)
	}
	systemd.await("WATCHDOG=1")
	if out := ask(t, 0, "--socket", socket, "status", "--fail"); !strings.HasPrefix(out, "sitewire fra: ok\n") {
		t.Errorf("status:\n%s", out)
	}

	// A second one on the same socket changes nothing.
	second := self(t.Context(), "run", "--config", file)
	ownNetwork(second)
	if out, err := second.CombinedOutput(); exitCode(err) != exitFailure || !strings.Contains(string(out), "another sitewire answers there") {
		t.Errorf("a second daemon: %v\n%s", err, out)
	}

	// SIGHUP: a mistake is refused and told, a change is applied.
	write("pears: {}\n")
	hup := func() {
		t.Helper()
		if err := daemon.Process.Signal(syscall.SIGHUP); err != nil {
			t.Fatal(err)
		}
		if m := systemd.await("RELOADING=1"); !strings.Contains(m, "MONOTONIC_USEC=") {
			t.Errorf("systemd was told %q", m)
		}
		systemd.await("READY=1")
	}
	hup()
	if out := ask(t, exitDegraded, "--socket", socket, "status", "--fail"); !strings.Contains(out, "last reload refused") {
		t.Errorf("status after a refused reload:\n%s", out)
	}
	write("log: { level: debug }\n")
	if out := ask(t, exitChanges, "--socket", socket, "diff", "--exit-code"); !strings.Contains(out, "log") {
		t.Errorf("diff:\n%s", out)
	}
	hup()
	if out := ask(t, 0, "--socket", socket, "status", "--fail"); !strings.Contains(out, "generation 2") {
		t.Errorf("status after a reload:\n%s", out)
	}
	write("log: { level: error }\n")
	hup()

	if err := daemon.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	systemd.await("STOPPING=1")
	if err := <-ended; err != nil {
		t.Errorf("the daemon ended with %v", err)
	}
	if strings.Contains(stderr.String(), "sitewire has stopped") {
		t.Error("the log still has messages of level info")
	}
	ask(t, exitUnreachable, "--socket", socket, "status")
}

func exitCode(err error) int {
	if e, ok := errors.AsType[*exec.ExitError](err); ok {
		return e.ExitCode()
	}
	return 0
}

// ask runs a command and returns what it printed; it must end with the exit code.
func ask(t *testing.T, code int, args ...string) string {
	t.Helper()
	var stdout, stderr bytes.Buffer
	cmd := self(t.Context(), args...)
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); exitCode(err) != code {
		t.Errorf("sitewire %s: %v, want exit code %d\n%s%s", strings.Join(args, " "), err, code, stdout.Bytes(), stderr.Bytes())
	}
	return stdout.String()
}

func TestBackends(t *testing.T) {
	none := errors.New("no such module: run modprobe")
	for _, c := range []struct {
		want        config.Backend
		unavailable error
		backend     config.Backend
		reason, err string
	}{
		{config.BackendAuto, nil, config.BackendKernel, "auto: the kernel has WireGuard", ""},
		{config.BackendAuto, none, config.BackendUserspace, "auto: no such module: run modprobe", ""},
		{config.BackendKernel, nil, config.BackendKernel, "configured", ""},
		{config.BackendKernel, none, "", "", "wireguard.backend: kernel: no such module: run modprobe"},
		{config.BackendUserspace, nil, config.BackendUserspace, "configured", ""},
		{config.BackendUserspace, none, config.BackendUserspace, "configured", ""},
		{"magic", nil, "", "", `wireguard.backend "magic" is not known`},
	} {
		backend, reason, err := pickBackend(c.want, c.unavailable)
		text := ""
		if err != nil {
			text = err.Error()
		}
		if backend != c.backend || reason != c.reason || text != c.err {
			t.Errorf("%s with %v: %s, %q, %v", c.want, c.unavailable, backend, reason, err)
		}
	}
}

// Only a kernel that is known to have no WireGuard sends auto to userspace: a probe that failed for another reason says nothing of the tunnels
// that may run there.
func TestProbeError(t *testing.T) {
	absent := fmt.Errorf("probe: %w", &kernel.Unavailable{Why: "no module", Err: unix.ENOENT})
	for _, c := range []struct {
		want   config.Backend
		probed error
		fails  bool
	}{
		{config.BackendAuto, nil, false}, {config.BackendAuto, absent, false}, {config.BackendAuto, unix.EMFILE, true}, {"", unix.ENOBUFS, true},
		{config.BackendKernel, absent, false}, {config.BackendKernel, unix.EMFILE, true},
		{config.BackendUserspace, unix.EMFILE, false},
	} {
		if err := probeError(c.want, c.probed); (err != nil) != c.fails || c.fails && !errors.Is(err, c.probed) {
			t.Errorf("%q with %v: %v", c.want, c.probed, err)
		}
	}
}

func TestKernelOptionsShare(t *testing.T) {
	if o := kernelOptions(&config.Config{WireGuard: config.WireGuard{StatsShare: 20}}, nil); o.Share != 0.2 || o.Group == 0 {
		t.Errorf("%+v", o)
	}
}

func TestStatsAge(t *testing.T) {
	peer := func(dead, hold time.Duration) *config.Peer {
		return &config.Peer{DeadAfter: dead, Sessions: []*config.Session{{HoldTime: hold}}}
	}
	for want, peers := range map[time.Duration][]*config.Peer{
		10 * time.Second: {peer(3*time.Minute, 90*time.Second)},
		3 * time.Second:  {peer(3*time.Minute, 90*time.Second), peer(3*time.Minute, 9*time.Second)},
		2 * time.Second:  {peer(4*time.Second, 0), peer(3*time.Minute, 9*time.Second)},
	} {
		if got := statsAge(&config.Config{Peers: peers}); got != want {
			t.Errorf("%v, want %v", got, want)
		}
	}
}

// What only some devices can do is found through whatever the program puts around them.
func TestBackendsHideNothing(t *testing.T) {
	if !inLab(t) {
		return
	}
	b := newBackend(config.BackendUserspace, "", &config.Config{}, host.New(host.Options{}), &deviceWatch{}, slog.New(slog.DiscardHandler))
	key, err := wg.NewPrivateKey()
	if err != nil {
		t.Fatal(err)
	}
	d, err := b.Open(t.Context(), wg.DeviceConfig{Name: "wg-hides", PrivateKey: key, MTU: 1420})
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close(true)
	if _, ok := wg.As[interface{ MTUChanged(mtu int) }](d); !ok {
		t.Error("the device cannot be told its MTU: packets would be padded beyond the path's")
	}
	if _, ok := wg.As[interface{ UnderlayChanged() }](d); !ok {
		t.Error("the device cannot be told that the underlay changed: it would send from an address that has gone")
	}
	if _, ok := wg.As[interface{ Undo() }](d); ok {
		t.Error("found what is not there")
	}
}

func TestCgroupLimit(t *testing.T) {
	file := func(s string) *fstest.MapFile { return &fstest.MapFile{Data: []byte(s)} }
	for name, c := range map[string]struct {
		fs   fstest.MapFS
		want int64
	}{
		"none":      {fstest.MapFS{}, math.MaxInt64},
		"unlimited": {fstest.MapFS{"proc/self/cgroup": file("0::/a\n"), "sys/fs/cgroup/a/memory.max": file("max\n")}, math.MaxInt64},
		"own":       {fstest.MapFS{"proc/self/cgroup": file("0::/a/b\n"), "sys/fs/cgroup/a/b/memory.max": file("1000\n")}, 1000},
		"above":     {fstest.MapFS{"proc/self/cgroup": file("0::/a/b\n"), "sys/fs/cgroup/a/memory.max": file("900\n"), "sys/fs/cgroup/a/b/memory.max": file("1000\n")}, 900},
		"root":      {fstest.MapFS{"proc/self/cgroup": file("1:cpu:/x\n0::/\n"), "sys/fs/cgroup/memory.max": file("800\n")}, 800},
	} {
		if got := cgroupLimit(c.fs); got != c.want {
			t.Errorf("%s: %d, want %d", name, got, c.want)
		}
	}
}

func TestLogForJournalHasNoTime(t *testing.T) {
	for _, format := range []string{"text", "json"} {
		for _, journal := range []bool{false, true} {
			var b bytes.Buffer
			slog.New(newLogHandler(&b, config.Log{Format: format}, slog.LevelInfo, journal)).Info("hello")
			if has := strings.Contains(b.String(), "time"); has == journal {
				t.Errorf("%s for the journal %v: %q", format, journal, b.String())
			}
		}
	}
}
