package lab

import (
	"context"

	"sitewire/topologies"
	"sitewire/topologies/netns"
)

// Cut implements check.Impairer.
func (l *Lab) Cut(ctx context.Context, cable *topologies.Link) error {
	return l.Impair(ctx, Impairment{
		Node: cable.A.Node.Name, Interface: cable.A.Interface, Impairment: topologies.Impairment{Cut: true},
	})
}

// Mend implements check.Impairer: the cable is again what it was from the start.
func (l *Lab) Mend(ctx context.Context, cable *topologies.Link) error {
	return l.Impair(ctx, Impairment{Node: cable.A.Node.Name, Interface: cable.A.Interface, Impairment: cable.Impairment})
}

// Has implements check.Toolbox: nodes have the programs of this machine.
func (l *Lab) Has(_, program string) bool {
	_, err := netns.Program(program)
	return err == nil
}
