package bfd

import (
	"encoding/binary"
	"errors"
	"time"
)

// State of a session (RFC 5880 section 4.1).
type State uint8

// States, numbered as on the wire.
const (
	AdminDown State = iota
	Down
	Init
	Up
)

func (s State) String() string {
	switch s {
	case AdminDown:
		return "AdminDown"
	case Down:
		return "Down"
	case Init:
		return "Init"
	case Up:
		return "Up"
	}
	return "Unknown"
}

// MarshalText implements encoding.TextMarshaler.
func (s State) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// UnmarshalText implements encoding.TextUnmarshaler; what it does not know is Down.
func (s *State) UnmarshalText(text []byte) error {
	*s = Down
	for x := AdminDown; x <= Up; x++ {
		if x.String() == string(text) {
			*s = x
		}
	}
	return nil
}

// Diagnostic says why a session last left Up (RFC 5880 section 4.1).
type Diagnostic uint8

// Diagnostics that this end gives itself.
const (
	NoDiagnostic         Diagnostic = 0
	DetectionTimeExpired Diagnostic = 1
	NeighborSignaledDown Diagnostic = 3
	AdministrativelyDown Diagnostic = 7
)

const diagnosticMask = 0x1f

// String is in the words of RFC 5880, as the metrics have it.
func (d Diagnostic) String() string {
	names := [...]string{
		"none", "control_detection_time_expired", "echo_function_failed", "neighbor_signaled_session_down", "forwarding_plane_reset", "path_down",
		"concatenated_path_down", "administratively_down", "reverse_concatenated_path_down",
	}
	if int(d) < len(names) {
		return names[d]
	}
	return "reserved"
}

// packet is a control packet without authentication (RFC 5880 section 4.1).
type packet struct {
	diag               Diagnostic
	state              State
	poll, final        bool
	independent        bool // C: the sender's BFD does not share fate with its control plane
	demand             bool
	multiplier         uint8
	mine, yours        uint32
	desiredTx, minRx   time.Duration
	minEcho            time.Duration
	authenticated      bool // not understood here
	multipointReserved bool
}

const (
	packetLen = 24
	version   = 1

	flagPoll, flagFinal, flagIndependent, flagAuth, flagDemand, flagMultipoint = 0x20, 0x10, 0x08, 0x04, 0x02, 0x01
)

// Errors of parse.
var (
	errMalformed     = errors.New("not a BFD control packet")
	errAuthenticated = errors.New("authenticated, which no session here is")
)

// parse reads a packet and checks all that RFC 5880 section 6.8.6 says about one without a session.
func parse(b []byte) (packet, error) {
	if len(b) < packetLen || b[0]>>5 != version || int(b[3]) < packetLen || int(b[3]) > len(b) {
		return packet{}, errMalformed
	}
	micro := func(at int) time.Duration { return time.Duration(binary.BigEndian.Uint32(b[at:])) * time.Microsecond }
	p := packet{
		diag: Diagnostic(b[0] & diagnosticMask), state: State(b[1] >> 6),
		poll: b[1]&flagPoll != 0, final: b[1]&flagFinal != 0, independent: b[1]&flagIndependent != 0,
		authenticated: b[1]&flagAuth != 0, demand: b[1]&flagDemand != 0, multipointReserved: b[1]&flagMultipoint != 0,
		multiplier: b[2], mine: binary.BigEndian.Uint32(b[4:]), yours: binary.BigEndian.Uint32(b[8:]),
		desiredTx: micro(12), minRx: micro(16), minEcho: micro(20),
	}
	switch {
	case p.authenticated:
		return packet{}, errAuthenticated
	case p.multiplier == 0 || p.multipointReserved || p.mine == 0 || p.yours == 0 && p.state > Down:
		return packet{}, errMalformed
	}
	return p, nil
}

// marshal is the packet as it is sent. Echo packets are not wanted (Required Min Echo RX is 0).
func (p *packet) marshal() []byte {
	b := make([]byte, packetLen)
	b[0] = version<<5 | byte(p.diag)
	b[1] = byte(p.state) << 6
	for flag, on := range map[byte]bool{flagPoll: p.poll, flagFinal: p.final, flagIndependent: p.independent, flagDemand: p.demand} {
		if on {
			b[1] |= flag
		}
	}
	b[2], b[3] = p.multiplier, packetLen
	for at, v := range map[int]uint32{
		4: p.mine, 8: p.yours, 12: uint32(p.desiredTx / time.Microsecond), 16: uint32(p.minRx / time.Microsecond), 20: uint32(p.minEcho / time.Microsecond),
	} {
		binary.BigEndian.PutUint32(b[at:], v)
	}
	return b
}
