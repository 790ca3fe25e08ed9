package bgp

import (
	"strconv"
	"strings"

	"sitewire/bgp/policy"
)

// GoBGP's policies have no variables and cannot ask, on the way out, where a route came from. We write such notes on
// the route itself, as standard communities of a range that nobody has registered (65535:61000 to 65535:61999). They
// are taken off before a route leaves, and off what comes in. Standard ones, because GoBGP v4.8.0 appends large
// communities to a slice that paths share.
const (
	markFirst = 65535<<16 | 61000
	markLast  = 65535<<16 | 61999

	markTunnel  = markFirst + 1 // learned behind a tunnel
	markLAN     = markFirst + 2 // learned from a neighbour that is not
	markNowhere = markFirst + 3 // goes to no neighbour, see settle.go
	// markOrigin and what follows note the validity of the origin in one of the tables, see origin.go.
	markOrigin      = markFirst + 10
	maxOriginTables = 30
	markRule        = markFirst + 100
	maxRules        = markLast - markRule + 1

	marksPattern = `^65535:61[0-9]{3}$`
)

func isMark(c uint32) bool { return c >= markFirst && c <= markLast }

func exactly(c string) string { return "^" + c + "$" }

// communityPatterns translates patterns of a rule (see policy.Match.Communities and Set.RemoveCommunities) into regular
// expressions over standard and large communities. None of them matches a mark.
func communityPatterns(list []string) (std, large []string) {
	for _, p := range list {
		if p == "*" {
			return []string{
				`^([0-9]{1,4}|[0-5][0-9]{4}|6[0-4][0-9]{3}|65[0-4][0-9]{2}|655[0-2][0-9]|6553[0-4]):[0-9]+$`, reserved,
			}, []string{`^`}
		}
		parts := strings.Split(p, ":")
		if star := strings.Index(p, "*"); star > 0 {
			for i := range parts {
				if parts[i] == "*" {
					parts[i] = "[0-9]+"
				} else if n, err := strconv.ParseUint(parts[i], 10, 32); err == nil {
					parts[i] = strconv.FormatUint(n, 10)
				}
			}
			switch {
			case len(parts) == 3:
				large = append(large, exactly(strings.Join(parts, ":")))
			case parts[0] == "65535":
				std = append(std, reserved)
			default:
				std = append(std, exactly(strings.Join(parts, ":")))
			}
			continue
		}
		c, err := policy.ParseCommunity(p)
		if err != nil {
			continue // refused by Validate
		}
		if strings.Count(c, ":") == 2 {
			large = append(large, exactly(c))
		} else {
			std = append(std, exactly(c))
		}
	}
	return std, large
}

// reserved matches 65535:* without the marks.
const reserved = `^65535:([0-57-9][0-9]*|6|6[02-9][0-9]*|61|61[0-9]{1,2})$`
