package peers

import (
	"context"
	"fmt"
	"os"
	"path/filepath"

	"sitewire/topologies/netns"
)

// WireGuard is a running wireguard-go: one interface of its namespace.
type WireGuard struct {
	*Daemon
	dev string
}

// StartWireGuard makes the interface dev with wireguard-go and configures it from the text of a wg(8) configuration file ([Interface]
// with PrivateKey and ListenPort, [Peer] sections). The interface is down and has no address yet.
func StartWireGuard(ctx context.Context, ns *netns.NS, dev, config string) (*WireGuard, error) {
	w := &WireGuard{&Daemon{ns: ns}, dev}
	d, err := Start(ctx, ns, Spec{
		Name:    dev,
		Program: "wireguard-go",
		Args:    []string{"-f", dev},
		Env:     []string{"LOG_LEVEL=verbose"},
		Files:   map[string]string{"wg.conf": config},
		Ready: func(context.Context) error {
			_, err := os.Stat(filepath.Join(ns.RunDir(), "wireguard", dev+".sock"))
			return err
		},
	})
	if err != nil {
		return nil, err
	}
	w.Daemon = d
	if _, err := w.Wg(ctx, "setconf", dev, filepath.Join(d.dir, "wg.conf")); err != nil {
		return nil, fmt.Errorf("%w (%v)", err, d.Kill())
	}
	return w, nil
}

// Wg runs one wg command: Wg(ctx, "show", "wg0", "latest-handshakes").
func (w *WireGuard) Wg(ctx context.Context, words ...string) (string, error) {
	return ask(ctx, w.ns, "wg", words...)
}
