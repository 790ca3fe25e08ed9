package host

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"sync"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// RulesConfig says how marked packets are kept out of the tunnels; see the package comment.
type RulesConfig struct {
	// Mark that WireGuard's sockets put on encrypted packets; 0 is no guard.
	Mark uint32
	// Table with the learned routes; 0 and 254 are the main table.
	Table uint32
	// Priority of the first rule; the others follow at once. It must be before the main table's 32766.
	Priority int
}

// ruleKey is what distinguishes the rules that we make.
type ruleKey struct {
	family, priority, table int
	mark                    uint32
	invert                  bool
	prefixlen, ifgroup      int // suppressed; -1 is none
}

// rules lists the wanted rules of a family. A table of 0 stands for "unreachable".
func (h *Host) rules(c RulesConfig, family int) []ruleKey {
	none := ruleKey{family: family, prefixlen: -1, ifgroup: -1}
	at := func(offset, table int) ruleKey {
		k := none
		k.priority, k.table = c.Priority+offset, table
		return k
	}
	if c.Table == 0 || c.Table == unix.RT_TABLE_MAIN {
		if c.Mark == 0 {
			return nil
		}
		a, b, last := at(0, unix.RT_TABLE_MAIN), at(1, int(h.underlay)), at(2, 0)
		a.mark, b.mark, last.mark = c.Mark, c.Mark, c.Mark
		a.ifgroup = int(h.group)
		return []ruleKey{a, b, last}
	}
	a, b := at(0, unix.RT_TABLE_MAIN), at(1, int(c.Table))
	a.prefixlen = 0
	b.mark, b.invert = c.Mark, c.Mark != 0
	return []ruleKey{a, b}
}

func keyOf(r netlink.Rule) ruleKey {
	return ruleKey{
		family: r.Family, priority: r.Priority, table: r.Table, mark: r.Mark, invert: r.Invert,
		prefixlen: r.SuppressPrefixlen, ifgroup: r.SuppressIfgroup,
	}
}

func (h *Host) rule(k ruleKey) *netlink.Rule {
	r := netlink.NewRule()
	r.Family, r.Priority, r.Table, r.Mark, r.Invert = k.family, k.priority, k.table, k.mark, k.invert
	r.SuppressPrefixlen, r.SuppressIfgroup, r.Protocol = k.prefixlen, k.ifgroup, h.protocol
	if k.table == 0 {
		r.Type = nl.FR_ACT_UNREACHABLE
	}
	return r
}

// SetRules puts the rules in place and removes other rules of ours. Call it now and then: it mends what somebody removed, and follows the
// underlay's default routes.
func (h *Host) SetRules(ctx context.Context, c RulesConfig) error {
	if c.Priority <= 0 || c.Priority+2 >= 32766 {
		return fmt.Errorf("policy rules: priority %d: want 1 to 32763", c.Priority)
	}
	if c.Table == h.underlay || c.Table == unix.RT_TABLE_LOCAL {
		return fmt.Errorf("policy rules: table %d is not free for routes", c.Table)
	}
	h.mu.Lock()
	again := h.rulesSet != nil && *h.rulesSet == c
	h.rulesSet = nil
	h.mu.Unlock()
	added, err := h.setRules(ctx, func(family int) []ruleKey { return h.rules(c, family) })
	if again { // what was there and is not was taken by somebody else
		for range added {
			h.mended(func(m *Mended) { m.Rules++ }, "policy rule was missing", "priority", c.Priority)
		}
	}
	if err != nil {
		return fmt.Errorf("policy rules: %w", err)
	}
	h.mu.Lock()
	h.rulesSet = &c
	h.mu.Unlock()
	return nil
}

// setRules returns how many rules it added.
func (h *Host) setRules(ctx context.Context, wanted func(family int) []ruleKey) (added int, _ error) {
	nlh, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return 0, fmt.Errorf("open a netlink socket: %w", err)
	}
	defer nlh.Close()
	devices := sync.OnceValues(h.devices)
	for _, family := range families {
		if err := ctx.Err(); err != nil {
			return added, err
		}
		want := wanted(family)
		copies := slices.ContainsFunc(want, func(k ruleKey) bool { return k.table == int(h.underlay) })
		// The copies come before the rules that lead to them, and go after them.
		var err error
		if copies {
			var d devicesByKind
			if d, err = devices(); err == nil {
				err = h.copyDefaults(nlh, family, &d)
			}
		}
		if err == nil {
			var n int
			n, err = h.setFamilyRules(nlh, family, want)
			added += n
		}
		if err == nil && !copies {
			err = h.copyDefaults(nlh, family, nil)
		}
		if errors.Is(err, unix.EAFNOSUPPORT) || errors.Is(err, unix.EOPNOTSUPP) {
			continue // a kernel without IPv6 needs no rules for it
		}
		if err != nil {
			return added, explain(err)
		}
	}
	return added, nil
}

func (h *Host) setFamilyRules(nlh *netlink.Handle, family int, want []ruleKey) (added int, _ error) {
	all, err := whole(func() ([]netlink.Rule, error) { return nlh.RuleList(family) })
	if h.count("rule_list", err, unix.EAFNOSUPPORT, unix.EOPNOTSUPP) != nil {
		return 0, fmt.Errorf("list: %w", err)
	}
	var have []ruleKey
	for _, r := range all {
		if r.Protocol == h.protocol {
			r.Family = family
			have = append(have, keyOf(r))
		}
	}
	// Each rule limits what the ones after it do, so they come in order and go in reverse order: there is no moment in which marked packets
	// are refused for no reason, or in which a learned route beats a connected network.
	for _, k := range want {
		if slices.Contains(have, k) {
			continue
		}
		if err := h.count("rule_add", nlh.RuleAdd(h.rule(k)), unix.EEXIST); err != nil && !errors.Is(err, unix.EEXIST) {
			return added, fmt.Errorf("add rule %d: %w", k.priority, err)
		}
		added++
	}
	seen := map[ruleKey]bool{}
	slices.SortFunc(have, func(a, b ruleKey) int { return b.priority - a.priority })
	for _, k := range have {
		if slices.Contains(want, k) && !seen[k] {
			seen[k] = true
			continue
		}
		if err := h.count("rule_delete", nlh.RuleDel(h.rule(k)), unix.ENOENT); err != nil && !errors.Is(err, unix.ENOENT) {
			return added, fmt.Errorf("remove rule %d: %w", k.priority, err)
		}
	}
	return added, nil
}

// copyDefaults makes our routes of the underlay table the default routes of the main table that neither are ours nor lead into a
// tunnel; none at all without devices.
func (h *Host) copyDefaults(nlh *netlink.Handle, family int, devices *devicesByKind) error {
	var want []netlink.Route
	if devices != nil {
		main, err := defaultRoutes(nlh, family, devices.others)
		if h.count("route_list", err, unix.EAFNOSUPPORT, unix.EOPNOTSUPP) != nil {
			return fmt.Errorf("list default routes: %w", err)
		}
		for _, r := range main {
			into := devices.tunnels[r.LinkIndex] || slices.ContainsFunc(r.MultiPath, func(n *netlink.NexthopInfo) bool { return devices.tunnels[n.LinkIndex] })
			if r.Type == unix.RTN_UNICAST && uint8(r.Protocol) != h.protocol && !into {
				want = append(want, netlink.Route{
					Family: family, Dst: r.Dst, Table: int(h.underlay), Protocol: netlink.RouteProtocol(h.protocol), Priority: r.Priority, Scope: r.Scope,
					LinkIndex: r.LinkIndex, Gw: r.Gw, Via: r.Via, Src: r.Src, MTU: r.MTU, MultiPath: r.MultiPath, Flags: r.Flags & unix.RTNH_F_ONLINK,
				})
			}
		}
	}
	have, _, err := filtered(nlh, family, &netlink.Route{Table: int(h.underlay), Protocol: netlink.RouteProtocol(h.protocol)}, netlink.RT_FILTER_TABLE|netlink.RT_FILTER_PROTOCOL)
	if h.count("route_list", err, unix.EAFNOSUPPORT, unix.EOPNOTSUPP) != nil {
		return fmt.Errorf("list underlay routes: %w", err)
	}
	same := func(a, b netlink.Route) bool {
		return a.Priority == b.Priority && a.LinkIndex == b.LinkIndex && a.Gw.Equal(b.Gw) && a.Src.Equal(b.Src) && a.MTU == b.MTU && len(a.MultiPath) == len(b.MultiPath)
	}
	for _, w := range want {
		if slices.ContainsFunc(have, func(r netlink.Route) bool { return same(r, w) }) {
			continue
		}
		// A default route whose device is just going down is no loss.
		if err := h.count("route_replace", nlh.RouteReplace(&w), unix.ENETDOWN, unix.ENETUNREACH); err != nil && !errors.Is(err, unix.ENETDOWN) && !errors.Is(err, unix.ENETUNREACH) {
			return fmt.Errorf("copy a default route: %w", err)
		}
	}
	for _, r := range have {
		// What has been replaced in place is at the same metric.
		if slices.ContainsFunc(want, func(w netlink.Route) bool { return w.Priority == r.Priority }) {
			continue
		}
		if err := h.count("route_delete", nlh.RouteDel(&r), unix.ESRCH); err != nil && !errors.Is(err, unix.ESRCH) {
			return fmt.Errorf("remove the copy of a default route: %w", err)
		}
	}
	return nil
}

// devicesByKind are the indexes of the devices that are tunnels of ours, and of the others.
type devicesByKind struct {
	tunnels map[int]bool
	others  []int
}

func (h *Host) devices() (d devicesByKind, _ error) {
	links, err := whole(listGroups)
	if h.count("link_list", err) != nil {
		return d, fmt.Errorf("list devices: %w", err)
	}
	d.tunnels = map[int]bool{}
	for _, l := range links {
		if l.group == h.group {
			d.tunnels[l.index] = true
		} else {
			d.others = append(d.others, l.index)
		}
	}
	return d, nil
}

// grouped is a device with its group.
type grouped struct {
	index int
	group uint32
}

// skipStats is RTEXT_FILTER_SKIP_STATS, which x/sys lacks.
const skipStats = 1 << 3

// listGroups reads the devices without what takes the kernel longest, their statistics, and understands of them no more than it returns: there
// may be thousands, and this is asked every few seconds.
func listGroups() ([]grouped, error) {
	req := nl.NewNetlinkRequest(unix.RTM_GETLINK, unix.NLM_F_DUMP)
	req.AddData(nl.NewIfInfomsg(unix.AF_UNSPEC))
	req.AddData(nl.NewRtAttr(unix.IFLA_EXT_MASK, nl.Uint32Attr(skipStats)))
	var out []grouped
	var bad error
	err := req.ExecuteIter(unix.NETLINK_ROUTE, unix.RTM_NEWLINK, func(m []byte) bool {
		msg := nl.DeserializeIfInfomsg(m)
		attrs, err := nl.ParseRouteAttr(m[msg.Len():])
		l := grouped{index: int(msg.Index)}
		for _, a := range attrs {
			if a.Attr.Type == unix.IFLA_GROUP {
				l.group = binary.NativeEndian.Uint32(a.Value)
			}
		}
		out, bad = append(out, l), errors.Join(bad, err)
		return true
	})
	return out, errors.Join(bad, err)
}

// defaultRoutes lists the default routes of the main table that lead out of one of these devices. It asks the kernel for one device
// after the other: the table may hold a million routes into tunnels, and this is asked every few seconds.
func defaultRoutes(nlh *netlink.Handle, family int, devices []int) ([]netlink.Route, error) {
	var out []netlink.Route
	for _, i := range devices {
		// Without RT_FILTER_OIF in the mask, which would leave out routes with several next hops.
		list, chosen, err := filtered(nlh, family, &netlink.Route{Table: unix.RT_TABLE_MAIN, LinkIndex: i}, netlink.RT_FILTER_TABLE|netlink.RT_FILTER_DST)
		if err != nil {
			return nil, err
		}
		for _, r := range list {
			if !slices.ContainsFunc(out, r.Equal) {
				out = append(out, r)
			}
		}
		if !chosen {
			break // the kernel told all
		}
	}
	return out, nil
}

// filtered lists routes. Kernels since 4.20 choose by table, protocol and device themselves, if asked to be strict; then chosen is set.
func filtered(nlh *netlink.Handle, family int, want *netlink.Route, mask uint64) (list []netlink.Route, chosen bool, err error) {
	chosen = nlh.SetStrictCheck(true) == nil
	list, err = whole(func() ([]netlink.Route, error) { return nlh.RouteListFiltered(family, want, mask) })
	if chosen {
		err = errors.Join(err, nlh.SetStrictCheck(false))
		if errors.Is(err, unix.ENOENT) { // there is no such table yet
			err = nil
		}
	}
	return list, chosen, err
}

// Teardown removes our rules, the underlay table and the firewall table. Devices, and the addresses on them, go with whoever made them.
func (h *Host) Teardown(ctx context.Context) error {
	h.mu.Lock()
	h.rulesSet, h.wallSet = nil, false
	h.mu.Unlock()
	_, err := h.setRules(ctx, func(int) []ruleKey { return nil })
	if err != nil {
		err = fmt.Errorf("policy rules: %w", err)
	}
	return errors.Join(err, h.removeFirewall(ctx))
}
