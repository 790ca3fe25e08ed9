package topologies

import (
	"net/netip"
	"slices"
	"time"
)

// Scenario is something that goes wrong in a running lab, or changes there, and how soon packets flow again.
type Scenario struct {
	// Name says what happens: "provider A dies".
	Name string
	// Cut are the cables that carry nothing any more, without a word to their ends.
	Cut []*Link
	// Change are commands that are run on nodes, in order, and Undo those that take it back.
	Change, Undo []Command
	// Outage is how long it lasts if there is no other way for the packets. 0 says that there is one.
	Outage time.Duration
	// From and To are the hosts whose packets are watched. They go where it happens: they are lost for a while in any case.
	From, To *Node
	// Within is how long packets are lost at most: from the event on, or, with an Outage, from its end on.
	Within time.Duration
}

// Command is a command on a node.
type Command struct {
	Node *Node
	Argv []string
}

// LinksOf lists the cables of a node: to cut them all is to switch the node off, as others see it.
func (w *Network) LinksOf(n *Node) []*Link {
	return slices.DeleteFunc(slices.Clone(w.Links), func(l *Link) bool { return l.A.Node != n && l.B.Node != n })
}

// renumber adds the scenario of a site whose provider gives it another address while it runs.
func (b *builder) renumber(n, internet *Node, from, to string) {
	l := b.uplinksOf(n)[0]
	own, other := l.A, l.B
	if own.Node != n {
		own, other = other, own
	}
	const number = 200 // no network has so many uplinks and this scenario
	new4, new6 := uplink4(number), uplink6(number)
	s := &Scenario{
		Name: n.Name + " gets another address", From: b.Node(from), To: b.Node(to), Within: 10 * time.Second,
		Change: []Command{linkCommand(other, both(new4, new6, 1))}, Undo: []Command{linkCommand(other, other.Addresses)},
	}
	s.Change = append(s.Change, linkCommand(own, both(new4, new6, 2)))
	s.Undo = append(s.Undo, linkCommand(own, own.Addresses))
	for _, r := range n.Routes {
		via := host(new4, 1)
		if r.Via.Is6() {
			via = host(new6, 1)
		}
		s.Change = append(s.Change, Command{n, []string{"sitewire", "lab", "route", r.Prefix.String(), via.String()}})
		s.Undo = append(s.Undo, Command{n, []string{"sitewire", "lab", "route", r.Prefix.String(), r.Via.String()}})
	}
	b.Scenarios = append(b.Scenarios, s)
}

// linkCommand gives a port these addresses instead of those that it has.
func linkCommand(p Port, addresses []netip.Prefix) Command {
	argv := []string{"sitewire", "lab", "link", "--only", p.Interface}
	for _, a := range addresses {
		argv = append(argv, a.String())
	}
	return Command{p.Node, argv}
}
