package host

import (
	"testing"

	"sitewire/topologies/netns/nstest"
)

// What others break is put right, and counted; what we set, or set again, is not.
func TestMended(t *testing.T) {
	r := newRig(t)
	link := LinkConfig{Name: "tun0", MTU: 1400, Addresses: []Address{{Local: p("10.9.0.1/32")}}, Up: true}
	rules := RulesConfig{Mark: 0x5357, Priority: 5000}
	wall := FirewallConfig{BGPPort: 179, TunnelDevices: []string{"tun0"}}
	set := func() {
		t.Helper()
		r.do(func() error { return r.host.SetLink(t.Context(), link) })
		r.do(func() error { return r.host.SetRules(t.Context(), rules) })
		r.do(func() error { return r.host.SetFirewall(t.Context(), wall) })
	}
	want := func(what string, m Mended) {
		t.Helper()
		if got := r.host.Stats().Mended; got != m {
			t.Errorf("%s: %+v, want %+v", what, got, m)
		}
	}
	set()
	set()
	link.MTU, rules.Priority, wall.ClampMSS = 1380, 6000, true
	set()
	want("our own doing", Mended{})

	r.ip("link set tun0 mtu 1300")
	set()
	want("the MTU", Mended{Devices: 1})
	r.ip("address del 10.9.0.1/32 dev tun0")
	r.ip("link set tun0 down")
	set()
	want("address and state", Mended{Devices: 2})
	r.ip("rule del priority 6000")
	set()
	want("a rule", Mended{Devices: 2, Rules: 1})
	set()
	want("once", Mended{Devices: 2, Rules: 1})

	s := r.host.Stats()
	for _, x := range []Request{{"rtnetlink", "link_set"}, {"rtnetlink", "rule_add"}, {"rtnetlink", "address_list"}, {"nftables", "table_replace"}} {
		if s.Requests[x] == 0 {
			t.Errorf("%+v is not counted", x)
		}
	}
	if _, ok := s.Requests[Request{"rtnetlink", "route_get"}]; !ok {
		t.Error("a request that was not made does not start at 0")
	}
	if len(s.Failures) > 0 {
		t.Errorf("failures: %v", s.Failures)
	}
	if err := r.ns.Do(func() error { return r.host.SetLink(t.Context(), LinkConfig{Name: "nothing"}) }); err == nil {
		t.Error("no error for a device that there is not")
	}
	if got := r.host.Stats().Failures; len(got) != 1 {
		t.Errorf("failures: %v, want one", got)
	}
}

// The firewall's table is missed when somebody took it.
func TestFirewallMissed(t *testing.T) {
	r := newRig(t)
	nstest.Need(t, nstest.Program("nft"))
	wall := FirewallConfig{BGPPort: 179}
	r.do(func() error { return r.host.SetFirewall(t.Context(), wall) })
	r.run("nft", "delete", "table", "inet", FirewallTable)
	r.do(func() error { return r.host.SetFirewall(t.Context(), wall) })
	if got := r.host.Stats().Mended.Rules; got != 1 {
		t.Errorf("%d, want 1", got)
	}
}

// LinkCounters tells of tunnel devices and of no others.
func TestLinkCounters(t *testing.T) {
	r := newRig(t)
	r.do(func() error {
		return r.host.SetLink(t.Context(), LinkConfig{Name: "tun0", Addresses: []Address{{Local: p("10.9.0.1/24")}}, Up: true})
	})
	r.do(func() error {
		all, err := r.host.LinkCounters(t.Context())
		if c, ok := all["tun0"]; len(all) != 1 || !ok || c.ReceivePackets != 0 {
			t.Errorf("counters: %+v", all)
		}
		return err
	})
}
