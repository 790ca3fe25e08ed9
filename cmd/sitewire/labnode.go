package main

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"sitewire/topologies"
	"sitewire/topologies/netns"
)

// newLabRun, newLabLink and newLabRoute are for containers that have nothing but sitewire in them: what `ip` and a shell do elsewhere.
func newLabRun() *cobra.Command {
	var config string
	cmd := &cobra.Command{
		Use:   "run NAME NODE",
		Short: "In a container: run the gateway of a lab, with the lab's well-known key",
		Args:  cobra.ExactArgs(2),
		RunE: func(_ *cobra.Command, args []string) error {
			// A key that everybody knows is for labs only.
			if _, err := netns.Node(); err != nil {
				return err
			}
			key := topologies.KeyVariable + "=" + topologies.Key(args[0], args[1]).Reveal()
			return syscall.Exec("/proc/self/exe", []string{"sitewire", "run", "--config", config}, append(os.Environ(), key))
		},
	}
	cmd.Flags().StringVarP(&config, "config", "c", defaultConfig, "configuration file")
	return cmd
}

// plugTime is how long containerlab may take to plug a cable in.
const plugTime = 30 * time.Second

func newLabLink() *cobra.Command {
	var only bool
	cmd := &cobra.Command{
		Use:   "link INTERFACE ADDRESS/LENGTH...",
		Short: "In a container: set an interface up and give it addresses, as `ip` does",
		Args:  cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			n, err := netns.Node()
			if err != nil {
				return err
			}
			var addresses []netip.Prefix
			for _, s := range args[1:] {
				p, err := netip.ParsePrefix(s)
				if err != nil {
					return withCode(exitUsage, err)
				}
				addresses = append(addresses, p)
			}
			ctx, cancel := context.WithTimeout(cmd.Context(), plugTime)
			defer cancel()
			if err := netns.WaitFor(ctx, 50*time.Millisecond, args[0], func() error { _, err := n.Index(args[0]); return err }); err != nil {
				return err
			}
			if err := n.Up(args[0]); err != nil {
				return err
			}
			if only {
				return n.OnlyAddr(args[0], addresses...)
			}
			return n.Addr(args[0], addresses...)
		},
	}
	cmd.Flags().BoolVar(&only, "only", false, "take all other addresses but link-local ones off")
	return cmd
}

func newLabRoute() *cobra.Command {
	return &cobra.Command{
		Use:   "route PREFIX VIA",
		Short: "In a container: add or replace a route, as `ip` does",
		Args:  cobra.ExactArgs(2),
		RunE: func(_ *cobra.Command, args []string) error {
			n, err := netns.Node()
			if err != nil {
				return err
			}
			p, err := netip.ParsePrefix(args[0])
			if err == nil {
				var via netip.Addr
				if via, err = netip.ParseAddr(args[1]); err == nil {
					return n.Route(p, via, "")
				}
			}
			return withCode(exitUsage, fmt.Errorf("route %s via %s: %w", args[0], args[1], err))
		},
	}
}
