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
	GoBGP:     {"GOBGP_IMAGE", "sitewire-gobgp:latest"},
	WireGuard: {"HOST_IMAGE", "sitewire-host:latest"},
	Host:      {"HOST_IMAGE", "sitewire-host:latest"},
	Router:    {"HOST_IMAGE", "sitewire-host:latest"},
	Monitor:   {"HOST_IMAGE", "sitewire-host:latest"},
}

// Containerlab renders the folder of the network for containerlab: NAME.clab.yml and configs/NODE/*. The file keeps to what containerlab
// 0.60 to 0.81 all take.
func (w *Network) Containerlab() map[string]string {
	files := map[string]string{w.Name + ".clab.yml": w.clabFile()}
	for _, n := range w.Nodes {
		for file, content := range w.Files(n) {
			files[configFile(n.Name, file)] = content
		}
		for _, s := range n.Sidecars {
			for file, content := range s.Files {
				files[configFile(s.Name, file)] = content
			}
		}
	}
	if script := w.Traffic(); script != "" {
		files["traffic.sh"] = script
	}
	return files
}

// configFile is where the folder has a node's file.
func configFile(node, file string) string { return path.Join("configs", node, path.Base(file)) }

// managementNet is for containers that publish ports. Containerlab's own choice lies in dn42's part of the private addresses.
const managementNet = "192.168.231.0/24"

// Container is the name that containerlab gives to a node's container.
func Container(w *Network, node string) string { return "clab-" + labName(w) + "-" + node }

// labName is the network's name as a lab's: a dash would make the names of containers ambiguous.
func labName(w *Network) string { return strings.ReplaceAll(w.Name, "-", "_") }

func (w *Network) clabFile() string {
	var b strings.Builder
	p := func(format string, args ...any) { fmt.Fprintf(&b, format, args...) }
	p("# %s\n# Made by: go generate ./topologies. Change topologies/*.go, not this file.\n", w.Title)
	p("name: %s\n\n", labName(w))
	if slices.ContainsFunc(w.Nodes, func(n *Node) bool { return len(n.Publish) > 0 }) {
		p("mgmt:\n  network: sitewire_%s\n  ipv4-subnet: %s\n\n", labName(w), managementNet)
	}
	p("topology:\n")
	p("  defaults:\n    kind: linux\n  nodes:\n")
	for _, n := range w.Nodes {
		image := images[n.Role]
		p("    %s:\n      image: ${%s:=%s}\n", n.Name, image[0], image[1])
		if len(n.Publish) > 0 {
			p("      ports:\n")
			for _, port := range n.Publish {
				p("        - \"%d:%[1]d\"\n", port)
			}
		} else {
			// The management network would give every node a second way to every other. Its name may not be written: no name means it.
			p("      network-mode: none\n")
		}
		if n.Role == Gateway {
			p("      cmd: lab run %s %s\n", w.Name, n.Name)
		}
		p("      sysctls:\n        net.ipv6.conf.all.disable_ipv6: 0\n") // Docker turns IPv6 off where there is no network of its own
		if n.Forwards() {
			p("        net.ipv4.ip_forward: 1\n        net.ipv6.conf.all.forwarding: 1\n")
		}
		if files := slices.Sorted(maps.Keys(w.Files(n))); len(files) > 0 {
			p("      binds:\n")
			for _, file := range files {
				p("        - %s:%s:ro\n", configFile(n.Name, file), file)
			}
		}
		if setup := w.Setup(n); len(setup) > 0 {
			p("      exec:\n")
			for _, line := range setup {
				p("        - %s\n", yamlString(line))
			}
		}
		for _, s := range n.Sidecars {
			sidecar(p, n, s)
		}
	}
	p("  links:\n")
	for _, l := range w.Links {
		p("    - endpoints: [\"%s:%s\", \"%s:%s\"]\n      mtu: 1500\n", l.A.Node.Name, l.A.Interface, l.B.Node.Name, l.B.Interface)
	}
	return b.String()
}

// sidecar renders a container that has its network from a node.
func sidecar(p func(string, ...any), n *Node, s Sidecar) {
	p("    %s:\n      image: ${%s:=%s}\n      network-mode: container:%s\n", s.Name, s.Image[0], s.Image[1], n.Name)
	if len(s.Env) > 0 {
		p("      env:\n")
		for _, k := range slices.Sorted(maps.Keys(s.Env)) {
			p("        %s: %q\n", k, s.Env[k])
		}
	}
	p("      binds:\n")
	for _, file := range slices.Sorted(maps.Keys(s.Files)) {
		p("        - %s:%s:ro\n", configFile(s.Name, file), file)
	}
	for _, file := range slices.Sorted(maps.Keys(s.Binds)) {
		p("        - %s:%s:ro\n", path.Join("../..", file), s.Binds[file])
	}
}

// yamlString quotes a command: it may have quotes and colons in it, never single quotes.
func yamlString(s string) string { return "'" + s + "'" }
