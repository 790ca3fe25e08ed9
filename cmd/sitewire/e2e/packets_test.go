package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"sitewire/topologies/netns"
	"sitewire/topologies/netns/nstest"
	"sitewire/topologies/netns/peers"
)

// planesEnv names the data planes to measure, separated by commas; all without it.
const planesEnv = "SITEWIRE_BENCH_PLANES"

const (
	// dataPlaneSpan is how long each measurement takes.
	dataPlaneSpan = time.Second
	// steadyPackets a second are offered in the measurement of losses.
	steadyPackets = 100_000
	// What changes a second in the last two rows, at the end that sends.
	allowedPerSecond, routesPerSecond = 10_000, 1_000
)

// BenchmarkDataPlanes sends TCP and small UDP datagrams from one namespace to another: without a tunnel, through two
// daemons of ours, and through wireguard-go (the module that we embed, as it comes), OpenVPN and Nebula; then through ours
// again while allowed-IPs and while kernel routes change. One after the other, each round anew; it prints medians and
// ratios to wireguard-go. Every data plane, generator and sink is a process of its own. -benchtime 5x is five rounds.
func BenchmarkDataPlanes(b *testing.B) {
	nstest.Need(b, nstest.TUN, nstest.Program("iperf3"))
	var planes []dataPlane
	for _, p := range dataPlanes(b) {
		if some := os.Getenv(planesEnv); some != "" && !slices.Contains(strings.Split(some, ","), p.name) {
			continue
		}
		able := false
		b.Run("need "+p.name, func(b *testing.B) { nstest.Need(b, p.needs...); able = true })
		if able {
			planes = append(planes, p)
		}
	}
	ends := newEnds(b)
	server, err := peers.Start(b.Context(), ends[1].ns, peers.Spec{Name: "iperf3", Program: "iperf3", Args: []string{"-s", "--forceflush", "-i", "0"},
		Ready: func(context.Context) error {
			log, err := os.ReadFile(filepath.Join(peers.Dir(ends[1].ns, "iperf3"), "log"))
			if err == nil && !bytes.Contains(log, []byte("listening")) {
				err = errNotYet
			}
			return err
		}})
	must(b, err)
	server.Watch(b)

	var rows []*haul
	row := func(name string) *haul {
		i := slices.IndexFunc(rows, func(c *haul) bool { return c.name == name })
		if i < 0 {
			i, rows = len(rows), append(rows, &haul{name: name})
		}
		return rows[i]
	}
	for b.Loop() {
		for _, p := range planes {
			r := p.start(b, ends)
			nstest.Eventually(b, 30*time.Second, "packets through "+p.name, func() error {
				_, got, err := netns.Ping(b.Context(), ends[0].ns, ends[0].host4, ends[1].host4, netns.PingOpts{Timeout: 100 * time.Millisecond})
				if err == nil && got == 0 {
					err = errNotYet
				}
				return err
			})
			row(p.name).measure(b, ends, r)
			if p.name == "sitewire" {
				for _, c := range []struct {
					name   string
					change func(testing.TB, [2]*site, running) func() int
				}{{"+ 10,000 allowed-IPs/s", changeAllowed}, {"+ 1,000 routes/s", changeRoutes}} {
					begin, stop := time.Now(), c.change(b, ends, r)
					row(c.name).measure(b, ends, r)
					n := stop()
					row(c.name).changes = append(row(c.name).changes, float64(n)/time.Since(begin).Seconds())
				}
			}
			r.stop()
		}
	}
	base := row("wireguard-go")
	b.Logf("medians of %d\n%s", b.N, haulTable(rows, base))
	for _, r := range rows {
		if len(r.changes) == 0 {
			beside.add("TCP, one stream, Gbit/s", r.name, r.of(tcpOne))
			beside.add("TCP, CPU for a Gbit, s", r.name, r.of(cpuOne))
			beside.add("64-byte datagrams received, /s", r.name, r.of(flood))
			beside.add("loss at 100,000/s, %", r.name, r.of(loss))
		}
	}
	ours := row("sitewire")
	b.ReportMetric(0, "ns/op")
	b.ReportMetric(ours.of(tcpOne)/base.of(tcpOne), "tcp-ratio")
	b.ReportMetric(ours.of(cpuOne)/base.of(cpuOne), "cpu-ratio")
	b.ReportMetric(ours.of(flood)/base.of(flood), "flood-ratio")
	b.ReportMetric(ours.of(loss), "loss-%")
}

// The columns of the table.
const (
	tcpOne  = iota // Gbit/s of one stream
	cpuOne         // seconds of both tunnel ends for each Gbit of it
	tcpFour        // the same with four streams
	cpuFour
	flood    // datagrams/s that arrived of as many as could be sent
	cpuFlood // microseconds of both tunnel ends for each that arrived
	loss     // percent of steadyPackets a second
	cpuLoss  // share of one processor that both ends took meanwhile, in percent
	columns
)

// haul is what one data plane carried, in each round.
type haul struct {
	name    string
	values  [columns][]float64
	changes []float64 // of allowed-IPs or routes, per second
}

func (c *haul) of(column int) float64 { return middle(c.values[column]) }

func middle(v []float64) float64 {
	if len(v) == 0 {
		return 0
	}
	v = slices.Sorted(slices.Values(v))
	return (v[(len(v)-1)/2] + v[len(v)/2]) / 2
}

func (c *haul) measure(b testing.TB, ends [2]*site, r running) {
	cpu := func(f func()) time.Duration {
		all := func() (sum time.Duration) {
			for _, pid := range r.pids {
				sum += cpuTime(b, pid)
			}
			return sum
		}
		before := all()
		f()
		return all() - before
	}
	add := func(column int, v float64) { c.values[column] = append(c.values[column], v) }
	for _, s := range []struct{ streams, rate, cost int }{{1, tcpOne, cpuOne}, {4, tcpFour, cpuFour}} {
		var bits, rate float64
		used := cpu(func() { bits, rate = tcpLoad(b, ends, s.streams, dataPlaneSpan) })
		add(s.rate, rate/1e9)
		add(s.cost, used.Seconds()/(bits/1e9))
	}
	var sent, got udpCount
	used := cpu(func() { _, got = udpLoad(b, ends, 0, dataPlaneSpan) })
	add(flood, float64(got.Packets)/got.Span.Seconds())
	add(cpuFlood, float64(used.Microseconds())/float64(got.Packets))
	used = cpu(func() { sent, got = udpLoad(b, ends, steadyPackets, dataPlaneSpan) })
	add(loss, 100*(1-float64(got.Packets)/float64(sent.Packets)))
	add(cpuLoss, 100*used.Seconds()/sent.Span.Seconds())
}

// tcpLoad returns how much arrived of streams of TCP, and the rate, in bits.
func tcpLoad(t testing.TB, ends [2]*site, streams int, span time.Duration) (bits, rate float64) {
	t.Helper()
	out := nstest.Run(t, ends[0].ns, "iperf3", "-c", ends[1].host4.String(), "-B", ends[0].host4.String(), "-P", fmt.Sprint(streams), "-t", fmt.Sprintf("%.0f", span.Seconds()), "-J")
	var report struct {
		End struct {
			Received struct {
				Bytes float64 `json:"bytes"`
				Rate  float64 `json:"bits_per_second"`
			} `json:"sum_received"`
		} `json:"end"`
	}
	must(t, json.Unmarshal([]byte(out), &report))
	if report.End.Received.Bytes == 0 {
		t.Fatalf("iperf3 reports nothing received:\n%s", out)
	}
	return report.End.Received.Bytes * 8, report.End.Received.Rate
}

// haulTable prints the comparison. Ratios are to base.
func haulTable(rows []*haul, base *haul) string {
	var s strings.Builder
	fmt.Fprintf(&s, "%-24s %8s %5s %7s %5s %8s %5s %7s %5s %9s %5s %7s %5s %7s %6s %9s\n", "", "TCP Gb/s", "ratio", "s/Gbit", "ratio",
		"4x Gb/s", "ratio", "s/Gbit", "ratio", "flood/s", "ratio", "us each", "ratio", "loss %", "% CPU", "changes/s")
	for _, r := range rows {
		fmt.Fprintf(&s, "%-24s", r.name)
		for _, c := range []struct {
			column int
			form   string
		}{{tcpOne, " %8.2f"}, {cpuOne, " %7.3f"}, {tcpFour, " %8.2f"}, {cpuFour, " %7.3f"}, {flood, " %9.0f"}, {cpuFlood, " %7.1f"}} {
			fmt.Fprintf(&s, c.form+" %5.2f", r.of(c.column), r.of(c.column)/base.of(c.column))
		}
		fmt.Fprintf(&s, " %7.2f %6.0f", r.of(loss), r.of(cpuLoss))
		if len(r.changes) > 0 {
			fmt.Fprintf(&s, " %9.0f", middle(r.changes))
		}
		s.WriteByte('\n')
	}
	return s.String()
}

// changer calls change each hundredth of a second, with the number of the call, until stop; it returns the changes made.
func changer(t testing.TB, each int, change func(round int) error) (stop func() int) {
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	made := 0
	go func() {
		tick := time.NewTicker(10 * time.Millisecond)
		defer tick.Stop()
		for round := 0; ; round++ {
			select {
			case <-ctx.Done():
				done <- nil
				return
			case <-tick.C:
			}
			if err := change(round); err != nil {
				done <- err
				return
			}
			made += each
		}
	}()
	return func() int {
		cancel()
		must(t, <-done)
		return made
	}
}

// changeAllowed adds and removes allowed-IPs of a peer through the UAPI socket, as `wg set` would.
func changeAllowed(t testing.TB, ends [2]*site, r running) func() int {
	const each = allowedPerSecond / 100
	conn, err := net.Dial("unix", filepath.Join(ends[0].ns.RunDir(), "wireguard", r.device+".sock"))
	must(t, err)
	buf := make([]byte, 256)
	stop := changer(t, each, func(round int) error {
		var text strings.Builder
		fmt.Fprintf(&text, "set=1\npublic_key=%s\nupdate_only=true\n", ends[1].pub().Hex())
		for i := range each {
			sign := [2]string{"", "-"}[round%2]
			fmt.Fprintf(&text, "allowed_ip=%s10.%d.%d.0/24\n", sign, 100+round/2%100, i)
		}
		if _, err := fmt.Fprintf(conn, "%s\n", text.String()); err != nil {
			return err
		}
		n, err := conn.Read(buf)
		if answer := string(buf[:n]); err == nil && strings.TrimSpace(answer) != "errno=0" {
			err = fmt.Errorf("change of allowed-IPs: %q", answer)
		}
		return err
	})
	return func() int { defer conn.Close(); return stop() }
}

// changeRoutes adds and removes kernel routes of the underlay.
func changeRoutes(t testing.TB, ends [2]*site, _ running) func() int {
	const each = routesPerSecond / 100
	ns, via := ends[0].ns, ends[1].out4
	return changer(t, each, func(round int) error {
		var errs []error
		for i := range each {
			p := netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(100 + round/2%100), byte(i), 0}), 24)
			if round%2 == 0 {
				errs = append(errs, ns.Route(p, via, "eth0"))
			} else {
				errs = append(errs, ns.DelRoute(p, via, "eth0"))
			}
		}
		return errors.Join(errs...)
	})
}
