// Command init is process 1 of a guest: see package guest.
//
// Job: mount what programs expect, load the modules, run the test binaries one after the other, and end the machine.
// Inputs: the plan in line.PlanFile.
// Outputs: records on the second serial port; its own troubles also on the console.
// Invariants: it ends the machine whatever happens. What it cannot report any more the rig sees as missing records.
package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"sitewire/topologies/guest/line"
)

// killAfter is how long after its own time-out a test process is killed.
const killAfter = 30 * time.Second

func main() {
	if os.Getpid() != 1 {
		fmt.Fprintln(os.Stderr, "init: this is the first process of a guest; package sitewire/topologies/guest starts it")
		os.Exit(2)
	}
	if err := work(); err != nil {
		fmt.Fprintln(os.Stderr, "init:", err)
	}
	unix.Sync()
	// With QEMU's -no-reboot this ends the machine.
	err := unix.Reboot(unix.LINUX_REBOOT_CMD_RESTART)
	fmt.Fprintln(os.Stderr, "init: restart:", err)
	os.Exit(1) // a panic of the kernel
}

func work() error {
	if err := mounts(); err != nil {
		return err
	}
	port, err := openPort("/dev/ttyS1")
	if err != nil {
		return err
	}
	defer drain(port)
	w := line.NewWriter(port)
	if err := runPlan(w); err != nil {
		return errors.Join(err, w.Write(line.Record{Kind: line.Fault, Text: err.Error()}))
	}
	return w.Write(line.Record{Kind: line.Bye})
}

func runPlan(w *line.Writer) error {
	b, err := os.ReadFile(line.PlanFile)
	if err != nil {
		return err
	}
	var plan line.Plan
	if err := json.Unmarshal(b, &plan); err != nil {
		return fmt.Errorf("%s: %w", line.PlanFile, err)
	}
	for _, m := range plan.Modules {
		if err := load(m); err != nil {
			return err
		}
	}
	if err := settle(); err != nil {
		return err
	}
	var uts unix.Utsname
	if err := unix.Uname(&uts); err != nil {
		return fmt.Errorf("uname: %w", err)
	}
	if err := w.Write(line.Record{Kind: line.Hello, Text: unix.ByteSliceToString(uts.Release[:])}); err != nil {
		return err
	}
	for i, r := range plan.Runs {
		if err := runTests(w, i, r); err != nil {
			return err
		}
	}
	return nil
}

// runTests says which tests there are, runs them and passes on what they print.
func runTests(w *line.Writer, i int, r line.Run) error {
	names, err := list(r)
	if err != nil {
		return w.Write(line.Record{Kind: line.End, Run: i, Text: err.Error()})
	}
	if err := w.Write(line.Record{Kind: line.Tests, Run: i, Tests: names}); err != nil {
		return err
	}
	args := []string{"-test.v=test2json", "-test.timeout=" + r.Timeout.String(), "-test.run=" + pattern(r.Pattern)}
	if r.Bench != "" {
		args = append(args, "-test.bench="+r.Bench)
	}
	code, why, err := start(r, append(args, r.Args...), &output{w: w, run: i})
	if err != nil {
		return err
	}
	return w.Write(line.Record{Kind: line.End, Run: i, Exit: code, Text: why})
}

// pattern turns "none" into a pattern that matches nothing: an empty -test.run matches all.
func pattern(p string) string {
	if p == "" {
		return "^$"
	}
	return p
}

// list asks the program for the names of what it will run.
func list(r line.Run) ([]string, error) {
	var names []string
	for _, ask := range []struct{ prefix, pattern string }{{"Test", r.Pattern}, {"Benchmark", r.Bench}} {
		if ask.pattern == "" {
			continue
		}
		first, _, _ := strings.Cut(ask.pattern, "/")
		var out bytes.Buffer
		code, why, err := start(line.Run{Program: r.Program, Dir: r.Dir, Env: r.Env, Timeout: time.Minute}, []string{"-test.list=" + first}, &out)
		if err != nil {
			return nil, err
		}
		if code != 0 || why != "" {
			return nil, fmt.Errorf("%s -test.list: exit code %d %s: %s", r.Program, code, why, &out)
		}
		for name := range strings.FieldsSeq(out.String()) {
			if strings.HasPrefix(name, ask.prefix) {
				names = append(names, name)
			}
		}
	}
	return names, nil
}

// start runs the program until it ends or its time is up. The error is about writing what it printed.
func start(r line.Run, args []string, out io.Writer) (code int, why string, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), r.Timeout+killAfter)
	defer cancel()
	cmd := exec.CommandContext(ctx, r.Program, args...)
	cmd.Dir = r.Dir
	cmd.Env = append(os.Environ(), r.Env...)
	cmd.Stdout, cmd.Stderr = out, out
	// First it may say where it stands. What it has started ends with it: see netns.Enter.
	cmd.Cancel = func() error { return cmd.Process.Signal(unix.SIGQUIT) }
	cmd.WaitDelay = 10 * time.Second
	err = cmd.Run()
	if o, ok := out.(*output); ok && o.err != nil {
		return 0, "", o.err
	}
	exit, ended := errors.AsType[*exec.ExitError](err)
	switch {
	case ctx.Err() != nil:
		return 0, fmt.Sprintf("killed: it did not end within %v of its time-out of %v", killAfter, r.Timeout), nil
	case err == nil:
		return 0, "", nil
	case ended && exit.Exited():
		return exit.ExitCode(), "", nil
	}
	return 0, err.Error(), nil
}

// output makes records of what a process writes.
type output struct {
	w   *line.Writer
	run int
	err error
}

func (o *output) Write(b []byte) (int, error) {
	n := len(b)
	for len(b) > 0 && o.err == nil {
		part := b[:min(len(b), line.Chunk)]
		b = b[len(part):]
		o.err = o.w.Write(line.Record{Kind: line.Output, Run: o.run, Data: part})
	}
	return n, o.err
}

// load loads one kernel module; one that is there already is fine.
func load(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := unix.FinitModule(int(f.Fd()), "", 0); err != nil && !errors.Is(err, unix.EEXIST) {
		return fmt.Errorf("load %s: %w", filepath.Base(path), err)
	}
	return nil
}

// slow says by how much time-outs of tests are to be stretched: the rig wrote it into the kernel's command line, because only it knows
// whether this machine is emulated.
func slow() (string, error) {
	b, err := os.ReadFile("/proc/cmdline")
	if err != nil {
		return "", err
	}
	for word := range strings.FieldsSeq(string(b)) {
		if v, ok := strings.CutPrefix(word, "sitewire.slow="); ok {
			if _, err := strconv.Atoi(v); err != nil {
				return "", fmt.Errorf("kernel command line: %s: %w", word, err)
			}
			return v, nil
		}
	}
	return "1", nil
}
