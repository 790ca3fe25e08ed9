package policy

import (
	"encoding/csv"
	"encoding/json"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"
)

func pfx(s string) netip.Prefix { return netip.MustParsePrefix(s) }

// session is an eBGP session over which 64512 announces routes to 64500, and what this site owns.
func session() *Context {
	return &Context{
		LocalASN: 64500, NeighbourASN: 64512,
		Neighbour: netip.MustParseAddr("fe80::2%wg0"),
		NextHops:  []netip.Addr{netip.MustParseAddr("172.20.1.2")},
		Own:       []netip.Prefix{pfx("172.20.1.0/27"), pfx("fd42:1::/48"), pfx("0.0.0.0/0")},
		Endpoints: []netip.Addr{netip.MustParseAddr("192.0.2.7"), netip.MustParseAddr("2001:db8::7")},
	}
}

func learned(prefix string) Route {
	return Route{
		Prefix: pfx(prefix), ASPath: []uint32{64512, 64513}, NextHop: netip.MustParseAddr("fe80::2"),
		LocalPref: 100, Source: SourceTunnel,
	}
}

func profile(t testing.TB, name string) *Policy {
	t.Helper()
	p, ok := Profile(name)
	if !ok {
		t.Fatalf("no profile %q", name)
	}
	return p
}

// TestDN42Vectors holds the profile against the verdicts of BIRD with the registry's filter (second column).
func TestDN42Vectors(t *testing.T) {
	f, err := os.Open("testdata/dn42-prefix-vectors.csv")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	rows, err := csv.NewReader(f).ReadAll()
	if err != nil {
		t.Fatal(err)
	}
	p := profile(t, "dn42")
	c := session()
	c.Own = nil
	accepted := 0
	for _, row := range rows[1:] {
		// The filter looks at bits, not at host bits: the vectors contain prefixes that are no networks.
		r := learned(row[0])
		r.Prefix = r.Prefix.Masked()
		want := row[2] == "accept"
		if v := p.EvalImport(r, c); v.Accepted != want {
			t.Errorf("import of %s: %+v, want %s", row[0], v, row[2])
		}
		for _, source := range []string{SourceOwn, SourceTunnel} {
			r.Source = source
			if v := p.EvalExport(r, c); v.Accepted != want {
				t.Errorf("export of %s from %s: %+v, want %s", row[0], source, v, row[2])
			}
		}
		r.Source = SourceLAN
		if v := p.EvalExport(r, c); v.Accepted {
			t.Errorf("%s leaks from the LAN by rule %s", row[0], v.Rule)
		}
		if want {
			accepted++
		}
	}
	if len(rows) != 87 || accepted != 38 {
		t.Errorf("%d vectors, %d accepted; the file has 86 and 38", len(rows)-1, accepted)
	}
}

// TestRefusals has one vector for each rule of RFC 7454 that is checked before the policy's own rules.
func TestRefusals(t *testing.T) {
	full := profile(t, "full")
	strict := full.Clone()
	strict.AllowDefault = false
	for _, tt := range []struct {
		name   string
		policy *Policy
		route  func(*Route)
		ctx    func(*Context)
		want   string // empty: accepted
	}{
		{name: "plain", want: ""},
		{name: "0/8", route: prefix("0.1.0.0/16"), want: Martian},
		{name: "loopback", route: prefix("127.0.0.0/8"), want: Martian},
		{name: "link-local", route: prefix("169.254.42.0/24"), want: Martian},
		{name: "multicast", route: prefix("224.0.0.0/24"), want: Martian},
		{name: "class E", route: prefix("240.0.0.0/4"), want: Martian},
		{name: "broadcast", route: prefix("255.255.255.255/32"), want: Martian},
		{name: "::1", route: prefix("::1/128"), want: Martian},
		{name: "::", route: prefix("::/128"), want: Martian},
		{name: "mapped", route: prefix("::ffff:10.0.0.0/104"), want: Martian},
		{name: "fe80", route: prefix("fe80::/64"), want: Martian},
		{name: "site-local", route: prefix("fec0::/64"), want: Martian},
		{name: "ff02", route: prefix("ff02::/16"), want: Martian},
		{name: "host bits", route: prefix("10.1.2.3/8"), want: Martian},
		{name: "no prefix", route: func(r *Route) { r.Prefix = netip.Prefix{} }, want: Martian},
		{name: "documentation", route: prefix("203.0.113.0/24"), want: ""},
		{name: "shared address space", route: prefix("100.64.0.0/10"), want: ""},
		{name: "NAT64", route: prefix("64:ff9b::/96"), want: ""},
		{name: "default", policy: strict, route: prefix("0.0.0.0/0"), want: DefaultRoute},
		{name: "default v6", policy: strict, route: prefix("::/0"), want: DefaultRoute},
		{name: "half default", policy: strict, route: prefix("128.0.0.0/1"), want: DefaultRoute},
		{name: "global unicast", policy: strict, route: prefix("2000::/3"), want: DefaultRoute},
		{name: "ULA aggregate", policy: strict, route: prefix("fc00::/7"), want: ""},
		{name: "default asked for", route: prefix("::/0"), want: ""},
		{name: "own default", route: prefix("0.0.0.0/0"), want: OwnPrefix},
		{name: "own", route: prefix("172.20.1.0/27"), want: OwnPrefix},
		{name: "part of own", route: prefix("fd42:1:0:7::/64"), want: OwnPrefix},
		{name: "aggregate over own", route: prefix("172.20.0.0/16"), want: ""},
		{name: "covers endpoint", route: prefix("192.0.2.0/24"), want: CoversTunnel},
		{name: "is endpoint", route: prefix("2001:db8::7/128"), want: CoversTunnel},
		{name: "beside endpoint", route: prefix("192.0.2.0/30"), want: ""},
		{name: "long path", route: path(slices.Repeat([]uint32{64512}, 65)...), want: ASPathLength},
		{name: "longest path", route: path(slices.Repeat([]uint32{64512}, 64)...), want: ""},
		{name: "AS 0", route: path(64512, 0, 64513), want: ASZero},
		{name: "first AS", route: path(64513, 64512), want: FirstAS},
		{name: "empty path", route: path(), want: FirstAS},
		{name: "loop", route: path(64512, 64500, 64513), want: ASLoop},
		{name: "iBGP empty path", route: path(), ctx: func(c *Context) { c.NeighbourASN = 64500 }, want: ""},
		{name: "iBGP loop", route: path(64500), ctx: func(c *Context) { c.NeighbourASN = 64500 }, want: ASLoop},
		{name: "tunnel IPv4", route: hop("172.20.1.2"), want: ""},
		{name: "mapped next hop", route: hop("::ffff:172.20.1.2"), want: ""},
		{name: "zone", route: hop("fe80::2%other"), want: ""},
		{name: "BIRD", route: hop("::"), want: ""},
		{name: "third party", route: hop("172.20.1.3"), want: NextHop},
		{name: "third party iBGP", route: func(r *Route) { path()(r); hop("172.20.1.3")(r) }, ctx: func(c *Context) { c.NeighbourASN = 64500 }, want: ""},
		{name: "next hop 0", route: hop("0.0.0.0"), want: NextHop},
		{name: "next hop loopback", route: hop("127.0.0.1"), want: NextHop},
		{name: "next hop class E", route: hop("240.0.0.1"), want: NextHop},
		{name: "no next hop", route: func(r *Route) { r.NextHop = netip.Addr{} }, want: NextHop},
	} {
		t.Run(tt.name, func(t *testing.T) {
			p, r, c := full, learned("198.51.100.0/24"), session()
			if tt.policy != nil {
				p = tt.policy
			}
			if tt.route != nil {
				tt.route(&r)
			}
			if tt.ctx != nil {
				tt.ctx(c)
			}
			v := p.EvalImport(r, c)
			if v.Accepted != (tt.want == "") || !v.Accepted && v.Rule != tt.want {
				t.Errorf("verdict %+v, want %q", v, tt.want)
			}
		})
	}
}

func prefix(s string) func(*Route)       { return func(r *Route) { r.Prefix = pfx(s) } }
func path(asns ...uint32) func(*Route)   { return func(r *Route) { r.ASPath = asns } }
func hop(s string) func(*Route)          { return func(r *Route) { r.NextHop = netip.MustParseAddr(s) } }
func communities(c ...string) []string   { return c }
func (r Route) with(c ...string) Route   { r.Communities = c; return r }
func (r Route) from(source string) Route { r.Source = source; return r }

func TestDefaultDeny(t *testing.T) {
	var none *Policy
	if v := none.EvalImport(learned("10.0.0.0/24"), session()); v.Accepted || v.Rule != NoPolicy {
		t.Errorf("nil policy: %+v", v)
	}
	if v := none.EvalExport(learned("10.0.0.0/24"), session()); v.Accepted || v.Rule != NoPolicy {
		t.Errorf("nil policy, export: %+v", v)
	}
	if v := new(Policy).EvalImport(learned("10.0.0.0/24"), session()); v.Accepted || v.Rule != NoRule {
		t.Errorf("no rules: %+v", v)
	}
	broken := &Policy{Import: []Rule{{Name: "x", Match: Match{ASPath: "("}, Action: Accept}}}
	if v := broken.EvalImport(learned("10.0.0.0/24"), session()); v.Accepted || v.Rule != InvalidPolicy {
		t.Errorf("broken policy: %+v", v)
	}
	forgotten := &Policy{Import: []Rule{{Name: "forgot the action"}}}
	if v := forgotten.EvalImport(learned("10.0.0.0/24"), session()); v.Accepted {
		t.Errorf("a rule without an action accepts: %+v", v)
	}
}

func TestProfiles(t *testing.T) {
	c := session()
	for _, tt := range []struct {
		profile, direction string
		route              Route
		want               string // rule; a leading "-" is a refusal
	}{
		{"dn42", "import", learned("172.20.7.0/27"), "dn42"},
		{"dn42", "import", learned("172.22.166.0/24"), "-registry-denied"},
		{"dn42", "import", learned("8.8.8.0/24"), "-" + NoRule},
		{"dn42", "export", learned("172.20.1.0/27").from(SourceOwn), "own"},
		{"dn42", "export", learned("192.168.7.0/24").from(SourceOwn), "-" + NoRule},
		{"dn42", "export", learned("172.20.7.0/27"), "transit"},
		{"branch", "import", learned("10.9.0.0/16"), "rest"},
		{"branch", "import", learned("0.0.0.0/0"), "-" + DefaultRoute},
		{"branch", "export", learned("10.17.0.0/24").from(SourceOwn), "own"},
		{"branch", "export", learned("10.17.1.0/24").from(SourceLAN), "lan"},
		{"branch", "export", learned("10.18.0.0/24"), "-" + NoRule}, // no transit through a branch
		{"hub", "import", learned("10.17.0.0/24"), "rest"},
		{"hub", "export", learned("10.18.0.0/24"), "all"},
		{"lan", "import", learned("172.20.1.8/29"), "rest"},
		{"lan", "import", learned("172.20.1.0/27"), "-" + OwnPrefix},
		{"lan", "export", learned("10.18.0.0/24"), "all"},
		{"full", "import", learned("::/0"), "rest"},
		{"full", "export", learned("::/0"), "all"},
		{"full", "export", learned("fe80::/64"), "-" + Martian},
		{"full", "export", learned("10.18.0.0/24").with("no-export"), "-" + NoExport},
		{"full", "export", learned("10.18.0.0/24").with("65535:65282"), "-" + NoAdvertise},
		{"full", "export", learned("10.18.0.0/24").with("no-export").from(SourceOwn), "all"},
	} {
		p := profile(t, tt.profile)
		eval := p.EvalImport
		if tt.direction == "export" {
			eval = p.EvalExport
		}
		v := eval(tt.route, c)
		got := v.Rule
		if !v.Accepted {
			got = "-" + got
		}
		if got != tt.want {
			t.Errorf("%s %s %v: %s, want %s", tt.profile, tt.direction, tt.route.Prefix, got, tt.want)
		}
	}
	for _, name := range Profiles() {
		v := profile(t, name).EvalImport(learned("172.20.7.0/27").with("65535:0", "64511:24", "65535:666"), c)
		if !v.Accepted || v.Route.LocalPref != 0 {
			t.Errorf("%s: graceful shutdown gives local preference %d", name, v.Route.LocalPref)
		}
		if name != "lan" && slices.Contains(v.Route.Communities, "65535:666") {
			t.Errorf("%s: passes on the blackhole community", name)
		}
		if !slices.Contains(v.Route.Communities, "64511:24") {
			t.Errorf("%s: loses communities: %v", name, v.Route.Communities)
		}
	}
	if _, ok := Profile("none"); ok {
		t.Error("a profile that is not built in")
	}
	if a, b := profile(t, "hub"), profile(t, "hub"); a == b || &a.Import[0] == &b.Import[0] {
		t.Error("profiles are shared")
	}
}

func TestChanges(t *testing.T) {
	p := &Policy{Name: "t", Export: []Rule{
		{Name: "tag", Action: Next, Set: Set{AddCommunities: []string{"no-export", "64500:1:2", "64511:24"}}},
		{Name: "strip", Action: Next, Match: Match{Communities: []string{"64500:*:*"}}, Set: Set{RemoveCommunities: []string{"64511:*"}}},
		{Name: "out", Action: Accept, Set: Set{LocalPref: new(uint32(7)), MED: new(uint32(8)), Prepend: 2, NextHopSelf: true}},
	}}
	if err := p.Compile(); err != nil {
		t.Fatal(err)
	}
	in := learned("10.0.0.0/24").with("64511:24", "64511:1:1")
	before := slices.Clone(in.Communities)
	v := p.EvalExport(in, session())
	if !v.Accepted || v.Rule != "out" {
		t.Fatalf("verdict %+v", v)
	}
	r := v.Route
	if !slices.Equal(r.ASPath, []uint32{64500, 64500, 64512, 64513}) || r.LocalPref != 7 || r.MED != 8 || r.NextHop.IsValid() {
		t.Errorf("route %+v", r)
	}
	if want := communities("64511:1:1", "65535:65281", "64500:1:2"); !slices.Equal(r.Communities, want) {
		t.Errorf("communities %v, want %v", r.Communities, want)
	}
	if !slices.Equal(in.Communities, before) || len(in.ASPath) != 2 {
		t.Errorf("the caller's route changed: %+v", in)
	}
	p.Export = append([]Rule{{Name: "no", Match: Match{OriginAS: []uint32{64513}}}}, p.Export...)
	if err := p.Compile(); err != nil {
		t.Fatal(err)
	}
	if v := p.EvalExport(in, session()); v.Accepted || v.Rule != "no" || v.Route.LocalPref != 100 {
		t.Errorf("verdict %+v", v)
	}
}

func TestMatch(t *testing.T) {
	r := learned("10.1.2.0/24").with("64511:24", "4242420001:100:1", "blackhole")
	r.ASPath = []uint32{64512, 666, 4200000001}
	for _, tt := range []struct {
		m    Match
		want bool
	}{
		{Match{}, true},
		{Match{Family: "ipv4"}, true},
		{Match{Family: "ipv6"}, false},
		{Match{Source: "tunnel"}, true},
		{Match{Source: "lan"}, false},
		{Match{ASPathMin: 3, ASPathMax: 3}, true},
		{Match{ASPathMin: 4}, false},
		{Match{ASPathMax: 2}, false},
		{Match{OriginAS: []uint32{1, 4200000001}}, true},
		{Match{OriginAS: []uint32{64512}}, false},
		{Match{Communities: []string{"64511:25", "64511:24"}}, true},
		{Match{Communities: []string{"64511:*"}}, true},
		{Match{Communities: []string{"64512:*"}}, false},
		{Match{Communities: []string{"64511:*:*"}}, false}, // three parts do not match two
		{Match{Communities: []string{"4242420001:100:*"}}, true},
		{Match{Communities: []string{"65535:666"}}, true},
		{Match{Communities: []string{"no-export"}}, false},
		{Match{Prefixes: ranges("10.0.0.0/8{15,24}", "fd00::/8+")}, true},
		{Match{Prefixes: ranges("10.0.0.0/8{25,32}", "10.1.0.0/16")}, false},
		{Match{Prefixes: []PrefixRange{}}, false}, // an empty list is not "any prefix"
		{Match{ASPath: "^64512_"}, true},
		{Match{ASPath: "_666_", Family: "ipv6"}, false},
	} {
		p := &Policy{Import: []Rule{{Name: "m", Match: tt.m, Action: Accept}}}
		if err := p.Compile(); err != nil {
			t.Errorf("%+v: %v", tt.m, err)
			continue
		}
		if got := p.compiled.imports[0].matches(&r); got != tt.want {
			t.Errorf("%+v matches: %v, want %v", tt.m, got, tt.want)
		}
	}
}

func TestValidateNamesEverything(t *testing.T) {
	p := &Policy{
		Name: "bad", MaxASPath: -1, WarnAt: 101,
		Import: []Rule{
			{Name: "a", Match: Match{Prefixes: []PrefixRange{{pfx("10.0.0.1/8"), 8, 8}, {pfx("10.0.0.0/8"), 9, 33}, {}}}},
			{Name: "b", Match: Match{Communities: []string{"70000:1", "*:1"}, ASPath: "(", Family: "ip", Source: "x", ASPathMin: 3, ASPathMax: 2}},
			{Name: Martian, Action: 7, Set: Set{Prepend: -1, AddCommunities: []string{"1:*"}, RemoveCommunities: []string{"*:1"}}},
		},
	}
	err := p.Validate()
	if err == nil {
		t.Fatal("no error")
	}
	for _, want := range []string{
		"policy bad", "max_as_path", "warn_at", "10.0.0.0/8?", "without a prefix", `"70000:1"`, `"*:1"`, "as_path", "family", "source",
		"as_path_min 3", "fixed refusal", "prepend -1", "unknown action", `"1:*"`, "import rule 3",
	} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%q is not in the error:\n%v", want, err)
		}
	}
	if p.Compile() == nil || p.compiled != nil {
		t.Error("Compile accepts it")
	}
}

func TestJSON(t *testing.T) {
	p := profile(t, "dn42")
	b, err := json.Marshal(p)
	if err != nil {
		t.Fatal(err)
	}
	var q Policy
	if err := json.Unmarshal(b, &q); err != nil {
		t.Fatal(err)
	}
	again, err := json.Marshal(&q)
	if err != nil || string(again) != string(b) {
		t.Errorf("%v\n%s\n%s", err, b, again)
	}
	for _, want := range []string{`"172.20.0.0/14{21,29}"`, `"action":"next"`, `"10.127.0.0/16+"`} {
		if !strings.Contains(string(b), want) {
			t.Errorf("%s is not in %s", want, b)
		}
	}
}
