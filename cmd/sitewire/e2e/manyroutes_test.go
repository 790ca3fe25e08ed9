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

// dn42Table is the table of dn42 as a peer announces it, in UPDATEs: IPv4 and IPv6 prefixes, six to a set of attributes.
// Paths are of different length from different peers, so that the best ones are spread over all of them.
func dn42Table(s *spoke, peer, ipv4, ipv6 int) []byte {
	var out []byte
	add := func(list []netip.Prefix, first int) {
		path := []uint32{s.asn}
		for range 1 + (first/6+peer)%4 {
			path = append(path, 4242420100+uint32(first))
		}
		out = append(out, bgptest.Update{Prefixes: list, NextHop: []netip.Addr{s.ll}, ASPath: append(path, 4242429000+uint32(first))}.Encode()...)
	}
	prefixes := func(n int, nth func(int) netip.Prefix) {
		for first := 0; first < n; first += 6 {
			var list []netip.Prefix
			for i := first; i < min(first+6, n); i++ {
				list = append(list, nth(i))
			}
			add(list, first)
		}
	}
	prefixes(ipv4, func(i int) netip.Prefix {
		return netip.PrefixFrom(netip.AddrFrom4([4]byte{172, 20, byte(i / 8), byte(i % 8 * 32)}), 27)
	})
	prefixes(ipv6, func(i int) netip.Prefix {
		a := [16]byte{0xfd, 0x42, 1, byte(i >> 8), byte(i)}
		return netip.PrefixFrom(netip.AddrFrom16(a), 48)
	})
	return out
}

// BenchmarkDN42Start is a gateway of dn42's size that learns everything at once: 1,400 IPv4 and 1,300 IPv6 prefixes from
// each of 40 peers on one device. It ends with the last route in the kernel and the last UPDATE to any peer. All peers run
// in the benchmark's process, on the same cores.
func BenchmarkDN42Start(b *testing.B) {
	const spokes, ipv4, ipv6 = 40, 1400, 1300
	h := newHubWith(b, spokes, "dn42")
	pid := h.d.cmd.Process.Pid
	tables := make([][]byte, spokes)
	for i, s := range h.spokes {
		tables[i] = dn42Table(s, i, ipv4, ipv6)
	}
	settleLoad()
	for b.Loop() {
		before, begin := cpuTime(b, pid), time.Now()
		var sent sync.WaitGroup
		for i, s := range h.spokes {
			sent.Go(func() {
				if err := s.bgp.Send(tables[i]); err != nil {
					b.Error(err)
				}
			})
		}
		const quiet, limit = 3 * time.Second, 2 * time.Minute
		routes, updates, last := 0, 0, begin
		for time.Since(last) < quiet || routes < ipv4+ipv6 {
			if time.Since(begin) > limit {
				b.Fatalf("%d of %d routes after %v", routes, ipv4+ipv6, limit)
			}
			n, u := len(h.kernel()), 0
			now := time.Now()
			for _, s := range h.spokes {
				got, _, _ := s.bgp.Stats()
				u += got
			}
			if n != routes || u != updates {
				routes, updates, last = n, u, now
			}
			time.Sleep(20 * time.Millisecond)
		}
		sent.Wait()
		b.ReportMetric(last.Sub(begin).Seconds(), "s-wall")
		b.ReportMetric((cpuTime(b, pid) - before).Seconds(), "s-cpu")
		b.ReportMetric(float64(statusKiB(b, pid, "VmHWM"))/1024, "MiB-peak")
	}
	time.Sleep(time.Minute) // what the start took is given back
	b.ReportMetric(float64(residentKiB(b, pid))/1024, "MiB-steady")
	b.ReportMetric(0, "ns/op")
	h.d.sessionsUp(spokes)
}

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
