package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"sitewire/topologies/netns"
)

// need skips a test that starts programs in namespaces of their own, in the form of package nstest, which is for tests that are inside.
func need(t *testing.T, checks map[string]func() error) {
	t.Helper()
	for kind, check := range checks {
		err := check()
		if err == nil {
			continue
		}
		u, ok := errors.AsType[*netns.Unavailable](err)
		if !ok {
			t.Fatal(err)
		}
		reason := fmt.Sprintf("SKIP-REASON kind=%s name=%s fix=%q why=%q", kind, u.What, u.Fix, u.Why)
		for word := range strings.SplitSeq(os.Getenv("SITEWIRE_REQUIRE"), ",") {
			if word = strings.TrimSpace(word); word == "all" || word == kind || word == u.What {
				t.Fatalf("SITEWIRE_REQUIRE names what is missing: %s", reason)
			}
		}
		t.Skip(reason)
	}
}

// self returns a command that runs this test program as sitewire.
func self(ctx context.Context, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, "/proc/self/exe", args...)
	cmd.Args[0] = "sitewire"
	return cmd
}

func TestDemo(t *testing.T) {
	if testing.Short() {
		t.Skip("the demo takes seconds")
	}
	need(t, map[string]func() error{"namespaces": netns.Usable, "tun": netns.UsableTUN})
	cmd := self(t.Context(), "demo", "--once")
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		t.Fatalf("%v\n%s%s", err, stdout.Bytes(), stderr.Bytes())
	}
	for _, want := range []string{"sin-lan -> nyc-lan", "traffic flows again through sin", "direct again", "All of it worked"} {
		if !strings.Contains(stdout.String(), want) {
			t.Errorf("the demo did not say %q:\n%s", want, stdout.String())
		}
	}
	if stderr.Len() > 0 {
		t.Errorf("messages:\n%s", stderr.String())
	}
}

// TestDemoVanishes kills the demo in the middle: nothing that it started may live on.
func TestDemoVanishes(t *testing.T) {
	if testing.Short() {
		t.Skip("the demo takes seconds")
	}
	need(t, map[string]func() error{"namespaces": netns.Usable, "tun": netns.UsableTUN})
	mark := "SITEWIRE_TEST_MARK=" + rand.Text()
	cmd := self(t.Context(), "demo")
	cmd.Env = append(os.Environ(), mark)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(out)
	for lines.Scan() && !strings.Contains(lines.Text(), "2/2 tunnels up") {
	}
	// The demo, its init, the program inside and three gateways.
	if n := len(marked(t, mark)); n < 6 {
		t.Errorf("%d processes of the demo, want 6", n)
	}
	killTogether(t, cmd, mark)
}

// killTogether kills a demo and waits until nothing that has its mark lives on.
func killTogether(t *testing.T, cmd *exec.Cmd, mark string) {
	t.Helper()
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait() // "signal: killed"
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	if err := netns.WaitFor(ctx, 20*time.Millisecond, "the demo's processes to end", func() error {
		if left := marked(t, mark); len(left) > 0 {
			return fmt.Errorf("left: %v", left)
		}
		return nil
	}); err != nil {
		t.Error(err)
	}
}

// marked lists the processes with an environment variable.
func marked(t *testing.T, variable string) (pids []string) {
	t.Helper()
	files, err := filepath.Glob("/proc/[0-9]*/environ")
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		b, err := os.ReadFile(f) // it may have ended, or be another user's
		if err == nil && bytes.Contains(b, []byte(variable)) {
			pids = append(pids, filepath.Base(filepath.Dir(f)))
		}
	}
	return pids
}
