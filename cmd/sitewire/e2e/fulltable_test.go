package e2e

import (
	"bytes"
	"context"
	"fmt"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"sitewire/bgp/bgptest"
	"sitewire/gateway/config"
	"sitewire/topologies/netns"
	"sitewire/topologies/netns/nstest"
	"sitewire/topologies/netns/peers"
)

// prefixesEnv is how many prefixes the full table has; 100,000 without it.
const prefixesEnv = "SITEWIRE_BENCH_PREFIXES"

// fullTableLimit is how long the slowest may take for a table.
const fullTableLimit = 5 * time.Minute

// load is what taking in a table took.
type load struct {
	who    string
	wall   time.Duration // first UPDATE written → last route in the kernel, or last best path
	cpu    time.Duration // of all its processes
	peak   int           // KiB resident
	prefix int
}

// numberFrom is the number in an environment variable, or another one without it.
func numberFrom(b *testing.B, env string, otherwise int) int {
	b.Helper()
	text := os.Getenv(env)
	if text == "" {
		return otherwise
	}
	n, err := strconv.Atoi(text)
	must(b, err)
	return n
}

// BenchmarkFullTable sends one table of IPv4 routes, in the proportions of the Internet's, to one gateway after the
// other and prints one table: ours, over a tunnel, with allowed-IPs and kernel routes; an embedded GoBGP that watches
// best paths and does nothing else; the libraries of a gateway joined in the shortest way; BIRD and FRR, over a cable, with kernel routes.
func BenchmarkFullTable(b *testing.B) {
	n := numberFrom(b, prefixesEnv, 100_000)
	for b.Loop() {
		var list []load
		for _, one := range []struct {
			name string
			run  func(testing.TB, int) load
		}{{"sitewire", loadOurs}, {"gobgp", loadGoBGP}, {"parts", loadParts}, {"bird", loadBIRD}, {"frr", loadFRR}} {
			b.Run(one.name, func(b *testing.B) {
				l := one.run(b, n)
				l.who, l.prefix = one.name, n
				b.ReportMetric(l.wall.Seconds(), "s-wall")
				b.ReportMetric(l.cpu.Seconds(), "s-cpu")
				b.ReportMetric(float64(l.peak)/1024, "MiB-peak")
				table := fmt.Sprintf("%d prefixes ", n)
				beside.add(table+"until in the kernel, s", one.name, l.wall.Seconds())
				beside.add(table+"CPU, s", one.name, l.cpu.Seconds())
				beside.add(table+"peak, MiB", one.name, float64(l.peak)/1024)
				list = append(list, l)
			})
		}
		b.Logf("%d prefixes\n%s", n, loads(list))
	}
	b.ReportMetric(0, "ns/op")
}

// loads prints the comparison, with ratios to GoBGP alone.
func loads(list []load) string {
	var base load
	for _, l := range list {
		if l.who == "gobgp" {
			base = l
		}
	}
	var s strings.Builder
	fmt.Fprintf(&s, "%-10s %8s %7s %8s %7s %9s %7s %14s\n", "", "wall s", "ratio", "CPU s", "ratio", "peak MiB", "ratio", "bytes/route +")
	for _, l := range list {
		fmt.Fprintf(&s, "%-10s %8.2f %7.2f %8.2f %7.2f %9.0f %7.2f %14d\n", l.who,
			l.wall.Seconds(), l.wall.Seconds()/base.wall.Seconds(), l.cpu.Seconds(), l.cpu.Seconds()/base.cpu.Seconds(),
			float64(l.peak)/1024, float64(l.peak)/float64(base.peak), (l.peak-base.peak)*1024/l.prefix)
	}
	return s.String()
}

// loadOurs is ours, over a tunnel. The session runs over IPv4, as those of the others: with next hops of IPv6 the UPDATEs
// would be others, and dearer ones.
func loadOurs(b testing.TB, n int) load {
	h := newHubOn(b, newLab(b), 1, hubOptions{policy: "full", backend: config.BackendUserspace, ipv4: true})
	s := h.spokes[0]
	table := bgptest.NewTable(n, s.asn, s.inside4, 7)
	return measure(b, h.ns, n, table, s.bgp, h.d.cmd.Process.Pid)
}

// cabled is a gateway and a neighbour of it, joined by a cable.
type cabled struct{ gateway, neighbour *netns.NS }

const (
	cabledASN, neighbourASN = 65001, 65002
	cabledAddr              = "192.0.2.1"
	neighbourAddr           = "192.0.2.2"
)

func newCabled(b testing.TB) *cabled {
	c := &cabled{nstest.NS(b, "gateway"), nstest.NS(b, "neighbour")}
	net := func(a string) []netip.Prefix { return []netip.Prefix{netip.PrefixFrom(netip.MustParseAddr(a), 24)} }
	must(b, netns.Link(c.gateway, "eth0", c.neighbour, "eth0", netns.LinkOpts{AddrsA: net(cabledAddr), AddrsB: net(neighbourAddr)}))
	return c
}

// dial opens the neighbour's session.
func (c *cabled) dial(b testing.TB) *bgptest.Peer {
	ctx, cancel := context.WithTimeout(b.Context(), time.Minute)
	defer cancel()
	var p *bgptest.Peer
	must(b, c.neighbour.Do(func() (err error) {
		p, err = bgptest.Dial(ctx, bgptest.Options{
			Local: netip.MustParseAddr(neighbourAddr), Remote: netip.AddrPortFrom(netip.MustParseAddr(cabledAddr), 179), ASN: neighbourASN, IPv4: true,
		})
		return err
	}))
	b.Cleanup(p.Close)
	return p
}

func (c *cabled) table(n int) *bgptest.Table {
	return bgptest.NewTable(n, neighbourASN, netip.MustParseAddr(neighbourAddr), 7)
}

// loadGoBGP is an embedded GoBGP alone.
func loadGoBGP(b testing.TB, n int) load {
	c := newCabled(b)
	pid, lines := startBeside(b, c.gateway, "plain", strconv.Itoa(cabledASN), cabledAddr, neighbourAddr, strconv.Itoa(neighbourASN), strconv.Itoa(n))
	p := c.dial(b)
	table := c.table(n)
	settleLoad()
	begin := time.Now()
	must(b, table.Send(p))
	if !lines.Scan() {
		b.Fatal("GoBGP ended")
	}
	at, err := strconv.ParseInt(lines.Text(), 10, 64)
	must(b, err)
	return load{wall: time.Unix(0, at).Sub(begin)}.of(b, pid)
}

// loadParts is what no gateway of these parts can leave out: GoBGP with all events, allowed-IPs of wireguard-go, and kernel
// routes, over a cable.
func loadParts(b testing.TB, n int) load {
	c := newCabled(b)
	pid, _ := startBeside(b, c.gateway, "parts", strconv.Itoa(cabledASN), cabledAddr, neighbourAddr, strconv.Itoa(neighbourASN), "eth0")
	p := c.dial(b)
	return measure(b, c.gateway, n, c.table(n), p, pid)
}

func loadBIRD(b testing.TB, n int) load {
	nstest.Need(b, nstest.Program("bird"), nstest.Program("birdc"))
	c := newCabled(b)
	d, err := peers.StartBIRD(b.Context(), c.gateway, "bird", fmt.Sprintf(`router id %s;
protocol device {}
protocol kernel { ipv4 { export where source = RTS_BGP; }; }
protocol bgp { local as %d; neighbor %s as %d; passive; ipv4 { import all; export none; }; }
`, cabledAddr, cabledASN, neighbourAddr, neighbourASN))
	must(b, err)
	d.Watch(b)
	p := c.dial(b)
	return measure(b, c.gateway, n, c.table(n), p, d.Pid())
}

func loadFRR(b testing.TB, n int) load {
	nstest.Need(b, nstest.Program("bgpd"), nstest.Program("zebra"), nstest.Program("vtysh"))
	c := newCabled(b)
	d, err := peers.StartFRR(b.Context(), c.gateway, "frr", fmt.Sprintf(`router bgp %d
 bgp router-id %s
 no bgp ebgp-requires-policy
 neighbor %s remote-as %d
 neighbor %[3]s passive
`, cabledASN, cabledAddr, neighbourAddr, neighbourASN))
	must(b, err)
	d.Watch(b)
	p := c.dial(b)
	return measure(b, c.gateway, n, c.table(n), p, d.Daemon("zebra").Pid(), d.Daemon("bgpd").Pid())
}

// settleLoad lets what the start of everything did run out.
func settleLoad() { time.Sleep(3 * time.Second) }

// measure sends the table and waits until n routes more are in the kernel's main table.
func measure(b testing.TB, ns *netns.NS, n int, table *bgptest.Table, p *bgptest.Peer, pids ...int) load {
	b.Helper()
	settleLoad()
	before := kernelPrefixes(b, ns)
	var start load
	for _, pid := range pids {
		start.cpu += cpuTime(b, pid)
	}
	begin := time.Now()
	must(b, table.Send(p))
	for {
		look := time.Now()
		have := kernelPrefixes(b, ns) - before
		now := time.Now()
		if have >= n {
			l := load{wall: now.Sub(begin)}.of(b, pids...)
			l.cpu -= start.cpu
			return l
		}
		if now.Sub(begin) > fullTableLimit {
			b.Fatalf("%d of %d routes in the kernel after %v", have, n, fullTableLimit)
		}
		time.Sleep(max(10*time.Millisecond, 10*now.Sub(look))) // counting walks the table
	}
}

// of adds what the processes took, a moment after the end.
func (l load) of(b testing.TB, pids ...int) load {
	b.Helper()
	time.Sleep(time.Second)
	for _, pid := range pids {
		l.cpu += cpuTime(b, pid)
		l.peak += statusKiB(b, pid, "VmHWM")
	}
	return l
}

// kernelPrefixes is the number of prefixes in the kernel's main IPv4 table.
func kernelPrefixes(b testing.TB, ns *netns.NS) int {
	b.Helper()
	var text []byte
	must(b, ns.Do(func() (err error) {
		text, err = os.ReadFile("/proc/thread-self/net/fib_triestat")
		return err
	}))
	_, main, _ := bytes.Cut(text, []byte("Main:"))
	for line := range bytes.Lines(main) {
		if f := bytes.Fields(line); len(f) == 2 && string(f[0]) == "Prefixes:" {
			n, err := strconv.Atoi(string(f[1]))
			must(b, err)
			return n
		}
	}
	b.Fatalf("no main table in fib_triestat:\n%s", text)
	return 0
}
