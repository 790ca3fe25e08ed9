package kernel_test

import (
	"fmt"
	"net"
	"net/netip"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"golang.zx2c4.com/wireguard/wgctrl"
	"golang.zx2c4.com/wireguard/wgctrl/wgtypes"

	"sitewire/gateway/wg"
	"sitewire/gateway/wg/kernel"
	"sitewire/gateway/wg/wgtest"
	"sitewire/topologies/netns/nstest"
)

// These benchmarks use two devices in turn, one through this package and one through wgctrl, in one run on one kernel: only the ratios mean
// anything elsewhere. They run in the guest, see docs/testing.md.

const entries = 100_000

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// beside is a device of ours and one of wgctrl's.
type beside struct {
	ours   wg.Device
	client *wgctrl.Client
	theirs string
}

func newBeside(b *testing.B, name string, o kernel.Options) *beside {
	b.Helper()
	nstest.Need(b, nstest.LinkType("wireguard"), nstest.Program("ip"))
	ns := nstest.NS(b, name)
	d := &beside{theirs: "wg1"}
	key := wgtest.PrivateKey("beside")
	must(b, ns.Do(func() (err error) {
		if d.ours, err = kernel.Open(b.Context(), wg.DeviceConfig{Name: "wg0", PrivateKey: key, MTU: 1420}, o); err != nil {
			return err
		}
		d.client, err = wgctrl.New()
		return err
	}))
	b.Cleanup(func() {
		if err := d.client.Close(); err != nil {
			b.Error(err)
		}
		if err := d.ours.Close(true); err != nil {
			b.Error(err)
		}
	})
	nstest.Run(b, ns, "ip", "link", "add", d.theirs, "type", "wireguard")
	theirKey := wgtypes.Key(key)
	must(b, d.client.ConfigureDevice(d.theirs, wgtypes.Config{PrivateKey: &theirKey}))
	return d
}

// peers gives both devices the same peers.
func (d *beside) peers(b *testing.B, names ...string) {
	b.Helper()
	var delta wg.Delta
	var cfg wgtypes.Config
	for _, n := range names {
		p := wgtest.Peer(n)
		delta.SetPeers = append(delta.SetPeers, p)
		cfg.Peers = append(cfg.Peers, wgtypes.PeerConfig{PublicKey: wgtypes.Key(p.PublicKey)})
	}
	must(b, d.ours.Apply(b.Context(), delta))
	must(b, d.client.ConfigureDevice(d.theirs, cfg))
}

// count checks how many allowed-IPs each peer has, on both devices.
func (d *beside) count(b *testing.B, want map[string]int) {
	b.Helper()
	list, err := d.ours.AllowedIPs(b.Context())
	must(b, err)
	ours := make(map[wg.PublicKey]int)
	for _, a := range list {
		ours[a.Peer]++
	}
	dev, err := d.client.Device(d.theirs)
	must(b, err)
	theirs := make(map[wg.PublicKey]int)
	for _, p := range dev.Peers {
		theirs[wg.PublicKey(p.PublicKey)] = len(p.AllowedIPs)
	}
	for name, n := range want {
		key := wgtest.Peer(name).PublicKey
		if ours[key] != n || theirs[key] != n {
			b.Fatalf("peer %s has %d and %d allowed-IPs, want %d", name, ours[key], theirs[key], n)
		}
	}
}

// hosts returns n addresses from 10.0.0.0 on, and the same in wgctrl's type.
func hosts(n int) (ours []netip.Prefix, theirs []net.IPNet) {
	for i := range n {
		a := [4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)}
		ours = append(ours, netip.PrefixFrom(netip.AddrFrom4(a), 32))
		theirs = append(theirs, net.IPNet{IP: net.IP(a[:]), Mask: net.CIDRMask(32, 32)})
	}
	return ours, theirs
}

func owned(peer string, prefixes []netip.Prefix) (out []wg.AllowedIP) {
	key := wgtest.Peer(peer).PublicKey
	for _, p := range prefixes {
		out = append(out, wg.AllowedIP{Prefix: p, Peer: key})
	}
	return out
}

// took measures one change of each kind, and median is the middle of several.
func took(b *testing.B, f func() error) time.Duration {
	b.Helper()
	begin := time.Now()
	must(b, f())
	return time.Since(begin)
}

func median(all []time.Duration) time.Duration {
	slices.Sort(all)
	return all[len(all)/2]
}

// BenchmarkBesideWgctrl adds 100,000 allowed-IPs to a peer, moves them to another one and back, and takes 1,000 of them away. wgctrl has
// no word for the removal of an entry: there it is the replacement of the peer's list by what shall stay.
func BenchmarkBesideWgctrl(b *testing.B) {
	const rounds, few = 3, 1000
	const leastMove = 2 // times as fast in the best round of each; below that something is wrong, whatever else the host does
	prefixes, nets := hosts(entries)
	for b.Loop() {
		d := newBeside(b, "change", kernel.Options{})
		d.peers(b, "a", "b")
		allow := func(peer string, list []netip.Prefix) func() error {
			delta := wg.Delta{Allow: owned(peer, list)}
			return func() error { return d.ours.Apply(b.Context(), delta) }
		}
		configure := func(peer string, list []net.IPNet, replace bool) func() error {
			cfg := wgtypes.Config{Peers: []wgtypes.PeerConfig{{
				PublicKey: wgtypes.Key(wgtest.Peer(peer).PublicKey), UpdateOnly: true, ReplaceAllowedIPs: replace, AllowedIPs: list,
			}}}
			return func() error { return d.client.ConfigureDevice(d.theirs, cfg) }
		}
		report := func(what string, n int, ours, theirs time.Duration) {
			ratio := theirs.Seconds() / ours.Seconds()
			b.ReportMetric(float64(n)/ours.Seconds(), what+"/s")
			b.ReportMetric(float64(n)/theirs.Seconds(), what+"-wgctrl/s")
			b.ReportMetric(ratio, what+"-ratio")
		}

		report("add", entries, took(b, allow("a", prefixes)), took(b, configure("a", nets, false)))
		d.count(b, map[string]int{"a": entries, "b": 0})

		var ours, theirs []time.Duration
		for i := range rounds {
			to := []string{"b", "a"}[i%2]
			ours = append(ours, took(b, allow(to, prefixes)))
			theirs = append(theirs, took(b, configure(to, nets, false)))
		}
		d.count(b, map[string]int{"a": 0, "b": entries})
		report("move", entries, median(ours), median(theirs))
		if best := slices.Min(theirs).Seconds() / slices.Min(ours).Seconds(); best < leastMove {
			b.Errorf("moving is %.1f times as fast as with wgctrl, less than %d", best, leastMove)
		}

		ours, theirs = nil, nil
		for i := range rounds {
			part, rest := prefixes[i*few:(i+1)*few], nets[(i+1)*few:]
			delta := wg.Delta{Disallow: owned("b", part)}
			ours = append(ours, took(b, func() error { return d.ours.Apply(b.Context(), delta) }))
			theirs = append(theirs, took(b, configure("b", rest, true)))
		}
		d.count(b, map[string]int{"a": 0, "b": entries - rounds*few})
		report("remove", few, median(ours), median(theirs))
	}
	b.ReportMetric(0, "ns/op")
}

// BenchmarkPoll reads the statistics of 1,000 peers that have 100,000 allowed-IPs in all: what one reading costs, beside wgctrl's, and what
// share of a processor a poll ten times a second takes with the default bound.
func BenchmarkPoll(b *testing.B) {
	const peers, rounds, polls = 1000, 3, 60
	for b.Loop() {
		unbounded := newBeside(b, "unbounded", kernel.Options{Share: 1, MaxAge: time.Nanosecond})
		fill(b, unbounded, peers)
		var ours, theirs []time.Duration
		for range rounds {
			ours = append(ours, took(b, func() error {
				stats, err := unbounded.ours.Stats(b.Context())
				if len(stats) != peers {
					b.Errorf("%d peers", len(stats))
				}
				return err
			}))
			theirs = append(theirs, took(b, func() error {
				_, err := unbounded.client.Device(unbounded.theirs)
				return err
			}))
		}
		b.ReportMetric(median(ours).Seconds()*1000, "poll-ms")
		b.ReportMetric(median(theirs).Seconds()*1000, "poll-wgctrl-ms")
		b.ReportMetric(median(theirs).Seconds()/median(ours).Seconds(), "poll-ratio")

		bounded := newBeside(b, "bounded", kernel.Options{})
		fill(b, bounded, peers)
		before, begin := cpu(b), time.Now()
		for range polls {
			_, err := bounded.ours.Stats(b.Context())
			must(b, err)
			time.Sleep(100 * time.Millisecond)
		}
		used := cpu(b) - before
		b.ReportMetric(100*used.Seconds()/time.Since(begin).Seconds(), "%core-bounded")
		if each := polls * median(ours); used > each/2 {
			b.Errorf("%d polls took %v of a processor, where as many readings take about %v: they are not bounded", polls, used, each)
		}
	}
	b.ReportMetric(0, "ns/op")
}

// fill gives our device, and wgctrl's, that many peers and spreads the entries evenly over them.
func fill(b *testing.B, d *beside, peers int) {
	b.Helper()
	prefixes, nets := hosts(entries)
	var delta wg.Delta
	var cfg wgtypes.Config
	for i := range peers {
		p := wgtest.Peer(fmt.Sprint("peer", i))
		lo, hi := i*entries/peers, (i+1)*entries/peers
		delta.SetPeers = append(delta.SetPeers, p)
		for _, prefix := range prefixes[lo:hi] {
			delta.Allow = append(delta.Allow, wg.AllowedIP{Prefix: prefix, Peer: p.PublicKey})
		}
		cfg.Peers = append(cfg.Peers, wgtypes.PeerConfig{PublicKey: wgtypes.Key(p.PublicKey), AllowedIPs: nets[lo:hi]})
	}
	must(b, d.ours.Apply(b.Context(), delta))
	must(b, d.client.ConfigureDevice(d.theirs, cfg))
}

// cpu is the time that this process has used, in the kernel too.
func cpu(b *testing.B) time.Duration {
	b.Helper()
	var u unix.Rusage
	must(b, unix.Getrusage(unix.RUSAGE_SELF, &u))
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
