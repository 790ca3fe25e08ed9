package main

import (
	"github.com/spf13/cobra"

	"sitewire/topologies"
	"sitewire/topologies/lab"
)

// completions is what a shell offers for an argument.
type completions = func(cmd *cobra.Command, args []string, toComplete string) ([]string, cobra.ShellCompDirective)

// completeLab completes the name of a network, and then with what next makes of the network, once.
func completeLab(next func(*topologies.Network) []string) completions {
	return func(_ *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
		var out []string
		switch {
		case len(args) == 0:
			for _, e := range topologies.Entries() {
				out = append(out, e.Name+"\t"+e.Title)
			}
		case len(args) == 1 && next != nil:
			if w, err := topologies.Build(args[0], runningSites(args[0])); err == nil {
				out = next(w)
			}
		}
		return out, cobra.ShellCompDirectiveNoFileComp
	}
}

func completeNodes(w *topologies.Network) []string {
	var out []string
	for _, n := range w.Nodes {
		out = append(out, n.Name)
	}
	return out
}

// completePorts offers ports by what they are for where that has a name, which people remember.
func completePorts(w *topologies.Network) []string {
	var out []string
	for _, n := range w.Nodes {
		for _, p := range w.Ports(n) {
			aliases := w.Aliases(p)
			out = append(out, n.Name+":"+aliases[len(aliases)-1])
		}
	}
	return out
}

// runningSites is the size of a network that runs, 0 if it does not.
func runningSites(name string) int {
	place, err := lab.At(name)
	if err != nil {
		return 0
	}
	state, err := place.State()
	if err != nil {
		return 0
	}
	return state.Sites
}
