package wgquick

import (
	"net/netip"
	"path"
	"regexp"
	"slices"
	"strings"

	"sitewire/gateway/wg"
)

// What to do about commands that are not carried.
const (
	adviceCommand  = "sitewire runs no commands: make it a unit of its own, or ExecStartPost= of sitewire's"
	adviceFirewall = "sitewire is no firewall: put it into /etc/nftables.conf, with the name of the device"
	adviceSysctl   = "put it into /etc/sysctl.d"
	adviceRoute    = "a peer without BGP gets its routes from its list of allowed_ips; others come from BGP"
	adviceRule     = "rules are the system's (ip rule, systemd-networkd); sitewire writes its routes to routes.table"
	adviceDNS      = "give it to the system's resolver: resolvectl, /etc/resolv.conf, or systemd-networkd's DNS="
	adviceDown     = "sitewire runs no commands; what it made itself it removes with `sitewire stop --teardown`"
)

// deviceSettings are what sitewire sets on its devices, by their last part and value.
var deviceSettings = map[string][]string{
	"rp_filter": {"0"}, "accept_ra": {"0"}, "autoconf": {"0"}, "keep_addr_on_down": {"1"}, "addr_gen_mode": {"1"}, "disable_ipv6": {"0"},
	"forwarding": {},
}

// keyFile is `wg set %i private-key FILE`, with <(cat FILE) as shells of wg-quick allow it.
var catFile = regexp.MustCompile(`<\(\s*cat\s+([^\s()]+)\s*\)`)

// runHooks takes over what commands do and sitewire does too, and makes Notes of the rest.
func (f *File) runHooks() {
	for _, h := range f.Hooks {
		if h.Command == "" {
			continue
		}
		commands := commandsOf(h.Command)
		if commands == nil { // a script, and not a list of commands
			f.left(h, h.Command, "not carried", adviceFor(h))
			continue
		}
		for _, c := range commands {
			text := strings.Join(c, " ")
			if what, advice := f.run(h, c); what != "" {
				f.left(h, text, what, advice)
			}
		}
	}
}

func (f *File) left(h Hook, command, what, advice string) {
	f.Notes = append(f.Notes, Note{h.At, h.When + " = " + shown(command) + ": " + what, advice})
}

// adviceFor guesses what a command is about that is too much of a script to be read.
func adviceFor(h Hook) string {
	for word, advice := range map[string]string{
		"iptables": adviceFirewall, "ip6tables": adviceFirewall, "nft": adviceFirewall, "resolvconf": adviceDNS, "resolvectl": adviceDNS, "sysctl": adviceSysctl,
	} {
		if slices.Contains(strings.Fields(h.Command), word) {
			return advice
		}
	}
	return adviceCommand
}

// commandsOf divides a line of shell into commands and these into words. Nil is a line with more than `;`, `&&`, quotes and a harmless ending.
func commandsOf(line string) (out [][]string) {
	line = catFile.ReplaceAllString(line, "$1")
	for _, end := range []string{"|| true", "||true", "|| :", "2>/dev/null", "2> /dev/null", ">/dev/null", "&>/dev/null"} {
		line = strings.TrimSuffix(strings.TrimSpace(line), end)
	}
	var words []string
	var word strings.Builder
	inWord := false
	quote := rune(0)
	endWord := func() {
		if inWord {
			words = append(words, word.String())
		}
		word.Reset()
		inWord = false
	}
	endCommand := func() {
		endWord()
		if len(words) > 0 && words[0] == "sudo" {
			words = words[1:]
		}
		if len(words) > 0 {
			out = append(out, words)
		}
		words = nil
	}
	runes := []rune(line)
	for i := 0; i < len(runes); i++ {
		r := runes[i]
		switch {
		case quote != 0 && r == quote:
			quote = 0
		case quote == '\'':
			word.WriteRune(r)
		case strings.ContainsRune("$`\\", r):
			return nil
		case quote != 0:
			word.WriteRune(r)
		case r == '"' || r == '\'':
			quote, inWord = r, true
		case r == ' ' || r == '\t':
			endWord()
		case r == ';':
			endCommand()
		case r == '&' && i+1 < len(runes) && runes[i+1] == '&':
			endCommand()
			i++
		case strings.ContainsRune("|&<>(){}*?!", r):
			return nil
		default:
			word.WriteRune(r)
			inWord = true
		}
	}
	if quote != 0 {
		return nil
	}
	endCommand()
	return out
}

// run takes one command over, or says that it does not and what to do instead.
func (f *File) run(h Hook, c []string) (what, advice string) {
	const no = "not carried"
	down := strings.HasSuffix(h.When, "Down")
	name := path.Base(c[0])
	switch {
	case name == "true" || name == ":":
		return "", ""
	case name == "iptables" || name == "ip6tables" || name == "nft":
		if !down && (slices.Contains(c, "--clamp-mss-to-pmtu") || strings.HasSuffix(strings.Join(c, " "), "maxseg size set rt mtu")) {
			return "", "" // so does the gateway
		}
		if down {
			return no, adviceDown
		}
		return no, adviceFirewall
	case down:
		if name == "ip" && len(c) > 2 && slices.ContainsFunc(c[1:3], func(s string) bool { return strings.HasPrefix("address", s) && s[0] == 'a' }) {
			return "", "" // takes back what PostUp did, and so does the gateway
		}
		return no, adviceDown
	case name == "ip":
		return f.runIP(h, c[1:])
	case name == "sysctl":
		return f.runSysctl(c[1:])
	case name == "wg" && len(c) > 2 && c[1] == "set" && f.isDevice(c[2]):
		if f.runSet(h, c[3:]) {
			return "", ""
		}
		return no, "set it in the configuration, and run sitewire reload"
	case name == "resolvectl" || name == "resolvconf" || name == "systemd-resolve":
		return no, adviceDNS
	}
	return no, adviceCommand
}

func (f *File) isDevice(s string) bool { return s == "%i" || s == f.Device }

// runIP takes over addresses and the MTU.
func (f *File) runIP(h Hook, c []string) (what, advice string) {
	const no = "not carried"
	for len(c) > 0 && strings.HasPrefix(c[0], "-") {
		c = c[1:]
	}
	if len(c) < 2 {
		return no, adviceCommand
	}
	switch object, verb := c[0], c[1]; {
	case strings.HasPrefix("address", object) && (verb == "add" || verb == "a" || verb == "replace"):
		if a, ok := f.addressOf(c[2:]); ok {
			a.At = h.At
			f.Addresses = append(f.Addresses, a)
			return "", ""
		}
		return no, "addresses of a tunnel are its tunnel: { local: …, remote: … }"
	case strings.HasPrefix("link", object) && verb == "set":
		return f.linkSet(h, c[2:])
	case object != "ru" && strings.HasPrefix("route", object) && (verb == "add" || verb == "replace"):
		if len(c) == 5 && c[3] == "dev" && f.isDevice(c[4]) {
			if p, err := address(c[2]); err == nil { // Convert finds out what it is for
				f.routes = append(f.routes, route{p.Masked(), h, "ip " + strings.Join(c, " ")})
				return "", ""
			}
		}
		return no, adviceRoute
	case strings.HasPrefix("rule", object):
		return no, adviceRule
	}
	return no, adviceCommand
}

// addressOf reads LOCAL [peer REMOTE] dev DEVICE, in any order, with what does not matter.
func (f *File) addressOf(c []string) (a Address, ok bool) {
	for i := 0; i < len(c); i++ {
		value := ""
		if i+1 < len(c) {
			value = c[i+1]
		}
		switch c[i] {
		case "dev":
			if !f.isDevice(value) {
				return a, false
			}
			ok = true
			i++
		case "scope", "preferred_lft", "valid_lft", "metric":
			i++
		case "noprefixroute", "nodad":
		case "peer", "remote", "local":
			p, err := address(value)
			if err != nil {
				return a, false
			}
			if c[i] == "local" {
				a.Local = p
			} else {
				a.Peer = p
			}
			i++
		default:
			p, err := address(c[i])
			if err != nil || a.Local.IsValid() {
				return a, false
			}
			a.Local = p
		}
	}
	return a, ok && a.Local.IsValid() && (!a.Peer.IsValid() || a.Peer.Addr().Is4() == a.Local.Addr().Is4())
}

func (f *File) linkSet(h Hook, c []string) (what, advice string) {
	var rest []string
	for i := 0; i < len(c); i++ {
		switch {
		case c[i] == "up", f.isDevice(c[i]), c[i] == "dev" && i+1 < len(c) && f.isDevice(c[i+1]):
		case c[i] == "mtu" && i+1 < len(c):
			n, err := number16(c[i+1])
			if err != nil {
				return "not carried: " + err.Error(), ""
			}
			f.MTU, f.MTUAt = int(n), h.At
			i++
		default:
			rest = append(rest, c[i])
		}
	}
	if len(rest) > 0 {
		return "not carried: " + shown(strings.Join(rest, " ")), adviceCommand
	}
	return "", ""
}

// runSysctl leaves out what the gateway sets on its devices itself.
func (f *File) runSysctl(c []string) (what, advice string) {
	for _, s := range c {
		key, value, ok := strings.Cut(s, "=")
		if !ok {
			continue // a flag
		}
		parts := strings.FieldsFunc(key, func(r rune) bool { return r == '.' || r == '/' })
		last := len(parts) - 1
		if last < 1 || !f.isDevice(parts[last-1]) || !slices.Contains(deviceSettings[parts[last]], value) {
			return "not carried", adviceSysctl
		}
	}
	return "", ""
}

// runSet reads the arguments of `wg set DEVICE`. It reports whether all of them were taken over.
func (f *File) runSet(h Hook, c []string) bool {
	var peer *Peer
	for i := 0; i < len(c); i += 2 {
		if i+1 >= len(c) {
			return false
		}
		value := c[i+1]
		switch {
		case c[i] == "private-key" && path.IsAbs(value):
			f.PrivateKeyFile = value
		case c[i] == "fwmark":
			m, err := mark(value)
			if err != nil {
				return false
			}
			f.FirewallMark, f.MarkAt = m, h.At
		case c[i] == "listen-port":
			n, err := number16(value)
			if err != nil {
				return false
			}
			f.ListenPort = n
		case c[i] == "peer":
			key, err := wg.ParsePublicKey(value)
			at := slices.IndexFunc(f.Peers, func(p *Peer) bool { return p.PublicKey == key })
			if err != nil || at < 0 {
				return false
			}
			peer = f.Peers[at]
		case c[i] == "preshared-key" && peer != nil && path.IsAbs(value):
			peer.PresharedKeyFile = value
		default:
			return false
		}
	}
	return true
}

// remoteHost returns the one address of the kind that commands route to the device: the other end, for those who do not know `peer`.
func (f *File) remoteHost(like netip.Addr) (netip.Addr, bool) {
	var hosts []netip.Addr
	for _, r := range f.routes {
		if r.prefix.IsSingleIP() {
			hosts = append(hosts, r.prefix.Addr())
		}
	}
	return only(hosts, like)
}

// routesBy tells whether commands route every allowed-IP of the peer: then it is a static site, whatever Table says.
func (f *File) routesBy(p *Peer) bool {
	routed := false
	for _, a := range p.AllowedIPs {
		if a.Addr().IsLinkLocalUnicast() || a.Addr().IsMulticast() {
			continue
		}
		routed = slices.ContainsFunc(f.routes, func(r route) bool { return r.prefix == a })
		if !routed {
			return false
		}
	}
	return routed
}

// only returns the single address of a list that may be the other end of a tunnel with the address like.
func only(list []netip.Addr, like netip.Addr) (found netip.Addr, ok bool) {
	for _, a := range list {
		if a == like || a.Is4() != like.Is4() || a.IsLinkLocalUnicast() != like.IsLinkLocalUnicast() || a == found {
			continue
		}
		if ok {
			return netip.Addr{}, false
		}
		found, ok = a, true
	}
	return found, ok
}
