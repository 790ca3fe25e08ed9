package guest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// kvmPatience is how long a kernel under KVM may take to its first line, which comes within half a second where KVM works. There are
	// machines with a /dev/kvm on which a stock kernel never leaves its decompressor.
	kvmPatience = 5 * time.Second
	// slowdown is by how much time-outs of tests are stretched under emulation.
	slowdown = 5
	// consoleKept is how much of the end of the console is kept.
	consoleKept = 64 << 10
)

// firstLine is the first thing that a kernel says of itself.
var firstLine = []byte("Linux version ")

// machine is a running virtual machine.
type machine struct {
	accel   string
	console *console
	results *os.File      // what the second serial port sends; ends when QEMU does
	done    chan struct{} // closed when QEMU has ended
	err     error         // how; valid after done
}

// kvmFails remembers that KVM was tried in vain by this process.
var kvmFails struct {
	sync.Mutex
	yes bool
}

// boot starts a machine: under KVM if that really runs a kernel, else emulated. The machine dies with ctx.
func boot(ctx context.Context, k *kernel, initramfs string, o Options) (*machine, error) {
	kvmFails.Lock()
	defer kvmFails.Unlock()
	if !kvmFails.yes && unix.Access("/dev/kvm", unix.R_OK|unix.W_OK) == nil {
		try, cancel := context.WithCancel(ctx)
		m, err := startQEMU(try, "kvm", k, initramfs, o)
		if err != nil {
			cancel()
			return nil, err
		}
		select {
		case <-m.console.started:
			context.AfterFunc(ctx, cancel)
			return m, nil
		case <-time.After(kvmPatience):
		case <-m.done:
		}
		cancel()
		<-m.done
		m.results.Close()
	}
	kvmFails.yes = true
	return startQEMU(ctx, "tcg", k, initramfs, o)
}

func startQEMU(ctx context.Context, accel string, k *kernel, initramfs string, o Options) (*machine, error) {
	cmdline := []string{"console=ttyS0", "loglevel=6", "panic=-1", "oops=panic", "reboot=t", "mitigations=off", "random.trust_cpu=on"}
	args := []string{"-machine", "q35", "-smp", strconv.Itoa(o.CPUs), "-m", strconv.Itoa(o.MemoryMiB), "-nodefaults", "-no-user-config",
		"-display", "none", "-no-reboot", "-serial", "stdio", "-chardev", "file,id=results,path=/dev/fd/3", "-serial", "chardev:results"}
	if accel == "kvm" {
		args = append(args, "-accel", "kvm", "-cpu", "host")
	} else {
		args = append(args, "-accel", "tcg,thread=multi", "-cpu", "max")
		cmdline = append(cmdline, "sitewire.slow="+strconv.Itoa(slowdown))
	}
	args = append(args, "-kernel", k.image, "-initrd", initramfs, "-append", strings.Join(cmdline, " "))

	r, w, err := os.Pipe()
	if err != nil {
		return nil, fmt.Errorf("pipe to the guest: %w", err)
	}
	m := &machine{accel: accel, console: newConsole(), results: r, done: make(chan struct{})}
	cmd := exec.CommandContext(ctx, qemuProgram, args...)
	cmd.Stdout, cmd.Stderr = m.console, m.console
	cmd.ExtraFiles = []*os.File{w}
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: unix.SIGKILL}
	started := make(chan error)
	go func() {
		// The death signal is about the thread that forks, so that thread has to live as long as QEMU.
		runtime.LockOSThread()
		err := cmd.Start()
		w.Close()
		started <- err
		if err == nil {
			m.err = cmd.Wait()
			close(m.done)
		}
	}()
	if err := <-started; err != nil {
		return nil, errors.Join(fmt.Errorf("start %s: %w", qemuProgram, err), r.Close())
	}
	return m, nil
}

// console keeps the end of what the kernel and QEMU say.
type console struct {
	started chan struct{} // closed when the kernel has said its first line

	mu   sync.Mutex
	tail []byte
	on   bool
}

func newConsole() *console { return &console{started: make(chan struct{})} }

func (c *console) Write(b []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.tail = append(c.tail, b...)
	if !c.on && bytes.Contains(c.tail, firstLine) {
		c.on = true
		close(c.started)
	}
	if over := len(c.tail) - consoleKept; over > consoleKept {
		c.tail = slices.Delete(c.tail, 0, over)
	}
	return len(b), nil
}

// text returns the end of the console, without the control characters that serial consoles use.
func (c *console) text() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return strings.ReplaceAll(string(c.tail), "\r", "")
}

// trouble returns the lines from the first on that tells of a fault of the kernel, or nothing.
func (c *console) trouble() string {
	text := c.text()
	for _, sign := range []string{"Kernel panic", "BUG: ", "Oops: ", "WARNING: ", "INFO: task ", "Out of memory"} {
		if before, _, ok := strings.Cut(text, sign); ok {
			return firstLines(text[strings.LastIndexByte(before, '\n')+1:], 40)
		}
	}
	return ""
}

func firstLines(text string, n int) string {
	var b strings.Builder
	for line := range strings.Lines(text) {
		if n--; n < 0 {
			break
		}
		b.WriteString(line)
	}
	return b.String()
}
