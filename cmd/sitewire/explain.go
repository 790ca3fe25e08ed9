package main

import (
	"fmt"
	"io"
	"net/netip"
	"net/url"
	"time"

	"github.com/spf13/cobra"

	"sitewire/gateway"
)

func newExplain(a *app) *cobra.Command {
	var out output
	cmd := &cobra.Command{
		Use:   "explain ADDRESS",
		Short: "What happens to packets to and from an address, and why",
		Long: `Answers "why does this not get through": which prefixes contain the address, who announced them and what policy
said, which path is best, whether the kernel has the route, who owns the allowed-IP, how the tunnel is doing, and when
all this last changed.`,
		Example: "  sitewire explain 10.2.0.10\n  sitewire explain fd42:2::10",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			addr, err := netip.ParseAddr(args[0])
			if err != nil {
				return withCode(exitUsage, fmt.Errorf("%q is not an IP address (for a prefix: sitewire routes %s)", args[0], args[0]))
			}
			q := url.Values{"address": {addr.Unmap().WithZone("").String()}}
			ex, raw, err := fetch[gateway.Explanation](cmd.Context(), newClient(a.socket), "/v1/explain", q)
			switch {
			case err != nil:
				return err
			case out.json:
				return printJSON(a.stdout, raw)
			}
			return renderExplanation(a.stdout, a.paint(), ex, a.now())
		},
		ValidArgsFunction: cobra.NoFileCompletions,
	}
	out.flags(cmd, false)
	return cmd
}

// renderExplanation prints the answer in a sentence first, then what it rests on.
func renderExplanation(w io.Writer, p painter, ex gateway.Explanation, now time.Time) error {
	e := &errWriter{w: w}
	e.printf("%s\n", p.paint(bold, ex.Summary))
	if ex.Own.IsValid() {
		e.printf("\n%s is in %s, which this site announces.\n", ex.Address, ex.Own)
	}
	carrying := -1
	for i, r := range ex.Matches {
		if r.Installed != "" && carrying < 0 {
			carrying = i
		}
	}
	for i, r := range ex.Matches {
		e.printf("\n")
		if i == carrying {
			e.printf("%s\n", p.paint(faint, "traffic to it follows:"))
		} else {
			e.printf("%s\n", p.paint(faint, "also contains it:"))
		}
		renderRouteBlock(e, p, r, now)
	}
	if len(ex.Diversions) > 0 {
		e.printf("\ndiversions:\n")
	}
	for _, d := range ex.Diversions {
		e.printf("  %s\n", p.paint(warn, diversionText(d, now)))
	}
	if ex.Kernel != "" {
		whose := ""
		if !ex.KernelOurs {
			whose = p.paint(warn, " (not ours)")
		}
		e.printf("\nkernel:\n  %s%s\n", ex.Kernel, whose)
	}
	e.printf("\npackets from it are accepted on:\n")
	for _, ip := range ex.From {
		e.printf("  %s from %s (%s)\n", ip.Device, ip.Peer, ip.Prefix)
	}
	if len(ex.From) == 0 {
		e.printf("  %s\n", p.paint(warn, "no tunnel: no peer owns an allowed-IP that contains it"))
	}
	if len(ex.Tunnels) > 0 {
		e.printf("\ntunnels:\n")
		for _, t := range ex.Tunnels {
			e.printf("  %s on %s: %s, %s; latest handshake %s\n", t.Peer, t.Device, p.paint(tunnelStyle(t.State), string(t.State)), t.Reason, ago(now, t.LastHandshake))
		}
	}
	return e.err
}
