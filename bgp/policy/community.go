package policy

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// Well-known communities that the fixed refusals look for (RFC 1997, RFC 3765).
const (
	noExport    = "65535:65281"
	noAdvertise = "65535:65282"
	localAS     = "65535:65283"
)

// wellKnown returns the value of a registered community name (IANA, BGP Well-known Communities).
func wellKnown(name string) (string, bool) {
	switch name {
	case "graceful-shutdown": // RFC 8326
		return "65535:0", true
	case "accept-own": // RFC 7611
		return "65535:1", true
	case "llgr-stale": // RFC 9494
		return "65535:6", true
	case "no-llgr": // RFC 9494
		return "65535:7", true
	case "blackhole": // RFC 7999
		return "65535:666", true
	case "no-export":
		return noExport, true
	case "no-advertise":
		return noAdvertise, true
	case "local-as", "no-export-subconfed":
		return localAS, true
	case "no-peer": // RFC 3765
		return "65535:65284", true
	}
	return "", false
}

// ParseCommunity reads a standard (RFC 1997, "64511:24") or large community (RFC 8092, "64511:1:2") or a well-known
// name, and returns the numbers without leading zeros.
func ParseCommunity(s string) (string, error) {
	if v, ok := wellKnown(s); ok {
		return v, nil
	}
	parts := strings.Split(s, ":")
	bits := 16
	if len(parts) == 3 {
		bits = 32
	}
	if len(parts) != 2 && len(parts) != 3 {
		return "", errCommunity(s)
	}
	for i, p := range parts {
		n, err := strconv.ParseUint(p, 10, bits)
		if err != nil {
			return "", errCommunity(s)
		}
		parts[i] = strconv.FormatUint(n, 10)
	}
	return strings.Join(parts, ":"), nil
}

func errPattern(s string) error {
	return fmt.Errorf("%q is not a community pattern: want 64511:*, 4242420001:*:*, 4242420001:1:* or *", s)
}

func errCommunity(s string) error {
	return fmt.Errorf("%q is not a community: want 64511:24 (each at most 65535), 4242420001:1:2 (large), or no-export, "+
		"no-advertise, local-as, no-peer, blackhole, graceful-shutdown", s)
}

// communityPattern matches communities with the same number of parts whose leading parts are equal; `*` parts match
// everything. "*" alone matches every community.
type communityPattern struct {
	exact  string // canonical, without wildcards
	prefix string // with its last colon, when wildcards follow
	parts  int    // of a pattern with wildcards; 0 matches any number
}

// parsePattern reads a community or one whose last parts are `*`.
func parsePattern(s string) (communityPattern, error) {
	if s == "*" {
		return communityPattern{}, nil
	}
	if !strings.Contains(s, "*") {
		c, err := ParseCommunity(s)
		return communityPattern{exact: c}, err
	}
	parts := strings.Split(s, ":")
	star := slices.Index(parts, "*")
	if star < 1 || slices.ContainsFunc(parts[star:], func(p string) bool { return p != "*" }) {
		return communityPattern{}, errPattern(s)
	}
	whole := slices.Clone(parts)
	for i := star; i < len(whole); i++ {
		whole[i] = "0"
	}
	c, err := ParseCommunity(strings.Join(whole, ":"))
	if err != nil {
		return communityPattern{}, errPattern(s)
	}
	return communityPattern{
		prefix: strings.Join(strings.Split(c, ":")[:star], ":") + ":",
		parts:  len(parts),
	}, nil
}

// match compares with a canonical community.
func (p communityPattern) match(c string) bool {
	if p.exact != "" {
		return p.exact == c
	}
	return p.parts == 0 || strings.HasPrefix(c, p.prefix) && strings.Count(c, ":") == p.parts-1
}

// canonical returns the numbers of a community of a route; a text that is none stays as it is.
func canonical(c string) string {
	if c != "" && (c[0] < '0' || c[0] > '9') {
		if v, ok := wellKnown(c); ok {
			return v
		}
	}
	return c
}

// carries reports whether the route has a community that one of the patterns matches.
func carries(communities []string, patterns []communityPattern) bool {
	for _, c := range communities {
		c = canonical(c)
		for _, p := range patterns {
			if p.match(c) {
				return true
			}
		}
	}
	return false
}
