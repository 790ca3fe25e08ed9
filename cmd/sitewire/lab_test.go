package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"sitewire/topologies/netns"
)

// labTestEnv asks TestMain to enter a lab before it runs tests.
const labTestEnv = "SITEWIRE_TEST_IN_LAB"

// inLab runs the calling test once more, alone and inside a lab, and returns true there. Outside it returns false when that is over, or skips.
func inLab(t *testing.T) bool {
	t.Helper()
	if netns.Inside() {
		return true
	}
	need(t, map[string]func() error{"namespaces": netns.Usable, "tun": netns.UsableTUN})
	cmd := exec.CommandContext(t.Context(), "/proc/self/exe", "-test.v", "-test.run=^"+t.Name()+"$")
	cmd.Env = append(os.Environ(), labTestEnv+"=1")
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = 5 * time.Second
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("inside the lab: %v\n%s", err, out)
	} else if testing.Verbose() {
		t.Logf("inside the lab:\n%s", out)
	}
	return false
}

// labDaemon is `sitewire run` in the lab's own network namespace.
type labDaemon struct {
	t                 *testing.T
	dir, file, socket string
	cmd               *exec.Cmd
	ended             chan error // closed after its result
}

// newLabDaemon makes a directory for a daemon's files, short enough for a socket.
func newLabDaemon(t *testing.T) *labDaemon {
	t.Helper()
	dir, err := os.MkdirTemp("", "sw")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return &labDaemon{t: t, dir: dir, file: filepath.Join(dir, "sitewire.yaml"), socket: filepath.Join(dir, "s")}
}

// put writes a file into the daemon's directory.
func (d *labDaemon) put(name, text string) string {
	d.t.Helper()
	path := filepath.Join(d.dir, name)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		d.t.Fatal(err)
	}
	return path
}

// yaml is a configuration with what every daemon of a test needs, and more.
func (d *labDaemon) yaml(more string) string {
	return fmt.Sprintf("site: fra\nasn: 4242420001\nrouter_id: 172.20.1.1\nannounce: [172.20.1.0/24]\nsocket: %s\nstate_dir: %s\n%s", d.socket, d.dir, more)
}

// start runs the daemon until the test ends, and returns when it answers.
func (d *labDaemon) start() {
	t := d.t
	t.Helper()
	log, err := os.Create(filepath.Join(d.dir, "log"))
	if err != nil {
		t.Fatal(err)
	}
	d.cmd, d.ended = self(context.Background(), "run", "--config", d.file), make(chan error, 1)
	d.cmd.Stderr = log
	if err := d.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	log.Close()
	go func(cmd *exec.Cmd) {
		d.ended <- cmd.Wait()
		close(d.ended)
	}(d.cmd)
	t.Cleanup(func() {
		d.stop()
		if t.Failed() {
			t.Logf("the daemon's log:\n%s", d.log())
		}
	})
	d.until("the daemon to answer", func() error {
		select {
		case err := <-d.ended:
			t.Fatalf("the daemon ended at once: %v", err)
		default:
		}
		_, err := newClient(d.socket).get(t.Context(), "/v1/healthz", nil)
		return err
	})
}

// stop ends the daemon in good order, if it still runs.
func (d *labDaemon) stop() {
	if d.cmd == nil {
		return
	}
	_ = d.cmd.Process.Signal(syscall.SIGTERM) // it may have ended
	select {
	case err := <-d.ended:
		if err != nil {
			d.t.Errorf("the daemon ended with %v", err)
		}
	case <-time.After(20 * time.Second):
		_ = d.cmd.Process.Kill()
		d.t.Error("the daemon did not end")
	}
	d.cmd = nil
}

func (d *labDaemon) log() string {
	b, err := os.ReadFile(filepath.Join(d.dir, "log"))
	if err != nil {
		d.t.Error(err)
	}
	return string(b)
}

func (d *labDaemon) until(what string, f func() error) {
	d.t.Helper()
	ctx, cancel := context.WithTimeout(d.t.Context(), 20*time.Second)
	defer cancel()
	if err := netns.WaitFor(ctx, 20*time.Millisecond, what, f); err != nil {
		d.t.Fatal(err)
	}
}

// scrape returns /metrics of the daemon.
func (d *labDaemon) scrape(address string) (string, error) {
	return page(d.t.Context(), "http://"+address+"/metrics")
}
