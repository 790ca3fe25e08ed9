package wgquick

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"sitewire/gateway/config"
)

// Comments that Export writes for people, and for Convert.
const (
	ownComment  = "sitewire: "
	learnedMark = ownComment + "allowed_ips: learned"
)

// ExportOptions say what files are to be like.
type ExportOptions struct {
	// Secrets writes private and preshared keys; without it comments say where they are.
	Secrets bool
	// Live are the allowed-IPs that are in force, by device and peer; nil writes those of the configuration.
	Live map[string]map[string][]netip.Prefix
}

// Text is a file of wg-quick.
type Text struct {
	Device string
	Text   []byte
}

// Export writes a file for each device of a configuration, sorted by device. What wg-quick has no key for are comments.
func Export(c *config.Config, o ExportOptions) []Text {
	byDevice := map[string][]*config.Peer{}
	var devices []string
	for _, p := range c.Peers {
		if byDevice[p.Device] == nil {
			devices = append(devices, p.Device)
		}
		byDevice[p.Device] = append(byDevice[p.Device], p)
	}
	slices.Sort(devices)
	out := make([]Text, len(devices))
	for i, d := range devices {
		out[i] = Text{d, exportDevice(c, o, d, byDevice[d])}
	}
	return out
}

func exportDevice(c *config.Config, o ExportOptions, device string, peers []*config.Peer) []byte {
	w := &writer{}
	first := peers[0]
	speaks := slices.ContainsFunc(peers, func(p *config.Peer) bool { return p.ASN != 0 })
	w.line(0, "# %s of site %s, from %s, by `sitewire export wg-quick`.", device, c.Site, c.Path)
	if speaks {
		w.line(0, "# Routes come from BGP, which is not said here: another daemon has to speak it, as AS%d with the router ID %v.", c.ASN, c.RouterID)
	}
	if len(c.Announce) > 0 || len(c.Neighbours) > 0 {
		w.line(0, "# Not here either: announced prefixes (%d), neighbours on the LAN (%d).", len(c.Announce), len(c.Neighbours))
	}
	w.line(0, "[Interface]")
	key := "wireguard.private_key"
	if !first.PrivateKey.Equal(c.WireGuard.PrivateKey) {
		key = "private_key of the peer " + first.Name
	}
	switch {
	case o.Secrets && !first.PrivateKey.IsZero():
		w.line(0, "PrivateKey = %s", first.PrivateKey.Reveal())
	default:
		w.line(0, "# PrivateKey = (%s in %s)", key, c.Path)
	}
	if first.ListenPort != 0 {
		w.line(0, "ListenPort = %d", first.ListenPort)
	}
	if c.WireGuard.FirewallMark != 0 {
		w.line(0, "FwMark = %#x", c.WireGuard.FirewallMark)
	}
	if first.MTU != 0 {
		w.line(0, "MTU = %d", first.MTU)
	}
	exportAddresses(w, peers)
	switch {
	case speaks:
		w.line(0, "Table = off")
		exportRoutes(w, c, peers)
	case c.Routes.Table != mainTable:
		w.line(0, "Table = %d", c.Routes.Table)
	}
	for _, p := range peers {
		exportPeer(w, c, o, p)
	}
	return []byte(w.String())
}

// mainTable is RT_TABLE_MAIN of rtnetlink(7).
const mainTable = 254

// exportAddresses writes our ends. wg-quick knows no point-to-point addresses, the system does.
func exportAddresses(w *writer, peers []*config.Peer) {
	seen := map[string]bool{}
	var hooks []string
	for _, p := range peers {
		for _, local := range p.Tunnel.Locals() {
			text := "Address = " + netip.PrefixFrom(local, local.BitLen()).String()
			remote, ok := only(p.Tunnel.Remotes(), local)
			if local.IsLinkLocalUnicast() {
				text = "Address = " + netip.PrefixFrom(local, 64).String()
			} else if ok && !p.Shared {
				hooks = append(hooks, fmt.Sprintf("PostUp = ip address add %v peer %v dev %%i", netip.PrefixFrom(local, local.BitLen()), netip.PrefixFrom(remote, remote.BitLen())))
				continue
			}
			if !seen[text] {
				seen[text] = true
				w.line(0, "%s", text)
			}
		}
	}
	for _, h := range hooks {
		w.line(0, "%s", h)
	}
}

// exportRoutes writes what Table = off leaves out: ways to the other ends on a shared device, and to sites without BGP.
func exportRoutes(w *writer, c *config.Config, peers []*config.Peer) {
	table := ""
	if c.Routes.Table != mainTable {
		table = fmt.Sprintf(" table %d", c.Routes.Table)
	}
	for _, p := range peers {
		var to []netip.Prefix
		for _, r := range p.Tunnel.Remotes() {
			if p.Shared && !r.IsLinkLocalUnicast() {
				to = append(to, netip.PrefixFrom(r, r.BitLen()))
			}
		}
		if p.ASN == 0 {
			to = append(to, p.Prefixes...)
		}
		slices.SortFunc(to, netip.Prefix.Compare)
		for _, prefix := range slices.Compact(to) {
			w.line(0, "PostUp = ip route add %v dev %%i%s", prefix, table)
		}
	}
}

func exportPeer(w *writer, c *config.Config, o ExportOptions, p *config.Peer) {
	w.line(0, "")
	w.line(0, "# Name = %s", p.Name)
	if p.Description != "" {
		w.line(0, "# %s", shown(p.Description))
	}
	if p.ASN != 0 {
		name := "no policy"
		if p.Policy != nil {
			name = "policy " + p.Policy.Name
		}
		w.line(0, "# %sAS%d, %s", ownComment, p.ASN, name)
	}
	allowed, live := o.Live[p.Device][p.Name]
	if p.Mode == config.Learned && !live {
		w.line(0, "# %s", learnedMark)
		w.line(0, "# %sBGP adds to AllowedIPs. For another BGP daemon write 0.0.0.0/0, ::/0 if the peer is alone on the device.", ownComment)
	}
	if len(p.Endpoints) > 1 {
		var more []string
		for _, e := range p.Endpoints[1:] {
			more = append(more, e.String())
		}
		w.line(0, "# %sfurther endpoints: %s", ownComment, strings.Join(more, ", "))
	}
	if p.PinEndpoint {
		w.line(0, "# %spin_endpoint: true", ownComment)
	}
	w.line(0, "[Peer]")
	w.line(0, "PublicKey = %v", p.PublicKey)
	switch {
	case p.PresharedKey.IsZero():
	case o.Secrets:
		w.line(0, "PresharedKey = %s", p.PresharedKey.Reveal())
	default:
		w.line(0, "# PresharedKey = (preshared_key of the peer %s in %s)", p.Name, c.Path)
	}
	if !live {
		allowed = p.Prefixes
		if p.Mode == config.Any {
			allowed = []netip.Prefix{netip.MustParsePrefix("0.0.0.0/0"), netip.MustParsePrefix("::/0")}
		}
	}
	allowed = slices.Clone(allowed)
	for _, r := range p.Tunnel.Remotes() {
		allowed = append(allowed, netip.PrefixFrom(r, r.BitLen()))
	}
	slices.SortFunc(allowed, netip.Prefix.Compare)
	texts := make([]string, 0, len(allowed))
	for _, a := range slices.Compact(allowed) {
		texts = append(texts, a.String())
	}
	for part := range slices.Chunk(texts, 100) {
		w.line(0, "AllowedIPs = %s", strings.Join(part, ", "))
	}
	if len(p.Endpoints) > 0 {
		w.line(0, "Endpoint = %v", p.Endpoints[0])
	}
	if p.Keepalive > 0 {
		w.line(0, "PersistentKeepalive = %d", int(p.Keepalive.Seconds()))
	}
}
