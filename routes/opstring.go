package routes

import (
	"cmp"
	"net/netip"
	"slices"
	"strings"
)

func (k OpKind) String() string {
	switch k {
	case Divert:
		return "divert"
	case Allow:
		return "allow"
	case Install:
		return "install"
	case Withdraw:
		return "withdraw"
	case Disallow:
		return "disallow"
	case Restore:
		return "restore"
	case OpKinds:
	}
	return "unknown"
}

// String renders the operation as one line, in the words of ip-route(8) where they fit:
//
//	allow 10.2.0.0/16 peer nyc dev sw-nyc
//	install 10.2.0.0/16 dev sw-nyc
//	install 10.2.0.0/16 nexthop dev sw-ams nexthop dev sw-nyc
//	install 0.0.0.0/0 via 192.0.2.1 dev eth0
//	install unreachable 10.1.0.0/16
//	install 10.3.0.0/16 dev sw-nyc backup dev sw-ams
//	divert dev sw-nyc
func (o Op) String() string {
	switch o.Kind {
	case Allow, Disallow:
		return o.Kind.String() + " " + o.Allowed.String()
	case Divert, Restore:
		return o.Kind.String() + " dev " + o.Device
	default:
		return o.Kind.String() + " " + o.Route.String()
	}
}

// Prefix that the operation is about; none for Divert and Restore.
func (o Op) Prefix() netip.Prefix {
	if o.Kind == Allow || o.Kind == Disallow {
		return o.Allowed.Prefix
	}
	return o.Route.Prefix
}

// String renders the entry as in an Op: "10.2.0.0/16 peer nyc dev sw-nyc".
func (a AllowedIP) String() string {
	return a.Prefix.String() + " peer " + a.Peer + " dev " + a.Device
}

func (t RouteType) String() string {
	if t == Unreachable {
		return "unreachable"
	}
	return "unicast"
}

// String renders the route as in an Op: "10.2.0.0/16 via 192.0.2.1 dev eth0".
func (r Route) String() string {
	if r.Type == Unreachable {
		return "unreachable " + r.Prefix.String()
	}
	if len(r.Hops) == 0 {
		return r.Prefix.String()
	}
	s := r.Prefix.String() + " " + HopsString(r.Prefix, r.Hops)
	if len(r.Backup) > 0 {
		s += " backup " + HopsString(r.Prefix, r.Backup)
	}
	return s
}

// HopsString renders the ways out of a route for the prefix: "dev sw-nyc", or "nexthop dev a nexthop dev b".
func HopsString(p netip.Prefix, hops []Hop) string {
	var b strings.Builder
	for i, h := range hops {
		if i > 0 {
			b.WriteByte(' ')
		}
		if len(hops) > 1 {
			b.WriteString("nexthop ")
		}
		if h.Via.IsValid() {
			b.WriteString("via ")
			if h.Via.Is6() && p.Addr().Is4() {
				b.WriteString("inet6 ") // RFC 8950; the word that ip-route(8) wants here
			}
			b.WriteString(h.Via.String())
			if h.Device != "" {
				b.WriteByte(' ')
			}
		}
		if h.Device != "" {
			b.WriteString("dev ")
			b.WriteString(h.Device)
		}
	}
	return b.String()
}

func compareHops(a, b Hop) int {
	return cmp.Or(strings.Compare(a.Device, b.Device), a.Via.Compare(b.Via))
}

// CanonicalHops sorts hops in place, drops duplicates and zones (the device says as much), and returns the result.
// Routes are compared in this form, so a FIB returns it from List.
func CanonicalHops(hops []Hop) []Hop {
	for i, h := range hops {
		hops[i].Via = h.Via.Unmap().WithZone("")
	}
	slices.SortFunc(hops, compareHops)
	return slices.Compact(hops)
}
