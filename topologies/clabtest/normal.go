package clabtest

import (
	"net/netip"
	"regexp"
	"slices"
	"strings"
	"unicode/utf8"

	"sitewire/topologies"
)

// changing is what is never the same twice in the output of a command, and the word of topologies.Placeholders that stands for it.
var changing = []struct {
	what *regexp.Regexp
	word string
}{
	{regexp.MustCompile(`\b\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(\.\d+)?Z?\b`), "TIME"},
	{regexp.MustCompile(`@\[\d+(\.\d+)?\]`), "@[TIME]"},
	{regexp.MustCompile(`\b\d\d:\d\d:\d\d(\.\d+)?\b`), "TIME"},
	{regexp.MustCompile(`\b\d+ (second|minute)s?(, \d+ seconds?)?( ago)?\b`), "TIME"},
	{regexp.MustCompile(`\b(\d+(\.\d+)?(ns|us|ms|s|m|h))+\b`), "TIME"},
	{regexp.MustCompile(`\b\d+(\.\d+)?([KM]i)?B\b`), "BYTES"},
	{regexp.MustCompile(`\bBIRD \d+(\.\d+)+\b`), "BIRD VERSION"},
}

var endpoint = regexp.MustCompile(`\b\d+\.\d+\.\d+\.\d+:\d+\b`)

// Normal puts placeholders into an output of a node of a network, and aligns its columns anew: a table's columns are as wide as what is
// in them.
func Normal(w *topologies.Network, out string) string {
	for _, c := range changing {
		out = c.what.ReplaceAllString(out, c.word)
	}
	known := map[string]bool{}
	for _, t := range w.Tunnels {
		for _, e := range t.Ends() {
			if e[0].Address.IsValid() {
				known[netip.AddrPortFrom(e[0].Address, e[0].Port).String()] = true
			}
		}
	}
	out = endpoint.ReplaceAllStringFunc(out, func(s string) string {
		if known[s] {
			return s
		}
		return s[:strings.IndexByte(s, ':')] + ":PORT"
	})
	out = announced.ReplaceAllString(out, "$1/COUNT")
	if looped(w) {
		for range 2 { // neighbours share the blanks between them
			out = cells.ReplaceAllString(out, "${1}COUNT${3}")
		}
	}
	lines := strings.Split(strings.TrimRight(out, "\n"), "\n")
	for i := range lines {
		lines[i] = strings.TrimRight(lines[i], " ")
	}
	if strings.Contains(lines[0], "} => ") { // promtool, which has no order
		slices.Sort(lines)
	}
	for i := 0; i < len(lines); {
		n := 1
		if table(lines[i]) {
			for i+n < len(lines) && strings.Contains(lines[i+n], "  ") {
				n++
			}
			align(lines[i : i+n])
		}
		i += n
	}
	return strings.Join(lines, "\n") + "\n"
}

var (
	// announced is the last of received/accepted/announced prefixes: it is counted from time to time only.
	announced = regexp.MustCompile(`\b(\d+/\d+)/\d+\b`)
	// cells are numbers of prefixes or paths in a column.
	cells = regexp.MustCompile(`(?m)( {2})(\d+/\d+(?:/COUNT)?)( |$)`)
)

// looped tells whether there is more than one way between two routers. How many paths each then tells the other of depends on what it
// heard first.
func looped(w *topologies.Network) bool {
	routers := map[*topologies.Node]bool{}
	for _, t := range w.Tunnels {
		routers[t.A.Node], routers[t.B.Node] = true, true
	}
	for _, s := range w.Sessions {
		routers[s.A.Node], routers[s.B.Node] = true, true
	}
	return len(w.Tunnels)+len(w.Sessions) >= len(routers)
}

var heading = regexp.MustCompile(`^\S+( {2,}\S+){2,}`)

// table tells whether a line is the heading of a table.
func table(line string) bool {
	return heading.MatchString(line) && strings.ToUpper(line[:1]) == line[:1]
}

var gap = regexp.MustCompile(` {2,}`)

// align gives the cells of a table, which are two blanks apart at least, columns of the same width.
func align(lines []string) {
	rows := make([][]string, len(lines))
	var width []int
	for i, l := range lines {
		rows[i] = gap.Split(strings.TrimRight(l, " "), -1)
		for j, cell := range rows[i] {
			if j == len(width) {
				width = append(width, 0)
			}
			width[j] = max(width[j], utf8.RuneCountInString(cell))
		}
	}
	for i, row := range rows {
		var b strings.Builder
		for j, cell := range row {
			b.WriteString(cell)
			if j < len(row)-1 {
				b.WriteString(strings.Repeat(" ", width[j]-utf8.RuneCountInString(cell)+2))
			}
		}
		lines[i] = b.String()
	}
}
