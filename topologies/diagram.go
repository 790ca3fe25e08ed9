package topologies

import (
	"fmt"
	"strings"
)

// Mermaid draws the network: cables as lines, tunnels as thick ones.
func (w *Network) Mermaid() string {
	var b strings.Builder
	p := func(format string, args ...any) { fmt.Fprintf(&b, format, args...) }
	p("graph LR\n")
	var sites []string
	seen := map[string]bool{}
	for _, n := range w.Nodes {
		if n.Site != "" && !seen[n.Site] {
			seen[n.Site] = true
			sites = append(sites, n.Site)
		}
	}
	for _, n := range w.Nodes {
		if n.Site == "" {
			p("  %s\n", shape(n))
		}
	}
	for _, site := range sites {
		p("  subgraph site_%s [%s]\n", ident(site), site)
		for _, n := range w.Nodes {
			if n.Site == site {
				p("    %s\n", shape(n))
			}
		}
		p("  end\n")
	}
	for _, l := range w.Links {
		cable := "---"
		if l.Impairment != (Impairment{}) {
			cable = fmt.Sprintf(`-- "%s" ---`, l.Impairment)
		}
		p("  %s %s %s\n", ident(l.A.Node.Name), cable, ident(l.B.Node.Name))
	}
	for _, t := range w.Tunnels {
		label := "WireGuard"
		if t.BGP() {
			label = "BGP"
		}
		p("  %s == %s === %s\n", ident(t.A.Node.Name), label, ident(t.B.Node.Name))
	}
	for _, s := range w.Sessions {
		p("  %s -. BGP .- %s\n", ident(s.A.Node.Name), ident(s.B.Node.Name))
	}
	return b.String()
}

// shape is a node with its label: routers of the internet are clouds, hosts round.
func shape(n *Node) string {
	label := n.Name
	switch n.Role {
	case Router:
		return fmt.Sprintf("%s((%s))", ident(n.Name), label)
	case Host:
		return fmt.Sprintf("%s(%s)", ident(n.Name), label)
	case Gateway:
		label += "<br>sitewire"
	case BIRD:
		label += "<br>BIRD"
	case FRR:
		label += "<br>FRR"
	case Monitor:
		for _, s := range n.Sidecars {
			label += "<br>" + s.Name
		}
	case GoBGP:
		label += "<br>GoBGP"
	case WireGuard:
		label += "<br>WireGuard"
	}
	if n.ASN != 0 {
		label += fmt.Sprintf("<br>AS%d", n.ASN)
	}
	return fmt.Sprintf("%s[\"%s\"]", ident(n.Name), label)
}

// ident is a name that Mermaid takes for a node.
func ident(s string) string { return strings.ReplaceAll(s, "-", "_") }

// Dot draws the network for Graphviz: cables as thin lines, tunnels as thick ones, BGP on a LAN as dotted ones.
func (w *Network) Dot() string {
	var b strings.Builder
	p := func(format string, args ...any) { fmt.Fprintf(&b, format, args...) }
	p("graph %q {\n  rankdir=LR; node [shape=box]\n", w.Name)
	for _, n := range w.Nodes {
		shape := "box"
		switch n.Role {
		case Router:
			shape = "ellipse"
		case Host:
			shape = "plaintext"
		}
		label := n.Name
		if n.Role != Host && n.Role != Router {
			label += "\n" + string(n.Role)
		}
		if n.ASN != 0 {
			label += fmt.Sprintf("\nAS%d", n.ASN)
		}
		p("  %q [label=%q, shape=%s]\n", n.Name, label, shape)
	}
	for _, l := range w.Links {
		p("  %q -- %q [label=%q]\n", l.A.Node.Name, l.B.Node.Name, l.Impairment)
	}
	for _, t := range w.Tunnels {
		p("  %q -- %q [penwidth=3, color=darkgreen]\n", t.A.Node.Name, t.B.Node.Name)
	}
	for _, s := range w.Sessions {
		p("  %q -- %q [style=dotted]\n", s.A.Node.Name, s.B.Node.Name)
	}
	p("}\n")
	return b.String()
}
