package e2e

import (
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
)

// comparison is what benchmarks of this run measured of ours beside others, for one table at the end.
type comparison struct {
	who  []string
	rows []compared
}

// compared is one measure, by who it is of.
type compared struct {
	what string
	of   map[string]float64
}

// beside is of this run: benchmarks run one after the other.
var beside comparison

// add notes a measure of somebody.
func (c *comparison) add(what, who string, value float64) {
	if !slices.Contains(c.who, who) {
		c.who = append(c.who, who)
	}
	i := slices.IndexFunc(c.rows, func(r compared) bool { return r.what == what })
	if i < 0 {
		i, c.rows = len(c.rows), append(c.rows, compared{what, map[string]float64{}})
	}
	c.rows[i].of[who] = value // of several rounds the last
}

// print writes the table: values, and in brackets ours divided by theirs.
func (c *comparison) print(to io.Writer) {
	if len(c.rows) == 0 {
		return
	}
	w := tabwriter.NewWriter(to, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintf(w, "\t%s\t\n", strings.Join(c.who, "\t"))
	for _, r := range c.rows {
		ours, have := r.of["sitewire"]
		cells := make([]string, len(c.who))
		for i, who := range c.who {
			v, ok := r.of[who]
			switch {
			case !ok:
			case who == "sitewire" || !have || v == 0:
				cells[i] = short(v)
			default:
				cells[i] = fmt.Sprintf("%s (%.2f)", short(v), ours/v)
			}
		}
		fmt.Fprintf(w, "%s\t%s\t\n", r.what, strings.Join(cells, "\t"))
	}
	w.Flush()
}

// short prints three digits.
func short(v float64) string {
	if v >= 100 {
		return strconv.FormatFloat(v, 'f', 0, 64)
	}
	return strconv.FormatFloat(v, 'g', 3, 64)
}
