package gateway

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"time"

	"sitewire/gateway/wg"
)

// Times of the endpoint manager.
const (
	resolveTimeout = 5 * time.Second
	resolveEvery   = 5 * time.Minute  // of a tunnel that is up
	resolveSilent  = 30 * time.Second // of one that is not
	rotateEvery    = 15 * time.Second // to the next candidate, while none answers
)

// Resolver looks up the addresses of a host name, in order of preference. It asks over the underlay.
type Resolver func(ctx context.Context, host string) ([]netip.Addr, error)

// peer is the run-time state of a peer. Owned by the tunnels goroutine.
type peer struct {
	spec  peerSpec
	stats wg.PeerStats
	found bool // on the device when that was opened, and taken over
	quiet bool // without its keepalive as long as there is nowhere to send it; see config

	state  wg.TunnelState
	reason string
	since  time.Time

	lastReceive time.Time
	lastSend    time.Time // when the poll last saw bytes leave

	candidates  []netip.AddrPort // resolved, in order
	tried       int              // index of the one in use; -1: none of them yet
	configured  netip.AddrPort   // last one that we set
	worked      netip.AddrPort   // last one that the peer was heard from
	resume      netip.AddrPort   // where it was when its device was lost
	impose      bool             // the operator changed the endpoints: they are used even while the tunnel is up
	rotateAt    time.Time
	resolving   bool
	resolveErr  error // of the last look-up
	nextResolve time.Time
	path        path // to the endpoint

	handshakes, endpointChanges, resolutions, resolutionFailures uint64
}

// resolution is the answer for one peer's endpoints.
type resolution struct {
	device, peer string
	endpoints    []string // that were asked for
	addrs        []netip.AddrPort
	err          error
}

func (s peerSpec) equal(o peerSpec) bool {
	return s.PublicKey == o.PublicKey && s.PresharedKey.Equal(o.PresharedKey) && s.PersistentKeepalive == o.PersistentKeepalive &&
		s.Site == o.Site && slices.Equal(s.Endpoints, o.Endpoints) && s.Pin == o.Pin && s.DeadAfter == o.DeadAfter
}

// endpoint in use; where the device does not say, the one that it had or will get.
func (p *peer) endpoint() netip.AddrPort {
	switch {
	case p.stats.Endpoint.IsValid():
		return p.stats.Endpoint
	case p.resume.IsValid():
		return p.resume
	}
	return p.configured
}

// config is what the device is told of the peer; without an endpoint, its own stays. A peer that is to call first has no keepalive until it
// does: WireGuard would make a handshake for it every five seconds, for ever, and then find that there is nowhere to send it. With a thousand
// branches that are switched off that was most of what the gateway did.
func (p *peer) config(endpoint netip.AddrPort) wg.PeerConfig {
	cfg := p.spec.PeerConfig
	cfg.Endpoint = endpoint
	if p.quiet = !endpoint.IsValid() && !p.stats.Endpoint.IsValid(); p.quiet {
		cfg.PersistentKeepalive = 0
	}
	return cfg
}

// speakUp gives a peer that has called its keepalive.
func (t *tunnels) speakUp(ctx context.Context, d *device, p *peer) {
	if !p.quiet || !p.stats.Endpoint.IsValid() {
		return
	}
	if err := d.dev.Apply(ctx, wg.Delta{SetPeers: []wg.PeerConfig{p.config(netip.AddrPort{})}}); err != nil {
		p.quiet = true // the next poll tries again
		d.warn(t, "keepalive not set, trying again", err)
	}
}

func (p *peer) tunnel(d *device) wg.Tunnel {
	return wg.Tunnel{
		Peer: p.spec.Name, Site: p.spec.Site, Device: d.spec.Name, Backend: d.backend,
		PublicKey: p.spec.PublicKey, PSK: !p.spec.PresharedKey.IsZero(),
		State: p.state, Reason: p.reason, Since: p.since,
		Endpoint: p.endpoint(), LastHandshake: p.stats.LastHandshake, LastReceive: p.lastReceive,
		ReceiveBytes: p.stats.ReceiveBytes, TransmitBytes: p.stats.TransmitBytes,
		PersistentKeepalive: p.spec.PersistentKeepalive, MTU: d.mtu,
		Handshakes: p.handshakes, EndpointChanges: p.endpointChanges,
		Resolutions: p.resolutions, ResolutionFailures: p.resolutionFailures,
	}
}

// observe takes in a poll of the peer.
func (t *tunnels) observe(ctx context.Context, d *device, p *peer, s wg.PeerStats, now time.Time) {
	old := p.stats
	if s.LastHandshake.After(old.LastHandshake) {
		p.handshakes++
		p.lastReceive = now
	}
	if s.ReceiveBytes > old.ReceiveBytes {
		p.lastReceive = now
	}
	if s.TransmitBytes > old.TransmitBytes {
		p.lastSend = now
	}
	p.stats = s
	t.speakUp(ctx, d, p)
	state, reason := p.liveness(now)
	t.setState(p, state, reason, now)
	t.followEndpoint(ctx, d, p)

	if len(p.spec.Endpoints) == 0 {
		return
	}
	if state == wg.TunnelNew || state == wg.TunnelDown {
		t.rotate(ctx, d, p, now)
	}
	if state != wg.TunnelUp && p.nextResolve.After(now.Add(resolveSilent*3/2)) {
		p.nextResolve = now
	}
	t.resolvePeer(ctx, d, p)
}

// followEndpoint notes where the peer is heard from, and puts a pinned endpoint back. Endpoints that we try in vain
// are no changes.
func (t *tunnels) followEndpoint(ctx context.Context, d *device, p *peer) {
	now := p.stats.Endpoint
	if !now.IsValid() {
		return
	}
	if p.state == wg.TunnelUp && now != p.worked {
		if p.worked.IsValid() {
			p.endpointChanges++
			t.log.Info("endpoint changed", "peer", p.spec.Name, "endpoint", now)
		}
		p.worked = now
	}
	if p.spec.Pin && p.configured.IsValid() && now != p.configured {
		p.worked = p.configured
		t.setEndpoint(ctx, d, p, p.configured)
	}
}

// rotate sends a tunnel that nobody answers on to the next endpoint. The last one that worked has its turn too: what a
// name says now may be wrong.
func (t *tunnels) rotate(ctx context.Context, d *device, p *peer, now time.Time) {
	targets := p.candidates
	if p.worked.IsValid() && !slices.Contains(targets, p.worked) {
		targets = append(slices.Clip(targets), p.worked)
	}
	if len(targets) == 0 || now.Before(p.rotateAt) {
		return
	}
	p.rotateAt = now.Add(rotateEvery)
	p.tried = (p.tried + 1) % len(targets)
	if next := targets[p.tried]; next != p.endpoint() {
		t.setEndpoint(ctx, d, p, next)
	}
}

// forget drops what was heard on a device that is gone, and with it the session. Where the peer was is kept.
func (p *peer) forget() {
	if p.stats.Endpoint.IsValid() && !(p.spec.Pin && p.configured.IsValid()) {
		p.resume = p.stats.Endpoint
	}
	p.stats, p.lastReceive, p.lastSend = wg.PeerStats{}, time.Time{}, time.Time{}
}

// liveness judges a peer by when it was last heard. Bytes and handshakes both count: each arrives authenticated.
func (p *peer) liveness(now time.Time) (wg.TunnelState, string) {
	heard := p.lastReceive
	if p.stats.LastHandshake.After(heard) {
		heard = p.stats.LastHandshake
	}
	switch {
	case heard.IsZero() && len(p.spec.Endpoints) == 0:
		return wg.TunnelNew, "no handshake yet: waiting for the peer to call"
	case heard.IsZero() && !p.configured.IsValid():
		why := "no handshake yet: endpoint not resolved"
		if p.resolveErr != nil {
			why += ": " + p.resolveErr.Error()
		}
		return wg.TunnelNew, why
	case heard.IsZero():
		return wg.TunnelNew, "no handshake yet"
	case now.Sub(heard) < p.spec.DeadAfter:
		return wg.TunnelUp, "heard from " + ago(now.Sub(heard))
	case p.spec.PersistentKeepalive == 0 && p.lastSend.Before(heard.Add(p.spec.DeadAfter/2)):
		return wg.TunnelStale, "silent, and nothing was sent"
	}
	return wg.TunnelDown, fmt.Sprintf("nothing heard for over %s", p.spec.DeadAfter)
}

// ago is a rough age, so that a healthy tunnel's reason does not change with every poll.
func ago(d time.Duration) string {
	if d < 30*time.Second {
		return "within 30 s"
	}
	return "within " + strconv.Itoa(int(d/time.Minute)+1) + " min"
}

func (t *tunnels) setState(p *peer, s wg.TunnelState, reason string, now time.Time) {
	p.reason = reason
	if p.state == s {
		return
	}
	t.log.Info("tunnel "+string(s), "peer", p.spec.Name, "was", p.state, "reason", reason)
	p.state, p.since = s, now
	t.tell(p.spec.Name, p.alive())
}

// alive as in wg.Tunnel.Alive.
func (p *peer) alive() bool { return p.state == wg.TunnelUp || p.state == wg.TunnelStale }

// tell says whether routes through the peer make sense, if that is news.
func (t *tunnels) tell(peer string, alive bool) {
	if was, told := t.told[peer]; told && was == alive {
		return
	}
	t.told[peer] = alive
	t.alive(peer, alive)
}

// numeric returns the endpoints as addresses if none of them is a name.
func numeric(endpoints []string) (out []netip.AddrPort, ok bool) {
	for _, e := range endpoints {
		ap, err := netip.ParseAddrPort(e)
		if err != nil {
			return nil, false
		}
		out = append(out, ap)
	}
	return out, len(out) > 0
}

// setCandidates begins with the first of addrs.
func (p *peer) setCandidates(addrs []netip.AddrPort, now time.Time) {
	p.candidates, p.tried, p.configured = addrs, 0, addrs[0]
	p.rotateAt = now.Add(rotateEvery)
}

// resolvePeer starts a look-up if one is due. Numeric endpoints are set at once.
func (t *tunnels) resolvePeer(ctx context.Context, d *device, p *peer) {
	now := t.now()
	if len(p.spec.Endpoints) == 0 || p.resolving || now.Before(p.nextResolve) {
		return
	}
	if _, ok := numeric(p.spec.Endpoints); ok { // set when the peer was added
		p.nextResolve = now.Add(24 * time.Hour)
		return
	}
	r := resolution{device: d.spec.Name, peer: p.spec.Name, endpoints: p.spec.Endpoints}
	p.resolving = true
	p.resolutions++
	go func() { // one look-up in flight for a peer; a slow name holds up nobody else
		asking, cancel := context.WithTimeout(ctx, resolveTimeout)
		defer cancel()
		r.addrs, r.err = lookup(asking, t.resolve, r.endpoints)
		select {
		case t.resolved <- r:
		case <-ctx.Done():
		}
	}()
}

// lookup resolves endpoints in order; those that fail are left out, and all failing is an error.
func lookup(ctx context.Context, resolve Resolver, endpoints []string) ([]netip.AddrPort, error) {
	var out []netip.AddrPort
	var last error
	for _, e := range endpoints {
		if ap, err := netip.ParseAddrPort(e); err == nil {
			out = append(out, ap)
			continue
		}
		name, port, err := net.SplitHostPort(e)
		if err != nil {
			last = err
			continue
		}
		n, err := strconv.ParseUint(port, 10, 16)
		if err != nil {
			last = fmt.Errorf("port %q: %w", port, err)
			continue
		}
		addrs, err := resolve(ctx, name)
		if err != nil {
			last = err
			continue
		}
		for _, a := range addrs {
			out = append(out, netip.AddrPortFrom(a.Unmap(), uint16(n)))
		}
	}
	if len(out) == 0 {
		return nil, cmp.Or(last, fmt.Errorf("no address for %v", endpoints))
	}
	return out, nil
}

func (t *tunnels) onResolved(ctx context.Context, r resolution) {
	d := t.devices[r.device]
	if d == nil || d.peers[r.peer] == nil {
		return
	}
	p, now := d.peers[r.peer], t.now()
	p.resolving = false
	every := resolveSilent
	if p.state == wg.TunnelUp {
		every = resolveEvery
	}
	p.nextResolve = now.Add(every + rand.N(every/4))
	if !slices.Equal(p.spec.Endpoints, r.endpoints) { // reconfigured meanwhile: ask for the new ones
		p.nextResolve = now
		t.resolvePeer(ctx, d, p)
		return
	}
	r.addrs = slices.DeleteFunc(r.addrs, func(a netip.AddrPort) bool { return t.refused(r, a) })
	if r.err == nil && len(r.addrs) == 0 {
		r.err = errInTunnel
	}
	p.resolveErr = r.err
	if r.err != nil { // what worked last is kept for ever
		p.resolutionFailures++
		t.log.Warn("endpoint not resolved", "peer", r.peer, "endpoints", r.endpoints, "error", r.err)
		return
	}
	if slices.Equal(p.candidates, r.addrs) {
		return
	}
	had := p.configured
	p.setCandidates(r.addrs, now)
	p.configured = had
	// A live tunnel keeps its endpoint, whoever began it: what a name says now may be wrong, and a peer that moved roams
	// by itself.
	if p.alive() && (had.IsValid() || !p.impose && !p.spec.Pin) {
		p.tried, p.rotateAt = -1, now
		return
	}
	t.setEndpoint(ctx, d, p, p.candidates[0])
}

// errInTunnel says that a name led into the network behind the tunnels.
var errInTunnel = errors.New("every address is reached through a tunnel: not an endpoint")

// refused tells whether an address that a name gave leads through a tunnel. As an endpoint it would never answer, and
// the prefixes that cover it would be refused from then on. What the file gives as a number is taken as it is.
func (t *tunnels) refused(r resolution, a netip.AddrPort) bool {
	return t.inTunnel != nil && t.inTunnel(a.Addr()) && !slices.Contains(r.endpoints, a.String())
}

func (t *tunnels) setEndpoint(ctx context.Context, d *device, p *peer, ep netip.AddrPort) {
	p.configured, p.resume, p.impose = ep, netip.AddrPort{}, false
	if d.dev == nil {
		return
	}
	if err := d.dev.Apply(ctx, wg.Delta{SetPeers: []wg.PeerConfig{p.config(ep)}}); err != nil {
		t.log.Warn("endpoint not set", "peer", p.spec.Name, "endpoint", ep, "error", err)
		return
	}
	p.stats.Endpoint = ep
}
