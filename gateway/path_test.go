package gateway

import (
	"context"
	"fmt"
	"net/netip"
	"testing"
	"time"
)

// pathHost answers questions about paths, and counts them.
type pathHost struct {
	Host
	mtu   map[netip.Addr]int
	asked int
}

func (h *pathHost) PathMTU(_ context.Context, endpoint netip.Addr, _ uint32) (int, error) {
	h.asked++
	if n, ok := h.mtu[endpoint]; ok {
		return n, nil
	}
	return 1500, nil
}

// Of many peers some are asked about each time and all within a minute, and all at once when something changed.
func TestPathsAreAskedInTurn(t *testing.T) {
	h := &pathHost{mtu: map[netip.Addr]int{}}
	now := time.Unix(1, 0)
	all := &tunnels{host: h, now: func() time.Time { return now }}
	d := &device{peers: map[string]*peer{}}
	address := func(i int) netip.Addr { return netip.AddrFrom4([4]byte{198, 51, 100, byte(i)}) }
	const peers = 60
	for i := range peers {
		p := &peer{}
		p.spec.Name = fmt.Sprintf("p%02d", i)
		p.stats.Endpoint = netip.AddrPortFrom(address(i), 51820)
		d.peers[p.spec.Name] = p
	}
	look := func(what string, asked, mtu int) {
		t.Helper()
		h.asked = 0
		if got := all.mtu(t.Context(), d); got != mtu || h.asked != asked {
			t.Errorf("%s: MTU %d after %d questions, want %d after %d", what, got, h.asked, mtu, asked)
		}
		now = now.Add(linkEvery)
	}
	look("first", peers, 1420)
	for range 12 {
		look("in turn", peers/6, 1420)
	}
	h.mtu[address(7)] = 1400
	found := 0
	for ; found < 6; found++ {
		if h.asked = 0; all.mtu(t.Context(), d) == 1340 {
			break
		}
		now = now.Add(linkEvery)
	}
	if found == 6 || h.asked <= peers/6 {
		t.Errorf("a path changed: seen after %d looks, with %d questions at last", found+1, h.asked)
	}
	d.peers["p09"].stats.Endpoint = netip.AddrPortFrom(address(200), 51820)
	h.mtu[address(200)] = 1380
	now = now.Add(linkEvery)
	look("roamed", peers/6, 1320) // it was among those whose turn it is
	delete(d.peers, "p09")
	look("gone", 10, 1340)
	d.spec.FirewallMark = 7
	look("another mark", peers-1, 1340)
}
