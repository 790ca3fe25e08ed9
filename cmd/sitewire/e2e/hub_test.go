package e2e

import (
	"bufio"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"sitewire/bgp/bgptest"
	"sitewire/routes"
	"sitewire/routes/routestest"
	"sitewire/topologies/netns"
	"sitewire/topologies/netns/nstest"
)

// moveRounds is how often every mobile prefix moves.
const moveRounds = 10

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

// startLength is the AS path with which prefixes start: long enough that a move can offer a shorter one.
const startLength = 4

func (h *hub) add(p netip.Prefix, owner int) {
	h.prefixes, h.owner, h.length = append(h.prefixes, p), append(h.owner, owner), append(h.length, startLength)
	h.announce(len(h.prefixes)-1, owner, startLength)
}

// announce sends one UPDATE for one prefix.
func (h *hub) announce(prefix, from, length int) {
	h.t.Helper()
	h.announceFrom(h.prefixes[prefix:prefix+1], from, length)
}

// announceFrom sends one UPDATE for prefixes of one family.
func (h *hub) announceFrom(prefixes []netip.Prefix, from, length int) {
	h.t.Helper()
	s := h.spokes[from]
	path := []uint32{s.asn}
	for len(path) < length {
		path = append(path, 4242429000+uint32(len(path)))
	}
	must(h.t, s.bgp.Announce(bgptest.Update{Prefixes: prefixes, NextHop: []netip.Addr{s.ll}, ASPath: path}))
}

// batch is how many prefixes move at once. Each move is one UPDATE, or two, to each of the other spokes: what is measured
// here is not how much of the device's queue they fill on a machine that has other things to do.
const batch = 25

// nobody owns a prefix that is not announced.
const nobody = -1

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
		h.arrived.moves(k, old[k], h.owner[k])
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
		h.arrived.moves(k, old, h.owner[k])
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
		if h.owner[k] == nobody {
			continue
		}
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
	nstest.Eventually(h.t, nstest.Patience(60*time.Second), "the tables to agree: "+what, func() error {
		return errors.Join(h.owners("allowed-IPs", h.allowed(), allowed), differ("kernel routes", h.kernel(), kernel))
	})
}

// owners compares allowed-IPs: entry by entry, or what packets see of them.
func (h *hub) owners(what string, got, want table) error {
	if !h.compressed {
		return differ(what, got, want)
	}
	list := func(t table) (out []routes.AllowedIP) {
		for p, peer := range t {
			out = append(out, routes.AllowedIP{Device: hubDevice, Prefix: p, Peer: peer})
		}
		return out
	}
	if err := routestest.SameOwners(list(got), list(want)); err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	return nil
}

// certify is settle with the eyes of wg(8) and ip(8).
func (h *hub) certify(what string) {
	t := h.t
	t.Helper()
	allowed, kernel := h.want()
	got := h.shown()
	fib := table{}
	for _, p := range h.d.fib() {
		fib[p] = hubDevice
	}
	if err := errors.Join(h.owners("wg show", got, allowed), differ("ip route", fib, kernel)); err != nil {
		t.Errorf("%s: %v", what, err)
	}
}

// shown asks wg(8) who owns each allowed-IP.
func (h *hub) shown() table {
	out := table{}
	for peer, list := range wgAllowed(h.t, h.ns, hubDevice) {
		for _, p := range list {
			if p != "(none)" {
				out[netip.MustParsePrefix(p)] = peer
			}
		}
	}
	return out
}

// allowed asks the device who owns each allowed-IP, as wg(8) does but without a new process each time.
func (h *hub) allowed() table {
	t := h.t
	t.Helper()
	if h.inKernel {
		return h.shown()
	}
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
