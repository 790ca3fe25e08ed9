package e2e

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"sitewire/bgp/bgptest"
)

// BenchmarkFlapStorm has one peer announce and withdraw 10,000 prefixes for a minute, as fast as the gateway takes them,
// while another one changes one prefix now and then. It reports how long those changes take until the kernel's table has
// them, what a scrape takes, and the memory.
func BenchmarkFlapStorm(b *testing.B) {
	const prefixes, duration, each = 10_000, time.Minute, 50 * time.Millisecond
	h := newHubWith(b, 2, "full")
	stormy, calm := h.spokes[0], h.spokes[1]
	pid := h.d.cmd.Process.Pid
	table := bgptest.NewTable(prefixes, stormy.asn, stormy.ll, 7)
	announce := slices.Concat(table.Updates...)
	var withdraw []byte
	for list := range slices.Chunk(table.Prefixes, 500) {
		withdraw = append(withdraw, bgptest.Withdrawal(list...)...)
	}
	settleLoad()
	fresh := netip.MustParsePrefix("223.99.0.0/24")
	h.prefixes = append(h.prefixes, fresh)
	there := func() bool {
		routes, err := h.ns.Netlink().RouteGet(fresh.Addr().Next().AsSlice())
		return err == nil && len(routes) > 0
	}
	for b.Loop() {
		end := time.Now().Add(duration)
		rounds := 0
		var storm sync.WaitGroup
		storm.Go(func() {
			for time.Now().Before(end) {
				if stormy.bgp.Send(announce) != nil || stormy.bgp.Send(withdraw) != nil {
					b.Error("the stormy session ended")
					return
				}
				rounds++
			}
		})
		var took, scrapes []time.Duration
		var half int // KiB, the most of the first half
		most, slowest := 0, time.Duration(0)
		for wanted := true; time.Now().Before(end); wanted = !wanted {
			begin := time.Now()
			if wanted {
				h.announce(len(h.prefixes)-1, 1, startLength)
			} else {
				must(b, calm.bgp.Withdraw(fresh))
			}
			for there() != wanted {
				if time.Since(begin) > 30*time.Second {
					b.Fatalf("a change of the calm peer takes more than 30 s")
				}
				time.Sleep(500 * time.Microsecond)
			}
			took = append(took, time.Since(begin))
			slowest = max(slowest, took[len(took)-1])
			if len(took)%20 == 0 {
				at := time.Now()
				if !strings.Contains(scrape(b, h.ns), "sitewire_") {
					b.Error("an empty scrape")
				}
				scrapes = append(scrapes, time.Since(at))
			}
			most = max(most, residentKiB(b, pid))
			if time.Until(end) > duration/2 {
				half = most
			}
			time.Sleep(each)
		}
		storm.Wait()
		slices.Sort(took)
		slices.Sort(scrapes)
		b.ReportMetric(float64(rounds*2*prefixes)/duration.Seconds(), "changes/s")
		b.ReportMetric(ms(took[len(took)/2]), "median-ms")
		b.ReportMetric(ms(took[len(took)*99/100]), "p99-ms")
		b.ReportMetric(ms(slowest), "max-ms")
		b.ReportMetric(ms(scrapes[len(scrapes)-1]), "scrape-max-ms")
		b.ReportMetric(float64(half)/1024, "MiB-first-half")
		b.ReportMetric(float64(most)/1024, "MiB")
	}
	b.ReportMetric(0, "ns/op")
	for _, s := range h.spokes {
		if x := h.d.session(s.name); x.Establishments != 1 {
			b.Error(fmt.Errorf("the session with %s was established %d times: %s", s.name, x.Establishments, x.LastError))
		}
	}
}
