package clabtest

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"sitewire/topologies"
	"sitewire/topologies/check"
	"sitewire/topologies/clabfile"
	"sitewire/topologies/netns/nstest"
)

const root = "../../containerlab"

var update = flag.Bool("update", false, "write the READMEs")

func TestMain(m *testing.M) { nstest.Main(m) }

// build builds sitewire.
func build(t *testing.T) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "sitewire")
	if out, err := exec.Command("go", "build", "-o", file, "sitewire/cmd/sitewire").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return file
}

// each calls f for every lab that is committed, and fails for one that is missing.
func each(t *testing.T, f func(t *testing.T, w *topologies.Network, file string)) {
	for _, e := range topologies.Entries() {
		w, err := topologies.Build(e.Name, 0)
		if err != nil {
			t.Fatal(err)
		}
		t.Run(e.Name, func(t *testing.T) { f(t, w, filepath.Join(root, e.Name, e.Name+".clab.yml")) })
	}
}

// dark are images of programs that are not to be had as a package. What Grafana is given is tested with the dashboards.
var dark = []string{"grafana/grafana:11.1.0"}

// checkTime is how long a lab may take until all holds.
const checkTime = 5 * time.Minute // a handshake that crosses another may cost a minute, and its lost echoes count for a minute and a half

// Every committed lab works as it is.
func TestDeploy(t *testing.T) {
	nstest.Need(t, nstest.TUN)
	sitewire := build(t)
	each(t, func(t *testing.T, w *topologies.Network, file string) {
		for _, program := range needs(w) {
			nstest.Need(t, nstest.Program(program))
		}
		f, err := clabfile.Read(file, nil)
		if err != nil {
			t.Fatal(err)
		}
		start := time.Now()
		l, err := Deploy(t.Context(), f, Options{Sitewire: sitewire, Dir: filepath.Dir(file), Network: w, Dark: dark})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if t.Failed() {
				for _, n := range w.Nodes {
					t.Logf("== %s\n%s", n.Name, l.Log(n.Name))
				}
			}
			if err := l.Destroy(); err != nil {
				t.Error(err)
			}
		})
		t.Logf("deployed in %v", time.Since(start))
		ctx, cancel := context.WithTimeout(t.Context(), checkTime)
		defer cancel()
		for _, r := range check.Common(ctx, l) {
			t.Logf("%v %s (%s)", r.Took.Round(time.Millisecond), r.Name, r.Detail)
			if r.Err != nil {
				t.Fatal(r.Err)
			}
		}
		record(t, l, w, filepath.Join(filepath.Dir(file), "README.md"))
		for _, try := range w.Try {
			for _, step := range try.Steps {
				do(t, l, step)
			}
		}
		if err := l.Dead(); err != nil {
			t.Error(err)
		}
	})
}

// calm is how long outputs may take until they are those of the README.
const calm = 30 * time.Second

// record compares what the lab shows with its README, or writes that.
func record(t *testing.T, l *Lab, w *topologies.Network, file string) {
	readme := func() (string, error) {
		out := topologies.Output{}
		for _, s := range w.Show {
			argv, err := clabfile.Words(s.Command)
			if err != nil {
				return "", err
			}
			b, err := l.Exec(t.Context(), s.Node, argv...)
			if err != nil {
				return "", fmt.Errorf("%s: %s: %w", s.Node, s.Command, err)
			}
			out[s] = Normal(w, string(b))
		}
		return w.README(out), nil
	}
	if *update {
		before := ""
		nstest.Eventually(t, calm, "outputs that do not change", func() error {
			time.Sleep(3 * time.Second) // as long as BGP takes its time to settle (MRAI and timers of a few seconds)
			now, err := readme()
			if err == nil && now != before {
				before, err = now, errors.New("they still do")
			}
			return err
		})
		if err := os.WriteFile(file, []byte(before), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	nstest.Eventually(t, calm, "the lab to show what its README shows; if that is to be changed: go generate ./topologies", func() error {
		got, err := readme()
		if err == nil && got != string(want) {
			err = errors.New(cmp.Diff(string(want), got))
		}
		return err
	})
}

// seen is how long a step of a try may take until it shows what is promised.
const seen = 60 * time.Second

func do(t *testing.T, l *Lab, s topologies.Step) {
	argv, err := clabfile.Words(s.Command)
	if err != nil {
		t.Fatal(err)
	}
	start := time.Now()
	nstest.Eventually(t, seen, fmt.Sprintf("%q in what `%s` prints on %s", s.Want, s.Command, s.Node), func() error {
		out, err := l.Exec(t.Context(), s.Node, argv...)
		if err == nil && !strings.Contains(string(out), s.Want) {
			err = fmt.Errorf("it prints:\n%s", out)
		}
		return err
	})
	t.Logf("%s: %s: %v", s.Node, s.Command, time.Since(start).Round(time.Millisecond))
}

// needs lists the programs that stand in for images.
func needs(w *topologies.Network) []string {
	var out []string
	for _, n := range w.Nodes {
		switch n.Role {
		case topologies.BIRD:
			out = append(out, "bird", "birdc")
		case topologies.FRR:
			out = append(out, "bgpd", "zebra", "vtysh")
		}
		for _, s := range n.Sidecars {
			if s.Name == "prometheus" {
				out = append(out, "prometheus", "promtool")
			}
		}
		if n.Foreign() && len(w.TunnelEnds(n)) > 0 {
			out = append(out, "wireguard-go", "wg")
		}
	}
	return append(out, "ip")
}

func TestNormal(t *testing.T) {
	pair, err := topologies.Build("pair", 0)
	if err != nil {
		t.Fatal(err)
	}
	triangle, err := topologies.Build("triangle", 0)
	if err != nil {
		t.Fatal(err)
	}
	const in = `PEER  STATE  HANDSHAKE  ENDPOINT                RX       TX  PFX  REASON
a     up         1m22s  198.18.2.2:51820  4.55KiB  5.03KiB  2/0  -
long  up            7s  198.18.3.2:43210       0B     12MiB  2/2  over 3s
  changed     1 minute, 10 seconds ago, 2.0ms from UPDATE
10.1.0.0/24  unicast [fra_ipv4 03:34:22.123] * (100) [AS1i]
fra  2/2/2  2/2/1  -
BIRD 2.0.12 ready. heard from within 30 s since 2026-11-22T03:28:03Z
`
	for w, count := range map[*topologies.Network][3]string{pair: {"2/0", "2/2", "2/2/COUNT"}, triangle: {"COUNT", "COUNT", "COUNT"}} {
		pad := strings.Repeat(" ", len(count[0])-len("PFX"))
		want := `PEER  STATE  HANDSHAKE  ENDPOINT          RX     TX     PFX` + pad + `  REASON
a     up     TIME       198.18.2.2:51820  BYTES  BYTES  ` + count[0] + `  -
long  up     TIME       198.18.3.2:PORT   BYTES  BYTES  ` + count[1] + `  over TIME
  changed     TIME, TIME from UPDATE
10.1.0.0/24  unicast [fra_ipv4 TIME] * (100) [AS1i]
fra  ` + count[2] + `  ` + count[2] + `  -
BIRD VERSION ready. heard from within 30 s since TIME
`
		lines := strings.SplitAfter(in, "\n")
		got := Normal(w, strings.Join(lines[:3], "")) + Normal(w, strings.Join(lines[3:], ""))
		if got != want {
			t.Errorf("%s: %s", w.Name, cmp.Diff(want, got))
		}
	}
}
