package gateway

import (
	"net/netip"
	"strings"
	"testing"
	"time"

	"sitewire/bgp/policy"
	"sitewire/bgp/rpki"
	"sitewire/routes"
)

func TestRPKIProblems(t *testing.T) {
	now := time.Unix(1_790_000_000, 0)
	started := now.Add(-time.Hour)
	ago := func(d time.Duration) time.Time { return now.Add(-d) }
	for _, c := range []struct {
		source rpki.Status
		want   string // "" is none
	}{
		{rpki.Status{Kind: "server", Up: true, Updated: ago(time.Hour)}, ""},
		{rpki.Status{Kind: "file", Up: true, Updated: ago(time.Hour)}, ""},
		{rpki.Status{Kind: "file", Up: true, Updated: ago(25 * time.Hour)}, "was last written"},
		{rpki.Status{Kind: "file", Updated: ago(time.Hour), LastError: "no such file"}, "could not be read"},
		{rpki.Status{Kind: "server", Updated: ago(time.Hour), LastError: "refused"}, "does not answer"},
		{rpki.Status{Kind: "server", Updated: ago(3 * time.Hour), Expired: true}, "have expired"},
		{rpki.Status{Kind: "server", LastError: "refused"}, "no payloads yet"},
		{rpki.Status{Kind: "server"}, "no payloads yet"},
	} {
		c.source.Name, c.source.Target = "x", "192.0.2.1:8282"
		got := rpkiProblems(&rpki.Snapshot{Sources: []rpki.Status{c.source}}, started, now)
		switch {
		case c.want == "" && len(got) == 0:
		case c.want != "" && len(got) == 1 && got[0].Subject == "rpki x" && strings.Contains(got[0].What, c.want) && strings.HasSuffix(got[0].What, c.source.LastError):
		default:
			t.Errorf("%+v: %+v, want one that says %q", c.source, got, c.want)
		}
	}
	if got := rpkiProblems(&rpki.Snapshot{Sources: []rpki.Status{{Kind: "server"}}}, now.Add(-time.Second), now); len(got) != 0 {
		t.Errorf("a cache is missed before it had time to answer: %+v", got)
	}
}

func TestOriginInfo(t *testing.T) {
	p := netip.MustParsePrefix("10.1.0.0/24")
	v, err := rpki.NewVRP(netip.MustParsePrefix("10.1.0.0/16"), 24, 65002)
	if err != nil {
		t.Fatal(err)
	}
	s := &rpki.Snapshot{
		Sources: []rpki.Status{{Name: "a", Table: "default"}, {Name: "b", Table: "default"}, {Name: "c", Table: "flap"}},
		Origins: rpki.NewSet(map[string]*rpki.Table{"default": rpki.TableOf(v), "flap": rpki.TableOf()}),
	}
	r := RouteInfo{Prefix: p, Paths: []PathInfo{
		{Neighbour: "good", Attrs: &routes.Attrs{ASPath: []uint32{65001, 65002}}},
		{Neighbour: "forged", Attrs: &routes.Attrs{ASPath: []uint32{65002, 65001}}},
		{Neighbour: "internal", Attrs: &routes.Attrs{}},
		{Neighbour: "set", Attrs: &routes.Attrs{ASPath: []uint32{65002}}, Rejected: "as_set"},
		{Neighbour: ownPath, Attrs: &routes.Attrs{}},
	}}
	originInfo(s, &r, 65002)
	for i, want := range []policy.Validity{policy.Valid, policy.Invalid, policy.Valid, policy.Invalid} {
		o := r.Paths[i].Origins
		if len(o) != 2 || o[0].Table != "default" || o[0].Validity != want || len(o[0].Payloads) != 1 || o[1].Table != "flap" || o[1].Validity != policy.NotFound {
			t.Errorf("%s: %+v, want %v", r.Paths[i].Neighbour, o, want)
		}
	}
	if o := r.Paths[4].Origins; o != nil {
		t.Errorf("our own path is judged: %+v", o)
	}
}
