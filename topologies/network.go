// Package topologies describes networks as Go values, and renders them.
//
// Job: say once which routers, cables, tunnels and BGP sessions a lab has, and make of it configurations of sitewire, BIRD and FRR,
// containerlab files, diagrams and tables.
// Owner: nobody; a Network is a plain value, made by Build and not changed afterwards.
// Inputs: the name of a network, and its size where it has one.
// Outputs: files as text. Nothing here runs anything.
// Invariants: the same name and size give the same bytes; no address of a real network; no private key in what is rendered (Key says
// where it comes from instead).
package topologies

import (
	"net/netip"
)

// Network is a lab.
type Network struct {
	// Name is the word for it on the command line and the name of its folder: hub-spoke.
	Name string
	// Title says in one line what it is; About in a few sentences what it shows.
	Title, About string
	Nodes        []*Node
	Links        []*Link
	Tunnels      []*Tunnel
	Sessions     []*Session
	// Scenarios are what may go wrong in the running lab, and what must hold then.
	Scenarios []*Scenario
	// Show are commands whose output is worth a look; Try are things to do in the running lab, in order. Each leaves the lab as it was.
	Show []Shown
	Try  []Try
}

// Try is something to try: what to do, the commands, and what is to be seen.
type Try struct {
	What  string
	Steps []Step
	See   string
}

// Step is a command on a node. Want is a text that its output has, at once or after a while; empty is any.
type Step struct {
	Node, Command, Want string
}

// Shown is a command whose output the description of the network shows.
type Shown struct {
	Node, Command string
}

// Role says what runs on a node.
type Role string

// Roles of nodes.
const (
	Gateway   Role = "gateway"   // sitewire
	BIRD      Role = "bird"      // BIRD 2, behind wireguard-go if it has tunnels
	FRR       Role = "frr"       // FRR, likewise
	GoBGP     Role = "gobgp"     // gobgpd without tunnels, which collects routes and installs none
	WireGuard Role = "wireguard" // wireguard-go and static routes, no BGP
	Host      Role = "host"      // a computer on a LAN: answers, asks, and routes nothing
	Monitor   Role = "monitor"   // joined to gateways by cables of its own, with Prometheus and Grafana on its network
	Router    Role = "router"    // part of the internet: forwards between its links and knows nothing of what is inside the tunnels
)

// Node is a machine.
type Node struct {
	Name string
	Role Role
	// Site is the name of the site that the node belongs to; empty for the internet.
	Site string
	// ASN of a node that speaks BGP, and its BGP identifier.
	ASN      uint32
	RouterID netip.Addr
	// Announce lists what the node originates.
	Announce []netip.Prefix
	// Device is the name of the WireGuard device that all peers of a gateway share; empty is one for each peer.
	Device string
	// Routes are the node's static routes.
	Routes []Route
	// Policies are those of a gateway, besides the built-in ones.
	Policies []Policy
	// Metrics is where a gateway serves its metrics; empty is where it does by itself.
	Metrics string
	// Publish are TCP ports of the node that are to be reached from the machine that runs the lab, where it runs in containers.
	Publish []uint16
	// Sidecars run on the node's network, and only in containers.
	Sidecars []Sidecar
	// How many there are so far; for the builder.
	ports   int
	tunnels uint16
}

// Sidecar is a program of somebody else in a container without a network of its own.
type Sidecar struct {
	Name string
	// Image is the variable that names another one, and the image.
	Image [2]string
	Env   map[string]string
	// Files are made for it: paths as it sees them, and contents. Binds are files and directories of the repository, and where it sees them.
	Files, Binds map[string]string
}

// Route is a static route.
type Route struct {
	Prefix netip.Prefix
	Via    netip.Addr
}

// Policy makes what a built-in policy lets pass a second choice, or a first one.
type Policy struct {
	Name, Extends string
	// LocalPref of what comes in (100 without a policy), and how often the ASN is prepended to what goes out; 0 leaves things alone.
	LocalPref, Prepend int
}

// Forwards tells whether the node passes packets on.
func (n *Node) Forwards() bool { return n.Role != Host && n.Role != Monitor && n.Role != GoBGP }

// Foreign tells whether the node terminates tunnels or speaks BGP without being a sitewire.
func (n *Node) Foreign() bool {
	return n.Role == BIRD || n.Role == FRR || n.Role == GoBGP || n.Role == WireGuard
}

// Link is a cable between two nodes.
type Link struct {
	A, B Port
	// Impairment is what the cable does to packets from the start, in both directions.
	Impairment Impairment
}

// Port is an end of a cable: an interface of a node. They are called eth1, eth2 and so on, as containerlab has it, where eth0 is for
// management.
type Port struct {
	Node      *Node
	Interface string
	Addresses []netip.Prefix
}

// Addr is the port's address of the wanted family; invalid if it has none.
func (p Port) Addr(ipv6 bool) netip.Addr {
	for _, a := range p.Addresses {
		if a.Addr().Is6() == ipv6 {
			return a.Addr()
		}
	}
	return netip.Addr{}
}

// Tunnel is a WireGuard tunnel, with a BGP session inside if both ends have an ASN.
type Tunnel struct {
	A, B End
	// NoExtendedNextHop says that IPv4 routes have IPv4 next hops (no RFC 8950), so the ends need IPv4 addresses in the tunnel.
	NoExtendedNextHop bool
	// BFD watches the tunnel.
	BFD bool
}

// End is one end of a tunnel.
type End struct {
	Node *Node
	// Peer is the name that this end's configuration has for the other end.
	Peer string
	// Address and Port are where this end can be called; without an address it calls.
	Address netip.Addr
	Port    uint16
	// Device is this end's interface.
	Device string
	// Policy of this end towards the other; for gateways.
	Policy string
	// Inner is this end's address in the tunnel, link-local as a rule, and Inner4 its IPv4 address. Invalid addresses follow from the
	// public keys, or are not there.
	Inner, Inner4 netip.Addr
	// AllowedIPs is what this end lets the other send: "learned" if empty, "any", or prefixes.
	AllowedIPs []string
}

// BGP tells whether there is a session inside.
func (t *Tunnel) BGP() bool { return t.A.Node.ASN != 0 && t.B.Node.ASN != 0 }

// Ends yields both views of the tunnel: each end as ours, and the other.
func (t *Tunnel) Ends() [2][2]*End { return [2][2]*End{{&t.A, &t.B}, {&t.B, &t.A}} }

// Session is a BGP session on a cable: a gateway and a router of its LAN, or two routers.
type Session struct {
	A, B Port
	// PolicyA and PolicyB are the ends' policies towards each other; for gateways.
	PolicyA, PolicyB string
	// BFD watches the cable.
	BFD bool
}

// Ports yields the node's ports in order.
func (w *Network) Ports(n *Node) []Port {
	var out []Port
	for _, l := range w.Links {
		for _, p := range []Port{l.A, l.B} {
			if p.Node == n {
				out = append(out, p)
			}
		}
	}
	return out
}

// TunnelEnds yields the node's tunnels in order: its own end and the other.
func (w *Network) TunnelEnds(n *Node) [][2]*End {
	var out [][2]*End
	for _, t := range w.Tunnels {
		for _, e := range t.Ends() {
			if e[0].Node == n {
				out = append(out, e)
			}
		}
	}
	return out
}

// TunnelOf finds the tunnel that an end belongs to.
func (w *Network) TunnelOf(e *End) *Tunnel {
	for _, t := range w.Tunnels {
		if e == &t.A || e == &t.B {
			return t
		}
	}
	return nil
}

// Node finds a node by its name, nil if there is none.
func (w *Network) Node(name string) *Node {
	for _, n := range w.Nodes {
		if n.Name == name {
			return n
		}
	}
	return nil
}

// ByRole lists the nodes that have one of these roles, in order.
func (w *Network) ByRole(roles ...Role) []*Node {
	var out []*Node
	for _, n := range w.Nodes {
		for _, r := range roles {
			if n.Role == r {
				out = append(out, n)
			}
		}
	}
	return out
}
