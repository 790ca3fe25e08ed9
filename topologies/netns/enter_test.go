package netns_test

import (
	"bufio"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"sitewire/topologies/netns"
	"sitewire/topologies/netns/nstest"
)

// helperEnv makes this test program, started anew by a test, enter a lab of its own and play a part in it.
const helperEnv = "NETNS_TEST_HELPER"

// TestHelper is not a test: it is the program that the tests below run in a lab of its own.
func TestHelper(t *testing.T) {
	part := os.Getenv(helperEnv)
	if part == "" {
		return
	}
	if !netns.Inside() {
		os.Exit(99)
	}
	switch part {
	case "exit":
		os.Exit(7)
	case "sleep":
		n, err := netns.New("sleeper")
		if err != nil {
			t.Fatal(err)
		}
		cmd := n.Command(t.Context(), "sh", "-c", "echo asleep; exec sleep 1000")
		cmd.Stdout = os.Stdout
		if err := cmd.Run(); err != nil {
			t.Fatal(err)
		}
	}
}

// helper starts this program again, outside the lab of this one, playing a part.
func helper(t *testing.T, part string) *exec.Cmd {
	t.Helper()
	nstest.Need(t)
	cmd := exec.CommandContext(t.Context(), "/proc/self/exe", "-test.run=^TestHelper$")
	for _, kv := range os.Environ() {
		if !strings.HasPrefix(kv, "SITEWIRE_LAB=") {
			cmd.Env = append(cmd.Env, kv)
		}
	}
	cmd.Env = append(cmd.Env, helperEnv+"="+part)
	return cmd
}

func TestEnterPassesTheExitCodeOn(t *testing.T) {
	err := helper(t, "exit").Run()
	ee, ok := errors.AsType[*exec.ExitError](err)
	if !ok || ee.ExitCode() != 7 {
		t.Errorf("the helper ended with %v, want exit status 7", err)
	}
}

func TestNothingSurvives(t *testing.T) {
	for _, sig := range []syscall.Signal{syscall.SIGKILL, syscall.SIGTERM} {
		t.Run(sig.String(), func(t *testing.T) {
			cmd := helper(t, "sleep")
			out, err := cmd.StdoutPipe()
			if err != nil {
				t.Fatal(err)
			}
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			r := bufio.NewReader(out)
			if line, err := r.ReadString('\n'); err != nil || line != "asleep\n" {
				t.Fatalf("the helper says %q, %v", line, err)
			}
			tree := descendants(t, cmd.Process.Pid)
			if len(tree) < 3 {
				t.Errorf("the helper has %d descendants, want init, program and sleep", len(tree))
			}
			if err := cmd.Process.Signal(sig); err != nil {
				t.Fatal(err)
			}
			// The pipe ends when the last process that holds it is gone.
			if _, err := io.Copy(io.Discard, r); err != nil {
				t.Error(err)
			}
			if err := cmd.Wait(); err == nil {
				t.Error("the helper ended without an error")
			} else if ee, _ := errors.AsType[*exec.ExitError](err); sig == syscall.SIGTERM && ee.ExitCode() != 128+int(sig) {
				t.Errorf("after SIGTERM the helper ended with %v, want exit status 143", err)
			}
			nstest.Eventually(t, 10*time.Second, "all processes to end", func() error {
				for _, pid := range tree {
					if syscall.Kill(pid, 0) == nil && !isZombie(pid) {
						return errors.New("process " + strconv.Itoa(pid) + " lives")
					}
				}
				return nil
			})
		})
	}
}

// descendants asks every thread for its children: a Go program starts processes from any of its threads.
func descendants(t *testing.T, pid int) []int {
	t.Helper()
	lists, err := filepath.Glob("/proc/" + strconv.Itoa(pid) + "/task/*/children")
	if err != nil {
		t.Fatal(err)
	}
	if len(lists) == 0 {
		t.Skip(`SKIP-REASON kind=kernel name=proc-children fix="a kernel with CONFIG_PROC_CHILDREN" why="no /proc/PID/task/TID/children"`)
	}
	var all []int
	for _, list := range lists {
		b, err := os.ReadFile(list)
		if err != nil {
			continue // the thread has ended
		}
		for word := range strings.FieldsSeq(string(b)) {
			child, err := strconv.Atoi(word)
			if err != nil {
				t.Fatal(err)
			}
			all = append(append(all, child), descendants(t, child)...)
		}
	}
	return all
}

func isZombie(pid int) bool {
	b, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	return err == nil && strings.Contains(string(b), ") Z ")
}

func TestUnavailableSaysWhatToDo(t *testing.T) {
	var err error = &netns.Unavailable{What: "/dev/net/tun", Why: "permission denied", Fix: "chmod it"}
	const want = "/dev/net/tun not usable here: permission denied; to fix it: chmod it"
	if err.Error() != want {
		t.Errorf("got  %s\nwant %s", err, want)
	}
}
