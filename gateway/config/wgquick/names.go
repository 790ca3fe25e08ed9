package wgquick

import (
	"encoding/base64"
	"net/netip"
	"regexp"
	"strconv"
	"strings"

	"sitewire/gateway/config"
)

var (
	// labelled finds a name that a comment gives as such: "Name = nyc", "friendly_name=nyc", "Client: nyc (1234)", "begin nyc".
	labelled = regexp.MustCompile(`^(?i:friendly_name|name|peer|client|begin)(?:\s*[:=]\s*|\s+)(.+)$`)
	// notLabel is what no name contains: assignments that were commented out, headers, keys, addresses of pages.
	notLabel = regexp.MustCompile(`[=\[\]{}]|://|@`)
	badRunes = regexp.MustCompile(`[^A-Za-z0-9._-]+`)
	// asText and dn42Text find AS numbers in names and comments.
	asText   = regexp.MustCompile(`(?i)(?:^|[^A-Za-z0-9])(?:wg-?)?asn?[-_:]?([0-9]{3,10})(?:$|[^0-9])`)
	dn42Text = regexp.MustCompile(`(?:^|[^0-9])(424242[0-9]{4})(?:$|[^0-9])`)
)

// maxWords of a comment that is a name; more are prose.
const maxWords = 4

// nameIn finds a peer's name in comments: one that is called so, else the first that looks like one.
func nameIn(comments []string) string {
	for _, c := range comments {
		if m := labelled.FindStringSubmatch(c); m != nil {
			if n := asName(m[1]); n != "" {
				return n
			}
		}
	}
	for _, c := range comments {
		if n := asName(c); n != "" {
			return n
		}
	}
	return ""
}

// description is the first comment that says more than the name.
func description(comments []string, name string) string {
	for _, c := range comments {
		if c != "" && len(c) <= 200 && clean(c) != name && !strings.HasPrefix(c, ownComment) && !labelled.MatchString(c) && !notLabel.MatchString(c) && !keyish.MatchString(c) {
			return c
		}
	}
	return ""
}

// asName makes a name of a text, or nothing of one that is none.
func asName(s string) string {
	s, _, _ = strings.Cut(s, " (")
	s, _, _ = strings.Cut(s, ",")
	s = strings.TrimSpace(s)
	if strings.HasPrefix(s, ownComment) || notLabel.MatchString(s) || keyish.MatchString(s) || len(strings.Fields(s)) > maxWords {
		return ""
	}
	return clean(s)
}

// clean replaces what no name may have.
func clean(s string) string {
	s = strings.Trim(badRunes.ReplaceAllString(s, "-"), "-_.")
	if len(s) > 63 {
		s = strings.Trim(s[:63], "-_.")
	}
	if !config.ValidName(s) {
		return ""
	}
	return s
}

// peerName finds a name for a peer: from a comment, from the host name of its endpoint, from the device if it is alone there, from the
// address of its endpoint, or from its key.
func peerName(f *File, p *Peer) string {
	if p.Name != "" {
		return p.Name
	}
	host := ""
	if e, err := config.ParseEndpoint(p.Endpoint); err == nil {
		host = clean(e.Host)
		if _, err := netip.ParseAddr(e.Host); err != nil && host != "" {
			return host
		}
	}
	if n := clean(f.Device); n != "" && len(f.Peers) == 1 {
		return n
	}
	if host != "" {
		return host
	}
	return "peer-" + strings.NewReplacer("+", "-", "/", "-").Replace(base64.StdEncoding.EncodeToString(p.PublicKey[:6]))
}

// peerASN looks for one AS number in what the file says of a peer; 0 if there is none, or more than one.
func peerASN(f *File, p *Peer, own uint32) uint32 {
	texts := append([]string{p.Name, p.Endpoint}, p.Comments...)
	if len(f.Peers) == 1 {
		texts = append(append(texts, f.Device), f.Comments...)
	}
	var found uint32
	for _, t := range texts {
		for _, re := range []*regexp.Regexp{asText, dn42Text} {
			for _, m := range re.FindAllStringSubmatch(t, -1) {
				n, err := strconv.ParseUint(m[1], 10, 32)
				if err != nil || n == 0 || n == 23456 || n == 65535 || n == 1<<32-1 || uint32(n) == own {
					continue
				}
				if found != 0 && found != uint32(n) {
					return 0
				}
				found = uint32(n)
			}
		}
	}
	return found
}
