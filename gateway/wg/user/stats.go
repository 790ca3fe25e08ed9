package user

import (
	"fmt"
	"net/netip"
	"reflect"
	"sync"
	"sync/atomic"
	"time"
	"unsafe"

	"golang.zx2c4.com/wireguard/conn"
	"golang.zx2c4.com/wireguard/device"

	"sitewire/gateway/wg"
)

// accessor reads counters out of wireguard-go, whose only public way is a text of everything, allowed-IPs and private key
// included: 26 MB and 0.3 s at a million entries, under locks that traffic needs. It knows the few fields by name and
// type, checks both once, and is not used if the library's layout is another one. It also exchanges the pool of buffers.
type accessor struct {
	peersLock, peersMap, allowed, buffers uintptr // in device.Device
	rx, tx, handshake                     uintptr // in device.Peer
	endpointLock, endpointVal             uintptr
}

// newAccessor fails if a field is missing or of another type than it was.
func newAccessor() (*accessor, error) {
	var (
		a   accessor
		dev = reflect.TypeFor[device.Device]()
		p   = reflect.TypeFor[device.Peer]()
	)
	for _, f := range []struct {
		to   *uintptr
		in   reflect.Type
		path []string
		want reflect.Type
	}{
		{&a.peersLock, dev, []string{"peers", "RWMutex"}, reflect.TypeFor[sync.RWMutex]()},
		{&a.peersMap, dev, []string{"peers", "keyMap"}, reflect.TypeFor[map[device.NoisePublicKey]*device.Peer]()},
		{&a.allowed, dev, []string{"allowedips"}, reflect.TypeFor[device.AllowedIPs]()},
		{&a.buffers, dev, []string{"pool", "messageBuffers"}, reflect.TypeFor[*device.WaitPool]()},
		{&a.rx, p, []string{"rxBytes"}, reflect.TypeFor[atomic.Uint64]()},
		{&a.tx, p, []string{"txBytes"}, reflect.TypeFor[atomic.Uint64]()},
		{&a.handshake, p, []string{"lastHandshakeNano"}, reflect.TypeFor[atomic.Int64]()},
		{&a.endpointLock, p, []string{"endpoint", "Mutex"}, reflect.TypeFor[sync.Mutex]()},
		{&a.endpointVal, p, []string{"endpoint", "val"}, reflect.TypeFor[conn.Endpoint]()},
	} {
		at, offset := f.in, uintptr(0)
		for _, name := range f.path {
			if at.Kind() != reflect.Struct {
				return nil, fmt.Errorf("wireguard-go: %s of %s is inside a %s", name, f.in, at)
			}
			field, ok := at.FieldByName(name)
			if !ok {
				return nil, fmt.Errorf("wireguard-go: %s has no field %s", at, name)
			}
			at, offset = field.Type, offset+field.Offset
		}
		if at != f.want {
			return nil, fmt.Errorf("wireguard-go: %v of %s is a %s, not a %s", f.path, f.in, at, f.want)
		}
		*f.to = offset
	}
	return &a, nil
}

// field returns the field at an offset that newAccessor found for this type.
func field[F, S any](s *S, offset uintptr) *F { return (*F)(unsafe.Add(unsafe.Pointer(s), offset)) }

// peers returns the present peers. The library's lock is held only to copy the map.
func (a *accessor) peers(d *device.Device) map[wg.PublicKey]*device.Peer {
	lock := field[sync.RWMutex](d, a.peersLock)
	lock.RLock()
	defer lock.RUnlock()
	all := *field[map[device.NoisePublicKey]*device.Peer](d, a.peersMap)
	out := make(map[wg.PublicKey]*device.Peer, len(all))
	for k, p := range all {
		out[wg.PublicKey(k)] = p
	}
	return out
}

// exchangeBuffers gives a device that is not at work yet another pool of message buffers.
func (a *accessor) exchangeBuffers(d *device.Device) {
	*field[*device.WaitPool](d, a.buffers) = newBuffers()
}

func (a *accessor) stats(k wg.PublicKey, p *device.Peer) wg.PeerStats {
	s := wg.PeerStats{
		PublicKey:     k,
		ReceiveBytes:  field[atomic.Uint64](p, a.rx).Load(),
		TransmitBytes: field[atomic.Uint64](p, a.tx).Load(),
	}
	if nano := field[atomic.Int64](p, a.handshake).Load(); nano != 0 {
		s.LastHandshake = time.Unix(0, nano)
	}
	lock := field[sync.Mutex](p, a.endpointLock)
	lock.Lock()
	endpoint := *field[conn.Endpoint](p, a.endpointVal)
	lock.Unlock()
	if e, ok := endpoint.(*Endpoint); ok {
		s.Endpoint = e.dst
	}
	return s
}

func (a *accessor) allowedIPs(d *device.Device) (out []wg.AllowedIP) {
	table := field[device.AllowedIPs](d, a.allowed)
	for k, p := range a.peers(d) {
		table.EntriesForPeer(p, func(prefix netip.Prefix) bool {
			out = append(out, wg.AllowedIP{Prefix: prefix, Peer: k})
			return true
		})
	}
	return out
}
