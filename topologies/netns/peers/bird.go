package peers

import (
	"context"
	"errors"
	"path/filepath"
	"strings"

	"sitewire/topologies/netns"
)

// BIRD is a running bird (version 2).
type BIRD struct{ *Daemon }

// StartBIRD runs BIRD with a configuration. Name is the instance's; it logs everything that the configuration does not turn off.
func StartBIRD(ctx context.Context, ns *netns.NS, name, config string) (*BIRD, error) {
	b := &BIRD{&Daemon{ns: ns, dir: Dir(ns, name)}}
	d, err := Start(ctx, ns, Spec{
		Name:    name,
		Program: "bird",
		Args:    []string{"-f", "-c", "{dir}/bird.conf", "-s", "{dir}/bird.ctl", "-P", "{dir}/bird.pid"},
		Files:   map[string]string{"bird.conf": "log stderr all;\n" + config},
		Ready: func(ctx context.Context) error {
			out, err := b.Birdc(ctx, "show", "status")
			if err == nil && !strings.Contains(out, "Daemon is up and running") {
				err = errors.New(out)
			}
			return err
		},
	})
	if err != nil {
		return nil, err
	}
	b.Daemon = d
	return b, nil
}

// Birdc runs one birdc command: Birdc(ctx, "show", "route", "all").
func (b *BIRD) Birdc(ctx context.Context, words ...string) (string, error) {
	return ask(ctx, b.ns, "birdc", append([]string{"-s", filepath.Join(b.dir, "bird.ctl")}, words...)...)
}
