package gateway

import (
	"context"
	"maps"
	"net/netip"
	"slices"
	"time"

	"sitewire/bgp"
	"sitewire/gateway/config"
	"sitewire/gateway/wg"
	"sitewire/routes"
)

// restart prepares the speaker: it begins with the tunnels as they are, and as one that restarts if forwarding went on.
func (g *Gateway) restart(ctx context.Context) *bgp.Restart {
	want := g.speech(g.Config(), g.Tunnels())
	if err := g.speaker.Set(ctx, want); err == nil { // else it begins without tunnels, and follow tries again
		g.lastSpeak, g.spoken = want, true
	}
	if !g.restarts {
		return nil
	}
	g.log.Info("forwarding went on without this process: neighbours keep the routes meanwhile")
	if err := g.tunnels.store.load(neighboursFile, &g.known); err != nil {
		g.log.Warn("state not read", "error", err)
	}
	r := &bgp.Restart{ExtendedNextHop: map[string]bool{}}
	for name, n := range g.known {
		r.ExtendedNextHop[name] = n.ExtendedNextHop
	}
	return r
}

// remember writes down what a restart should know of the neighbours, if that has changed.
func (g *Gateway) remember(ctx context.Context, sessions []bgp.Session) {
	if !g.tunnels.Lasting() {
		return
	}
	next := map[string]remembered{}
	for i := range sessions {
		s := &sessions[i]
		if s.State == bgp.Established {
			next[s.Name] = remembered{ExtendedNextHop: s.ExtendedNextHop}
		} else if was, ok := g.known[s.Name]; ok {
			next[s.Name] = was
		}
	}
	if maps.Equal(next, g.known) {
		return
	}
	err := g.tunnels.store.save(neighboursFile, next)
	g.note(ctx, "state not written: neighbours may lose IPv4 routes for a moment at the next restart", err)
	if err == nil {
		g.known = next
	}
}

// fallSilent has the speaker end without a word if forwarding goes on and somebody is to take over.
func (g *Gateway) fallSilent(ctx context.Context) {
	if g.teardown.Load() || !g.tunnels.Lasting() {
		return
	}
	const patience = 5 * time.Second
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), patience)
	defer cancel()
	want := g.speech(g.Config(), g.Tunnels())
	want.KeepForwarding = true
	if err := g.speaker.Set(ctx, want); err != nil {
		g.log.Warn("neighbours are told that the sessions end, and drop the routes", "error", err)
	}
}

// follow tells the speaker what the tunnels are like now: who is alive, which endpoints no prefix may cover, and
// which prefixes of peers without BGP can be announced.
func (g *Gateway) follow(ctx context.Context) {
	cfg, ts := g.Config(), g.Tunnels()
	g.setProbes(cfg, ts)
	g.refill(ctx, cfg)
	if !g.cleared && !g.Routing().Synced.IsZero() {
		err := g.tunnels.Clear(ctx)
		g.note(ctx, "what an earlier run left is not removed yet", err)
		g.cleared = err == nil
	}
	want := g.speech(cfg, ts)
	if !g.spoken || !sameSpeech(want, g.lastSpeak) {
		err := g.speaker.Set(ctx, want)
		g.note(ctx, "BGP does not follow the tunnels", err)
		if err != nil {
			return // the next turn tries again
		}
		g.lastSpeak, g.spoken = want, true
	}
	tunnel, session := map[string]wg.Tunnel{}, map[string]*bgp.Session{}
	for _, t := range ts {
		tunnel[t.Peer] = t
	}
	snapshot := g.speaker.Snapshot()
	g.sessions.see(snapshot.Sessions)
	g.remember(ctx, snapshot.Sessions)
	for i := range snapshot.Sessions {
		session[snapshot.Sessions[i].Name] = &snapshot.Sessions[i]
	}
	alive := map[string]bool{}
	g.waiting = false
	for _, n := range want.Neighbours {
		if n.Peer == "" {
			continue
		}
		is := !deadPath(tunnel[n.Peer], session[n.Name], n.HoldTime)
		if was, told := g.alive[n.Name]; (!told && !is) || (told && was != is) {
			g.speaker.SetLiveness(n.Name, is)
		}
		alive[n.Name] = is
		g.waiting = g.waiting || !is
	}
	g.alive = alive
}

// refill has the allowed-IPs of devices and peers that came back without them written at once: putting the policy in
// force again compares everything. The routes come back when the tunnels do.
func (g *Gateway) refill(ctx context.Context, cfg *config.Config) {
	remade := g.tunnels.index.Load().remade
	if remade == g.refilled {
		return
	}
	err := g.syncer.SetPolicy(ctx, routesPolicy(cfg))
	g.note(ctx, "allowed-IPs not restored yet", err)
	if err == nil { // else the next turn tries again
		g.refilled = remade
	}
}

// inTunnel tells whether packets to the address leave through a tunnel by something more specific than a default route.
func (g *Gateway) inTunnel(a netip.Addr) bool {
	r, ok := g.Routing().Lookup(a)
	return ok && len(r.Installed) > 0 && r.Prefix.Bits() > 1 && slices.ContainsFunc(r.Desired, func(w routes.Way) bool { return w.Peer != "" })
}

// sameSpeech compares what changes with the tunnels and with RPKI; the rest changes only by Apply.
func sameSpeech(a, b bgp.Config) bool {
	return a.Origins == b.Origins && slices.Equal(a.Endpoints, b.Endpoints) && slices.EqualFunc(a.Announce, b.Announce, func(x, y bgp.Announcement) bool {
		return x.Prefix == y.Prefix && slices.Equal(x.Communities, y.Communities)
	})
}
