package kernel

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net/netip"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"sitewire/gateway/wg"
)

// Apply implements wg.Device.
func (d *Device) Apply(ctx context.Context, delta wg.Delta) error {
	if err := delta.Validate(); err != nil {
		return fmt.Errorf("device %s: %w", d.name, err)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := d.usable(ctx); err != nil {
		return err
	}
	if delta.Device != nil {
		if err := d.setSettings(*delta.Device); err != nil {
			return err
		}
	}
	if err := d.setPeers(ctx, delta.SetPeers); err != nil {
		return err
	}
	if err := d.allow(ctx, delta.Allow); err != nil {
		return err
	}
	if err := d.disallow(ctx, delta.Disallow); err != nil {
		return err
	}
	return d.removePeers(ctx, delta.RemovePeers)
}

// send hands the message over. On failure a part of it may be in place, so that what we know of the device is read anew.
func (d *Device) send(doing string) error {
	err := d.talk.set(d.msg.bytes())
	d.msg.reset(d.index)
	if err != nil {
		d.ledger = nil
		clear(d.peers)
		d.stats.forget()
		return d.failed(doing, err)
	}
	return nil
}

// room sends the message if n more bytes do not fit.
func (d *Device) room(ctx context.Context, n int, doing string) error {
	if d.msg.fits(n) {
		return nil
	}
	if err := d.send(doing); err != nil {
		return err
	}
	return d.usable(ctx)
}

func (d *Device) setSettings(c wg.DeviceConfig) error {
	d.msg.reset(d.index)
	d.msg.settings(c)
	if err := d.send("private key, port and mark"); err != nil {
		return err
	}
	d.public = c.PrivateKey.Public()
	d.forget(d.public) // a device cannot be its own peer
	d.stats.forget()
	return nil
}

// forget notes that a peer is gone.
func (d *Device) forget(k wg.PublicKey) {
	delete(d.peers, k)
	if d.ledger != nil {
		d.ledger.removePeer(k)
	}
}

func (d *Device) setPeers(ctx context.Context, peers []wg.PeerConfig) error {
	if len(peers) == 0 {
		return nil
	}
	const doing = "set peers"
	scopes := make([]uint32, len(peers))
	for i, p := range peers {
		if zone := p.Endpoint.Addr().Zone(); zone != "" {
			var err error
			if scopes[i], err = d.links.scope(zone); err != nil {
				return d.failed("peer "+p.PublicKey.String(), err)
			}
		}
	}
	defer d.stats.forget()
	d.msg.reset(d.index)
	for i, p := range peers {
		if err := d.room(ctx, peerSize, doing); err != nil {
			return err
		}
		d.msg.setPeer(p, scopes[i])
		if p.PublicKey != d.public { // which the kernel skips silently
			d.peers[p.PublicKey] = true
		}
	}
	return d.send(doing)
}

func (d *Device) removePeers(ctx context.Context, keys []wg.PublicKey) error {
	if len(keys) == 0 {
		return nil
	}
	const doing = "remove peers"
	defer d.stats.forget()
	d.msg.reset(d.index)
	for _, k := range keys {
		if err := d.room(ctx, peerHead, doing); err != nil {
			return err
		}
		d.msg.beginPeer(k, peerUpdateOnly|peerRemove)
		d.forget(k)
	}
	return d.send(doing)
}

// allow gives prefixes to peers. The kernel ignores those of a peer that it does not have, and the route that follows would lead nowhere, so
// that a peer unknown to us is looked for.
func (d *Device) allow(ctx context.Context, list []wg.AllowedIP) error {
	looked := false
	for i, a := range list {
		if i > 0 && a.Peer == list[i-1].Peer || d.peers[a.Peer] {
			continue
		}
		if !looked {
			looked = true
			if _, err := d.readAll(ctx, false); err != nil {
				return d.failed("look for peer "+a.Peer.String(), err)
			}
		}
		if !d.peers[a.Peer] {
			return fmt.Errorf("device %s: peer %s: allowed-IP %s: %w", d.name, a.Peer, a.Prefix, wg.ErrNoPeer)
		}
	}
	if err := d.entries(ctx, list, 0, "allow"); err != nil {
		return err
	}
	if d.ledger != nil {
		for _, a := range list {
			d.ledger.set(a)
		}
	}
	return nil
}

// entries writes allowed-IPs in their order, each run of one peer in one piece.
func (d *Device) entries(ctx context.Context, list []wg.AllowedIP, flags uint32, doing string) error {
	if len(list) == 0 {
		return nil
	}
	d.msg.reset(d.index)
	for _, a := range list {
		if !d.msg.fits(peerHead + allowedSize) { // the text below costs more than the entry
			if err := d.room(ctx, peerHead+allowedSize, doing+" "+a.Prefix.String()+" and those before it"); err != nil {
				return err
			}
		}
		if d.msg.peer == 0 || d.msg.key != a.Peer {
			d.msg.beginPeer(a.Peer, peerUpdateOnly)
		}
		d.msg.addAllowed(a.Prefix, flags)
	}
	return d.send(fmt.Sprintf("%s %d prefixes", doing, len(list)))
}

// disallow takes prefixes from peers that own them.
func (d *Device) disallow(ctx context.Context, list []wg.AllowedIP) error {
	if len(list) == 0 {
		return nil
	}
	single, err := d.known.removesEntries(d)
	if err != nil {
		return d.failed("find out whether the kernel removes single allowed-IPs", err)
	}
	if single {
		return d.entries(ctx, list, allowedRemove, "disallow")
	}
	if d.ledger == nil || d.read.due(d.now()) {
		owned, err := d.readAllowed(ctx)
		if err != nil {
			return d.failed("read who owns the prefixes to disallow", err)
		}
		if d.ledger == nil {
			d.ledger = newLedger(owned)
		}
	}
	return d.park(ctx, list)
}

// park moves prefixes to a throw-away peer and removes it with them, both in one message; see the package comment.
func (d *Device) park(ctx context.Context, list []wg.AllowedIP) error {
	for len(list) > 0 {
		if err := d.usable(ctx); err != nil {
			return err
		}
		key := parkingKey()
		d.msg.reset(d.index)
		d.msg.beginPeer(key, 0)
		var parked []netip.Prefix
		for ; len(list) > 0 && d.msg.fits(allowedSize+peerHead); list = list[1:] {
			if a := list[0]; d.ledger.owns(a) {
				d.msg.addAllowed(a.Prefix, 0)
				parked = append(parked, a.Prefix)
			}
		}
		if len(parked) == 0 {
			continue
		}
		d.msg.beginPeer(key, peerRemove)
		if err := d.send(fmt.Sprintf("disallow %d prefixes", len(parked))); err != nil {
			return errors.Join(err, d.unpark(key))
		}
		for _, p := range parked {
			d.ledger.remove(p)
		}
	}
	return nil
}

// unpark removes a throw-away peer that a message which failed may have left.
func (d *Device) unpark(key wg.PublicKey) error {
	d.msg.reset(d.index)
	d.msg.beginPeer(key, peerUpdateOnly|peerRemove)
	if err := d.send("remove the throw-away peer " + key.String()); err != nil && !errors.Is(err, wg.ErrClosed) {
		return err
	}
	return nil
}

// parkingKey makes the key of a throw-away peer.
func parkingKey() (k wg.PublicKey) {
	_, _ = rand.Read(k[copy(k[:], parkingMark):]) // never fails (crypto/rand)
	return k
}

// capability is what was found out about the kernel, once for all devices of an Opener, and how many these are.
type capability struct {
	devices atomic.Int64
	mu      sync.Mutex
	asked   bool
	removes bool
}

// removesEntries asks the kernel to take from a throw-away peer a prefix that it does not own: a no-operation for those that know
// WGALLOWEDIP_F_REMOVE_ME, an invalid argument for those that do not. Other peers are not in the request.
func (c *capability) removesEntries(d *Device) (bool, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.asked {
		return c.removes, nil
	}
	key := parkingKey()
	d.msg.reset(d.index)
	d.msg.beginPeer(key, 0)
	d.msg.addAllowed(netip.PrefixFrom(netip.IPv4Unspecified(), 32), allowedRemove)
	d.msg.beginPeer(key, peerRemove)
	err := d.talk.set(d.msg.bytes())
	if err != nil {
		if cleanup := d.unpark(key); cleanup != nil {
			return false, errors.Join(err, cleanup)
		}
		if !errors.Is(err, unix.EINVAL) {
			return false, err
		}
	}
	c.asked, c.removes = true, err == nil
	return c.removes, nil
}

// RemovesEntries tells whether the kernel takes single allowed-IPs away. Otherwise packets for one that is parked are lost for a
// moment, also where a shorter one would take them.
func (d *Device) RemovesEntries(ctx context.Context) (bool, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := d.usable(ctx); err != nil {
		return false, err
	}
	return d.known.removesEntries(d)
}
