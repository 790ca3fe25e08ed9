package host

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// Address of a device.
type Address struct {
	// Local is the address with the length of its network.
	Local netip.Prefix
	// Peer, if valid, is the other end of a point-to-point address: it is on link, and Local is a host address (`ip address add LOCAL peer
	// PEER`).
	Peer netip.Prefix
}

// Compare orders addresses.
func (a Address) Compare(b Address) int {
	return cmp.Or(comparePrefix(a.Local, b.Local), comparePrefix(a.Peer, b.Peer))
}

func comparePrefix(a, b netip.Prefix) int {
	return cmp.Or(a.Addr().Compare(b.Addr()), cmp.Compare(a.Bits(), b.Bits()))
}

func (a Address) String() string {
	if a.Peer.IsValid() {
		return a.Local.Addr().String() + " peer " + a.Peer.String()
	}
	return a.Local.String()
}

// normal is the form in which the kernel lists the address.
func (a Address) normal() Address {
	if a.Peer.IsValid() {
		a.Local = netip.PrefixFrom(a.Local.Addr(), a.Local.Addr().BitLen())
	}
	if a.Peer == a.Local {
		a.Peer = netip.Prefix{}
	}
	return a
}

// LinkConfig is what a tunnel device should be like.
type LinkConfig struct {
	Name string
	// MTU in bytes; 0 leaves it.
	MTU int
	// Addresses the device should have. With a link-local one, the automatic link-local addresses go. Addresses that others gave the device stay.
	Addresses []Address
	// AcceptLocal accepts packets from our own addresses: for anycast.
	AcceptLocal bool
	Up          bool
}

// SetLink brings a tunnel device into the wanted state. It belongs to the caller: nobody else sets its MTU, state and settings. Settings that
// cannot be written (a read-only /proc/sys) and are not right already make a *SettingError, after everything else was done.
func (h *Host) SetLink(ctx context.Context, c LinkConfig) error {
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("device %s: %w", c.Name, err)
	}
	h.mu.Lock()
	known := maps.Clone(h.set[c.Name])
	h.mu.Unlock()
	if err := h.setLink(c, known); err != nil {
		return fmt.Errorf("device %s: %w", c.Name, err)
	}
	return nil
}

func (h *Host) setLink(c LinkConfig, known map[Address]bool) (failed error) {
	nlh, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return fmt.Errorf("open a netlink socket: %w", err)
	}
	defer nlh.Close()
	link, err := nlh.LinkByName(c.Name)
	if h.count("link_get", err) != nil {
		return err
	}
	a := link.Attrs()
	var changed []string
	defer func() { h.noteLink(linkLeft{c, a.Index}, changed, failed) }()
	if c.MTU != 0 && a.MTU != c.MTU {
		if err := h.count("link_set", nlh.LinkSetMTU(link, c.MTU)); err != nil {
			return fmt.Errorf("set mtu %d: %w", c.MTU, explain(err))
		}
		changed = append(changed, "mtu")
	}
	if a.Group != h.group {
		if err := h.count("link_set", nlh.LinkSetGroup(link, int(h.group))); err != nil {
			return fmt.Errorf("set group %d: %w", h.group, explain(err))
		}
		changed = append(changed, "group")
	}
	ownLinkLocal := slices.ContainsFunc(c.Addresses, func(a Address) bool { return isLinkLocal6(a.Local.Addr()) })
	// Before it is up: then there is no automatic address to remove.
	settingErr := setDeviceSettings(c, ownLinkLocal)
	readdressed, err := h.setAddresses(c, a.Index, ownLinkLocal, known)
	if err != nil {
		return err
	}
	if readdressed {
		changed = append(changed, "addresses")
	}
	if isUp := a.Flags&unix.IFF_UP != 0; c.Up != isUp {
		do := nlh.LinkSetDown
		if c.Up {
			do = nlh.LinkSetUp
		}
		if err := h.count("link_set", do(link)); err != nil {
			if errors.Is(err, unix.EADDRINUSE) { // WireGuard binds its port now
				return fmt.Errorf("set up: another program or device has its UDP port (`ss -ulpn` and `wg show all listen-port` tell which): %w", err)
			}
			return fmt.Errorf("set up=%t: %w", c.Up, explain(err))
		}
		changed = append(changed, "state")
	}
	if c.Up {
		if err := h.peerRoutes(nlh, c, a.Index); err != nil {
			return err
		}
	}
	return settingErr
}

// peerRoutes adds the on-link routes of IPv6 point-to-point addresses. The kernel makes them with the address; when the
// device goes up it brings back only those of the local ends (measured on 6.18).
func (h *Host) peerRoutes(nlh *netlink.Handle, c LinkConfig, index int) error {
	const kernelMetric = 256
	for _, a := range c.Addresses {
		if !a.Peer.IsValid() || !a.Peer.Addr().Is6() {
			continue
		}
		err := h.count("route_add", nlh.RouteAdd(&netlink.Route{
			LinkIndex: index, Protocol: unix.RTPROT_KERNEL, Priority: kernelMetric,
			Dst: &net.IPNet{IP: a.Peer.Addr().AsSlice(), Mask: net.CIDRMask(a.Peer.Bits(), 128)},
		}), unix.EEXIST)
		if err != nil && !errors.Is(err, unix.EEXIST) {
			return fmt.Errorf("route to the other end %v: %w", a.Peer, explain(err))
		}
	}
	return nil
}

func isLinkLocal6(a netip.Addr) bool { return a.Is6() && a.IsLinkLocalUnicast() }

// setDeviceSettings writes the settings of the device. Loose or strict reverse path filtering would drop asymmetric traffic (measured also for
// "loose"); addresses must survive the device being down; router advertisements have no business in a tunnel.
func setDeviceSettings(c LinkConfig, ownLinkLocal bool) error {
	acceptLocal := "0"
	if c.AcceptLocal {
		acceptLocal = "1"
	}
	four, six := "net/ipv4/conf/"+c.Name+"/", "net/ipv6/conf/"+c.Name+"/"
	errs := []error{
		setSetting(four+"rp_filter", "0"),
		setSetting(four+"accept_local", acceptLocal),
		setSetting(six+"accept_ra", "0"),
		setSetting(six+"autoconf", "0"),
		setSetting(six+"keep_addr_on_down", "1"),
	}
	if ownLinkLocal {
		errs = append(errs, setSetting(six+"addr_gen_mode", "1")) // none
	}
	return errors.Join(errs...)
}

// setAddresses adds what is missing and then removes what is ours and not wanted, and tells whether there was any.
func (h *Host) setAddresses(c LinkConfig, index int, ownLinkLocal bool, known map[Address]bool) (any bool, _ error) {
	want := map[Address]bool{}
	for _, a := range c.Addresses {
		if !a.Local.IsValid() {
			return any, fmt.Errorf("address %q is not valid", a)
		}
		want[a.normal()] = true
	}
	// Removing an IPv4 address takes the others of its network along, so what is missing is looked for again.
	for range 3 {
		have, err := whole(func() ([]listed, error) { return listAddresses(index) })
		if h.count("address_list", err) != nil {
			return any, fmt.Errorf("list addresses: %w", err)
		}
		changed := false
		mine := func(a listed) bool {
			return a.protocol == h.protocol || known[a.Address] || ownLinkLocal && isLinkLocal6(a.Local.Addr())
		}
		for _, a := range slices.SortedFunc(maps.Keys(want), Address.Compare) {
			// IPv6 knows an address once, whatever its length and peer. Somebody else's does as it is (peerRoutes sees to the other end): to
			// change it, it would have to go for a moment.
			once := func(l listed) bool { return a.Local.Addr().Is6() && l.Local.Addr() == a.Local.Addr() }
			if slices.ContainsFunc(have, func(l listed) bool { return l.Address == a || once(l) && !mine(l) }) {
				continue
			}
			for _, old := range have {
				if once(old) {
					if err := h.count("address_delete", changeAddress(unix.RTM_DELADDR, 0, index, old.Address, 0)); err != nil {
						return any, fmt.Errorf("replace address %v: %w", old, explain(err))
					}
				}
			}
			if err := h.count("address_add", changeAddress(unix.RTM_NEWADDR, unix.NLM_F_CREATE|unix.NLM_F_REPLACE, index, a, h.protocol)); err != nil {
				return any, fmt.Errorf("add address %v: %w", a, explain(err))
			}
			changed = true
		}
		for _, a := range have {
			if want[a.Address] || !mine(a) || slices.ContainsFunc(c.Addresses, func(w Address) bool { return w.Local.Addr() == a.Local.Addr() && a.Local.Addr().Is6() }) {
				continue
			}
			err := h.count("address_delete", changeAddress(unix.RTM_DELADDR, 0, index, a.Address, 0), unix.EADDRNOTAVAIL)
			if err != nil && !errors.Is(err, unix.EADDRNOTAVAIL) {
				return any, fmt.Errorf("remove address %v: %w", a, explain(err))
			}
			changed = true
		}
		if !changed {
			break
		}
		any = true
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.set[c.Name] = want
	return any, nil
}

// linkLeft is how SetLink left a device. Another device may have its name later.
type linkLeft struct {
	LinkConfig
	index int
}

// noteLink remembers how a device was left, and tells if others had changed it since it was left the same way.
func (h *Host) noteLink(c linkLeft, changed []string, err error) {
	h.mu.Lock()
	was, ok := h.links[c.Name]
	again := ok && was.index == c.index && was.MTU == c.MTU && was.Up == c.Up && was.AcceptLocal == c.AcceptLocal && slices.Equal(was.Addresses, c.Addresses)
	if _, unwritable := errors.AsType[*SettingError](err); err == nil || unwritable {
		h.links[c.Name] = c
	} else {
		delete(h.links, c.Name)
	}
	h.mu.Unlock()
	if again && len(changed) > 0 {
		h.mended(func(m *Mended) { m.Devices++ }, "device was changed by someone else", "device", c.Name, "what", changed)
	}
}

// listed is an address as the kernel has it.
type listed struct {
	Address
	protocol uint8 // who set it; 0 before Linux 5.18
}

// ifaProto is IFA_PROTO, which x/sys lacks.
const ifaProto = 11

// listAddresses reads the addresses of a device. The netlink library does not tell their protocol, and reads those of all devices. Kernels
// since 4.20 choose the device themselves, if asked to be strict.
func listAddresses(index int) ([]listed, error) {
	s, err := nl.Subscribe(unix.NETLINK_ROUTE)
	if err != nil {
		return nil, err
	}
	defer s.Close()
	if err := errors.Join(s.SetSendTimeout(&nl.SocketTimeoutTv), s.SetReceiveTimeout(&nl.SocketTimeoutTv)); err != nil {
		return nil, err
	}
	msg := nl.NewIfAddrmsg(unix.AF_UNSPEC)
	if unix.SetsockoptInt(s.GetFd(), unix.SOL_NETLINK, unix.NETLINK_GET_STRICT_CHK, 1) == nil {
		msg.Index = uint32(index)
	}
	req := nl.NewNetlinkRequest(unix.RTM_GETADDR, unix.NLM_F_DUMP)
	req.Sockets = map[int]*nl.SocketHandle{unix.NETLINK_ROUTE: {Socket: s}}
	req.AddData(msg)
	msgs, err := req.Execute(unix.NETLINK_ROUTE, unix.RTM_NEWADDR)
	if err != nil {
		return nil, err
	}
	var out []listed
	for _, m := range msgs {
		msg := nl.DeserializeIfAddrmsg(m)
		if int(msg.Index) != index {
			continue
		}
		attrs, err := nl.ParseRouteAttr(m[msg.Len():])
		if err != nil {
			return nil, err
		}
		var local, far netip.Addr
		var l listed
		for _, a := range attrs {
			switch a.Attr.Type {
			case unix.IFA_LOCAL:
				local, _ = netip.AddrFromSlice(a.Value)
			case unix.IFA_ADDRESS:
				far, _ = netip.AddrFromSlice(a.Value)
			case ifaProto:
				l.protocol = a.Value[0]
			}
		}
		if !local.IsValid() {
			local = far // IPv6 sends both only for point-to-point addresses
		}
		l.Local = netip.PrefixFrom(local, int(msg.Prefixlen))
		if far != local {
			l.Address = Address{netip.PrefixFrom(local, local.BitLen()), netip.PrefixFrom(far, int(msg.Prefixlen))}
		}
		out = append(out, l)
	}
	return out, nil
}

// changeAddress adds or removes an address.
func changeAddress(typ, flags, index int, a Address, protocol uint8) error {
	family, far := unix.AF_INET, a.Local
	if a.Local.Addr().Is6() {
		family = unix.AF_INET6
	}
	if a.Peer.IsValid() {
		far = a.Peer
	}
	req := nl.NewNetlinkRequest(typ, flags|unix.NLM_F_ACK)
	msg := nl.NewIfAddrmsg(family)
	msg.Index, msg.Prefixlen = uint32(index), uint8(far.Bits())
	if isLinkLocal6(a.Local.Addr()) {
		msg.Scope = unix.RT_SCOPE_LINK
	}
	if family == unix.AF_INET6 {
		msg.IfAddrmsg.Flags = unix.IFA_F_NODAD // nobody answers duplicate address detection in a tunnel
	}
	req.AddData(msg)
	req.AddData(nl.NewRtAttr(unix.IFA_LOCAL, a.Local.Addr().AsSlice()))
	req.AddData(nl.NewRtAttr(unix.IFA_ADDRESS, far.Addr().AsSlice()))
	if protocol != 0 {
		req.AddData(nl.NewRtAttr(ifaProto, []byte{protocol}))
	}
	_, err := req.Execute(unix.NETLINK_ROUTE, 0)
	return err
}

// explain says what to do about a refusal.
func explain(err error) error {
	if errors.Is(err, unix.EPERM) || errors.Is(err, unix.EACCES) {
		return fmt.Errorf("%w: needs CAP_NET_ADMIN", err)
	}
	return err
}
