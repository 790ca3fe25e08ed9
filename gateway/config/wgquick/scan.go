package wgquick

import (
	"regexp"
	"strings"
	"unicode"
	"unicode/utf8"

	"sitewire/gateway/config"
)

// maxSize of a file, in bytes. A thousand peers take about a quarter of a megabyte.
const maxSize = 8 << 20

// section is a header with what stands below it.
type section struct {
	name     string // in lower case
	at       Pos
	entries  []entry
	comments []string // those that a name may be in, the likeliest first
}

// entry is a line "key = value".
type entry struct {
	key, value string
	keyAt, at  Pos // at is the value's
	comment    string
}

// scan divides a text into sections. Comments above a header, behind it, and between it and its first key are the section's.
func scan(path, text string) (sections []*section, top []string, errs config.Errors) {
	fail := func(line, column int, message, hint string) {
		errs = append(errs, &config.Error{File: path, Line: line, Column: column, Message: message, Hint: hint})
	}
	text = strings.TrimPrefix(text, "\ufeff")
	switch {
	case len(text) > maxSize:
		fail(0, 0, "too large for a wg-quick file", "")
		return nil, nil, errs
	case !utf8.ValidString(text) || strings.ContainsRune(text, 0):
		fail(0, 0, "not a text file", "")
		return nil, nil, errs
	}
	var above []string // the comments directly above this line
	var now *section
	for i, raw := range strings.Split(text, "\n") {
		body, comment, commented := strings.Cut(raw, "#")
		comment = strings.TrimSpace(strings.Trim(strings.TrimSpace(comment), "#"))
		trimmed := strings.TrimSpace(body)
		column := 1 + len(body) - len(strings.TrimLeft(body, " \t"))
		switch {
		case trimmed == "":
			switch {
			case !commented:
				above = nil
			case now != nil && now.name == "peer" && len(now.entries) == 0:
				now.comments = append(now.comments, comment)
			default:
				above = append(above, comment)
				top = append(top, comment)
			}
		case trimmed[0] == '[':
			name := strings.ToLower(strings.TrimSpace(strings.TrimSuffix(trimmed[1:], "]")))
			if name != "interface" && name != "peer" || !strings.HasSuffix(trimmed, "]") {
				fail(i+1, column, "not a header of wg-quick", "want [Interface] or [Peer]")
				name = ""
			}
			now = &section{name: name, at: Pos{path, i + 1, column}, comments: above}
			if comment != "" {
				now.comments = append([]string{comment}, above...)
			}
			if name == "peer" { // these are not the file's
				top = top[:len(top)-min(len(top), len(above))]
			}
			sections, above = append(sections, now), nil
		default:
			above = nil
			key, value, ok := strings.Cut(trimmed, "=")
			key = strings.TrimSpace(key)
			switch {
			case !ok || key == "":
				fail(i+1, column, "want a line of the form key = value", "")
			case now == nil:
				fail(i+1, column, "a key before the first header", "want [Interface] or [Peer] above it")
			default:
				at := Pos{path, i + 1, 1 + strings.IndexByte(body, '=') + 1}
				rest := body[at.Column-1:]
				at.Column += len(rest) - len(strings.TrimLeft(rest, " \t"))
				now.entries = append(now.entries, entry{key, strings.TrimSpace(value), Pos{path, i + 1, column}, at, comment})
			}
		}
	}
	return sections, top, errs
}

// keyish is what may be a key: even where it does not belong it is not shown.
var keyish = regexp.MustCompile(`[A-Za-z0-9+/]{40,}=*|[0-9A-Fa-f]{64}`)

// shown is a text of the file as messages and the YAML may show it: in one line, without keys.
func shown(s string) string {
	if s = keyish.ReplaceAllString(oneLine(s), "***"); len(s) > 300 {
		s = strings.ToValidUTF8(s[:300], "") + "…"
	}
	return s
}

// oneLine keeps a text within a comment of YAML.
func oneLine(s string) string {
	return strings.ToValidUTF8(strings.Map(func(r rune) rune {
		if unicode.IsControl(r) || r == '\u2028' || r == '\u2029' || r == '\ufeff' {
			return ' '
		}
		return r
	}, s), "?")
}
