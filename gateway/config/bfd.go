package config

import (
	"fmt"
	"strings"
	"time"
)

// BFD says how the way to a neighbour is watched (RFC 5880, RFC 5881); the zero value does not.
type BFD struct {
	// Interval between packets, in both directions; the slower end decides. Multiplier is how many may be missing.
	Interval   time.Duration
	Multiplier uint8
}

// On tells whether there is to be a BFD session.
func (b BFD) On() bool { return b.Interval > 0 }

func (b BFD) String() string {
	if !b.On() {
		return bfdOff
	}
	return fmt.Sprintf("%v x %d", b.Interval, b.Multiplier)
}

// Words for BFD. On a wired line 200 ms is many times what a packet needs; lines that vary, or cost by the byte, get
// one packet a second (about 20 MB a month in each direction, outer headers included).
const (
	bfdOff     = "off"
	bfdWired   = "wired"
	bfdMetered = "metered"

	bfdMultiplier = 3
)

func bfdWords() map[string]BFD {
	return map[string]BFD{bfdOff: {}, bfdWired: {200 * time.Millisecond, bfdMultiplier}, bfdMetered: {time.Second, bfdMultiplier}}
}

// Limits of BFD. Below 50 ms a busy router fails sessions that work.
const (
	minBFD = 50 * time.Millisecond
	maxBFD = 60 * time.Second
)

func bfdObject() object[BFD] {
	interval := text(fmt.Sprintf("a time such as 300ms or 1s, %v to %v", minBFD, maxBFD), pattern(`^[0-9.]+(ms|s|m)$`), func(s string) (time.Duration, error) {
		v, err := time.ParseDuration(s)
		if err != nil || v < minBFD || v > maxBFD || v%time.Millisecond != 0 {
			return 0, errWant
		}
		return v, nil
	})
	return object[BFD]{name: "bfd", fields: []field[BFD]{
		key("interval", interval, func(b *BFD) *time.Duration { return &b.Interval }, "", "Time between packets.").must(),
		key("multiplier", number[uint8]("packets", 2, 50), func(b *BFD) *uint8 { return &b.Multiplier }, "3", "How many packets may be missing before the neighbour counts as lost."),
	}}
}

func bfdKind() kind[BFD] {
	words, full := oneOf(bfdOff, bfdWired, bfdMetered), bfdObject()
	want := strings.TrimPrefix(words.want, "one of ") + ", or {interval: 300ms, multiplier: 3}"
	return kind[BFD]{
		want:   want,
		schema: schema{"anyOf": []any{words.schema, full.schema()}},
		read: func(d *decoder, n *node) (BFD, bool) {
			if n.form != mapping {
				w, ok := words.read(d, n)
				return bfdWords()[w], ok
			}
			b := &BFD{Multiplier: bfdMultiplier}
			full.into(d, n, b)
			return *b, d.usable(b, &b.Interval, &b.Multiplier)
		},
	}
}

// sessionBFD decides how a session is watched. Where BFD cannot work it is off, with a warning if somebody asked for it.
func (r *raw) sessionBFD(d *decoder, s *rawSession, out *Session) {
	asked := d.given(&s.bfd)
	if out.BFD = r.BGP.BFD; asked {
		out.BFD = s.bfd
	}
	if out.Multihop > 0 && out.BFD.On() {
		out.BFD = BFD{}
		if asked {
			d.warnf(d.at(&s.bfd), "bfd is off for this session: it is for neighbours one hop away (RFC 5881), and this one has multihop")
		} else {
			d.warnf(d.at(&s.multihop), "bgp.bfd does not apply to this session: it is for neighbours one hop away (RFC 5881), and this one has multihop")
		}
	}
}
