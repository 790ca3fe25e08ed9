package topologies

import (
	"fmt"
	"maps"
	"path"
	"slices"
	"strings"
)

// Images of the roles: the variable that names another one, and the one that containerlab/images builds.
var images = map[Role][2]string{
	Gateway:   {"SITEWIRE_IMAGE", "sitewire:latest"},
	BIRD:      {"BIRD_IMAGE", "sitewire-bird:latest"},
	FRR:       {"FRR_IMAGE", "sitewire-frr:latest"},
	WireGuard: {"HOST_IMAGE", "sitewire-host:latest"},
	Host:      {"HOST_IMAGE", "sitewire-host:latest"},
	Router:    {"HOST_IMAGE", "sitewire-host:latest"},
}

// Containerlab renders the folder of the network for containerlab: NAME.clab.yml and configs/NODE/*. The file keeps to what containerlab
// 0.60 to 0.81 all take.
func (w *Network) Containerlab() map[string]string {
	files := map[string]string{w.Name + ".clab.yml": w.clabFile()}
	for _, n := range w.Nodes {
		for file, content := range w.Files(n) {
			files[configFile(n, file)] = content
		}
	}
	return files
}

// configFile is where the folder has a node's file.
func configFile(n *Node, file string) string { return path.Join("configs", n.Name, path.Base(file)) }

// Container is the name that containerlab gives to a node's container.
func Container(w *Network, node string) string { return "clab-" + labName(w) + "-" + node }

// labName is the network's name as a lab's: a dash would make the names of containers ambiguous.
func labName(w *Network) string { return strings.ReplaceAll(w.Name, "-", "_") }

func (w *Network) clabFile() string {
	var b strings.Builder
	p := func(format string, args ...any) { fmt.Fprintf(&b, format, args...) }
	p("# %s\n# Made by: go generate ./topologies. Change topologies/*.go, not this file.\n", w.Title)
	p("name: %s\n\ntopology:\n", labName(w))
	// A management network would give every node a second way to every other.
	p("  defaults:\n    kind: linux\n    network-mode: none\n  nodes:\n")
	for _, n := range w.Nodes {
		image := images[n.Role]
		p("    %s:\n      image: ${%s:=%s}\n", n.Name, image[0], image[1])
		if n.Role == Gateway {
			p("      cmd: lab run %s %s\n", w.Name, n.Name)
		}
		if n.Forwards() {
			p("      sysctls:\n        net.ipv4.ip_forward: 1\n        net.ipv6.conf.all.forwarding: 1\n")
		}
		if files := slices.Sorted(maps.Keys(w.Files(n))); len(files) > 0 {
			p("      binds:\n")
			for _, file := range files {
				p("        - %s:%s:ro\n", configFile(n, file), file)
			}
		}
		if setup := w.Setup(n); len(setup) > 0 {
			p("      exec:\n")
			for _, line := range setup {
				p("        - %s\n", yamlString(line))
			}
		}
	}
	p("  links:\n")
	for _, l := range w.Links {
		p("    - endpoints: [\"%s:%s\", \"%s:%s\"]\n      mtu: 1500\n", l.A.Node.Name, l.A.Interface, l.B.Node.Name, l.B.Interface)
	}
	return b.String()
}

// yamlString quotes a command: it may have quotes and colons in it, never single quotes.
func yamlString(s string) string { return "'" + s + "'" }
