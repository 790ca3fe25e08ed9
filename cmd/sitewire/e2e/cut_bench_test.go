package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"sitewire/bgp/bfd"
	"sitewire/gateway"
	"sitewire/topologies/netns"
	"sitewire/topologies/netns/nstest"
	"sitewire/topologies/netns/peers"
)

// cutsEnv is how many times each router loses the neighbour in use; 20 without it. besideCutsEnv is the same for the routers beside ours,
// which need minutes for each at the size of the Internet; as many as ours without it.
const (
	cutsEnv       = "SITEWIRE_BENCH_CUTS"
	besideCutsEnv = "SITEWIRE_BENCH_CUTS_BESIDE"
)

const (
	// detection is what BFD at 200 ms x 3 takes after the last packet of the other end (RFC 5880 section 6.8.4).
	detection = 600 * time.Millisecond
	// quietFor is how long a router must have had next to nothing to do before a cut.
	quietFor = time.Second
	// cutLimit is how long a table may take to move, or to be there again.
	cutLimit = 5 * time.Minute
)

// twoWays is a router with a host and two neighbours behind it that both announce the same table.
type twoWays struct {
	router  *site
	ways    [2]way
	targets []netip.Addr
	prefix  int
	// ready tells whether all that both neighbours announced is in use, and BFD is up.
	ready func() error
	pids  []int // of the router's processes
}

// way is one of them: the router's device, and the neighbour's end, which is cut.
type way struct {
	device string
	far    *netns.NS
	farDev string
}

// cutResult is what came of one cut. Detection is excluded from first, all and lost: they count from the moment when BFD has to
// have noticed, 600 ms after the last packet that it got from there.
type cutResult struct {
	first, all time.Duration // until the first packet took the other way, and until all of them did
	lost       int           // packets since then that did not
	total      time.Duration // from the cut to the first packet on the other way
}

// BenchmarkCut has one router after the other lose the better one of two neighbours with the same table of IPv4 routes,
// silently, again and again, while a host behind it sends 1,000 packets/s to 100 random prefixes: ours with two tunnels, BIRD and
// FRR with two cables. None announces to one neighbour what it has from the other, which would be a leak (RFC 7908). All use
// BFD at 200 ms x 3. What leaves the router, and when, is seen on its devices.
func BenchmarkCut(b *testing.B) {
	n, cuts := numberFrom(b, prefixesEnv, 100_000), numberFrom(b, cutsEnv, 20)
	besides := numberFrom(b, besideCutsEnv, cuts)
	for b.Loop() {
		var s strings.Builder
		fmt.Fprintf(&s, "%-10s %4s %-21s %-21s %-17s %-21s %s\n", "", "", "to the other way, ms", "all packets there, ms", "lost in a cut", "from the cut, ms", "peak")
		fmt.Fprintf(&s, "%-10s %4s %10s %10s %10s %10s %8s %8s %10s %10s %9s\n", "", "cuts", "median", "worst", "median", "worst", "median", "worst", "median", "worst", "MiB")
		for _, one := range []struct {
			name string
			make func(testing.TB, int) *twoWays
			cuts int
		}{{"sitewire", cutOurs, cuts}, {"bird", cutBIRD, besides}, {"frr", cutFRR, besides}} {
			b.Run(one.name, func(b *testing.B) {
				w := one.make(b, n)
				var list []cutResult
				for range one.cuts {
					list = append(list, w.cut(b))
					b.Logf("%+v", list[len(list)-1])
				}
				peak := 0
				for _, pid := range w.pids {
					peak += statusKiB(b, pid, "VmHWM")
				}
				ms := func(f func(cutResult) time.Duration) (median, worst float64) {
					x := slices.SortedFunc(slices.Values(list), func(a, b cutResult) int { return int(f(a) - f(b)) })
					return f(x[len(x)/2]).Seconds() * 1000, f(x[len(x)-1]).Seconds() * 1000
				}
				first, firstWorst := ms(func(r cutResult) time.Duration { return r.first })
				all, allWorst := ms(func(r cutResult) time.Duration { return r.all })
				total, totalWorst := ms(func(r cutResult) time.Duration { return r.total })
				lost, lostWorst := ms(func(r cutResult) time.Duration { return time.Duration(r.lost) * time.Millisecond })
				b.ReportMetric(first, "ms-first")
				b.ReportMetric(all, "ms-all")
				b.ReportMetric(lost, "lost")
				b.ReportMetric(total, "ms-from-cut")
				b.ReportMetric(float64(peak)/1024, "MiB-peak")
				table := fmt.Sprintf("neighbour with %d prefixes lost ", n)
				beside.add(table+"first packet the other way, ms", one.name, first)
				beside.add(table+"all packets, ms", one.name, all)
				beside.add(table+"from the cut, ms", one.name, total)
				fmt.Fprintf(&s, "%-10s %4d %10.1f %10.1f %10.1f %10.1f %8.0f %8.0f %10.0f %10.0f %9d\n", one.name, one.cuts,
					first, firstWorst, all, allWorst, lost, lostWorst, total, totalWorst, peak/1024)
			})
		}
		b.Logf("%d prefixes\n%s", n, s.String())
	}
	b.ReportMetric(0, "ns/op")
}

// cut cuts the way in use, sees what the packets do, and mends it.
func (w *twoWays) cut(b *testing.B) cutResult {
	b.Helper()
	nstest.Eventually(b, cutLimit, "both neighbours' tables, and the router to have nothing left to do", func() error {
		time.Sleep(200 * time.Millisecond)
		if err := w.ready(); err != nil {
			return err
		}
		before := w.cpu(b)
		time.Sleep(quietFor)
		if used := w.cpu(b) - before; used > quietFor/20 {
			return fmt.Errorf("%v of CPU time in %v", used, quietFor)
		}
		return w.ready() // what it said right after a cut may have been what was before
	})
	used, spare := w.ways[0], w.ways[1]
	if w.leads(b, w.targets[0]) != used.device {
		used, spare = spare, used
	}
	old, now := tap(b, w.router.ns, used.device), tap(b, w.router.ns, spare.device)
	load := sendSteady(b, w.router.host, w.router.host4, w.targets)
	time.Sleep(400 * time.Millisecond)
	must(b, used.far.Cut(used.farDev, netns.Both))
	cut := time.Now()
	nstest.Eventually(b, cutLimit, "all packets on "+spare.device, func() error {
		time.Sleep(50 * time.Millisecond)
		if run := now.run(); run < 3*len(w.targets) {
			return fmt.Errorf("%d in a row", run)
		}
		return nil
	})
	sent := load()
	time.Sleep(50 * time.Millisecond)
	heard, before := old.end()
	_, there := now.end()
	must(b, used.far.Heal(used.farDev))
	if heard.IsZero() || len(there) == 0 {
		b.Fatalf("BFD heard at %v, %d packets took the other way", heard, len(there))
	}
	noticed := heard.Add(detection)
	r := cutResult{}
	first := time.Time{}
	targets := uint64(len(w.targets))
	moving := map[uint64]bool{} // targets whose packets took the way that was cut
	for seq, at := range before {
		if at.Before(cut) {
			moving[seq%targets] = true
		}
	}
	for seq, at := range sent {
		seen, ok := there[seq]
		switch {
		case !moving[seq%targets]:
		case ok && seen.After(cut) && (first.IsZero() || seen.Before(first)):
			first = seen
		case !ok && at.After(noticed):
			r.lost++
			r.all = max(r.all, at.Sub(noticed)+steadyEvery)
		}
	}
	r.first, r.total = first.Sub(noticed), first.Sub(cut)
	r.all = max(r.all, r.first)
	return r
}

func (w *twoWays) cpu(b *testing.B) (sum time.Duration) {
	b.Helper()
	for _, pid := range w.pids {
		sum += cpuTime(b, pid)
	}
	return sum
}

// leads is the device that the router sends packets for an address through.
func (w *twoWays) leads(b *testing.B, a netip.Addr) string {
	b.Helper()
	for _, x := range w.ways {
		i, err := w.router.ns.Index(x.device)
		must(b, err)
		if r, err := w.router.ns.Netlink().RouteGet(a.AsSlice()); err == nil && len(r) > 0 && r[0].LinkIndex == i {
			return x.device
		}
	}
	b.Fatalf("no route to %s", a)
	return ""
}

// carriedTable is a BIRD protocol that announces the table.
func carriedTable(n int) string {
	var s strings.Builder
	s.WriteString("protocol static carried { ipv4;\n")
	for i := range n {
		fmt.Fprintf(&s, "  route %s unreachable;\n", carried(i))
	}
	s.WriteString("}\n")
	return s.String()
}

func carriedTargets(n int) (list []netip.Addr) {
	random := rand.New(rand.NewPCG(1, 2))
	for range 100 {
		list = append(list, carried(random.IntN(n)).Addr())
	}
	return list
}

// cutOurs is ours, with a tunnel to each neighbour.
func cutOurs(b testing.TB, n int) *twoWays {
	l := newLab(b)
	w := &twoWays{router: l.site("ours"), targets: carriedTargets(n), prefix: n}
	var yaml strings.Builder
	// The namespace is ours, so the kernel need not tell of each route whose nexthop object changed.
	yaml.WriteString(w.router.head() + "routes: { nexthop_compat_off: true }\nbgp: { hold_time: 60s, connect_retry: 2s, bfd: wired }\npeers:\n")
	for i, name := range []string{"left", "right"} {
		s := l.site(name)
		f := s.wireguard(w.router)
		f.bfd, f.hold = true, 60 // as the others below
		nstest.Run(b, s.ns, "ip", "route", "add", "blackhole", "100.64.0.0/10")
		f.bird(w.router, shapeA, carriedTable(n))
		yaml.WriteString(strings.Replace(s.peerYAML(shapeA), "policy: full", "policy: branch", 1))
		w.ways[i] = way{s.device(), s.ns, "eth0"}
	}
	d := w.router.run(yaml.String())
	w.pids = []int{d.cmd.Process.Pid}
	w.ready = func() error {
		var st gateway.Status
		var v gateway.Sessions
		if err := d.get("/v1/status", &st); err != nil {
			return err
		}
		if err := d.get("/v1/bgp", &v); err != nil {
			return err
		}
		for _, s := range v.Sessions {
			if s.IPv4 == nil || s.IPv4.Accepted < n || s.BFD == nil || s.BFD.State != bfd.Up || s.BFD.DetectionTime != detection.Seconds() {
				return fmt.Errorf("%s: %+v, %+v", s.Name, s.IPv4, s.BFD)
			}
		}
		if st.Pending != 0 || len(v.Sessions) != 2 || st.Routes["ipv4"] < n {
			return fmt.Errorf("%d sessions, %v routes, %d pending", len(v.Sessions), st.Routes, st.Pending)
		}
		return nil
	}
	return w
}

// cables joins a router with two neighbours, which are BIRD with the table.
func cables(b testing.TB, n int) *twoWays {
	nstest.Need(b, nstest.Program("bird"), nstest.Program("birdc"))
	l := newLab(b)
	w := &twoWays{router: l.site("router"), targets: carriedTargets(n), prefix: n}
	for i, name := range []string{"left", "right"} {
		s := l.site(name)
		net := func(last byte) []netip.Prefix {
			return []netip.Prefix{netip.PrefixFrom(netip.AddrFrom4([4]byte{192, 0, 2, byte(4*i) + last}), 30)}
		}
		must(b, netns.Link(w.router.ns, name, s.ns, "cable", netns.LinkOpts{AddrsA: net(1), AddrsB: net(2)}))
		nstest.Run(b, s.ns, "ip", "route", "add", "blackhole", "100.64.0.0/10")
		d, err := peers.StartBIRD(b.Context(), s.ns, "bird", fmt.Sprintf(`router id %s;
protocol device {}
protocol bfd { interface "cable" { min rx interval 200 ms; min tx interval 200 ms; multiplier 3; }; }
protocol bgp { local %[1]s as %d; neighbor %s as %d; bfd on; hold time 60; connect delay time 1; error wait time 1,5; connect retry time 2;
  ipv4 { import all; export where source = RTS_STATIC; }; }
%s`, net(2)[0].Addr(), s.asn, net(1)[0].Addr(), w.router.asn, carriedTable(n)))
		must(b, err)
		d.Watch(b)
		w.ways[i] = way{name, s.ns, "cable"}
	}
	return w
}

// cutBIRD is BIRD with two cables.
func cutBIRD(b testing.TB, n int) *twoWays {
	w := cables(b, n)
	var c strings.Builder
	fmt.Fprintf(&c, `router id %s;
protocol device {}
protocol kernel { ipv4 { export where source = RTS_BGP; }; }
protocol bfd { interface "left", "right" { min rx interval 200 ms; min tx interval 200 ms; multiplier 3; }; }
`, w.router.out4)
	for i, x := range w.ways {
		fmt.Fprintf(&c, `protocol bgp %s { local 192.0.2.%d as %d; neighbor 192.0.2.%d as %d; bfd on; hold time 60;
  connect delay time 1; error wait time 1,5; connect retry time 2; ipv4 { import all; export none; }; }
`, x.device, 4*i+1, w.router.asn, 4*i+2, w.router.asn+uint32(i)+1)
	}
	d, err := peers.StartBIRD(b.Context(), w.router.ns, "bird", c.String())
	must(b, err)
	d.Watch(b)
	w.pids = []int{d.Pid()}
	w.ready = func() error {
		ask := func(words ...string) string {
			out, err := d.Birdc(context.Background(), words...)
			if err != nil {
				return err.Error()
			}
			return out
		}
		if out := ask("show", "bfd", "sessions"); strings.Count(out, " Up ") != 2 {
			return fmt.Errorf("BFD: %s", out)
		}
		if out := ask("show", "route", "count"); !strings.Contains(out, fmt.Sprintf("%d of %[1]d routes for %d", 2*n, n)) {
			return fmt.Errorf("routes: %s", out)
		}
		return w.inKernel(b)
	}
	return w
}

// cutFRR is FRR with two cables.
func cutFRR(b testing.TB, n int) *twoWays {
	nstest.Need(b, nstest.Program("bgpd"), nstest.Program("zebra"), nstest.Program("bfdd"), nstest.Program("vtysh"))
	w := cables(b, n)
	var c strings.Builder
	fmt.Fprintf(&c, "bfd\n profile fast\n  receive-interval 200\n  transmit-interval 200\n  detect-multiplier 3\n exit\nexit\n")
	fmt.Fprintf(&c, "router bgp %d\n bgp router-id %s\n no bgp ebgp-requires-policy\n", w.router.asn, w.router.out4)
	for i := range w.ways {
		fmt.Fprintf(&c, " neighbor 192.0.2.%d remote-as %d\n neighbor 192.0.2.%[1]d timers connect 1\n neighbor 192.0.2.%[1]d bfd\n neighbor 192.0.2.%[1]d bfd profile fast\n",
			4*i+2, w.router.asn+uint32(i)+1)
	}
	c.WriteString(" address-family ipv4 unicast\n")
	for i := range w.ways {
		fmt.Fprintf(&c, "  neighbor 192.0.2.%d route-map nothing out\n", 4*i+2)
	}
	c.WriteString(" exit-address-family\nexit\nroute-map nothing deny 10\nexit\n")
	d, err := peers.StartFRR(b.Context(), w.router.ns, "frr", c.String(), "bfdd")
	must(b, err)
	d.Watch(b)
	w.pids = []int{d.Daemon("zebra").Pid(), d.Daemon("bgpd").Pid()}
	w.ready = func() error {
		out, err := d.Vtysh(context.Background(), "show bfd peers brief")
		if err != nil {
			return err
		}
		if strings.Count(out, " up ") != 2 {
			return fmt.Errorf("BFD: %s", out)
		}
		out, err = d.Vtysh(context.Background(), "show bgp ipv4 unicast summary json")
		if err != nil {
			return err
		}
		var v struct {
			Peers map[string]struct{ PfxRcd int }
		}
		if err := json.Unmarshal([]byte(out), &v); err != nil {
			return err
		}
		for who, p := range v.Peers {
			if p.PfxRcd < n {
				return fmt.Errorf("%s: %d prefixes", who, p.PfxRcd)
			}
		}
		return w.inKernel(b)
	}
	return w
}

// inKernel tells whether the kernel has the whole table.
func (w *twoWays) inKernel(b testing.TB) error {
	if have := kernelPrefixes(b, w.router.ns); have < w.prefix {
		return fmt.Errorf("%d routes in the kernel", have)
	}
	return nil
}
