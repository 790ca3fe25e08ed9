package topologies

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"sitewire/gateway/config"
)

var update = flag.Bool("update", false, "write the golden files")

// golden compares text with a file below testdata.
func golden(t *testing.T, name, got string) {
	t.Helper()
	file := filepath.Join("testdata", name)
	if *update {
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if string(want) != got {
		t.Errorf("%s differs from what is rendered now; look at it with: go test ./topologies -update; git diff\n%s", file, got)
	}
}

// each calls f for every network in its usual size.
func each(t *testing.T, f func(t *testing.T, w *Network)) {
	for _, e := range Entries() {
		w, err := Build(e.Name, 0)
		if err != nil {
			t.Fatal(err)
		}
		t.Run(e.Name, func(t *testing.T) { f(t, w) })
	}
}

// What is rendered for a gateway is a configuration that sitewire takes without a warning.
func TestSitewireConfig(t *testing.T) {
	each(t, func(t *testing.T, w *Network) {
		for _, n := range w.ByRole(Gateway) {
			text := w.SitewireConfig(n)
			golden(t, filepath.Join(w.Name, n.Name+".yaml"), text)
			file := filepath.Join(t.TempDir(), "sitewire.yaml")
			if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
			t.Setenv(KeyVariable, Key(w.Name, n.Name).Reveal())
			c, err := config.Load(file, config.Options{})
			if err != nil {
				t.Fatalf("%s:\n%v\n%s", n.Name, err, text)
			}
			for _, warning := range c.Warnings {
				// Who observes comes from outside, and nobody else does in a lab.
				if n.Metrics != "" && strings.Contains(warning.String(), "may read the metrics") {
					continue
				}
				t.Errorf("%s: %s", n.Name, warning)
			}
		}
	})
}

func TestForeignConfigs(t *testing.T) {
	each(t, func(t *testing.T, w *Network) {
		for _, n := range w.ByRole(BIRD) {
			golden(t, filepath.Join(w.Name, n.Name+".bird.conf"), w.BIRDConfig(n))
		}
		for _, n := range w.ByRole(FRR) {
			golden(t, filepath.Join(w.Name, n.Name+".frr.conf"), w.FRRConfig(n))
		}
		for _, n := range w.ByRole(BIRD, FRR, WireGuard) {
			for _, e := range w.TunnelEnds(n) {
				golden(t, filepath.Join(w.Name, n.Name+"."+e[0].Device+".conf"), w.WireGuardConfig(e[0], e[1]))
			}
		}
	})
}

func TestMermaid(t *testing.T) {
	each(t, func(t *testing.T, w *Network) { golden(t, filepath.Join(w.Name, "diagram.mmd"), w.Mermaid()) })
}

func TestSetup(t *testing.T) {
	each(t, func(t *testing.T, w *Network) {
		var b strings.Builder
		for _, n := range w.Nodes {
			fmt.Fprintf(&b, "== %s\n%s\n", n.Name, strings.Join(w.Setup(n), "\n"))
		}
		golden(t, filepath.Join(w.Name, "setup.txt"), b.String())
	})
}
