package topologies

import (
	"fmt"
	"slices"
	"strings"
)

// Names of ports that say what a port is for.
const (
	uplinkPort = "uplink" // towards the internet
	lanPort    = "lan"    // towards a host, or a router of the same site
)

// Aliases are the names that an end of a cable has beside that of its interface: the name of the node at the other end, and "uplink" or
// "lan". Where a node has several of a kind they are numbered: uplink1, uplink2.
func (w *Network) Aliases(p Port) []string {
	_, other, _ := w.Cable(p)
	out := []string{other.Node.Name}
	kind := w.portKind(p)
	if kind == "" {
		return out
	}
	number, count := 0, 0
	for _, q := range w.Ports(p.Node) {
		if w.portKind(q) == kind {
			count++
			if q.Interface == p.Interface {
				number = count
			}
		}
	}
	if count > 1 {
		kind = fmt.Sprintf("%s%d", kind, number)
	}
	return append(out, kind)
}

func (w *Network) portKind(p Port) string {
	_, other, _ := w.Cable(p)
	switch {
	case p.Node.Role == Router:
		return ""
	case other.Node.Role == Router:
		return uplinkPort
	}
	return lanPort
}

// Cable finds the cable that is plugged in at a port, the port at its other end, and whether ours is its A end.
func (w *Network) Cable(p Port) (l *Link, other Port, isA bool) {
	for _, l := range w.Links {
		switch {
		case l.A.Node == p.Node && l.A.Interface == p.Interface:
			return l, l.B, true
		case l.B.Node == p.Node && l.B.Interface == p.Interface:
			return l, l.A, false
		}
	}
	return nil, Port{}, false
}

// FindPort finds a port by NODE:NAME, where the name is that of the interface, or an alias: fra:eth2, fra:uplink, fra:internet.
func (w *Network) FindPort(text string) (Port, error) {
	node, name, ok := strings.Cut(text, ":")
	if !ok {
		return Port{}, fmt.Errorf("%q is no end of a cable: write NODE:INTERFACE, such as fra:eth2 or fra:uplink", text)
	}
	n := w.Node(node)
	if n == nil {
		return Port{}, w.NoNode(node)
	}
	var names []string
	for _, p := range w.Ports(n) {
		if p.Interface == name {
			return p, nil
		}
	}
	for _, p := range w.Ports(n) {
		aliases := w.Aliases(p)
		if slices.Contains(aliases, name) {
			return p, nil
		}
		names = append(names, p.Interface+" ("+strings.Join(aliases, ", ")+")")
	}
	return Port{}, fmt.Errorf("%s has no interface %q; there are %s", node, name, shortened(names))
}

// NoNode is the error for a node that is not there. It names those that are.
func (w *Network) NoNode(name string) error {
	var names []string
	for _, n := range w.Nodes {
		names = append(names, n.Name)
	}
	return fmt.Errorf("%s has no node %q; there are %s", w.Name, name, shortened(names))
}

// shortened prints a list that may be very long.
func shortened(names []string) string {
	const most = 12
	if len(names) > most {
		return strings.Join(names[:most-2], ", ") + fmt.Sprintf(" and %d more", len(names)-most+2)
	}
	return strings.Join(names, ", ")
}
