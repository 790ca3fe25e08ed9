package e2e

import (
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"sitewire/bgp/bgptest"
	"sitewire/gateway/config"
	"sitewire/gateway/wg"
	"sitewire/gateway/wg/kernel"
	"sitewire/gateway/wg/user"
	"sitewire/topologies/netns"
	"sitewire/topologies/netns/nstest"
)

// hubDevice is the one device that all spokes share.
const hubDevice = "wg0"

// hubInside4 is the hub's address in the tunnels, if sessions run over IPv4.
var hubInside4 = netip.MustParseAddr("10.99.0.1")

// probePort takes the datagrams that show where a prefix's packets arrive.
const probePort = 9

// Every address of these is local to every spoke: wherever a packet for a mobile prefix comes out, that spoke takes it.
var mobile4, mobile6 = netip.MustParsePrefix("10.200.0.0/13"), netip.MustParsePrefix("fd00:200::/32")

// spoke is a site of the hub: a namespace with a WireGuard device of this process and a BGP speaker that says what the
// test tells it.
type spoke struct {
	name         string
	asn          uint32
	ns           *netns.NS
	key          wg.Secret
	ll           netip.Addr // without a zone
	inside4      netip.Addr // of the tunnel, if sessions run over IPv4
	host4, host6 netip.Addr // addresses of lo, in the prefixes that stay
	bgp          *bgptest.Peer
}

// hub is a gateway with its spokes, and what its tables should hold.
type hub struct {
	*site
	d        *daemon
	inKernel bool // tunnels are the kernel's, at all ends
	// compressed says that allowed-IPs are: what packets see of them is compared then.
	compressed bool
	ipv4       bool // see hubOptions
	spokes     []*spoke
	// prefixes are all prefixes that spokes announce, and owner the spoke that should carry each.
	prefixes []netip.Prefix
	owner    []int
	// length of the AS path with which each is announced.
	length  []int
	random  *rand.Rand
	probes  *net.UDPConn
	arrived arrivals
}

// arrivals notes at which spoke the last round of probes came out.
type arrivals struct {
	mu    sync.Mutex
	round uint32
	at    map[uint32]int // index of the prefix → spoke
	// may says where probes of the round `anytime` may come out, by index of the prefix; strays are those that came out elsewhere, and stray
	// counts them all.
	may    map[uint32][2]int
	came   int
	stray  int
	strays []string
}

// anytime is the round of probes that are sent while prefixes move.
const anytime = 1<<32 - 1

// moves notes that a prefix is about to move: from now on, until it moves again, packets may come out at either spoke.
func (a *arrivals) moves(prefix, from, to int) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.may == nil {
		a.may = map[uint32][2]int{}
	}
	a.may[uint32(prefix)] = [2]int{from, to}
}

// take notes where a probe came out.
func (a *arrivals) take(round, prefix uint32, at int) {
	a.mu.Lock()
	defer a.mu.Unlock()
	switch {
	case round == anytime:
		a.came++
		if may := a.may[prefix]; at != may[0] && at != may[1] {
			if a.stray++; a.stray <= 5 {
				a.strays = append(a.strays, fmt.Sprintf("a packet for prefix %d came out at spoke %d, not at %d or %d", prefix, at, may[0], may[1]))
			}
		}
	case round == a.round:
		a.at[prefix] = at
	}
}

func newHub(t testing.TB, spokes int) *hub {
	t.Helper()
	return newHubWith(t, spokes, "hub")
}

// newHubWith is newHub with another policy for the spokes; `many` is hub that takes more prefixes from one.
func newHubWith(t testing.TB, spokes int, policy string) *hub {
	t.Helper()
	return newHubOn(t, newLab(t), spokes, hubOptions{policy: policy, backend: config.BackendUserspace})
}

// hubOptions say how a hub reaches its spokes.
type hubOptions struct {
	policy  string
	backend config.Backend
	ipv4    bool // sessions run over IPv4, and carry nothing else
	// compress is routes.compress_above if it is not 0.
	compress int
}

func newHubOn(t testing.TB, l *lab, spokes int, o hubOptions) *hub {
	t.Helper()
	h := newIdleHubOn(t, l, spokes, o)
	for _, s := range h.spokes {
		h.connect(s)
	}
	h.d.sessionsUp(spokes)
	must(t, h.host.Do(func() (err error) {
		h.probes, err = net.ListenUDP("udp", nil)
		return err
	}))
	t.Cleanup(func() { h.probes.Close() })
	for i, s := range h.spokes {
		h.listen(i, s)
	}
	return h
}

// newIdleHub is a gateway that runs, with spokes that have tunnels and no sessions.
func newIdleHub(t testing.TB, l *lab, spokes int, policy string) *hub {
	t.Helper()
	return newIdleHubOn(t, l, spokes, hubOptions{policy: policy, backend: config.BackendUserspace})
}

func newIdleHubOn(t testing.TB, l *lab, spokes int, o hubOptions) *hub {
	t.Helper()
	h := &hub{site: l.site("hub"), inKernel: o.backend == config.BackendKernel, ipv4: o.ipv4, random: rand.New(rand.NewPCG(1, 2))}
	var yaml strings.Builder
	yaml.WriteString(h.head())
	fmt.Fprintf(&yaml, "  device: %s\n  backend: %s\nbgp: { hold_time: 90s }\n", hubDevice, o.backend)
	if h.compressed = o.compress > 0; h.compressed {
		fmt.Fprintf(&yaml, "routes: { compress_above: %d }\n", o.compress)
	}
	yaml.WriteString("policies:\n  many: { extends: hub, max_prefixes_ipv4: 2000, max_prefixes_ipv6: 2000 }\npeers:\n")
	for i := range spokes {
		s := h.spoke(i)
		h.spokes = append(h.spokes, s)
		tunnel := ""
		if h.ipv4 {
			tunnel = fmt.Sprintf(", tunnel: { local: %v, remote: %v }", hubInside4, s.inside4)
		}
		fmt.Fprintf(&yaml, "  %s: { public_key: %s, asn: %d, policy: %s%s }\n", s.name, s.key.Public(), s.asn, o.policy, tunnel)
	}
	h.d = h.run(yaml.String())
	return h
}

// spoke makes number i: 198.18.0.(100+i) outside, 10.100.i.1 and fd00:100:i::1 inside.
func (h *hub) spoke(i int) *spoke { return h.spokeAt(i, 51820) }

// spokeAt is spoke with the hub's UDP port for it.
func (h *hub) spokeAt(i int, port uint16) *spoke {
	t := h.t
	t.Helper()
	s := &spoke{
		name: fmt.Sprintf("spoke-%02d", i), asn: 4242421000 + uint32(i),
		host4: netip.AddrFrom4([4]byte{10, 100, byte(i), 1}),
		host6: netip.MustParseAddr(fmt.Sprintf("fd00:100:%x::1", i)), inside4: netip.AddrFrom4([4]byte{10, 99, 1, byte(i)}),
	}
	s.ns = nstest.NS(t, s.name)
	var err error
	s.key, err = wg.NewPrivateKey()
	must(t, err)
	s.ll = config.LinkLocal(s.key.Public())
	must(t, netns.Attach(h.l.sw, "br0", s.ns, "eth0", netns.LinkOpts{AddrsA: []netip.Prefix{
		netip.PrefixFrom(netip.AddrFrom4([4]byte{198, 18, 0, byte(100 + i)}), 24),
	}}))
	must(t, s.ns.Do(func() error {
		open := user.Options{NoControl: true}.Opener()
		if h.inKernel {
			open = kernel.Options{}.Opener()
		}
		dev, err := open(t.Context(), wg.DeviceConfig{Name: hubDevice, PrivateKey: s.key, ListenPort: 51820, MTU: 1420})
		if err != nil {
			return err
		}
		t.Cleanup(func() { dev.Close(true) })
		return dev.Apply(t.Context(), wg.Delta{
			SetPeers: []wg.PeerConfig{{
				Name: h.name, PublicKey: h.pub(), Endpoint: netip.AddrPortFrom(h.out4, port), PersistentKeepalive: 25 * time.Second,
			}},
			Allow: []wg.AllowedIP{
				{Prefix: netip.MustParsePrefix("0.0.0.0/0"), Peer: h.pub()}, {Prefix: netip.MustParsePrefix("::/0"), Peer: h.pub()},
			},
		})
	}))
	must(t, s.ns.Sysctl("net.ipv6.conf."+hubDevice+".addr_gen_mode", "1"))
	must(t, s.ns.Addr(hubDevice, netip.PrefixFrom(s.ll, 64)))
	must(t, s.ns.Up(hubDevice))
	must(t, s.ns.Addr("lo", netip.PrefixFrom(s.host4, 32), netip.PrefixFrom(s.host6, 128)))
	inside := []netip.Prefix{h.lan4, h.lan6}
	if h.ipv4 {
		must(t, s.ns.Addr(hubDevice, netip.PrefixFrom(s.inside4, 32)))
		inside = append(inside, netip.PrefixFrom(hubInside4, 32))
	}
	for _, p := range inside {
		must(t, s.ns.Route(p, netip.Addr{}, hubDevice))
	}
	for _, p := range []netip.Prefix{mobile4, mobile6} {
		nstest.Run(t, s.ns, "ip", "route", "add", "local", p.String(), "dev", "lo")
	}
	return s
}

// connect opens the BGP session of a spoke.
func (h *hub) connect(s *spoke) {
	h.t.Helper()
	var err error
	s.bgp, err = h.dial(s)
	must(h.t, err)
	h.t.Cleanup(s.bgp.Close)
}

// dial opens a BGP session of a spoke, over link-local addresses that follow from the keys, or over IPv4.
func (h *hub) dial(s *spoke) (p *bgptest.Peer, err error) {
	i, err := s.ns.Index(hubDevice)
	if err != nil {
		return nil, err
	}
	// By number: package net would look the name up in any namespace.
	zone := strconv.Itoa(i)
	options := bgptest.Options{
		Local: s.ll.WithZone(zone), Remote: netip.AddrPortFrom(config.LinkLocal(h.pub()).WithZone(zone), 179),
		ASN: s.asn, IPv4: true, IPv6: true, ExtendedNextHop: true,
	}
	if h.ipv4 {
		options = bgptest.Options{Local: s.inside4, Remote: netip.AddrPortFrom(hubInside4, 179), ASN: s.asn, IPv4: true}
	}
	err = s.ns.Do(func() (err error) {
		p, err = bgptest.Dial(h.t.Context(), options)
		return err
	})
	return p, err
}

// listen takes the probes that come out at spoke number i.
func (h *hub) listen(i int, s *spoke) {
	t := h.t
	t.Helper()
	var c *net.UDPConn
	must(t, s.ns.Do(func() (err error) {
		c, err = net.ListenUDP("udp", &net.UDPAddr{Port: probePort})
		return err
	}))
	t.Cleanup(func() { c.Close() })
	go func() {
		buf := make([]byte, 64)
		for {
			n, _, err := c.ReadFromUDPAddrPort(buf)
			switch {
			case errors.Is(err, net.ErrClosed):
				return
			case err != nil || n < 8:
				continue
			}
			h.arrived.take(binary.BigEndian.Uint32(buf), binary.BigEndian.Uint32(buf[4:]), i)
		}
	}()
}

// stable lets every spoke announce the prefixes of its own hosts, which never move.
func (h *hub) stable() {
	for i, s := range h.spokes {
		for _, p := range []netip.Prefix{netip.PrefixFrom(s.host4, 24).Masked(), netip.PrefixFrom(s.host6, 64).Masked()} {
			h.add(p, i)
		}
	}
}

// mobile lets the spokes announce n prefixes, half of each family and next to each other, that will move.
func (h *hub) mobile(n int) {
	a4, a6 := mobile4.Addr().As4(), mobile6.Addr().As16()
	for k := range n / 2 {
		binary.BigEndian.PutUint16(a4[1:], 200<<8+uint16(k+1))
		binary.BigEndian.PutUint16(a6[6:], uint16(k+1))
		h.add(netip.PrefixFrom(netip.AddrFrom4(a4), 24), h.random.IntN(len(h.spokes)))
		h.add(netip.PrefixFrom(netip.AddrFrom16(a6), 64), h.random.IntN(len(h.spokes)))
	}
}

// deliver sends a datagram from the host behind the hub to each prefix and asserts that it comes out at the spoke that
// should have it, and nowhere else. It sends forty at a time: a thousand at once would fill queues that the pings share.
func (h *hub) deliver(when string) {
	t := h.t
	t.Helper()
	const burst, again = 40, 500 * time.Millisecond
	h.arrived.mu.Lock()
	h.arrived.round++
	payload := binary.BigEndian.AppendUint32(nil, h.arrived.round)
	h.arrived.at = make(map[uint32]int, len(h.prefixes))
	h.arrived.mu.Unlock()
	sent := make([]time.Time, len(h.prefixes))
	nstest.Eventually(t, nstest.Patience(30*time.Second), "the probes to come out "+when, func() error {
		missing := h.missing(when)
		if len(missing) == 0 {
			return nil
		}
		n := 0
		for _, k := range missing {
			if time.Since(sent[k]) < again || n == burst {
				continue
			}
			n++
			sent[k] = time.Now()
			dst := netip.AddrPortFrom(h.prefixes[k].Addr().Next(), probePort)
			if _, err := h.probes.WriteToUDPAddrPort(binary.BigEndian.AppendUint32(payload, uint32(k)), dst); err != nil {
				return err
			}
		}
		return fmt.Errorf("%d of %d have not, such as %s", len(missing), len(h.prefixes), h.prefixes[missing[0]])
	})
}

// missing returns the prefixes whose probe of this round has not come out yet. One that came out at the wrong spoke ends
// the test.
func (h *hub) missing(when string) (out []int) {
	h.t.Helper()
	h.arrived.mu.Lock()
	at := maps.Clone(h.arrived.at)
	h.arrived.mu.Unlock()
	for k, owner := range h.owner {
		switch got, ok := at[uint32(k)]; {
		case owner == nobody:
		case !ok:
			out = append(out, k)
		case got != owner:
			h.t.Fatalf("%s: a packet for %s came out at %s instead of %s", when, h.prefixes[k], h.spokes[got].name, h.spokes[owner].name)
		}
	}
	return out
}
