package lab

import (
	"fmt"
	"slices"
	"strings"

	"sitewire/topologies"
	"sitewire/topologies/netns"
)

// programs are what nodes of a role run beside sitewire, each with the Debian package that it is in.
var programs = map[topologies.Role][][2]string{
	topologies.BIRD:  {{"bird", "bird2"}},
	topologies.FRR:   {{"zebra", "frr"}, {"bgpd", "frr"}, {"vtysh", "frr"}},
	topologies.GoBGP: {{"gobgpd", "gobgpd"}, {"gobgp", "gobgpd"}},
}

// tunnelPrograms are what a foreign node with tunnels runs.
var tunnelPrograms = [][2]string{{"wireguard-go", "wireguard-go"}, {"wg", "wireguard-tools"}}

// Missing says, as a *netns.Unavailable, which programs the network's nodes need that this machine does not have.
func Missing(w *topologies.Network) error {
	var names, packages, nodes []string
	for _, n := range w.Nodes {
		need := programs[n.Role]
		if n.Foreign() && len(w.TunnelEnds(n)) > 0 {
			need = append(slices.Clone(need), tunnelPrograms...)
			need = append(need, [2]string{"ip", "iproute2"})
		}
		for _, p := range need {
			if _, err := netns.Program(p[0]); err == nil {
				continue
			}
			names, packages, nodes = addOnce(names, p[0]), addOnce(packages, p[1]), addOnce(nodes, n.Name)
		}
	}
	if names == nil {
		return nil
	}
	return &netns.Unavailable{
		What: strings.Join(names, ", "), Why: fmt.Sprintf("not found, and %s of %s would run it", strings.Join(nodes, ", "), w.Name),
		Fix: "install it, as with `apt-get install " + strings.Join(packages, " ") + "`",
	}
}

func addOnce(list []string, s string) []string {
	if slices.Contains(list, s) {
		return list
	}
	return append(list, s)
}
