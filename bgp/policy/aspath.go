package policy

import (
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// separator is what `_` stands for: the beginning or the end of the path, or what may stand between two ASNs when it
// is printed. The same text as GoBGP's, so that the speaker and `explain` agree.
const separator = `(^|[,{}() ]|$)`

// Forms that need no regular expression at run time: nearly all that people write.
var simplePath = regexp.MustCompile(`^([_^]?)(0|[1-9][0-9]{0,9})([_$]?)$`)

// ASPathMatcher is a compiled Match.ASPath.
type ASPathMatcher struct {
	asn         uint32
	first, last bool           // the ASN's place in the path, if re is nil
	re          *regexp.Regexp // otherwise
}

// CompileASPath reads a regular expression over the AS path as it is printed, "64512 64513 64514", in which `_` is
// the edge of an ASN: "^64512_" begins with, "_666$" ends with, "_666_" contains, "^64512$" is, "^$" is empty.
func CompileASPath(expr string) (*ASPathMatcher, error) {
	if m := simplePath.FindStringSubmatch(expr); m != nil && m[1] != "" && m[3] != "" {
		asn, err := strconv.ParseUint(m[2], 10, 32)
		if err != nil {
			return nil, fmt.Errorf("as_path %q: %s is not an ASN (at most 4294967295)", expr, m[2])
		}
		return &ASPathMatcher{asn: uint32(asn), first: m[1] == "^", last: m[3] == "$"}, nil
	}
	re, err := regexp.Compile(strings.ReplaceAll(expr, "_", separator))
	if err != nil {
		return nil, fmt.Errorf("as_path %q: %w", expr, err)
	}
	return &ASPathMatcher{re: re}, nil
}

// Match reports whether the path matches.
func (m *ASPathMatcher) Match(path []uint32) bool {
	switch {
	case m.re != nil:
		return m.re.MatchString(FormatASPath(path))
	case len(path) == 0:
		return false
	case m.first && m.last:
		return len(path) == 1 && path[0] == m.asn
	case m.first:
		return path[0] == m.asn
	case m.last:
		return path[len(path)-1] == m.asn
	}
	return slices.Contains(path, m.asn)
}

// FormatASPath prints a path as regular expressions see it.
func FormatASPath(path []uint32) string {
	b := make([]byte, 0, 11*len(path))
	for i, asn := range path {
		if i > 0 {
			b = append(b, ' ')
		}
		b = strconv.AppendUint(b, uint64(asn), 10)
	}
	return string(b)
}
