package e2e

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"time"

	"sitewire/gateway"
	"sitewire/gateway/config"
	"sitewire/topologies/netns"
	"sitewire/topologies/netns/nstest"
)

// TestCompressed: a hub that joins and splits allowed-IPs while prefixes next to each other move between three spokes, and while
// what covers them comes and goes. What wg(8) shows gives every address the owner that the announcements ask for, with fewer
// entries, packets come out where they should, and none is lost to prefixes that stay.
func TestCompressed(t *testing.T) {
	const spokes, mobiles, staying = 3, 160, 24
	h := newHubOn(t, newLab(t), spokes, hubOptions{policy: "many", backend: config.BackendUserspace, compress: 8})
	h.stable()
	covers := len(h.prefixes)
	h.add(netip.MustParsePrefix("10.200.0.0/17"), 0)
	h.add(netip.MustParsePrefix("fd00:200::/56"), 1)
	first := len(h.prefixes) + staying
	h.mobile(mobiles)
	h.settle("the first announcements")
	h.deliver("before any move")

	var pinged []netip.Addr
	for _, s := range h.spokes {
		pinged = append(pinged, s.host4, s.host6)
	}
	for _, p := range h.prefixes[first-staying : first] {
		pinged = append(pinged, p.Addr().Next())
	}
	flow, err := netns.StartFlow(h.host, pinged, netns.FlowOpts{Interval: 25 * time.Millisecond})
	must(t, err)
	moves := 0
	for round := range 6 {
		moves += h.move(round, first)
		for k := covers; k < covers+2; k++ {
			if round%2 == 0 {
				must(t, h.spokes[h.owner[k]].bgp.Withdraw(h.prefixes[k]))
				h.owner[k] = nobody
			} else {
				h.owner[k] = (round + k) % spokes
				h.announce(k, h.owner[k], startLength)
			}
		}
		h.settle(fmt.Sprintf("covering prefixes, round %d", round))
		h.certify(fmt.Sprintf("round %d", round))
		h.deliver(fmt.Sprintf("after round %d", round))
	}
	// What is superfluous goes in a quiet moment.
	want, _ := h.want()
	nstest.Eventually(t, nstest.Patience(30*time.Second), "fewer entries", func() error {
		if n := len(h.shown()); n*4 > len(want)*3 {
			return fmt.Errorf("%d entries for %d prefixes", n, len(want))
		}
		return nil
	})
	h.certify("tidied")
	h.deliver("when it was tidied")
	for _, r := range flow.Stop(2 * time.Second) {
		if r.Lost() != 0 {
			t.Errorf("a prefix that did not move lost packets: %s", r)
		}
	}
	shown := h.shown()
	t.Logf("%d moves; %d entries for %d prefixes", moves, len(shown), len(want))

	// The gateway names the entry that stands for each prefix.
	var v gateway.Routes
	must(t, h.d.get("/v1/routes", &v))
	named := 0
	for _, r := range v.Routes {
		k := slices.Index(h.prefixes, r.Prefix)
		if k < 0 || h.owner[k] == nobody {
			continue
		}
		s := h.spokes[h.owner[k]]
		if len(r.AllowedOn) != 1 || r.AllowedOn[0].Peer != s.name || !r.AllowedOn[0].Prefix.Overlaps(r.Prefix) ||
			shown[r.AllowedOn[0].Prefix] != s.key.Public().String() {
			t.Errorf("%s of %s: allowed-IPs %v", r.Prefix, s.name, r.AllowedOn)
		}
		named++
	}
	if named != len(want)-spokes { // beside the tunnels' own addresses
		t.Errorf("%d of %d prefixes are listed", named, len(want)-spokes)
	}
}
