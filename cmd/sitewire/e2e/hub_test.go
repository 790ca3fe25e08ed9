package e2e

import (
	"bufio"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"net"
	"net/netip"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"sitewire/bgp/bgptest"
	"sitewire/gateway/config"
	"sitewire/gateway/wg"
	"sitewire/gateway/wg/user"
	"sitewire/topologies/netns"
	"sitewire/topologies/netns/nstest"
)

const (
	// hubDevice is the one device that all spokes share.
	hubDevice = "wg0"
	// probePort takes the datagrams that show where a prefix's packets arrive.
	probePort = 9
	// moveRounds is how often every mobile prefix moves.
	moveRounds = 10
)

// Every address of these is local to every spoke: wherever a packet for a mobile prefix comes out, that spoke takes it.
var mobile4, mobile6 = netip.MustParsePrefix("10.200.0.0/14"), netip.MustParsePrefix("fd00:200::/32")

// TestHub: fifty spokes on one shared device. Every prefix's packets come out at the spoke that announces it, and ten
// thousand moves of other prefixes between the spokes lose no packet of those that stay.
func TestHub(t *testing.T) {
	spokes, mobiles := 50, 1000
	if raceEnabled {
		spokes, mobiles = 12, 240 // the detector makes each packet and each UPDATE several times as dear
	}
	h := newHub(t, spokes)
	h.stable()
	h.mobile(mobiles)

	begin := time.Now()
	h.settle("the first announcements")
	t.Logf("%d spokes, %d prefixes on %s: settled after %v", spokes, len(h.owner), hubDevice, time.Since(begin).Round(time.Millisecond))
	h.deliver("before any move")

	// All spokes would be a burst of a hundred packets at each tick: two in five carry the pings.
	var pinged []netip.Addr
	for i := range min(20, spokes) {
		s := h.spokes[i*spokes/min(20, spokes)]
		pinged = append(pinged, s.host4, s.host6)
	}
	flow, err := netns.StartFlow(h.host, pinged, netns.FlowOpts{Interval: 25 * time.Millisecond})
	must(t, err)
	var busy time.Duration
	moves := 0
	for round := range moveRounds {
		begin := time.Now()
		n := h.move(round, len(h.owner)-mobiles)
		took := time.Since(begin)
		busy += took
		moves += n
		h.certify(fmt.Sprintf("round %d", round))
		h.deliver(fmt.Sprintf("after round %d", round))
		t.Logf("round %d: %d moves in %v", round, n, took.Round(time.Millisecond))
	}
	lost, sent, worst := 0, 0, time.Duration(0)
	for _, r := range flow.Stop(3 * time.Second) {
		lost, sent, worst = lost+r.Lost(), sent+r.Sent, max(worst, r.MaxRTT)
		if r.Lost() != 0 {
			t.Errorf("a prefix that did not move lost packets: %s", r)
		}
	}
	t.Logf("%d moves in %v: %.0f/s; %d pings to %d prefixes that stayed: %d lost, slowest %v",
		moves, busy.Round(time.Millisecond), float64(moves)/busy.Seconds(), sent, len(pinged), lost, worst.Round(time.Millisecond))

	if lost > 0 { // where: a queue that was full, or a route or an allowed-IP that was away for a moment
		t.Logf("%s:\n%s", h.name, nstest.Run(t, h.ns, "ip", "-s", "link"))
	}
	h.settle("the end")
	h.certify("the end")
	h.d.sessionsUp(spokes)
	for _, s := range h.spokes {
		if x := h.d.session(s.name); x.Establishments != 1 {
			t.Errorf("the session with %s was established %d times", s.name, x.Establishments)
		}
	}
}

// spoke is a site of the hub: a namespace with a WireGuard device of this process and a BGP speaker that says what the
// test tells it.
type spoke struct {
	name         string
	asn          uint32
	ns           *netns.NS
	key          wg.Secret
	ll           netip.Addr // without a zone
	host4, host6 netip.Addr // addresses of lo, in the prefixes that stay
	bgp          *bgptest.Peer
}

// hub is a gateway with its spokes, and what its tables should hold.
type hub struct {
	*site
	d      *daemon
	spokes []*spoke
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
}

func newHub(t testing.TB, spokes int) *hub {
	t.Helper()
	l := newLab(t)
	h := &hub{site: l.site("hub"), random: rand.New(rand.NewPCG(1, 2))}
	var yaml strings.Builder
	yaml.WriteString(h.head())
	fmt.Fprintf(&yaml, "  device: %s\nbgp: { hold_time: 90s }\npeers:\n", hubDevice)
	for i := range spokes {
		s := h.spoke(i)
		h.spokes = append(h.spokes, s)
		fmt.Fprintf(&yaml, "  %s: { public_key: %s, asn: %d, policy: hub }\n", s.name, s.key.Public(), s.asn)
	}
	h.d = h.run(yaml.String())
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

// spoke makes number i: 198.18.0.(100+i) outside, 10.100.i.1 and fd00:100:i::1 inside.
func (h *hub) spoke(i int) *spoke {
	t := h.t
	t.Helper()
	s := &spoke{
		name: fmt.Sprintf("spoke-%02d", i), asn: 4242421000 + uint32(i),
		host4: netip.AddrFrom4([4]byte{10, 100, byte(i), 1}),
		host6: netip.MustParseAddr(fmt.Sprintf("fd00:100:%x::1", i)),
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
		dev, err := user.Open(t.Context(), wg.DeviceConfig{Name: hubDevice, PrivateKey: s.key, ListenPort: 51820}, user.Options{NoControl: true})
		if err != nil {
			return err
		}
		t.Cleanup(func() { dev.Close(true) })
		return dev.Apply(t.Context(), wg.Delta{
			SetPeers: []wg.PeerConfig{{
				Name: h.name, PublicKey: h.pub(), Endpoint: netip.AddrPortFrom(h.out4, 51820), PersistentKeepalive: 25 * time.Second,
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
	for _, p := range []netip.Prefix{h.lan4, h.lan6} {
		must(t, s.ns.Route(p, netip.Addr{}, hubDevice))
	}
	for _, p := range []netip.Prefix{mobile4, mobile6} {
		nstest.Run(t, s.ns, "ip", "route", "add", "local", p.String(), "dev", "lo")
	}
	return s
}

// connect opens the BGP session of a spoke, over link-local addresses that follow from the keys.
func (h *hub) connect(s *spoke) {
	t := h.t
	t.Helper()
	i, err := s.ns.Index(hubDevice)
	must(t, err)
	// By number: package net would look the name up in any namespace.
	zone := strconv.Itoa(i)
	must(t, s.ns.Do(func() (err error) {
		s.bgp, err = bgptest.Dial(t.Context(), bgptest.Options{
			Local: s.ll.WithZone(zone), Remote: netip.AddrPortFrom(config.LinkLocal(h.pub()).WithZone(zone), 179),
			ASN: s.asn, IPv4: true, IPv6: true, ExtendedNextHop: true,
		})
		return err
	}))
	t.Cleanup(s.bgp.Close)
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
			round, prefix := binary.BigEndian.Uint32(buf), binary.BigEndian.Uint32(buf[4:])
			h.arrived.mu.Lock()
			if round == h.arrived.round {
				h.arrived.at[prefix] = i
			}
			h.arrived.mu.Unlock()
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

// mobile lets the spokes announce n prefixes, half of each family, that will move.
func (h *hub) mobile(n int) {
	a4, a6 := mobile4.Addr().As4(), mobile6.Addr().As16()
	for k := range n / 2 {
		binary.BigEndian.PutUint16(a4[1:], 200<<8+uint16(k))
		binary.BigEndian.PutUint16(a6[4:], uint16(k))
		h.add(netip.PrefixFrom(netip.AddrFrom4(a4), 24), h.random.IntN(len(h.spokes)))
		h.add(netip.PrefixFrom(netip.AddrFrom16(a6), 64), h.random.IntN(len(h.spokes)))
	}
}

// startLength is the AS path with which prefixes start: long enough that a move can offer a shorter one.
const startLength = 4

func (h *hub) add(p netip.Prefix, owner int) {
	h.prefixes, h.owner, h.length = append(h.prefixes, p), append(h.owner, owner), append(h.length, startLength)
	h.announce(len(h.prefixes)-1, owner, startLength)
}

// announce sends one UPDATE for one prefix.
func (h *hub) announce(prefix, from, length int) {
	h.t.Helper()
	s := h.spokes[from]
	path := []uint32{s.asn}
	for len(path) < length {
		path = append(path, 4242429000+uint32(len(path)))
	}
	must(h.t, s.bgp.Announce(bgptest.Update{Prefixes: h.prefixes[prefix : prefix+1], NextHop: []netip.Addr{s.ll}, ASPath: path}))
}

// batch is how many prefixes move at once. Each move is one UPDATE, or two, to each of the other spokes: what is measured
// here is not how much of the device's queue they fill on a machine that has other things to do.
const batch = 25

// move gives every prefix from number first on to another spoke, in batches, with the tables in agreement after each.
// It returns how many moved.
func (h *hub) move(round, first int) (moves int) {
	order := h.random.Perm(len(h.prefixes) - first)
	for prefixes := range slices.Chunk(order, batch) {
		for i := range prefixes {
			prefixes[i] += first
		}
		if round%2 == 0 {
			h.take(prefixes)
		} else {
			h.leave(prefixes)
		}
		moves += len(prefixes)
	}
	return moves
}

// take moves prefixes by a better path: the new spoke announces a shorter one, and the old spoke withdraws its own when
// that no longer matters.
func (h *hub) take(prefixes []int) {
	old := slices.Clone(h.owner)
	for _, k := range prefixes {
		h.owner[k] = h.other(k)
		h.length[k]--
		h.announce(k, h.owner[k], h.length[k])
	}
	h.settle("a better path")
	for _, k := range prefixes {
		must(h.t, h.spokes[old[k]].bgp.Withdraw(h.prefixes[k]))
	}
}

// leave moves prefixes by withdrawal: the old spoke withdraws while the new one announces a longer path, in whatever
// order the two arrive.
func (h *hub) leave(prefixes []int) {
	for _, k := range prefixes {
		old := h.owner[k]
		h.owner[k] = h.other(k)
		h.length[k]++
		h.announce(k, h.owner[k], h.length[k])
		must(h.t, h.spokes[old].bgp.Withdraw(h.prefixes[k]))
	}
	h.settle("a withdrawal")
}

// other chooses a spoke that does not have the prefix.
func (h *hub) other(prefix int) int {
	return (h.owner[prefix] + 1 + h.random.IntN(len(h.spokes)-1)) % len(h.spokes)
}

// table is a set of prefixes, each with the peer or the device that has it.
type table map[netip.Prefix]string

// want returns the allowed-IPs and the kernel routes that the announcements ask for.
func (h *hub) want() (allowed, kernel table) {
	allowed, kernel = table{}, table{}
	for _, s := range h.spokes {
		allowed[netip.PrefixFrom(s.ll, 128)] = s.key.Public().String()
	}
	for k, p := range h.prefixes {
		allowed[p] = h.spokes[h.owner[k]].key.Public().String()
		kernel[p] = hubDevice
	}
	return allowed, kernel
}

// settle waits until the device's allowed-IPs and the kernel's routes are exactly those that the announcements ask for:
// no entry more, none less, each with the right spoke.
func (h *hub) settle(what string) {
	h.t.Helper()
	allowed, kernel := h.want()
	nstest.Eventually(h.t, 60*time.Second, "the tables to agree: "+what, func() error {
		return errors.Join(differ("allowed-IPs", h.allowed(), allowed), differ("kernel routes", h.kernel(), kernel))
	})
}

// certify is settle with the eyes of wg(8) and ip(8).
func (h *hub) certify(what string) {
	t := h.t
	t.Helper()
	allowed, kernel := h.want()
	got := table{}
	for line := range strings.Lines(nstest.Run(t, h.ns, "wg", "show", hubDevice, "allowed-ips")) {
		fields := strings.Fields(line)
		for _, p := range fields[1:] {
			if p != "(none)" {
				got[netip.MustParsePrefix(p)] = fields[0]
			}
		}
	}
	fib := table{}
	for _, p := range h.d.fib() {
		fib[p] = hubDevice
	}
	if err := errors.Join(differ("wg show", got, allowed), differ("ip route", fib, kernel)); err != nil {
		t.Errorf("%s: %v", what, err)
	}
}

// allowed asks the device who owns each allowed-IP, as wg(8) does but without a new process each time.
func (h *hub) allowed() table {
	t := h.t
	t.Helper()
	c, err := net.Dial("unix", filepath.Join(h.ns.RunDir(), "wireguard", hubDevice+".sock"))
	must(t, err)
	defer c.Close()
	_, err = io.WriteString(c, "get=1\n\n")
	must(t, err)
	out, peer := table{}, ""
	for lines := bufio.NewScanner(c); lines.Scan() && lines.Text() != ""; {
		switch key, value, _ := strings.Cut(lines.Text(), "="); key {
		case "public_key":
			b, err := hex.DecodeString(value)
			must(t, err)
			peer = base64.StdEncoding.EncodeToString(b)
		case "allowed_ip":
			out[netip.MustParsePrefix(value)] = peer
		}
	}
	return out
}

// kernel returns the device of each of the daemon's unicast routes in the kernel.
func (h *hub) kernel() table {
	t := h.t
	t.Helper()
	i, err := h.ns.Index(hubDevice)
	must(t, err)
	out := table{}
	for _, family := range []int{netlink.FAMILY_V4, netlink.FAMILY_V6} {
		number, err := strconv.Atoi(protocol)
		must(t, err)
		rows, err := h.ns.Netlink().RouteListFiltered(family, &netlink.Route{Protocol: netlink.RouteProtocol(number)}, netlink.RT_FILTER_PROTOCOL)
		if errors.Is(err, netlink.ErrDumpInterrupted) {
			return nil // the next look is a better one
		}
		must(t, err)
		for _, r := range rows {
			if r.Type != unix.RTN_UNICAST {
				continue
			}
			device := fmt.Sprintf("device %d", r.LinkIndex)
			if r.LinkIndex == i {
				device = hubDevice
			}
			dst, ok := netip.AddrFromSlice(r.Dst.IP)
			bits, _ := r.Dst.Mask.Size()
			if !ok {
				t.Fatalf("destination %v", r.Dst)
			}
			out[netip.PrefixFrom(dst, bits)] = device
		}
	}
	return out
}

// differ reports the first differences of two tables.
func differ(what string, got, want table) error {
	var wrong []string
	for p, w := range want {
		if g, ok := got[p]; !ok {
			wrong = append(wrong, fmt.Sprintf("%s is missing", p))
		} else if g != w {
			wrong = append(wrong, fmt.Sprintf("%s leads to %s, not %s", p, g, w))
		}
	}
	for p := range got {
		if _, ok := want[p]; !ok {
			wrong = append(wrong, fmt.Sprintf("%s should not be there", p))
		}
	}
	if len(wrong) == 0 {
		return nil
	}
	slices.Sort(wrong)
	return fmt.Errorf("%s: %d differences: %s", what, len(wrong), strings.Join(wrong[:min(3, len(wrong))], "; "))
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
	nstest.Eventually(t, 30*time.Second, "the probes to come out "+when, func() error {
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
		case !ok:
			out = append(out, k)
		case got != owner:
			h.t.Fatalf("%s: a packet for %s came out at %s instead of %s", when, h.prefixes[k], h.spokes[got].name, h.spokes[owner].name)
		}
	}
	return out
}
