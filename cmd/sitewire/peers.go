package main

import (
	"cmp"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"sitewire/bgp"
	"sitewire/gateway"
	"sitewire/gateway/wg"
)

func newPeers(a *app) *cobra.Command {
	var out output
	cmd := &cobra.Command{
		Use:     "peers [NAME]",
		Aliases: []string{"peer", "tunnels"},
		Short:   "Tunnels, one line each; with a name, all about one",
		Args:    cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			ans, raw, err := fetch[gateway.Peers](cmd.Context(), newClient(a.socket), "/v1/peers", nil)
			if err != nil {
				return err
			}
			if len(args) == 0 {
				if out.json {
					return printJSON(a.stdout, raw)
				}
				return renderPeers(a.stdout, a.paint(), ans.Peers, a.now(), !out.noHeaders)
			}
			i := slices.IndexFunc(ans.Peers, func(p gateway.Peer) bool { return p.Peer == args[0] })
			if i < 0 {
				return unknown("peer", args[0], peerNames(ans.Peers))
			}
			if out.json {
				return printSome(a.stdout, raw, "peers", i)
			}
			return renderPeer(a.stdout, a.paint(), ans.Peers[i], a.now())
		},
		ValidArgsFunction: a.completePeers,
	}
	out.flags(cmd, true)
	return cmd
}

// unknown says which names there are.
func unknown(what, name string, names []string) error {
	if len(names) == 0 {
		return fmt.Errorf("no %s %q: there are none", what, name)
	}
	return fmt.Errorf("no %s %q; there are: %s", what, name, strings.Join(names, ", "))
}

func peerNames(ps []gateway.Peer) (names []string) {
	for _, p := range ps {
		names = append(names, p.Peer)
	}
	return names
}

// completePeers offers the running gateway's peers to the shell; without a daemon it offers nothing.
func (a *app) completePeers(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	if len(args) > 0 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	ans, _, err := fetch[gateway.Peers](cmd.Context(), newClient(a.socket), "/v1/peers", nil)
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	return peerNames(ans.Peers), cobra.ShellCompDirectiveNoFileComp
}

// renderPeers prints one line for each peer, in the order of their names.
func renderPeers(w io.Writer, p painter, peers []gateway.Peer, now time.Time, headers bool) error {
	t := newTable(left("PEER"), left("STATE"), right("HANDSHAKE"), left("ENDPOINT"), right("RX"), right("TX"), left("SESSION"), right("PFX"), left("REASON"))
	for _, pe := range slices.SortedFunc(slices.Values(peers), func(a, b gateway.Peer) int { return cmp.Compare(a.Peer, b.Peer) }) {
		sess, in, out := summarize(pe.Sessions)
		pfx := ""
		if len(pe.Sessions) > 0 {
			pfx = fmt.Sprintf("%d/%d", in, out)
		}
		endpoint := ""
		if pe.Endpoint.IsValid() {
			endpoint = pe.Endpoint.String()
		}
		reason := cell{}
		if pe.State != wg.TunnelUp {
			reason = text(pe.Reason)
		} else if why := sessionTrouble(pe.Sessions); why != "" {
			reason = text(why)
		}
		t.row(
			cell{pe.Peer, bold}, cell{string(pe.State), tunnelStyle(pe.State)}, text(since(now, pe.LastHandshake)), text(endpoint),
			text(shortBytes(pe.ReceiveBytes)), text(shortBytes(pe.TransmitBytes)), sess, text(pfx), reason,
		)
	}
	return t.write(w, p, headers)
}

func tunnelStyle(s wg.TunnelState) style {
	switch s {
	case wg.TunnelUp:
		return good
	case wg.TunnelDown:
		return bad
	}
	return warn
}

func sessionStyle(s *bgp.Session) style {
	switch {
	case s.AdminDown:
		return warn
	case s.State == bgp.Established:
		return good
	}
	return bad
}

// summarize puts a peer's sessions into one word, the worst first and a disabled one last, and adds up the prefixes accepted and advertised.
func summarize(sessions []bgp.Session) (c cell, in, out int) {
	for i := range sessions {
		s := &sessions[i]
		if i == 0 || c.text == adminDown || s.State != bgp.Established && !s.AdminDown {
			c = cell{stateWord(s), sessionStyle(s)}
		}
		for _, n := range []*bgp.Counts{s.IPv4, s.IPv6} {
			if n != nil {
				in, out = in+n.Accepted, out+n.Advertised
			}
		}
	}
	return c, in, out
}

// sessionTrouble is the first thing wrong with a peer's sessions.
func sessionTrouble(sessions []bgp.Session) string {
	for i := range sessions {
		if why := trouble(&sessions[i]); why != "" {
			return why
		}
	}
	return ""
}

// trouble is what is wrong with a session, in words; empty if nothing is.
func trouble(s *bgp.Session) string {
	switch {
	case s.AdminDown:
		return ""
	case s.State != bgp.Established && s.LastError != "":
		return s.LastError
	case len(s.Warnings) > 0:
		return strings.Join(s.Warnings, "; ")
	}
	return ""
}

// renderPeer prints all about a peer in blocks, as `wg show` does.
func renderPeer(w io.Writer, p painter, pe gateway.Peer, now time.Time) error {
	e := &errWriter{w: w}
	e.printf("%s %s\n", p.paint(good, "peer:"), p.paint(good, pe.Peer))
	line := func(key, format string, args ...any) {
		e.printf("  %s %s\n", p.paint(bold, key+":"), fmt.Sprintf(format, args...))
	}
	line("state", "%s, %s (since %s)", p.paint(tunnelStyle(pe.State), string(pe.State)), pe.Reason, ago(now, pe.Since))
	if pe.Site != "" && pe.Site != pe.Peer {
		line("site", "%s", pe.Site)
	}
	line("public key", "%s", pe.PublicKey)
	if pe.PSK {
		line("preshared key", "(hidden)")
	}
	line("device", "%s (%s, MTU %d)", pe.Device, pe.Backend, pe.MTU)
	if pe.Endpoint.IsValid() {
		line("endpoint", "%s", pe.Endpoint)
	} else {
		line("endpoint", "(none: waits for the peer to call)")
	}
	line("latest handshake", "%s", ago(now, pe.LastHandshake))
	line("transfer", "%s received, %s sent", bytesText(pe.ReceiveBytes), bytesText(pe.TransmitBytes))
	if pe.Resolutions+pe.ResolutionFailures > 0 {
		line("endpoint lookups", "%d, %d failed; endpoint changed %s", pe.Resolutions+pe.ResolutionFailures, pe.ResolutionFailures, plural(int(pe.EndpointChanges), "time"))
	}
	if pr := pe.Probe; pr != nil {
		line("echoes", "%s", probeText(pr))
		if pr.PathMTU > 0 {
			line("path MTU", "%d", pr.PathMTU)
		}
	}
	line("allowed ips", "%s (%s)", families(pe.AllowedIPs), pe.Mode)
	line("routes", "%s", families(pe.Routes))
	for i := range pe.Sessions {
		e.printf("\n")
		renderSessionBlock(e, p, &pe.Sessions[i], now)
	}
	return e.err
}

// probeText sums up the last echoes through a tunnel: "1 of the last 60 lost; RTT 20.1ms, 18.0ms to 45.0ms, mean 21.2ms".
func probeText(pr *gateway.Probe) string {
	if pr.Recent == 0 {
		return "none yet"
	}
	s := fmt.Sprintf("%d of the last %d lost", pr.RecentLost, pr.Recent)
	if pr.RecentLost < pr.Recent {
		s += fmt.Sprintf("; RTT %s, %s to %s, mean %s", took(pr.RTT), took(pr.RTTMin), took(pr.RTTMax), took(pr.RTTMean))
	}
	if pr.Error != "" {
		s += "; not sent: " + pr.Error
	}
	return s
}
