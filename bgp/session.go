package bgp

import (
	"cmp"
	"fmt"
	"maps"
	"net/netip"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/osrg/gobgp/v4/api"
	"github.com/osrg/gobgp/v4/pkg/apiutil"
	"github.com/osrg/gobgp/v4/pkg/packet/bgp"

	"sitewire/bgp/bfd"
	"sitewire/routes"
)

// session is what is known of a neighbour's session and of those before it.
type session struct {
	state          State
	since          time.Time
	establishedAt  time.Time
	establishments uint64
	downs          map[string]uint64
	lastDown       time.Time
	lastError      string
	routerID       netip.Addr
	// enh is what the neighbour last announced, if capable is set; a changed configuration forgets it.
	capable, enh bool
	sent, got    map[string]uint64
	polled       polled
	// counts is how often what is advertised was counted early in this establishment; see firstCounts.
	counts int
	// advised is the last question about it; the loop's.
	advised inquiry
	// ignore what GoBGP says until it begins anew: we took the session away, and events of its last moments may follow
	// the one of its end.
	ignore bool
	// left says that GoBGP has said so since.
	left bool
	// lostAt is when the session was lost that the neighbour has not replaced by another; zero if it was not.
	lostAt time.Time
	// again asks the loop for a fresh session, at once.
	again bool
	// cut is why BFD wants the session to end; bfd.NoDiagnostic if it does not.
	cut bfd.Diagnostic
	tcp tcpState
	// advertised tells which monitored prefixes go out; advertisedAt when GoBGP was asked, and for which establishment.
	advertised     map[netip.Prefix]bool
	advertisedAt   time.Time
	advertisedLife uint64
}

// polled is what only GoBGP counts.
type polled struct {
	received, sent Messages
	advertised     [2]int
	outQueue       int
	holdTime       time.Duration
}

func newSession() session {
	return session{state: Idle, since: time.Now(), downs: map[string]uint64{}, sent: map[string]uint64{}, got: map[string]uint64{}}
}

// Reasons of downs that are ours; the others are GoBGP's disconnect reasons.
const (
	downTunnel = "tunnel_down"
	downAdmin  = "admin_down"
	downConfig = "configuration"
	downReset  = "reset"
	downBFD    = "bfd_down"
	// downSendHold is the RFC's name of the error (RFC 9687 section 3), as GoBGP would write it.
	downSendHold = "send_hold_timer_expired"
)

// transition notes a change of state.
func (v *view) transition(n *neighbour, s *apiutil.PeerState, at time.Time) {
	next := State(s.SessionState) + 1 // GoBGP counts from 0, BGP4-MIB from 1
	if n.ignore {
		n.left = n.left || next == Idle
		if next != Active || s.DisconnectReason != api.PeerState_DISCONNECT_REASON_IDLE_TIMER_EXPIRED {
			return
		}
		n.ignore = false
	}
	was := n.state
	v.notification(n, s.DisconnectMessage)
	if next == was {
		return
	}
	n.state, n.since = next, at
	if next == Established || was == Established {
		v.upOrDown++
	}
	v.opening(n)
	v.dirty = true
	v.wake()
	switch {
	case next == Established:
		n.generation++
		n.establishments++
		n.counts, n.polled.advertised = 0, [2]int{} // those were the last session's
		n.establishedAt, n.routerID = at, s.RouterID
		n.capabilities(s.RemoteCap)
		v.recompile = true
		n.waiting, n.lostAt = false, time.Time{}
		n.tcp.silentSince, n.tcp.silent = time.Time{}, 0
		v.sink.PutReachable(n.cfg.Name, true)
		for f := range n.in {
			t := &n.in[f]
			t.eor = false
			t.stale = t.entries.len()
			n.waiting = n.waiting || t.stale > 0
		}
	case was == Established:
		reason := strings.ToLower(strings.TrimPrefix(s.DisconnectReason.String(), "DISCONNECT_REASON_"))
		if n.cfg.Disabled {
			reason = downAdmin
		}
		n.fell(reason, s.DisconnectMessage, at)
		v.lost(n, lossKind(reason, n.lastError), at)
		// GoBGP now idles for 5 s and turns incoming connections away. A helper has to keep the neighbour, or the stale
		// routes would go; without graceful restart there is nothing to keep.
		n.again = s.DisconnectReason != api.PeerState_DISCONNECT_REASON_GRACEFUL_RESTART
	}
}

// fell counts the end of an established session.
func (n *neighbour) fell(reason, message string, at time.Time) {
	n.downs[reason]++
	n.lastDown = at
	n.lastError = inWords(cmp.Or(message, strings.ReplaceAll(reason, "_", " ")))
}

// ended notes that we took a session away. GoBGP's own event may be followed by late ones of the dying session.
func (v *view) ended(address netip.Addr, why string) {
	v.mu.Lock()
	defer v.mu.Unlock()
	n := v.byAddr[address]
	if n == nil {
		return
	}
	now := time.Now()
	if n.state == Established {
		message := ""
		switch why {
		case downBFD:
			message = "BFD: " + strings.ReplaceAll(n.cut.String(), "_", " ")
		case downSendHold:
			message = fmt.Sprintf("send hold timer expired: the neighbour read nothing for %v", n.tcp.silent.Round(time.Second))
		}
		n.fell(why, message, now)
		v.lost(n, lossKind(why, ""), now)
		v.upOrDown++
	}
	n.cut, n.tcp.silentSince, n.tcp.silent = bfd.NoDiagnostic, time.Time{}, 0
	if n.state != Idle {
		n.state, n.since = Idle, now
		v.opening(n)
	}
	n.ignore, n.left, n.again, v.dirty = true, false, false, true
	v.events.Add(1)
	v.wake()
}

// capabilities reads from the neighbour's OPEN whether it takes IPv4 routes with IPv6 next hops (RFC 8950), and the
// families that it offers.
func (n *neighbour) capabilities(list []bgp.ParameterCapabilityInterface) {
	enh, multi := false, false
	var remote [2]bool
	for _, c := range list {
		switch c := c.(type) {
		case *bgp.CapExtendedNexthop:
			for _, t := range c.Tuples {
				enh = enh || t.NLRIAFI == bgp.AFI_IP && t.NLRISAFI == uint16(bgp.SAFI_UNICAST) && t.NexthopAFI == bgp.AFI_IP6
			}
		case *bgp.CapMultiProtocol:
			multi = true
			if f, ok := familyOf(c.CapValue); ok {
				remote[f] = true
			}
		}
	}
	remote[routes.IPv4] = remote[routes.IPv4] || !multi // RFC 4760 section 8
	for f := range n.in {
		n.in[f].negotiated = n.in[f].offered && remote[f]
	}
	n.capable, n.enh = true, enh
}

// crossing tells how a family is announced whose addresses are not those of the session: held back, or with a next hop
// of our choice. Both are zero where the session's own address will do.
func (n *neighbour) crossing(f routes.Family) (hold bool, hop netip.Addr) {
	if v6 := n.cfg.Address.Is6(); v6 == (f == routes.IPv6) {
		return false, netip.Addr{}
	}
	local := n.cfg.LocalIPv4
	if f == routes.IPv6 {
		local = n.cfg.LocalIPv6
	} else if n.cfg.ExtendedNextHop == ENHOn || n.cfg.ExtendedNextHop == ENHAuto && n.capable && n.enh {
		return false, netip.Addr{}
	}
	return !local.IsValid(), local
}

// crossed tells whether the family cannot go out with the session's own address.
func (n *neighbour) crossed(f routes.Family) bool {
	hold, hop := n.crossing(f)
	return hold || hop.IsValid()
}

func (n *neighbour) warnings() []string {
	var out []string
	if n.policy == nil {
		out = append(out, "no policy: nothing is exchanged (RFC 8212)")
	}
	if hold, _ := n.crossing(routes.IPv4); hold && n.cfg.IPv4 {
		switch {
		case n.cfg.ExtendedNextHop == ENHOff:
			out = append(out, "IPv4 held back: extended next hop is off and the tunnel has no IPv4 address; set tunnel.local_ipv4 or enable it")
		case n.state == Established:
			out = append(out, "IPv4 held back: neighbour did not announce extended next hop (RFC 8950) and tunnel has no IPv4 address; set tunnel.local_ipv4 or enable it there")
		}
	}
	if n.state == Established && n.cfg.IPv4 && n.crossed(routes.IPv4) && slices.ContainsFunc(n.siblings, func(s *neighbour) bool { return !s.crossed(routes.IPv4) }) {
		out = append(out, "IPv4 is announced with an IPv6 next hop, which this neighbour did not say it takes: another neighbour has the same address and takes it, and GoBGP cannot tell them apart; give one of them another link-local address")
	}
	if hold, _ := n.crossing(routes.IPv6); hold && n.cfg.IPv6 {
		out = append(out, "IPv6 held back: the session runs over IPv4 and the tunnel has no IPv6 address to be the next hop; set tunnel.local_ipv6")
	}
	if limit := n.sendHold(); n.state == Established && limit > 0 && n.tcp.silent >= limit/sendHoldWarn {
		out = append(out, fmt.Sprintf("the neighbour reads nothing of what is sent to it; after %v of that its session ends (send_hold_time): look for a BGP daemon there that hangs", limit))
	}
	for f := range n.in {
		family, t := routes.Family(f), &n.in[f]
		name := [2]string{"IPv4", "IPv6"}[f]
		switch {
		case t.full():
			out = append(out, fmt.Sprintf("%s prefix limit of %d reached: %d further prefixes are refused", name, n.limit(family), t.rejected[PrefixLimit]))
		case t.warned:
			out = append(out, fmt.Sprintf("%s prefix limit of %d is near: %d accepted", name, n.limit(family), t.accepted))
		}
		if n.state == Established && t.offered && !t.negotiated {
			out = append(out, name+" is not exchanged: the neighbour does not offer it")
		}
	}
	return out
}

// snapshotLocked builds the public picture.
func (v *view) snapshotLocked(now time.Time) *Snapshot {
	out := &Snapshot{
		Time:              now,
		Sessions:          make([]Session, 0, len(v.order)),
		NotificationsSent: map[string]map[string]uint64{}, NotificationsReceived: map[string]map[string]uint64{},
		Paths: v.paths, Prefixes: v.prefixes,
	}
	if v.bfd != nil && slices.ContainsFunc(v.order, func(n *neighbour) bool { return n.cfg.BFD.On() }) {
		out.BFDDropped = v.bfd.Dropped()
	}
	for _, n := range v.order {
		s := n.snapshot()
		v.watched(n, &s, now)
		out.Sessions = append(out.Sessions, s)
		out.NotificationsSent[n.cfg.Name] = maps.Clone(n.sent)
		out.NotificationsReceived[n.cfg.Name] = maps.Clone(n.got)
	}
	return out
}

func (n *neighbour) snapshot() Session {
	s := Session{
		Name: n.cfg.Name, Peer: n.cfg.Peer, Tunnel: n.cfg.Peer != "", Address: n.cfg.Address, ASN: n.cfg.ASN,
		AdminDown: n.cfg.Disabled, RemoteRouterID: n.routerID, State: n.state, Since: n.since, EstablishedAt: n.establishedAt,
		Establishments: n.establishments, Downs: maps.Clone(n.downs), LastDown: n.lastDown, LastError: n.lastError,
		HoldTime: n.polled.holdTime, ExtendedNextHop: n.state == Established && n.enh, Warnings: n.warnings(),
		Received: n.polled.received, Sent: n.polled.sent, OutQueue: n.polled.outQueue,
	}
	if s.Peer == "" {
		s.Peer = s.Name
	}
	if n.state != Established {
		s.EstablishedAt, s.HoldTime = time.Time{}, 0
	}
	for f, to := range []**Counts{&s.IPv4, &s.IPv6} {
		if t := &n.in[f]; t.offered {
			*to = &Counts{
				Received: t.entries.len(), Accepted: t.accepted, Rejected: maps.Clone(t.rejected),
				Limit: n.limit(routes.Family(f)), EOR: t.eor && n.state == Established, Stale: n.staleCount(routes.Family(f)),
			}
			if n.state == Established { // GoBGP goes on to count what it would send
				(*to).Advertised = n.polled.advertised[f]
			}
		}
	}
	return s
}

// staleCount counts the paths kept from a lost session.
func (n *neighbour) staleCount(f routes.Family) int {
	if n.state != Established {
		return n.in[f].entries.len()
	}
	return n.in[f].stale
}

// notification counts NOTIFICATION messages by what GoBGP says about them.
func (v *view) notification(n *neighbour, message string) {
	direction, code, ok := parseNotification(message)
	if !ok {
		return
	}
	if direction == "sent" {
		n.sent[code]++
	} else {
		n.got[code]++
	}
	n.lastError = direction + " " + code
	v.dirty = true
	v.wake()
}

// notificationText is GoBGP's, as in "notification-sent code 6(cease) subcode 4(administrative reset)".
var notificationText = regexp.MustCompile(`^notification-(sent|received) code ([0-9]+)\((.*)\) subcode ([0-9]+)\((.*)\)$`)

// parseNotification returns "sent" or "received" and "Cease/Administrative Reset".
func parseNotification(message string) (direction, code string, ok bool) {
	m := notificationText.FindStringSubmatch(message)
	if m == nil {
		return "", "", false
	}
	sub := notificationName(m[4], m[5])
	if m[2] == "6" && sub == "9" {
		sub = "Hard Reset" // RFC 8538 section 3; GoBGP has no name for it
	}
	return m[1], notificationName(m[2], m[3]) + "/" + sub, true
}

func notificationName(number, name string) string {
	if name == "undefined" {
		return number
	}
	words := strings.Fields(name)
	for i, w := range words {
		words[i] = strings.ToUpper(w[:1]) + w[1:]
	}
	return strings.Join(words, " ")
}

// inWords renders a disconnect message.
func inWords(message string) string {
	if direction, code, ok := parseNotification(message); ok {
		return direction + " " + code
	}
	return strings.ReplaceAll(message, "-", " ")
}

// members lists what the compiler needs to know, one for each address without zone. A nil view stands for no knowledge.
func members(c Config, v *view) []member {
	var out []member
	for i := range c.Neighbours {
		cfg := &c.Neighbours[i]
		n := &neighbour{cfg: *cfg}
		if v != nil {
			n = v.byName[cfg.Name]
		}
		bare := cfg.Address.WithZone("")
		at := slices.IndexFunc(out, func(m member) bool { return m.address == bare })
		first := at < 0
		if first {
			at = len(out)
			out = append(out, member{
				address: bare, policy: cfg.Policy, localASN: localASN(c, cfg), internal: cfg.ASN == localASN(c, cfg), tunnel: cfg.Peer != "",
				origins: c.Origins,
			})
		}
		m := &out[at]
		if !slices.Contains(m.asns, cfg.ASN) {
			m.asns = append(m.asns, cfg.ASN)
		}
		if v == nil {
			continue
		}
		m.policy = n.policy
		for f := range n.in {
			hold, hop := n.crossing(routes.Family(f))
			// Of neighbours with one address, what works for one of them is done: a new neighbour, or one that can less,
			// takes nothing from the others. It is warned about.
			m.hold[f] = hold && (first || m.hold[f])
			if first || !hop.IsValid() {
				m.hop[f] = hop
			}
			if len(n.siblings) == 0 {
				m.closed[f] = maps.Clone(n.in[f].allowed)
			}
			if n.everRefused && m.refused == nil {
				m.refused = map[netip.Prefix]struct{}{}
			}
			maps.Copy(m.refused, n.in[f].refused)
			for kind := range n.everTagged {
				if m.tagged == nil {
					m.tagged = map[tagKind]map[netip.Prefix]struct{}{}
				}
				if m.tagged[kind] == nil {
					m.tagged[kind] = map[netip.Prefix]struct{}{}
				}
				maps.Copy(m.tagged[kind], n.in[f].tagged[kind])
			}
		}
	}
	return out
}
