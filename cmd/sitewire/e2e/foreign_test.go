package e2e

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"regexp"
	"slices"
	"strings"
	"testing"

	"sitewire/topologies/netns/nstest"
	"sitewire/topologies/netns/peers"
)

// shape is a way of running BGP with a peer: the first three rows of the table in docs/configuration.md.
type shape string

const (
	shapeA shape = "A" // one session over IPv6 link-local, both families, extended next hop
	shapeB shape = "B" // one session over IPv6 link-local, both families, IPv4 next hops from the tunnel
	shapeC shape = "C" // two sessions: IPv4 over IPv4, IPv6 over IPv6
)

// Inner addresses of the one tunnel between sitewire (first) and the other side.
var (
	inLL = [2]string{"fe80::1", "fe80::2"}
	in4  = [2]string{"192.168.255.1", "192.168.255.2"}
	in6  = [2]string{"fd00:ffff::1", "fd00:ffff::2"}
)

// peerYAML is sitewire's side of a tunnel to s in the given shape.
func (s *site) peerYAML(sh shape) string {
	tunnel, bgp := fmt.Sprintf("local: %s, remote: %s", inLL[0], inLL[1]), ""
	v4 := fmt.Sprintf(", local_ipv4: %s, remote_ipv4: %s", in4[0], in4[1])
	switch sh {
	case shapeB:
		tunnel += v4
		bgp = "    bgp: { extended_next_hop: off }\n"
	case shapeC:
		tunnel = fmt.Sprintf("local: %s, remote: %s%s", in6[0], in6[1], v4)
		bgp = "    bgp: { session: split }\n"
	}
	return fmt.Sprintf(`  %s:
    public_key: %s
    endpoint: "%s:51820"
    listen_port: %d
    asn: %d
    policy: full
    keepalive: 1s
    tunnel: { %s }
%s`, s.name, s.pub(), s.out4, s.portAtPeer(), s.asn, tunnel, bgp)
}

// portAtPeer is the port on which the other end of a tunnel waits for s: each peer has a device of its own there.
func (s *site) portAtPeer() int { return 51820 + s.n }

// foreign is the other side: wireguard-go configured by wg(8), and somebody else's BGP.
type foreign struct {
	*site
	wg *peers.WireGuard
	// learned returns the prefixes that the BGP daemon has from sitewire.
	learned func() ([]netip.Prefix, error)
	lanOnly bool
	// bfd has the BGP daemon watch its sessions by BFD at 200 ms x 3.
	bfd bool
	// hold is the BGP daemon's hold time in seconds; 0 is 9.
	hold int
	// stop and kill end the BGP daemon, in good order or without a word.
	stop, kill func() error
	starts     int // of FRR: sockets that a killed one left look as if the next one listened
	// birdc is set by bird.
	birdc func(words ...string) string
}

// wireguard makes wg0 to the sitewire site, with all addresses that any shape uses.
func (s *site) wireguard(to *site) *foreign {
	t := s.t
	t.Helper()
	nstest.Need(t, nstest.Program("wireguard-go"), nstest.Program("wg"))
	w, err := peers.StartWireGuard(t.Context(), s.ns, "wg0", fmt.Sprintf(`[Interface]
PrivateKey = %s
ListenPort = 51820
[Peer]
PublicKey = %s
Endpoint = %s:%d
AllowedIPs = 0.0.0.0/0, ::/0
PersistentKeepalive = 1
`, s.key.Reveal(), to.pub(), to.out4, s.portAtPeer()))
	must(t, err)
	w.Watch(t)
	for _, args := range [][]string{
		{"link", "set", "wg0", "addrgenmode", "none"},
		{"link", "set", "wg0", "mtu", "1420", "up"},
		{"addr", "add", inLL[1] + "/64", "dev", "wg0"},
		{"addr", "add", in4[1], "peer", in4[0], "dev", "wg0"},
		{"addr", "add", in6[1], "peer", in6[0], "dev", "wg0"},
	} {
		nstest.Run(t, s.ns, "ip", args...)
	}
	return &foreign{site: s, wg: w}
}

// wireguardFor is wireguard for a second foreign site of the same router: its tunnel has link-local addresses only, and
// it originates nothing but its LAN.
func (s *site) wireguardFor(to *site) *foreign {
	f := s.wireguard(to)
	f.lanOnly = true
	return f
}

// extra are prefixes of the foreign side beyond its LAN, so that tables have more than one row.
var extra = []string{"10.222.1.0/24", "10.222.2.0/24", "10.222.2.128/25", "fd00:222:1::/48", "fd00:222:2::/64"}

func (f *foreign) own() []netip.Prefix {
	out := []netip.Prefix{f.lan4, f.lan6}
	if f.lanOnly {
		return sorted(out)
	}
	for _, p := range extra {
		out = append(out, netip.MustParsePrefix(p))
	}
	return sorted(out)
}

func sorted(ps []netip.Prefix) []netip.Prefix {
	slices.SortFunc(ps, netip.Prefix.Compare)
	return slices.Compact(ps)
}

// bird runs BIRD 2 as s's BGP towards the site to. More is added to its configuration.
func (f *foreign) bird(to *site, sh shape, more ...string) {
	t := f.t
	t.Helper()
	nstest.Need(t, nstest.Program("bird"), nstest.Program("birdc"))
	var statics4, statics6, sessions strings.Builder
	for _, p := range extra {
		w := &statics4
		if strings.Contains(p, ":") {
			w = &statics6
		}
		fmt.Fprintf(w, "  route %s unreachable;\n", p)
	}
	if f.bfd {
		more = append(more, `protocol bfd { interface "wg0" { min rx interval 200 ms; min tx interval 200 ms; multiplier 3; }; }`)
	}
	session := func(name, local, remote, channels string) {
		if f.bfd {
			channels = "bfd on; " + channels
		}
		fmt.Fprintf(&sessions, `protocol bgp %s {
  local %s as %d;
  neighbor %s as %d;
  hold time %d; connect delay time 1; error wait time 1,5; connect retry time 2;
  %s
}
`, name, local, f.asn, remote, to.asn, cmp.Or(f.hold, 9), channels)
	}
	all := "import all; export where source ~ [ RTS_STATIC, RTS_DEVICE ];"
	switch sh {
	case shapeA:
		session("sw", inLL[1], inLL[0]+"%'wg0'", "ipv4 { extended next hop yes; "+all+" }; ipv6 { "+all+" };")
	case shapeB:
		session("sw", inLL[1], inLL[0]+"%'wg0'", "ipv4 { next hop address "+in4[1]+"; "+all+" }; ipv6 { "+all+" };")
	case shapeC:
		session("sw4", in4[1], in4[0], "ipv4 { "+all+" };")
		session("sw6", in6[1], in6[0], "ipv6 { "+all+" };")
	}
	b, err := peers.StartBIRD(t.Context(), f.ns, "bird", fmt.Sprintf(`router id %s;
log stderr all;
protocol device { scan time 1; }
protocol direct { ipv4; ipv6; interface "lan0"; }
protocol kernel { ipv4 { export where source = RTS_BGP; }; }
protocol kernel { ipv6 { export where source = RTS_BGP; }; }
protocol static { ipv4;
%s}
protocol static { ipv6;
%s}
%s%s`, f.out4, statics4.String(), statics6.String(), sessions.String(), strings.Join(more, "\n")))
	must(t, err)
	b.Watch(t)
	f.stop, f.kill = b.Stop, b.Kill
	f.birdc = func(words ...string) string {
		t.Helper()
		out, err := b.Birdc(context.Background(), words...)
		must(t, err)
		return out
	}
	f.learned = func() ([]netip.Prefix, error) {
		out, err := b.Birdc(context.Background(), "show", "route", "where", "source", "=", "RTS_BGP")
		if err != nil {
			return nil, err
		}
		return sorted(prefixesAtLineStart(out)), nil
	}
}

var lineStart = regexp.MustCompile(`(?m)^([0-9a-f.:]+/[0-9]+)\s`)

func prefixesAtLineStart(s string) (out []netip.Prefix) {
	for _, m := range lineStart.FindAllStringSubmatch(s, -1) {
		out = append(out, netip.MustParsePrefix(m[1]))
	}
	return out
}

// frr runs FRR as s's BGP towards the site to.
func (f *foreign) frr(to *site, sh shape) {
	t := f.t
	t.Helper()
	nstest.Need(t, nstest.Program("bgpd"), nstest.Program("zebra"), nstest.Program("vtysh"))
	type session struct{ remote, more, family string }
	var sessions []session
	switch sh {
	case shapeA:
		sessions = []session{{inLL[0], "interface wg0\nneighbor %s capability extended-nexthop", "46"}}
	case shapeB:
		sessions = []session{{inLL[0], "interface wg0", "46"}}
	case shapeC:
		sessions = []session{{in4[0], "", "4"}, {in6[0], "", "6"}}
	}
	var c strings.Builder
	var daemons []string
	if f.bfd {
		nstest.Need(t, nstest.Program("bfdd"))
		daemons = []string{"bfdd"}
		c.WriteString("bfd\n profile fast\n  receive-interval 200\n  transmit-interval 200\n  detect-multiplier 3\n exit\nexit\n")
	}
	fmt.Fprintf(&c, "router bgp %d\n bgp router-id %s\n no bgp ebgp-requires-policy\n no bgp default ipv4-unicast\n no bgp network import-check\n", f.asn, f.out4)
	for _, s := range sessions {
		fmt.Fprintf(&c, " neighbor %s remote-as %d\n neighbor %[1]s timers 3 9\n neighbor %[1]s timers connect 1\n neighbor %[1]s advertisement-interval 0\n", s.remote, to.asn)
		if f.bfd {
			fmt.Fprintf(&c, " neighbor %s bfd\n neighbor %[1]s bfd profile fast\n", s.remote)
		}
		if s.more != "" {
			for line := range strings.SplitSeq(s.more, "\n") {
				if strings.Contains(line, "%s") {
					fmt.Fprintf(&c, " "+line+"\n", s.remote)
				} else {
					fmt.Fprintf(&c, " neighbor %s %s\n", s.remote, line)
				}
			}
		}
	}
	for _, fam := range []struct{ digit, name string }{{"4", "ipv4"}, {"6", "ipv6"}} {
		fmt.Fprintf(&c, " address-family %s unicast\n", fam.name)
		for _, p := range f.own() {
			if p.Addr().Is4() == (fam.digit == "4") {
				fmt.Fprintf(&c, "  network %s\n", p)
			}
		}
		for _, s := range sessions {
			if strings.Contains(s.family, fam.digit) {
				fmt.Fprintf(&c, "  neighbor %s activate\n", s.remote)
			}
		}
		c.WriteString(" exit-address-family\n")
	}
	f.starts++
	r, err := peers.StartFRR(t.Context(), f.ns, fmt.Sprintf("frr%d", f.starts), c.String(), daemons...)
	must(t, err)
	r.Watch(t)
	f.stop, f.kill = r.Stop, r.Kill
	f.learned = func() ([]netip.Prefix, error) {
		var out []netip.Prefix
		for _, fam := range []string{"ipv4", "ipv6"} {
			text, err := r.Vtysh(context.Background(), "show bgp "+fam+" unicast json")
			if err != nil {
				return nil, err
			}
			var table struct {
				Routes map[string][]struct {
					Path string `json:"path"`
				} `json:"routes"`
			}
			if err := json.Unmarshal([]byte(text), &table); err != nil {
				return nil, err
			}
			for p, paths := range table.Routes {
				if len(paths) > 0 && strings.Contains(paths[0].Path, fmt.Sprint(to.asn)) {
					out = append(out, netip.MustParsePrefix(p))
				}
			}
		}
		return sorted(out), nil
	}
}

// gobgpd runs Debian's gobgpd as s's BGP towards the site to. It writes no kernel routes: install does, from its RIB.
func (f *foreign) gobgpd(to *site, sh shape) (install func()) {
	t := f.t
	t.Helper()
	nstest.Need(t, nstest.Program("gobgpd"), nstest.Program("gobgp"))
	var c strings.Builder
	fmt.Fprintf(&c, "[global.config]\n  as = %d\n  router-id = %q\n", f.asn, f.out4.String())
	if sh == shapeB {
		// gobgpd knows no "extended next hop off": what it sends gets an IPv4 next hop by policy.
		fmt.Fprintf(&c, `[global.apply-policy.config]
  export-policy-list = ["v4-next-hop"]
  default-export-policy = "accept-route"
[[defined-sets.prefix-sets]]
  prefix-set-name = "v4"
  [[defined-sets.prefix-sets.prefix-list]]
    ip-prefix = "0.0.0.0/0"
    masklength-range = "0..32"
[[policy-definitions]]
  name = "v4-next-hop"
  [[policy-definitions.statements]]
    name = "v4-next-hop"
    [policy-definitions.statements.conditions.match-prefix-set]
      prefix-set = "v4"
      match-set-options = "any"
    [policy-definitions.statements.actions]
      route-disposition = "accept-route"
    [policy-definitions.statements.actions.bgp-actions]
      set-next-hop = "%s"
`, in4[1])
	}
	session := func(remote, local string, families ...string) {
		fmt.Fprintf(&c, `[[neighbors]]
  [neighbors.config]
    neighbor-address = %q
    peer-as = %d
  [neighbors.transport.config]
    local-address = %q
  [neighbors.timers.config]
    hold-time = 9
    keepalive-interval = 3
    connect-retry = 2
`, remote, to.asn, local)
		for _, fam := range families {
			fmt.Fprintf(&c, "  [[neighbors.afi-safis]]\n    [neighbors.afi-safis.config]\n      afi-safi-name = %q\n", fam)
		}
	}
	switch sh {
	case shapeA, shapeB:
		session(inLL[0]+"%wg0", inLL[1]+"%wg0", "ipv4-unicast", "ipv6-unicast")
	case shapeC:
		session(in4[0], in4[1], "ipv4-unicast")
		session(in6[0], in6[1], "ipv6-unicast")
	}
	g, err := peers.StartGoBGPd(t.Context(), f.ns, "gobgpd", c.String())
	must(t, err)
	g.Watch(t)
	for _, p := range f.own() {
		fam := "ipv4"
		if p.Addr().Is6() {
			fam = "ipv6"
		}
		_, err := g.GoBGP(t.Context(), "global", "rib", "add", p.String(), "-a", fam)
		must(t, err)
	}
	f.learned = func() ([]netip.Prefix, error) {
		var out []netip.Prefix
		for _, fam := range []string{"ipv4", "ipv6"} {
			text, err := g.GoBGP(context.Background(), "global", "rib", "-a", fam, "-j")
			if err != nil {
				return nil, err
			}
			var table map[string][]struct {
				Attrs []struct {
					Type    int `json:"type"`
					ASPaths []struct {
						ASNs []uint32 `json:"asns"`
					} `json:"as_paths"`
				} `json:"attrs"`
			}
			if err := json.Unmarshal([]byte(text), &table); err != nil {
				return nil, fmt.Errorf("%w: %.200s", err, text)
			}
			for p, paths := range table {
				for _, a := range paths[0].Attrs {
					if len(a.ASPaths) > 0 && len(a.ASPaths[0].ASNs) > 0 && a.ASPaths[0].ASNs[0] == to.asn {
						out = append(out, netip.MustParsePrefix(p))
					}
				}
			}
		}
		return sorted(out), nil
	}
	return func() {
		learned, err := f.learned()
		must(t, err)
		for _, p := range learned {
			nstest.Run(t, f.ns, "ip", "route", "replace", p.String(), "dev", "wg0")
		}
	}
}

func equalPrefixes(t testing.TB, what string, got, want []netip.Prefix) error {
	t.Helper()
	if !slices.Equal(got, want) {
		return fmt.Errorf("%s: have %v, want %v", what, got, want)
	}
	return nil
}
