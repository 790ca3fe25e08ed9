package routestest

import (
	"cmp"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"sitewire/routes"
)

// Lose removes routes behind the program's back, without a notification: the kernel does that to IPv4 routes when a
// link goes down.
func (w *World) Lose(prefixes ...netip.Prefix) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, p := range prefixes {
		delete(w.fib, rowKey{p, routes.Unicast})
	}
}

// PutRoute writes a route with our protocol number behind the program's back.
func (w *World) PutRoute(r routes.Route) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.fib[rowKey{r.Prefix, r.Type}] = r
}

// PutAllowed gives a prefix to a peer behind the program's back (as `wg set` does); an empty peer takes it away.
func (w *World) PutAllowed(a routes.AllowedIP) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if a.Peer == "" {
		delete(w.allowed, place{a.Device, a.Prefix})
		return
	}
	w.allowed[place{a.Device, a.Prefix}] = a.Peer
}

// RemoveDevice removes a device with its peers and routes.
func (w *World) RemoveDevice(name string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.devices, name)
	maps.DeleteFunc(w.allowed, func(at place, _ string) bool { return at.device == name })
	maps.DeleteFunc(w.fib, func(_ rowKey, r routes.Route) bool {
		return slices.ContainsFunc(w.hops(r), func(h routes.Hop) bool { return h.Device == name })
	})
}

// Diverted returns the diverted devices, sorted.
func (w *World) Diverted() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Sorted(maps.Keys(w.diverted))
}

// Notify says that the kernel changed, as its notifications would.
func (w *World) Notify() {
	select {
	case w.changed <- struct{}{}:
	default:
	}
}

// Routes returns the routes of our protocol, sorted.
func (w *World) Routes() []routes.Route {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.rows()
}

// Allowed returns all allowed-IPs, sorted.
func (w *World) Allowed() []routes.AllowedIP {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.allowedIPs()
}

func (w *World) rows() []routes.Route {
	return slices.SortedFunc(maps.Values(w.fib), compareRoutes)
}

func compareRoutes(a, b routes.Route) int {
	return cmp.Or(a.Prefix.Compare(b.Prefix), cmp.Compare(a.Type, b.Type))
}

func (w *World) allowedIPs() []routes.AllowedIP {
	out := make([]routes.AllowedIP, 0, len(w.allowed))
	for at, peer := range w.allowed {
		out = append(out, routes.AllowedIP{Device: at.device, Prefix: at.prefix, Peer: peer})
	}
	slices.SortFunc(out, compareAllowed)
	return out
}

func compareAllowed(a, b routes.AllowedIP) int {
	return cmp.Or(strings.Compare(a.Device, b.Device), a.Prefix.Compare(b.Prefix))
}

// String prints the routes as `ip route` does and the allowed-IPs as `wg show all allowed-ips` does, with names for keys.
func (w *World) String() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	var b strings.Builder
	for _, r := range w.rows() {
		dst := r.Prefix.String()
		if r.Prefix.Bits() == 0 {
			dst = "default"
		}
		switch {
		case r.Type == routes.Unreachable:
			fmt.Fprintf(&b, "unreachable %s proto sitewire\n", dst)
		case len(r.Hops) == 1:
			fmt.Fprintf(&b, "%s %s proto sitewire\n", dst, routes.HopsString(r.Prefix, r.Hops))
		default:
			fmt.Fprintf(&b, "%s proto sitewire\n", dst)
			for _, h := range r.Hops {
				fmt.Fprintf(&b, "\tnexthop %s weight 1\n", routes.HopsString(r.Prefix, []routes.Hop{h}))
			}
		}
	}
	type owner struct{ device, peer string }
	owned := make(map[owner][]string)
	for _, a := range w.allowedIPs() {
		o := owner{a.Device, a.Peer}
		owned[o] = append(owned[o], a.Prefix.String())
	}
	for device, peers := range sorted(w.devices) {
		for peer := range sorted(peers) {
			ips := owned[owner{device, peer}]
			if len(ips) == 0 {
				ips = []string{"(none)"}
			}
			fmt.Fprintf(&b, "%s\t%s\t%s\n", device, peer, strings.Join(ips, " "))
		}
	}
	return b.String()
}

func sorted[V any](m map[string]V) func(yield func(string, V) bool) {
	return func(yield func(string, V) bool) {
		for _, k := range slices.Sorted(maps.Keys(m)) {
			if !yield(k, m[k]) {
				return
			}
		}
	}
}

// Connect puts a network on a link.
func (w *World) Connect(link string, p netip.Prefix) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.links[link] = true
	w.connected = append(w.connected, routes.Route{Prefix: p, Hops: []routes.Hop{{Device: link}}})
}

// Disconnect takes a link down, with its networks and the routes over it.
func (w *World) Disconnect(link string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	over := func(r routes.Route) bool {
		return slices.ContainsFunc(w.hops(r), func(h routes.Hop) bool { return h.Device == link })
	}
	delete(w.links, link)
	w.connected = slices.DeleteFunc(w.connected, over)
	maps.DeleteFunc(w.fib, func(_ rowKey, r routes.Route) bool { return over(r) })
}
