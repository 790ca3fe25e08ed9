package e2e

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"sitewire/topologies/netns/nstest"
)

// TestExtendedNextHopAuto: RFC 8950 section 4. A neighbour that does not announce the capability gets no IPv4 route with
// an IPv6 next hop: it gets an IPv4 next hop if the tunnel has one, else nothing, and the session says so.
func TestExtendedNextHopAuto(t *testing.T) {
	auto := func(yaml string) string {
		return strings.Replace(yaml, "extended_next_hop: off", "extended_next_hop: auto", 1)
	}
	t.Run("with IPv4 in the tunnel", func(t *testing.T) {
		l := newLab(t)
		a, b := l.site("ours"), l.site("theirs")
		f := b.wireguard(a)
		f.bird(a, shapeB)
		d := a.run(a.head() + "bgp: { hold_time: 9s }\npeers:\n" + auto(b.peerYAML(shapeB)))
		d.sessionsUp(1)
		nstest.Eventually(t, 20*time.Second, "BIRD to have both families", func() error {
			got, err := f.learned()
			if err != nil {
				return err
			}
			return equalPrefixes(t, "learned by BIRD", got, sorted([]netip.Prefix{a.lan4, a.lan6}))
		})
		reach(t, a, b)
	})
	t.Run("without", func(t *testing.T) {
		l := newLab(t)
		a, b := l.site("ours"), l.site("theirs")
		f := b.wireguard(a)
		f.bird(a, shapeB)
		yaml := auto(b.peerYAML(shapeB))
		yaml = strings.Replace(yaml, fmt.Sprintf(", local_ipv4: %s, remote_ipv4: %s", in4[0], in4[1]), "", 1)
		d := a.run(a.head() + "bgp: { hold_time: 9s }\npeers:\n" + yaml)
		d.sessionsUp(1)
		nstest.Eventually(t, 20*time.Second, "BIRD to have IPv6 only", func() error {
			got, err := f.learned()
			if err != nil {
				return err
			}
			return equalPrefixes(t, "learned by BIRD", got, []netip.Prefix{a.lan6})
		})
		if w := d.session("theirs").Warnings; !slices.ContainsFunc(w, func(s string) bool {
			return strings.Contains(s, "IPv4 held back") && strings.Contains(s, "local_ipv4")
		}) {
			t.Errorf("no warning says that IPv4 is held back, and what to do: %q", w)
		}
	})
}
