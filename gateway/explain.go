package gateway

import (
	"cmp"
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"sitewire/gateway/config"
	"sitewire/gateway/wg"
	"sitewire/routes"
)

// RouteFilter selects routes. The zero value selects all.
type RouteFilter struct {
	// Prefix, if valid, selects it and everything within it; a host prefix selects what covers it.
	Prefix netip.Prefix
	// Peer selects what has a path from the peer or neighbour, or goes there.
	Peer string
	// Rejected selects what has a path that was turned down.
	Rejected bool
}

// Routes lists prefixes with all that is known of them.
func (g *Gateway) Routes(f RouteFilter) Routes {
	table := g.Routing()
	out := Routes{APIVersion: APIVersion, Routes: []RouteInfo{}, Diversions: diversions(table, nil)}
	if f.Prefix.IsValid() && f.Prefix.IsSingleIP() {
		for r := range table.Covering(f.Prefix.Addr()) {
			if f.selects(r) {
				out.Routes = append(out.Routes, routeInfo(r))
			}
		}
		return out
	}
	for r := range table.Routes() {
		if f.Prefix.IsValid() && (f.Prefix.Bits() > r.Prefix.Bits() || !f.Prefix.Overlaps(r.Prefix)) {
			continue
		}
		if f.selects(r) {
			out.Routes = append(out.Routes, routeInfo(r))
		}
	}
	return out
}

func (f RouteFilter) selects(r routes.RouteInfo) bool {
	if f.Rejected && !slices.ContainsFunc(r.Paths, func(p routes.PathInfo) bool { return p.Path != nil && p.Path.Rejected != "" }) {
		return false
	}
	if f.Peer == "" {
		return true
	}
	return slices.ContainsFunc(r.Paths, func(p routes.PathInfo) bool { return sessionOf(p.Neighbour, f.Peer) }) ||
		slices.ContainsFunc(r.Owners, func(a routes.AllowedIP) bool { return a.Peer == f.Peer })
}

// sessionOf tells whether a session is the peer's: it has its name, or that and a family ("nyc/ipv4").
func sessionOf(session, peer string) bool {
	return session == peer || strings.HasPrefix(session, peer+"/")
}

// ownPath stands for ourselves in PathInfo.Neighbour.
const ownPath = "own"

// diversions lists those of some devices, or all of them.
func diversions(table *routes.Status, devices []string) (out []Diversion) {
	for _, d := range table.Diversions {
		if devices == nil || slices.Contains(devices, d.Device) {
			out = append(out, Diversion(d))
		}
	}
	return out
}

func routeInfo(r routes.RouteInfo) RouteInfo {
	out := RouteInfo{
		Prefix:    r.Prefix,
		Diverted:  routes.HopsString(r.Prefix, r.Taken),
		Installed: r.InstalledString(),
		Reason:    r.Reason,
		Source:    r.Source.String(),
		AllowedOn: r.Owners,
		Changed:   r.Changed,
		Took:      r.Took.Seconds(),
	}
	if r.Failure != nil {
		out.Reason = fmt.Sprintf("%s: %v (attempt %d, again at %s)", r.Failure.Op, r.Failure.Err, r.Failure.Attempts, r.Failure.Next.Format("15:04:05"))
	}
	for _, p := range r.Paths {
		pi := PathInfo{Neighbour: p.Neighbour, Best: p.Best, NextHop: p.NextHop}
		if p.Neighbour == "" {
			pi.Neighbour = ownPath
		}
		if p.Path != nil {
			pi.Rejected, pi.Attrs, pi.Received = p.Path.Rejected, p.Path.Attrs, p.Path.Received
		}
		out.Paths = append(out.Paths, pi)
		if out.Installed == "" && out.Reason == "" && pi.Rejected != "" {
			out.Reason = fmt.Sprintf("the path from %s was rejected (%s)", pi.Neighbour, pi.Rejected)
		}
	}
	return out
}

// Explain says what happens to traffic to an address, and from it.
func (g *Gateway) Explain(ctx context.Context, a netip.Addr) Explanation {
	table, ts, cfg := g.Routing(), g.Tunnels(), g.Config()
	out := Explanation{APIVersion: APIVersion, Address: a, Matches: []RouteInfo{}, From: table.Owners(a)}
	if out.From == nil {
		out.From = []routes.AllowedIP{}
	}
	for r := range table.Covering(a) {
		info := routeInfo(r)
		originInfo(g.Origins(), &info, cfg.ASN)
		out.Matches = append(out.Matches, info)
	}
	for _, own := range cfg.Announce {
		if own.Prefix.Contains(a) && (!out.Own.IsValid() || own.Prefix.Bits() > out.Own.Bits()) {
			out.Own = own.Prefix
		}
	}
	carrier, ok := table.Lookup(a)
	ok = ok && len(carrier.Installed) > 0
	named := map[string]bool{}
	for _, r := range out.Matches {
		for _, o := range r.AllowedOn {
			named[o.Peer] = true
		}
		for _, p := range r.Paths {
			named[strings.SplitN(p.Neighbour, "/", 2)[0]] = true
		}
	}
	devices := []string{}
	for _, t := range ts {
		if named[t.Peer] {
			out.Tunnels = append(out.Tunnels, t)
			devices = append(devices, t.Device)
		}
	}
	out.Diversions = diversions(table, devices)
	out.Summary = summary(a, cfg, out, carrier, ok, ts)
	if g.o.KernelRoute == nil {
		return out
	}
	text, ours, err := g.o.KernelRoute(ctx, a)
	if err != nil {
		g.log.Warn("the kernel was not asked", "address", a, "error", err)
		return out
	}
	out.Kernel, out.KernelOurs = text, ours
	switch {
	case ours:
	case ok && carrier.Source != routes.Own:
		out.Summary += fmt.Sprintf(" But the kernel uses another route, which is not ours: %s.", cmp.Or(text, "none"))
	case text != "" && !out.Own.IsValid():
		out.Summary += fmt.Sprintf(" The kernel uses a route that is not ours: %s.", text)
	}
	return out
}

// summary puts an explanation into a sentence, the cause first.
func summary(a netip.Addr, cfg *config.Config, e Explanation, carrier routes.RouteInfo, ok bool, ts []wg.Tunnel) string {
	if ok && carrier.Source == routes.Own || !ok && e.Own.IsValid() {
		return fmt.Sprintf("%s is in %s, which this site announces: it is ours.", a, cmp.Or(e.Own, carrier.Prefix))
	}
	if !ok {
		if len(e.Matches) == 0 {
			return fmt.Sprintf("nothing is known of %s: no neighbour announced a prefix that contains it.", a)
		}
		m := e.Matches[0]
		why := cmp.Or(m.Reason, deadOwner(m, ts))
		for _, p := range m.Paths {
			if why == "" && p.Rejected != "" {
				why = fmt.Sprintf("the path from %s was rejected (%s)", p.Neighbour, p.Rejected)
			}
		}
		return fmt.Sprintf("%s matches %s, which is not installed: %s.", a, m.Prefix, cmp.Or(why, "no best path"))
	}
	var peers []string
	for _, w := range carrier.Desired {
		label := cmp.Or(w.Peer, w.Label)
		if i := slices.IndexFunc(ts, func(t wg.Tunnel) bool { return t.Peer == w.Peer }); i >= 0 {
			label += fmt.Sprintf(" (tunnel %s, %s)", ts[i].State, ts[i].Reason)
		}
		peers = append(peers, label)
	}
	via := carrier.InstalledString()
	if len(carrier.Taken) > 0 {
		via += ", diverted to " + routes.HopsString(carrier.Prefix, carrier.Taken)
	}
	if len(peers) > 0 {
		return fmt.Sprintf("%s goes by %s to %s: %s.", a, carrier.Prefix, strings.Join(peers, " and "), via)
	}
	return fmt.Sprintf("%s goes by %s: %s.", a, carrier.Prefix, via)
}

// deadOwner says that the tunnel which the prefix belongs to does not work, if that is so.
func deadOwner(m RouteInfo, ts []wg.Tunnel) string {
	for _, o := range m.AllowedOn {
		if i := slices.IndexFunc(ts, func(t wg.Tunnel) bool { return t.Peer == o.Peer }); i >= 0 && !ts[i].Alive() {
			return fmt.Sprintf("the tunnel to %s is %s (%s)", o.Peer, ts[i].State, ts[i].Reason)
		}
	}
	return ""
}
