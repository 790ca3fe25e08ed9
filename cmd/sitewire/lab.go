package main

import (
	"cmp"
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
	cmd.AddCommand(newLabList(a), newLabShow(a), newLabGraph(a), newLabUp(a), newLabKeep(a), newLabDown(a), newLabCheck(a), newLabExec(a), newLabImpair(a), newLabPing(a), newLabFlow(a), newLabGet(a), newLabKey(a), newLabRun(), newLabLink(), newLabRoute())
	return cmd
}

func newLabList(a *app) *cobra.Command {
	var o output
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List the networks, and which of them run",
		Args:  cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			type row struct {
				Name    string `json:"name"`
				Title   string `json:"title"`
				Nodes   int    `json:"nodes"`
				Sites   int    `json:"sites,omitempty"`
				Running bool   `json:"running"`
				// Of one that runs.
				State *lab.State `json:"state,omitempty"`
			}
			var rows []row
			for _, e := range topologies.Entries() {
				w, err := topologies.Build(e.Name, 0)
				if err != nil {
					return err
				}
				r := row{Name: e.Name, Title: e.Title, Nodes: len(w.Nodes), Sites: e.Sites}
				if r.State, err = labState(e.Name); err != nil {
					return err
				}
				if r.Running = r.State != nil; r.Running && r.State.Sites > 0 {
					if w, err = topologies.Build(e.Name, r.State.Sites); err != nil {
						return err
					}
					r.Nodes, r.Sites = len(w.Nodes), r.State.Sites
				}
				rows = append(rows, r)
			}
			if o.json {
				return json.NewEncoder(a.stdout).Encode(rows)
			}
			p := a.paint()
			t := newTable(left("NAME"), left("STATE"), right("NODES"), left("SITES"), left("WHAT"))
			for _, r := range rows {
				state, sites := "", ""
				if r.Running {
					state = stateText(r.State)
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

// labState is the state of a network, nil if it does not run.
func labState(name string) (*lab.State, error) {
	place, err := lab.At(name)
	if err != nil {
		return nil, err
	}
	state, err := place.State()
	if errors.Is(err, lab.ErrNotRunning) {
		return nil, nil
	}
	return state, err
}

// stateText is a state in one word or two.
func stateText(s *lab.State) string {
	switch {
	case !s.Up:
		return "coming up"
	case len(s.Ended) > 0:
		return fmt.Sprintf("%d ended", len(s.Ended))
	}
	return "running"
}

func newLabShow(a *app) *cobra.Command {
	var sites int
	var o output
	cmd := &cobra.Command{
		Use:   "show NAME [NODE]",
		Short: "Show a network's nodes, addresses and tunnels, or a node's files",
		Long: `Shows what a network consists of and, if it runs, in that size and with what is wrong with its cables and nodes; or the files of
one node.`,
		Args:              cobra.RangeArgs(1, 2),
		ValidArgsFunction: completeLab(completeNodes),
		RunE: func(_ *cobra.Command, args []string) error {
			if _, err := topologies.Build(args[0], sites); err != nil {
				return withCode(exitUsage, err)
			}
			state, err := labState(args[0])
			if err != nil {
				return err
			}
			if sites == 0 && state != nil {
				sites = state.Sites
			}
			w, err := topologies.Build(args[0], sites)
			if err != nil {
				return err
			}
			if len(args) == 1 {
				if o.json {
					return json.NewEncoder(a.stdout).Encode(describeLab(w, state))
				}
				return a.showNetwork(w, state)
			}
			n := w.Node(args[1])
			if n == nil {
				return withCode(exitUsage, w.NoNode(args[1]))
			}
			files := w.Files(n)
			if o.json {
				return json.NewEncoder(a.stdout).Encode(files)
			}
			out := errWriter{w: a.stdout}
			for _, name := range slices.Sorted(maps.Keys(files)) {
				out.printf("# %s\n%s\n", name, files[name])
			}
			return out.err
		},
	}
	sitesFlag(cmd, &sites)
	o.flags(cmd, false)
	return cmd
}

// showNetwork prints what a network is, a table of its nodes, and how it is if it runs.
func (a *app) showNetwork(w *topologies.Network, state *lab.State) error {
	p := a.paint()
	out := errWriter{w: a.stdout}
	out.printf("%s\n%s\n\n", p.paint(bold, w.Name+": "+w.Title), w.About)
	if out.err != nil {
		return out.err
	}
	if err := a.nodeTable(w, p); err != nil || state == nil {
		return err
	}
	out.printf("\n%s since %s\n", stateText(state), state.Since.Format("15:04:05"))
	for _, name := range state.Ended {
		out.printf("%s what %s runs has ended; to have it back, take the network down and up again\n", p.paint(bad, "!"), name)
	}
	if out.err != nil || len(state.Impaired) == 0 {
		return out.err
	}
	out.printf("\n")
	return errors.Join(out.err, a.impairedTable(state.Impaired, true))
}

// described is `lab show --json`.
type described struct {
	Name  string          `json:"name"`
	Title string          `json:"title"`
	About string          `json:"about"`
	Nodes []describedNode `json:"nodes"`
	// State is that of a network that runs.
	State *lab.State `json:"state,omitempty"`
}

type describedNode struct {
	Name       string          `json:"name"`
	Runs       topologies.Role `json:"runs"`
	Site       string          `json:"site,omitempty"`
	ASN        uint32          `json:"asn,omitempty"`
	Announces  []netip.Prefix  `json:"announces,omitempty"`
	Interfaces []describedPort `json:"interfaces"`
	Peers      []string        `json:"peers,omitempty"`
}

type describedPort struct {
	Name      string         `json:"name"`
	Aliases   []string       `json:"aliases"`
	Addresses []netip.Prefix `json:"addresses"`
	To        string         `json:"to"`
}

func describeLab(w *topologies.Network, state *lab.State) described {
	d := described{Name: w.Name, Title: w.Title, About: w.About, State: state}
	for _, n := range w.Nodes {
		node := describedNode{Name: n.Name, Runs: n.Role, Site: n.Site, ASN: n.ASN, Announces: n.Announce, Interfaces: []describedPort{}}
		for _, p := range w.Ports(n) {
			_, other, _ := w.Cable(p)
			node.Interfaces = append(node.Interfaces, describedPort{p.Interface, w.Aliases(p), p.Addresses, other.Node.Name + ":" + other.Interface})
		}
		for _, e := range w.TunnelEnds(n) {
			node.Peers = append(node.Peers, e[0].Peer)
		}
		d.Nodes = append(d.Nodes, node)
	}
	return d
}

func (a *app) nodeTable(w *topologies.Network, p painter) error {
	t := newTable(left("NODE"), left("RUNS"), right("ASN"), left("INTERFACES"), left("PEERS"))
	nodes := foldNodes(w.Nodes)
	for _, n := range nodes.shown {
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
	if err := t.write(a.stdout, p, true); err != nil || nodes.hidden == 0 {
		return err
	}
	_, err := fmt.Fprintf(a.stdout, "and %d more like the last ones; `sitewire lab show %s --json` has them all\n", nodes.hidden, w.Name)
	return err
}

// folded is a list of nodes that fits a screen.
type folded struct {
	shown  []*topologies.Node
	hidden int
}

// foldNodes leaves out the last nodes of a large network: more spokes, which look like the ones before.
func foldNodes(nodes []*topologies.Node) folded {
	const most = 24
	if len(nodes) <= most+2 {
		return folded{shown: nodes}
	}
	return folded{nodes[:most], len(nodes) - most}
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
	var format string
	cmd := &cobra.Command{
		Use:               "graph NAME",
		Short:             "Draw a network as a Mermaid or Graphviz diagram",
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: completeLab(nil),
		RunE: func(_ *cobra.Command, args []string) error {
			w, err := topologies.Build(args[0], sites)
			if err != nil {
				return withCode(exitUsage, err)
			}
			draw, ok := map[string]func() string{"mermaid": w.Mermaid, "dot": w.Dot}[format]
			if !ok {
				return withCode(exitUsage, fmt.Errorf("no format %q: mermaid or dot", format))
			}
			_, err = fmt.Fprint(a.stdout, draw())
			return err
		},
	}
	sitesFlag(cmd, &sites)
	cmd.Flags().StringVar(&format, "format", "mermaid", "mermaid, or dot for Graphviz")
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
		ValidArgsFunction: func(_ *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
			if len(args) > 0 {
				return nil, cobra.ShellCompDirectiveNoFileComp
			}
			names, _ := lab.Running() // there is nothing to offer
			return names, cobra.ShellCompDirectiveNoFileComp
		},
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
		Long: `Runs a command on a node, with this command's input, output, terminal and directory, and ends as it does: with its exit code,
128 + n if signal n ended it, 127 if there is no such command, 2 if there is no such node.

  sitewire lab exec pair fra
  sitewire lab exec pair fra -- sitewire peers
  sitewire lab exec pair internet -- tcpdump -ni eth1 -w - > wan.pcap`,
		Args: cobra.MinimumNArgs(2),
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
				return withCode(cmp.Or(code, exitFailure), labError(args[0], err))
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
