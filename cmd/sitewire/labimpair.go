package main

import (
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"sitewire/topologies/lab"
)

func newLabImpair(*app) *cobra.Command {
	var i lab.Impairment
	var heal bool
	cmd := &cobra.Command{
		Use:   "impair NAME NODE:INTERFACE",
		Short: "Change how a cable of a running network behaves",
		Long: `Changes what a cable does to packets, in both directions, while the network runs. Each call replaces what the one before it did.

  sitewire lab impair pair fra:eth2 --loss 10
  sitewire lab impair pair fra:eth2 --cut
  sitewire lab impair pair fra:eth2 --heal`,
		Args: cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			var ok bool
			if i.Node, i.Interface, ok = strings.Cut(args[1], ":"); !ok {
				return withCode(exitUsage, fmt.Errorf("%q is no end of a cable: give NODE:INTERFACE, such as fra:eth2", args[1]))
			}
			if heal == (i != lab.Impairment{Node: i.Node, Interface: i.Interface}) {
				return withCode(exitUsage, errors.New("say what the cable shall do to packets, or --heal"))
			}
			place, err := lab.At(args[0])
			if err != nil {
				return err
			}
			if err := place.Impair(i); err != nil {
				return labError(args[0], err)
			}
			return nil
		},
	}
	f := cmd.Flags()
	f.BoolVar(&i.Cut, "cut", false, "drop everything, without telling the ends")
	f.IntVar(&i.Loss, "loss", 0, "drop that many packets of a hundred")
	f.IntVar(&i.Hole, "hole", 0, "drop packets of more than that many bytes, silently")
	f.BoolVar(&heal, "heal", false, "as good as new")
	return cmd
}
