package lab

import (
	"bytes"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"sitewire/topologies"
	"sitewire/topologies/netns"
	"sitewire/topologies/netns/nstest"
)

// box is where a test runs `sitewire lab` as a user does, and looks at what it leaves behind. The tests themselves are in namespaces, so
// all processes that are new belong to the test.
type box struct {
	t      *testing.T
	tmp    string
	before map[int]bool
	links  string
}

func newBox(t *testing.T) *box {
	t.Helper()
	nstest.Need(t, nstest.TUN)
	tmp, err := os.MkdirTemp("", "b") // short enough for a socket
	if err != nil {
		t.Fatal(err)
	}
	b := &box{t: t, tmp: tmp, before: map[int]bool{}, links: outside(t)}
	for _, pid := range pids(t) {
		b.before[pid] = true
	}
	t.Cleanup(func() {
		_ = b.command("down", "--all").Run() // after a failure
		os.RemoveAll(tmp)
	})
	return b
}

// pids lists the processes that have not ended.
func pids(t *testing.T) []int {
	t.Helper()
	entries, err := os.ReadDir("/proc")
	if err != nil {
		t.Fatal(err)
	}
	var out []int
	for _, e := range entries {
		if pid, err := strconv.Atoi(e.Name()); err == nil && startTime(pid) != "" {
			out = append(out, pid)
		}
	}
	return out
}

// outside is what a lab could change around it: devices, mounts, named namespaces. (The main thread may be in another namespace; see
// runtime.LockOSThread on goroutines that end.)
func outside(t *testing.T) string {
	t.Helper()
	var out strings.Builder
	for _, file := range []string{"/proc/thread-self/net/dev", "/proc/self/mounts"} {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(string(text)) {
			out.WriteString(strings.Fields(line)[0] + "\n") // the counters behind it change
		}
	}
	names, err := os.ReadDir("/run/netns")
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range names {
		out.WriteString(n.Name() + "\n")
	}
	return out.String()
}

// command is `sitewire lab ARGS`, as somebody outside of any lab.
func (b *box) command(args ...string) *exec.Cmd {
	cmd := exec.Command(program, append([]string{"lab"}, args...)...)
	cmd.Env = append(slices.DeleteFunc(os.Environ(), func(kv string) bool { return strings.HasPrefix(kv, "SITEWIRE_LAB=") }),
		"TMPDIR="+b.tmp, "XDG_RUNTIME_DIR=")
	cmd.WaitDelay = 5 * time.Second
	return cmd
}

// run runs `sitewire lab ARGS` and returns what it printed and its exit code.
func (b *box) run(args ...string) (stdout, stderr string, code int) {
	b.t.Helper()
	return b.finish(b.command(args...))
}

func (b *box) finish(cmd *exec.Cmd) (stdout, stderr string, code int) {
	b.t.Helper()
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	err := cmd.Run()
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		return out.String(), errs.String(), exit.ExitCode()
	}
	if err != nil {
		b.t.Fatal(err)
	}
	return out.String(), errs.String(), 0
}

func (b *box) must(args ...string) string {
	b.t.Helper()
	out, errs, code := b.run(args...)
	if code != 0 {
		b.t.Fatalf("lab %s: exit code %d: %s", strings.Join(args, " "), code, errs)
	}
	return out
}

// clean waits for nothing to be left. With at once it may not take any time.
func (b *box) clean(when string, atOnce bool) {
	b.t.Helper()
	check := func() error {
		for _, pid := range pids(b.t) {
			if !b.before[pid] {
				line, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
				return fmt.Errorf("process %d is left: %s", pid, bytes.ReplaceAll(line, []byte{0}, []byte{' '}))
			}
		}
		if err := filepath.WalkDir(b.tmp, func(path string, _ fs.DirEntry, err error) error {
			if err == nil && path != b.tmp {
				err = fmt.Errorf("%s is left", path)
			}
			if errors.Is(err, fs.ErrNotExist) {
				return nil
			}
			return err
		}); err != nil {
			return err
		}
		if now := outside(b.t); now != b.links {
			return fmt.Errorf("outside it was\n%s and is\n%s", b.links, now)
		}
		return nil
	}
	if atOnce {
		if err := check(); err != nil {
			b.t.Fatalf("%s: %v", when, err)
		}
		return
	}
	nstest.Eventually(b.t, 15*time.Second, "nothing to be left "+when, check)
}

// keeper is the outermost process of a lab, its init, and the keeper itself.
func (b *box) keeper(name string) [3]int {
	b.t.Helper()
	b.t.Setenv("TMPDIR", b.tmp)
	b.t.Setenv("XDG_RUNTIME_DIR", "")
	p, err := At(name)
	if err != nil {
		b.t.Fatal(err)
	}
	chain := [3]int{p.outer().pid}
	for i := 1; i < len(chain); i++ {
		for _, pid := range pids(b.t) {
			text, _ := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid)) // it may have ended
			_, rest, _ := strings.Cut(string(text), ") ")
			if f := strings.Fields(rest); len(f) > 1 && f[1] == strconv.Itoa(chain[i-1]) {
				chain[i] = pid
				break
			}
		}
	}
	if slices.Contains(chain[:], 0) {
		b.t.Fatalf("processes of %s: %v", name, chain)
	}
	return chain
}

// TestDownLeavesNothing: two labs at a time, each ended without the other, and the second `lab up` of one.
func TestDownLeavesNothing(t *testing.T) {
	b := newBox(t)
	b.must("list")
	b.clean("after list", true)
	b.must("up", "pair")
	b.must("up", "triangle")
	if _, errs, code := b.run("up", "pair"); code != 1 || !strings.Contains(errs, "running already") {
		t.Errorf("a second `lab up` ended with %d: %s", code, errs)
	}
	b.must("down", "pair")
	if out := b.must("exec", "triangle", "fra", "--", "sitewire", "status", "--json"); !strings.Contains(out, `"site": "fra"`) {
		t.Errorf("the other lab says %s", out)
	}
	b.must("down", "--all")
	b.clean("after down", true)
	if _, errs, code := b.run("down", "pair"); code != 1 || !strings.Contains(errs, "not running") {
		t.Errorf("a second `lab down` ended with %d: %s", code, errs)
	}
	for _, name := range []string{"..", "../x", "a/b", ""} {
		if _, errs, code := b.run("down", name); code == 0 || !strings.Contains(errs, "no lab is called") {
			t.Errorf("down %q ended with %d: %s", name, code, errs)
		}
	}
	b.clean("after all that", true)
}

// TestUpTwiceAtOnce: one of two `lab up` of the same lab wins, and the other does not disturb it.
func TestUpTwiceAtOnce(t *testing.T) {
	b := newBox(t)
	codes := make(chan int, 2)
	for range 2 {
		go func() {
			err := b.command("up", "pair").Run()
			code := 0
			if exit, ok := errors.AsType[*exec.ExitError](err); ok {
				code = exit.ExitCode()
			}
			codes <- code
		}()
	}
	if x, y := <-codes, <-codes; x+y != 1 {
		t.Errorf("exit codes %d and %d, want 0 and 1", x, y)
	}
	b.must("exec", "pair", "fra", "--", "true")
	b.must("down", "pair")
	b.clean("after down", true)
}

// TestUpKilled: SIGKILL of `lab up` at any moment leaves nothing, but where it could not tell anybody that there is a directory.
func TestUpKilled(t *testing.T) {
	b := newBox(t)
	for _, after := range []time.Duration{0, 2, 5, 10, 20, 40, 80, 120, 160} {
		after *= time.Millisecond
		cmd := b.command("up", "triangle")
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(after)
		_ = cmd.Process.Kill() // it may be done
		err := cmd.Wait()
		if err == nil { // it was up before
			b.must("down", "triangle")
			b.clean("after down", true)
			continue
		}
		_, _, _ = b.run("down", "triangle") // whether there was something or not
		b.clean(fmt.Sprintf("after a kill %v after the start", after), false)
	}
	// Without a `lab down`, with time enough for the keeper to notice.
	cmd := b.command("up", "hub-spoke", "--sites", "10")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	nstest.Eventually(t, 10*time.Second, "the keeper to start", func() error {
		if m, _ := filepath.Glob(filepath.Join(b.tmp, "*", "*", pidFile)); len(m) == 0 {
			return errors.New("no process yet")
		}
		return nil
	})
	_ = cmd.Process.Kill()
	_ = cmd.Wait()
	b.clean("after a kill while it came up", false)
}

// TestKeeperKilled: whatever process of a lab is killed, the kernel ends the others; `lab list` knows, `lab down` and `lab up` tidy up.
func TestKeeperKilled(t *testing.T) {
	b := newBox(t)
	for i, what := range []string{"the outermost process", "the init", "the keeper"} {
		b.must("up", "pair")
		if err := syscall.Kill(b.keeper("pair")[i], syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		nstest.Eventually(t, 10*time.Second, "processes to end with "+what, func() error {
			for _, pid := range pids(t) {
				if !b.before[pid] {
					return fmt.Errorf("process %d runs", pid)
				}
			}
			return nil
		})
		if out := b.must("list"); strings.Contains(out, "running") {
			t.Errorf("%s was killed, and list says\n%s", what, out)
		}
		if _, errs, code := b.run("exec", "pair", "fra", "--", "true"); code != 1 || !strings.Contains(errs, "start it with") {
			t.Errorf("exec ended with %d: %s", code, errs)
		}
		if i == 0 {
			b.must("up", "pair") // over what is left
		}
		b.must("down", "pair")
		b.clean("after "+what+" was killed", true)
	}
	b.must("up", "pair")
	if err := syscall.Kill(b.keeper("pair")[0], syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	b.clean("after SIGTERM", false)
}

// TestDownDuringExec: a shell that somebody has open does not hold the lab, and ends.
func TestDownDuringExec(t *testing.T) {
	b := newBox(t)
	b.must("up", "pair")
	cmd := b.command("exec", "pair", "fra", "--", "sh", "-c", "trap '' HUP; echo started; sleep 1000; sleep 1000")
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(out, make([]byte, len("started"))); err != nil {
		t.Fatal(err)
	}
	start := time.Now()
	b.must("down", "pair")
	if took := time.Since(start); took > 10*time.Second {
		t.Errorf("down took %v", took)
	}
	if err := cmd.Wait(); err == nil {
		t.Error("the command ended well")
	}
	b.clean("after down", true)
}

// TestExec: an exec is like a command of one's own.
func TestExec(t *testing.T) {
	b := newBox(t)
	b.must("up", "pair")
	text := filepath.Join(t.TempDir(), "text")
	if err := os.WriteFile(text, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		args []string
		code int
		want string
	}{
		{[]string{"pair", "fra", "--", "true"}, 0, ""},
		{[]string{"pair", "fra", "--", "sh", "-c", "exit 42"}, 42, ""},
		{[]string{"pair", "fra", "--", "sh", "-c", "kill -KILL $$"}, 128 + 9, ""},
		{[]string{"pair", "fra", "--", "no-such-program"}, 127, "not found"},
		{[]string{"pair", "fra", "--", text}, 126, "permission denied"},
		{[]string{"pair", "ams", "--", "true"}, 2, "there are internet, fra, fra-host"},
		{[]string{"triangle", "fra", "--", "true"}, 1, "sitewire lab up triangle"},
	} {
		if _, errs, code := b.run(append([]string{"exec"}, c.args...)...); code != c.code || !strings.Contains(errs, c.want) {
			t.Errorf("exec %v ended with %d, want %d: %s", c.args, code, c.code, errs)
		}
	}
	// Pipes: bytes of all kinds in and out, and the end of the input arrives.
	data := make([]byte, 3<<20)
	rand.Read(data)
	cmd := b.command("exec", "pair", "fra", "--", "cat")
	cmd.Stdin = bytes.NewReader(data)
	if out, errs, code := b.finish(cmd); code != 0 || out != string(data) {
		t.Errorf("cat ended with %d after %d of %d bytes: %s", code, len(out), len(data), errs)
	}
	// The directory is the one of the caller, and so is a program given by a relative path.
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "here"), []byte("#!/bin/sh\npwd\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	cmd = b.command("exec", "pair", "fra", "--", "./here")
	cmd.Dir = dir
	if out, errs, code := b.finish(cmd); code != 0 || strings.TrimSpace(out) != dir {
		t.Errorf("./here ended with %d, in %s, not %s: %s", code, out, dir, errs)
	}
	// Signals go to the command, and its end comes back.
	cmd = b.command("exec", "pair", "fra", "--", "sh", "-c", "trap 'exit 33' TERM; echo started; while :; do sleep 0.05; done")
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(out, make([]byte, len("started"))); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	err = cmd.Wait()
	if exit, ok := errors.AsType[*exec.ExitError](err); !ok || exit.ExitCode() != 33 {
		t.Errorf("after SIGTERM: %v", err)
	}
	// A client that is killed takes its command along.
	cmd = b.command("exec", "pair", "fra", "--", "sleep", "987")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	sleeps := func() error {
		for _, pid := range pids(t) {
			if line, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid)); string(line) == "sleep\x00987\x00" {
				return nil
			}
		}
		return errors.New("nobody sleeps")
	}
	nstest.Eventually(t, 5*time.Second, "the command to run", sleeps)
	_ = cmd.Process.Kill()
	_ = cmd.Wait()
	nstest.Eventually(t, 5*time.Second, "the command to end", func() error {
		if sleeps() == nil {
			return errors.New("it sleeps")
		}
		return nil
	})
	b.must("down", "pair")
	b.clean("after down", true)
}

// TestExecTerminal: a command on a terminal knows its size, also a new one.
func TestExecTerminal(t *testing.T) {
	b := newBox(t)
	b.must("up", "pair")
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer master.Close()
	if err := unix.IoctlSetPointerInt(int(master.Fd()), unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	fd, _, errno := unix.Syscall(unix.SYS_IOCTL, master.Fd(), unix.TIOCGPTPEER, unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC)
	if errno != 0 {
		t.Fatal(errno)
	}
	tty := os.NewFile(fd, "tty")
	size := func(rows, columns uint16) {
		t.Helper()
		if err := unix.IoctlSetWinsize(int(tty.Fd()), unix.TIOCSWINSZ, &unix.Winsize{Row: rows, Col: columns}); err != nil {
			t.Fatal(err)
		}
	}
	size(30, 100)
	cmd := b.command("exec", "pair", "fra", "--", "sh", "-c", "stty size; read x; stty size; tty; sleep 1000")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = tty, tty, tty
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	said := make(chan string, 1)
	all := ""
	go func() {
		buf := make([]byte, 4096)
		for {
			k, err := master.Read(buf)
			if err != nil {
				close(said)
				return
			}
			said <- string(buf[:k])
		}
	}()
	until := func(want string) {
		t.Helper()
		timeout := time.After(10 * time.Second)
		for !strings.Contains(all, want) {
			select {
			case s := <-said:
				all += s
			case <-timeout:
				t.Fatalf("the terminal shows %q, not %q", all, want)
			}
		}
	}
	until("30 100")
	size(40, 120) // the kernel tells the process in the foreground
	time.Sleep(100 * time.Millisecond)
	if _, err := master.WriteString("\r"); err != nil {
		t.Fatal(err)
	}
	until("40 120")
	until("/dev/")
	if _, err := master.Write([]byte{3}); err != nil { // Ctrl-C
		t.Fatal(err)
	}
	err = cmd.Wait()
	if exit, ok := errors.AsType[*exec.ExitError](err); !ok || exit.ExitCode() != 128+2 {
		t.Errorf("after Ctrl-C: %v", err)
	}
	b.must("down", "pair")
	b.clean("after down", true)
}

// TestPlacesOfOthers: what somebody else has prepared in a directory for temporary files is refused, and not written to.
func TestPlacesOfOthers(t *testing.T) {
	b := newBox(t)
	dir := filepath.Join(b.tmp, fmt.Sprintf("%s-%d", labsDir, os.Getuid()))
	refused := func(what, want string) {
		t.Helper()
		if _, errs, code := b.run("up", "pair"); code != 1 || !strings.Contains(errs, want) {
			t.Errorf("%s: `lab up` ended with %d: %s", what, code, errs)
		}
	}
	target := t.TempDir()
	if err := os.Symlink(target, dir); err != nil {
		t.Fatal(err)
	}
	refused("a link", "only you can write")
	if entries, err := os.ReadDir(target); err != nil || len(entries) != 0 {
		t.Errorf("the link was followed: %v %v", entries, err)
	}
	if err := os.Remove(dir); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(dir, 0o777); err != nil {
		t.Fatal(err)
	}
	refused("a directory for all", "only you can write")
	if err := os.Chmod(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(b.tmp, 0o777); err != nil { // without the sticky bit
		t.Fatal(err)
	}
	refused("a TMPDIR for all", "set TMPDIR")
	if err := os.Chmod(b.tmp, 0o700); err != nil {
		t.Fatal(err)
	}
	b.must("up", "pair")
	b.must("down", "pair")
	b.clean("after down", true)
}

// TestImpairRunning: impairments of a running lab do what they say, are listed, and can be changed.
func TestImpairRunning(t *testing.T) {
	w, err := topologies.Build("pair", 0)
	if err != nil {
		t.Fatal(err)
	}
	l, _ := start(t, w)
	from, to := l.NS("fra"), w.Ports(w.Node("nyc"))[1].Addr(false)
	// rtt is the shortest of some round trips; the first ones look for MAC addresses.
	rtt := func() time.Duration {
		t.Helper()
		shortest := time.Hour
		for range 5 {
			f, err := netns.StartFlow(from, []netip.Addr{to}, netns.FlowOpts{Count: 1})
			if err != nil {
				t.Fatal(err)
			}
			select {
			case <-f.Complete():
			case <-time.After(5 * time.Second):
			}
			if r := f.Stop(0)[0]; r.Received == 1 {
				shortest = min(shortest, r.MaxRTT)
			}
		}
		return shortest
	}
	impair := func(i Impairment) {
		t.Helper()
		if err := l.Impair(t.Context(), i); err != nil {
			t.Fatal(err)
		}
	}
	i := Impairment{Node: "fra", Interface: "uplink"}
	i.Delay = 30 * time.Millisecond
	impair(i)
	if d := rtt(); d < 59*time.Millisecond || d > 100*time.Millisecond {
		t.Errorf("30 ms each way are a round trip of %v", d)
	}
	list := l.Impaired()
	if len(list) != 2 || list[0].Node != "fra" || list[0].To != "internet:eth1" || list[1].To != "fra:eth2" || list[1].Delay != i.Delay || list[0].By == "" {
		t.Errorf("listed are %+v", list)
	}
	i.OneWay, i.Delay = true, 0
	impair(i)
	if d := rtt(); d < 29*time.Millisecond || d > 60*time.Millisecond {
		t.Errorf("30 ms one way are a round trip of %v", d)
	}
	i.OneWay = false
	impair(i)
	if d := rtt(); d > 20*time.Millisecond || len(l.Impaired()) != 0 {
		t.Errorf("healed, a round trip is %v; listed are %+v", d, l.Impaired())
	}
	for _, c := range []struct {
		i    Impairment
		want string
	}{
		{Impairment{Node: "ams", Interface: "eth1"}, "no node"},
		{Impairment{Node: "fra", Interface: "eth7"}, "eth2 (internet, uplink)"},
	} {
		if err := l.Impair(t.Context(), c.i); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%+v: %v", c.i, err)
		}
	}
	i.Loss = 120
	if err := l.Impair(t.Context(), i); err == nil || !strings.Contains(err.Error(), "percentage") {
		t.Errorf("120 %% loss: %v", err)
	}
}
