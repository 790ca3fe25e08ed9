package topologies

// tour is what is worth a look in a network, and what to do there. Every command is one that a container has.
type tour struct {
	show []Shown
	try  []Try
}

// tours are those of Entries, by name.
func tours() map[string]tour {
	return map[string]tour{
		"pair": {[]Shown{
			{"fra", "sitewire peers"}, {"fra", "sitewire bgp"}, {"fra", "sitewire routes"}, {"fra", "sitewire explain 10.2.0.10"},
		}, []Try{
			{"Send a packet to the other LAN", []Step{{"fra-host", "sitewire lab ping 10.2.0.10 fd00:2::a", " ms"}},
				"Both addresses answer."},
			{"Cut the internet off New York, and look at Frankfurt", []Step{
				{"internet", "ip link set eth2 down", ""},
				{"fra", "sitewire peers", "nothing heard"},
				{"fra", "sitewire explain 10.2.0.10", "nothing is known of"},
				{"internet", "ip link set eth2 up", ""},
				{"fra", "sitewire explain 10.2.0.10", "goes by 10.2.0.0/24 to nyc"},
			}, "A WireGuard device never goes down, so sitewire notices by itself: after 15 s (`dead_after`) the peer is no longer `up`, its " +
				"routes are gone and `explain` says why. When the cable is back, so is the route."},
		}},
		"triangle": {[]Shown{
			{"fra", "sitewire peers"}, {"fra", "sitewire routes"}, {"fra", "sitewire explain 10.3.0.10"},
		}, []Try{
			{"See the way that is kept in reserve", []Step{{"fra", "sitewire explain 10.3.0.10", "(accepted"}},
				"There are two paths to Singapore: the direct one is best, the one through New York is accepted and waits. Its prefix is among New " +
					"York's allowed-IPs already, so nothing has to be asked for when the line is cut (`sitewire lab impair triangle fra:eth3 --cut` " +
					"without containers)."},
		}},
		"hub-spoke": {[]Shown{
			{"hub", "sitewire peers"}, {"hub", "sitewire routes"}, {"hub", "sitewire explain 10.2.0.10"}, {"spoke1", "sitewire routes"},
		}, []Try{
			{"Go from one spoke to another", []Step{
				{"spoke1-host", "sitewire lab ping 10.3.0.10", " ms"},
				{"spoke1", "sitewire explain 10.3.0.10", "goes by 10.3.0.0/24 to hub"},
			}, "The packet passes the hub: the spokes have no tunnel with each other, only routes that they learned from it."},
			{"Cut a spoke off", []Step{
				{"internet", "ip link set eth2 down", ""},
				{"hub", "sitewire explain 10.2.0.10", "nothing is known of"},
				{"hub", "sitewire status", "spoke1"},
				{"internet", "ip link set eth2 up", ""},
				{"hub", "sitewire explain 10.2.0.10", "goes by 10.2.0.0/24 to spoke1"},
			}, "The hub takes away the allowed-IPs and the routes of that spoke and leaves the other spokes alone; `status` names the cause."},
		}},
		"dual-hub": {[]Shown{
			{"branch1", "sitewire peers"}, {"branch1", "sitewire explain 10.100.0.10"}, {"hub1", "sitewire bgp"}, {"core", "birdc show protocols"},
		}, []Try{
			{"Break the first provider", []Step{
				{"branch1", "sitewire explain 10.100.0.10", "goes by 10.100.0.0/24 to hub1"},
				{"isp-a", "ip link set eth1 down", ""},
				{"branch1", "sitewire explain 10.100.0.10", "goes by 10.100.0.0/24 to hub2"},
				{"branch1-host", "sitewire lab ping 10.100.0.10", " ms"},
				{"isp-a", "ip link set eth1 up", ""},
				{"branch1", "sitewire explain 10.100.0.10", "goes by 10.100.0.0/24 to hub1"},
			}, "The branches reach the headquarters through the second hub, and the core router sends its answers there, until the first is back."},
		}},
		"dn42": {[]Shown{
			{"fra", "sitewire peers"}, {"fra", "sitewire explain 172.20.5.10"}, {"nyc", "sitewire bgp"}, {"ams", "birdc show protocols"},
		}, []Try{
			{"End a peering in good order", []Step{
				{"fra", "sitewire explain 172.20.3.10", "goes by 172.20.3.0/27 to ams"},
				{"ams", "birdc disable fra", "disabled"},
				{"fra", "sitewire explain 172.20.3.10", "goes by 172.20.3.0/27 to nyc"},
				{"ams", "birdc enable fra", "enabled"},
				{"fra", "sitewire explain 172.20.3.10", "goes by 172.20.3.0/27 to ams"},
			}, "Packets go the long way round, by New York and Oslo, until the session is back."},
			{"Look at IPv4 routes with IPv6 next hops", []Step{{"fra", "sitewire explain 172.20.2.10", "via fe80::2%wg-nyc"}},
				"No IPv4 address was planned for the tunnel (RFC 8950). Oslo cannot do that: its tunnel has IPv4 addresses."},
		}},
		"lan-core": {[]Shown{
			{"fra", "sitewire bgp"}, {"fra", "sitewire routes"}, {"fra-core", "birdc show protocols"}, {"fra-core", "birdc show route 10.2.0.0/24"},
		}, []Try{
			{"Take a LAN away from its site", []Step{
				{"fra-core", "birdc disable fra_ipv4", "disabled"},
				{"nyc", "sitewire explain 10.1.0.10", "nothing is known of"},
				{"fra-core", "birdc enable fra_ipv4", "enabled"},
				{"nyc", "sitewire explain 10.1.0.10", "goes by 10.1.0.0/24 to fra"},
			}, "The core router no longer tells the gateway about its LAN, so the other site loses the route, and gets it back with the session."},
			{"Ask FRR what it has learned", []Step{{"nyc-core", `vtysh -c "show ip route bgp"`, "10.1.0.0/24"}},
				"The other site's LAN, with the gateway for its next hop."},
		}},
		"mixed": {[]Shown{
			{"hq", "sitewire peers"}, {"hq", "sitewire routes"}, {"hq", "sitewire explain 10.4.0.10"}, {"partner", "birdc show protocols"},
		}, []Try{
			{"Cut the store off, which has no BGP", []Step{
				{"branch", "sitewire explain 10.4.0.10", "goes by 10.4.0.0/24 to hq"},
				{"internet", "ip link set eth4 down", ""},
				{"branch", "sitewire explain 10.4.0.10", "nothing is known of"},
				{"internet", "ip link set eth4 up", ""},
				{"branch", "sitewire explain 10.4.0.10", "goes by 10.4.0.0/24 to hq"},
			}, "The headquarters announces the store's prefixes only while the store's tunnel is alive, so the branch loses the route too."},
		}},
		"observe": {[]Shown{
			{"prometheus", "promtool query instant http://127.0.0.1:9090 up"},
			{"prometheus", "promtool query instant http://127.0.0.1:9090 sitewire_tunnel_up"},
			{"hub", "sitewire peers"},
		}, []Try{
			{"Cut a spoke off, and look at the overview in Grafana", []Step{
				{"internet", "ip link set eth2 down", ""},
				{"prometheus", `promtool query instant http://127.0.0.1:9090 "sitewire_tunnel_up == 0"`, `peer="spoke1"`},
				{"internet", "ip link set eth2 up", ""},
				{"prometheus", `promtool query instant http://127.0.0.1:9090 "sum(sitewire_tunnel_up)"`, "=> 4 @"},
			}, "The tunnel is red within 20 s. The gateway at its other end still answers Prometheus, since that has a cable of its own to it."},
			{"Ask for what the rules make of it", []Step{
				{"prometheus", `promtool query instant http://127.0.0.1:9090 "count(instance_peer:sitewire_tunnel_handshake_age:seconds)"`, "=> 4 @"},
			}, "Prometheus has loaded the rules, and computes the age of the last handshake of each of the four ends."},
		}},
	}
}
