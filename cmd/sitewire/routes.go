package main

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"sitewire/gateway"
	"sitewire/routes"
)

func newRoutes(a *app) *cobra.Command {
	var out output
	var peerName string
	var rejected, all bool
	cmd := &cobra.Command{
		Use:     "routes [PREFIX]",
		Aliases: []string{"route"},
		Short:   "Routes and where they lead; with a prefix, all its paths",
		Long: `VIA is the kernel's route as written and acknowledged, PEER the neighbour of the best path, PATHS accepted/all,
TOOK the time from the UPDATE to the kernel's acknowledgement. A route that is not in the kernel says why instead.
Below the table are the tunnels that are lost and whose routes were all diverted at once.
Addresses in tunnels that need no route, such as link-local ones, are left out; --all shows them too.

With --rejected: the paths that import policy turned down, one line each, with the rule.`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			q := url.Values{}
			if peerName != "" {
				q.Set("peer", peerName)
			}
			if rejected {
				q.Set("rejected", "1")
			}
			if len(args) > 0 {
				prefix, err := parsePrefix(args[0])
				if err != nil {
					return err
				}
				q.Set("prefix", prefix.String())
			}
			ans, raw, err := fetch[gateway.Routes](cmd.Context(), newClient(a.socket), "/v1/routes", q)
			switch {
			case err != nil:
				return err
			case out.json:
				return printJSON(a.stdout, raw)
			case len(args) > 0 && len(ans.Routes) == 0:
				return fmt.Errorf("no route for %s\nwhat happens to an address in it: sitewire explain %s", q.Get("prefix"), addressOf(q.Get("prefix")))
			case rejected:
				return renderRejected(a.stdout, a.paint(), ans.Routes, a.now(), !out.noHeaders)
			case len(args) > 0:
				return renderRouteBlocks(a.stdout, a.paint(), ans.Routes, a.now())
			}
			if !all {
				ans.Routes = slices.DeleteFunc(ans.Routes, needsNone)
			}
			if err := renderRoutes(a.stdout, a.paint(), ans.Routes, a.now(), !out.noHeaders); err != nil || out.noHeaders {
				return err
			}
			return renderDiversions(a.stdout, a.paint(), ans.Diversions, a.now())
		},
		ValidArgsFunction: cobra.NoFileCompletions,
	}
	out.flags(cmd, true)
	cmd.Flags().StringVar(&peerName, "peer", "", "only routes with a path from this peer or neighbour")
	cmd.Flags().BoolVar(&all, "all", false, "also addresses in tunnels that need no route")
	cmd.Flags().BoolVar(&rejected, "rejected", false, "paths that import policy turned down, with the rule")
	cmd.RegisterFlagCompletionFunc("peer", func(cmd *cobra.Command, _ []string, s string) ([]string, cobra.ShellCompDirective) {
		return a.completePeers(cmd, nil, s)
	})
	return cmd
}

// needsNone tells of an address at the other end of a tunnel that is allowed there and has, and needs, no route: the kernel knows the
// way, as to any link-local address.
func needsNone(r gateway.RouteInfo) bool {
	return (r.Source == "" || r.Source == "tunnel") && r.Installed == "" && r.Reason == "" && len(r.Paths) == 0
}

// parsePrefix reads a prefix; an address stands for its host prefix.
func parsePrefix(s string) (netip.Prefix, error) {
	if addr, err := netip.ParseAddr(s); err == nil {
		return netip.PrefixFrom(addr, addr.BitLen()), nil
	}
	p, err := netip.ParsePrefix(s)
	if err != nil {
		return p, withCode(exitUsage, fmt.Errorf("%q is neither a prefix (10.0.0.0/24, fd42::/48) nor an address", s))
	}
	return p.Masked(), nil
}

func addressOf(prefix string) string {
	addr, _, _ := strings.Cut(prefix, "/")
	return addr
}

// renderRoutes prints one line for each prefix, IPv4 first, in the order of the addresses.
func renderRoutes(w io.Writer, p painter, rs []gateway.RouteInfo, now time.Time, headers bool) error {
	t := newTable(left("PREFIX"), left("VIA"), left("PEER"), left("BEST"), right("PATHS"), right("AGE"), right("TOOK"))
	for _, r := range sortRoutes(rs) {
		via := text(r.Installed)
		if r.Diverted != "" {
			via = cell{r.Diverted + " (diverted)", warn}
		}
		if r.Installed == "" {
			via = cell{"not installed: " + r.Reason, warn}
			if r.Reason == "" {
				via = text("")
			}
		}
		accepted := 0
		for _, path := range r.Paths {
			if path.Rejected == "" {
				accepted++
			}
		}
		paths := ""
		if len(r.Paths) > 0 {
			paths = fmt.Sprintf("%d/%d", accepted, len(r.Paths))
		}
		t.row(text(r.Prefix.String()), via, text(bestPeer(r)), text(bestText(r)), text(paths), text(since(now, r.Changed)), text(took(r.Took)))
	}
	return t.write(w, p, headers)
}

// bestPeer names the neighbours of the best paths; for a route that BGP does not know, its owner.
func bestPeer(r gateway.RouteInfo) string {
	var names []string
	for _, path := range r.Paths {
		if path.Best {
			names = append(names, path.Neighbour)
		}
	}
	if len(names) == 0 && r.Source != "own" {
		for _, ip := range r.AllowedOn {
			names = append(names, ip.Peer)
		}
	}
	slices.Sort(names)
	return strings.Join(slices.Compact(names), ",")
}

// bestText tells of the first best path how it came: its AS path, or the source of what is not BGP's.
func bestText(r gateway.RouteInfo) string {
	for _, path := range r.Paths {
		if path.Best && path.Attrs != nil {
			return asPath(path.Attrs)
		}
	}
	return r.Source
}

// asPath prints an AS path without blanks, so that a table stays one of words: "4242420002>4242420003".
func asPath(at *routes.Attrs) string {
	if at == nil {
		return ""
	}
	if len(at.ASPath) == 0 {
		return "local"
	}
	words := make([]string, len(at.ASPath))
	for i, asn := range at.ASPath {
		words[i] = fmt.Sprint(asn)
	}
	return strings.Join(words, ">")
}

func sortRoutes(rs []gateway.RouteInfo) []gateway.RouteInfo {
	return slices.SortedFunc(slices.Values(rs), func(a, b gateway.RouteInfo) int { return comparePrefixes(a.Prefix, b.Prefix) })
}

func comparePrefixes(a, b netip.Prefix) int {
	if c := a.Addr().Compare(b.Addr()); c != 0 {
		return c
	}
	return a.Bits() - b.Bits()
}

// renderDiversions prints one line for each lost tunnel whose routes take other ways.
func renderDiversions(w io.Writer, p painter, ds []gateway.Diversion, now time.Time) error {
	e := &errWriter{w: w}
	for i, d := range ds {
		if i == 0 {
			e.printf("\n")
		}
		e.printf("%s\n", p.paint(warn, diversionText(d, now)))
	}
	return e.err
}

// diversionText says which tunnel is lost, since when, and where its routes went.
func diversionText(d gateway.Diversion, now time.Time) string {
	s := fmt.Sprintf("%s (%s) was diverted %s: ", cmp.Or(d.Peer, "no peer"), d.Device, ago(now, d.Since))
	var to []string
	for _, device := range slices.Sorted(maps.Keys(d.To)) {
		to = append(to, fmt.Sprintf("%s to %s", plural(d.To[device], "route"), device))
	}
	if len(to) == 0 {
		return s + "none of its routes had another way"
	}
	return s + strings.Join(to, ", ")
}

// renderRejected prints the paths that policy refused.
func renderRejected(w io.Writer, p painter, rs []gateway.RouteInfo, now time.Time, headers bool) error {
	t := newTable(left("PREFIX"), left("NEIGHBOUR"), left("RULE"), left("ASPATH"), right("AGE"))
	for _, r := range sortRoutes(rs) {
		for _, path := range r.Paths {
			if path.Rejected != "" {
				t.row(text(r.Prefix.String()), text(path.Neighbour), cell{path.Rejected, warn}, text(asPath(path.Attrs)), text(since(now, path.Received)))
			}
		}
	}
	return t.write(w, p, headers)
}

// renderRouteBlocks prints all about some prefixes.
func renderRouteBlocks(w io.Writer, p painter, rs []gateway.RouteInfo, now time.Time) error {
	e := &errWriter{w: w}
	for i, r := range sortRoutes(rs) {
		if i > 0 {
			e.printf("\n")
		}
		renderRouteBlock(e, p, r, now)
	}
	if len(rs) == 0 && e.err == nil {
		e.err = errors.New("no routes")
	}
	return e.err
}

// renderRouteBlock prints the kernel's route, the paths with the best marked by a star, and who owns the prefix.
func renderRouteBlock(e *errWriter, p painter, r gateway.RouteInfo, now time.Time) {
	e.printf("%s\n", p.paint(bold, r.Prefix.String()))
	if r.Installed != "" {
		e.printf("  kernel      %s\n", p.paint(good, r.Installed))
	} else {
		e.printf("  kernel      %s%s\n", p.paint(warn, "no route"), prefixed(": ", r.Reason))
	}
	if r.Diverted != "" {
		e.printf("  diverted    %s\n", p.paint(warn, r.Diverted))
	}
	if r.Installed != "" && r.Reason != "" {
		e.printf("  pending     %s\n", p.paint(warn, r.Reason))
	}
	for _, path := range r.Paths {
		mark, verdict := " ", p.paint(good, "accepted")
		if path.Best {
			mark, verdict = "*", p.paint(good, "best")
		}
		if path.Rejected != "" {
			verdict = p.paint(warn, "rejected by "+path.Rejected)
		}
		var more strings.Builder
		if at := path.Attrs; at != nil {
			fmt.Fprintf(&more, " as-path %s origin %s local-pref %d med %d", asPath(at), at.Origin, at.LocalPref, at.MED)
			if all := slices.Concat(at.Communities, at.LargeCommunities); len(all) > 0 {
				fmt.Fprintf(&more, " communities %s", strings.Join(all, " "))
			}
		}
		hop := ""
		if path.NextHop.IsValid() {
			hop = " via " + path.NextHop.String()
		}
		heard := ""
		if !path.Received.IsZero() {
			heard = ", heard " + since(now, path.Received) + " ago"
		}
		e.printf("  path      %s %s%s (%s%s)%s\n", mark, path.Neighbour, hop, verdict, heard, more.String())
		for _, o := range path.Origins {
			renderOrigin(e, p, o)
		}
	}
	if len(r.Paths) == 0 {
		e.printf("  source      %s\n", r.Source)
	}
	for _, ip := range r.AllowedOn {
		part := ""
		if ip.Prefix != r.Prefix {
			part = ", by " + ip.Prefix.String()
		}
		e.printf("  allowed-ip  %s owns it on %s%s\n", ip.Peer, ip.Device, part)
	}
	if !r.Changed.IsZero() {
		how := ""
		if s := took(r.Took); s != "" {
			how = ", " + s + " from UPDATE to kernel"
		}
		e.printf("  changed     %s%s\n", ago(now, r.Changed), how)
	}
}
