package wgquick

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"sitewire/gateway/config"
	"sitewire/gateway/wg"
)

// Placeholders for what a file of wg-quick does not say. The AS numbers are for documentation (RFC 5398), as is the address (RFC 5737).
const (
	placeholderASN     = 64496
	placeholderPeerASN = 64511
)

var placeholderID = netip.MustParseAddr("192.0.2.1")

// Options are what the files do not say.
type Options struct {
	// Site is the name of this site; required.
	Site string
	// ASN and RouterID of this site; zero values are filled in with placeholders where they are needed.
	ASN      uint32
	RouterID netip.Addr
	// KeyDir is the directory of key files, as ${file:} in the result names it. Empty is the directory of the configuration.
	KeyDir string
}

// KeyFile is a secret that belongs into a file of its own.
type KeyFile struct {
	Name   string // without a directory
	Secret wg.Secret
}

// Result is a configuration made of files.
type Result struct {
	YAML []byte
	Keys []KeyFile
	// Notes are all that was not carried, in the order of files and lines. They are in the YAML, too.
	Notes []Note
}

// tunnel is a peer on its way to the configuration.
type tunnel struct {
	name, description string
	file              *File
	peer              *Peer
	shared            bool
	asn               uint32 // 0: no BGP
	asnGuessed        bool
	any, learned      bool
	allowed           []netip.Prefix
	addresses         map[string]netip.Addr // by key of the tunnel block
	remoteGuessed     bool
	keyRef, pskRef    string
	notes             []Note
	left              bool // nothing could reach it
}

func (t *tunnel) note(at Pos, advice, format string, args ...any) {
	t.notes = append(t.notes, Note{at, fmt.Sprintf(format, args...), advice})
}

// site is a configuration in the making.
type site struct {
	o       Options
	files   []*File
	tunnels []*tunnel
	shared  *File
	mainKey string // what wireguard.private_key refers to
	mark    uint32
	mtu     int // of the shared device
	table   string
	routed  bool // some peer has static routes
	speaks  bool // some peer speaks BGP
	keys    []KeyFile
	notes   []Note // that belong to no peer
}

// Convert makes a configuration of files, each a device. An error is of type config.Errors.
func Convert(files []*File, o Options) (*Result, error) {
	s := &site{o: o, files: files}
	if err := s.pickShared(); err != nil {
		return nil, err
	}
	s.nameTunnels()
	s.pickMark()
	s.pickTable()
	s.addressTunnels()
	s.divideAllowed()
	s.pickKeys()
	for _, f := range files {
		s.fileNotes(f)
	}
	r := &Result{YAML: s.yaml(), Keys: s.keys, Notes: s.notes}
	for _, t := range s.tunnels {
		r.Notes = append(r.Notes, t.notes...)
	}
	order := map[string]int{}
	for i, f := range files {
		order[f.Path] = i
	}
	slices.SortStableFunc(r.Notes, func(a, b Note) int {
		return cmp.Or(cmp.Compare(order[a.At.File], order[b.At.File]), cmp.Compare(a.At.Line, b.At.Line), cmp.Compare(a.At.Column, b.At.Column))
	})
	return r, nil
}

// pickShared finds the device that several peers share: there may be one.
func (s *site) pickShared() error {
	var errs config.Errors
	devices := map[string]*File{}
	for _, f := range s.files {
		if other := devices[f.Device]; other != nil {
			errs = append(errs, &config.Error{File: f.Path, Message: fmt.Sprintf("the device %s again, which is that of %s", f.Device, other.Path), Hint: "a device has one file"})
		}
		devices[f.Device] = f
		if len(f.Peers) < 2 {
			continue
		}
		if s.shared != nil {
			errs = append(errs, &config.Error{File: f.Path, Message: fmt.Sprintf("has several peers, as %s has: a gateway has one device that peers share", s.shared.Path),
				Hint: "write a file with one peer for each of them, or import this file for a gateway of its own"})
			continue
		}
		s.shared = f
	}
	if len(errs) > 0 {
		return errs
	}
	return nil
}

func (s *site) nameTunnels() {
	taken := map[string]bool{}
	for _, f := range s.files {
		if len(f.Peers) == 0 {
			s.notes = append(s.notes, Note{Pos{File: f.Path}, "no peers: " + f.Device + " is not carried", "a device exists for its peers"})
		}
		for _, p := range f.Peers {
			name := peerName(f, p)
			for i := 2; taken[name]; i++ {
				base := peerName(f, p)
				name = fmt.Sprintf("%s-%d", base[:min(len(base), 58)], i)
			}
			taken[name] = true
			t := &tunnel{name: name, file: f, peer: p, shared: f == s.shared, notes: p.Notes}
			t.description = description(p.Comments, name)
			guess := peerASN(f, p, s.o.ASN)
			switch {
			case f.routed() || guess == 0 && f.routesBy(p): // its routes are its allowed-IPs
			case guess != 0:
				t.asn, t.asnGuessed = guess, true
			default:
				t.asn = placeholderPeerASN
			}
			t.learned = t.asn != 0 && slices.Contains(p.Comments, learnedMark)
			s.speaks = s.speaks || t.asn != 0
			s.tunnels = append(s.tunnels, t)
		}
	}
}

// pickKeys decides which private key is that of all devices, and which files keys go to.
func (s *site) pickKeys() {
	of := func(f *File) string {
		switch {
		case !f.PrivateKey.IsZero():
			return f.PrivateKey.Hex()
		case f.PrivateKeyFile != "":
			return f.PrivateKeyFile
		}
		return ""
	}
	count := map[string]int{}
	main := ""
	for _, f := range s.files {
		k := of(f)
		if count[k]++; k != "" && len(f.Peers) > 0 && (main == "" || count[k] > count[main]) {
			main = k
		}
	}
	if s.shared != nil && of(s.shared) != "" {
		main = of(s.shared)
	}
	refs := map[string]string{}
	for _, f := range s.files {
		if len(f.Peers) == 0 {
			continue
		}
		k := of(f)
		name := f.Device + ".key"
		if k == main {
			name = "private.key"
		} else if f.Device == "private" {
			name = "private-device.key"
		}
		switch {
		case k == "":
			refs[f.Device] = s.ref(f.Device + ".key")
			s.notes = append(s.notes, Note{Pos{File: f.Path}, "no PrivateKey", "put the key of " + f.Device + " into " + s.path(f.Device+".key") + ", mode 0600"})
			continue
		case refs[k] != "":
		case f.PrivateKey.IsZero():
			refs[k] = "${file:" + f.PrivateKeyFile + "}"
		default:
			refs[k] = s.ref(name)
			s.keys = append(s.keys, KeyFile{name, f.PrivateKey})
		}
		refs[f.Device] = refs[k]
	}
	if s.mainKey = refs[main]; s.mainKey == "" && len(s.tunnels) > 0 { // none has a key
		s.mainKey = refs[s.tunnels[0].file.Device]
	}
	for _, t := range s.tunnels {
		if ref := refs[t.file.Device]; ref != s.mainKey && !t.shared {
			t.keyRef = ref
		}
		switch p := t.peer; {
		case t.left:
		case !p.PresharedKey.IsZero():
			name := t.name + ".psk"
			t.pskRef = s.ref(name)
			s.keys = append(s.keys, KeyFile{name, p.PresharedKey})
		case p.PresharedKeyFile != "":
			t.pskRef = "${file:" + p.PresharedKeyFile + "}"
		}
	}
}

func (s *site) path(name string) string {
	if s.o.KeyDir == "" {
		return name
	}
	return strings.TrimSuffix(s.o.KeyDir, "/") + "/" + name
}

func (s *site) ref(name string) string { return "${file:" + s.path(name) + "}" }

// pickMark carries the firewall mark, if the files agree on one.
func (s *site) pickMark() {
	var first *File
	for _, f := range s.files {
		switch {
		case f.MarkAt.Line == 0 || len(f.Peers) == 0:
		case f.FirewallMark == 0:
			s.notes = append(s.notes, Note{f.MarkAt, "FwMark = off: sitewire marks its packets, so that no learned route leads a tunnel into a tunnel", "wireguard.fwmark: off turns that off, for all devices"})
		case first == nil:
			first, s.mark = f, f.FirewallMark
		case f.FirewallMark != s.mark:
			s.notes = append(s.notes, Note{f.MarkAt, fmt.Sprintf("FwMark = %#x: not carried, as %s has %#x and a gateway has one mark", f.FirewallMark, first.Path, s.mark), "rules for this mark must ask for the other one"})
		}
	}
}

// pickTable carries the routing table, if the files agree on one.
func (s *site) pickTable() {
	var first *File
	for _, f := range s.files {
		if len(f.Peers) == 0 || !f.routed() {
			continue
		}
		s.routed = true
		table := f.Table
		if table == tableAuto || table == "254" {
			table = "main"
		}
		if n, err := mark(table); table != "main" && (err != nil || n == 0 || n == 255) {
			s.notes = append(s.notes, Note{f.TableAt, "Table = " + shown(f.Table) + ": not carried: not a number of a routing table", "give routes.table its number, from /etc/iproute2/rt_tables"})
			continue
		}
		switch {
		case first == nil:
			first, s.table = f, table
		case table != s.table:
			s.notes = append(s.notes, Note{f.TableAt, fmt.Sprintf("Table = %s: not carried, as %s has %s and a gateway writes to one table", shown(f.Table), first.Path, s.table), "a rule (ip rule) can lead to another table"})
		}
	}
}

// fileNotes puts what is to say of a file to its peer, or to all.
func (s *site) fileNotes(f *File) {
	notes := slices.Clone(f.Notes)
	for _, r := range f.routes {
		used := r.prefix.IsSingleIP() || slices.ContainsFunc(s.tunnels, func(t *tunnel) bool { return t.file == f && t.asn == 0 && slices.Contains(t.peer.AllowedIPs, r.prefix) })
		if !used {
			notes = append(notes, Note{r.hook.At, r.hook.When + " = " + shown(r.command) + ": not carried", adviceRoute})
		}
	}
	if f.MTU != 0 && len(f.Peers) > 0 {
		switch {
		case f.MTU < config.MinMTU || f.MTU > config.MaxMTU:
			notes = append(notes, Note{f.MTUAt, fmt.Sprintf("MTU %d: not carried: want %d to %d, as IPv6 needs (RFC 8200)", f.MTU, config.MinMTU, config.MaxMTU), ""})
		case f == s.shared:
			s.mtu = f.MTU
		}
	}
	if f == s.shared && f.ListenPort == 0 {
		notes = append(notes, Note{Pos{File: f.Path}, "no ListenPort: a shared device listens on 51820", "wireguard.listen_port chooses another"})
	}
	if len(f.Peers) == 1 {
		for _, t := range s.tunnels {
			if t.file == f {
				t.notes = append(t.notes, notes...)
			}
		}
		return
	}
	s.notes = append(s.notes, notes...)
}
