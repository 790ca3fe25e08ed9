package config

import (
	"net/netip"
	"slices"
	"strconv"
	"time"

	"sitewire/bgp/policy"
	"sitewire/gateway/wg"
)

func parseUint32(s string) (uint32, error) {
	n, err := strconv.ParseUint(s, 10, 32)
	return uint32(n), err
}

func peerObject() object[rawPeer] {
	return object[rawPeer]{name: "a peer", fields: []field[rawPeer]{
		key("description", stringKind("a line of text", 200), func(p *rawPeer) *string { return &p.Description }, "", "For people."),
		key("public_key", publicKeyKind(), func(p *rawPeer) *wg.PublicKey { return &p.PublicKey }, "", "Public key of the peer.").must(),
		key("preshared_key", secretKeyKind("a preshared key"), func(p *rawPeer) *wg.Secret { return &p.PresharedKey }, "none", "Preshared key, the same at both ends."),
		key("private_key", secretKeyKind("a private key"), func(p *rawPeer) *wg.Secret { return &p.PrivateKey }, "`wireguard.private_key`", "Private key of the peer's own device, where this peer knows us by another key than the rest."),
		key("endpoint", list(endpointKind()), func(p *rawPeer) *[]Endpoint { return &p.Endpoints }, "none: the peer calls", "Where to send: host:port, or a list to try in order. IPv6 addresses need no brackets."),
		key("pin_endpoint", boolKind(), func(p *rawPeer) *bool { return &p.PinEndpoint }, "false", "Go back to the configured endpoint when the peer's packets come from elsewhere."),
		key("device", deviceKind("own"), func(p *rawPeer) *string { return &p.device }, "`wireguard.device`, else wg-NAME", "Interface of the tunnel: a name, or `own` for a device of its own beside the shared one."),
		key("listen_port", number[uint16]("a UDP port", 1, 65535), func(p *rawPeer) *uint16 { return &p.ListenPort }, "chosen by the kernel", "UDP port of the peer's own device."),
		key("mtu", mtuKind(), func(p *rawPeer) *int { return &p.MTU }, "`wireguard.mtu`", "MTU of the peer's own device in bytes."),
		key("keepalive", orOff(seconds(time.Second, 65535*time.Second)), func(p *rawPeer) *time.Duration { return &p.Keepalive }, "25s", "WireGuard's persistent keepalive."),
		key("dead_after", seconds(2*time.Second, time.Hour), func(p *rawPeer) *time.Duration { return &p.DeadAfter }, "180s", "Silence after which the tunnel counts as dead. Less than 180s needs a shorter keepalive at the other end."),
		key("probe", orOff(seconds(time.Second, time.Hour)), func(p *rawPeer) *time.Duration { return &p.Probe }, "`probe.interval`; off without keepalive", "Time between two echoes through the tunnel: longer where bytes cost money."),
		section("tunnel", tunnelObject(), func(p *rawPeer) *Tunnel { return &p.Tunnel }, "Inner addresses. Without local and remote both ends use addresses that follow from the public keys."),
		key("allowed_ips", allowedKind(), func(p *rawPeer) *rawAllowed { return &p.allowed }, "learned", "Prefixes whose packets the peer may send and gets: `learned` from BGP, `any`, or a list."),
		key("asn", asnKind(), func(p *rawPeer) *uint32 { return &p.ASN }, "none: no BGP", "AS number of the peer."),
		key("policy", nameKind("the name of a policy"), func(p *rawPeer) *string { return &p.policy }, "none: nothing is exchanged (RFC 8212)", "Policy of the session, in both directions."),
		section("bgp", sessionObject(), func(p *rawPeer) *rawSession { return &p.bgp }, "The BGP session."),
	}}
}

func tunnelObject() object[Tunnel] {
	any := func(a netip.Addr) bool { return a.Zone() == "" }
	return object[Tunnel]{name: "tunnel", fields: []field[Tunnel]{
		key("local", addrKind("an address without a zone", any), func(t *Tunnel) *netip.Addr { return &t.Local }, "follows from the own public key", "Our address, which BGP speaks from."),
		key("remote", addrKind("an address without a zone", any), func(t *Tunnel) *netip.Addr { return &t.Remote }, "follows from the peer's public key", "The peer's address, which BGP speaks to."),
		key("local_ipv4", addrKind("an IPv4 address", is4), func(t *Tunnel) *netip.Addr { return &t.LocalIPv4 }, "none", "Our IPv4 address: next hop for peers without extended next hop, and end of a split session."),
		key("remote_ipv4", addrKind("an IPv4 address", is4), func(t *Tunnel) *netip.Addr { return &t.RemoteIPv4 }, "none", "The peer's IPv4 address."),
		key("local_ipv6", addrKind("an IPv6 address that is not link-local", isGlobal6), func(t *Tunnel) *netip.Addr { return &t.LocalIPv6 }, "none", "Our further IPv6 address."),
		key("remote_ipv6", addrKind("an IPv6 address that is not link-local", isGlobal6), func(t *Tunnel) *netip.Addr { return &t.RemoteIPv6 }, "none", "The peer's further IPv6 address."),
	}}
}

func allowedKind() kind[rawAllowed] {
	const want = "learned, any, or a list of prefixes"
	prefixes := list(withPlace(prefixKind()))
	modes := text(want, schema{"enum": []any{Learned, Any}}, func(s string) (Mode, error) {
		if m := Mode(s); m == Learned || m == Any || m == modeExtended {
			return m, nil
		}
		return "", errWant
	})
	return kind[rawAllowed]{
		want:   want,
		schema: schema{"anyOf": []any{modes.schema, prefixes.schema}},
		read: func(d *decoder, n *node) (a rawAllowed, ok bool) {
			if n.form == scalar && !slices.ContainsFunc([]rune(n.text), func(r rune) bool { return r == '/' || r == ':' || r == '.' }) {
				a.mode, ok = modes.read(d, n)
				if ok && a.mode == modeExtended {
					d.hintf(n, "use learned, or any where routing is asymmetric", "allowed_ips: extended (RFC 8704) is not available yet")
					return a, false
				}
				return a, ok
			}
			a.mode = List
			a.prefixes, ok = prefixes.read(d, n)
			return a, ok
		},
	}
}

// sessionFields are the keys that a peer's bgp block and a neighbour share.
func sessionFields[T any](at func(*T) *rawSession) []field[T] {
	return []field[T]{
		key("enabled", boolKind(), func(t *T) *bool { return &at(t).enabled }, "true", "Run the session. With false it stays configured and listed, as administratively down: the neighbour is told (Cease, RFC 4486), routes from it are withdrawn, and nothing alerts."),
		key("local_asn", asnKind(), func(t *T) *uint32 { return &at(t).localASN }, "`asn` of the site", "AS number to show to this neighbour instead of our own."),
		key("families", list(oneOf(policy.FamilyIPv4, policy.FamilyIPv6)), func(t *T) *[]string { return &at(t).families }, "both, or what the addresses allow", "Address families to exchange."),
		key("extended_next_hop", oneOf(ENHAuto, ENHOn, ENHOff), func(t *T) *ExtendedNextHop { return &at(t).extendedNextHop }, "auto", "IPv4 routes with IPv6 next hops (RFC 8950); auto does as the neighbour can."),
		key("passive", boolKind(), func(t *T) *bool { return &at(t).passive }, "true for a peer without an endpoint, else false", "Wait for the neighbour to connect."),
		key("port", number[uint16]("a TCP port", 1, 65535), func(t *T) *uint16 { return &at(t).port }, "179", "TCP port to connect to."),
		key("multihop", number[uint8]("hops", 1, 255), func(t *T) *uint8 { return &at(t).multihop }, "none: the neighbour is on the link", "TTL of an eBGP session over several hops."),
		key("password", passwordKind(), func(t *T) *Password { return &at(t).password }, "none", "Password of TCP MD5 (RFC 2385). For LANs: inside a tunnel it adds nothing."),
		key("hold_time", seconds(minHold, maxHold), func(t *T) *time.Duration { return &at(t).holdTime }, "`bgp.hold_time`", "Time without a message after which the session ends."),
		key("keepalive", seconds(time.Second, maxHold/3), func(t *T) *time.Duration { return &at(t).keepalive }, "a third of hold_time", "Time between keepalives."),
		key("send_hold_time", sendHoldKind(), func(t *T) *time.Duration { return &at(t).sendHoldTime }, "`bgp.send_hold_time`", "Time in which the neighbour reads nothing of what is sent to it, after which the session ends (RFC 9687)."),
		key("connect_retry", seconds(2*time.Second, time.Hour), func(t *T) *time.Duration { return &at(t).connectRetry }, "`bgp.connect_retry`", "Time between attempts to connect."),
		key("route_reflector_client", boolKind(), func(t *T) *bool { return &at(t).routeReflectorClient }, "false", "Reflect routes to this iBGP neighbour (RFC 4456)."),
		key("bfd", bfdKind(), func(t *T) *BFD { return &at(t).bfd }, "`bgp.bfd`", "Watch the way to the neighbour by BFD (RFC 5881): `off`, `wired` (200 ms, 3 packets), `metered` (1 s, 3 packets), or {interval, multiplier}."),
	}
}

func sessionObject() object[rawSession] {
	shape := key("session", oneOf(shapeSingle, shapeSplit), func(s *rawSession) *string { return &s.shape }, "single", "`single`: one session for both families. `split`: IPv4 over IPv4 and IPv6 over IPv6.")
	return object[rawSession]{name: "the bgp block of a peer", fields: append([]field[rawSession]{shape},
		sessionFields(func(s *rawSession) *rawSession { return s })...)}
}

func neighbourObject() object[rawNeighbour] {
	address := addrKind("an IP address; link-local with its interface, fe80::1%eth0", func(netip.Addr) bool { return true })
	return object[rawNeighbour]{name: "a neighbour", fields: append([]field[rawNeighbour]{
		key("description", stringKind("a line of text", 200), func(n *rawNeighbour) *string { return &n.description }, "", "For people."),
		key("address", address, func(n *rawNeighbour) *netip.Addr { return &n.address }, "", "Address of the neighbour; link-local with its interface, as in fe80::1%eth0.").must(),
		key("local_address", address, func(n *rawNeighbour) *netip.Addr { return &n.localAddress }, "the kernel's choice", "Address to speak from."),
		key("asn", asnKind(), func(n *rawNeighbour) *uint32 { return &n.session.asn }, "", "AS number of the neighbour.").must(),
		key("policy", nameKind("the name of a policy"), func(n *rawNeighbour) *string { return &n.policy }, "none: nothing is exchanged (RFC 8212)", "Policy of the session, in both directions."),
	}, sessionFields(func(n *rawNeighbour) *rawSession { return &n.session })...)}
}

func policyObject() object[rawPolicy] {
	rules := list(ruleObject().kind(func() *rawRule { return &rawRule{} }))
	return object[rawPolicy]{name: "a policy", fields: []field[rawPolicy]{
		key("extends", nameKind("the name of a policy"), func(p *rawPolicy) *string { return &p.extends }, "none", "Policy whose rules follow these, and whose settings hold where this one has none."),
		key("import", rules, func(p *rawPolicy) *[]*rawRule { return &p.imports }, "those of `extends`, else nothing is accepted", "Rules for what comes in; the first that accepts or rejects decides."),
		key("export", rules, func(p *rawPolicy) *[]*rawRule { return &p.exports }, "those of `extends`, else nothing is announced", "Rules for what goes out."),
		key("allow_default", boolKind(), func(p *rawPolicy) *bool { return &p.AllowDefault }, "false", "Let default routes reach the import rules."),
		key("allow_own_parts", boolKind(), func(p *rawPolicy) *bool { return &p.AllowOwnParts }, "false", "Let parts of announced prefixes reach the import rules."),
		key("allow_third_party_next_hop", boolKind(), func(p *rawPolicy) *bool { return &p.AllowThirdPartyNextHop }, "false", "Accept next hops that are not the neighbour's own address."),
		key("max_as_path", number[int]("ASNs", 1, 1000), func(p *rawPolicy) *int { return &p.MaxASPath }, "64", "Longest AS path to accept."),
		key("max_prefixes_ipv4", number[int]("prefixes", 1, 10_000_000), func(p *rawPolicy) *int { return &p.MaxPrefixes4 }, "no limit", "Most IPv4 prefixes to accept; further ones are refused, the session stays."),
		key("max_prefixes_ipv6", number[int]("prefixes", 1, 10_000_000), func(p *rawPolicy) *int { return &p.MaxPrefixes6 }, "no limit", "Most IPv6 prefixes to accept."),
		key("warn_at", number[int]("percent", 1, 100), func(p *rawPolicy) *int { return &p.WarnAt }, "80", "Share of a limit, in percent, at which a warning is logged."),
	}}
}

func ruleMatch() object[rawRule] {
	return object[rawRule]{name: "match", fields: []field[rawRule]{
		key("prefixes", list(rangeKind()), func(r *rawRule) *[]policy.PrefixRange { return &r.Match.Prefixes }, "any", "The prefix is in one of these ranges."),
		key("prefix_lists", list(withPlace(nameKind("the name of a prefix list"))), func(r *rawRule) *[]located[string] { return &r.prefixLists }, "any", "… or in one of these named lists."),
		key("communities", list(communityPatternKind()), func(r *rawRule) *[]string { return &r.Match.Communities }, "any", "The route has one of these communities."),
		key("as_path", asPathKind(), func(r *rawRule) *string { return &r.Match.ASPath }, "any", "Regular expression over the AS path; _ is the edge of an ASN."),
		key("origin_as", list(asnKind()), func(r *rawRule) *[]uint32 { return &r.Match.OriginAS }, "any", "The last AS of the path is one of these."),
		key("as_path_min", number[int]("ASNs", 0, 1000), func(r *rawRule) *int { return &r.Match.ASPathMin }, "0", "The AS path has at least this length."),
		key("as_path_max", number[int]("ASNs", 1, 1000), func(r *rawRule) *int { return &r.Match.ASPathMax }, "no bound", "The AS path has at most this length."),
		key("family", oneOf(policy.FamilyIPv4, policy.FamilyIPv6), func(r *rawRule) *string { return &r.Match.Family }, "both", "The route's family."),
		key("source", oneOf(policy.SourceOwn, policy.SourceTunnel, policy.SourceLAN), func(r *rawRule) *string { return &r.Match.Source }, "any", "For export: `own` (announced here), `tunnel` (learned behind a tunnel), `lan` (learned from another neighbour)."),
		key("rpki", list(validityKind()), func(r *rawRule) *[]policy.Validity { return &r.Match.RPKI }, "any", "For import: the validity of the origin is one of these (RFC 6811). Matches nothing if no source under `rpki` fills the table."),
		key("rpki_table", nameKind("the name of a table"), func(r *rawRule) *string { return &r.Match.RPKITable }, policy.DefaultTable, "Table of payloads that `rpki` asks."),
	}}
}

func validityKind() kind[policy.Validity] {
	words := oneOf("valid", "invalid", "not-found")
	return kind[policy.Validity]{words.want, words.schema, func(d *decoder, n *node) (v policy.Validity, ok bool) {
		w, ok := words.read(d, n)
		if ok {
			ok = v.UnmarshalText([]byte(w)) == nil
		}
		return v, ok
	}}
}

func ruleSet() object[rawRule] {
	return object[rawRule]{name: "set", fields: []field[rawRule]{
		key("local_pref", pointer(number[uint32]("a local preference", 0, 1<<32-1)), func(r *rawRule) **uint32 { return &r.Set.LocalPref }, "unchanged", "Local preference; higher wins."),
		key("med", pointer(number[uint32]("a MED", 0, 1<<32-1)), func(r *rawRule) **uint32 { return &r.Set.MED }, "unchanged", "Multi-exit discriminator; lower wins."),
		key("prepend", number[int]("times", 0, 32), func(r *rawRule) *int { return &r.Set.Prepend }, "0", "Prepend our ASN this many more times."),
		key("add_communities", list(communityKind()), func(r *rawRule) *[]string { return &r.Set.AddCommunities }, "none", "Communities to add."),
		key("remove_communities", list(communityPatternKind()), func(r *rawRule) *[]string { return &r.Set.RemoveCommunities }, "none", "Communities to remove: values, 64511:*, or *."),
		key("next_hop_self", boolKind(), func(r *rawRule) *bool { return &r.Set.NextHopSelf }, "false", "Announce our own address as the next hop."),
	}}
}

func ruleObject() object[rawRule] {
	self := func(r *rawRule) *rawRule { return r }
	return object[rawRule]{name: "a rule", fields: []field[rawRule]{
		key("name", nameKind("a name"), func(r *rawRule) *string { return &r.Name }, "import-N or export-N", "Name of the rule, as `explain` and the metrics show it."),
		section("match", ruleMatch(), self, "Conditions; all that are given must hold. Without any, every route matches."),
		key("action", actionKind(), func(r *rawRule) *policy.Action { return &r.action }, "", "`accept`, `reject`, or `next`: make the changes and go on.").must(),
		section("set", ruleSet(), self, "Changes to a route that is accepted or goes on."),
	}}
}

func pointer[V any](k kind[V]) kind[*V] {
	return kind[*V]{k.want, k.schema, func(d *decoder, n *node) (*V, bool) {
		v, ok := k.read(d, n)
		return &v, ok
	}}
}

func actionKind() kind[policy.Action] {
	words := oneOf("accept", "reject", "next")
	return kind[policy.Action]{words.want, words.schema, func(d *decoder, n *node) (a policy.Action, ok bool) {
		w, ok := words.read(d, n)
		if ok {
			ok = a.UnmarshalText([]byte(w)) == nil
		}
		return a, ok
	}}
}
