package bgp

import (
	"net/netip"
	"testing"

	"sitewire/bgp/bgptest"
)

// The prefixes of an UPDATE share one record of its attributes, in both families: with a full table that is the greater
// part of what we keep.
func TestPrefixesOfAnUpdateShareAttributes(t *testing.T) {
	l := newLab(t, passive("a", 2, 65001, accepting()))
	a := l.peer(2, 65001)
	for name, tt := range map[string]struct {
		hop      netip.Addr
		prefixes []string
	}{
		"IPv4": {hop4(2), []string{"10.2.0.0/16", "10.3.0.0/16"}},
		"IPv6": {netip.MustParseAddr("fd00::2"), []string{"fd01::/48", "fd02::/48"}},
	} {
		announce(t, a, bgptest.Update{NextHop: []netip.Addr{tt.hop}, ASPath: []uint32{65001}, Communities: []uint32{65001<<16 | 7}}, tt.prefixes...)
		l.feed.wait(t, name, func() bool {
			return l.feed.path("a", tt.prefixes[0]) != nil && l.feed.path("a", tt.prefixes[1]) != nil
		})
		l.feed.mu.Lock()
		if one, two := l.feed.path("a", tt.prefixes[0]), l.feed.path("a", tt.prefixes[1]); one.Attrs != two.Attrs || one.Rejected != "" {
			t.Errorf("%s: attributes %p %+v and %p of one UPDATE, refused %q", name, one.Attrs, one.Attrs, two.Attrs, one.Rejected)
		}
		l.feed.mu.Unlock()
	}
}
