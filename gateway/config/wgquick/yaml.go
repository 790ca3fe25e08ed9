package wgquick

import (
	"fmt"
	"net/netip"
	"regexp"
	"slices"
	"strings"

	"sitewire/gateway/config"
)

// plain is a text that YAML and its readers take for a text without quotes.
var plain = regexp.MustCompile(`^[A-Za-z][A-Za-z0-9._/-]*$`)

// scalar writes a text as a value of YAML.
func scalar(s string) string {
	switch strings.ToLower(s) {
	case "true", "false", "null", "yes", "no", "on", "off", "y", "n":
	default:
		if plain.MatchString(s) {
			return s
		}
	}
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(s) + `"`
}

// writer writes lines of YAML.
type writer struct{ strings.Builder }

func (w *writer) line(indent int, format string, args ...any) {
	w.WriteString(strings.Repeat("  ", indent))
	fmt.Fprintf(w, format, args...)
	w.WriteByte('\n')
}

// notes are comments.
func (w *writer) notes(indent int, notes []Note) {
	for _, n := range notes {
		w.line(indent, "# %s", oneLine(n.At.String()+": "+n.Text))
		if n.Advice != "" {
			w.line(indent, "#   %s", n.Advice)
		}
	}
}

// yaml writes the configuration.
func (s *site) yaml() []byte {
	w := &writer{}
	paths := make([]string, len(s.files))
	for i, f := range s.files {
		paths[i] = f.Path
	}
	w.line(0, "# From %s, by `sitewire import wg-quick`. Comments with the name of a file say what was not carried.", oneLine(strings.Join(paths, ", ")))
	w.line(0, "# Next: sitewire check, and docs/migrating.md.")
	w.line(0, "site: %s", scalar(s.o.Site))
	asn := s.o.ASN
	if s.speaks && asn == 0 {
		asn = placeholderASN
		w.line(0, "asn: %d # FILL IN: the AS number of this site; this one is for documentation (RFC 5398)", asn)
	} else if asn != 0 {
		w.line(0, "asn: %d", asn)
	} else {
		w.line(0, "# asn: 65001 # and router_id: 192.0.2.1, once this site speaks BGP")
	}
	if asn != 0 {
		s.routerID(w)
	}
	w.line(0, "# announce: [172.20.1.0/27, \"fd42:1::/48\"] # the prefixes of this site, for its BGP neighbours")
	w.notes(0, s.notes)
	s.wireguard(w)
	if s.table != "" && s.table != "main" {
		w.line(0, "routes: { table: %s }", s.table)
	}
	if s.speaks {
		w.line(0, "bgp:")
		w.line(1, "port: off # as long as another BGP daemon has port 179; without this line sitewire listens")
	}
	if len(s.tunnels) == 0 {
		return []byte(w.String())
	}
	w.line(0, "peers:")
	for _, t := range s.tunnels {
		if t.left {
			w.notes(1, t.notes)
			continue
		}
		s.peer(w, t)
	}
	return []byte(w.String())
}

func (s *site) routerID(w *writer) {
	if s.o.RouterID.IsValid() {
		w.line(0, "router_id: %v", s.o.RouterID)
		return
	}
	for _, t := range s.tunnels { // the address that the neighbours know
		for _, key := range []string{"local_ipv4", "local"} {
			if a := t.addresses[key]; a.Is4() {
				w.line(0, "router_id: %v # our address in the tunnel to %s: every router needs its own", a, t.name)
				return
			}
		}
	}
	w.line(0, "router_id: %v # FILL IN: an IPv4 address of this router; this one is for documentation (RFC 5737)", placeholderID)
}

func (s *site) wireguard(w *writer) {
	if len(s.tunnels) == 0 {
		return
	}
	w.line(0, "wireguard:")
	w.line(1, "private_key: %s", scalar(s.mainKey))
	if s.shared != nil {
		w.line(1, "device: %s", scalar(s.shared.Device))
		if s.shared.ListenPort != 0 {
			w.line(1, "listen_port: %d", s.shared.ListenPort)
		}
		if s.mtu != 0 {
			w.line(1, "mtu: %d", s.mtu)
		}
	}
	if s.mark != 0 {
		w.line(1, "fwmark: %#x", s.mark)
	}
}

func (s *site) peer(w *writer, t *tunnel) {
	f, p := t.file, t.peer
	w.line(1, "%s:", scalar(t.name))
	w.notes(2, t.notes)
	if t.description != "" {
		w.line(2, "description: %s", scalar(shown(t.description)))
	}
	if !t.shared {
		w.line(2, "device: %s", scalar(f.Device))
		if t.keyRef != "" {
			w.line(2, "private_key: %s", scalar(t.keyRef))
		}
		if f.ListenPort != 0 {
			w.line(2, "listen_port: %d", f.ListenPort)
		}
		if f.MTU >= config.MinMTU && f.MTU <= config.MaxMTU {
			w.line(2, "mtu: %d", f.MTU)
		} else if s.mtu != 0 {
			w.line(2, "mtu: auto")
		}
	}
	w.line(2, "public_key: %v", p.PublicKey)
	if t.pskRef != "" {
		w.line(2, "preshared_key: %s", scalar(t.pskRef))
	}
	if p.Endpoint != "" {
		w.line(2, "endpoint: %s", scalar(p.Endpoint))
	}
	switch p.Keepalive {
	case 0:
		w.line(2, "keepalive: off # as in the file; the default, 25s, shows a dead tunnel sooner")
	case 25:
	default:
		w.line(2, "keepalive: %d", p.Keepalive)
	}
	t.tunnelBlock(w)
	switch {
	case t.learned: // the default
	case t.any:
		w.line(2, "allowed_ips: any")
	default:
		w.line(2, "allowed_ips: [%s]", list(t.allowed))
	}
	if t.asn == 0 {
		w.line(2, "# asn: 65002 # makes it a BGP neighbour: then leave allowed_ips out, and choose a policy, such as branch or hub")
		return
	}
	if t.asnGuessed {
		w.line(2, "asn: %d # as its name says: is it right?", t.asn)
	} else {
		w.line(2, "asn: %d # FILL IN: the AS number of this peer; this one is for documentation (RFC 5398)", t.asn)
	}
	w.line(2, "# policy: dn42 # without a policy nothing is exchanged; dn42, branch, hub, full, or one of yours")
	w.line(2, "bgp: { enabled: false } # until you move the session here: then remove this line")
}

func (t *tunnel) tunnelBlock(w *writer) {
	var parts []string
	for _, key := range []string{"local", "remote", "local_ipv4", "remote_ipv4", "local_ipv6", "remote_ipv6"} {
		if a, ok := t.addresses[key]; ok {
			parts = append(parts, fmt.Sprintf("%s: %s", key, scalar(a.String())))
		}
	}
	switch {
	case len(parts) == 0:
	case t.remoteGuessed:
		w.line(2, "tunnel: { %s } # FILL IN: remote is what a sitewire would have", strings.Join(parts, ", "))
	default:
		w.line(2, "tunnel: { %s }", strings.Join(parts, ", "))
	}
}

// list writes prefixes, IPv4 first.
func list(prefixes []netip.Prefix) string {
	sorted := slices.Clone(prefixes)
	slices.SortFunc(sorted, netip.Prefix.Compare)
	texts := make([]string, len(sorted))
	for i, p := range sorted {
		texts[i] = scalar(p.String())
	}
	return strings.Join(texts, ", ")
}
