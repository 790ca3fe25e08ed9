package bgp

import (
	"fmt"
	"net/netip"
	"regexp"
	"strings"
	"testing"
	"time"

	"sitewire/bgp/policy"
)

func TestValidate(t *testing.T) {
	good := Config{
		ASN: ownASN, RouterID: routerID, Neighbours: []Neighbour{passive("a", 2, 65001, accepting()), passive("b", 3, 65002, accepting())},
		Announce: []Announcement{{Prefix: netip.MustParsePrefix("10.0.0.0/8")}},
	}
	if err := Validate(good); err != nil {
		t.Fatal(err)
	}
	twins := func(c *Config) {
		for i, dev := range []string{"wg0", "wg1"} {
			n := &c.Neighbours[i]
			n.Address, n.Peer = netip.MustParseAddr("fe80::2%"+dev), dev
		}
	}
	mute := &policy.Policy{Name: "mute"}
	for _, tt := range []struct {
		name   string
		change func(*Config)
		want   string // "" is fine
	}{
		{"asn", func(c *Config) { c.ASN = 0 }, "asn 0"},
		{"router id", func(c *Config) { c.RouterID = netip.IPv4Unspecified() }, "router_id"},
		{"router id v6", func(c *Config) { c.RouterID = netip.MustParseAddr("::1") }, "router_id"},
		{"host bits", func(c *Config) { c.Announce[0].Prefix = netip.MustParsePrefix("10.1.0.0/8") }, "host bits"},
		{"community", func(c *Config) { c.Announce[0].Communities = []string{"70000:1"} }, "70000:1"},
		{"name", func(c *Config) { c.Neighbours[1].Name = "a" }, "taken"},
		{"address", func(c *Config) { c.Neighbours[1].Address = c.Neighbours[0].Address }, "same address"},
		{"no address", func(c *Config) { c.Neighbours[1].Address = netip.Addr{} }, "not the address"},
		{"mapped address", func(c *Config) { c.Neighbours[1].Address = netip.MustParseAddr("::ffff:10.0.0.1") }, "not the address"},
		{"no zone", func(c *Config) { c.Neighbours[1].Address = netip.MustParseAddr("fe80::1") }, "needs a device"},
		{"useless zone", func(c *Config) { c.Neighbours[1].Address = netip.MustParseAddr("fd00::1%eth0") }, "has a device"},
		{"neighbour asn", func(c *Config) { c.Neighbours[1].ASN = 23456 }, "asn 23456"},
		{"no family", func(c *Config) { c.Neighbours[1].IPv4, c.Neighbours[1].IPv6 = false, false }, "neither"},
		{"hold time", func(c *Config) { c.Neighbours[1].HoldTime = 2 * time.Second }, "hold time"},
		{"part of a second", func(c *Config) { c.Neighbours[1].HoldTime = 3500 * time.Millisecond }, "hold time"},
		{"local family", func(c *Config) { c.Neighbours[1].LocalAddress = netip.MustParseAddr("fd00::1") }, "two families"},
		{"local ipv4", func(c *Config) { c.Neighbours[1].LocalIPv4 = netip.MustParseAddr("fd00::1") }, "local IPv4"},
		{"client", func(c *Config) { c.Neighbours[1].RouteReflectorClient = true }, "client"},
		{"policy", func(c *Config) {
			c.Neighbours[1].Policy = &policy.Policy{Name: "x", Import: []policy.Rule{{Match: policy.Match{ASPath: "("}}}}
		}, "as_path"},
		{"export path", func(c *Config) {
			c.Neighbours[1].Policy = &policy.Policy{Name: "x", Export: []policy.Rule{{Name: "loop", Match: policy.Match{ASPath: "(_1)*"}}}}
		}, "not supported for export"},
		{"prepend and path", func(c *Config) {
			c.Neighbours[1].Policy = &policy.Policy{
				Name:   "x",
				Import: []policy.Rule{{Name: "i", Set: policy.Set{Prepend: 1}, Action: policy.Accept}},
				Export: []policy.Rule{{Name: "e", Match: policy.Match{ASPath: "_1_"}}},
			}
		}, "cannot do both"},
		{"twins", twins, ""},
		{"twins with other policies", func(c *Config) { twins(c); c.Neighbours[1].Policy = mute }, "policies differ"},
		{"twins with equal policies", func(c *Config) { twins(c); c.Neighbours[1].Policy = accepting() }, ""},
		{"twins with other passwords", func(c *Config) { twins(c); c.Neighbours[1].Password = "secret-1" }, "passwords differ"},
		{"twins on a tunnel and the LAN", func(c *Config) { twins(c); c.Neighbours[1].Peer = "" }, "LAN"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := good
			c.Neighbours = append([]Neighbour(nil), good.Neighbours...)
			c.Announce = append([]Announcement(nil), good.Announce...)
			tt.change(&c)
			err := Validate(c)
			switch {
			case tt.want == "" && err != nil:
				t.Error(err)
			case tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)):
				t.Errorf("%v, want something about %q", err, tt.want)
			case err != nil && strings.Contains(err.Error(), "secret"):
				t.Errorf("the error has the password: %v", err)
			}
		})
	}
}

func TestProfilesCompile(t *testing.T) {
	for _, name := range policy.Profiles() {
		p, _ := policy.Profile(name)
		if err := Validate(Config{ASN: ownASN, RouterID: routerID, Neighbours: []Neighbour{passive("a", 2, 65001, p), passive("i", 3, ownASN, p)}}); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestParseNotification(t *testing.T) {
	for message, want := range map[string]string{
		"notification-sent code 6(cease) subcode 4(administrative reset)":   "sent Cease/Administrative Reset",
		"notification-received code 6(cease) subcode 10(undefined)":         "received Cease/10",
		"notification-sent code 4(hold timer expired) subcode 0(undefined)": "sent Hold Timer Expired/0",
		"notification-received code 2(open) subcode 2(bad peer as)":         "received Open/Bad Peer As",
		"notification-sent code 77(undefined) subcode 0(undefined)":         "sent 77/0",
		"hold-timer-expired": "hold timer expired",
		"":                   "",
	} {
		if got := inWords(message); got != want {
			t.Errorf("%q: %q, want %q", message, got, want)
		}
	}
}

func FuzzParseNotification(f *testing.F) {
	f.Add("notification-sent code 6(cease) subcode 4(administrative reset)")
	f.Add("notification-sent code 6() subcode 4( )")
	f.Fuzz(func(t *testing.T, message string) {
		direction, code, ok := parseNotification(message)
		if ok && (direction != "sent" && direction != "received" || strings.Count(code, "/") < 1) {
			t.Errorf("%q: %q %q", message, direction, code)
		}
	})
}

func FuzzCommunityPatterns(f *testing.F) {
	f.Add("65000:*", uint32(65000), uint32(1), uint32(2))
	f.Add("*", uint32(65535), uint32(61003), uint32(0))
	f.Add("4242420001:1:*", uint32(4242420001), uint32(1), uint32(7))
	f.Fuzz(func(t *testing.T, pattern string, a, b, c uint32) {
		p := &policy.Policy{Import: []policy.Rule{{Match: policy.Match{Communities: []string{pattern}}, Action: policy.Accept}}}
		if p.Compile() != nil {
			return
		}
		std, large := communityPatterns([]string{pattern})
		if isMark(a<<16 | b&0xffff) {
			for _, e := range std {
				if matches(t, e, standard(a<<16|b&0xffff)) {
					t.Errorf("%q matches a mark", e)
				}
			}
			return
		}
		route := policy.Route{Prefix: netip.MustParsePrefix("10.0.0.0/8"), ASPath: []uint32{1}, NextHop: routerID}
		ctx := &policy.Context{LocalASN: 2, NeighbourASN: 1, Neighbour: routerID}
		for _, form := range []struct {
			text string
			list []string
		}{{standard(a<<16 | b&0xffff), std}, {fmt.Sprintf("%d:%d:%d", a, b, c), large}} {
			route.Communities = []string{form.text}
			want, got := p.EvalImport(route, ctx).Accepted, false
			for _, e := range form.list {
				got = got || matches(t, e, form.text)
			}
			if got != want {
				t.Errorf("%q on %s: GoBGP's %q say %v, the policy %v", pattern, form.text, form.list, got, want)
			}
		}
	})
}

func matches(t *testing.T, expr, text string) bool {
	t.Helper()
	re, err := regexp.Compile(expr)
	if err != nil {
		t.Fatal(err)
	}
	return re.MatchString(text)
}
