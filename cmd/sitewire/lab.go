package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"os/signal"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"sitewire/topologies"
	"sitewire/topologies/lab"
	"sitewire/topologies/netns"
)

func newLab(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "lab",
		Short: "Networks to try things in: on this machine, in namespaces, without root or Docker",
		Long: `Runs networks of several sites in network namespaces: gateways with real tunnels and BGP, hosts on their LANs, BIRD and FRR
beside them. Nothing on this machine changes, root is not needed, and ` + "`sitewire lab down`" + ` leaves nothing behind.

  sitewire lab list
  sitewire lab up hub-spoke --sites 10
  sitewire lab exec hub-spoke hub -- sitewire peers
  sitewire lab down hub-spoke

The same networks are in the repository's folder containerlab/, for containerlab.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(newLabList(a), newLabShow(a), newLabGraph(a), newLabUp(a), newLabKeep(a), newLabDown(a), newLabExec(a), newLabImpair(a), newLabPing(a), newLabFlow(a), newLabGet(a), newLabKey(a), newLabRun(), newLabLink(), newLabRoute())
	return cmd
}

func newLabList(a *app) *cobra.Command {
	var o output
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List the networks, and which of them run",
		Args:  cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			running, err := lab.Running()
			if err != nil {
				return err
			}
			type row struct {
				Name    string `json:"name"`
				Title   string `json:"title"`
				Nodes   int    `json:"nodes"`
				Sites   int    `json:"sites,omitempty"`
				Running bool   `json:"running"`
			}
			var rows []row
			for _, e := range topologies.Entries() {
				w, err := topologies.Build(e.Name, 0)
				if err != nil {
					return err
				}
				place, err := lab.At(e.Name)
				if err != nil {
					return err
				}
				rows = append(rows, row{e.Name, e.Title, len(w.Nodes), e.Sites, slices.Contains(running, e.Name) && place.Alive()})
			}
			if o.json {
				return json.NewEncoder(a.stdout).Encode(rows)
			}
			p := a.paint()
			t := newTable(left("NAME"), left("STATE"), right("NODES"), left("SITES"), left("WHAT"))
			for _, r := range rows {
				state, sites := "", ""
				if r.Running {
					state = "running"
				}
				if r.Sites > 0 {
					sites = fmt.Sprintf("--sites %d", r.Sites)
				}
				t.row(text(r.Name), text(state), text(strconv.Itoa(r.Nodes)), text(sites), text(r.Title))
			}
			return t.write(a.stdout, p, !o.noHeaders)
		},
	}
	o.flags(cmd, true)
	return cmd
}

// sitesFlag adds --sites.
func sitesFlag(cmd *cobra.Command, sites *int) {
	cmd.Flags().IntVar(sites, "sites", 0, "number of spokes or branches, where it can be chosen")
}

func newLabShow(a *app) *cobra.Command {
	var sites int
	cmd := &cobra.Command{
		Use:   "show NAME [NODE]",
		Short: "Show a network's nodes, addresses and tunnels, or a node's files",
		Args:  cobra.RangeArgs(1, 2),
		RunE: func(_ *cobra.Command, args []string) error {
			w, err := topologies.Build(args[0], sites)
			if err != nil {
				return withCode(exitUsage, err)
			}
			if len(args) == 1 {
				return a.showNetwork(w)
			}
			n := w.Node(args[1])
			if n == nil {
				return withCode(exitUsage, noNode(w, args[1]))
			}
			out := errWriter{w: a.stdout}
			files := w.Files(n)
			for _, name := range slices.Sorted(maps.Keys(files)) {
				out.printf("# %s\n%s\n", name, files[name])
			}
			return out.err
		},
	}
	sitesFlag(cmd, &sites)
	return cmd
}

func noNode(w *topologies.Network, name string) error {
	var names []string
	for _, n := range w.Nodes {
		names = append(names, n.Name)
	}
	return fmt.Errorf("%s has no node %q; there are %s", w.Name, name, strings.Join(names, ", "))
}

// showNetwork prints what a network is and a table of its nodes.
func (a *app) showNetwork(w *topologies.Network) error {
	p := a.paint()
	out := errWriter{w: a.stdout}
	out.printf("%s\n%s\n\n", p.paint(bold, w.Name+": "+w.Title), w.About)
	if out.err != nil {
		return out.err
	}
	return a.nodeTable(w, p)
}

func (a *app) nodeTable(w *topologies.Network, p painter) error {
	t := newTable(left("NODE"), left("RUNS"), right("ASN"), left("INTERFACES"), left("PEERS"))
	for _, n := range w.Nodes {
		asn, ports, peers := "", []string{}, []string{}
		if n.ASN != 0 {
			asn = strconv.FormatUint(uint64(n.ASN), 10)
		}
		for _, port := range w.Ports(n) {
			ports = append(ports, port.Interface+" "+addressList(port.Addresses))
		}
		if len(ports) > 4 { // the internet of a large network
			ports = append(ports[:3], fmt.Sprintf("and %d more", len(ports)-3))
		}
		for _, e := range w.TunnelEnds(n) {
			peers = append(peers, e[0].Peer)
		}
		if len(peers) > 6 {
			peers = append(peers[:5], fmt.Sprintf("and %d more", len(peers)-5))
		}
		t.row(text(n.Name), text(string(n.Role)), text(asn), text(strings.Join(ports, ", ")), text(strings.Join(peers, " ")))
	}
	return t.write(a.stdout, p, true)
}

// addressList is the IPv4 address of an interface, or the first one.
func addressList(list []netip.Prefix) string {
	for _, p := range list {
		if p.Addr().Is4() {
			return p.String()
		}
	}
	if len(list) > 0 {
		return list[0].String()
	}
	return ""
}

func newLabGraph(a *app) *cobra.Command {
	var sites int
	cmd := &cobra.Command{
		Use:   "graph NAME",
		Short: "Draw a network as a Mermaid diagram",
		Args:  cobra.ExactArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			w, err := topologies.Build(args[0], sites)
			if err != nil {
				return withCode(exitUsage, err)
			}
			_, err = fmt.Fprint(a.stdout, w.Mermaid())
			return err
		},
	}
	sitesFlag(cmd, &sites)
	return cmd
}

func newLabKey(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "key NAME NODE",
		Short: "Print the private key of a node of a lab: public by design, never use it elsewhere",
		Args:  cobra.ExactArgs(2),
		RunE: func(_ *cobra.Command, args []string) error {
			_, err := fmt.Fprintln(a.stdout, topologies.Key(args[0], args[1]).Reveal())
			return err
		},
	}
}

func newLabDown(a *app) *cobra.Command {
	var all bool
	cmd := &cobra.Command{
		Use:   "down NAME",
		Short: "End a running network; nothing of it is left",
		Args:  cobra.MaximumNArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			if all == (len(args) == 1) {
				return withCode(exitUsage, errors.New("give the name of a network, or --all"))
			}
			if all {
				var err error
				if args, err = lab.Running(); err != nil {
					return err
				}
			}
			var errs []error
			for _, name := range args {
				place, err := lab.At(name)
				if err == nil {
					err = place.Down()
				}
				if err != nil {
					errs = append(errs, fmt.Errorf("%s: %w", name, err))
				}
			}
			return errors.Join(errs...)
		},
	}
	cmd.Flags().BoolVar(&all, "all", false, "all running networks")
	return cmd
}

func newLabExec(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "exec NAME NODE [-- COMMAND ARGUMENT...]",
		Short: "Run a command on a node of a running network, a shell by default",
		Args:  cobra.MinimumNArgs(2),
		RunE: func(_ *cobra.Command, args []string) error {
			place, err := lab.At(args[0])
			if err != nil {
				return err
			}
			argv := args[2:]
			interactive := isTerminal(a.stdin) && isTerminal(a.stdout)
			if len(argv) == 0 {
				argv = shellArgs(args[1])
			}
			var code int
			if interactive {
				code, err = onPTY(os.Stdin, func(slave *os.File, signals <-chan os.Signal) (int, error) {
					return place.Exec(args[1], argv, []*os.File{slave}, signals)
				})
			} else {
				signals := make(chan os.Signal, 4)
				signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP)
				defer signal.Stop(signals)
				code, err = place.Exec(args[1], argv, []*os.File{os.Stdin, os.Stdout, os.Stderr}, signals)
			}
			if err != nil {
				return labError(args[0], err)
			}
			if code != 0 {
				return silently(code)
			}
			return nil
		},
	}
}

// labError tells what to do about a lab that does not run.
func labError(name string, err error) error {
	if errors.Is(err, lab.ErrNotRunning) {
		return fmt.Errorf("%s is not running: start it with `sitewire lab up %s`", name, name)
	}
	return fmt.Errorf("%s: %w", name, err)
}

// labInside refuses to run outside of namespaces.
func labInside() error {
	if !netns.Inside() {
		if err := netns.Usable(); err != nil {
			return err
		}
		return errors.New("this command did not get namespaces of its own")
	}
	return netns.UsableTUN()
}
