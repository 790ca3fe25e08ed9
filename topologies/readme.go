package topologies

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

// Output holds what the commands of Network.Show printed in a running lab, after package clabtest has taken out what is never the same
// twice.
type Output map[Shown]string

// prompt is how a reader runs a command on a node.
func (w *Network) prompt(node, command string) string {
	return "$ docker exec " + Container(w, node) + " " + command
}

// README renders the description of the network's folder in containerlab/.
func (w *Network) README(out Output) string {
	var b strings.Builder
	p := func(format string, args ...any) { fmt.Fprintf(&b, format, args...) }
	p("# %s: %s\n\n", w.Name, w.Title)
	p("<!-- Made by: go generate ./topologies. Change topologies/*.go, not this file. -->\n\n%s\n\n", w.About)
	p("```mermaid\n%s```\n\n", w.Mermaid())
	p("Thin lines are cables, thick ones tunnels, dotted ones BGP sessions on a LAN.\n\n")

	p("## Start and end\n\nThe images have to be there first: see [the index](../README.md). In this folder:\n\n")
	p("```console\n$ sudo -E containerlab deploy\n$ sudo -E containerlab destroy --cleanup\n```\n\n")
	p("The same network without containers, and without root: `sitewire lab up %s`; in place of `docker exec %s` write `sitewire lab exec %[1]s NODE --`.\n\n",
		w.Name, Container(w, "NODE"))

	p("## Nodes\n\n| node | container | runs | ASN | addresses |\n|---|---|---|---|---|\n")
	for _, n := range w.Nodes {
		asn, ports := "", []string{}
		if n.ASN != 0 {
			asn = fmt.Sprint(n.ASN)
		}
		for _, port := range w.Ports(n) {
			ports = append(ports, "`"+port.Interface+"` "+join(port.Addresses, ", "))
		}
		p("| %s | `%s` | %s | %s | %s |\n", n.Name, Container(w, n.Name), runs[n.Role], asn, strings.Join(ports, "<br>"))
		for _, s := range n.Sidecars {
			p("| %s | `%s` | %s | | the network of %s |\n", s.Name, Container(w, s.Name), s.Image[1], n.Name)
		}
	}
	p("\n## Tunnels and sessions\n\n| between | and | what |\n|---|---|---|\n")
	for _, t := range w.Tunnels {
		p("| %s | %s | %s |\n", endOf(&t.A), endOf(&t.B), tunnelKind(t))
	}
	for _, s := range w.Sessions {
		p("| %s, AS%d | %s, AS%d | BGP on the LAN, a session for each family |\n", s.A.Node.Name, s.A.Node.ASN, s.B.Node.Name, s.B.Node.ASN)
	}

	p("\n## What is to be seen\n\nThis is what the commands print in this very lab; a test runs it and compares. Words in capitals stand for what is never the\n" +
		"same twice: see [the index](../README.md#placeholders).\n\n")
	for _, s := range w.Show {
		p("```console\n%s\n%s```\n\n", w.prompt(s.Node, s.Command), out[s])
	}

	p("## Things to try\n\nThe test does them too, and waits for what is said here.\n")
	for i, t := range w.Try {
		p("\n%d. **%s.** %s\n\n   ```console\n", i+1, t.What, t.See)
		for _, s := range t.Steps {
			p("   %s\n", w.prompt(s.Node, s.Command))
		}
		p("   ```\n")
	}
	return b.String()
}

var runs = map[Role]string{
	Gateway: "sitewire", BIRD: "BIRD", FRR: "FRR", WireGuard: "wireguard-go", Host: "a host", Router: "a router of the internet",
	Monitor: "a network for those who watch",
}

func endOf(e *End) string {
	s := e.Node.Name
	if e.Node.ASN != 0 {
		s += fmt.Sprintf(", AS%d", e.Node.ASN)
	}
	s += ", `" + e.Device + "`"
	var inner []string
	for _, a := range []netip.Addr{e.Inner, e.Inner4} {
		if a.IsValid() {
			inner = append(inner, a.String())
		}
	}
	if inner != nil {
		s += ", " + strings.Join(inner, ", ")
	}
	if e.Address.IsValid() {
		return s + fmt.Sprintf("<br>listens on %s", netip.AddrPortFrom(e.Address, e.Port))
	}
	return s + "<br>calls"
}

func tunnelKind(t *Tunnel) string {
	switch {
	case !t.BGP():
		return "WireGuard, no BGP"
	case t.NoExtendedNextHop:
		return "WireGuard and BGP, IPv4 next hops"
	}
	return "WireGuard and BGP, IPv6 next hops (RFC 8950)"
}

// Outputs reads out of a README what it shows, so that the rest of it can be made anew without running the lab.
func (w *Network) Outputs(readme string) Output {
	out := Output{}
	for _, s := range w.Show {
		_, rest, found := strings.Cut(readme, "```console\n"+w.prompt(s.Node, s.Command)+"\n")
		text, _, closed := strings.Cut(rest, "```\n")
		if found && closed {
			out[s] = text
		}
	}
	return out
}

// Index renders containerlab/README.md.
func Index() string {
	var b strings.Builder
	p := func(format string, args ...any) { fmt.Fprintf(&b, format, args...) }
	p(`# Labs for containerlab

<!-- Made by: go generate ./topologies. Change topologies/*.go, not this file. -->

Each folder is a network to try sitewire in: a topology file, the nodes' configurations, and a README with what is to be seen and done.
All are made of the Go values in topologies/, which ` + "`sitewire lab`" + ` runs without containers. The files keep to what every
[containerlab](https://containerlab.dev) from 0.60 to 0.81 takes.

| lab | what | nodes | gateways |
|---|---|---|---|
`)
	for _, e := range Entries() {
		w := e.build(e.Sites)
		p("| [%s](%[1]s/README.md) | %s | %d | %d |\n", e.Name, e.Title, len(w.Nodes), len(w.ByRole(Gateway)))
	}
	p("\n## Images\n\n| image | variable that names another | runs |\n|---|---|---|\n")
	var names []string
	for _, role := range []Role{Gateway, BIRD, FRR, Host, WireGuard, Router} {
		if i := images[role]; !slices.Contains(names, i[1]) {
			names = append(names, i[1])
			p("| `%s` | `%s` | %s |\n", i[1], i[0], runs[role])
		}
	}
	p(`
The lab observe also uses the published images of Prometheus and Grafana; PROMETHEUS_IMAGE and GRAFANA_IMAGE name others. The others are
built from images/ beside this file:

` + "```console\n$ make -C containerlab images\n```" + `

## Start, look, end

` + "```console\n$ cd containerlab/pair\n$ sudo -E containerlab deploy\n$ docker exec clab-pair-fra sitewire peers\n$ sudo -E containerlab destroy --cleanup\n```" + `

Containers are called clab-LAB-NODE. In the names of labs a dash becomes an underscore: clab-hub_spoke-hub.

- The nodes have no management network: it would be a second way from each to each, and what is tested would not be the tunnels. So
  nodes are entered with docker exec, not with ssh. A gateway's image has nothing but sitewire in it; hosts and routers have a shell.
- The private keys are derived from the names of lab and node (` + "`sitewire lab key LAB NODE`" + `): anybody can compute them. Use none of them elsewhere.
- containerlab before 0.75 loses the cables of a container that is restarted. Cut cables instead: see "Things to try".
- containerlab's exit code is 0 even if a command of a node failed. ` + "`make -C containerlab check LAB=pair`" + ` tells whether a lab works.
- An editor that checks topology files against an older JSON schema of containerlab complains of ` + "`sysctls`" + `, which containerlab itself takes.

## Placeholders

The outputs in the READMEs are recorded by a test, which replaces what changes from one run to the next:

| word | stands for |
|---|---|
`)
	for _, h := range Placeholders {
		p("| %s | %s |\n", h.Word, h.Meaning)
	}
	p("\nColumns are aligned again afterwards. Everything else is compared letter by letter.\n")
	return b.String()
}

// Placeholder is a word that stands for something in recorded output.
type Placeholder struct{ Word, Meaning string }

// Placeholders are the words that package clabtest puts in.
var Placeholders = []Placeholder{
	{"TIME", "an age, a duration, a time of day"},
	{"BYTES", "how much a tunnel has carried"},
	{"COUNT", "how many prefixes have been announced; in networks with several ways, also how many prefixes and paths have been received"},
	{"PORT", "the UDP port of a peer that calls, which its kernel chose"},
	{"VERSION", "of a program that is not ours"},
}
