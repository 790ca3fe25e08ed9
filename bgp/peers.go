package bgp

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"time"

	"github.com/osrg/gobgp/v4/api"

	"sitewire/routes"
)

// Sessions that fell are begun anew after these delays, doubling; beyond the last one GoBGP's own 5 s idle time is as
// good. A session that lasted counts as a first failure again.
const (
	firstRetry = 100 * time.Millisecond
	lastRetry  = 5 * time.Second
	lasted     = time.Minute
	gobgpRetry = 5 // s, between dials; GoBGP's default is 120
)

// peer is a neighbour in GoBGP, or one that is to be.
type peer struct {
	key   Neighbour // what the session depends on
	added bool
	tries int
	next  time.Time // not before
	// waitUntil is how long the neighbour has the first turn to dial; mustDial says that it did not use it.
	waitUntil time.Time
	mustDial  bool
	// restarting says that the session begins as that of a restarted speaker, and GoBGP may still hold back what goes to it.
	restarting bool
	// parting is until when the session has time to end by itself, after GoBGP was asked to tell the neighbour.
	parting time.Time
}

// sessionKey is the part of a neighbour's configuration that its session depends on.
func sessionKey(n Neighbour) Neighbour {
	n.Policy, n.ExtendedNextHop, n.Peer, n.Name, n.BFD = nil, ENHAuto, "", "", BFD{}
	n.Disabled, n.Waits, n.SendHoldTime = false, false, 0
	n.LocalIPv4, n.RemoteIPv4, n.LocalIPv6, n.RemoteIPv6 = netip.Addr{}, netip.Addr{}, netip.Addr{}, netip.Addr{}
	return n
}

// wanted lists the sessions that should be in GoBGP now. The list is made anew when it changes, and not written to.
func (v *view) wanted() map[netip.Addr]Neighbour {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.want == nil {
		v.want = make(map[netip.Addr]Neighbour, len(v.order))
		for _, n := range v.order {
			if v.lives(n) && !n.cfg.Disabled {
				v.want[n.cfg.Address] = n.cfg
			}
		}
	}
	return v.want
}

// fallen lists, once, the sessions that are better begun anew than left idle, with the time that they lasted.
func (v *view) fallen() map[netip.Addr]time.Duration {
	v.mu.Lock()
	defer v.mu.Unlock()
	var list map[netip.Addr]time.Duration
	for _, n := range v.order {
		if n.again {
			n.again = false
			if list == nil {
				list = map[netip.Addr]time.Duration{}
			}
			list[n.cfg.Address] = n.lastDown.Sub(n.establishedAt)
		}
	}
	return list
}

func (v *view) lives(n *neighbour) bool {
	for _, name := range []string{n.cfg.Name, n.cfg.Peer} {
		if alive, said := v.alive[name]; said && !alive {
			return false
		}
	}
	return true
}

// dropPeers takes sessions away: of neighbours that are gone, changed or behind a dead tunnel, and of those that fell
// and are better begun anew than left idle.
func (l *loop) dropPeers() error {
	want, again, cut := l.view.wanted(), l.view.fallen(), l.view.toCut(time.Now())
	now := time.Now()
	dial, stuck := l.overdue(now)
	var errs []error
	for address, p := range l.peers {
		if l.deleting != nil {
			break // the others, when that is over
		}
		n, ok := want[address]
		age, fell := again[address]
		why, failed := cut[address]
		switch {
		case !ok && l.disabled(address):
			// First, so that the neighbour learns why; it would be told that it was deconfigured.
			if err := l.part(address, p, now); err != nil {
				errs = append(errs, err)
			} else if now.Before(p.parting) && l.view.established(address) {
				continue
			}
			errs = append(errs, l.drop(address, p, downAdmin))
			p.tries, p.next = 0, time.Time{}
		case !ok:
			errs = append(errs, l.drop(address, p, downTunnel))
			if !l.configured(address) {
				delete(l.peers, address)
			} else {
				p.tries, p.next = 0, time.Time{}
			}
		case !p.parting.IsZero(): // to run again, before it had ended
			errs = append(errs, l.drop(address, p, downAdmin))
			p.tries, p.next = 0, time.Time{}
		case sessionKey(n) != p.key:
			errs = append(errs, l.drop(address, p, downConfig))
			delete(l.peers, address)
		case failed && p.added:
			// GoBGP would idle and refuse the neighbour, so that the session goes whole. It begins anew at once: who can
			// connect is not held back, and BFD sees no failure before it was up again.
			if why.reason == downSendHold {
				l.log.Warn("the neighbour reads nothing of what is sent to it, so that its session ends: look for a BGP daemon there that hangs, and restart it",
					"neighbour", n.Name, "for", why.silent.Round(time.Second), "unread_bytes", why.unread)
			}
			if why.life >= lasted {
				p.tries = 0
			}
			delay := min(firstRetry<<p.tries, lastRetry)
			p.tries = min(p.tries+1, 8)
			p.next = now.Add(delay + rand.N(delay/2))
			errs = append(errs, l.drop(address, p, why.reason))
		case dial[address]:
			p.mustDial, p.next = true, now
			errs = append(errs, l.drop(address, p, ""))
		case stuck[address]:
			l.log.Warn("session did not get beyond OpenConfirm, beginning anew", "neighbour", n.Name)
			p.next = now.Add(rand.N(time.Second)) // the other end may do the same
			errs = append(errs, l.drop(address, p, ""))
		case fell && p.added:
			if age >= lasted {
				p.tries = 0
			}
			delay := firstRetry << p.tries
			if delay >= lastRetry {
				continue
			}
			p.tries++
			p.next = now.Add(delay + rand.N(delay/2))
			errs = append(errs, l.drop(address, p, ""))
		}
	}
	return errors.Join(errs...)
}

// partTime is how long a session may take to end after its neighbour was told.
const partTime = time.Second

// part has GoBGP tell the neighbour of an established session that it is shut down (RFC 4486; a neighbour that keeps routes over
// NOTIFICATIONs gets a Hard Reset instead, RFC 8538). GoBGP keeps the message for the next session if there is none.
func (l *loop) part(address netip.Addr, p *peer, now time.Time) error {
	if !p.added || !p.parting.IsZero() || !l.view.established(address) {
		return nil
	}
	p.parting = now.Add(partTime)
	return l.timed(func() error { return l.shutdown(address) })
}

// shutdown has GoBGP end an established session by a NOTIFICATION.
func (l *loop) shutdown(address netip.Addr) error {
	if err := l.gobgp.ShutdownPeer(context.Background(), &api.ShutdownPeerRequest{Address: address.String()}); err != nil {
		return fmt.Errorf("neighbour %v: shut down: %w", address, err)
	}
	return nil
}

// disabled reports whether the neighbour with this address is configured, and not to run.
func (l *loop) disabled(a netip.Addr) bool {
	for i := range l.config.Neighbours {
		if n := &l.config.Neighbours[i]; n.Address == a {
			return n.Disabled
		}
	}
	return false
}

func (l *loop) configured(a netip.Addr) bool {
	for i := range l.config.Neighbours {
		if l.config.Neighbours[i].Address == a {
			return true
		}
	}
	return false
}

// drop deletes a peer in GoBGP, which withdraws its routes before it returns.
func (l *loop) drop(address netip.Addr, p *peer, why string) error {
	if !p.added {
		return nil
	}
	p.added, p.parting = false, time.Time{}
	end := l.view.endTime(address)
	l.view.ended(address, why) // before, or GoBGP's own event could come first, without a reason
	// GoBGP leaves the TCP MD5 key on its listeners when it deletes a peer, but not when it is told of another password.
	if p.key.Password != "" && !l.password(address, p.key.Password) {
		open := p.key
		open.Password = ""
		if err := l.timed(func() error {
			_, err := l.gobgp.UpdatePeer(context.Background(), &api.UpdatePeerRequest{Peer: l.apiPeer(open, false)})
			return err
		}); err != nil {
			return fmt.Errorf("neighbour %v: remove password: %w", address, err)
		}
	}
	return l.remove(address, end)
}

// A peer that is deleted while its session is up gets an UPDATE for each of its own paths that GoBGP drops, on a queue that nobody reads any
// more, and GoBGP v4.8.0 never lets go of that: 450 bytes and the path, for each path of each lost session. So the session ends before.
const (
	endFrom = 100 // paths
	endMost = 200 * time.Millisecond
	endEach = 60 * time.Microsecond // GoBGP drops the paths first
	// endStalled is for GoBGP's NOTIFICATION to a neighbour that does not read: it gives up after a second.
	endStalled = 2 * time.Second
)

// endTime is how long the end of the session may take before its peer is deleted; 0 if it need not end before.
func (v *view) endTime(address netip.Addr) time.Duration {
	v.mu.Lock()
	defer v.mu.Unlock()
	n := v.byAddr[address]
	if n == nil || n.state != Established {
		return 0
	}
	paths := n.received()
	most := endMost + time.Duration(paths)*endEach
	switch {
	case n.tcp.silent > 0:
		return endStalled + most
	case paths < endFrom:
		return 0
	}
	return most
}

// end has GoBGP end a session by a NOTIFICATION, and waits until it has.
func (l *loop) end(address netip.Addr, most time.Duration) {
	if err := l.shutdown(address); err != nil {
		l.log.Error("GoBGP refused an order", "err", err)
		return
	}
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for limit := time.Now().Add(most); !l.view.hasLeft(address) && time.Now().Before(limit); {
		<-tick.C
	}
}

// hasLeft reports whether GoBGP has ended the session that we took away.
func (v *view) hasLeft(address netip.Addr) bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	n := v.byAddr[address]
	return n == nil || n.left
}

// patience is how long the loop waits for the removal of a peer: without a large table it takes a millisecond.
const patience = 50 * time.Millisecond

// deletion is the outcome of a removal that took long.
type deletion struct {
	err  error
	took time.Duration
}

// remove deletes a peer in GoBGP, after the end of its session if that has time. With a table of a million that takes a minute on two cores, in which GoBGP answers nothing: then it goes on by
// itself, and until it is over the loop does nothing but tell how things are.
func (l *loop) remove(address netip.Addr, end time.Duration) error {
	done := make(chan deletion, 1)
	queue, err := outgoing(l.gobgp, address)
	if err != nil {
		l.log.Debug("what was not sent to a deleted peer is not let go", "err", err)
	}
	go func() {
		if end > 0 {
			l.end(address, end)
		}
		begin := time.Now()
		err := l.gobgp.DeletePeer(context.Background(), &api.DeletePeerRequest{Address: address.String()})
		if err != nil {
			err = fmt.Errorf("neighbour %v: delete: %w", address, err)
		}
		done <- deletion{err, time.Since(begin)}
		if queue != nil && err == nil {
			for range queue { // until GoBGP closes it, with the end of the peer's goroutines
			}
		}
	}()
	select {
	case d := <-done:
		return l.over(d)
	case <-time.After(patience):
		l.deleting = done
		return nil
	}
}

// deleted waits for the end of a removal that takes long, if there is one.
func (l *loop) deleted() error {
	if l.deleting == nil {
		return nil
	}
	return l.over(<-l.deleting)
}

// over takes note of the end of a removal.
func (l *loop) over(d deletion) error {
	if l.deleting != nil {
		l.deleting, l.free = nil, time.Now()
	}
	l.latency.Observe(d.took)
	return d.err
}

// password reports whether a configured neighbour has this address, whatever its zone, and this password.
func (l *loop) password(address netip.Addr, password string) bool {
	for i := range l.config.Neighbours {
		if n := &l.config.Neighbours[i]; n.Address.WithZone("") == address.WithZone("") && n.Password == password {
			return true
		}
	}
	return false
}

// addPeers adds the sessions that are wanted, missing and due.
func (l *loop) addPeers() error {
	want := l.view.wanted()
	now := time.Now()
	var errs []error
	for address, n := range want {
		p := l.peers[address]
		if p == nil {
			p = &peer{key: sessionKey(n)}
			l.peers[address] = p
		}
		if p.added || now.Before(p.next) {
			continue
		}
		p.restarting = l.restarts(p.key)
		if err := l.timed(func() error {
			return l.gobgp.AddPeer(context.Background(), &api.AddPeerRequest{Peer: l.apiPeer(p.courtesy(n, now), p.restarting)})
		}); err != nil {
			p.tries = min(p.tries+1, 8)
			p.next = now.Add(firstRetry << p.tries)
			errs = append(errs, fmt.Errorf("neighbour %s: add: %w", n.Name, err))
			continue
		}
		p.added = true
	}
	return errors.Join(errs...)
}

// reset is Speaker.Reset.
func (l *loop) reset(name string, soft bool) error {
	l.view.mu.Lock()
	n := l.view.byName[name]
	l.view.mu.Unlock()
	if n == nil {
		return fmt.Errorf("bgp: there is no neighbour %q", name)
	}
	p := l.peers[n.cfg.Address]
	if n.cfg.Disabled {
		return fmt.Errorf("bgp: neighbour %s has no session: it is disabled, set enabled: true in its configuration and reload", name)
	}
	if p == nil || !p.added {
		return fmt.Errorf("bgp: neighbour %s has no session: its tunnel is down", name)
	}
	if soft {
		l.soft(n.cfg.Address, true, true)
		l.pace[n.cfg.Address].next = time.Time{}
		l.softResets()
		return nil
	}
	err := errors.Join(l.drop(n.cfg.Address, p, downReset), l.deleted())
	p.tries, p.next = 0, time.Time{}
	return errors.Join(err, l.addPeers())
}

// apiPeer translates a neighbour. Every field was checked by Validate. Restarting is as in Speaker.Run.
func (l *loop) apiPeer(n Neighbour, restarting bool) *api.Peer {
	a := n.Address
	p := &api.Peer{
		Conf: &api.PeerConf{
			NeighborAddress: a.String(), PeerAsn: n.ASN, LocalAsn: n.LocalASN, AuthPassword: n.Password,
			// Our policies refuse our own ASN. GoBGP would only ignore the path, and keep the one it replaces.
			AllowOwnAsn: 255,
		},
		Transport: &api.Transport{RemotePort: uint32(n.Port), PassiveMode: n.Passive, LocalAddress: localAddress(n)},
		Timers: &api.Timers{Config: &api.TimersConfig{
			HoldTime: uint64(holdTime(&n) / time.Second), KeepaliveInterval: uint64(n.Keepalive / time.Second),
			ConnectRetry: gobgpRetry, IdleHoldTimeAfterReset: 1,
		}},
		RouteReflector: &api.RouteReflector{RouteReflectorClient: n.RouteReflectorClient},
	}
	if n.ConnectRetry != 0 {
		p.Timers.Config.ConnectRetry = uint64(n.ConnectRetry / time.Second)
	}
	if n.RouteReflectorClient {
		p.RouteReflector.RouteReflectorClusterId = l.config.RouterID.String()
	}
	if n.Multihop > 0 {
		p.EbgpMultihop = &api.EbgpMultihop{Enabled: true, MultihopTtl: uint32(n.Multihop)}
	}
	if n.GracefulRestart {
		p.GracefulRestart = &api.GracefulRestart{
			Enabled: true, RestartTime: uint32(restartTime(l.config) / time.Second), DeferralTime: seconds(l.config.DeferralTime, 10),
			NotificationEnabled: true, LocalRestarting: restarting,
		}
	}
	for f, offered := range []bool{n.IPv4, n.IPv6} {
		if offered {
			p.AfiSafis = append(p.AfiSafis, &api.AfiSafi{
				Config:            &api.AfiSafiConfig{Family: afi(routes.Family(f))[0], Enabled: true},
				MpGracefulRestart: &api.MpGracefulRestart{Config: &api.MpGracefulRestartConfig{Enabled: n.GracefulRestart}},
			})
		}
	}
	return p
}

// localAddress is what to bind to. A link-local session must not name one: it comes up only with `::`, and then even
// if the device is created later.
func localAddress(n Neighbour) string {
	switch {
	case n.Address.Is6() && n.Address.IsLinkLocalUnicast():
		return "::"
	case n.LocalAddress.IsValid():
		return n.LocalAddress.String()
	case n.Address.Is4():
		return "0.0.0.0"
	}
	return "::"
}

func seconds(d time.Duration, otherwise uint32) uint32 {
	if d == 0 {
		return otherwise
	}
	return uint32((d + time.Second - 1) / time.Second)
}
