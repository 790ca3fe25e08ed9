package bgp

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/osrg/gobgp/v4/api"
	"github.com/osrg/gobgp/v4/pkg/apiutil"
	"github.com/osrg/gobgp/v4/pkg/packet/bgp"

	"sitewire/bgp/bgptest"
	"sitewire/bgp/policy"
	"sitewire/bgp/rpki"
)

// The evaluator of package policy says what happens to a route; GoBGP does it. These tests hold the two together:
// random policies, applied one after the other to running sessions, and random routes.

// sent is a route that a raw peer sent, in both forms.
type sent struct {
	from   string
	update bgptest.Update
	route  policy.Route
}

type gen struct {
	*rand.Rand
	// prepends on import, and so no export rule that looks at the path
	prepends bool
}

func pick[T any](g gen, list ...T) T { return list[g.IntN(len(list))] }

func (g gen) prefix(block byte) netip.Prefix {
	if g.IntN(4) == 0 {
		a := netip.AddrFrom16([16]byte{pick[byte](g, 0xfd, 0xfd, 0xfd, 0x20, 0xfe), block, byte(g.IntN(3)), 3: byte(g.IntN(256))})
		p, _ := a.Prefix(pick(g, 16, 32, 44, 48, 64))
		return p
	}
	a := netip.AddrFrom4([4]byte{pick[byte](g, 10, 10, 10, 172, 127, 224), block, byte(g.IntN(4) * 64), byte(g.IntN(256))})
	p, _ := a.Prefix(pick(g, 16, 20, 24, 28, 32))
	return p
}

func (g gen) communities() (std []uint32, large [][3]uint32) {
	for range g.IntN(4) {
		c := pick[uint32](g, 65000<<16|1, 65000<<16|2, 64511<<16|24, 65535<<16, 65535<<16|666, 65535<<16|65281, 65535<<16|65282, 65535<<16|65283,
			markTunnel, markLAN, markRule, 65535<<16|6100, 65535<<16|610)
		if !slices.Contains(std, c) {
			std = append(std, c)
		}
	}
	for range g.IntN(3) {
		c := pick(g, [3]uint32{65000, 1, 1}, [3]uint32{65000, 1, 2}, [3]uint32{4242420001, 7, 0})
		if !slices.Contains(large, c) {
			large = append(large, c)
		}
	}
	return std, large
}

// route makes what the neighbour could send in the block of addresses that is its own.
func (g gen) route(n Neighbour, x, block byte) sent {
	p := g.prefix(block)
	u := bgptest.Update{Prefixes: []netip.Prefix{p}, NextHop: []netip.Addr{hop4(x)}, Origin: byte(g.IntN(3))}
	if p.Addr().Is6() {
		u.NextHop = []netip.Addr{hop6(x)}
	}
	if n.ASN != ownASN {
		u.ASPath = []uint32{pick[uint32](g, n.ASN, n.ASN, n.ASN, n.ASN, n.ASN, 64999)}
	}
	for range g.IntN(5) {
		u.ASPath = append(u.ASPath, pick[uint32](g, 7, 77, 64512, 64512, 65010, 6500, 650, 4242420001, 1, ownASN, 0))
	}
	if g.IntN(20) == 0 {
		u.ASSet = []uint32{5}
	}
	if g.IntN(20) == 0 {
		u.NextHop = []netip.Addr{netip.MustParseAddr("192.0.2.99")}
		if p.Addr().Is6() {
			u.NextHop = []netip.Addr{netip.MustParseAddr("fd00::99")}
		}
	}
	u.Communities, u.Large = g.communities()
	if g.IntN(2) == 0 {
		u.MED = new(g.Uint32N(3))
	}
	s := sent{from: n.Name, update: u, route: policy.Route{Prefix: p, ASPath: append(slices.Clone(u.ASPath), u.ASSet...), NextHop: u.NextHop[0], LocalPref: 100, Source: source(n), ASSet: u.ASSet != nil}}
	if n.ASN == ownASN {
		s.update.LocalPref = new(50 + g.Uint32N(3))
		s.route.LocalPref = *s.update.LocalPref
	}
	if u.MED != nil {
		s.route.MED = *u.MED
	}
	for _, c := range u.Communities {
		if c < markFirst || c > markLast {
			s.route.Communities = append(s.route.Communities, fmt.Sprintf("%d:%d", c>>16, c&0xffff))
		}
	}
	for _, c := range u.Large {
		s.route.Communities = append(s.route.Communities, fmt.Sprintf("%d:%d:%d", c[0], c[1], c[2]))
	}
	return s
}

func source(n Neighbour) string {
	if n.Peer != "" {
		return policy.SourceTunnel
	}
	return policy.SourceLAN
}

func (g gen) list(max int, items ...string) []string {
	var out []string
	for range g.IntN(max + 1) {
		out = append(out, pick(g, items...))
	}
	return out
}

func (g gen) rule(i int, export bool) policy.Rule {
	r := policy.Rule{Name: fmt.Sprintf("r%d", i), Action: pick(g, policy.Accept, policy.Accept, policy.Next, policy.Next, policy.Reject)}
	m, s := &r.Match, &r.Set
	if g.IntN(3) == 0 {
		for range 1 + g.IntN(3) {
			r, err := policy.ParsePrefixRange(pick(g, "10.0.0.0/8+", "10.0.0.0/8{17,24}", "10.1.0.0/16", "10.2.64.0/18+", "fd00::/8+", "fd00::/8{44,64}", "172.0.0.0/8+"))
			if err != nil {
				panic(err)
			}
			m.Prefixes = append(m.Prefixes, r)
		}
	}
	if g.IntN(3) == 0 {
		m.Communities = g.list(2, "65000:1", "65000:*", "graceful-shutdown", "blackhole", "65000:1:1", "65000:*:*", "65000:1:*", "*", "65535:*", "no-export")
	}
	if g.IntN(3) == 0 {
		m.ASPath = pick(g, "^65001_", "_7_", "_64512$", "^$", "^65002$", "_(7|77)_", "^[0-9]+_7_", "650", "_65010_64512", "^65001 65001", "7$", "^(65001|65002)_(7|1)_", "_0", "5$")
	}
	if g.IntN(5) == 0 {
		m.OriginAS = []uint32{pick[uint32](g, 7, 64512, ownASN, 65001), 1}
	}
	if g.IntN(5) == 0 {
		m.ASPathMin = g.IntN(4)
	}
	if g.IntN(5) == 0 {
		m.ASPathMax = m.ASPathMin + 1 + g.IntN(3)
	}
	if export && g.prepends {
		m.ASPath, m.OriginAS, m.ASPathMin, m.ASPathMax = "", nil, 0, 0
	}
	m.Family = pick(g, "", "", "", "ipv4", "ipv6")
	if export || g.IntN(6) == 0 {
		m.Source = pick(g, "", "", policy.SourceOwn, policy.SourceTunnel, policy.SourceLAN)
	}
	if g.IntN(3) == 0 {
		s.LocalPref = new(g.Uint32N(4) * 100)
	}
	if g.IntN(4) == 0 {
		s.MED = new(g.Uint32N(3) * 10)
	}
	if g.IntN(4) == 0 && (export || g.prepends) {
		s.Prepend = 1 + g.IntN(2)
	}
	if g.IntN(3) == 0 {
		s.AddCommunities = g.list(3, "65000:1", "65000:9", "65000:1:1", "65000:9:9", "no-export", "64511:24")
	}
	if g.IntN(3) == 0 {
		s.RemoveCommunities = g.list(2, "65000:1", "65000:*", "65000:1:*", "*", "65535:*", "blackhole", "65000:*:*")
	}
	s.NextHopSelf = export && g.IntN(5) == 0
	if !export && g.IntN(3) == 0 {
		for _, v := range policy.Validities() {
			if g.IntN(2) == 0 {
				m.RPKI = append(m.RPKI, v)
			}
		}
		if m.RPKI != nil {
			m.RPKITable = pick(g, "", "", "flap", "absent")
		}
	}
	return r
}

// origins makes two tables of payloads for what route makes.
func (g gen) origins() *rpki.Set {
	table := func(n int, asns ...uint32) *rpki.Table {
		var list []rpki.VRP
		for range n {
			p := g.prefix(byte(g.IntN(4)))
			v, err := rpki.NewVRP(p, min(p.Bits()+g.IntN(12), p.Addr().BitLen()), pick(g, asns...))
			if err != nil {
				panic(err)
			}
			list = append(list, v)
		}
		return rpki.TableOf(list...)
	}
	if g.IntN(8) == 0 {
		return nil
	}
	return rpki.NewSet(map[string]*rpki.Table{
		policy.DefaultTable: table(g.IntN(120), 7, 77, 64512, 65010, 650, 1, 65001, 65002, ownASN), "flap": table(g.IntN(10), 0),
	})
}

func (g gen) policy() *policy.Policy {
	p := &policy.Policy{
		Name: "random", AllowDefault: g.IntN(2) == 0, AllowThirdPartyNextHop: g.IntN(2) == 0, AllowOwnParts: g.IntN(2) == 0,
		MaxASPath: pick(g, 0, 3, 4),
	}
	for i := range g.IntN(5) {
		p.Import = append(p.Import, g.rule(i, false))
	}
	p.Import = append(p.Import, policy.Rule{Name: "rest", Action: pick(g, policy.Accept, policy.Accept, policy.Reject)})
	for i := range g.IntN(5) {
		p.Export = append(p.Export, g.rule(i, true))
	}
	p.Export = append(p.Export, policy.Rule{Name: "rest", Action: pick(g, policy.Accept, policy.Accept, policy.Reject)})
	return p
}

// show prints what of a route has to agree.
func show(path []uint32, hop netip.Addr, localPref, med uint32, communities []string) string {
	c := slices.Clone(communities)
	slices.Sort(c)
	return fmt.Sprintf("path %v via %v pref %d med %d communities %v", path, hop, localPref, med, c)
}

// rib reads GoBGP's own table.
func (l *lab) rib() map[netip.Prefix]string {
	l.t.Helper()
	out := map[netip.Prefix]string{}
	err := l.do(l.context(), func(lo *loop) error {
		for _, f := range families {
			if err := lo.gobgp.ListPath(apiutil.ListPathRequest{TableType: api.TableType_TABLE_TYPE_GLOBAL, Family: f}, func(n bgp.NLRI, paths []*apiutil.Path) {
				p, _ := prefixOf(n)
				for _, path := range paths {
					if !own(path) {
						r := new(words).readAttrs(path.Attrs, true)
						out[p] = show(r.attrs.ASPath, netip.Addr{}, r.attrs.LocalPref, r.attrs.MED, r.communities)
					}
				}
			}); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		l.t.Fatal(err)
	}
	return out
}

func diff[V comparable](want, got map[netip.Prefix]V) string {
	var out []string
	for p, w := range want {
		if g, ok := got[p]; !ok {
			out = append(out, fmt.Sprintf("%v: missing; want %v", p, w))
		} else if g != w {
			out = append(out, fmt.Sprintf("%v:\n   got  %v\n   want %v", p, g, w))
		}
	}
	for p, g := range got {
		if _, ok := want[p]; !ok {
			out = append(out, fmt.Sprintf("%v: not wanted: %v", p, g))
		}
	}
	slices.Sort(out)
	return strings.Join(out, "\n")
}

// eventually polls until the difference is empty.
func (l *lab) eventually(what string, difference func() string) bool {
	l.t.Helper()
	var d string
	for deadline := time.Now().Add(patient / 3); time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		if d = difference(); d == "" {
			return true
		}
	}
	_ = l.do(l.context(), func(lo *loop) error {
		for a, p := range lo.pace {
			l.t.Logf("%v: soft reset in %v out %v due in %v", a, p.in, p.out, time.Until(p.next))
		}
		l.t.Logf("refused in GoBGP: %v; calls %+v", lo.refused, lo.latency)
		return nil
	})
	l.t.Errorf("%s:\n%s", what, d)
	return false
}

func TestGoBGPAgreesWithPolicies(t *testing.T) {
	rounds := 30
	if raceEnabled {
		rounds = 10 // each costs ten times as much, minutes on a busy machine, and it is not the number of them that shows a race
	}
	for seed := range uint64(3) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) { agreement(t, gen{rand.New(rand.NewPCG(seed, 42)), seed%2 == 1}, rounds) })
	}
}

func agreement(t *testing.T, g gen, rounds int) {
	own1 := netip.MustParsePrefix("10.1.128.0/18")
	endpoint := netip.MustParseAddr("10.2.64.1")
	tunnel := passive("t", 2, 65001, nil)
	tunnel.Peer = "t"
	lan, internal := passive("e", 3, 65002, nil), passive("i", 4, ownASN, nil)
	c := Config{
		ASN: ownASN, RouterID: routerID, Neighbours: []Neighbour{tunnel, lan, internal}, Own: []netip.Prefix{own1},
		Endpoints: []netip.Addr{endpoint},
		Announce: []Announcement{
			{Prefix: own1, Communities: []string{"65000:1", "no-export"}},
			{Prefix: netip.MustParsePrefix("fd09::/32"), Communities: []string{"65000:1:1"}},
		},
	}
	l := startLab(t, c)
	peers := map[string]*bgptest.Peer{"t": l.peer(2, 65001), "e": l.peer(3, 65002), "i": l.peer(4, ownASN)}
	routesSent := map[netip.Prefix]sent{}
	for round := range rounds {
		for i, n := range c.Neighbours {
			for range 12 {
				s := g.route(n, byte(i+2), byte(i+1))
				if s.route.Prefix == own1 {
					continue
				}
				routesSent[s.route.Prefix] = s
				if err := peers[n.Name].Announce(s.update); err != nil {
					t.Fatal(err)
				}
			}
		}
		l.set(func(c *Config) {
			for i := range c.Neighbours {
				c.Neighbours[i].Policy = g.policy()
			}
			c.Origins = g.origins()
		})
		ok := l.agree(routesSent, peers)
		if ok { // other payloads alone
			l.set(func(c *Config) { c.Origins = g.origins() })
			ok = l.agree(routesSent, peers)
		}
		if !ok {
			for _, n := range l.config.Neighbours {
				t.Logf("round %d, policy of %s:\n%s", round, n.Name, dump(n.Policy))
			}
			return
		}
	}
}

func dump(p *policy.Policy) string {
	var b strings.Builder
	fmt.Fprintf(&b, "default %v third %v parts %v max %d\n", p.AllowDefault, p.AllowThirdPartyNextHop, p.AllowOwnParts, p.MaxASPath)
	for d, rules := range [][]policy.Rule{p.Import, p.Export} {
		for _, r := range rules {
			fmt.Fprintf(&b, "  %s %s %v %+v set %+v", []string{"import", "export"}[d], r.Name, r.Action, r.Match, r.Set)
			if r.Set.LocalPref != nil {
				fmt.Fprintf(&b, " pref %d", *r.Set.LocalPref)
			}
			b.WriteString("\n")
		}
	}
	return b.String()
}

// agree compares the evaluator with GoBGP's table, with the feed, and with what the peers were sent.
func (l *lab) agree(list map[netip.Prefix]sent, peers map[string]*bgptest.Peer) bool {
	l.t.Helper()
	byName := map[string]Neighbour{}
	contexts := map[string]*policy.Context{}
	for _, n := range l.config.Neighbours {
		byName[n.Name] = n
		contexts[n.Name] = &policy.Context{
			LocalASN: ownASN, NeighbourASN: n.ASN, Neighbour: n.Address, NextHops: []netip.Addr{n.RemoteIPv4, n.RemoteIPv6},
			Own: l.config.Own, Endpoints: l.config.Endpoints, Origins: origins(l.config.Origins),
		}
	}
	want, verdicts := map[netip.Prefix]string{}, map[netip.Prefix]string{}
	var imported []policy.Route
	for p, s := range list {
		v := byName[s.from].Policy.EvalImport(s.route, contexts[s.from])
		switch {
		case !v.Accepted:
			verdicts[p] = s.from + " " + v.Rule
		case s.update.ASSet != nil:
			verdicts[p] = s.from + " as_set"
		default:
			verdicts[p] = s.from + " "
			v.Route.LocalPref = max(v.Route.LocalPref, 1)
			want[p] = show(v.Route.ASPath, netip.Addr{}, v.Route.LocalPref, v.Route.MED, v.Route.Communities)
			imported = append(imported, v.Route)
		}
	}
	if !l.eventually("GoBGP's table", func() string { return diff(want, l.rib()) }) {
		return false
	}
	if !l.eventually("the feed's verdicts", func() string {
		l.feed.mu.Lock()
		defer l.feed.mu.Unlock()
		got := map[netip.Prefix]string{}
		for n, paths := range l.feed.paths {
			for p, path := range paths {
				got[p] = n + " " + path.Rejected
			}
		}
		return diff(verdicts, got)
	}) {
		return false
	}
	if !l.eventually("the feed's accepted paths and best paths", func() string {
		l.feed.mu.Lock()
		defer l.feed.mu.Unlock()
		got := map[netip.Prefix]string{}
		for n, paths := range l.feed.paths {
			for p, path := range paths {
				if a := path.Attrs; path.Rejected == "" && l.feed.bestOf(p.String()) == n {
					got[p] = show(a.ASPath, netip.Addr{}, a.LocalPref, a.MED, slices.Concat(a.Communities, a.LargeCommunities))
				}
			}
		}
		return diff(want, got)
	}) {
		return false
	}
	for _, a := range l.config.Announce {
		imported = append(imported, policy.Route{Prefix: a.Prefix, Communities: canonical(a.Communities), LocalPref: 100, Source: policy.SourceOwn})
	}
	for name, peer := range peers {
		to := byName[name]
		want := map[netip.Prefix]string{}
		for _, r := range imported {
			if w, ok := expect(r, list[r.Prefix].from, to, contexts[name]); ok {
				want[r.Prefix] = w
			}
		}
		if !l.eventually("what "+name+" was sent", func() string {
			got := map[netip.Prefix]string{}
			for p, r := range peer.Routes() {
				got[p] = showReceived(r, to.ASN == ownASN)
			}
			return diff(want, got)
		}) {
			return false
		}
	}
	return true
}

func canonical(list []string) []string {
	var out []string
	for _, c := range list {
		s, err := policy.ParseCommunity(c)
		if err != nil {
			panic(err)
		}
		out = append(out, s)
	}
	return out
}

// expect says what a neighbour has to be sent of a route in the table.
func expect(r policy.Route, from string, to Neighbour, c *policy.Context) (string, bool) {
	internal := to.ASN == ownASN
	if from == to.Name || slices.Contains(r.ASPath, to.ASN) {
		return "", false // GoBGP's own loop protection; also where an import rule prepended our ASN
	}
	if !internal && r.Source != policy.SourceOwn {
		r.MED = 1 << 31 // stays only if no rule sets one; then it is not sent to another AS
	}
	v := to.Policy.EvalExport(r, c)
	if !v.Accepted {
		return "", false
	}
	out := v.Route
	if out.MED == 1<<31 {
		out.MED = 0
	}
	path, hop := out.ASPath, out.NextHop
	if !internal {
		path = append([]uint32{ownASN}, path...)
		out.LocalPref = 0
	} else {
		out.LocalPref = max(out.LocalPref, 1)
	}
	if !internal || r.Source != policy.SourceLAN || !hop.IsValid() {
		hop = speaker
	}
	if r.Prefix.Addr().Is6() {
		hop = to.LocalIPv6
	}
	return show(path, hop, out.LocalPref, out.MED, out.Communities), true
}

func showReceived(r bgptest.Received, internal bool) string {
	var communities []string
	for _, c := range r.Communities {
		communities = append(communities, standard(c))
	}
	for _, c := range r.Large {
		communities = append(communities, fmt.Sprintf("%d:%d:%d", c[0], c[1], c[2]))
	}
	var pref, med uint32
	if r.LocalPref != nil {
		pref = *r.LocalPref
	}
	if r.MED != nil {
		med = *r.MED
	}
	var hop netip.Addr
	if len(r.NextHop) > 0 {
		hop = r.NextHop[0]
	}
	return show(r.ASPath, hop, pref, med, communities)
}
