// Package wg says what the gateway asks of a WireGuard device.
//
// Job: keys, the description of a device and its peers, deltas, statistics, and the Device interface.
// Owner: nobody; these are plain values. Each Device guards its own state.
// Inputs: the validated configuration and the route syncer's allowed-IP operations.
// Outputs: PeerStats and allowed-IP listings.
// Invariants: standard library only; a Secret never prints; allowed-IPs change by delta, never by replacing a list.
package wg

import (
	"context"
	"net/netip"
	"time"
)

// Protocol constants of the WireGuard paper, section 6.1.
const (
	// RekeyAfterTime is the age at which an initiator makes a new handshake, if it has something to send.
	RekeyAfterTime = 120 * time.Second
	// RejectAfterTime is the age after which a session carries nothing: a tunnel whose last handshake is older is dead.
	RejectAfterTime = 180 * time.Second
)

// DeviceConfig describes a device without its peers.
type DeviceConfig struct {
	// Name of the interface, at most 15 bytes (IFNAMSIZ - 1).
	Name string
	// PrivateKey of the device. Changing it on a live device ends its sessions.
	PrivateKey Secret
	// ListenPort is the UDP port; 0 lets the kernel choose one.
	ListenPort uint16
	// FirewallMark is the SO_MARK of the encrypted packets; 0 is none.
	FirewallMark uint32
	// MTU of the interface in bytes.
	MTU int
}

// PeerConfig describes one peer of a device.
type PeerConfig struct {
	// Name as configured: the `peer` label everywhere. The device itself knows only the key.
	Name         string
	PublicKey    PublicKey
	PresharedKey Secret // zero: none
	// Endpoint to send to. The zero value leaves the present (perhaps roamed) one.
	Endpoint netip.AddrPort
	// PersistentKeepalive interval in whole seconds; 0 is off.
	PersistentKeepalive time.Duration
}

// AllowedIP is a prefix and the one peer of a device that owns it.
type AllowedIP struct {
	Prefix netip.Prefix
	Peer   PublicKey
}

// Delta is a change of a device. It is applied in the order of its fields, and every part is idempotent.
type Delta struct {
	// Device changes the device's own settings if not nil. Name and MTU are not read.
	Device *DeviceConfig
	// SetPeers adds peers, or updates peers that exist, and leaves their allowed-IPs alone.
	SetPeers []PeerConfig
	// Allow gives prefixes to peers. A prefix that another peer of the device owns moves, without a gap.
	Allow []AllowedIP
	// Disallow takes prefixes from peers. A prefix that the peer does not own is left alone.
	Disallow []AllowedIP
	// RemovePeers removes peers with all that they own.
	RemovePeers []PublicKey
}

// PeerStats is what a device knows of a peer now.
type PeerStats struct {
	PublicKey     PublicKey
	Endpoint      netip.AddrPort
	LastHandshake time.Time // zero: never
	// ReceiveBytes and TransmitBytes include WireGuard's own overhead.
	ReceiveBytes, TransmitBytes uint64
}

// Device is a WireGuard interface. Its methods may be called from any goroutine.
type Device interface {
	// Name of the interface.
	Name() string
	// Apply makes one change. On error a part of it may be in place; applying it again is safe. It keeps none of the slices of d.
	Apply(ctx context.Context, d Delta) error
	// Stats returns one entry for each peer. It does not read allowed-IPs where the device permits that.
	Stats(ctx context.Context) ([]PeerStats, error)
	// AllowedIPs returns everything that every peer owns, sorted by nothing.
	AllowedIPs(ctx context.Context) ([]AllowedIP, error)
	// Close releases the device. With remove the interface disappears; without, a kernel device stays
	// (a userspace device cannot outlive its process and always disappears).
	Close(remove bool) error
}

// Opener creates or adopts the device that cfg describes. It leaves the link down and without addresses.
type Opener func(ctx context.Context, cfg DeviceConfig) (Device, error)

// As finds in a device, or in the devices that it wraps, one that also is a T: an interface with what only some devices can do. A
// device that wraps another one has a method Unwrap() Device.
func As[T any](d Device) (T, bool) {
	for d != nil {
		if t, ok := d.(T); ok {
			return t, true
		}
		w, ok := d.(interface{ Unwrap() Device })
		if !ok {
			break
		}
		d = w.Unwrap()
	}
	var none T
	return none, false
}
