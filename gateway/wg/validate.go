package wg

import (
	"errors"
	"fmt"
	"math"
	"net/netip"
	"time"
)

// maxNameLen is IFNAMSIZ - 1.
const maxNameLen = 15

// Validate reports the first thing that no device could accept. It does not print secrets.
func (c DeviceConfig) Validate() error {
	if c.Name == "" || len(c.Name) > maxNameLen {
		return fmt.Errorf("device name %q: want 1 to %d bytes", c.Name, maxNameLen)
	}
	for _, r := range []byte(c.Name) {
		if r == '/' || r == ':' || r == '%' || r <= ' ' || r > '~' {
			return fmt.Errorf("device name %q: byte %q is not allowed", c.Name, r)
		}
	}
	if c.Name == "." || c.Name == ".." {
		return fmt.Errorf("device name %q: not a file name", c.Name)
	}
	if c.PrivateKey.IsZero() {
		return fmt.Errorf("device %s: no private key", c.Name)
	}
	return nil
}

// Validate reports the first entry that no device could accept, so that a driver without transactions can refuse
// a delta before it changes anything.
func (d Delta) Validate() error {
	if d.Device != nil && d.Device.PrivateKey.IsZero() {
		return errors.New("device: no private key")
	}
	for _, p := range d.SetPeers {
		if err := p.validate(); err != nil {
			return fmt.Errorf("peer %s: %w", p.PublicKey, err)
		}
	}
	for _, list := range [][]AllowedIP{d.Allow, d.Disallow} {
		for _, a := range list {
			if err := validPrefix(a.Prefix); err != nil {
				return fmt.Errorf("peer %s: %w", a.Peer, err)
			}
		}
	}
	return nil
}

func (p PeerConfig) validate() error {
	switch k := p.PersistentKeepalive; {
	case p.PublicKey.IsZero():
		return errors.New("no public key")
	case k < 0 || k > math.MaxUint16*time.Second || k%time.Second != 0:
		return fmt.Errorf("persistent keepalive %s: want whole seconds up to %d", k, math.MaxUint16)
	case p.Endpoint != netip.AddrPort{} && (!p.Endpoint.IsValid() || p.Endpoint.Port() == 0):
		return fmt.Errorf("endpoint %s: want an address and a port", p.Endpoint)
	}
	return nil
}

func validPrefix(p netip.Prefix) error {
	switch {
	case !p.IsValid():
		return errors.New("allowed-IP: invalid prefix")
	case p.Addr().Is4In6():
		return fmt.Errorf("allowed-IP %s: IPv4-mapped", p)
	case p != p.Masked():
		return fmt.Errorf("allowed-IP %s: bits set beyond the prefix length", p)
	}
	return nil
}
