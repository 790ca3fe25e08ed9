// Package check says whether a running lab works.
//
// Job: the assertions that every lab of package topologies must pass, whatever runs it: namespaces of this machine, or containers.
// Owner: nobody; a check reads and changes nothing.
// Inputs: a Runner, through which it runs the nodes' own commands: sitewire on gateways, `sitewire lab ping` on hosts.
// Outputs: a Result for each assertion.
// Invariants: nothing is assumed of a node but its commands; waiting is by looking again until a deadline, never by a fixed pause.
package check

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"sitewire/topologies"
)

// Runner runs commands on the nodes of a lab.
type Runner interface {
	Network() *topologies.Network
	// Exec runs a command on a node to its end and returns its standard output. A command that fails is an error that quotes what it said.
	Exec(ctx context.Context, node string, argv ...string) ([]byte, error)
}

// Result of an assertion.
type Result struct {
	// Name says what holds, or should.
	Name string
	// Detail says how much was looked at: "12 sessions".
	Detail string
	// Took is how long it was until it held, or until that was given up.
	Took time.Duration
	Err  error
}

// atOnce is how many nodes are asked at a time, and every how often what does not hold yet is looked at again.
const (
	atOnce = 4
	every  = 200 * time.Millisecond
)

// check is an assertion: it says how much it looked at.
type check struct {
	name string
	run  func(context.Context, Runner) (string, error)
}

// settled is what holds whenever nothing is broken, whatever was before.
var settled = []check{
	{"every BGP session is established", Sessions},
	{"every host reaches every other host, IPv4 and IPv6", Reachability},
	{"BGP, kernel and WireGuard agree on every gateway", Agreement},
	{"ip and wg print just that", Tables},
	{"BIRD, FRR and GoBGP have all routes, and next hops are as agreed", Foreign},
	{"metrics say the same", Metrics},
}

// Common checks what holds in every lab: all BGP sessions are established, every host reaches every other one in both families, every
// gateway's routes agree with the kernel and with the allowed-IPs, foreign routers have all routes, metrics say that all is up, and every
// gateway calls itself healthy. It stops at the first that does not hold until ctx ends.
func Common(ctx context.Context, r Runner) []Result {
	return all(ctx, r, append(slices.Clone(settled), check{"every gateway is healthy", Health}))
}

func all(ctx context.Context, r Runner, checks []check) []Result {
	var out []Result
	for _, c := range checks {
		start := time.Now()
		detail, err := until(ctx, func() (string, error) { return c.run(ctx, r) })
		out = append(out, Result{c.name, detail, time.Since(start), err})
		if err != nil {
			break
		}
	}
	return out
}

// until calls f until it succeeds or ctx ends, and then returns what it said last. A call that was cut short by that end has no say.
func until(ctx context.Context, f func() (string, error)) (string, error) {
	tick := time.NewTicker(every)
	defer tick.Stop()
	var before error
	for {
		detail, err := f()
		if err == nil {
			return detail, nil
		}
		if ctx.Err() != nil && before != nil {
			return detail, before
		}
		before = err
		select {
		case <-tick.C:
		case <-ctx.Done():
			return detail, err
		}
	}
}

// Sessions checks that every BGP session of every gateway is established.
func Sessions(ctx context.Context, r Runner) (string, error) {
	var mu sync.Mutex
	n := 0
	err := each(r.Network().ByRole(topologies.Gateway), func(g *topologies.Node) error {
		var v struct {
			Sessions []struct{ Name, State string }
		}
		if err := ask(ctx, r, g.Name, &v, "sitewire", "bgp", "--json"); err != nil {
			return err
		}
		for _, s := range v.Sessions {
			if s.State != "Established" {
				return fmt.Errorf("%s: the session with %s is %s", g.Name, s.Name, s.State)
			}
		}
		if want := sessionsOf(r.Network(), g); len(v.Sessions) != want {
			return fmt.Errorf("%s has %d sessions, not %d", g.Name, len(v.Sessions), want)
		}
		mu.Lock()
		defer mu.Unlock()
		n += len(v.Sessions)
		return nil
	})
	return fmt.Sprintf("%d sessions", n), err
}

// sessionsOf is how many sessions a gateway should have: one for each tunnel with BGP, two for each router on its LAN.
func sessionsOf(w *topologies.Network, g *topologies.Node) int {
	n := 0
	for _, e := range w.TunnelEnds(g) {
		if w.TunnelOf(e[0]).BGP() {
			n++
		}
	}
	for _, s := range w.Sessions {
		if s.A.Node == g || s.B.Node == g {
			n += 2
		}
	}
	return n
}

// Reachability checks that every host reaches every other one, in both families.
func Reachability(ctx context.Context, r Runner) (string, error) {
	hosts := r.Network().ByRole(topologies.Host)
	err := each(hosts, func(h *topologies.Node) error {
		names := map[netip.Addr]string{}
		argv := []string{"sitewire", "lab", "ping", "--json"}
		for _, o := range hosts {
			for _, p := range r.Network().Ports(o)[0].Addresses {
				if o != h {
					names[p.Addr()] = o.Name
					argv = append(argv, p.Addr().String())
				}
			}
		}
		if len(names) == 0 {
			return nil
		}
		var v []struct {
			Address  netip.Addr
			Received int
		}
		if err := ask(ctx, r, h.Name, &v, argv...); err != nil {
			return err
		}
		var lost []string
		for _, x := range v {
			if x.Received == 0 {
				lost = append(lost, fmt.Sprintf("%s (%s)", names[x.Address], x.Address))
			}
		}
		switch {
		case len(v) != len(names):
			return fmt.Errorf("%s pinged %d addresses, not %d", h.Name, len(v), len(names))
		case lost != nil:
			return fmt.Errorf("%s does not reach %s", h.Name, some(lost))
		}
		return nil
	})
	return fmt.Sprintf("%d ways", 2*len(hosts)*(len(hosts)-1)), err
}

// Agreement checks that every gateway has a route to all that others announce, that where it leads into a tunnel WireGuard's
// allowed-IPs give the prefix to that peer, and that the kernel takes the routes. The kernel is asked about some of them only, since that is
// a command each.
func Agreement(ctx context.Context, r Runner) (string, error) {
	const atKernel = 8
	w := r.Network()
	announced := map[netip.Prefix]netip.Addr{} // and an address there
	for _, n := range w.Nodes {
		for _, p := range n.Announce {
			b := p.Addr().AsSlice()
			b[len(b)-1] = 10 // hosts have it; the first ones are routers, of whose tunnels the kernel may know by itself
			announced[p], _ = netip.AddrFromSlice(b)
		}
	}
	err := each(w.ByRole(topologies.Gateway), func(g *topologies.Node) error {
		var v struct{ Routes []route }
		if err := ask(ctx, r, g.Name, &v, "sitewire", "routes", "--json"); err != nil {
			return err
		}
		have := map[netip.Prefix]*route{}
		for i := range v.Routes {
			have[v.Routes[i].Prefix] = &v.Routes[i]
		}
		asked := 0
		for prefix, addr := range announced { // in any order: other ones each time
			if slices.Contains(g.Announce, prefix) {
				continue
			}
			x := have[prefix]
			if x == nil || x.Installed == "" {
				return fmt.Errorf("%s has no route to %s", g.Name, prefix)
			}
			if err := x.allowed(w, g); err != nil {
				return err
			}
			if asked++; asked <= atKernel {
				if err := x.kernel(ctx, r, g.Name, addr); err != nil {
					return err
				}
			}
		}
		return nil
	})
	return fmt.Sprintf("%d gateways, %d prefixes", len(w.ByRole(topologies.Gateway)), len(announced)), err
}

// route is a line of `sitewire routes --json`.
type route struct {
	Prefix     netip.Prefix
	Installed  string
	AllowedIPs []allowed `json:"allowed_ips"`
	Paths      []path
}

type allowed struct {
	Device, Peer string
	Prefix       netip.Prefix
}

type path struct {
	Neighbour string
	Best      bool
}

// allowed checks that a route that leads into the tunnel of a peer has that peer for the owner of the prefix, unless the configuration
// says what the peer may send.
func (x *route) allowed(w *topologies.Network, g *topologies.Node) error {
	for _, e := range w.TunnelEnds(g) {
		own := e[0]
		best := slices.ContainsFunc(x.Paths, func(p path) bool { return p.Best && p.Neighbour == own.Peer })
		if !best || own.AllowedIPs != nil {
			continue
		}
		if !slices.ContainsFunc(x.AllowedIPs, func(a allowed) bool { return a.Peer == own.Peer }) {
			return fmt.Errorf("%s: %s leads to %s, which may not have it as an allowed-IP", g.Name, x.Prefix, own.Peer)
		}
	}
	return nil
}

// kernel asks the kernel what becomes of packets to an address.
func (x *route) kernel(ctx context.Context, r Runner, gateway string, to netip.Addr) error {
	var v struct {
		Kernel string
		Ours   bool `json:"kernel_ours"`
	}
	if err := ask(ctx, r, gateway, &v, "sitewire", "explain", to.String(), "--json"); err != nil {
		return err
	}
	if !v.Ours || !strings.HasPrefix(v.Kernel, x.Prefix.String()+" ") || !strings.Contains(v.Kernel, device(x.Installed)) {
		return fmt.Errorf("%s: installed is %s %s, the kernel takes %s", gateway, x.Prefix, x.Installed, v.Kernel)
	}
	return nil
}

// device is the part of an installed route that names its device.
func device(installed string) string {
	if i := strings.Index(installed, "dev "); i >= 0 {
		return strings.Fields(installed[i:])[0] + " " + strings.Fields(installed[i:])[1]
	}
	return installed
}

// Health checks that `sitewire status` has nothing to complain about.
func Health(ctx context.Context, r Runner) (string, error) {
	gateways := r.Network().ByRole(topologies.Gateway)
	err := each(gateways, func(g *topologies.Node) error {
		var v struct {
			Health   string
			Problems []any
			Synced   bool
			Pending  int `json:"pending_changes"`
		}
		if err := ask(ctx, r, g.Name, &v, "sitewire", "status", "--json"); err != nil {
			return err
		}
		if v.Health != "ok" || !v.Synced || v.Pending != 0 {
			return fmt.Errorf("%s is %s (in step: %t, pending: %d): %v", g.Name, v.Health, v.Synced, v.Pending, v.Problems)
		}
		return nil
	})
	return fmt.Sprintf("%d gateways", len(gateways)), err
}

// ask runs a command that prints JSON.
func ask(ctx context.Context, r Runner, node string, v any, argv ...string) error {
	out, err := r.Exec(ctx, node, argv...)
	if err != nil {
		return fmt.Errorf("%s: %s: %w", node, some(argv), err)
	}
	if err := json.Unmarshal(out, v); err != nil {
		return fmt.Errorf("%s: %s: %w", node, some(argv), err)
	}
	return nil
}

// each calls f for each node, some at a time.
func each(nodes []*topologies.Node, f func(*topologies.Node) error) error {
	errs := make([]error, len(nodes))
	slots := make(chan struct{}, atOnce)
	var wg sync.WaitGroup
	for i, n := range nodes {
		slots <- struct{}{}
		wg.Go(func() {
			defer func() { <-slots }()
			errs[i] = f(n)
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}

// some prints a list, shortened.
func some(list []string) string {
	const most = 6
	if len(list) > most {
		return strings.Join(list[:most], " ") + fmt.Sprintf(" and %d more", len(list)-most)
	}
	return strings.Join(list, " ")
}
