package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"sitewire/topologies"
	"sitewire/topologies/lab"
)

func newLabImpair(a *app) *cobra.Command {
	var i lab.Impairment
	var o output
	var heal bool
	var rate string
	cmd := &cobra.Command{
		Use:   "impair NAME [NODE:INTERFACE]",
		Short: "Change how a cable of a running network behaves, or list what cables do",
		Long: `Changes what a cable does to packets, in both directions or only in the one that leaves the node, while the network runs. Each call
replaces what the one before it did; without a cable it lists what is done to which.

The interface may be called by what is at its other end (fra:internet), or what it is for (fra:uplink, fra:lan; branch1:uplink2).

  sitewire lab impair pair fra:uplink --rate 20mbit --delay 40ms --jitter 5ms --loss 0.5
  sitewire lab impair pair fra:uplink --one-way --loss 10
  sitewire lab impair pair fra:uplink --hole 1280
  sitewire lab impair pair fra:uplink --cut
  sitewire lab impair pair fra:uplink --heal
  sitewire lab impair pair

Packets are lost, and slow, once for each direction: --delay 40ms on both makes round trips 80 ms longer.`,
		Args:              cobra.RangeArgs(1, 2),
		ValidArgsFunction: completeLab(completePorts),
		RunE: func(cmd *cobra.Command, args []string) error {
			place, err := lab.At(args[0])
			if err != nil {
				return withCode(exitUsage, err)
			}
			if len(args) == 1 {
				state, err := place.State()
				if err != nil {
					return labError(args[0], err)
				}
				if o.json {
					return json.NewEncoder(a.stdout).Encode(notNull(state.Impaired))
				}
				return a.impairedTable(state.Impaired, !o.noHeaders)
			}
			var ok bool
			if i.Node, i.Interface, ok = strings.Cut(args[1], ":"); !ok {
				return withCode(exitUsage, fmt.Errorf("%q is no end of a cable: give NODE:INTERFACE, such as fra:eth2 or fra:uplink", args[1]))
			}
			if rate != "" {
				if i.Rate, err = topologies.ParseRate(rate); err != nil {
					return withCode(exitUsage, err)
				}
			}
			if heal == (i.Impairment != topologies.Impairment{}) {
				return withCode(exitUsage, errors.New("say what the cable shall do to packets, or --heal"))
			}
			if err := place.Impair(i); err != nil {
				return labError(args[0], err)
			}
			return nil
		},
	}
	f := cmd.Flags()
	f.StringVar(&rate, "rate", "", "speed of the line: 20mbit, 512kbit; packets wait for it at most 100 ms")
	f.DurationVar(&i.Delay, "delay", 0, "how long each packet takes")
	f.DurationVar(&i.Jitter, "jitter", 0, "how much longer or shorter at most")
	f.Float64Var(&i.Loss, "loss", 0, "lose that many packets of a hundred")
	f.Float64Var(&i.Reorder, "reorder", 0, "send that many packets of a hundred without the delay, before others")
	f.Float64Var(&i.Duplicate, "duplicate", 0, "send that many packets of a hundred twice")
	f.IntVar(&i.Hole, "hole", 0, "lose packets of more than that many bytes, silently: a black hole of path MTU discovery")
	f.BoolVar(&i.Cut, "cut", false, "lose everything, without telling the ends")
	f.BoolVar(&i.OneWay, "one-way", false, "only what leaves the node there")
	f.BoolVar(&heal, "heal", false, "as good as new")
	o.flags(cmd, true)
	return cmd
}

// notNull makes JSON say [] where there is nothing.
func notNull[T any](list []T) []T {
	if list == nil {
		return []T{}
	}
	return list
}

// impairedTable prints what cables do: a line for a cable that does the same in both directions, or one for each direction.
func (a *app) impairedTable(list []lab.Impaired, headers bool) error {
	if len(list) == 0 {
		_, err := fmt.Fprintln(a.stdout, "all cables are as good as new")
		return err
	}
	t := newTable(left("FROM"), left("WAY"), left("TO"), left("BY"), left("WHAT"))
	done := map[string]bool{}
	for _, x := range list {
		from := x.Node + ":" + x.Interface
		if done[from] {
			continue
		}
		arrow := "->"
		for _, back := range list {
			if back.To == from && back.Node+":"+back.Interface == x.To && back.Impairment == x.Impairment {
				arrow, done[x.To] = "<->", true
			}
		}
		t.row(text(from), text(arrow), text(x.To), text(x.By), text(x.String()))
	}
	return t.write(a.stdout, a.paint(), headers)
}
