package main

import (
	"cmp"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"sitewire/bgp"
	"sitewire/bgp/bfd"
	"sitewire/gateway"
)

func newBGP(a *app) *cobra.Command {
	var out output
	cmd := &cobra.Command{
		Use:   "bgp [NAME]",
		Short: "BGP sessions, one line each; with a name, all about one",
		Long: `Prefixes are counted as received/accepted/advertised: received before import policy, accepted after it.
A name is that of a session, or of a peer, which may have two ("nyc/ipv4" and "nyc/ipv6").`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			ans, raw, err := fetch[gateway.Sessions](cmd.Context(), newClient(a.socket), "/v1/bgp", nil)
			if err != nil {
				return err
			}
			if len(args) == 0 {
				if out.json {
					return printJSON(a.stdout, raw)
				}
				return renderSessions(a.stdout, a.paint(), ans, a.now(), !out.noHeaders)
			}
			var names []string
			var found []int
			for i, s := range ans.Sessions {
				names = append(names, s.Name)
				if s.Name == args[0] || s.Peer == args[0] {
					found = append(found, i)
				}
			}
			if len(found) == 0 {
				return unknown("session", args[0], names)
			}
			if out.json {
				return printSome(a.stdout, raw, "sessions", found...)
			}
			e := &errWriter{w: a.stdout}
			for n, i := range found {
				if n > 0 {
					e.printf("\n")
				}
				renderSessionBlock(e, a.paint(), &ans.Sessions[i], a.now())
			}
			return e.err
		},
		ValidArgsFunction: a.completePeers,
	}
	out.flags(cmd, true)
	return cmd
}

// renderSessions prints the summary that `show bgp summary` and `show protocols` print.
func renderSessions(w io.Writer, p painter, ans gateway.Sessions, now time.Time, headers bool) error {
	if headers {
		e := &errWriter{w: w}
		e.printf("AS%d, router ID %s: %s\n\n", ans.ASN, ans.RouterID, plural(len(ans.Sessions), "session"))
		if e.err != nil {
			return e.err
		}
	}
	t := newTable(left("NAME"), left("ADDRESS"), right("AS"), left("STATE"), right("SINCE"), right("IPV4"), right("IPV6"), left("INFO"))
	for _, s := range slices.SortedFunc(slices.Values(ans.Sessions), func(a, b bgp.Session) int { return cmp.Compare(a.Name, b.Name) }) {
		t.row(
			cell{s.Name, bold}, text(s.Address.String()), text(fmt.Sprint(s.ASN)), cell{stateWord(&s), sessionStyle(&s)}, text(since(now, s.Since)),
			text(counts(s.IPv4)), text(counts(s.IPv6)), text(trouble(&s)),
		)
	}
	return t.write(w, p, headers)
}

// adminDown is the state of a session whose configuration says enabled: false.
const adminDown = "admin down"

// stateWord is the state of the session, unless it is not to run.
func stateWord(s *bgp.Session) string {
	if s.AdminDown {
		return adminDown
	}
	return s.State.String()
}

// counts prints received/accepted/advertised; empty for a family that is not offered.
func counts(c *bgp.Counts) string {
	if c == nil {
		return ""
	}
	return fmt.Sprintf("%d/%d/%d", c.Received, c.Accepted, c.Advertised)
}

// renderSessionBlock prints all about a session.
func renderSessionBlock(e *errWriter, p painter, s *bgp.Session, now time.Time) {
	e.printf("%s %s\n", p.paint(good, "session:"), p.paint(good, s.Name))
	line := func(key, format string, args ...any) {
		e.printf("  %s %s\n", p.paint(bold, key+":"), fmt.Sprintf(format, args...))
	}
	line("state", "%s (since %s)", p.paint(sessionStyle(s), stateWord(s)), ago(now, s.Since))
	id := ""
	if s.RemoteRouterID.IsValid() {
		id = ", router ID " + s.RemoteRouterID.String()
	}
	line("neighbour", "%s, AS%d%s", s.Address, s.ASN, id)
	if s.Tunnel {
		line("tunnel", "%s", s.Peer)
	}
	if s.State == bgp.Established {
		enh := "no"
		if s.ExtendedNextHop {
			enh = "yes"
		}
		line("ipv4 over ipv6 next hops", "%s", enh)
	}
	for _, f := range []struct {
		name string
		c    *bgp.Counts
	}{{"ipv4", s.IPv4}, {"ipv6", s.IPv6}} {
		if f.c == nil {
			continue
		}
		more := ""
		if f.c.Limit > 0 {
			more += fmt.Sprintf(", limit %d", f.c.Limit)
		}
		if f.c.Stale > 0 {
			more += fmt.Sprintf(", %d stale", f.c.Stale)
		}
		if s.State == bgp.Established && !f.c.EOR {
			more += ", end of RIB awaited"
		}
		line(f.name, "%d received, %d accepted, %d advertised%s", f.c.Received, f.c.Accepted, f.c.Advertised, more)
		for _, why := range slices.Sorted(maps.Keys(f.c.Rejected)) {
			e.printf("    %s %d by %s\n", p.paint(warn, "rejected"), f.c.Rejected[why], why)
		}
	}
	renderWatch(e, p, s, line)
	line("established", "%s", plural(int(s.Establishments), "time"))
	if !s.LastDown.IsZero() {
		line("last down", "%s%s", ago(now, s.LastDown), prefixed(": ", s.LastError))
	} else if s.LastError != "" {
		line("last error", "%s", s.LastError)
	}
	for _, warning := range s.Warnings {
		line(p.paint(warn, "warning"), "%s", warning)
	}
}

// renderWatch prints what is known of the way to the neighbour, and of monitored prefixes.
func renderWatch(e *errWriter, p painter, s *bgp.Session, line func(key, format string, args ...any)) {
	if b := s.BFD; b != nil {
		style := bad
		if b.State == bfd.Up {
			style = good
		}
		more := fmt.Sprintf("asked for %s x %d", inSeconds(b.Interval), b.Multiplier)
		if b.DetectionTime > 0 {
			more = "detection time " + inSeconds(b.DetectionTime) + ", " + more
		}
		line("bfd", "%s, %s", p.paint(style, b.State.String()), more)
		for _, why := range slices.Sorted(maps.Keys(b.Downs)) {
			e.printf("    %s by %s\n", p.paint(warn, plural(int(b.Downs[why]), "down")), strings.ReplaceAll(why, "_", " "))
		}
	}
	if t := s.TCP; t != nil && s.State == bgp.Established {
		line("tcp", "round trip %s, %s", inSeconds(t.RTT), plural(int(t.Retransmits), "retransmission"))
	}
	words := map[bool]string{true: "yes", false: "no"}
	for _, m := range s.Monitored {
		line("monitored", "%s: received %s, advertised %s", m.Prefix, words[m.Received], words[m.Advertised])
	}
}

// inSeconds prints a number of seconds as people read times: 600ms, 12.5ms.
func inSeconds(s float64) string {
	return time.Duration(s * float64(time.Second)).Round(10 * time.Microsecond).String()
}

// prefixed puts a prefix before s, unless s is empty.
func prefixed(prefix, s string) string {
	if s == "" {
		return ""
	}
	return prefix + s
}
