package docker

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"sitewire/topologies"
	"sitewire/topologies/check"
	"sitewire/topologies/netns"
	"sitewire/topologies/netns/nstest"
)

const (
	labsDir   = "../../containerlab"
	imagesDir = labsDir + "/images"
)

func TestMain(m *testing.M) { nstest.Main(m) }

// imageLimit is what the gateway's image may have, in bytes.
const imageLimit = 40e6

// engine starts an Engine that is closed when the test ends, and skips the test where there can be none.
func engine(t *testing.T) *Engine {
	t.Helper()
	ns := nstest.NS(t, "engine")
	var e *Engine
	nstest.Need(t, nstest.Requirement{Kind: "container", Name: "docker", Check: func() (err error) {
		e, err = Start(t.Context(), ns)
		return err
	}})
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), time.Minute)
		defer cancel()
		if t.Failed() {
			t.Logf("the engine's log ends:\n%s", tail(e.daemon.Log()))
		}
		if err := e.Close(ctx); err != nil {
			t.Error(err)
		}
		e.nothingLeft(ctx, t)
	})
	return e
}

func tail(s string) string { return s[max(0, len(s)-4096):] }

// nothingLeft looks for what a closed engine may have left in the lab and in the machine's control groups.
func (e *Engine) nothingLeft(ctx context.Context, t *testing.T) {
	t.Helper()
	if _, err := os.Stat(e.dir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("%s is left: %v", e.dir, err)
	}
	left, err := output(e.ns.Command(ctx, "sh", "-c", showCgroups+`find /sys/fs/cgroup -path "*/$0*"`, e.cgroup), "look for control groups")
	if err != nil || len(left) > 0 {
		t.Errorf("control groups are left: %s %v", left, err)
	}
	procs, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		t.Error(err)
	}
	for _, file := range procs {
		line, err := os.ReadFile(file) // it may have ended
		if name := string(line); err == nil && (strings.Contains(name, "dockerd") || strings.Contains(name, "containerd")) {
			t.Errorf("%s is left: %q", file, name)
		}
	}
}

// program builds sitewire as the Makefile does.
func program(t *testing.T) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "sitewire")
	cmd := exec.CommandContext(t.Context(), "go", "build", "-trimpath", "-ldflags=-s -w", "-o", file, "sitewire/cmd/sitewire")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return file
}

// buildGateway builds the gateway's image from its Dockerfile.
func buildGateway(t *testing.T, e *Engine, sitewire string) {
	t.Helper()
	// A directory with what .dockerignore lets through, but not in the repository: it stays clean.
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, "sitewire"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Link(sitewire, filepath.Join(dir, "sitewire/sitewire")); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{".dockerignore", "sitewire/Dockerfile"} {
		text, err := os.ReadFile(filepath.Join(imagesDir, name))
		if err == nil {
			err = os.WriteFile(filepath.Join(dir, name), text, 0o644)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	start := time.Now()
	if err := e.Build(t.Context(), "sitewire:latest", filepath.Join(dir, "sitewire/Dockerfile"), dir); err != nil {
		t.Fatal(err)
	}
	took := time.Since(start)
	size, err := e.Size(t.Context(), "sitewire:latest")
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("the gateway's image: %.1f MB, built in %.1f s", float64(size)/1e6, took.Seconds())
	if size > imageLimit {
		t.Errorf("the gateway's image has %d bytes, more than %.0f", size, imageLimit)
	}
}

// imagesEnv names a file that "docker save" has made of the four images of containerlab/images. With it TestContainers runs every lab, over these.
const imagesEnv = "SITEWIRE_TEST_IMAGES"

// The gateway's image is built from its Dockerfile and two labs run over it, deployed from the files that are committed: one of gateways
// and hosts, one with BIRD and FRR. They pass what every lab must pass, and nothing is left.
func TestContainers(t *testing.T) {
	nstest.Need(t, nstest.TUN)
	saved := os.Getenv(imagesEnv)
	if saved == "" {
		for _, p := range []string{"bird", "bgpd", "gobgpd", "wireguard-go", "wg"} {
			nstest.Need(t, nstest.Program(p))
		}
	}
	e := engine(t)
	sitewire := program(t)
	buildGateway(t, e, sitewire)
	if out, err := e.Docker(t.Context(), "run", "--rm", "--network=none", "sitewire:latest", "version"); err != nil || !strings.HasPrefix(string(out), "sitewire ") {
		t.Fatalf("sitewire version: %s %v", out, err)
	}
	labs := []string{"pair", "dn42"}
	if saved == "" {
		for _, s := range standIns {
			if err := s.build(t.Context(), e, sitewire); err != nil {
				t.Fatal(err)
			}
		}
	} else {
		if _, err := e.Docker(t.Context(), "load", "--input", saved); err != nil {
			t.Fatal(err)
		}
		labs = nil
		for _, entry := range topologies.Entries() {
			labs = append(labs, entry.Name)
		}
	}
	for _, name := range labs {
		t.Run(name, func(t *testing.T) { testLab(t, e, name, sitewire) })
	}
}

func testLab(t *testing.T, e *Engine, name, sitewire string) {
	w, err := topologies.Build(name, 0)
	if err != nil {
		t.Fatal(err)
	}
	start := time.Now()
	l, err := e.Deploy(t.Context(), w, filepath.Join(labsDir, name))
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%d containers up in %.1f s", len(w.Nodes), time.Since(start).Seconds())
	t.Cleanup(func() {
		ctx := context.WithoutCancel(t.Context())
		if t.Failed() {
			for _, n := range w.Nodes {
				t.Logf("== %s\n%s", n.Name, l.Log(ctx, n.Name))
			}
		}
		start := time.Now()
		if err := l.Destroy(ctx); err != nil {
			t.Error(err)
		}
		if left, err := e.Containers(ctx); err != nil || len(left) > 0 {
			t.Errorf("containers are left: %v %v", left, err)
		}
		t.Logf("removed in %.1f s", time.Since(start).Seconds())
	})
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	for _, r := range check.Common(ctx, l) {
		t.Logf("%5.1f s  %s (%s)", r.Took.Seconds(), r.Name, r.Detail)
		if r.Err != nil {
			t.Error(r.Err)
		}
	}
	// What `make check` does.
	if out, err := output(e.Command(ctx, sitewire, "lab", "check", name, "--engine", "docker"), "lab check"); err != nil || strings.Count(string(out), "ok  ") < 4 {
		t.Errorf("%s %v", out, err)
	}
	gateway := w.ByRole(topologies.Gateway)[0].Name
	if _, err := e.Docker(ctx, "stop", topologies.Container(w, gateway)); err != nil {
		t.Error(err)
	}
	// Process 1 has no default action for SIGTERM; one that did not listen would have been killed.
	if out, err := e.Docker(ctx, "inspect", "--format", "{{.State.ExitCode}}", topologies.Container(w, gateway)); err != nil || string(out) != "0\n" {
		t.Errorf("docker stop: the gateway ended with %s %v", out, err)
	}
	if out, err := output(e.Command(ctx, sitewire, "lab", "check", name, "--engine", "docker"), "lab check"); err == nil {
		t.Errorf("it calls a lab well whose gateway has ended: %s", out)
	}
}

// A machine without an engine is told what to do.
func TestUnavailable(t *testing.T) {
	ns := nstest.NS(t, "engine")
	t.Setenv("PATH", t.TempDir())
	_, err := Start(t.Context(), ns)
	u, ok := errors.AsType[*netns.Unavailable](err)
	if !ok || !strings.Contains(u.Fix, "docker.io") || u.Why == "" {
		t.Errorf("without programs: %v", err)
	}
}
