package lab

import (
	"context"
	"errors"

	"sitewire/topologies"
	"sitewire/topologies/netns"
)

// Cut implements check.Impairer.
func (l *Lab) Cut(_ context.Context, cable *topologies.Link) error {
	ns := l.nodes[cable.A.Node.Name]
	if ns == nil {
		return errors.New("a cable of another network")
	}
	return ns.Cut(cable.A.Interface, netns.Both)
}

// Mend implements check.Impairer.
func (l *Lab) Mend(_ context.Context, cable *topologies.Link) error {
	ns := l.nodes[cable.A.Node.Name]
	if ns == nil {
		return errors.New("a cable of another network")
	}
	return ns.Heal(cable.A.Interface)
}

// Has implements check.Toolbox: nodes have the programs of this machine.
func (l *Lab) Has(_, program string) bool {
	_, err := netns.Program(program)
	return err == nil
}
