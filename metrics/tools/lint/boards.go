package lint

import (
	"encoding/json"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/grafana/grafana-foundation-sdk/go/dashboard"

	"sitewire/metrics/tools/board"
)

// Boards checks dashboards together: their ids and the links between them too.
func Boards(boards []*board.Board, known Known, alerts []string, used map[string]bool) (problems []string) {
	uids := map[string]bool{}
	for _, b := range boards {
		uid := text(b.Uid)
		if uids[uid] || uid == "" || len(uid) > 40 {
			problems = append(problems, fmt.Sprintf("%s: uid %q is missing, too long or taken", b.File, uid))
		}
		uids[uid] = true
	}
	for _, b := range boards {
		c := &checker{board: b, known: known, used: used, alerts: alerts, uids: uids}
		c.check()
		for _, p := range c.problems {
			problems = append(problems, text(b.Uid)+": "+p)
		}
	}
	return problems
}

type checker struct {
	board    *board.Board
	known    Known
	used     map[string]bool
	alerts   []string
	uids     map[string]bool
	values   map[string]string // of the board's variables during the check
	problems []string
}

func (c *checker) problem(format string, args ...any) {
	c.problems = append(c.problems, fmt.Sprintf(format, args...))
}

func (c *checker) check() {
	b := c.board
	if b.SchemaVersion < 39 || b.SchemaVersion > 41 {
		c.problem("schema version %d: 39 to 41 is what Grafana 10 to 13 read", b.SchemaVersion)
	}
	if b.Id != nil || b.Version != nil {
		c.problem("id and version belong to one Grafana's database")
	}
	if b.Editable == nil || *b.Editable {
		c.problem("it is editable: changes would be lost at the next provisioning")
	}
	if text(b.Title) == "" || text(b.Description) == "" || len(b.Tags) == 0 || text(b.Refresh) == "" || b.Time == nil {
		c.problem("title, description, tags, refresh or time is missing")
	}
	c.variables()
	for _, a := range b.Annotations.List {
		c.source("annotation "+a.Name, board.Source(a.Datasource))
		c.expression("annotation "+a.Name, text(a.Expr), text(a.TextFormat))
	}
	c.grid()
	for i := range b.Flat {
		c.panel(&b.Flat[i])
	}
	c.links()
}

func (c *checker) source(where, uid string) {
	if uid != "${datasource}" {
		c.problem("%s: data source %q is not the one that the reader chose", where, uid)
	}
}

var labelValues = regexp.MustCompile(`^label_values\((.+), *(\w+)\)$`)

// names of metrics in a selector that names several.
var names = regexp.MustCompile(`__name__=~"([^"]+)",?`)

func (c *checker) variables() {
	c.values = map[string]string{"__rate_interval": rateInterval.String(), "__range": chosenRange.String()}
	for _, v := range c.board.Templating.List {
		if c.values[v.Name] != "" {
			c.problem("variable %s twice", v.Name)
		}
		c.values[v.Name] = sentinel(v.Name)
	}
	for _, want := range []string{"datasource", "job", "instance"} {
		if c.values[want] == "" {
			c.problem("no variable %s", want)
		}
	}
	for i := range c.board.Templating.List {
		v := &c.board.Templating.List[i]
		if v.Type == dashboard.VariableTypeDatasource {
			continue
		}
		where := "variable " + v.Name
		c.source(where, board.Source(v.Datasource))
		if v.Multi == nil || !*v.Multi || v.IncludeAll == nil || !*v.IncludeAll || v.Refresh == nil || *v.Refresh != dashboard.VariableRefreshOnTimeRangeChanged {
			c.problem("%s: several and all can be chosen, and the list follows the time", where)
		}
		m := labelValues.FindStringSubmatch(board.VariableQuery(v))
		if m == nil {
			c.problem("%s: %q is not label_values(selector, label)", where, board.VariableQuery(v))
			continue
		}
		selectors := []string{m[1]}
		if n := names.FindStringSubmatch(m[1]); n != nil {
			selectors = nil
			for name := range strings.SplitSeq(n[1], "|") {
				selectors = append(selectors, name+names.ReplaceAllString(m[1], ""))
			}
		}
		for _, s := range selectors {
			x := &expression{known: c.known, used: map[string]bool{}}
			if labels := x.check(board.Expand(s, c.values)); !labels.has(m[2]) {
				x.problem("%s has no label %s", s, m[2])
			}
			c.take(where, x)
		}
	}
}

func (c *checker) take(where string, x *expression) {
	for _, p := range x.problems {
		c.problem("%s: %s", where, p)
	}
}

// expression checks a query and returns the labels of its result.
func (c *checker) expression(where, expr, legend string) labelSet {
	expanded := board.Expand(expr, c.values)
	x := &expression{known: c.known, dashboard: true, used: c.used}
	if strings.Contains(expanded, "$") {
		x.problem("%q uses a variable that the board does not have", expr)
	}
	labels := x.check(expanded)
	x.legend(legend, labels)
	c.take(where, x)
	return labels
}

// grid checks that panels lie within the page, not upon each other, and have ids of their own.
func (c *checker) grid() {
	ids := map[uint32]bool{}
	id := func(n uint32, what string) {
		if ids[n] || n == 0 {
			c.problem("%s: id %d is missing or taken", what, n)
		}
		ids[n] = true
	}
	var open []*dashboard.Panel
	for i := range c.board.Panels {
		p := &c.board.Panels[i]
		if p.Panel != nil {
			id(number(p.Panel.Id), text(p.Panel.Title))
			open = append(open, p.Panel)
			continue
		}
		row := p.RowPanel
		id(row.Id, text(row.Title))
		if row.GridPos == nil || text(row.Title) == "" {
			c.problem("a row without a place or a title")
			continue
		}
		open = append(open, &dashboard.Panel{Title: row.Title, GridPos: row.GridPos})
		var closed []*dashboard.Panel
		for j := range row.Panels {
			id(number(row.Panels[j].Id), text(row.Panels[j].Title))
			closed = append(closed, &row.Panels[j])
		}
		c.overlaps(closed)
	}
	c.overlaps(open)
}

func (c *checker) overlaps(panels []*dashboard.Panel) {
	taken := map[[2]uint32]string{}
	for _, p := range panels {
		g, name := p.GridPos, text(p.Title)
		if g == nil || g.W == 0 || g.H == 0 || g.X+g.W > 24 {
			c.problem("%s: has no place, or one outside of 24 columns", name)
			continue
		}
		if other := func() string {
			for x := g.X; x < g.X+g.W; x++ {
				for y := g.Y; y < g.Y+g.H; y++ {
					if other := taken[[2]uint32{x, y}]; other != "" {
						return other
					}
					taken[[2]uint32{x, y}] = name
				}
			}
			return ""
		}(); other != "" {
			c.problem("%s lies upon %s", name, other)
		}
	}
}

var alertName = regexp.MustCompile(`\bSitewire[A-Z]\w+`)

func (c *checker) panel(p *board.Panel) {
	where := p.Name()
	if where == "" {
		where = fmt.Sprintf("panel %d", number(p.Id))
		c.problem("%s: no title", where)
	}
	if text(p.Description) == "" {
		c.problem("%s: no description", where)
	}
	for _, name := range alertName.FindAllString(text(p.Description), -1) {
		if !slices.Contains(c.alerts, name) {
			c.problem("%s: the description names the alert %s, which does not exist", where, name)
		}
	}
	c.source(where, board.Source(p.Datasource))
	if f := p.FieldConfig; f == nil || text(f.Defaults.Unit) == "" || text(f.Defaults.NoValue) == "" || f.Defaults.Thresholds == nil || len(f.Defaults.Thresholds.Steps) == 0 {
		c.problem("%s: no unit, no thresholds or no text for no data", where)
	}
	if len(p.Queries) == 0 {
		c.problem("%s: no query", where)
	}
	refs := map[string]bool{}
	for _, q := range p.Queries {
		ref := text(q.RefId)
		if ref == "" || refs[ref] {
			c.problem("%s: the letter %q of a query is missing or taken", where, ref)
		}
		refs[ref] = true
		at := where + " " + ref
		c.source(at, board.Source(q.Datasource))
		result := c.expression(at, q.Expr, text(q.LegendFormat))
		if p.Type == "heatmap" && !result.has("le") {
			c.problem("%s: a heatmap without le", at)
		}
		if p.Type == "table" != (q.Format != nil && *q.Format == "table") {
			c.problem("%s: only tables have the format table", at)
		}
		if instant := q.Instant != nil && *q.Instant; instant != (p.Type == "table" || p.Type == "stat") {
			c.problem("%s: tables and single values are instant queries, the others are not", at)
		}
	}
}

var linked = regexp.MustCompile(`"/d/([^?"/]+)`)

func (c *checker) links() {
	all, err := json.Marshal(c.board.Dashboard)
	if err != nil {
		c.problem("%v", err)
		return
	}
	for _, m := range linked.FindAllStringSubmatch(string(all), -1) {
		if !c.uids[m[1]] {
			c.problem("a link leads to %s, which is no board", m[1])
		}
	}
}

func text(s *string) string {
	if s == nil {
		return ""
	}
	return *s
}

func number(n *uint32) uint32 {
	if n == nil {
		return 0
	}
	return *n
}
