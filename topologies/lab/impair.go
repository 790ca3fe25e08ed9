package lab

import (
	"context"
	"fmt"
	"slices"

	"sitewire/topologies"
	"sitewire/topologies/netns"
)

// Impairment is what a cable of the lab does to packets.
type Impairment struct {
	// Node and Interface name an end of a cable; an alias will do for the interface (topologies.Network.FindPort).
	Node, Interface string
	// OneWay is about what leaves the node there only, and leaves the other direction as it is.
	OneWay bool `json:",omitempty"`
	topologies.Impairment
}

// Impaired is a direction of a cable that does something to packets.
type Impaired struct {
	// Node and Interface are where the packets leave, To where they arrive: NODE:INTERFACE.
	Node      string `json:"node"`
	Interface string `json:"interface"`
	To        string `json:"to"`
	topologies.Impairment
	// By is what delays: netem, tbf or sitewire; empty where nothing does.
	By string `json:"by,omitempty"`
}

// Impair changes how a cable behaves: both directions, or one. It replaces what was there.
func (l *Lab) Impair(ctx context.Context, i Impairment) error {
	port, err := l.network.FindPort(i.Node + ":" + i.Interface)
	if err != nil {
		return err
	}
	select {
	case l.impairing <- struct{}{}:
		defer func() { <-l.impairing }()
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	_, other, _ := l.network.Cable(port)
	for _, direction := range [][2]topologies.Port{{port, other}, {other, port}} {
		if err := l.way(direction[0], direction[1]).Set(netns.Impairment(i.Impairment)); err != nil {
			return err
		}
		if i.OneWay {
			break
		}
	}
	l.noteImpaired()
	return nil
}

// way is a direction of a cable. Whoever calls it has the slot of impairing.
func (l *Lab) way(from, to topologies.Port) *netns.Way {
	key := portName(from)
	if l.ways[key] == nil {
		l.ways[key] = netns.NewWay(l.nodes[from.Node.Name], from.Interface, l.nodes[to.Node.Name], to.Interface)
	}
	return l.ways[key]
}

func portName(p topologies.Port) string { return p.Node.Name + ":" + p.Interface }

// noteImpaired makes the list that Impaired returns.
func (l *Lab) noteImpaired() {
	var list []Impaired
	for _, k := range l.network.Links {
		for _, d := range [][2]topologies.Port{{k.A, k.B}, {k.B, k.A}} {
			w := l.ways[portName(d[0])]
			if w == nil || w.Impairment() == (netns.Impairment{}) {
				continue
			}
			list = append(list, Impaired{d[0].Node.Name, d[0].Interface, portName(d[1]), topologies.Impairment(w.Impairment()), w.By()})
		}
	}
	l.impaired.Store(&list)
}

// Impaired lists what cables do to packets now, in the order of the network's links.
func (l *Lab) Impaired() []Impaired {
	if list := l.impaired.Load(); list != nil {
		return slices.Clone(*list)
	}
	return nil
}

// impairLinks makes cables behave as the network has them from the start.
func (l *Lab) impairLinks(ctx context.Context) error {
	for _, k := range l.network.Links {
		if k.Impairment == (topologies.Impairment{}) {
			continue
		}
		if err := l.Impair(ctx, Impairment{Node: k.A.Node.Name, Interface: k.A.Interface, Impairment: k.Impairment}); err != nil {
			return fmt.Errorf("cable %s to %s: %w", portName(k.A), portName(k.B), err)
		}
	}
	return nil
}

// closeWays ends the delays of this process before the devices go.
func (l *Lab) closeWays() []error {
	var errs []error
	for _, w := range l.ways {
		errs = append(errs, w.Close())
	}
	clear(l.ways)
	return errs
}
