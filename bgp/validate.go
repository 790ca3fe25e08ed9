package bgp

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"sitewire/bgp/policy"
)

// Limits of timers. GoBGP keeps whole seconds; 1 and 2 are no hold times (RFC 4271 section 4.2).
const (
	minHoldTime     = 3 * time.Second
	maxHoldTime     = 65535 * time.Second
	minConnectRetry = 2 * time.Second
)

// Validate returns everything that the speaker would not do as written, joined. It knows what GoBGP cannot tell
// apart, and what it silently ignores or panics at.
func Validate(c Config) error {
	var errs []error
	fail := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	if c.ASN == 0 || c.ASN == 23456 {
		fail("asn %d: is not an ASN of one's own (RFC 7607, RFC 6793)", c.ASN)
	}
	if !c.RouterID.Is4() || c.RouterID.IsUnspecified() {
		fail("router_id: want an IPv4 address other than 0.0.0.0 (RFC 6286)")
	}
	if c.ListenPort < -1 || c.ListenPort > 65535 {
		fail("listen port %d: want 1 to 65535, or -1 for none", c.ListenPort)
	}
	for _, a := range c.ListenAddresses {
		if !a.IsValid() || a.Is4In6() {
			fail("listen address %v: is not an address", a)
		}
	}
	if c.DeferralTime < 0 || c.DeferralTime > 3600*time.Second || c.RestartTime < 0 || c.RestartTime > 4095*time.Second {
		fail("graceful restart: the restart time is at most 4095 s (RFC 4724), the deferral time 3600 s")
	}
	seen := map[netip.Prefix]bool{}
	for _, a := range c.Announce {
		switch {
		case !a.Prefix.IsValid() || a.Prefix.Addr().Is4In6() || a.Prefix != a.Prefix.Masked():
			fail("announce %v: is not a prefix without host bits", a.Prefix)
		case seen[a.Prefix]:
			fail("announce %v: is there twice", a.Prefix)
		}
		seen[a.Prefix] = true
		for _, s := range a.Communities {
			if _, err := policy.ParseCommunity(s); err != nil {
				fail("announce %v: %w", a.Prefix, err)
			}
		}
	}
	for _, o := range c.Own {
		if !o.IsValid() || o.Addr().Is4In6() || o != o.Masked() {
			fail("own prefix %v: is not a prefix without host bits", o)
		}
	}
	if slices.ContainsFunc(c.Endpoints, func(a netip.Addr) bool { return !a.IsValid() }) {
		fail("endpoints: an address is missing")
	}
	names, addrs := map[string]bool{}, map[netip.Addr]string{}
	bare := map[netip.Addr]*Neighbour{}
	for i := range c.Neighbours {
		n := &c.Neighbours[i]
		if names[n.Name] {
			fail("neighbour %s: the name is taken", n.Name)
		}
		names[n.Name] = true
		if err := validateNeighbour(c, n); err != nil {
			fail("neighbour %s: %w", n.Name, err)
			continue
		}
		if other, ok := addrs[n.Address]; ok {
			fail("neighbours %s and %s: have the same address %v", other, n.Name, n.Address)
			continue
		}
		addrs[n.Address] = n.Name
		key := n.Address.WithZone("")
		if other := bare[key]; other != nil {
			if err := validatePair(c, other, n); err != nil {
				fail("neighbours %s and %s share %v on two devices, which GoBGP cannot tell apart in policies: %w; give one of them another address", other.Name, n.Name, key, err)
			}
		}
		bare[key] = n
	}
	if len(errs) > 0 {
		return errors.Join(errs...)
	}
	_, err := compile(members(c, nil), c.Own, c.Endpoints, false)
	return err
}

func validateNeighbour(c Config, n *Neighbour) error {
	var errs []error
	fail := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	a := n.Address
	switch {
	case n.Name == "":
		fail("the name is empty")
	case !a.IsValid() || a.Is4In6() || a.IsUnspecified() || a.IsMulticast():
		fail("%v is not the address of a neighbour", a)
	case a.IsLinkLocalUnicast() && a.Is6() && a.Zone() == "":
		fail("%v is link-local and needs a device, as in %v%%wg0", a, a)
	case a.Zone() != "" && !a.IsLinkLocalUnicast():
		fail("%v: only a link-local address has a device", a)
	}
	if n.ASN == 0 || n.ASN == 23456 {
		fail("asn %d: is not a neighbour's ASN", n.ASN)
	}
	if l := n.LocalAddress; l.IsValid() && (l.Is4() != a.Is4() || l.Is4In6()) {
		fail("local address %v and remote address %v are of two families", l, a)
	}
	for _, p := range []struct {
		what string
		addr netip.Addr
		is4  bool
	}{{"local IPv4", n.LocalIPv4, true}, {"remote IPv4", n.RemoteIPv4, true}, {"local IPv6", n.LocalIPv6, false}, {"remote IPv6", n.RemoteIPv6, false}} {
		if p.addr.IsValid() && (p.addr.Is4() != p.is4 || p.addr.Is4In6() || p.addr.IsUnspecified()) {
			fail("%s address %v: is none", p.what, p.addr)
		}
	}
	if !n.IPv4 && !n.IPv6 {
		fail("offers neither IPv4 nor IPv6")
	}
	if h := n.HoldTime; h != 0 && (h < minHoldTime || h > maxHoldTime || h%time.Second != 0) {
		fail("hold time %v: want whole seconds, at least %v (RFC 4271 section 4.2)", h, minHoldTime)
	}
	if h := n.SendHoldTime; h != 0 && h != SendHoldOff && h < time.Second {
		fail("send hold time %v: want at least a second, or SendHoldOff", h)
	}
	if k := n.Keepalive; k != 0 && (k < time.Second || k%time.Second != 0 || k >= holdTime(n)) {
		fail("keepalive %v: want whole seconds, less than the hold time", k)
	}
	if r := n.ConnectRetry; r != 0 && (r < minConnectRetry || r%time.Second != 0 || r > time.Hour) {
		fail("connect retry %v: want whole seconds, at least %v", r, minConnectRetry)
	}
	internal := n.ASN == localASN(c, n)
	if n.RouteReflectorClient && !internal {
		fail("a route reflector client has our own ASN")
	}
	if n.Multihop > 0 && internal {
		fail("multihop is for eBGP: iBGP sessions have no TTL limit")
	}
	if n.Multihop > 0 && a.IsLinkLocalUnicast() {
		fail("%v is link-local: there is only one hop to it", a)
	}
	if n.BFD.On() {
		if err := bfdConfig(*n).Validate(); err != nil {
			errs = append(errs, err)
		}
		if n.Multihop > 0 {
			fail("BFD is for neighbours one hop away (RFC 5881), and this one has multihop")
		}
	}
	if len(n.Password) > 80 {
		fail("password: at most 80 bytes (TCP_MD5SIG_MAXKEYLEN)")
	}
	if n.Policy != nil {
		if err := n.Policy.Validate(); err != nil {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// validatePair checks two neighbours with the same address on two devices.
func validatePair(c Config, a, b *Neighbour) error {
	switch {
	case a.Password != b.Password:
		return errors.New("their TCP MD5 passwords differ, and the kernel keeps one for the address")
	case !equalPolicy(a.Policy, b.Policy):
		return errors.New("their policies differ")
	case (a.ASN == localASN(c, a)) != (b.ASN == localASN(c, b)) || localASN(c, a) != localASN(c, b) || (a.Peer == "") != (b.Peer == ""):
		return errors.New("one is internal or on the LAN, the other is not")
	case a.LocalIPv4 != b.LocalIPv4 || a.LocalIPv6 != b.LocalIPv6:
		return errors.New("their tunnels' local addresses, which are next hops, differ")
	}
	return nil
}

func localASN(c Config, n *Neighbour) uint32 {
	if n.LocalASN != 0 {
		return n.LocalASN
	}
	return c.ASN
}

func holdTime(n *Neighbour) time.Duration {
	if n.HoldTime == 0 {
		return 90 * time.Second
	}
	return n.HoldTime
}
