package e2e

import (
	"fmt"
	"net/netip"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"sitewire/topologies/netns/nstest"
)

// BenchmarkConvergence measures, on a gateway of the size that dn42 asks for (40 peers, 3,000 routes), how long one
// change takes: by the daemon's own histogram, from the UPDATE that was read (for a withdrawal, which has no time of its
// own, from BGP's decision) to the acknowledgement of the allowed-IP and the kernel route; and as seen from outside, from
// the write at the far end of the tunnel to the kernel's notification of the route.
func BenchmarkConvergence(b *testing.B) {
	const spokes, routes = 40, 3000
	h := newHub(b, spokes)
	h.stable()
	h.mobile(routes - len(h.prefixes))
	h.settle("the table before the measurement")

	fresh := netip.MustParsePrefix("10.99.0.0/24")
	h.prefixes = append(h.prefixes, fresh) // for announce; nobody owns it
	events := h.watch(fresh)
	took := map[string][]time.Duration{}
	measure := func(operation string, event uint16, change func()) {
		before, begin := h.convergence(operation), time.Now()
		change()
		for seen := false; !seen; {
			select {
			case e := <-events:
				if seen = e.kind == event; seen {
					took[operation+"-seen"] = append(took[operation+"-seen"], e.at.Sub(begin))
				}
			case <-time.After(10 * time.Second):
				b.Fatalf("%s: no notification from the kernel", operation)
			}
		}
		nstest.Eventually(b, 10*time.Second, operation, func() error {
			switch after := h.convergence(operation); after.count {
			case before.count:
				return errNotYet
			case before.count + 1:
				took[operation] = append(took[operation], after.sum-before.sum)
				return nil
			default:
				return fmt.Errorf("%g changes where one was made", after.count-before.count)
			}
		})
	}
	for b.Loop() {
		measure("announce", unix.RTM_NEWROUTE, func() { h.announce(len(h.prefixes)-1, 0, startLength) })
		measure("withdraw", unix.RTM_DELROUTE, func() { must(b, h.spokes[0].bgp.Withdraw(fresh)) })
	}
	b.ReportMetric(0, "ns/op") // most of it is waiting for the next look
	for operation, all := range took {
		slices.Sort(all)
		b.ReportMetric(ms(all[len(all)/2]), operation+"-median-ms")
		b.ReportMetric(ms(all[len(all)*95/100]), operation+"-p95-ms")
	}
}

// routeEvent is a notification of the kernel: RTM_NEWROUTE or RTM_DELROUTE, and when it was read.
type routeEvent struct {
	kind uint16
	at   time.Time
}

// watch follows what the kernel says of one prefix in the hub's namespace.
func (h *hub) watch(p netip.Prefix) <-chan routeEvent {
	t := h.t
	t.Helper()
	updates, done := make(chan netlink.RouteUpdate, 1024), make(chan struct{})
	must(t, h.ns.Do(func() error { return netlink.RouteSubscribe(updates, done) }))
	t.Cleanup(func() { close(done) })
	out := make(chan routeEvent, 1024)
	go func() {
		for u := range updates {
			if u.Dst != nil && u.Dst.String() == p.String() {
				out <- routeEvent{u.Type, time.Now()}
			}
		}
	}()
	return out
}

func ms(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

// convergences are how many IPv4 routes changed in one way, and how long that took in all.
type convergences struct {
	count float64
	sum   time.Duration
}

// convergence reads the daemon's histogram.
func (h *hub) convergence(operation string) (c convergences) {
	h.t.Helper()
	const name = "sitewire_route_convergence_duration_seconds"
	for line := range strings.Lines(scrape(h.t, h.ns)) {
		series, text, _ := strings.Cut(strings.TrimSpace(line), " ")
		if !strings.Contains(series, fmt.Sprintf("operation=%q", operation)) || !strings.Contains(series, `family="ipv4"`) {
			continue
		}
		v, err := strconv.ParseFloat(text, 64)
		must(h.t, err)
		switch {
		case strings.HasPrefix(series, name+"_count{"):
			c.count = v
		case strings.HasPrefix(series, name+"_sum{"):
			c.sum = time.Duration(v * float64(time.Second))
		}
	}
	return c
}

// BenchmarkIdle100Peers measures what a gateway costs that has nothing to do: 100 peers on one shared device, each with
// its tunnel and its BGP session up. The share of one core is over two minutes, in which each tunnel has a new handshake
// and Go collects garbage at least once; the memory is the most that was seen.
func BenchmarkIdle100Peers(b *testing.B) {
	const spokes, window, samples = 100, 2 * time.Minute, 24
	h := newHub(b, spokes)
	h.stable()
	h.settle("the table before the measurement")
	time.Sleep(time.Minute) // the timers that follow a start have run out

	pid := h.d.cmd.Process.Pid
	for b.Loop() {
		before, begin := cpuTime(b, pid), time.Now()
		most := 0
		for range samples {
			time.Sleep(window / samples)
			most = max(most, residentKiB(b, pid))
		}
		share := (cpuTime(b, pid) - before).Seconds() / time.Since(begin).Seconds()
		b.ReportMetric(100*share, "%core")
		b.ReportMetric(float64(most)/1024, "MiB-RSS")
	}
	b.ReportMetric(0, "ns/op")
	h.d.sessionsUp(spokes)
}

// userHZ is the unit of the times in /proc/PID/stat on every architecture that Go runs Linux on, in ticks per second.
const userHZ = 100

// cpuTime is the time that a process has used in user and kernel mode (fields 14 and 15 of proc(5)'s stat).
func cpuTime(t testing.TB, pid int) time.Duration {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	must(t, err)
	// The second field is the name in parentheses, which may contain anything.
	fields := strings.Fields(string(b[strings.LastIndexByte(string(b), ')')+1:]))
	var ticks int
	for _, f := range fields[11:13] {
		n, err := strconv.Atoi(f)
		must(t, err)
		ticks += n
	}
	return time.Duration(ticks) * time.Second / userHZ
}

// residentKiB is the resident memory of a process.
func residentKiB(t testing.TB, pid int) int {
	t.Helper()
	return statusKiB(t, pid, "VmRSS")
}

// statusKiB is one of the sizes in /proc/PID/status: VmRSS what is resident, VmHWM the most that ever was.
func statusKiB(t testing.TB, pid int, what string) int {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	must(t, err)
	for line := range strings.Lines(string(b)) {
		if f := strings.Fields(line); len(f) == 3 && f[0] == what+":" {
			n, err := strconv.Atoi(f[1])
			must(t, err)
			return n
		}
	}
	t.Fatalf("no %s on %s", what, runtime.GOOS)
	return 0
}
