package peers

import (
	"context"

	"sitewire/topologies/netns"
)

// Where gobgpd answers; lo is the namespace's own.
const (
	gobgpHost = "127.0.0.1"
	gobgpPort = "50051"
)

// GoBGPd is a running gobgpd: one in a namespace.
type GoBGPd struct{ *Daemon }

// StartGoBGPd runs gobgpd with a configuration in TOML.
func StartGoBGPd(ctx context.Context, ns *netns.NS, name, config string) (*GoBGPd, error) {
	g := &GoBGPd{&Daemon{ns: ns}}
	d, err := Start(ctx, ns, Spec{
		Name:    name,
		Program: "gobgpd",
		Args: []string{
			"-f", "{dir}/gobgpd.toml", "-t", "toml", "--api-hosts", gobgpHost + ":" + gobgpPort, "--pprof-disable", "--log-plain",
		},
		Files: map[string]string{"gobgpd.toml": config},
		Ready: func(ctx context.Context) error {
			_, err := g.GoBGP(ctx, "global")
			return err
		},
	})
	if err != nil {
		return nil, err
	}
	g.Daemon = d
	return g, nil
}

// GoBGP runs one gobgp command: GoBGP(ctx, "neighbor", "-j").
func (g *GoBGPd) GoBGP(ctx context.Context, words ...string) (string, error) {
	return ask(ctx, g.ns, "gobgp", append([]string{"-u", gobgpHost, "-p", gobgpPort}, words...)...)
}
