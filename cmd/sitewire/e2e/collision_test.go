package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"sitewire/gateway"
	"sitewire/topologies/netns/nstest"
)

// TestSimultaneousStart: gateways that name each other as endpoint and start at the same moment come up, every time and
// without waiting for a hold time, which is 90 s (RFC 4271 section 6.8). WireGuard handshakes that cross take it some 15 s.
func TestSimultaneousStart(t *testing.T) {
	const gateways, rounds = 4, 4
	l := newLab(t)
	var sites []*site
	for i := range gateways {
		sites = append(sites, l.site(fmt.Sprintf("s%d", i+1)))
	}
	for _, s := range sites {
		var yaml strings.Builder
		yaml.WriteString(s.head() + "bgp: { hold_time: 90s }\npeers:\n")
		for _, o := range sites {
			if o != s {
				fmt.Fprintf(&yaml, "  %s: { public_key: %s, endpoint: \"%s:%d\", listen_port: %d, asn: %d, policy: full }\n",
					o.name, o.pub(), o.out4, 51820+s.n, 51820+o.n, o.asn)
			}
		}
		s.write(yaml.String())
	}
	for round := range rounds {
		var wg sync.WaitGroup
		daemons := make([]*daemon, gateways)
		for i, s := range sites {
			must(t, os.RemoveAll(filepath.Join(s.dir, "log")))
			wg.Go(func() { daemons[i] = s.start() })
		}
		wg.Wait()
		begin := time.Now()
		for _, d := range daemons {
			nstest.Eventually(t, 60*time.Second, d.name+"'s sessions", func() error {
				var s gateway.Status
				must(t, d.get("/v1/status", &s))
				if s.Sessions.Up != gateways-1 {
					return fmt.Errorf("round %d: %+v", round, s.Problems)
				}
				return nil
			})
		}
		t.Logf("round %d: all %d sessions after %v", round, gateways*(gateways-1)/2, time.Since(begin).Round(time.Millisecond))
		for _, d := range daemons {
			d.kill()
		}
	}
}
