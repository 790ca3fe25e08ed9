package main

import (
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"sitewire/bgp/policy"
	"sitewire/bgp/rpki"
	"sitewire/gateway"
)

func newRPKI(a *app) *cobra.Command {
	var out output
	cmd := &cobra.Command{
		Use:   "rpki",
		Short: "Sources of validated ROA payloads, one line each",
		Long: `Lists the caches and files that say who may originate which prefixes, the tables that they fill and how fresh they are.
What they lead to at a route is part of ` + "`sitewire explain ADDRESS`" + `.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			ans, raw, err := fetch[gateway.RPKI](cmd.Context(), newClient(a.socket), "/v1/rpki", nil)
			switch {
			case err != nil:
				return err
			case out.json:
				return printJSON(a.stdout, raw)
			case len(ans.Sources) == 0:
				fmt.Fprintln(a.stderr, "no sources: the configuration has none under `rpki`")
				return nil
			}
			return renderRPKI(a.stdout, a.paint(), ans, a.now(), !out.noHeaders)
		},
		ValidArgsFunction: cobra.NoFileCompletions,
	}
	out.flags(cmd, true)
	return cmd
}

func renderRPKI(w io.Writer, p painter, ans gateway.RPKI, now time.Time, headers bool) error {
	t := newTable(left("NAME"), left("TABLE"), left("SOURCE"), left("STATE"), right("SINCE"), right("SERIAL"), right("IPV4"), right("IPV6"), right("UPDATED"), left("INFO"))
	for _, s := range ans.Sources {
		state, how, serial := "up", good, ""
		switch {
		case s.Expired:
			state, how = "expired", bad
		case !s.Up:
			state, how = "down", bad
		}
		if s.Kind == "server" {
			serial = strconv.FormatUint(uint64(s.Serial), 10)
		}
		t.row(
			cell{s.Name, bold}, text(s.Table), text(s.Target), cell{state, how}, text(since(now, s.Since)), text(serial),
			text(strconv.Itoa(s.IPv4)), text(strconv.Itoa(s.IPv6)), text(since(now, s.Updated)), text(rpkiInfo(&s)),
		)
	}
	return t.write(w, p, headers)
}

func rpkiInfo(s *rpki.Status) string {
	var parts []string
	if s.Skipped > 0 {
		parts = append(parts, plural(s.Skipped, "bad row")+" skipped")
	}
	if s.LastError != "" {
		parts = append(parts, s.LastError)
	}
	return strings.Join(parts, "; ")
}

// renderOrigin prints the validity of a path's origin and what it rests on.
func renderOrigin(e *errWriter, p painter, o gateway.OriginInfo) {
	how := faint
	switch o.Validity {
	case policy.Valid:
		how = good
	case policy.Invalid:
		how = warn
	}
	table := ""
	if o.Table != policy.DefaultTable {
		table = " in table " + o.Table
	}
	e.printf("              origin %s%s%s\n", p.paint(how, o.Validity.String()), table, prefixed(": ", strings.Join(o.Payloads, ", ")))
}
