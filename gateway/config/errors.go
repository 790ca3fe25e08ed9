package config

import (
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// Error is one mistake in the configuration.
type Error struct {
	File         string
	Line, Column int // from 1; 0 if the mistake is not in a line
	Message      string
	// Excerpt is the line that the mistake is in, with secrets hidden; empty if there is none.
	Excerpt string
	// Hint says what would be right; may be empty.
	Hint string
}

// Error prints the position and the message, the line with a mark below the column, and the hint.
func (e *Error) Error() string {
	var b strings.Builder
	b.WriteString(position(e.File, e.Line, e.Column) + e.Message)
	if e.Excerpt != "" {
		number := fmt.Sprintf("%5d", e.Line)
		fmt.Fprintf(&b, "\n%s | %s\n%s | %s^", number, e.Excerpt, strings.Repeat(" ", len(number)), pad(e.Excerpt, e.Column))
	}
	if e.Hint != "" {
		b.WriteString("\n        " + e.Hint)
	}
	return b.String()
}

// pad returns the white space that stands below the first column-1 characters of the line: tabs stay tabs.
func pad(line string, column int) string {
	var b strings.Builder
	for _, r := range line {
		if column--; column < 1 {
			break
		}
		if r != '\t' {
			r = ' '
		}
		b.WriteRune(r)
	}
	return b.String()
}

// Errors are all mistakes of a configuration, in the order of files and lines.
type Errors []*Error

// Error prints all mistakes.
func (e Errors) Error() string {
	texts := make([]string, len(e))
	for i, x := range e {
		texts[i] = x.Error()
	}
	return strings.Join(texts, "\n")
}

// Unwrap lets errors.Is and errors.As look at each mistake.
func (e Errors) Unwrap() []error {
	out := make([]error, len(e))
	for i, x := range e {
		out[i] = x
	}
	return out
}

// source is one file that was read.
type source struct {
	path  string
	order int
	lines []string // as printed in errors: without secrets
	mode  uint32   // permission bits
}

func (s *source) excerpt(line int) string {
	if s == nil || line < 1 || line > len(s.lines) {
		return ""
	}
	return s.lines[line-1]
}

// Keys whose values are never printed.
var secretKeys = []string{"private_key", "preshared_key", "password"}

var (
	keyText   = regexp.MustCompile(`["']?([A-Za-z0-9_.-]+)["']?\s*:(\s|$)`)
	reference = regexp.MustCompile(`^\s*["']?\$\{(file|cred):[^}]*\}["']?\s*$`)
	// A key that somebody pasted in the wrong place is still a key.
	base64Key = regexp.MustCompile(`[A-Za-z0-9+/]{42,43}=*`)
)

// maxLine is the longest line that is shown, in bytes.
const maxLine = 2000

// maskLines returns the lines of a file as errors may show them. It looks at text only, because a file with a syntax
// error has no better structure, and it prefers to hide too much: everything behind a key that is, or may be a
// misspelling of, the key of a secret, with the further indented lines below it; and everything that looks like a
// WireGuard key and is not the value of public_key.
func maskLines(text string, known []string) []string {
	lines := strings.Split(strings.ReplaceAll(text, "\r\n", "\n"), "\n")
	inside := -1 // indent of the secret's key
	for i, line := range lines {
		if indent := len(line) - len(strings.TrimLeft(line, " \t")); inside >= 0 && strings.TrimSpace(line) != "" {
			if indent > inside {
				lines[i] = line[:indent] + hidden
				continue
			}
			inside = -1
		}
		lines[i] = maskLine(line, known, &inside)
	}
	return lines
}

func maskLine(line string, known []string, inside *int) string {
	if len(line) > maxLine {
		return "(a line of " + strconv.Itoa(len(line)) + " bytes)"
	}
	public := false
	for _, m := range keyText.FindAllStringSubmatchIndex(line, -1) {
		key := line[m[2]:m[3]]
		if secretish(key, known) {
			if reference.MatchString(line[m[1]:]) { // names where the secret is, which helps
				return line
			}
			*inside = len(line) - len(strings.TrimLeft(line, " \t-"))
			return line[:m[3]] + strings.TrimRight(line[m[3]:m[1]], " \t") + " " + hidden
		}
		public = public || key == "public_key"
	}
	if public {
		return line
	}
	return base64Key.ReplaceAllString(line, hidden)
}

// secretish reports whether a key names a secret, or is too close to one to be sure.
func secretish(key string, known []string) bool {
	if slices.Contains(secretKeys, key) {
		return true
	}
	if slices.Contains(known, key) {
		return false
	}
	key = strings.ToLower(strings.ReplaceAll(key, "-", "_"))
	if slices.ContainsFunc([]string{"pass", "psk", "secret", "private", "preshared", "md5"}, func(s string) bool { return strings.Contains(key, s) }) {
		return true
	}
	return slices.ContainsFunc(secretKeys, func(s string) bool { return distance(key, s) <= 3 })
}

// suggest returns the candidate that the word is probably a misspelling of.
func suggest(word string, candidates []string) (string, bool) {
	best, least := "", 1+len(word)/3
	for _, c := range candidates {
		if d := distance(strings.ToLower(word), strings.ToLower(c)); d <= least && (best == "" || d < least) {
			best, least = c, d
		}
	}
	return best, best != ""
}

// distance is the number of letters to insert, remove, replace, or swap with their neighbour to get from a to b.
func distance(a, b string) int {
	if len(a) > 64 || len(b) > 64 {
		return max(len(a), len(b))
	}
	before, prev, row := make([]int, len(b)+1), make([]int, len(b)+1), make([]int, len(b)+1)
	for j := range prev {
		prev[j] = j
	}
	for i := range len(a) {
		row[0] = i + 1
		for j := range len(b) {
			cost := 1
			if a[i] == b[j] {
				cost = 0
			}
			row[j+1] = min(prev[j]+cost, prev[j+1]+1, row[j]+1)
			if i > 0 && j > 0 && a[i] == b[j-1] && a[i-1] == b[j] {
				row[j+1] = min(row[j+1], before[j-1]+1)
			}
		}
		before, prev, row = prev, row, before
	}
	return prev[len(b)]
}
