package lab

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"sitewire/topologies"
	"sitewire/topologies/check"
	"sitewire/topologies/netns"
	"sitewire/topologies/netns/nstest"
)

// program is the sitewire that gateways run, built once: without the race detector, which cmd/sitewire/e2e has, since a lab is many of
// them on few cores.
var program string

func TestMain(m *testing.M) {
	if err := netns.Enter(); err != nil {
		if _, ok := errors.AsType[*netns.Unavailable](err); !ok {
			fmt.Fprintln(os.Stderr, "lab:", err)
			os.Exit(1)
		}
		os.Exit(m.Run()) // every test says why it skips
	}
	os.Exit(run(m))
}

func run(m *testing.M) int {
	dir, err := os.MkdirTemp("", "sitewire-lab-")
	if err != nil {
		fmt.Fprintln(os.Stderr, "lab:", err)
		return 1
	}
	defer os.RemoveAll(dir)
	program = filepath.Join(dir, "sitewire")
	cmd := exec.Command("go", "build", "-o", program, "sitewire/cmd/sitewire")
	cmd.Env = append(os.Environ(), "GOPROXY=off") // the lab has no way out
	if out, err := cmd.CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "lab: build: %v\n%s", err, out)
		return 1
	}
	return m.Run()
}

// start brings a network up until the test ends, and returns how long that took.
func start(t *testing.T, w *topologies.Network) (*Lab, time.Duration) {
	t.Helper()
	nstest.Need(t, nstest.TUN)
	for _, role := range []struct {
		role     topologies.Role
		programs []string
	}{
		{topologies.BIRD, []string{"bird"}}, {topologies.FRR, []string{"bgpd", "zebra", "vtysh"}}, {topologies.GoBGP, []string{"gobgpd"}},
	} {
		if len(w.ByRole(role.role)) > 0 {
			for _, p := range role.programs {
				nstest.Need(t, nstest.Program(p))
			}
		}
	}
	began := time.Now()
	l, err := Up(t.Context(), w, Options{Sitewire: program})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := l.Dead(); err != nil {
			t.Error(err)
		}
		if t.Failed() {
			for _, n := range w.Nodes {
				if log := l.Log(n.Name); log != "" {
					t.Logf("log of %s ends:\n%s", n.Name, log[max(0, len(log)-4096):])
				}
			}
		}
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	})
	return l, time.Since(began)
}

// verify logs results and fails for what does not hold.
func verify(t *testing.T, results []check.Result) {
	t.Helper()
	for _, r := range results {
		if r.Err != nil {
			t.Fatalf("after %v it does not hold that %s (%s):\n%v", r.Took.Round(time.Millisecond), r.Name, r.Detail, r.Err)
		} else {
			t.Logf("%6.1f s  %s (%s)", r.Took.Seconds(), r.Name, r.Detail)
		}
	}
}

// TestNetworks: every network comes up in its usual size, what every lab must pass holds, and so does what the network says of failures.
func TestNetworks(t *testing.T) {
	for _, e := range topologies.Entries() {
		t.Run(e.Name, func(t *testing.T) {
			w, err := topologies.Build(e.Name, 0)
			if err != nil {
				t.Fatal(err)
			}
			l, up := start(t, w)
			t.Logf("%6.1f s  %d nodes run", up.Seconds(), len(w.Nodes))
			verify(t, check.Common(patient(t), l))
			if testing.Short() {
				return // outages take their time
			}
			for _, s := range w.Scenarios {
				verify(t, []check.Result{check.Failover(patient(t), l, s)})
			}
		})
	}
}

// patient is a context that gives everything time to hold, on a machine that is busy with other tests.
func patient(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	t.Cleanup(cancel)
	return ctx
}

// TestHundredSites: a hub with a hundred spokes comes up on one machine and passes what every lab must pass.
func TestHundredSites(t *testing.T) {
	if testing.Short() {
		t.Skip("a hundred sites take minutes")
	}
	const sites = 100
	w, err := topologies.Build("hub-spoke", sites)
	if err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	l, up := start(t, w)
	ctx, cancel := context.WithTimeout(t.Context(), 8*time.Minute)
	defer cancel()
	verify(t, check.Common(ctx, l))
	total := time.Since(began)
	var hub, spokes int64
	for _, d := range l.daemons {
		kib, err := proportional(d.Pid())
		if err != nil {
			t.Fatal(err)
		}
		if d.node.Name == "hub" {
			hub = kib
		} else {
			spokes += kib
		}
	}
	t.Logf("%d sites, %d nodes on %d cores: run after %.1f s, all holds after %.1f s; memory (proportional set): the hub %d MiB, a spoke %.1f MiB, together %d MiB",
		sites+1, len(w.Nodes), runtime.NumCPU(), up.Seconds(), total.Seconds(), hub>>10, float64(spokes)/1024/sites, (hub+spokes)>>10)
}

// proportional is a process's proportional set size in KiB: what it shares with others counts in parts (proc_pid_smaps(5)).
func proportional(pid int) (int64, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", pid))
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(b)) {
		if f := strings.Fields(line); len(f) > 1 && f[0] == "Pss:" {
			return strconv.ParseInt(f[1], 10, 64)
		}
	}
	return 0, fmt.Errorf("process %d has no Pss", pid)
}
