package gateway

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"slices"
	"sync/atomic"
	"time"

	"sitewire/gateway/host"
	"sitewire/gateway/wg"
	"sitewire/routes"
)

// deviceSpec is a device as the configuration wants it.
type deviceSpec struct {
	wg.DeviceConfig // MTU 0: from the path to the peers' endpoints
	Backend         string
	Addresses       []host.Address
	Peers           []peerSpec
}

// peerSpec is a peer as the configuration wants it.
type peerSpec struct {
	wg.PeerConfig          // Endpoint is not set here
	Site          string   // label
	Endpoints     []string // host:port, in order of preference
	Pin           bool     // an endpoint that roamed is put back
	DeadAfter     time.Duration
}

// Backend opens devices of one kind.
type Backend struct {
	Name string // "kernel" or "userspace"
	// Reason for which it was chosen.
	Reason string
	Open   wg.Opener
	// Lasting says that devices, and what goes through them, go on without this process.
	Lasting bool
	// Remove removes a device that an earlier run left. Nil where nothing lasts.
	Remove func(ctx context.Context, name string) error
}

// tunnels owns the devices, their peers and endpoints, and polls their state.
//
// Owner: its Run goroutine. Set and the like are messages to it; Write and List are called by the syncer and use
// an immutable index of the devices, which guard themselves.
type tunnels struct {
	backend  func(name string) (Backend, error)
	host     Host
	resolve  Resolver
	log      *slog.Logger
	poll     time.Duration
	alive    func(peer string, alive bool)
	lost     func(peer string, why routes.LossKind)
	inTunnel func(netip.Addr) bool // may be nil; see refused
	now      func() time.Time
	calls    chan func(context.Context)
	resolved chan resolution
	changed  chan struct{}

	// backendName is the configured one, which cannot change. Kept is what an earlier run kept of what it put into the
	// kernel, left what of it nobody wants; stored is what the file says now.
	backendName  string
	store        store
	kept, stored owned
	left         leftovers
	storeTrouble string
	earlier      atomic.Bool // kept is not empty
	// stale has publish make a new index.
	stale bool

	devices  map[string]*device
	told     map[string]bool // by peer, what alive was last called with
	remade   uint64          // devices and peers that came back empty
	linkAt   time.Time       // when the links were last seen to, and how long that took
	linkCost time.Duration

	drift        driftCounters
	counters     func(context.Context) (map[string]wg.LinkCounters, error) // may be nil
	countedAt    time.Time
	countTrouble string // as last logged
	links        atomic.Pointer[map[string]wg.LinkCounters]

	index    atomic.Pointer[tunnelIndex]
	snapshot atomic.Pointer[[]wg.Tunnel]
}

func newTunnels(o Options) *tunnels {
	t := &tunnels{
		backend: o.Backend,
		host:    o.Host,
		resolve: o.Resolver,
		log:     o.Log,
		poll:    o.Poll,
		store:   store{o.StateDir, o.BootID},

		backendName: string(o.Config.WireGuard.Backend),

		alive:    o.Feed.PutAlive,
		lost:     o.Feed.PutDead,
		now:      time.Now,
		calls:    make(chan func(context.Context)),
		resolved: make(chan resolution),
		changed:  make(chan struct{}, 1),
		devices:  map[string]*device{},
		told:     map[string]bool{},
		counters: o.LinkCounters,
	}
	t.publish()
	return t
}

func (t *tunnels) String() string { return "tunnels" }

// Run polls until ctx ends. Devices stay open: close is the caller's, once nothing writes to them any more.
func (t *tunnels) Run(ctx context.Context) error {
	tick := time.NewTicker(t.poll)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case f := <-t.calls:
			f(ctx)
		case r := <-t.resolved:
			t.onResolved(ctx, r)
		case <-tick.C:
			t.tick(ctx)
		}
		t.publish()
	}
}

// call runs f on the tunnels goroutine and waits for it.
func (t *tunnels) call(ctx context.Context, f func(context.Context) error) error {
	done := make(chan error, 1)
	select {
	case t.calls <- func(ctx context.Context) { done <- f(ctx) }:
	case <-ctx.Done():
		return ctx.Err()
	}
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Add creates and updates what specs want and removes nothing, so that the routes of what is to go can be moved
// first. On error it undoes what it created.
func (t *tunnels) Add(ctx context.Context, specs []deviceSpec) error {
	return t.call(ctx, func(ctx context.Context) error {
		t.freePorts(specs)
		t.linkCost = 0
		var created []string
		for _, s := range specs {
			_, had := t.devices[s.Name]
			err := t.addDevice(ctx, s)
			if _, has := t.devices[s.Name]; has && !had {
				created = append(created, s.Name)
			}
			if err != nil {
				t.closeDevices(created, unlessAdopted)
				t.publish()
				return onDevice(s.Name, err)
			}
		}
		t.linkAt = t.now() // each was just seen to
		t.publish()
		return nil
	})
}

// freePorts closes devices that are to go and whose port another device takes over, as when a peer is renamed: the one
// case in which the old must go before the new can come.
func (t *tunnels) freePorts(specs []deviceSpec) {
	stays, taken := map[string]bool{}, map[uint16]string{}
	for _, s := range specs {
		stays[s.Name] = true
		if d := t.devices[s.Name]; d == nil || d.spec.ListenPort != s.ListenPort {
			taken[s.ListenPort] = s.Name
		}
	}
	for _, name := range slices.Sorted(maps.Keys(t.devices)) {
		port := t.devices[name].spec.ListenPort
		if heir := taken[port]; port != 0 && heir != "" && !stays[name] {
			t.log.Info("port changes hands", "port", port, "from", name, "to", heir)
			t.closeDevices([]string{name}, always)
		}
	}
}

// Prune removes devices and peers that specs do not have.
func (t *tunnels) Prune(ctx context.Context, specs []deviceSpec) error {
	return t.call(ctx, func(ctx context.Context) error {
		var errs []error
		var unwanted []string
		for name, d := range t.devices {
			i := slices.IndexFunc(specs, func(s deviceSpec) bool { return s.Name == name })
			if i < 0 {
				unwanted = append(unwanted, name)
				continue
			}
			want := map[string]wg.PublicKey{}
			for _, p := range specs[i].Peers {
				want[p.Name] = p.PublicKey
			}
			var gone []wg.PublicKey
			for name, p := range d.peers {
				if _, ok := want[name]; !ok {
					gone = append(gone, p.spec.PublicKey)
					delete(d.peers, name)
					t.log.Info("peer removed", "peer", name, "device", d.spec.Name)
				}
			}
			// A key that a peer under another name has taken over is not removed.
			gone = slices.DeleteFunc(gone, func(k wg.PublicKey) bool {
				return slices.Contains(slices.Collect(maps.Values(want)), k)
			})
			if len(gone) > 0 && d.dev != nil {
				if err := d.dev.Apply(ctx, wg.Delta{RemovePeers: gone}); err != nil {
					errs = append(errs, onDevice(name, err))
				}
			}
			d.spec = specs[i]
		}
		t.closeDevices(unwanted, always)
		t.publish()
		return errors.Join(errs...)
	})
}

func (t *tunnels) addDevice(ctx context.Context, s deviceSpec) error {
	t.wanted(s)
	d, ok := t.devices[s.Name]
	if !ok {
		d = &device{spec: s, peers: map[string]*peer{}}
		if err := t.open(ctx, d); err != nil {
			return err
		}
		t.devices[s.Name] = d
	}
	old := d.spec
	d.spec = s
	d.spec.Peers = nil // grows below; Prune sets the final list
	if d.dev != nil && ok && (!old.PrivateKey.Equal(s.PrivateKey) || old.ListenPort != s.ListenPort || old.FirewallMark != s.FirewallMark) {
		if err := d.dev.Apply(ctx, wg.Delta{Device: &s.DeviceConfig}); err != nil {
			d.spec = old
			return err
		}
	}
	d.spec.Peers = old.Peers
	for _, p := range s.Peers {
		if err := t.addPeer(ctx, d, p, s.Peers); err != nil {
			return err
		}
	}
	d.spec.Peers, d.found = s.Peers, nil
	begin := t.now()
	defer func() { t.linkCost += t.now().Sub(begin) }()
	return t.setLink(ctx, d)
}

// addPeer adds or updates a peer; all are those that the device is to have.
func (t *tunnels) addPeer(ctx context.Context, d *device, s peerSpec, all []peerSpec) error {
	p, ok := d.peers[s.Name]
	if ok && p.spec.equal(s) {
		return nil
	}
	has := func(k wg.PublicKey) bool {
		return slices.ContainsFunc(all, func(o peerSpec) bool { return o.PublicKey == k })
	}
	var endpoint netip.AddrPort
	fresh := &peer{spec: s, state: wg.TunnelNew, since: t.now()}
	rekeyed := ok && p.spec.PublicKey != s.PublicKey
	if !ok || rekeyed {
		fresh.takeOver(d.byKey(s.PublicKey))
		fresh.spec = s
	} else { // its counters and its session go on
		if !slices.Equal(p.spec.Endpoints, s.Endpoints) { // what the operator changed is not held back
			p.forgetEndpoints()
		}
		p.spec = s
		fresh = p
	}
	was, found := d.found[s.PublicKey]
	if found = found && !ok; found {
		fresh.adopt(was, t.now())
	}
	// A peer that comes with its endpoint sends its first handshake at once. One that was found alive stays where it is.
	if addrs, ok := numeric(s.Endpoints); ok && fresh.candidates == nil {
		fresh.setCandidates(addrs, t.now())
		if !found || !fresh.alive() || s.Pin {
			endpoint = addrs[0]
		}
	}
	if fresh.state == wg.TunnelNew {
		_, fresh.reason = fresh.liveness(t.now())
	}
	delta := wg.Delta{SetPeers: []wg.PeerConfig{fresh.config(endpoint)}}
	if rekeyed && !has(p.spec.PublicKey) { // unless the key is now another name's
		delta.RemovePeers = []wg.PublicKey{p.spec.PublicKey}
	}
	if d.dev != nil {
		if err := d.dev.Apply(ctx, delta); err != nil {
			return fmt.Errorf("peer %s: %w", s.Name, err)
		}
	}
	if found && endpoint.IsValid() {
		fresh.stats.Endpoint = endpoint
	}
	d.peers[s.Name] = fresh
	delete(t.left.peers, keyOnDevice{d.spec.Name, s.PublicKey})
	switch {
	case found:
		t.log.Info("peer taken over", "peer", s.Name, "device", d.spec.Name, "tunnel", fresh.state, "endpoint", fresh.stats.Endpoint)
	case !ok:
		t.log.Info("peer added", "peer", s.Name, "device", d.spec.Name)
	}
	if fresh.alive() || rekeyed || t.told[s.Name] { // what was known of the name is of another tunnel
		t.tell(s.Name, fresh.alive())
	}
	t.resolvePeer(ctx, d, fresh)
	return nil
}

// takeOver continues the tunnel of a peer with the same key that had another name. Its endpoints are looked up anew.
func (p *peer) takeOver(old *peer) {
	if old == nil {
		return
	}
	spec := p.spec
	*p = *old
	p.spec, p.resolving, p.nextResolve = spec, false, time.Time{}
	if !slices.Equal(spec.Endpoints, old.spec.Endpoints) {
		p.forgetEndpoints()
	}
}

// forgetEndpoints makes room for others. The device keeps its own until then.
func (p *peer) forgetEndpoints() {
	p.candidates, p.nextResolve = nil, time.Time{}
	p.configured, p.worked, p.resume = netip.AddrPort{}, netip.AddrPort{}, netip.AddrPort{}
	p.impose = true
}

// deafPolls is how often in a row a device may fail to answer before it counts as lost.
const deafPolls = 5

// tick reads the devices' statistics, moves the peers' states and starts what is due.
func (t *tunnels) tick(ctx context.Context) {
	now := t.now()
	defer t.countLinks(ctx, now)
	links := now.Sub(t.linkAt) >= max(linkEvery, linkRest*t.linkCost)
	if links {
		t.linkAt, t.linkCost = now, 0
	}
	for _, name := range slices.Sorted(maps.Keys(t.devices)) {
		d := t.devices[name]
		if d.dev == nil {
			t.reopen(ctx, d, now)
			continue
		}
		stats, err := d.dev.Stats(ctx)
		if err != nil {
			if ctx.Err() != nil {
				return
			}
			// A device that only does not answer still carries its traffic.
			if d.deaf++; d.deaf < deafPolls && !errors.Is(err, wg.ErrClosed) {
				d.warn(t, "device not read, asking again", err)
				continue
			}
			t.lose(d, err, now)
			t.reopen(ctx, d, now)
			continue
		}
		d.deaf = 0
		// Silence counts up to when the device was looked at, which may be a while ago.
		at := now
		if r, ok := wg.As[interface{ StatsTime() time.Time }](d.dev); ok && r.StatsTime().Before(now) {
			at = r.StatsTime()
		}
		byKey := make(map[wg.PublicKey]wg.PeerStats, len(stats))
		for _, s := range stats {
			byKey[s.PublicKey] = s
		}
		t.strangers(d, stats)
		for _, p := range d.peers {
			s, ok := byKey[p.spec.PublicKey]
			if !ok {
				t.restorePeer(ctx, d, p)
			}
			t.observe(ctx, d, p, s, at)
		}
		if links {
			begin := t.now()
			t.mendLink(ctx, d)
			t.linkCost += t.now().Sub(begin)
		}
	}
}

// publish replaces the index and the snapshot if something changed, and wakes the gateway.
func (t *tunnels) publish() {
	before := t.index.Load()
	ix := before
	if before == nil || t.stale || !before.matches(t) {
		ix = newTunnelIndex(t)
		t.index.Store(ix)
		t.stale = false
		if before != nil { // nothing was made yet
			t.keep()
		}
	}
	snap := make([]wg.Tunnel, 0, len(ix.keys))
	for _, name := range slices.Sorted(maps.Keys(t.devices)) {
		d := t.devices[name]
		for _, pn := range slices.Sorted(maps.Keys(d.peers)) {
			snap = append(snap, d.peers[pn].tunnel(d))
		}
	}
	old := t.snapshot.Swap(&snap)
	if old == nil || before.remade != ix.remade || !slices.EqualFunc(*old, snap, sameForRouting) {
		select {
		case t.changed <- struct{}{}:
		default:
		}
	}
}

// sameForRouting tells whether the gateway has anything to do for a change of a tunnel.
func sameForRouting(a, b wg.Tunnel) bool {
	return a.Peer == b.Peer && a.Device == b.Device && a.Alive() == b.Alive() && a.State == b.State && a.Endpoint.Addr() == b.Endpoint.Addr()
}

// endpoints returns the outer addresses of all peers, sorted: what no learned prefix may cover.
func endpoints(ts []wg.Tunnel) []netip.Addr {
	var out []netip.Addr
	for _, t := range ts {
		if t.Endpoint.IsValid() {
			out = append(out, t.Endpoint.Addr().Unmap().WithZone(""))
		}
	}
	slices.SortFunc(out, netip.Addr.Compare)
	return slices.Compact(out)
}
