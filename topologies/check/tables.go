package check

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"

	"sitewire/topologies"
)

// Toolbox is a Runner that knows which programs its gateways have: a container of nothing but sitewire has no ip and no wg.
type Toolbox interface {
	Runner
	// Has tells whether a node can run a program.
	Has(node, program string) bool
}

// protocol is the number of the routes that sitewire writes (docs/how-it-works.md).
const protocol = "83"

// Tables compares, on every gateway that has ip and wg, what they print with what sitewire says: the same routes through the same devices,
// and the same allowed-IPs, none missing and none besides. Gateways without these programs pass; the detail says how many had them.
func Tables(ctx context.Context, r Runner) (string, error) {
	var asked, routes, allowed atomic.Int64
	box, ok := r.(Toolbox)
	err := each(r.Network().ByRole(topologies.Gateway), func(g *topologies.Node) error {
		if !ok || !box.Has(g.Name, "ip") || !box.Has(g.Name, "wg") {
			return nil
		}
		asked.Add(1)
		var v struct{ Routes []route }
		if err := ask(ctx, r, g.Name, &v, "sitewire", "routes", "--json"); err != nil {
			return err
		}
		var wantRoutes, wantAllowed []string
		for _, x := range v.Routes {
			if x.Installed != "" {
				wantRoutes = append(wantRoutes, strings.TrimSpace(x.Prefix.String()+" "+device(x.Installed)))
			}
			for _, a := range x.AllowedIPs {
				wantAllowed = append(wantAllowed, fmt.Sprintf("%s %s %s", a.Device, a.Peer, a.Prefix))
			}
		}
		haveRoutes, err := kernelRoutes(ctx, r, g.Name)
		if err != nil {
			return err
		}
		if err := same(g.Name+": routes in the kernel", haveRoutes, wantRoutes); err != nil {
			return err
		}
		haveAllowed, err := allowedIPs(ctx, r, g)
		if err != nil {
			return err
		}
		routes.Add(int64(len(haveRoutes)))
		allowed.Add(int64(len(haveAllowed)))
		return same(g.Name+": allowed-IPs", haveAllowed, wantAllowed)
	})
	return fmt.Sprintf("%d gateways, %d routes, %d allowed-IPs", asked.Load(), routes.Load(), allowed.Load()), err
}

// kernelRoutes is what `ip route` has of sitewire's, as "PREFIX dev DEVICE", or "PREFIX unreachable".
func kernelRoutes(ctx context.Context, r Runner, node string) ([]string, error) {
	var out []string
	for _, f := range []string{"-4", "-6"} {
		var list []struct {
			Type, Dst, Dev string
			Nexthops       []struct{ Dev string }
		}
		if err := ask(ctx, r, node, &list, "ip", f, "-j", "route", "show", "proto", protocol); err != nil {
			return nil, err
		}
		for _, x := range list {
			dst, what := x.Dst, "dev "+x.Dev
			switch {
			case dst == "default" && f == "-4":
				dst = "0.0.0.0/0"
			case dst == "default":
				dst = "::/0"
			case !strings.Contains(dst, "/"):
				a, err := netip.ParseAddr(dst)
				if err != nil {
					return nil, fmt.Errorf("%s: ip route: %w", node, err)
				}
				dst += "/" + strconv.Itoa(a.BitLen())
			}
			switch {
			case x.Type != "" && x.Type != "unicast":
				what = x.Type
			case len(x.Nexthops) > 0:
				what = "dev " + x.Nexthops[0].Dev
			}
			out = append(out, dst+" "+what)
		}
	}
	return out, nil
}

// allowedIPs is what `wg show` has, as "DEVICE PEER PREFIX".
func allowedIPs(ctx context.Context, r Runner, g *topologies.Node) ([]string, error) {
	text, err := r.Exec(ctx, g.Name, "wg", "show", "all", "allowed-ips")
	if err != nil {
		return nil, fmt.Errorf("%s: wg show: %w", g.Name, err)
	}
	names := map[string]string{}
	for _, e := range r.Network().TunnelEnds(g) {
		names[topologies.Key(r.Network().Name, e[1].Node.Name).Public().String()] = e[0].Peer
	}
	var out []string
	for line := range strings.Lines(string(text)) {
		f := strings.Fields(line) // device, public key, prefixes
		for _, p := range f[min(2, len(f)):] {
			if p != "(none)" {
				out = append(out, fmt.Sprintf("%s %s %s", f[0], names[f[1]], p))
			}
		}
	}
	return out, nil
}

// same compares sets.
func same(what string, have, want []string) error {
	missing := slices.DeleteFunc(slices.Clone(want), func(s string) bool { return slices.Contains(have, s) })
	besides := slices.DeleteFunc(slices.Clone(have), func(s string) bool { return slices.Contains(want, s) })
	if len(missing)+len(besides) > 0 {
		return fmt.Errorf("%s: missing: [%s], besides: [%s]", what, some(missing), some(besides))
	}
	return nil
}

// Metrics scrapes every gateway: all tunnels and sessions are up, nothing differs from what was written, nothing waits, and every collector
// works.
func Metrics(ctx context.Context, r Runner) (string, error) {
	var series atomic.Int64
	w := r.Network()
	err := each(w.ByRole(topologies.Gateway), func(g *topologies.Node) error {
		page, err := r.Exec(ctx, g.Name, "sitewire", "lab", "get", "http://127.0.0.1:9587/metrics")
		if err != nil {
			return fmt.Errorf("%s: scrape: %w", g.Name, err)
		}
		m := samples(page)
		for _, x := range m {
			series.Add(int64(len(x)))
		}
		for _, want := range []struct {
			name   string
			count  int // of series; -1 for any number but none
			values float64
		}{
			{"sitewire_tunnel_up", len(w.TunnelEnds(g)), 1},
			{"sitewire_bgp_session_up", sessionsOf(w, g), 1},
			{"sitewire_collector_success", -1, 1},
			{"sitewire_drift_unresolved", -1, 0},
			{"sitewire_reconcile_pending_changes", 1, 0},
		} {
			have := m[want.name]
			if len(have) == 0 && want.count != 0 || want.count >= 0 && len(have) != want.count {
				return fmt.Errorf("%s: %d series of %s, want %d", g.Name, len(have), want.name, want.count)
			}
			for labels, v := range have {
				if v != want.values {
					return fmt.Errorf("%s: %s%s is %g, want %g", g.Name, want.name, labels, v, want.values)
				}
			}
		}
		return nil
	})
	return fmt.Sprintf("%d gateways, %d series", len(w.ByRole(topologies.Gateway)), series.Load()), err
}

// samples reads a page of metrics in Prometheus' text format: values by name and labels.
func samples(page []byte) map[string]map[string]float64 {
	out := map[string]map[string]float64{}
	for s := bufio.NewScanner(bytes.NewReader(page)); s.Scan(); {
		line := s.Text()
		i := strings.LastIndexByte(line, ' ')
		if strings.HasPrefix(line, "#") || i < 0 {
			continue
		}
		v, err := strconv.ParseFloat(line[i+1:], 64)
		if err != nil {
			continue
		}
		name, labels, _ := strings.Cut(line[:i], "{")
		if out[name] == nil {
			out[name] = map[string]float64{}
		}
		out[name][labels] = v
	}
	return out
}

// learned is a route as a foreign router has it.
type learned struct {
	prefix netip.Prefix
	// via is the next hop, and neighbour the node that announced it.
	via       netip.Addr
	neighbour string
}

// Foreign checks that every router that is no sitewire has a route to everything that others announce, and that the IPv4 routes that it has
// from tunnels have the kind of next hop that the network says: IPv6 ones (RFC 8950) or, where a tunnel has no extended next hop, the other
// end's IPv4 address. At a gateway the session says which kind was agreed on.
func Foreign(ctx context.Context, r Runner) (string, error) {
	w := r.Network()
	var routers, routes, hops atomic.Int64
	err := each(w.ByRole(topologies.BIRD, topologies.FRR, topologies.GoBGP), func(n *topologies.Node) error {
		have, err := table(ctx, r, n)
		if err != nil {
			return err
		}
		routers.Add(1)
		routes.Add(int64(len(have)))
		for _, o := range w.Nodes {
			for _, p := range o.Announce {
				if o != n && !slices.ContainsFunc(have, func(x learned) bool { return x.prefix == p }) {
					return fmt.Errorf("%s has no route to %s of %s", n.Name, p, o.Name)
				}
			}
		}
		checked, err := nextHops(w, n, have)
		hops.Add(checked)
		return err
	})
	if err != nil {
		return "", err
	}
	err = each(w.ByRole(topologies.Gateway), func(g *topologies.Node) error {
		var v struct {
			Sessions []struct {
				Peer     string
				Extended bool `json:"extended_next_hop"`
			}
		}
		if err := ask(ctx, r, g.Name, &v, "sitewire", "bgp", "--json"); err != nil {
			return err
		}
		for _, e := range w.TunnelEnds(g) {
			own := e[0]
			for _, s := range v.Sessions {
				if s.Peer == own.Peer && s.Extended == w.TunnelOf(own).NoExtendedNextHop {
					return fmt.Errorf("%s: the session with %s has extended next hops: %t", g.Name, s.Peer, s.Extended)
				}
			}
		}
		return nil
	})
	return fmt.Sprintf("%d routers, %d routes, %d IPv4 routes from tunnels", routers.Load(), routes.Load(), hops.Load()), err
}

// nextHops checks those of the IPv4 routes that a node has from its tunnels, and that there are some from each. Neighbours are called by
// the name that the node's configuration has for them.
func nextHops(w *topologies.Network, n *topologies.Node, have []learned) (checked int64, err error) {
	for _, e := range w.TunnelEnds(n) {
		own, other := e[0], e[1]
		t := w.TunnelOf(own)
		if !t.BGP() {
			continue
		}
		before := checked
		for _, x := range have {
			if x.neighbour != own.Peer || !x.prefix.Addr().Is4() {
				continue
			}
			if t.NoExtendedNextHop && x.via != other.Inner4 || !t.NoExtendedNextHop && !x.via.Is6() {
				return checked, fmt.Errorf("%s: %s from %s has the next hop %s", n.Name, x.prefix, own.Peer, x.via)
			}
			checked++
		}
		if checked == before {
			return checked, fmt.Errorf("%s has no IPv4 route from %s", n.Name, own.Peer)
		}
	}
	return checked, nil
}

// table asks a foreign router, with its own tool.
func table(ctx context.Context, r Runner, n *topologies.Node) ([]learned, error) {
	w := r.Network()
	switch n.Role {
	case topologies.BIRD:
		text, err := r.Exec(ctx, n.Name, "birdc", "show", "route")
		if err != nil {
			return nil, fmt.Errorf("%s: birdc: %w", n.Name, err)
		}
		return birdTable(w, n, string(text)), nil
	case topologies.FRR:
		return frrTable(ctx, r, n)
	default:
		return gobgpTable(ctx, r, n)
	}
}

// birdTable reads `birdc show route`: a prefix begins its first route, each route has its protocol in brackets, and its next hops follow
// on lines of their own.
func birdTable(w *topologies.Network, n *topologies.Node, text string) (out []learned) {
	names := map[string]string{}
	for _, e := range w.TunnelEnds(n) {
		names[topologies.ProtocolName(e[0].Peer)] = e[0].Peer
	}
	var now learned
	for line := range strings.Lines(text) {
		f := strings.Fields(line)
		if len(f) == 0 {
			continue
		}
		if p, err := netip.ParsePrefix(f[0]); err == nil {
			now.prefix = p
		}
		if _, after, ok := strings.Cut(line, "["); ok {
			protocol, _, _ := strings.Cut(after, " ")
			now.neighbour, now.via = names[protocol], netip.Addr{}
			if now.neighbour == "" {
				out = append(out, now) // from the LAN
			}
		}
		if f[0] == "via" && len(f) > 1 && now.neighbour != "" {
			now.via, _ = netip.ParseAddr(f[1]) // an invalid one is no next hop of either kind
			out = append(out, now)
		}
	}
	return out
}

func frrTable(ctx context.Context, r Runner, n *topologies.Node) (out []learned, err error) {
	names := map[string]string{}
	for _, e := range r.Network().TunnelEnds(n) {
		names[e[1].Inner.String()] = e[0].Peer
	}
	for _, f := range []string{"ipv4", "ipv6"} {
		var v struct {
			Routes map[netip.Prefix][]struct {
				PeerID   string `json:"peerId"`
				Nexthops []struct{ IP netip.Addr }
			}
		}
		if err := ask(ctx, r, n.Name, &v, "vtysh", "-c", "show bgp "+f+" unicast json"); err != nil {
			return nil, err
		}
		for p, paths := range v.Routes {
			for _, x := range paths {
				for _, h := range x.Nexthops {
					out = append(out, learned{p, h.IP, names[x.PeerID]})
				}
			}
		}
	}
	return out, nil
}

func gobgpTable(ctx context.Context, r Runner, n *topologies.Node) (out []learned, err error) {
	for _, f := range []string{"ipv4", "ipv6"} {
		var v map[netip.Prefix]json.RawMessage
		if err := ask(ctx, r, n.Name, &v, "gobgp", "-j", "global", "rib", "-a", f); err != nil {
			return nil, err
		}
		for p := range v {
			out = append(out, learned{prefix: p}) // a collector has no tunnels
		}
	}
	return out, nil
}
