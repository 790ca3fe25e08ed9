package lab

import (
	"bytes"
	"context"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"

	"sitewire/topologies"
	"sitewire/topologies/netns/peers"
)

// startForeign makes the tunnels of a node that is no sitewire, and starts its routing daemon.
func (l *Lab) startForeign(ctx context.Context, n *topologies.Node) error {
	ns := l.nodes[n.Name]
	for _, e := range l.network.TunnelEnds(n) {
		own, other := e[0], e[1]
		secret := "[Interface]\nPrivateKey = " + topologies.Key(l.network.Name, n.Name).Reveal() + "\n"
		d, err := peers.StartWireGuard(ctx, ns, own.Device, strings.Replace(l.network.WireGuardConfig(own, other), "[Interface]\n", secret, 1))
		if err != nil {
			return err
		}
		l.daemons = append(l.daemons, daemon{n, d.Daemon})
		if err := ns.MTU(own.Device, topologies.TunnelMTU); err != nil {
			return err
		}
		if err := ns.Up(own.Device); err != nil {
			return err
		}
		if own.Inner.IsValid() {
			if err := ns.Addr(own.Device, netip.PrefixFrom(own.Inner, 64)); err != nil {
				return err
			}
		}
		if own.Inner4.IsValid() && other.Inner4.IsValid() {
			if err := l.run(ctx, n.Name, "ip", "address", "add", own.Inner4.String(), "peer", other.Inner4.String(), "dev", own.Device); err != nil {
				return err
			}
		}
		for _, p := range topologies.StaticRoutes(n) {
			if err := ns.Route(p, netip.Addr{}, own.Device); err != nil {
				return err
			}
		}
	}
	switch n.Role {
	case topologies.BIRD:
		d, err := peers.StartBIRD(ctx, ns, "bird", l.network.BIRDConfig(n))
		if err != nil {
			return err
		}
		l.daemons = append(l.daemons, daemon{n, d.Daemon})
		return l.alias(n, "bird")
	case topologies.FRR:
		if _, err := peers.StartFRR(ctx, ns, "frr", l.network.FRRConfig(n)); err != nil {
			return err
		}
		return l.alias(n, "frr")
	case topologies.GoBGP:
		d, err := peers.StartGoBGPd(ctx, ns, "gobgpd", l.network.GoBGPConfig(n))
		if err != nil {
			return err
		}
		l.daemons = append(l.daemons, daemon{n, d.Daemon})
	}
	return nil
}

// alias puts a daemon's sockets where its tools look for them: birdc in /run/bird, vtysh in /run/frr.
func (l *Lab) alias(n *topologies.Node, name string) error {
	ns := l.nodes[n.Name]
	from, to := peers.Dir(ns, name), filepath.Join(ns.RunDir(), name)
	if err := os.MkdirAll(to, 0o755); err != nil {
		return err
	}
	files, err := os.ReadDir(from)
	if err != nil {
		return err
	}
	for _, f := range files {
		if f.Type()&os.ModeSocket != 0 {
			if err := os.Symlink(filepath.Join(from, f.Name()), filepath.Join(to, f.Name())); err != nil {
				return err
			}
		}
	}
	return nil
}

// run runs a command on a node to its end.
func (l *Lab) run(ctx context.Context, node string, argv ...string) error {
	cmd, err := l.Command(ctx, node, argv...)
	if err != nil {
		return err
	}
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%s on %s: %w: %s", strings.Join(argv, " "), node, err, bytes.TrimSpace(out))
	}
	return nil
}
