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

// flowed is a line of `lab flow`.
type flowed struct {
	Address  netip.Addr `json:"address"`
	Sent     int        `json:"sent"`
	Received int        `json:"received"`
	// Outages are the runs of lost packets, in order.
	Outages []outage `json:"outages"`
}

// outage is a run of packets that were not answered.
type outage struct {
	// Before is how many packets had been sent.
	Before int `json:"before"`
	Lost   int `json:"lost"`
	// Seconds from the first lost packet to the next that was answered, or to the end.
	Seconds float64 `json:"seconds"`
	// Over tells whether another packet was answered since.
	Over bool `json:"over"`
}

// Figures of `lab flow`, which decide when --recovered ends it.
const (
	// onItsWay is how young a packet may be and still be answered.
	onItsWay = 500 * time.Millisecond
	// shortest is what counts as an outage: a lost packet or two are none.
	shortest = 100 * time.Millisecond
)

func newLabFlow(a *app) *cobra.Command {
	var o output
	var interval, length, recovered time.Duration
	cmd := &cobra.Command{
		Use:   "flow ADDRESS...",
		Short: "Send a steady flow of pings and tell which were lost, and for how long",
		Long: `Sends ICMP echo requests to all addresses at a steady pace and lists the runs of lost ones: how long a failover takes, as a host sees it.
It needs CAP_NET_RAW, which every node of a lab has.

  sitewire lab exec triangle fra-host -- sitewire lab flow 10.2.0.10 --for 20s`,
		Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			to, err := addressesOf(args)
			if err != nil {
				return err
			}
			f, err := netns.StartFlow(netns.Here(), to, netns.FlowOpts{Interval: interval})
			if err != nil {
				return err
			}
			end := time.NewTimer(length)
			defer end.Stop()
			look := time.NewTicker(100 * time.Millisecond)
			defer look.Stop()
		wait:
			for {
				select {
				case <-end.C:
					break wait
				case <-cmd.Context().Done():
					break wait
				case <-look.C:
					if recovered > 0 && allRecovered(f.Reports(), time.Now().Add(-recovered)) {
						break wait
					}
				}
			}
			rows := []flowed{}
			for _, r := range f.Stop(onItsWay) {
				row := flowed{Address: r.Dst, Sent: r.Sent, Received: r.Received, Outages: []outage{}}
				for _, g := range r.Gaps {
					row.Outages = append(row.Outages, outage{
						Before: g.First, Lost: g.Count, Seconds: (g.Span + interval).Seconds(), Over: g.First+g.Count < r.Sent,
					})
				}
				rows = append(rows, row)
			}
			if o.json {
				return json.NewEncoder(a.stdout).Encode(rows)
			}
			t := newTable(left("ADDRESS"), right("SENT"), right("RECEIVED"), right("OUTAGES"), right("LONGEST"))
			for _, r := range rows {
				longest := 0.0
				for _, x := range r.Outages {
					longest = max(longest, x.Seconds)
				}
				t.row(text(r.Address.String()), text(strconv.Itoa(r.Sent)), text(strconv.Itoa(r.Received)), text(strconv.Itoa(len(r.Outages))),
					text(fmt.Sprintf("%.2f s", longest)))
			}
			return t.write(a.stdout, a.paint(), !o.noHeaders)
		},
	}
	o.flags(cmd, true)
	cmd.Flags().DurationVar(&interval, "interval", 10*time.Millisecond, "time between two requests to one address")
	cmd.Flags().DurationVar(&length, "for", 10*time.Second, "how long to send")
	cmd.Flags().DurationVar(&recovered, "recovered", 0, "end early, once every address had an outage and has answered for that long since")
	return cmd
}

// allRecovered tells whether every destination had an outage, and has answered every packet since a moment, but for those on their way.
func allRecovered(reports []netns.Report, since time.Time) bool {
	for _, r := range reports {
		had := false
		for _, g := range r.Gaps {
			last := g.At.Add(g.Span)
			if last.After(since) && time.Since(g.At) > onItsWay {
				return false
			}
			had = had || g.Span >= shortest && last.Before(since)
		}
		if !had {
			return false
		}
	}
	return true
}
