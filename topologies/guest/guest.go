// Package guest runs test binaries under another kernel: it boots Debian's in a virtual machine, runs them in there, and reports each of
// their tests as a subtest of the caller's.
//
// Job: build static test binaries and an initramfs, boot it with QEMU (under KVM where that works, else emulated), follow what happens.
// Owner: the test that calls Run. The machine does not outlive it, SIGKILL included.
// Inputs: packages and patterns; Debian's kernel package, downloaded once into the user's cache; programs of this machine.
// Outputs: subtests with output, skips and failures of their own; benchmark lines in the log.
// Invariants: a test that was to run and did not say how it ended fails, whatever the reason: no boot, a panic, a lost line, time.
// The guest has no network device and no disk; nothing of this machine is changed.
package guest

import (
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"sitewire/topologies/netns"
	"sitewire/topologies/netns/nstest"
)

const qemuProgram = "qemu-system-x86_64"

// Options say what to run.
type Options struct {
	// Kernel is Bookworm, Newest or a directory with an unpacked kernel package. If it is empty SITEWIRE_GUEST_KERNEL chooses, or Bookworm.
	Kernel string
	// Tests run one after the other, in this order.
	Tests []Binary
	// Commands are built and put into the guest: path there → package.
	Commands map[string]string
	// Programs of this machine that the tests start, beside basePrograms.
	Programs []string
	// Files and directories of this machine, at the same place in the guest.
	Files []string
	// Modules of the kernel, beside those that are always loaded.
	Modules []string
	// MemoryMiB (1024) and CPUs (2) are the size of the machine.
	MemoryMiB, CPUs int
}

// Binary is one run of a package's tests.
type Binary struct {
	// Package is the import path.
	Package string
	// Run and Bench select as the flags of go test do. Empty is none.
	Run, Bench string
	// Args go to the test binary, as "-test.benchtime=1x".
	Args []string
	// Env is added to the environment.
	Env []string
	// Timeout of the run, 2 minutes if it is 0. Time passes slowly in an emulated machine.
	Timeout time.Duration
}

// QEMU needs the emulator and what the image of a guest is made with.
var QEMU = nstest.Requirement{Kind: "guest", Name: "qemu", Check: func() error {
	if runtime.GOARCH != "amd64" {
		return &netns.Unavailable{What: "a guest", Why: "it gets this machine's programs, and its kernel is for amd64", Fix: "use an amd64 machine"}
	}
	packages := map[string]string{qemuProgram: "qemu-system-x86", "xz": "xz-utils", "ldd": "libc-bin", "wg": "wireguard-tools", "nft": "nftables",
		"ip": "iproute2", "ping": "iputils-ping", "sysctl": "procps"}
	for _, name := range slices.Concat([]string{qemuProgram, "xz", "ldd"}, basePrograms) {
		if _, err := netns.Program(name); err != nil {
			return &netns.Unavailable{What: name, Why: err.Error(), Fix: "apt-get install " + cmp.Or(packages[name], name)}
		}
	}
	return nil
}}

// Kernel needs the kernel of that name (see Options), and downloads it if it is not in the cache. That of another release of Debian is of a
// kind of its own ("backports"), since a machine may reach its own release only.
func Kernel(name string) nstest.Requirement {
	kind := "guest"
	if name == Newest {
		kind = "backports"
	}
	return nstest.Requirement{Kind: kind, Name: "kernel", Check: func() error {
		name, err := chosenKernel(name)
		if err == nil {
			_, err = findKernel(name)
		}
		return err
	}}
}

// Run boots a guest, runs the tests in it and reports them as subtests of t: t.Name()/PACKAGE/TEST/SUBTEST, with dots for the slashes of
// the package's path in this module. It skips t where no guest can be had. If -run names such a subtest, only that runs in the guest.
func Run(t *testing.T, o Options) {
	t.Helper()
	name, err := chosenKernel(o.Kernel)
	if err != nil {
		t.Fatal(err)
	}
	nstest.NeedOutside(t, QEMU, Kernel(name))
	k, err := findKernel(name)
	if err != nil {
		t.Fatal(err)
	}
	o.MemoryMiB, o.CPUs = cmp.Or(o.MemoryMiB, 1024), cmp.Or(o.CPUs, 2)
	o.Tests = selected(o.Tests, t.Name(), flag.Lookup("test.run").Value.String())
	if len(o.Tests) == 0 {
		t.Fatal("-run selects no package of this guest")
	}
	for i := range o.Tests {
		o.Tests[i].Timeout = cmp.Or(o.Tests[i].Timeout, 2*time.Minute)
	}

	im := newImage(t.TempDir())
	plan, err := im.assemble(t.Context(), k, o)
	if err != nil {
		t.Fatal(err)
	}
	initramfs := filepath.Join(im.work, "initramfs")
	if err := im.write(initramfs); err != nil {
		t.Fatal(err)
	}

	ctx, cancel := context.WithTimeout(t.Context(), allowance(plan))
	defer cancel()
	begin := time.Now()
	m, err := boot(ctx, k, initramfs, o)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		cancel()
		<-m.done
		m.results.Close()
	}()
	r := newReport(m.results)
	r.why = func() string { return m.ending(ctx) }
	r.ready = func(release string) {
		t.Logf("Linux %s under %s is up after %.1f s", release, m.accel, time.Since(begin).Seconds())
	}
	r.all(t, o.Tests)
	if trouble := m.console.trouble(); trouble != "" {
		t.Logf("the guest's kernel says:\n%s", trouble)
	}
	t.Logf("%d packages in %.0f s", len(o.Tests), time.Since(begin).Seconds())
}

// ending says why a machine ended that still had something to say. It waits for its end.
func (m *machine) ending(ctx context.Context) string {
	what := "the guest stopped talking and was ended"
	select {
	case <-m.done:
		what = "the guest ended"
	case <-ctx.Done():
		<-m.done
	case <-time.After(5 * time.Second): // whoever asks has stopped reading
	}
	if errors.Is(ctx.Err(), context.DeadlineExceeded) {
		what = "the guest's time is up"
	}
	if trouble := m.console.trouble(); trouble != "" {
		return fmt.Sprintf("%s; its kernel says:\n%s", what, trouble)
	}
	return fmt.Sprintf("%s; the end of its console:\n%s", what, lastOf(m.console.text(), 40))
}

func lastOf(text string, n int) string {
	lines := strings.Split(strings.TrimSpace(text), "\n")
	return strings.Join(lines[max(0, len(lines)-n):], "\n")
}

// label is a package's path in this module with dots, because a slash in the name of a subtest would begin another level.
func label(pkg string) string {
	return strings.ReplaceAll(strings.TrimPrefix(pkg, "sitewire/"), "/", ".")
}

// selected applies the elements of -run that are below the test which runs the guest. A pattern with alternatives selects everything
// here; package testing still reports only what it selects.
func selected(tests []Binary, name, pattern string) []Binary {
	elements := strings.Split(pattern, "/")
	elements = elements[min(len(elements), strings.Count(name, "/")+1):]
	if len(elements) == 0 || strings.Contains(pattern, "|") {
		return tests
	}
	pkg, err := regexp.Compile(elements[0])
	if err != nil {
		return tests
	}
	var chosen []Binary
	for _, b := range tests {
		if !pkg.MatchString(label(b.Package)) {
			continue
		}
		if len(elements) > 1 {
			if b.Run != "" {
				b.Run = strings.Join(elements[1:], "/")
			}
			if b.Bench != "" {
				b.Bench = strings.Join(elements[1:], "/")
			}
		}
		chosen = append(chosen, b)
	}
	return chosen
}

// test2json converts test output into events; -t gives them the times that tests took.
func test2json(ctx context.Context) *exec.Cmd {
	return exec.CommandContext(ctx, "go", "tool", "test2json", "-t")
}
