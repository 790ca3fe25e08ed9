package routes

import (
	"net/netip"
	"testing"
	"time"
)

// TestCause: what an UPDATE causes is timed from when it was read; what a new policy makes of an old path is not.
func TestCause(t *testing.T) {
	table, feed := NewTable(), NewFeed()
	table.SetPolicy(Policy{
		Peers:      []Peer{{Name: "nyc", Device: "wg-nyc"}},
		Neighbours: []Neighbour{{Name: "nyc", Peer: "nyc"}},
	})
	p, read := netip.MustParsePrefix("10.2.0.0/16"), time.Now().Add(-time.Hour)
	path := func(rejected string, at time.Time) *Path {
		return &Path{NextHop: netip.MustParseAddr("fe80::2%wg-nyc"), Rejected: rejected, Received: at}
	}
	start := func(put *Path) time.Time {
		t.Helper()
		feed.PutPath("nyc", p, put)
		u := table.Apply(feed.Take())
		causes := make(map[netip.Prefix]Cause)
		u.causes(causes)
		c, ok := causes[p]
		if !ok {
			t.Fatalf("no change: %v", u.Changed())
		}
		return c.Start()
	}
	if got := start(path("", read)); !got.Equal(read) {
		t.Errorf("an UPDATE: from %v, want %v", got, read)
	}
	for _, rejected := range []string{"policy", ""} {
		if got := start(path(rejected, read)); time.Since(got) > time.Minute {
			t.Errorf("judged again (%q): from %v, which is when the UPDATE was read", rejected, got)
		}
	}
	again := read.Add(time.Minute)
	start(path("policy", again))
	next := again.Add(time.Minute)
	if got := start(path("", next)); !got.Equal(next) {
		t.Errorf("another UPDATE: from %v, want %v", got, next)
	}
}
