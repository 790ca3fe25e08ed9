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
		p("  %s --- %s\n", ident(l.A.Node.Name), ident(l.B.Node.Name))
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
