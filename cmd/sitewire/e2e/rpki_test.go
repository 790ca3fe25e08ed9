package e2e

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"sitewire/gateway"
	"sitewire/topologies/netns/nstest"
	"sitewire/topologies/netns/peers"
)

// payload is a row of a file of payloads.
type payload struct {
	Prefix    string `json:"prefix"`
	MaxLength int    `json:"maxLength"`
	ASN       string `json:"asn"`
}

func payloads(t testing.TB, rows ...payload) string {
	t.Helper()
	b, err := json.Marshal(map[string]any{"metadata": map[string]int{"generated": 1}, "roas": rows})
	must(t, err)
	return string(b)
}

// TestRPKI: a real cache says who may originate what; a peer announces routes that are valid, invalid and unknown. What
// changes in the cache changes the kernel's routes; a cache that dies keeps its say until its payloads expire.
func TestRPKI(t *testing.T) {
	nstest.Need(t, nstest.Program("stayrtr"))
	const cache = "127.0.0.1:8282"
	l := newLab(t)
	a, b := l.site("ours"), l.site("theirs")
	f := b.wireguard(a)
	f.bird(a, shapeA)
	peerASN, other := fmt.Sprintf("AS%d", b.asn), "AS64999"
	start := func(text string) *peers.StayRTR {
		t.Helper()
		s, err := peers.StartStayRTR(t.Context(), a.ns, "stayrtr", cache, text)
		must(t, err)
		s.Watch(t)
		return s
	}
	without := func(refused ...string) []netip.Prefix {
		return slices.DeleteFunc(f.own(), func(p netip.Prefix) bool { return slices.Contains(refused, p.String()) })
	}
	first := payloads(t, payload{extra[0], 24, peerASN}, payload{extra[1], 24, other}, payload{extra[3], 48, peerASN}, payload{extra[4], 64, other})
	second := payloads(t, payload{extra[0], 24, other}, payload{extra[1], 25, peerASN}, payload{extra[3], 48, other}, payload{extra[4], 64, peerASN})
	s := start(first)
	const policies = `rpki:
  servers: { local: "127.0.0.1:8282" }
  expire: 8s
policies:
  careful:
    extends: full
    import:
      - { name: forged, match: { rpki: invalid }, action: reject }
`
	d := a.run(a.head() + "bgp: { hold_time: 9s, keepalive: 3s }\n" + policies + "peers:\n" + strings.Replace(b.peerYAML(shapeA), "policy: full", "policy: careful", 1))
	d.sessionsUp(1)
	carries := func(what string, want []netip.Prefix) {
		t.Helper()
		nstest.Eventually(t, 30*time.Second, what, func() error { return d.carries(want, "theirs") })
	}
	carries("the invalid ones to be refused", without(extra[1], extra[2], extra[4]))
	if r := d.session("theirs").IPv4.Rejected["forged"]; r != 2 {
		t.Errorf("%d IPv4 prefixes are rejected by the rule, want 2", r)
	}
	var ex gateway.Explanation
	must(t, d.get("/v1/explain?address=10.222.2.1", &ex))
	if text := fmt.Sprintf("%+v", ex.Matches); len(ex.Matches) != 1 || ex.Matches[0].Paths[0].Rejected != "forged" ||
		!strings.Contains(text, "invalid") || !strings.Contains(text, "10.222.2.0/24 max 24 AS64999") {
		t.Errorf("the explanation does not say why: %+v", ex)
	}

	must(t, s.Replace(second))
	carries("the routes to change with the payloads", without(extra[0], extra[3]))
	must(t, s.Replace(first))
	carries("and back", without(extra[1], extra[2], extra[4]))

	// The cache dies: its payloads stay in use, and then expire.
	died := time.Now()
	must(t, s.Kill())
	nstest.Eventually(t, 5*time.Second, "the status to name the cache", func() error { return d.complains("rpki local", "does not answer") })
	if err := d.carries(without(extra[1], extra[2], extra[4]), "theirs"); err != nil && time.Since(died) < 2*time.Second {
		t.Errorf("routes changed when the cache died: %v", err)
	}
	carries("everything to be not-found once the payloads have expired", f.own())
	if lasted := time.Since(died); lasted < 2*time.Second { // 8 s after an answer that is at most 5 s old
		t.Errorf("payloads expired after %v", lasted)
	}
	must(t, d.complains("rpki local", "have expired"))

	// Another cache at the same address, with another session, after the first one's serial means nothing any more.
	start(second)
	carries("the new cache's payloads to be in force", without(extra[0], extra[3]))
	nstest.Eventually(t, 5*time.Second, "the status to be well", func() error {
		var r gateway.RPKI
		if err := d.get("/v1/rpki", &r); err != nil {
			return err
		}
		if len(r.Sources) != 1 || !r.Sources[0].Up || r.Sources[0].IPv4 != 2 || r.Sources[0].IPv6 != 2 || r.Tables["default"] != 4 {
			return fmt.Errorf("%+v", r)
		}
		return nil
	})
	for _, want := range []string{`sitewire_rpki_session_up{server="local"} 1`, `sitewire_rpki_vrps{family="ipv4",server="local"} 2`, `sitewire_component_up{component="rpki"} 1`} {
		if text := scrape(t, a.ns); !strings.Contains(text, want) {
			t.Errorf("%s is not among the metrics", want)
		}
	}
	// Without the source the rule matches nothing.
	d.reload(strings.Replace(a.head()+"bgp: { hold_time: 9s, keepalive: 3s }\n"+policies+"peers:\n"+strings.Replace(b.peerYAML(shapeA), "policy: full", "policy: careful", 1),
		`servers: { local: "127.0.0.1:8282" }`, "servers: {}", 1))
	carries("nothing to be refused without a source", f.own())
}

// complains reports an error unless the status names a problem of the subject with these words.
func (d *daemon) complains(subject, words string) error {
	var s gateway.Status
	if err := d.get("/v1/status", &s); err != nil {
		return err
	}
	for _, p := range s.Problems {
		if p.Subject == subject && strings.Contains(p.What, words) {
			return nil
		}
	}
	return fmt.Errorf("no problem of %s that says %q: %+v", subject, words, s.Problems)
}
