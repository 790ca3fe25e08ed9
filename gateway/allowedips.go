package gateway

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"sitewire/gateway/wg"
	"sitewire/routes"
)

// tunnelIndex finds a device and a key by name, and a name by key. Immutable.
type tunnelIndex struct {
	devices map[string]wg.Device
	keys    map[peerOnDevice]wg.PublicKey
	names   map[keyOnDevice]string
	// remade counts devices and peers that came back without their allowed-IPs.
	remade uint64
	// lasting says that there are devices and that all go on without this process. Left are peers that are about to go.
	lasting bool
	left    map[keyOnDevice]bool
}

func newTunnelIndex(t *tunnels) *tunnelIndex {
	ix := &tunnelIndex{
		devices: map[string]wg.Device{}, keys: map[peerOnDevice]wg.PublicKey{}, names: map[keyOnDevice]string{}, remade: t.remade,
		lasting: len(t.devices) > 0, left: maps.Clone(t.left.peers),
	}
	for name, d := range t.devices {
		ix.lasting = ix.lasting && d.lasting
		if d.dev != nil {
			ix.devices[name] = d.dev
		}
		for _, pn := range slices.Sorted(maps.Keys(d.peers)) { // of two with one key, always the same has it
			key := d.peers[pn].spec.PublicKey
			ix.keys[peerOnDevice{name, pn}] = key
			ix.names[keyOnDevice{name, key}] = pn
		}
	}
	return ix
}

// matches reports whether the index is the one that newTunnelIndex would make, which is so at nearly every poll.
func (ix *tunnelIndex) matches(t *tunnels) bool {
	devices, peers := 0, 0
	for name, d := range t.devices {
		if d.dev != nil {
			devices++
			if ix.devices[name] != d.dev {
				return false
			}
		}
		for pn, p := range d.peers {
			peers++
			key := p.spec.PublicKey
			if ix.keys[peerOnDevice{name, pn}] != key || ix.names[keyOnDevice{name, key}] != pn {
				return false
			}
		}
	}
	return ix.remade == t.remade && devices == len(ix.devices) && peers == len(ix.keys)
}

type (
	peerOnDevice struct{ device, peer string }
	keyOnDevice  struct {
		device string
		key    wg.PublicKey
	}
)

// Write implements routes.Tunnels.
func (t *tunnels) Write(ctx context.Context, ops []routes.Op) []error {
	errs := make([]error, len(ops))
	ix := t.index.Load()
	for start := 0; start < len(ops); {
		first := ops[start]
		end := start + 1
		for end < len(ops) && ops[end].Kind == first.Kind && ops[end].Allowed.Device == first.Allowed.Device {
			end++
		}
		ix.write(ctx, ops[start:end], errs[start:end])
		start = end
	}
	return errs
}

// rooms are for lists of allowed-IPs: a table comes in as hundreds of long ones.
var rooms = sync.Pool{New: func() any { return new([]wg.AllowedIP) }}

// write runs operations of one kind on one device.
func (ix *tunnelIndex) write(ctx context.Context, ops []routes.Op, errs []error) {
	name := ops[0].Allowed.Device
	dev, ok := ix.devices[name]
	if !ok {
		for i := range errs {
			errs[i] = fmt.Errorf("device %s is not there", name)
		}
		return
	}
	room := rooms.Get().(*[]wg.AllowedIP)
	defer rooms.Put(room)
	list := (*room)[:0]
	var peer string
	var key wg.PublicKey
	ok = false
	for i := range ops {
		op := &ops[i]
		if i == 0 || op.Allowed.Peer != peer { // most are of the same
			peer = op.Allowed.Peer
			key, ok = ix.keys[peerOnDevice{name, peer}]
		}
		if !ok {
			if op.Kind == routes.Allow {
				errs[i] = fmt.Errorf("device %s has no peer %s", name, op.Allowed.Peer)
			} // a peer that is gone owns nothing: disallowed already
			continue
		}
		list = append(list, wg.AllowedIP{Prefix: op.Allowed.Prefix, Peer: key})
	}
	*room = list
	delta := wg.Delta{Allow: list}
	if ops[0].Kind == routes.Disallow {
		delta = wg.Delta{Disallow: list}
	}
	if err := dev.Apply(ctx, delta); err != nil {
		for i := range errs {
			if errs[i] == nil {
				errs[i] = onDevice(name, err)
			}
		}
	}
}

// exactTimeout bounds asking a device what it can do.
const exactTimeout = time.Second

// Exact implements routes.Exact.
func (t *tunnels) Exact(device string) bool {
	type remover interface {
		RemovesEntries(ctx context.Context) (bool, error)
	}
	dev, ok := t.index.Load().devices[device]
	if !ok {
		return false
	}
	r, ok := wg.As[remover](dev)
	if !ok {
		return true
	}
	ctx, cancel := context.WithTimeout(context.Background(), exactTimeout)
	defer cancel()
	exact, err := r.RemovesEntries(ctx)
	return exact && err == nil // after an error it is asked again with the next change
}

// List implements routes.Tunnels.
func (t *tunnels) List(ctx context.Context) ([]routes.AllowedIP, error) {
	ix := t.index.Load()
	var out []routes.AllowedIP
	for name, dev := range ix.devices {
		ips, err := dev.AllowedIPs(ctx)
		if err != nil {
			return nil, onDevice(name, err)
		}
		for _, ip := range ips {
			at := keyOnDevice{name, ip.Peer}
			owner, ok := ix.names[at]
			if !ok && ix.left[at] {
				continue
			}
			if !ok {
				owner = ip.Peer.String()
			}
			out = append(out, routes.AllowedIP{Device: name, Prefix: ip.Prefix, Peer: owner})
		}
	}
	return out, nil
}
