// Package wgtest has a fake WireGuard device and the suite that every Device must pass.
//
// Job: Fake obeys the kernel's rules in memory and writes each change down as a line of text; TestDevice checks those
// rules on any Device, so that the fake, the userspace and the kernel drivers cannot drift apart.
// Owner: a Fake guards its own state with one mutex.
// Inputs: deltas; failures to inject; statistics to report.
// Outputs: a journal in the words of wg(8), and the device's present state.
// Invariants: one owner per prefix; Allow moves; Disallow takes only from the owner; RemovePeers frees; SetPeers keeps
// allowed-IPs; parts are applied in the order of Delta's fields; a change that changes nothing leaves no line.
package wgtest

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"sitewire/gateway/wg"
)

// Fake is a wg.Device in memory.
type Fake struct {
	mu      sync.Mutex
	cfg     wg.DeviceConfig
	peers   map[wg.PublicKey]*fakePeer
	owner   map[netip.Prefix]wg.PublicKey
	journal []string
	fail    func(op string) error
	closed  bool
	removed bool
}

type fakePeer struct {
	cfg   wg.PeerConfig
	stats wg.PeerStats
}

var _ wg.Device = (*Fake)(nil)

// New makes a device without peers. Its journal starts empty.
func New(cfg wg.DeviceConfig) *Fake {
	return &Fake{cfg: cfg, peers: map[wg.PublicKey]*fakePeer{}, owner: map[netip.Prefix]wg.PublicKey{}}
}

// Name of the interface.
func (f *Fake) Name() string { return f.cfg.Name }

// FailWith sets a function that sees each journal line before the change is made. If it returns an error the change
// is not made and Apply stops there, leaving what it did before in place, as a real device does. Nil removes it.
func (f *Fake) FailWith(fail func(op string) error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.fail = fail
}

// Journal returns the lines since the last call.
func (f *Fake) Journal() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	lines := f.journal
	f.journal = nil
	return lines
}

// Update lets edit change a peer's statistics, as handshakes, traffic and roaming would.
// It reports whether the peer exists.
func (f *Fake) Update(peer wg.PublicKey, edit func(*wg.PeerStats)) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	p, ok := f.peers[peer]
	if ok {
		edit(&p.stats)
	}
	return ok
}

// Owner returns the peer that owns exactly this prefix.
func (f *Fake) Owner(p netip.Prefix) (wg.PublicKey, bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	k, ok := f.owner[p]
	return k, ok
}

// Closed reports whether Close was called, and whether it was asked to remove the interface.
func (f *Fake) Closed() (closed, removed bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.closed, f.removed
}

// Apply implements wg.Device.
func (f *Fake) Apply(ctx context.Context, d wg.Delta) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if err := d.Validate(); err != nil {
		return fmt.Errorf("device %s: %w", f.cfg.Name, err)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.closed {
		return fmt.Errorf("device %s: %w", f.cfg.Name, wg.ErrClosed)
	}
	if err := f.apply(d); err != nil {
		return fmt.Errorf("device %s: %w", f.cfg.Name, err)
	}
	return nil
}

func (f *Fake) apply(d wg.Delta) error {
	if d.Device != nil {
		if err := f.setDevice(*d.Device); err != nil {
			return err
		}
	}
	for _, p := range d.SetPeers {
		if err := f.setPeer(p); err != nil {
			return err
		}
	}
	for _, a := range d.Allow {
		if err := f.allow(a); err != nil {
			return err
		}
	}
	for _, a := range d.Disallow {
		if f.owner[a.Prefix] != a.Peer || a.Peer.IsZero() {
			continue
		}
		if err := f.change("%s allowed-ips -%s", f.label(a.Peer), a.Prefix); err != nil {
			return err
		}
		delete(f.owner, a.Prefix)
	}
	for _, k := range d.RemovePeers {
		if f.peers[k] == nil {
			continue
		}
		if err := f.change("%s remove", f.label(k)); err != nil {
			return err
		}
		f.forget(k)
	}
	return nil
}

func (f *Fake) setDevice(c wg.DeviceConfig) error {
	var words []string
	if !c.PrivateKey.Equal(f.cfg.PrivateKey) {
		words = append(words, "private-key "+c.PrivateKey.String())
	}
	if c.ListenPort != 0 && c.ListenPort != f.cfg.ListenPort {
		words = append(words, fmt.Sprintf("listen-port %d", c.ListenPort))
	}
	if c.FirewallMark != f.cfg.FirewallMark {
		words = append(words, fmt.Sprintf("fwmark %#x", c.FirewallMark))
	}
	if len(words) == 0 {
		return nil
	}
	if err := f.change("%s", strings.Join(words, " ")); err != nil {
		return err
	}
	if c.ListenPort == 0 {
		c.ListenPort = f.cfg.ListenPort
	}
	c.Name, c.MTU = f.cfg.Name, f.cfg.MTU
	f.cfg = c
	f.forget(c.PrivateKey.Public()) // a device cannot be its own peer
	return nil
}

func (f *Fake) setPeer(p wg.PeerConfig) error {
	if p.PublicKey == f.cfg.PrivateKey.Public() {
		return nil // the kernel skips it silently too
	}
	old, words := f.peers[p.PublicKey], []string(nil)
	if old == nil {
		old = &fakePeer{stats: wg.PeerStats{PublicKey: p.PublicKey}}
		words = append(words, "")
	}
	if !p.PresharedKey.Equal(old.cfg.PresharedKey) {
		words = append(words, " preshared-key "+cmp.Or(p.PresharedKey.String(), "(none)"))
	}
	if p.Endpoint.IsValid() && p.Endpoint != old.stats.Endpoint {
		words = append(words, " endpoint "+p.Endpoint.String())
	}
	if p.PersistentKeepalive != old.cfg.PersistentKeepalive {
		words = append(words, fmt.Sprintf(" persistent-keepalive %d", p.PersistentKeepalive/time.Second))
	}
	if len(words) > 0 {
		name := "peer " + cmp.Or(p.Name, p.PublicKey.String())
		if err := f.change("%s%s", name, strings.Join(words, "")); err != nil {
			return err
		}
	}
	if p.Endpoint.IsValid() {
		old.stats.Endpoint = p.Endpoint
	}
	old.cfg = p
	f.peers[p.PublicKey] = old
	return nil
}

func (f *Fake) allow(a wg.AllowedIP) error {
	if f.peers[a.Peer] == nil {
		return fmt.Errorf("peer %s: allowed-IP %s: %w", a.Peer, a.Prefix, wg.ErrNoPeer)
	}
	old, moved := f.owner[a.Prefix]
	if moved && old == a.Peer {
		return nil
	}
	from := ""
	if moved {
		from = " # from " + f.label(old)
	}
	if err := f.change("%s allowed-ips +%s%s", f.label(a.Peer), a.Prefix, from); err != nil {
		return err
	}
	f.owner[a.Prefix] = a.Peer
	return nil
}

func (f *Fake) forget(k wg.PublicKey) {
	delete(f.peers, k)
	for p, owner := range f.owner {
		if owner == k {
			delete(f.owner, p)
		}
	}
}

// change writes down one change, unless the injected failure refuses it.
func (f *Fake) change(format string, args ...any) error {
	line := "wg set " + f.cfg.Name + " " + fmt.Sprintf(format, args...)
	if f.fail != nil {
		if err := f.fail(line); err != nil {
			return err
		}
	}
	f.journal = append(f.journal, line)
	return nil
}

func (f *Fake) label(k wg.PublicKey) string {
	if p := f.peers[k]; p != nil && p.cfg.Name != "" {
		return "peer " + p.cfg.Name
	}
	return "peer " + k.String()
}

// Stats implements wg.Device; peers come in the order of their keys.
func (f *Fake) Stats(ctx context.Context) ([]wg.PeerStats, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.usable(ctx); err != nil {
		return nil, err
	}
	out := make([]wg.PeerStats, 0, len(f.peers))
	for _, p := range f.peers {
		out = append(out, p.stats)
	}
	slices.SortFunc(out, func(a, b wg.PeerStats) int { return bytes.Compare(a.PublicKey[:], b.PublicKey[:]) })
	return out, nil
}

// AllowedIPs implements wg.Device, sorted by prefix.
func (f *Fake) AllowedIPs(ctx context.Context) ([]wg.AllowedIP, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.usable(ctx); err != nil {
		return nil, err
	}
	out := make([]wg.AllowedIP, 0, len(f.owner))
	for p, k := range f.owner {
		out = append(out, wg.AllowedIP{Prefix: p, Peer: k})
	}
	slices.SortFunc(out, func(a, b wg.AllowedIP) int { return a.Prefix.Compare(b.Prefix) })
	return out, nil
}

func (f *Fake) usable(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if f.closed {
		return fmt.Errorf("device %s: %w", f.cfg.Name, wg.ErrClosed)
	}
	return nil
}

// Close implements wg.Device. The state stays readable through Owner, Journal and String.
func (f *Fake) Close(remove bool) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.closed {
		return nil
	}
	f.closed, f.removed = true, remove
	if remove {
		f.journal = append(f.journal, "ip link del "+f.cfg.Name)
	}
	return nil
}

// String prints the state in the shape of `wg show NAME allowed-ips`, peers by name and prefixes in order.
func (f *Fake) String() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	var lines []string
	for k := range f.peers {
		var own []netip.Prefix
		for p, owner := range f.owner {
			if owner == k {
				own = append(own, p)
			}
		}
		slices.SortFunc(own, netip.Prefix.Compare)
		list := strings.Trim(fmt.Sprint(own), "[]")
		lines = append(lines, f.label(k)+": "+cmp.Or(list, "(none)"))
	}
	slices.Sort(lines)
	return strings.Join(lines, "\n")
}
