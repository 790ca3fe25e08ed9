package e2e

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"sitewire/bgp/bfd"
	"sitewire/gateway"
	"sitewire/topologies/netns"
	"sitewire/topologies/netns/nstest"
)

// carried is prefix number i of the table that both sites of TestTunnelLost carry.
func carried(i int) netip.Prefix {
	return netip.PrefixFrom(netip.AddrFrom4([4]byte{100, 64 + byte(i>>16), byte(i >> 8), byte(i)}), 32)
}

// TestTunnelLost: two tunnels carry the same large table, and the better one is cut. BFD notices; from then on no packet is
// lost, of whatever prefix, though it takes BGP a while to go through the table. When the tunnel is back, nothing is lost
// either. Without nexthop objects the same happens prefix by prefix.
func TestTunnelLost(t *testing.T) {
	for _, objects := range []bool{true, false} {
		t.Run(fmt.Sprintf("objects=%t", objects), func(t *testing.T) { tunnelLost(t, objects) })
	}
}

func tunnelLost(t *testing.T, objects bool) {
	prefixes := 5_000
	if raceEnabled {
		prefixes = 1_000
	}
	l := newLab(t)
	a := l.site("ours")
	var table strings.Builder
	table.WriteString("protocol static carried { ipv4;\n")
	for i := range prefixes {
		fmt.Fprintf(&table, "  route %s unreachable;\n", carried(i))
	}
	table.WriteString("}")
	var yaml strings.Builder
	watched := "wired"
	if raceEnabled {
		watched = "metered"
	}
	yaml.WriteString(a.head() + fmt.Sprintf("routes: { nexthop_objects: %t }\nbgp: { hold_time: 60s, connect_retry: 2s, bfd: %s }\npeers:\n", objects, watched))
	sites := []*site{l.site("left"), l.site("right")}
	for _, s := range sites {
		f := s.wireguard(a)
		f.bfd = true
		// Packets for the table are answered here, and the way back does not wait for BGP.
		nstest.Run(t, s.ns, "ip", "route", "add", "local", "100.64.0.0/10", "dev", "lo")
		nstest.Run(t, s.ns, "ip", "route", "add", a.lan4.String(), "dev", "wg0", "metric", "1")
		f.bird(a, shapeA, table.String())
		yaml.WriteString(s.peerYAML(shapeA))
	}
	d := a.run(yaml.String())
	d.carry(t, prefixes, 60*time.Second)
	random := rand.New(rand.NewPCG(1, 2))
	var targets []netip.Addr
	for range 100 {
		targets = append(targets, carried(random.IntN(prefixes)).Addr())
	}
	used, spare := sites[0], sites[1]
	if d.through(spare.device()) > 0 {
		used, spare = spare, used
	}
	// Twice: the older path is the better one, so that the traffic stays where it is when the tunnel is back.
	for range 2 {
		stop := a.send(t, targets)
		time.Sleep(time.Second)
		must(t, used.ns.Cut("eth0", netns.Both))
		cut := time.Now()
		nstest.Eventually(t, 30*time.Second, "the table through "+spare.device(), func() error {
			time.Sleep(100 * time.Millisecond) // it costs both processors something to look
			if n := d.through(spare.device()); n != prefixes {
				return fmt.Errorf("%d routes", n)
			}
			return nil
		})
		moved := time.Since(cut)
		if objects {
			d.diverted(t, used, spare, prefixes)
		}
		time.Sleep(2 * time.Second)
		outage(t, stop(), cut, fmt.Sprintf("%d prefixes, all moved after %v", prefixes, moved.Round(10*time.Millisecond)), objects)

		stop = a.send(t, targets)
		must(t, used.ns.Heal("eth0"))
		d.carry(t, prefixes, 60*time.Second)
		time.Sleep(time.Second)
		for _, r := range stop() {
			if r.Lost() > 0 && !raceEnabled {
				t.Errorf("lost when the tunnel came back: %s", r)
			}
		}
		used, spare = spare, used
	}
}

// send sends 1,000 packets/s to a hundred targets, five each 5 ms, until the returned function is called.
func (s *site) send(t *testing.T, targets []netip.Addr) (stop func() []netns.Report) {
	t.Helper()
	var flows []*netns.Flow
	for some := range slices.Chunk(targets, len(targets)/20) {
		f, err := netns.StartFlow(s.host, some, netns.FlowOpts{Src: s.host4, Interval: 100 * time.Millisecond})
		must(t, err)
		flows = append(flows, f)
		time.Sleep(5 * time.Millisecond)
	}
	return func() []netns.Report {
		reports := make([][]netns.Report, len(flows))
		var all sync.WaitGroup
		for i, f := range flows {
			all.Go(func() { reports[i] = f.Stop(2 * time.Second) })
		}
		all.Wait()
		return slices.Concat(reports...)
	}
}

// outage judges what was lost after a cut that BFD notices within 600 to 800 ms.
func outage(t *testing.T, reports []netns.Report, cut time.Time, what string, constant bool) {
	t.Helper()
	first, last, lost := time.Hour, time.Duration(0), 0
	for _, r := range reports {
		if len(r.Gaps) != 1 && !raceEnabled {
			t.Errorf("want packets lost once, after the cut: %s", r)
		}
		if len(r.Gaps) == 0 {
			continue
		}
		g := r.Gaps[0]
		end := g.At.Add(g.Span).Sub(cut)
		lost, first, last = lost+g.Count, min(first, end), max(last, end)
	}
	t.Logf("%s: the last packet was lost %v to %v after the cut, by target; %d lost of 1,000/s", what, first.Round(time.Millisecond), last.Round(time.Millisecond), lost)
	const slack = 400 * time.Millisecond // of a machine that runs other tests
	if raceEnabled {
		return // the detector makes BFD late
	}
	if constant && last > 800*time.Millisecond+slack {
		t.Errorf("packets are lost until %v after the cut, and BFD needs 800 ms at most", last)
	}
}

// diverted wants one diversion, that of a lost tunnel, which had the whole table go elsewhere.
func (d *daemon) diverted(t *testing.T, lost, to *site, prefixes int) {
	t.Helper()
	var v struct{ Diversions []gateway.Diversion }
	must(t, d.get("/v1/routes?prefix="+carried(0).String(), &v))
	if len(v.Diversions) != 1 || v.Diversions[0].Peer != lost.name || v.Diversions[0].To[to.device()] < prefixes {
		t.Errorf("diversions: %+v", v.Diversions)
	}
}

// device that a peer has at the other end.
func (s *site) device() string { return "wg-" + s.name }

// carry waits until both sessions carry the table, BFD watches them, and the kernel has the table.
func (d *daemon) carry(t *testing.T, want int, within time.Duration) {
	t.Helper()
	d.sessionsUp(2)
	nstest.Eventually(t, within, "the whole table from both", func() error {
		time.Sleep(200 * time.Millisecond)
		for _, n := range []string{"left", "right"} {
			s := d.session(n)
			if s.IPv4 == nil || s.IPv4.Accepted < want || s.BFD == nil || s.BFD.State != bfd.Up {
				return fmt.Errorf("%s: %+v, BFD %+v", n, s.IPv4, s.BFD)
			}
		}
		if n := d.through(""); n != want {
			return fmt.Errorf("%d routes", n)
		}
		return nil
	})
}

// through counts the table's routes through a device, or all of them.
func (d *daemon) through(device string) (n int) {
	var list []struct{ Dst, Dev string }
	must(d.t, json.Unmarshal([]byte(nstest.Run(d.t, d.ns, "ip", "-j", "-4", "route", "show", "proto", protocol)), &list))
	for _, r := range list {
		if strings.HasPrefix(r.Dst, "100.") && (device == "" || r.Dev == device) {
			n++
		}
	}
	return n
}
