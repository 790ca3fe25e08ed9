package routes_test

import (
	"context"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"sitewire/routes"
)

// late is a FIB that takes a second for each Write from the moment that it is told so.
type late struct {
	routes.FIB
	is *bool
}

func (l late) Write(ctx context.Context, ops []routes.Op) []error {
	if *l.is {
		time.Sleep(time.Second)
	}
	return l.FIB.Write(ctx, ops)
}

// The status tells which device is diverted, since when and where to, and of a route where its packets go until it is written anew.
func TestDiversionShown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, p := twoTunnels()
		var is bool
		feed := routes.NewFeed()
		s := routes.New(routes.Options{FIB: late{w.FIB(), &is}, Tunnels: w.Tunnels(), Feed: feed, Switcher: w.Switcher()})
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan struct{})
		go func() { defer close(ended); s.Run(ctx) }()
		defer func() { cancel(); <-ended }()
		if err := s.SetPolicy(ctx, p); err != nil {
			t.Fatal(err)
		}
		settle := func() { time.Sleep(5 * time.Second); synctest.Wait() }
		for n, prefixes := range map[string][]string{"ams": {"10.1.0.0/16", "10.2.0.0/16"}, "nyc": {"10.1.0.0/16", "10.2.0.0/16", "10.3.0.0/16"}} {
			for _, x := range prefixes {
				feed.PutPath(n, pfx(x), &routes.Path{Received: time.Now(), Session: 1})
				if n == "nyc" {
					feed.PutBest(routes.BestChange{Prefix: pfx(x), Neighbour: n, Replace: true, At: time.Now()})
				}
			}
		}
		settle()
		shown := func(when string, took []routes.Hop, want ...routes.Diversion) {
			t.Helper()
			st := s.Snapshot()
			got, _ := st.Get(pfx("10.1.0.0/16"))
			if diff := cmp.Diff(took, got.Taken, cmp.Comparer(func(a, b netip.Addr) bool { return a == b })); diff != "" {
				t.Errorf("%s: packets take (-want +got):\n%s", when, diff)
			}
			if diff := cmp.Diff(want, st.Diversions); diff != "" {
				t.Errorf("%s: diversions (-want +got):\n%s", when, diff)
			}
		}
		shown("before", nil)

		is = true
		feed.PutDead("nyc", routes.LossTunnel)
		lost := routes.Diversion{Device: "sw-nyc", Peer: "nyc", Since: time.Now(), To: map[string]int{"sw-ams": 2}}
		time.Sleep(500 * time.Millisecond)
		synctest.Wait()
		shown("at once", []routes.Hop{{Device: "sw-ams"}}, lost)
		settle()
		shown("written", nil, lost)
		feed.PutAlive("nyc", true)
		settle()
		shown("back", nil)
		if n := s.Snapshot().Installed.Diversions; n != 1 {
			t.Errorf("%d diversions", n)
		}
	})
}
