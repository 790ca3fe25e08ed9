package bgp

import (
	"maps"
	"net/netip"
	"slices"
	"testing"

	"sitewire/bgp/policy"
	"sitewire/bgp/rpki"
	"sitewire/routes"
)

func payloads(t testing.TB, list ...rpki.VRP) *rpki.Set {
	t.Helper()
	for _, v := range list {
		if _, err := rpki.NewVRP(v.Prefix, int(v.MaxLength), v.ASN); err != nil {
			t.Fatal(err)
		}
	}
	return rpki.NewSet(map[string]*rpki.Table{policy.DefaultTable: rpki.TableOf(list...)})
}

// refuseInvalid is a policy that asks for validities.
func refuseInvalid() *policy.Policy {
	return &policy.Policy{Name: "test", AllowThirdPartyNextHop: true, Import: []policy.Rule{
		{Name: "forged", Match: policy.Match{RPKI: []policy.Validity{policy.Invalid}}, Action: policy.Reject},
		{Name: "rest", Action: policy.Accept},
	}}
}

// originView is a view with neighbours whose sessions are up, without GoBGP.
func originView(t *testing.T, c Config) (*view, *feed) {
	t.Helper()
	f := newFeed()
	v := newView(f, func() {})
	c.ASN, c.RouterID = ownASN, routerID
	if err := Validate(c); err != nil {
		t.Fatal(err)
	}
	v.setConfig(c)
	for _, n := range v.order {
		n.state = Established
	}
	return v, f
}

func announced(n *neighbour, origin uint32) *received {
	path := []uint32{n.cfg.ASN}
	if origin != n.cfg.ASN {
		path = append(path, origin)
	}
	return &received{nextHop: n.bare, attrs: routes.Attrs{ASPath: path, LocalPref: 100}}
}

// tags lists the prefixes that GoBGP is to be told of as in this set.
func tags(n *neighbour, f routes.Family, kind tagKind) []string {
	var out []string
	for p := range n.in[f].tagged[kind] {
		out = append(out, p.String())
	}
	slices.Sort(out)
	return out
}

// TestDisputedOrigin: one address on two devices is one neighbour for GoBGP's policies. As long as the two announce a
// prefix with different validities, neither is taken; once they agree, both are.
func TestDisputedOrigin(t *testing.T) {
	p := netip.MustParsePrefix("10.9.0.0/16")
	neighbour := func(name, device string) Neighbour {
		return Neighbour{Name: name, Peer: name, Address: netip.MustParseAddr("fe80::2%" + device), ASN: 65001, IPv4: true, IPv6: true, Policy: refuseInvalid()}
	}
	v, f := originView(t, Config{
		Neighbours: []Neighbour{neighbour("a", "wg0"), neighbour("b", "wg1")},
		Origins:    payloads(t, rpki.VRP{Prefix: p, MaxLength: 16, ASN: 65001}),
	})
	a, b := v.byName["a"], v.byName["b"]
	expect := func(when, wantA, wantB string, dispute bool) {
		t.Helper()
		for name, want := range map[string]string{"a": wantA, "b": wantB} {
			got := "none"
			if path := f.path(name, p.String()); path != nil {
				got = path.Rejected
			}
			if got != want {
				t.Errorf("%s: the path of %s is %q, want %q", when, name, got, want)
			}
		}
		if is := len(tags(a, routes.IPv4, disputed))+len(tags(b, routes.IPv4, disputed)) > 0; is != dispute {
			t.Errorf("%s: GoBGP refuses it for the dispute: %v", when, is)
		}
	}
	v.put(a, routes.IPv4, p, entry{from: announced(a, 65001)})
	expect("only a", "", "none", false)
	v.put(b, routes.IPv4, p, entry{from: announced(b, 65002)})
	expect("b forges", SharedAddress, "forged", true)
	v.put(b, routes.IPv4, p, entry{from: announced(b, 65001)})
	expect("b repents", "", "", false)
	v.put(b, routes.IPv4, p, entry{from: announced(b, 65002)})
	v.remove(b, routes.IPv4, p)
	expect("b forges and withdraws", "", "none", false)
	v.put(b, routes.IPv4, p, entry{from: announced(b, 65002)})
	c := v.config
	c.Origins = payloads(t)
	v.setConfig(c)
	expect("nobody knows", "", "", false)
	c.Origins = nil
	v.setConfig(c)
	expect("no source", "", "", false)
}

// TestOriginsTouchOnlyTheirRoutes: new payloads have the routes judged again that they cover, and no others.
func TestOriginsTouchOnlyTheirRoutes(t *testing.T) {
	n := passive("a", 2, 65001, refuseInvalid())
	one, two := rpki.VRP{Prefix: netip.MustParsePrefix("10.1.0.0/16"), MaxLength: 24, ASN: 65001}, rpki.VRP{Prefix: netip.MustParsePrefix("10.2.0.0/16"), MaxLength: 24, ASN: 65002}
	plain := passive("b", 3, 65002, &policy.Policy{Name: "plain", AllowThirdPartyNextHop: true, Import: []policy.Rule{{Name: "rest", Action: policy.Accept}}})
	v, f := originView(t, Config{Neighbours: []Neighbour{n, plain}, Origins: payloads(t, one)})
	a, b := v.byName["a"], v.byName["b"]
	for _, p := range []string{"10.1.1.0/24", "10.2.1.0/24", "10.2.2.0/24", "10.3.0.0/16"} {
		v.put(a, routes.IPv4, netip.MustParsePrefix(p), entry{from: announced(a, 65001)})
		v.put(b, routes.IPv4, netip.MustParsePrefix(p), entry{from: announced(b, 65002)})
	}
	seen := func() []string {
		out := f.order
		f.order = nil
		slices.Sort(out)
		return out
	}
	seen()
	clear(v.refused)
	c := v.config
	c.Origins = payloads(t, one, two)
	v.setConfig(c)
	if got, want := seen(), []string{"path a 10.2.1.0/24", "path a 10.2.2.0/24"}; !slices.Equal(got, want) {
		t.Errorf("judged again: %v, want %v", got, want)
	}
	invalid := tagKind{policy.DefaultTable, policy.Invalid}
	if got, want := tags(a, routes.IPv4, invalid), []string{"10.2.1.0/24", "10.2.2.0/24"}; !slices.Equal(got, want) {
		t.Errorf("GoBGP is told of %v as invalid, want %v", got, want)
	}
	if len(v.refused) != 2 {
		t.Errorf("%d changes for GoBGP: %v", len(v.refused), slices.Collect(maps.Keys(v.refused)))
	}
	// The same payloads in another set change nothing.
	c.Origins = payloads(t, two, one)
	v.setConfig(c)
	if got := seen(); len(got) != 0 {
		t.Errorf("judged again without a reason: %v", got)
	}

	// An invalid route that comes and goes stays noted, so that GoBGP never takes it for a moment; new payloads forget it.
	flap := netip.MustParsePrefix("10.2.1.0/24")
	v.remove(a, routes.IPv4, flap)
	if got := tags(a, routes.IPv4, invalid); !slices.Contains(got, flap.String()) {
		t.Errorf("the note on a route that was withdrawn is gone: %v", got)
	}
	c.Origins = payloads(t, one)
	v.setConfig(c)
	if got := tags(a, routes.IPv4, invalid); len(got) != 0 {
		t.Errorf("notes that nothing supports: %v", got)
	}
	// What is remembered of routes that are gone is bounded.
	c.Origins = payloads(t, two)
	v.setConfig(c)
	for i := range 4000 {
		p := netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 2, byte(i / 16), byte(i % 16 * 16)}), 28)
		v.put(a, routes.IPv4, p, entry{from: announced(a, 65001)})
		v.remove(a, routes.IPv4, p)
	}
	if n := len(tags(a, routes.IPv4, invalid)); n < 100 || n > 1100 {
		t.Errorf("%d prefixes are remembered", n)
	}
}
