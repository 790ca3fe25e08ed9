package wgquick

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"sitewire/gateway/config"
	"sitewire/gateway/wg"
)

// Keys of the two sections, as wg-quick(8) and wg(8) write them.
var (
	interfaceKeys = []string{"PrivateKey", "ListenPort", "FwMark", "Address", "DNS", "MTU", "Table", "PreUp", "PostUp", "PreDown", "PostDown", "SaveConfig"}
	peerKeys      = []string{"PublicKey", "PresharedKey", "AllowedIPs", "Endpoint", "PersistentKeepalive"}
)

// Parse reads a file of wg-quick, or what `wg showconf` prints. path is for messages; device is the name of the interface. An error is of
// type config.Errors and has every mistake.
func Parse(path, device, text string) (*File, error) {
	p := &parser{file: &File{Path: path, Device: device, Table: tableAuto}}
	sections, top, errs := scan(path, text)
	p.errs = errs
	p.file.Comments = top
	seen := false
	for _, s := range sections {
		switch s.name {
		case "interface":
			if seen {
				p.fail(s.at, "a second [Interface]", "a file describes one interface (wg(8)): write another file")
			}
			seen = true
			p.file.Comments = append(p.file.Comments, s.comments...)
			p.read(s, interfaceKeys, p.device)
		case "peer":
			p.peer(s)
		}
	}
	if !seen && len(p.errs) == 0 {
		p.fail(Pos{File: path}, "no [Interface]", "is this a file of wg-quick?")
	}
	for i, a := range p.file.Peers {
		for _, b := range p.file.Peers[:i] {
			if a.PublicKey == b.PublicKey && !a.PublicKey.IsZero() {
				p.fail(a.At, fmt.Sprintf("the peer of line %d again: both have its public key", b.At.Line), "put them into one [Peer]")
			}
		}
	}
	if len(p.errs) > 0 {
		slices.SortStableFunc(p.errs, func(a, b *config.Error) int { return a.Line - b.Line })
		return nil, p.errs
	}
	p.file.runHooks()
	return p.file, nil
}

type parser struct {
	file *File
	errs config.Errors
}

func (p *parser) fail(at Pos, message, hint string) {
	p.errs = append(p.errs, &config.Error{File: at.File, Line: at.Line, Column: at.Column, Message: message, Hint: hint})
}

// read hands the entries of a section to set. A value that set refuses is a mistake; its error is shown, the value is not, as it may be a key
// in the wrong place. Of values that may be given once the last counts, as for wg(8).
func (p *parser) read(s *section, keys []string, set func(key string, e entry) error) {
	first := map[string]Pos{}
	for _, e := range s.entries {
		i := slices.IndexFunc(keys, func(k string) bool { return strings.EqualFold(k, e.key) })
		if i < 0 {
			other, where := interfaceKeys, "[Interface]"
			if s.name == "interface" {
				other, where = peerKeys, "[Peer]"
			}
			if slices.ContainsFunc(other, func(k string) bool { return strings.EqualFold(k, e.key) }) {
				p.fail(e.keyAt, e.key+" is a key of "+where, "")
				continue
			}
			p.fail(e.keyAt, fmt.Sprintf("unknown key %q", shown(e.key)), "known: "+strings.Join(keys, ", "))
			continue
		}
		key := keys[i]
		if old, again := first[key]; again && !repeats(key) {
			p.file.Notes = append(p.file.Notes, Note{e.at, fmt.Sprintf("%s stands there a second time (the first is in line %d): the last one counts", key, old.Line), ""})
		}
		first[key] = e.at
		if err := set(key, e); err != nil {
			p.fail(e.at, key+": "+shown(err.Error()), "")
		}
	}
}

// repeats tells whether each of several values of a key counts.
func repeats(key string) bool {
	return slices.Contains([]string{"Address", "DNS", "PreUp", "PostUp", "PreDown", "PostDown", "AllowedIPs"}, key)
}

func (p *parser) device(key string, e entry) (err error) {
	f := p.file
	switch key {
	case "PrivateKey":
		if e.value != "" { // a published copy has it removed
			f.PrivateKey, err = secretKey(e.value)
		}
	case "ListenPort":
		f.ListenPort, err = number16(e.value)
	case "FwMark":
		f.FirewallMark, err = mark(e.value)
		f.MarkAt = e.at
	case "Address":
		for _, s := range strings.FieldsFunc(e.value, func(r rune) bool { return r == ',' || r == ' ' || r == '\t' }) {
			a, err := address(s)
			if err != nil {
				return err
			}
			f.Addresses = append(f.Addresses, Address{Local: a, At: e.at})
		}
	case "DNS":
		f.DNS = append(f.DNS, e.value)
		f.Notes = append(f.Notes, Note{e.at, "DNS = " + shown(e.value) + ": sitewire sets no resolver", "give it to the system's resolver: resolvectl, /etc/resolv.conf, or systemd-networkd's DNS="})
	case "MTU":
		n, err := number16(e.value)
		if err != nil {
			return err
		}
		f.MTU, f.MTUAt = int(n), e.at
	case "Table":
		f.Table, f.TableAt = strings.ToLower(e.value), e.at
		if e.value == "" {
			f.Table = tableAuto
		}
	case "PreUp", "PostUp", "PreDown", "PostDown":
		f.Hooks = append(f.Hooks, Hook{key, e.value, e.at})
	case "SaveConfig":
		switch strings.ToLower(e.value) {
		case "true":
			f.SaveConfig = true
			f.Notes = append(f.Notes, Note{e.at, "SaveConfig = true: sitewire never writes its configuration", "what you change with `wg set` lasts until the gateway looks again: change the file and run sitewire reload"})
		case "false":
		default:
			err = errors.New("neither true nor false")
		}
	}
	return err
}

func (p *parser) peer(s *section) {
	x := &Peer{At: s.at, Comments: s.comments}
	p.file.Peers = append(p.file.Peers, x)
	given := false
	p.read(s, peerKeys, func(key string, e entry) (err error) {
		if e.comment != "" {
			x.Comments = append(x.Comments, e.comment)
		}
		switch key {
		case "PublicKey":
			given = true
			if x.PublicKey, err = wg.ParsePublicKey(e.value); err == nil && x.PublicKey.IsZero() {
				err = wg.ErrKey
			}
		case "PresharedKey":
			x.PresharedKey, err = secretKey(e.value)
		case "AllowedIPs":
			err = x.allowedIPs(e.value)
		case "Endpoint":
			var to config.Endpoint
			to, err = config.ParseEndpoint(e.value)
			x.Endpoint, x.EndpointAt = to.String(), e.at
		case "PersistentKeepalive":
			if !strings.EqualFold(e.value, "off") {
				x.Keepalive, err = number16(e.value)
			}
		}
		return err
	})
	if !given {
		p.fail(s.at, "a peer without a PublicKey", "")
	}
	x.Name = nameIn(x.Comments)
}

// allowedIPs reads a list: those of several lines add up. With a sign, newer tools add to or take from what is there.
func (x *Peer) allowedIPs(list string) error {
	if list == "" {
		return nil
	}
	for s := range strings.SplitSeq(list, ",") {
		s = strings.TrimSpace(s)
		remove := strings.HasPrefix(s, "-")
		a, err := address(strings.TrimLeft(s, "+-"))
		if err != nil {
			return err
		}
		a = a.Masked()
		x.AllowedIPs = slices.DeleteFunc(x.AllowedIPs, func(p netip.Prefix) bool { return p == a })
		if !remove {
			x.AllowedIPs = append(x.AllowedIPs, a)
		}
	}
	return nil
}

// address reads an address with or without the length of its network.
func address(s string) (netip.Prefix, error) {
	if a, err := netip.ParseAddr(s); err == nil && a.Zone() == "" {
		a = a.Unmap()
		return netip.PrefixFrom(a, a.BitLen()), nil
	}
	p, err := netip.ParsePrefix(s)
	if err != nil || p.Addr().Is4In6() {
		return netip.Prefix{}, fmt.Errorf("%q is not an address such as 10.0.0.1/24 or fd00::1/64", shown(s))
	}
	return p, nil
}

func number16(s string) (uint16, error) {
	n, err := strconv.ParseUint(s, 10, 16)
	if err != nil {
		return 0, fmt.Errorf("%q is not a number from 0 to 65535", shown(s))
	}
	return uint16(n), nil
}

func mark(s string) (uint32, error) {
	if strings.EqualFold(s, "off") {
		return 0, nil
	}
	base := 10
	digits := s
	if strings.HasPrefix(s, "0x") {
		base, digits = 16, s[2:]
	}
	n, err := strconv.ParseUint(digits, base, 32)
	if err != nil {
		return 0, fmt.Errorf("%q is not a firewall mark: want a number, decimal or with 0x, or off", shown(s))
	}
	return uint32(n), nil
}

func secretKey(s string) (wg.Secret, error) {
	k, err := wg.ParseSecret(s)
	if err == nil && k.IsZero() {
		err = wg.ErrKey
	}
	return k, err // does not quote the text
}
