package clabfile

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"sitewire/topologies"
)

func TestWords(t *testing.T) {
	for _, c := range []struct {
		line string
		want []string
		err  string
	}{
		{"", nil, ""},
		{"ip  link set eth1 up ", []string{"ip", "link", "set", "eth1", "up"}, ""},
		{`sh -c "a 'b' | c"`, []string{"sh", "-c", "a 'b' | c"}, ""},
		{`x ''y"z"`, []string{"x", "yz"}, ""},
		{`x ''`, []string{"x", ""}, ""},
		{`sh -c "a`, nil, "not closed"},
	} {
		got, err := Words(c.line)
		if diff := cmp.Diff(c.want, got); diff != "" || (err != nil) != (c.err != "") || err != nil && !strings.Contains(err.Error(), c.err) {
			t.Errorf("%s: %v\n%s", c.line, err, diff)
		}
	}
}

// Every committed file can be read, and has the nodes and cables of its network.
func TestReadCommitted(t *testing.T) {
	for _, e := range topologies.Entries() {
		w, err := topologies.Build(e.Name, 0)
		if err != nil {
			t.Fatal(err)
		}
		f, err := Read(filepath.Join("../../containerlab", e.Name, e.Name+".clab.yml"))
		if err != nil {
			t.Error(err)
			continue
		}
		if len(f.Topology.Nodes) != len(w.Nodes) || len(f.Topology.Links) != len(w.Links) {
			t.Errorf("%s: %d nodes and %d cables, want %d and %d", e.Name, len(f.Topology.Nodes), len(f.Topology.Links), len(w.Nodes), len(w.Links))
		}
		for _, n := range w.Nodes {
			got := f.Topology.Nodes[n.Name]
			if got == nil || got.Image == "" || strings.Contains(got.Image, "$") || got.Kind != "linux" || got.NetworkMode != "none" {
				t.Errorf("%s: %s is %+v", e.Name, n.Name, got)
			}
			if diff := cmp.Diff(w.Setup(n), got.Exec); diff != "" {
				t.Errorf("%s: commands of %s:\n%s", e.Name, n.Name, diff)
			}
		}
	}
}

func TestReadRefuses(t *testing.T) {
	for _, c := range []struct{ text, want string }{
		{"name: x\ntopology:\n  nodes:\n    a: { kind: srl, network-mode: none }\n", `kind "srl"`},
		{"name: x\ntopology:\n  nodes:\n    a: { kind: linux }\n", `network-mode ""`},
		{"name: x\ntopology:\n  groups: {}\n", "groups"},
	} {
		file := filepath.Join(t.TempDir(), "x.clab.yml")
		if err := os.WriteFile(file, []byte(c.text), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := Read(file); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %s", c.text, err, c.want)
		}
	}
}
