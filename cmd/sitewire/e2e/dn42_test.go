package e2e

import (
	"bufio"
	"cmp"
	"context"
	"encoding/binary"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"sitewire/bgp/bgptest"
	"sitewire/topologies/netns"
	"sitewire/topologies/netns/nstest"
	"sitewire/topologies/netns/peers"
)

// The size of dn42, and of a gateway there: prefixes of each family from each of the neighbours.
const dn42Neighbours, dn42IPv4, dn42IPv6 = 40, 1400, 1300

// dn42Table is the table of dn42 as a peer announces it, in UPDATEs: IPv4 and IPv6 prefixes, six to a set of attributes.
// Paths are of different length from different peers, so that the best ones are spread over all of them.
func dn42Table(asn uint32, hop netip.Addr, peer, ipv4, ipv6 int) []byte {
	var out []byte
	add := func(list []netip.Prefix, first int) {
		path := []uint32{asn}
		for range 1 + (first/6+peer)%4 {
			path = append(path, 4242420100+uint32(first))
		}
		out = append(out, bgptest.Update{Prefixes: list, NextHop: []netip.Addr{hop}, ASPath: append(path, 4242429000+uint32(first))}.Encode()...)
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

// started is what the start of a gateway with many neighbours took.
type started struct {
	who string
	// routes is from the last session's first UPDATE to the last change of a kernel route or an allowed-IP (the last best path of
	// GoBGP alone), told to the last UPDATE to a neighbour. Spread is how much later that first UPDATE was than that of the first session.
	routes, told, spread time.Duration
	updates              int
	cpu                  time.Duration
	peak, steady         int // KiB resident; steady some time later, if that was waited for
	// collected is steady after a collection that was asked for, and live what that found, both in KiB; 0 if nobody could be asked.
	collected, live int
}

// neighbourhood is a gateway that runs, and its neighbours that do not yet.
type neighbourhood struct {
	gateway *netns.NS
	pids    []int
	dial    func(i int) (*bgptest.Peer, error)
	asn     func(i int) uint32
	hop     func(i int) netip.Addr
	// last is when the last best path was chosen, of a gateway that does not write routes.
	last func() time.Time
	// collect has the gateway collect garbage and give back what is free, and tells how many KiB are live; nil if it cannot be asked.
	collect func() int
	// owners are the allowed-IPs; nil if there are none.
	owners func() table
}

// BenchmarkDN42Start starts a gateway of dn42's size with all neighbours at once: 40 sessions come up at the same moment, on each of
// which 1,400 IPv4 and 1,300 IPv6 prefixes come in at once, and everything is announced on to everybody. It compares ours,
// over tunnels, with allowed-IPs and kernel routes, with an embedded GoBGP that does nothing else, and with BIRD, over a cable, with
// kernel routes. All neighbours run in the benchmark's process, on the same cores.
func BenchmarkDN42Start(b *testing.B) {
	for b.Loop() {
		var list []started
		for _, one := range []struct {
			name  string
			start func(testing.TB) *neighbourhood
		}{{"sitewire", startSitewire}, {"gobgp", startGoBGP}, {"bird", startBIRD}} {
			b.Run(one.name, func(b *testing.B) {
				s := one.start(b).measure(b, one.name != "bird")
				s.who = one.name
				b.ReportMetric(s.routes.Seconds(), "s-routes")
				b.ReportMetric(s.told.Seconds(), "s-told")
				b.ReportMetric(s.cpu.Seconds(), "s-cpu")
				b.ReportMetric(float64(s.peak)/1024, "MiB-peak")
				b.ReportMetric(float64(s.steady)/1024, "MiB-steady")
				if s.collected > 0 {
					b.ReportMetric(float64(s.collected)/1024, "MiB-collected")
					b.ReportMetric(float64(s.live)/1024, "MiB-live")
				}
				beside.add("dn42 start until in the kernel, s", one.name, s.routes.Seconds())
				beside.add("dn42 start until all are told, s", one.name, s.told.Seconds())
				beside.add("dn42 start CPU, s", one.name, s.cpu.Seconds())
				beside.add("dn42 start peak, MiB", one.name, float64(s.peak)/1024)
				beside.add("dn42 start later, after a collection, MiB", one.name, float64(cmp.Or(s.collected, s.steady))/1024)
				list = append(list, s)
			})
		}
		b.Logf("%d neighbours with %d prefixes each\n%s", dn42Neighbours, dn42IPv4+dn42IPv6, starts(list))
	}
	b.ReportMetric(0, "ns/op")
}

// starts prints the comparison, with ratios to GoBGP alone.
func starts(list []started) string {
	var base started
	for _, s := range list {
		if s.who == "gobgp" {
			base = s
		}
	}
	var out strings.Builder
	fmt.Fprintf(&out, "%-10s %9s %6s %9s %6s %8s %6s %9s %11s %14s %9s %9s %9s\n", "", "routes s", "ratio", "told s", "ratio", "CPU s", "ratio", "peak MiB", "steady MiB", "collected MiB", "live MiB", "UPDATEs", "spread s")
	for _, s := range list {
		fmt.Fprintf(&out, "%-10s %9.2f %6.2f %9.2f %6.2f %8.2f %6.2f %9.0f %11.0f %14.0f %9.0f %9d %9.2f\n", s.who,
			s.routes.Seconds(), s.routes.Seconds()/base.routes.Seconds(), s.told.Seconds(), s.told.Seconds()/base.told.Seconds(),
			s.cpu.Seconds(), s.cpu.Seconds()/base.cpu.Seconds(), float64(s.peak)/1024, float64(s.steady)/1024, float64(s.collected)/1024, float64(s.live)/1024, s.updates, s.spread.Seconds())
	}
	return out.String()
}

// measure brings all sessions up and waits until everything is where it belongs.
func (n *neighbourhood) measure(b testing.TB, steady bool) started {
	b.Helper()
	tables := make([][]byte, dn42Neighbours)
	for i := range tables {
		tables[i] = dn42Table(n.asn(i), n.hop(i), i, dn42IPv4, dn42IPv6)
	}
	settleLoad()
	var s started
	for _, pid := range n.pids {
		s.cpu -= cpuTime(b, pid)
	}
	before := kernelPrefixes(b, n.gateway) + kernelPrefixes6(b, n.gateway)
	written := n.written(b)
	var (
		sessions [dn42Neighbours]*bgptest.Peer
		firsts   [dn42Neighbours]time.Time
		errs     [dn42Neighbours]error
		dialling sync.WaitGroup
	)
	for i := range dn42Neighbours {
		dialling.Go(func() {
			if sessions[i], errs[i] = n.dial(i); errs[i] == nil {
				firsts[i] = time.Now()
				errs[i] = sessions[i].Send(tables[i])
			}
		})
	}
	dialling.Wait()
	var begin time.Time
	first := firsts[0]
	for i := range dn42Neighbours {
		must(b, errs[i])
		b.Cleanup(sessions[i].Close)
		if firsts[i].After(begin) {
			begin = firsts[i]
		}
		if firsts[i].Before(first) {
			first = firsts[i]
		}
	}
	const quiet, limit, every, looks = 2 * time.Second, time.Minute, 10 * time.Millisecond, 10
	routes, told := 0, begin
	changed := begin
	var owned table
	for look := 0; time.Since(told) < quiet || time.Since(changed) < quiet || n.last == nil && routes < dn42IPv4+dn42IPv6; look++ {
		if time.Since(begin) > limit {
			b.Fatalf("%d of %d routes, %d UPDATEs out after %v", routes, dn42IPv4+dn42IPv6, s.updates, limit)
		}
		updates := 0
		for _, p := range sessions {
			got, _, _ := p.Stats()
			updates += got
		}
		if updates != s.updates {
			s.updates, told = updates, time.Now()
		}
		if look%looks == 0 {
			routes = kernelPrefixes(b, n.gateway) + kernelPrefixes6(b, n.gateway) - before
			if n.owners != nil {
				at := time.Now()
				if now := n.owners(); !maps.Equal(now, owned) {
					owned, changed = now, at
				}
			}
		}
		if at := time.Unix(0, written.Load()); at.After(changed) {
			changed = at
		}
		time.Sleep(every)
	}
	s.routes, s.told, s.spread = changed.Sub(begin), told.Sub(begin), begin.Sub(first)
	if n.last != nil {
		s.routes = n.last().Sub(begin)
	}
	for i, p := range sessions {
		if _, _, got := p.Stats(); got < (dn42IPv4+dn42IPv6)/2 {
			b.Errorf("neighbour %d was told %d of %d prefixes", i, got, dn42IPv4+dn42IPv6)
		}
	}
	for _, pid := range n.pids {
		s.cpu += cpuTime(b, pid)
		s.peak += statusKiB(b, pid, "VmHWM")
	}
	if steady {
		time.Sleep(45 * time.Second) // what the start took is given back
	}
	for _, pid := range n.pids {
		s.steady += residentKiB(b, pid)
	}
	if n.collect != nil {
		s.live = n.collect()
		for _, pid := range n.pids {
			s.collected += residentKiB(b, pid)
		}
	}
	for i, p := range sessions {
		select {
		case <-p.Done():
			b.Errorf("the session of neighbour %d ended", i)
		default:
		}
	}
	return s
}

// written follows the kernel's notifications and tells when the last route was written, in Unix nanoseconds.
func (n *neighbourhood) written(b testing.TB) *atomic.Int64 {
	b.Helper()
	updates, done, at := make(chan netlink.RouteUpdate, 1024), make(chan struct{}), new(atomic.Int64)
	must(b, n.gateway.Do(func() error {
		return netlink.RouteSubscribeWithOptions(updates, done, netlink.RouteSubscribeOptions{ReceiveBufferSize: 16 << 20, ReceiveBufferForceSize: true})
	}))
	b.Cleanup(func() { close(done) })
	go func() {
		for range updates {
			at.Store(time.Now().UnixNano())
		}
	}()
	return at
}

// kernelPrefixes6 is the number of IPv6 routes in the kernel.
func kernelPrefixes6(b testing.TB, ns *netns.NS) int {
	b.Helper()
	var text []byte
	must(b, ns.Do(func() (err error) {
		text, err = os.ReadFile("/proc/thread-self/net/rt6_stats")
		return err
	}))
	fields := strings.Fields(string(text))
	if len(fields) < 4 {
		b.Fatalf("rt6_stats: %q", text)
	}
	n, err := strconv.ParseInt(fields[3], 16, 64) // fib_rt_entries
	must(b, err)
	return int(n)
}

func startSitewire(b testing.TB) *neighbourhood {
	h := newIdleHub(b, newLab(b), dn42Neighbours, "dn42")
	return &neighbourhood{
		gateway: h.ns, pids: []int{h.d.cmd.Process.Pid},
		dial:   func(i int) (*bgptest.Peer, error) { return h.dial(h.spokes[i]) },
		asn:    func(i int) uint32 { return h.spokes[i].asn },
		hop:    func(i int) netip.Addr { return h.spokes[i].ll },
		owners: h.allowed,
	}
}

// Addresses of a gateway and its neighbours on a cable; neighbours count up from the first.
var cabledHub, cabledFirst = netip.MustParseAddr("fd00:99::1"), netip.MustParseAddr("fd00:99::1:0")

const cabledFirstASN = 4242421000

func cabledAt(i int) netip.Addr {
	a := cabledFirst.As16()
	binary.BigEndian.PutUint16(a[14:], uint16(i))
	return netip.AddrFrom16(a)
}

// newCabledHub is a gateway without anything running, and its neighbours, which all are at the other end of one cable.
func newCabledHub(b testing.TB) *neighbourhood {
	gateway, others := nstest.NS(b, "gateway"), nstest.NS(b, "neighbours")
	var addresses []netip.Prefix
	for i := range dn42Neighbours {
		addresses = append(addresses, netip.PrefixFrom(cabledAt(i), 64))
	}
	must(b, netns.Link(gateway, "eth0", others, "eth0", netns.LinkOpts{
		AddrsA: []netip.Prefix{netip.PrefixFrom(cabledHub, 64), netip.MustParsePrefix(cabledAddr + "/24")}, AddrsB: addresses,
	}))
	asn := func(i int) uint32 { return cabledFirstASN + uint32(i) }
	return &neighbourhood{
		gateway: gateway, asn: asn, hop: cabledAt,
		dial: func(i int) (p *bgptest.Peer, err error) {
			ctx, cancel := context.WithTimeout(b.Context(), time.Minute)
			defer cancel()
			err = others.Do(func() (err error) {
				p, err = bgptest.Dial(ctx, bgptest.Options{
					Local: cabledAt(i), Remote: netip.AddrPortFrom(cabledHub, 179), ASN: asn(i), IPv4: true, IPv6: true, ExtendedNextHop: true,
				})
				return err
			})
			return p, err
		},
	}
}

func startGoBGP(b testing.TB) *neighbourhood {
	n := newCabledHub(b)
	pid, lines := startBeside(b, n.gateway, "plain", strconv.Itoa(cabledASN), cabledAddr, cabledFirst.String(), strconv.Itoa(cabledFirstASN),
		strconv.Itoa(dn42IPv4+dn42IPv6), strconv.Itoa(dn42Neighbours))
	n.pids = []int{pid}
	n.last = func() time.Time {
		if !lines.Scan() {
			b.Fatal("GoBGP ended")
		}
		at, err := strconv.ParseInt(lines.Text(), 10, 64)
		must(b, err)
		return time.Unix(0, at)
	}
	n.collect = func() int {
		must(b, syscall.Kill(pid, syscall.SIGUSR1))
		if !lines.Scan() {
			b.Fatal("GoBGP ended")
		}
		live, err := strconv.Atoi(lines.Text())
		must(b, err)
		return live / 1024
	}
	return n
}

func startBIRD(b testing.TB) *neighbourhood {
	nstest.Need(b, nstest.Program("bird"), nstest.Program("birdc"))
	n := newCabledHub(b)
	var config strings.Builder
	fmt.Fprintf(&config, `router id %s;
protocol device {}
protocol kernel { ipv4 { export where source = RTS_BGP; }; }
protocol kernel { ipv6 { export where source = RTS_BGP; }; }
`, cabledAddr)
	for i := range dn42Neighbours {
		fmt.Fprintf(&config, `protocol bgp n%d { local %s as %d; neighbor %s as %d; passive; ipv4 { extended next hop; import all; export all; }; ipv6 { import all; export all; }; }
`, i, cabledHub, cabledASN, cabledAt(i), n.asn(i))
	}
	d, err := peers.StartBIRD(b.Context(), n.gateway, "bird", config.String())
	must(b, err)
	d.Watch(b)
	n.pids = []int{d.Pid()}
	return n
}

// startBeside builds a program of bgp/bgptest that ours is measured beside, and starts it in ns. It returns when that
// listens, with the lines that follow.
func startBeside(b testing.TB, ns *netns.NS, name string, args ...string) (pid int, lines *bufio.Scanner) {
	b.Helper()
	program := filepath.Join(b.TempDir(), name)
	build := exec.Command("go", "build", "-o", program, "sitewire/bgp/bgptest/"+name)
	build.Env = append(os.Environ(), "GOPROXY=off")
	if out, err := build.CombinedOutput(); err != nil {
		b.Fatalf("build: %v\n%s", err, out)
	}
	cmd := ns.Command(b.Context(), program, args...)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	must(b, err)
	must(b, cmd.Start())
	b.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	lines = bufio.NewScanner(out)
	if !lines.Scan() || lines.Text() != "ready" {
		b.Fatalf("%s did not start: %q", name, lines.Text())
	}
	return cmd.Process.Pid, lines
}
