package topologies

import (
	"fmt"
	"net/netip"
	"time"
)

// hubSpoke is a hub with spokes on one shared device.
func hubSpoke(sites int) *Network {
	b := newNetwork("hub-spoke", "a hub, and spokes that call it",
		"The hub has one WireGuard device for all spokes, and no line of configuration about their addresses: a spoke may be anywhere. "+
			"Allowed-IPs follow BGP, so a prefix that moves from one spoke to another moves in the device too, without a lost packet. "+
			"Spokes reach each other through the hub.")
	internet := b.node("internet", Router, "")
	hub := b.site("hub", Gateway, 1)
	hub.Device = "wg0"
	outer := b.uplink(hub, internet)
	for i := range sites {
		spoke := b.site(fmt.Sprintf("spoke%d", i+1), Gateway, i+2)
		b.uplink(spoke, internet)
		b.tunnel(End{Node: hub, Address: outer, Policy: "hub"}, End{Node: spoke, Policy: "branch"})
	}
	b.outage(hub, "spoke1-host", "hub-host")
	return b.Network
}

// dualHub is a headquarters with two hubs, and branches with two uplinks, one towards each hub.
func dualHub(sites int) *Network {
	b := newNetwork("dual-hub", "two hubs, and branches with two uplinks",
		"Each branch has a tunnel to either hub, each over a provider of its own. The first hub is the first choice in both directions: "+
			"branches give what the second one announces a lower preference, and announce themselves there with a longer path. When an uplink, a provider or a "+
			"hub dies, BFD notices within 1.5 s and the other one takes over. The hubs and the core router behind them speak BGP on the LAN. "+
			"Branches announce only what is theirs, so that none becomes transit between the hubs. The second provider is the slower one.")
	ispA, ispB := b.node("isp-a", Router, ""), b.node("isp-b", Router, "")
	core := b.node("core", BIRD, "hq")
	core.ASN = 4200000100
	b.lan(core, 100, lan4(100), lan6(100))
	hubs := [2]*Node{}
	outer := [2]netip.Addr{}
	for i, isp := range []*Node{ispA, ispB} {
		h := b.node(fmt.Sprintf("hub%d", i+1), Gateway, "hq")
		h.ASN, h.Device = 4200000001+uint32(i), "wg0"
		outer[i] = b.uplink(h, isp)
		net4, net6 := lan4(101+i), lan6(101+i)
		l := b.cable(h, both(net4, net6, 1), core, both(net4, net6, 2))
		h.RouterID = host(net4, 1)
		h.Announce = []netip.Prefix{net4, net6}
		core.Announce = append(core.Announce, net4, net6) // connected there too, so what the hub announces of it goes no further
		b.Sessions = append(b.Sessions, &Session{A: l.A, B: l.B, PolicyA: "lan", BFD: true})
		hubs[i] = h
	}
	for i := range sites {
		br := b.site(fmt.Sprintf("branch%d", i+1), Gateway, i+11)
		// The default route of the first uplink stands; the second hub is reached over the second.
		b.uplink(br, ispA)
		routes := br.Routes
		b.uplink(br, ispB)
		b.Links[len(b.Links)-1].Impairment = Impairment{Rate: 20e6, Delay: 15 * time.Millisecond}
		via := br.Routes[len(routes)].Via
		br.Routes = append(routes, Route{netip.PrefixFrom(outer[1], 32), via})
		br.Policies = []Policy{{Name: "second", Extends: "branch", LocalPref: 50, Prepend: 1}}
		for j, h := range hubs {
			policy := [...]string{"branch", "second"}[j]
			b.tunnel(End{Node: h, Address: outer[j], Policy: "hub"}, End{Node: br, Policy: policy}).BFD = true
		}
	}
	from, to := b.Node("branch1-host"), b.Node("hq-host")
	b.Scenarios = []*Scenario{
		{Name: "branch1 loses its uplink to provider A", Cut: b.uplinksOf(b.Node("branch1"))[:1], From: from, To: to, Within: 5 * time.Second},
		{Name: "provider A dies", Cut: b.LinksOf(ispA), From: from, To: to, Within: 5 * time.Second},
		{Name: "hub1 dies", Cut: b.LinksOf(hubs[0]), From: from, To: to, Within: 5 * time.Second},
	}
	return b.Network
}
