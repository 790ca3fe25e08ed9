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
		{`a \b`, nil, "backslash"},
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
		f, err := Read(filepath.Join("../../containerlab", e.Name, e.Name+".clab.yml"), nil)
		if err != nil {
			t.Error(err)
			continue
		}
		if len(f.Topology.Nodes) != len(w.Nodes)+sidecars(w) || len(f.Topology.Links) != len(w.Links) {
			t.Errorf("%s: %d nodes and %d cables, want %d and %d", e.Name, len(f.Topology.Nodes), len(f.Topology.Links), len(w.Nodes), len(w.Links))
		}
		for _, n := range w.Nodes {
			got := f.Topology.Nodes[n.Name]
			if got == nil || got.Image == "" || strings.Contains(got.Image, "$") || got.Kind != "linux" || (got.NetworkMode == "none") != (len(n.Publish) == 0) {
				t.Errorf("%s: %s is %+v", e.Name, n.Name, got)
			}
			if diff := cmp.Diff(w.Setup(n), got.Exec); diff != "" {
				t.Errorf("%s: commands of %s:\n%s", e.Name, n.Name, diff)
			}
		}
	}
}

// sidecars is how many containers there are beside the nodes.
func sidecars(w *topologies.Network) int {
	n := 0
	for _, x := range w.Nodes {
		n += len(x.Sidecars)
	}
	return n
}

// What is not in the subset of containerlab 0.60 to 0.81 is refused: a file that has it would pass here and fail elsewhere.
func TestSubset(t *testing.T) {
	const good = `name: x
topology:
  defaults:
    kind: linux
  nodes:
    a:
      image: ${IMAGE:=i:1}
      network-mode: none
      exec: ['ip link']
    b: { image: i:1, network-mode: none }
  links:
    - endpoints: ["a:eth1", "b:eth1"]
      mtu: 1500
`
	if f, err := Parse(good, map[string]string{"IMAGE": "other"}); err != nil || f.Topology.Nodes["a"].Image != "other" || f.Topology.Nodes["b"].Kind != "linux" {
		t.Fatalf("%+v, %v", f, err)
	}
	for name, c := range map[string][2]string{
		"groups":         {"  nodes:", "  groups: {}\n  nodes:"},
		"group":          {"exec:", "group: g\n      exec:"},
		"extras":         {"exec:", "extras: {}\n      exec:"},
		"capabilities":   {"exec:", "cap-add: [NET_ADMIN]\n      exec:"},
		"privileged":     {"exec:", "privileged: false\n      exec:"},
		"CLAB variables": {"exec:", "env: { CLAB_INTFS: 1 }\n      exec:"},
		"address":        {"mtu: 1500", "ipv4: [192.0.2.1/24, 192.0.2.2/24]\n      mtu: 1500"},
		"MTU":            {"mtu: 1500", "mtu: 9500"},
		"no MTU":         {"      mtu: 1500\n", ""},
		"kind":           {"kind: linux", "kind: frr"},
		"dash":           {"name: x", "name: x-y"},
		"variable":       {"${IMAGE:=i:1}", "${IMAGE:-i:1}"},
		"plain variable": {"${IMAGE:=i:1}", "$IMAGE"},
		"bind":           {"exec:", "binds: [a:/b]\n      exec:"},
		"ports":          {"exec:", "ports: ['1:1']\n      exec:"},
		"mode":           {"      network-mode: none\n", "      network-mode: host\n"},
		"bridge":         {"      network-mode: none\n", "      network-mode: bridge\n"},
		"management":     {"      network-mode: none\n", ""},
		"no mgmt":        {"      network-mode: none\n", "      ports: ['1:1']\n"},
		"default":        {"    kind: linux\n", "    kind: linux\n    network-mode: none\n"},
		"other node":     {"      network-mode: none\n", "      network-mode: container:c\n"},
		"exec":           {"'ip link'", "'ip \"link'"},
		"end":            {"b:eth1", "c:eth1"},
		"eth0":           {"b:eth1", "b:eth0"},
		"twice":          {"b:eth1", "a:eth1"},
		"template":       {"name: x", "name: {{ .Name }}"},
	} {
		text := replaceOnce(t, good, c[0], c[1])
		if _, err := Parse(text, nil); err == nil {
			t.Errorf("%s is taken:\n%s", name, text)
		}
	}
	if _, err := Read(filepath.Join(t.TempDir(), "none"), nil); !os.IsNotExist(err) {
		t.Error(err)
	}
}

func replaceOnce(t *testing.T, s, old, with string) string {
	t.Helper()
	if strings.Count(s, old) != 1 {
		t.Fatalf("%q is not there once", old)
	}
	return strings.Replace(s, old, with, 1)
}
