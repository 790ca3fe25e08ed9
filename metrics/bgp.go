package metrics

import (
	"slices"
	"strconv"
	"strings"
	"time"

	"sitewire/bgp"
	"sitewire/routes"
)

// bgpMetrics is the group of BGP sessions.
//
// A peer may have two sessions, one for each family. Their series carry the session's name besides the peer's (the
// two are equal where a peer has one session), so that one session of two that is down neither hides behind the other
// nor counts as the loss of the peer. Only bgp_peer_info is one series for each peer: it is the "one" side of joins.
type bgpMetrics struct {
	info, peer                                    *metric
	up, state, adminUp, established               *metric
	establishments, downs, lastDown               *metric
	notificationsSent, notificationsReceived      *metric
	sent, received, withdrawnSent, withdrawnRecvd *metric
	outQueue, holdTime                            *metric
	prefixesReceived, accepted, advertised        *metric
	rejected, limit, eor, stale                   *metric
	paths, prefixes                               *metric
	calls                                         *metric
	tcpRTT, tcpRetransmits                        *metric
	monitoredReceived, monitoredAdvertised        *metric
	bfd                                           bfdMetrics
}

func newBGPMetrics(c *catalogue) *bgpMetrics {
	c.group("BGP")
	return &bgpMetrics{
		info: c.gauge("bgp_info", "Always 1; the labels are the BGP identity of this site. Absent without BGP.", "local_asn", "router_id"),
		peer: c.gauge("bgp_peer_info", "Always 1; the labels tell who the neighbour is. One series for each peer: where its sessions differ, the values are joined by commas.",
			"peer", "site", "neighbor", "remote_asn", "session_type", "peer_router_id", "tunnel"),
		up:                    c.gauge("bgp_session_up", "1 while the session is Established.", "peer", "session"),
		state:                 c.gauge("bgp_session_fsm_state", "State of the session as in BGP4-MIB: 1 idle, 2 connect, 3 active, 4 opensent, 5 openconfirm, 6 established.", "peer", "session"),
		adminUp:               c.gauge("bgp_session_admin_up", "1 while the session is configured to run, 0 while its configuration says enabled: false. A session that is taken out of the configuration has no series.", "peer", "session"),
		established:           c.gauge("bgp_session_established_timestamp_seconds", "Unix time since which the session is Established; 0 while it is not.", "peer", "session"),
		establishments:        c.counter("bgp_session_establishments_total", "Times that the session became Established.", "peer", "session"),
		downs:                 c.counter("bgp_session_downs_total", "Times that the session left Established. The reasons that an operator gives (admin_down, configuration) appear when they are first needed, bfd_down from the start only with BFD, tunnel_down only behind a tunnel.", "peer", "session", "reason"),
		lastDown:              c.gauge("bgp_session_last_down_timestamp_seconds", "Unix time at which the session last left Established; 0 if it never did.", "peer", "session"),
		notificationsSent:     c.counter("bgp_notifications_sent_total", "NOTIFICATION messages sent, by their meaning.", "peer", "session", "code", "subcode"),
		notificationsReceived: c.counter("bgp_notifications_received_total", "NOTIFICATION messages received, by their meaning.", "peer", "session", "code", "subcode"),
		received:              c.counter("bgp_messages_received_total", "BGP messages received.", "peer", "session", "message"),
		sent:                  c.counter("bgp_messages_sent_total", "BGP messages sent.", "peer", "session", "message"),
		withdrawnRecvd:        c.counter("bgp_withdrawn_prefixes_received_total", "Prefixes withdrawn by the neighbour.", "peer", "session"),
		withdrawnSent:         c.counter("bgp_withdrawn_prefixes_sent_total", "Prefixes withdrawn from the neighbour.", "peer", "session"),
		outQueue:              c.gauge("bgp_out_queue_messages", "Messages that wait to be sent to the neighbour.", "peer", "session"),
		holdTime:              c.gauge("bgp_hold_time_seconds", "Negotiated hold time.", "peer", "session"),
		prefixesReceived:      c.gauge("bgp_prefixes_received", "Prefixes that the neighbour announces, before policy.", "peer", "session", "family"),
		accepted:              c.gauge("bgp_prefixes_accepted", "Prefixes that the neighbour announces and policy accepts.", "peer", "session", "family"),
		advertised:            c.gauge("bgp_prefixes_advertised", "Prefixes announced to the neighbour.", "peer", "session", "family"),
		rejected:              c.gauge("bgp_prefixes_rejected", "Prefixes that the neighbour announces and that are refused, by rule of the policy or fixed refusal.", "peer", "session", "family", "reason"),
		limit:                 c.gauge("bgp_prefix_limit", "Largest number of prefixes accepted; 0 is no limit.", "peer", "session", "family"),
		eor:                   c.gauge("bgp_eor_received", "1 once the neighbour ended its first announcements with End-of-RIB.", "peer", "session", "family"),
		stale:                 c.gauge("bgp_stale_prefixes", "Prefixes kept from a restarting neighbour that it has not announced again.", "peer", "session", "family"),
		calls:                 c.histogram("bgp_server_operation_duration_seconds", "Time that calls into the BGP server took. It receives nothing while one runs, so long ones delay everything."),
		paths:                 c.gauge("rib_paths", "Paths in the Loc-RIB.", "family"),
		prefixes:              c.gauge("rib_prefixes", "Prefixes in the Loc-RIB.", "family"),

		tcpRTT:              c.gauge("bgp_tcp_rtt_seconds", "Smoothed round-trip time of the session's TCP connection, sampled every 15 s; 0 while it is not Established.", "peer", "session"),
		tcpRetransmits:      c.counter("bgp_tcp_retransmits_total", "TCP segments of the session that were sent again, over all of its connections, as sampled.", "peer", "session"),
		monitoredReceived:   c.gauge("bgp_monitored_prefix_received", "1 while the neighbour announces exactly this monitored prefix, before policy. Only for prefixes in metrics.monitored_prefixes, of families that the session offers.", "peer", "session", "prefix"),
		monitoredAdvertised: c.gauge("bgp_monitored_prefix_advertised", "1 while exactly this monitored prefix is announced to the neighbour, as of a minute ago at most on a quiet gateway.", "peer", "session", "prefix"),
		bfd:                 newBFDMetrics(c),
	}
}

func (b *bgpMetrics) collect(e *emitter, s *scrape) {
	if s.process.ASN != 0 {
		e.gauge(b.info, 1, asn(s.process.ASN), address(s.process.RouterID))
	}
	if s.bgp == nil {
		return
	}
	b.peers(e, s)
	for i := range s.bgp.Sessions {
		x := &s.bgp.Sessions[i]
		b.session(e, x)
		b.family(e, x, routes.IPv4, x.IPv4)
		b.family(e, x, routes.IPv6, x.IPv6)
		b.notifications(e, b.notificationsSent, x, s.bgp.NotificationsSent[x.Name])
		b.notifications(e, b.notificationsReceived, x, s.bgp.NotificationsReceived[x.Name])
	}
	b.bfd.collect(e, s.bgp)
	bounds := bgp.LatencyBounds()
	seconds := make([]float64, len(bounds))
	for i, bound := range bounds {
		seconds[i] = bound.Seconds()
	}
	calls := &s.bgp.Calls
	e.histogram(b.calls, durations{seconds, calls.Counts[:], calls.Sum.Seconds(), &calls.Fine})
	for _, f := range []routes.Family{routes.IPv4, routes.IPv6} {
		e.gauge(b.paths, float64(s.bgp.Paths[f]), f.String())
		e.gauge(b.prefixes, float64(s.bgp.Prefixes[f]), f.String())
	}
}

// downReasons are why the session may leave Established: what GoBGP says in that state, and what is ours, which GoBGP sees as any
// other reset. Left out are idle_timer_expired, restart_timer_expired, invalid_msg and bad_peer_as, which GoBGP says in other states,
// deconfigured, before which there always is a reason of ours, and what an operator does (admin_down, configuration): that appears
// when it is first needed, as no alert looks at it.
func downReasons(x *bgp.Session) []string {
	list := []string{
		"hold_timer_expired", "send_hold_timer_expired", "notification_sent", "notification_received", "read_failed", "write_failed", "graceful_restart", "hard_reset", "reset",
	}
	if x.BFD != nil {
		list = append(list, "bfd_down")
	}
	if x.Tunnel {
		list = append(list, "tunnel_down")
	}
	return list
}

func (b *bgpMetrics) session(e *emitter, x *bgp.Session) {
	up := x.State == bgp.Established
	e.flag(b.up, up, x.Peer, x.Name)
	e.gauge(b.state, float64(x.State), x.Peer, x.Name)
	e.flag(b.adminUp, !x.AdminDown, x.Peer, x.Name)
	var since time.Time
	if up {
		since = x.EstablishedAt
	}
	e.time(b.established, since, x.Peer, x.Name)
	e.counter(b.establishments, x.Establishments, x.Peer, x.Name)
	e.byName(b.downs, x.Downs, downReasons(x), x.Peer, x.Name)
	e.time(b.lastDown, x.LastDown, x.Peer, x.Name)
	b.messages(e, b.received, x, x.Received)
	b.messages(e, b.sent, x, x.Sent)
	e.counter(b.withdrawnRecvd, x.Received.Withdrawn, x.Peer, x.Name)
	e.counter(b.withdrawnSent, x.Sent.Withdrawn, x.Peer, x.Name)
	e.gauge(b.outQueue, float64(x.OutQueue), x.Peer, x.Name)
	e.gauge(b.holdTime, x.HoldTime.Seconds(), x.Peer, x.Name)
	var tcp bgp.TCP
	if x.TCP != nil {
		tcp = *x.TCP
	}
	e.gauge(b.tcpRTT, tcp.RTT, x.Peer, x.Name)
	e.counter(b.tcpRetransmits, tcp.Retransmits, x.Peer, x.Name)
	for _, m := range x.Monitored {
		prefix := m.Prefix.String()
		e.flag(b.monitoredReceived, m.Received, x.Peer, x.Name, prefix)
		e.flag(b.monitoredAdvertised, m.Advertised, x.Peer, x.Name, prefix)
	}
}

func (b *bgpMetrics) messages(e *emitter, m *metric, x *bgp.Session, n bgp.Messages) {
	e.counter(m, n.Open, x.Peer, x.Name, "open")
	e.counter(m, n.Update, x.Peer, x.Name, "update")
	e.counter(m, n.Notification, x.Peer, x.Name, "notification")
	e.counter(m, n.Keepalive, x.Peer, x.Name, "keepalive")
	e.counter(m, n.RouteRefresh, x.Peer, x.Name, "route_refresh")
}

// notifications sends what was counted only: the codes and subcodes of RFC 4271, 4486, 6608, 7313, 8538 and 9384 make
// over fifty series for each session, nearly all of them never used.
func (b *bgpMetrics) notifications(e *emitter, m *metric, x *bgp.Session, counts map[string]uint64) {
	for words, n := range counts {
		code, subcode, _ := strings.Cut(words, "/")
		e.counter(m, n, x.Peer, x.Name, code, subcode)
	}
}

// family sends the counts of a family, unless it is not offered to the neighbour.
func (b *bgpMetrics) family(e *emitter, x *bgp.Session, f routes.Family, c *bgp.Counts) {
	if c == nil {
		return
	}
	family := f.String()
	e.gauge(b.prefixesReceived, float64(c.Received), x.Peer, x.Name, family)
	e.gauge(b.accepted, float64(c.Accepted), x.Peer, x.Name, family)
	e.gauge(b.advertised, float64(c.Advertised), x.Peer, x.Name, family)
	for reason, n := range c.Rejected {
		e.gauge(b.rejected, float64(n), x.Peer, x.Name, family, reason)
	}
	e.gauge(b.limit, float64(c.Limit), x.Peer, x.Name, family)
	e.flag(b.eor, c.EOR, x.Peer, x.Name, family)
	e.gauge(b.stale, float64(c.Stale), x.Peer, x.Name, family)
}

// peerInfo gathers the sessions of a peer.
type peerInfo struct {
	site, tunnel                      string
	neighbors, asns, types, routerIDs []string
}

// peers sends one bgp_peer_info for each peer.
func (b *bgpMetrics) peers(e *emitter, s *scrape) {
	sites := make(map[string]string, len(s.tunnels))
	for i := range s.tunnels {
		sites[s.tunnels[i].Peer] = s.tunnels[i].Site
	}
	infos := make(map[string]*peerInfo, len(s.bgp.Sessions))
	for i := range s.bgp.Sessions {
		x := &s.bgp.Sessions[i]
		p := infos[x.Peer]
		if p == nil {
			p = &peerInfo{site: s.process.Site, tunnel: strconv.FormatBool(x.Tunnel)}
			if x.Tunnel {
				p.site = sites[x.Peer]
			}
			infos[x.Peer] = p
		}
		kind := "ebgp"
		if x.ASN == s.process.ASN {
			kind = "ibgp"
		}
		addNew(&p.neighbors, address(x.Address))
		addNew(&p.asns, asn(x.ASN))
		addNew(&p.types, kind)
		addNew(&p.routerIDs, address(x.RemoteRouterID))
	}
	for name, p := range infos {
		e.gauge(b.peer, 1, name, p.site, strings.Join(p.neighbors, ","), strings.Join(p.asns, ","), strings.Join(p.types, ","),
			strings.Join(p.routerIDs, ","), p.tunnel)
	}
}

// addNew appends what is not there yet and is not empty.
func addNew(list *[]string, s string) {
	if s != "" && !slices.Contains(*list, s) {
		*list = append(*list, s)
	}
}
