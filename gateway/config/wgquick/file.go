// Package wgquick reads and writes the files of wg-quick(8), and turns them into a configuration of sitewire and back.
//
// Job: read the format of wg(8) and wg-quick(8) with the place of every value; recognise the commands that people put there for what the
// format cannot say; make YAML of it, with what could not be carried; and write such files from a Config.
// Owner: nobody; all of it is pure: texts and values in, texts and values out.
// Inputs: texts of wg-quick files; or a *config.Config, and the allowed-IPs that are in force.
// Outputs: YAML, keys and the names of the files that they belong into, Notes; or texts of wg-quick files.
// Invariants: no secret is in the YAML, in a Note or in an error; nothing that a file says is lost without a Note; the result of files that
// say everything that is needed passes config.Load.
package wgquick

import (
	"fmt"
	"net/netip"

	"sitewire/gateway/wg"
)

// Pos is a place in a file, from 1. A Column of 0 is the whole line, a Line of 0 the whole file.
type Pos struct {
	File         string
	Line, Column int
}

// String is file:line:column, as compilers print it.
func (p Pos) String() string {
	switch {
	case p.Line == 0:
		return p.File
	case p.Column == 0:
		return fmt.Sprintf("%s:%d", p.File, p.Line)
	}
	return fmt.Sprintf("%s:%d:%d", p.File, p.Line, p.Column)
}

// Note is something that was not carried as it is, or that is not what was meant.
type Note struct {
	At Pos
	// Text says what and why, Advice what to do instead; either is one line without secrets. Advice may be empty.
	Text, Advice string
}

func (n Note) String() string {
	s := n.At.String() + ": " + n.Text
	if n.Advice != "" {
		s += "\n        " + n.Advice
	}
	return s
}

// File is one wg-quick file: a device and its peers.
type File struct {
	Path string
	// Device is the name of the interface.
	Device string
	// PrivateKey is zero if the file has none. PrivateKeyFile is where a command reads it from.
	PrivateKey     wg.Secret
	PrivateKeyFile string
	ListenPort     uint16 // 0: any
	// FirewallMark of encrypted packets; 0 is off. MarkAt is where it is given.
	FirewallMark uint32
	MarkAt       Pos
	Addresses    []Address
	MTU          int // in bytes; 0: from the path
	MTUAt        Pos
	// Table is where the routes to the allowed-IPs go: "auto" (also if the file says nothing), "off", or a number or name.
	Table   string
	TableAt Pos
	DNS     []string
	Hooks   []Hook
	// SaveConfig has wg-quick write the file anew when the interface goes down.
	SaveConfig bool
	Peers      []*Peer
	// Comments of the file that belong to no peer, without the marks.
	Comments []string
	Notes    []Note

	// routes are what commands route to the device.
	routes []route
}

// route is a prefix that a command routes to the device.
type route struct {
	prefix  netip.Prefix
	hook    Hook
	command string
}

// routed tells whether wg-quick makes routes of the allowed-IPs.
func (f *File) routed() bool { return f.Table != tableOff }

// Values of File.Table that are not tables.
const (
	tableAuto = "auto"
	tableOff  = "off"
)

// Address of a device: Local with the length of its network, Peer the other end of a point-to-point address, if valid.
type Address struct {
	Local, Peer netip.Prefix
	At          Pos
}

// Hook is a command: When is PreUp, PostUp, PreDown or PostDown.
type Hook struct {
	When, Command string
	At            Pos
}

// Peer is a [Peer] section.
type Peer struct {
	At               Pos
	PublicKey        wg.PublicKey
	PresharedKey     wg.Secret
	PresharedKeyFile string // where a command reads it from
	AllowedIPs       []netip.Prefix
	// Endpoint is host:port; empty waits for the peer to call.
	Endpoint   string
	EndpointAt Pos
	Keepalive  uint16 // in seconds; 0 is off
	// Name is what a comment calls the peer; Comments are all that stand with it.
	Name     string
	Comments []string
	Notes    []Note
}
