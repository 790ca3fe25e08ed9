package main

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"sitewire/topologies/netns"
)

// pinged is a line of `lab ping`.
type pinged struct {
	Address  netip.Addr `json:"address"`
	Sent     int        `json:"sent"`
	Received int        `json:"received"`
	// RTT is the longest round trip, in seconds.
	RTT   float64 `json:"rtt_seconds"`
	Error string  `json:"error,omitempty"`
}

func newLabPing(a *app) *cobra.Command {
	var o output
	var count int
	var timeout time.Duration
	cmd := &cobra.Command{
		Use:   "ping ADDRESS...",
		Short: "Ping many addresses at once, from where it is run",
		Long: `Sends ICMP echo requests to all addresses at once and says who answered: for nodes of a lab, whose images need no ping then.
It needs CAP_NET_RAW, which every node of a lab has.`,
		Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			to, err := addressesOf(args)
			if err != nil {
				return err
			}
			const interval = 100 * time.Millisecond
			f, err := netns.StartFlow(netns.Here(), to, netns.FlowOpts{Interval: interval, Count: count})
			if err != nil {
				return err
			}
			select {
			case <-f.Complete():
			case <-time.After(time.Duration(count-1)*interval + timeout):
			case <-cmd.Context().Done():
			}
			rows := []pinged{}
			for _, r := range f.Stop(0) {
				row := pinged{Address: r.Dst, Sent: r.Sent, Received: r.Received, RTT: r.MaxRTT.Seconds()}
				if r.Err != nil {
					row.Error = r.Err.Error()
				}
				rows = append(rows, row)
			}
			if o.json {
				return json.NewEncoder(a.stdout).Encode(rows)
			}
			t := newTable(left("ADDRESS"), right("SENT"), right("RECEIVED"), right("RTT"), left("ERROR"))
			for _, r := range rows {
				rtt := ""
				if r.Received > 0 {
					rtt = fmt.Sprintf("%.1f ms", r.RTT*1000)
				}
				t.row(text(r.Address.String()), text(strconv.Itoa(r.Sent)), text(strconv.Itoa(r.Received)), text(rtt), text(r.Error))
			}
			return t.write(a.stdout, a.paint(), !o.noHeaders)
		},
	}
	o.flags(cmd, true)
	cmd.Flags().IntVar(&count, "count", 1, "requests to each address")
	cmd.Flags().DurationVar(&timeout, "timeout", time.Second, "how long to wait for the last answers")
	return cmd
}

// addressesOf reads the arguments of `lab ping` and `lab flow`.
func addressesOf(args []string) ([]netip.Addr, error) {
	var to []netip.Addr
	for _, s := range args {
		a, err := netip.ParseAddr(s)
		if err != nil {
			return nil, withCode(exitUsage, err)
		}
		to = append(to, a)
	}
	return to, nil
}
