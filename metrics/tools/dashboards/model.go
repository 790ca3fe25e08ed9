// Package dashboards holds the Grafana dashboards as Go values.
//
// Job: say for every panel which question it answers, what is normal and what to do otherwise, with its PromQL; turn that into
// dashboard JSON and into documentation.
// Owner: nothing; everything is a value.
// Inputs: none. Outputs: metrics/grafana/*.json and docs/dashboards.md, both written by this package's tests with -update.
// Invariants: every panel has a title, a description, a unit, thresholds and a text for "no data"; every query is limited to the
// chosen job and instance; ids follow from the order, so that equal values give equal files.
package dashboards

import "strings"

// Board is one dashboard.
type Board struct {
	UID       string // fixed, at most 40 characters: links and bookmarks hold it
	Title     string
	Purpose   string   // what the board is for, a sentence or two
	Variables []string // beyond datasource, job and instance: site, peer, family, device
	// Annotations that are on when the board is opened; the others are there to be switched on.
	Annotations []string
	Rows        []Row
}

// Row is a heading with the panels under it. Panels flow from left to right in 24 columns.
type Row struct {
	Title     string
	Collapsed bool // for what many gateways do not have: its queries run only once it is opened
	Panels    []Panel
}

// Kind is the type of a panel as Grafana calls it.
type Kind string

// Kinds of panels.
const (
	Stat          Kind = "stat"
	TimeSeries    Kind = "timeseries"
	Table         Kind = "table"
	StateTimeline Kind = "state-timeline"
	Heatmap       Kind = "heatmap"
)

// Panel is one panel.
type Panel struct {
	Title    string
	Kind     Kind
	W, H     int    // columns of 24, and rows of 30 pixels
	Question string // that the panel answers
	Normal   string // what it shows when all is well
	Do       string // what to do when it does not
	Alerts   []string
	Unit     string // Grafana's name of the unit
	Decimals *float64
	Min, Max *float64
	NoValue  string // shown when the queries return nothing; says why that may be
	Steps    []Step // thresholds, the first without a value
	Lines    bool   // draw the thresholds into the graph
	States   []State
	Queries  []Query

	// Of time series.
	Stack  bool
	Bars   bool
	Below  string // series whose name matches this expression are drawn below the axis
	Log    bool
	Series map[string]string // colours by name of the series

	// Of tables.
	Columns []Column
	SortBy  string // column, worst first
	Matrix  *Matrix
	// Of stats: the board that a click leads to.
	Link string
}

// Step is a threshold: from Value on, the colour is Color.
type Step struct {
	Value float64
	Color string
}

// State maps a value to a word and a colour.
type State struct {
	Value string
	Text  string
	Color string
}

// Query is a PromQL expression. In Expr the words {gw}, {site}, {peer}, {family} and {device} stand for label matchers of the
// board's variables; {peer,x="y"} adds one.
type Query struct {
	Expr    string
	Legend  string
	Instant bool
}

// Column of a table: a label, or the value of the query with that letter.
type Column struct {
	Field  string // label, or Value #A
	Name   string
	Unit   string
	Steps  []Step // colours the background
	States []State
	Link   string // UID of the board to which a click leads, with this row's peer and instance preset
	Width  int
}

// Matrix turns a table into rows and columns of two labels.
type Matrix struct{ Row, Column string }

const gateway = `job=~"$job",instance=~"$instance"`

// matchers expands the short forms of Query.Expr.
var matchers = strings.NewReplacer(
	"{gw}", "{"+gateway+"}", "{gw,", "{"+gateway+",",
	"{site}", "{"+gateway+`,site=~"$site"}`, "{site,", "{"+gateway+`,site=~"$site",`,
	"{peer}", "{"+gateway+`,peer=~"$peer"}`, "{peer,", "{"+gateway+`,peer=~"$peer",`,
	"{family}", "{"+gateway+`,family=~"$family"}`, "{family,", "{"+gateway+`,family=~"$family",`,
	"{peerfamily}", "{"+gateway+`,peer=~"$peer",family=~"$family"}`, "{peerfamily,", "{"+gateway+`,peer=~"$peer",family=~"$family",`,
)

// Description is the text behind the panel's "i".
func (p *Panel) Description() string {
	s := p.Question + "\n\nNormal: " + p.Normal + "\n\nOtherwise: " + p.Do
	if len(p.Alerts) > 0 {
		s += "\n\nAlerts: " + strings.Join(p.Alerts, ", ") + "."
	}
	return s
}

// All returns the dashboards in the order of the documentation.
func All() []Board { return []Board{overview(), tunnel(), bgp(), routing()} }

// Thresholds that many panels share.
var (
	neutral = []Step{{Color: "blue"}}
	// anyRed: zero is good, anything else is broken.
	anyRed    = []Step{{Color: "green"}, {1, "red"}}
	anyOrange = []Step{{Color: "green"}, {1, "orange"}}
	upDown    = []State{{"0", "down", "red"}, {"1", "up", "green"}}
	upSteps   = []Step{{Color: "red"}, {1, "green"}}
	seenSteps = []Step{{Color: "gray"}, {1, "blue"}} // where absence is no fault
	lossSteps = []Step{{Color: "green"}, {0.01, "yellow"}, {0.05, "red"}}
	rttSteps  = []Step{{Color: "green"}, {0.15, "yellow"}, {0.4, "red"}}
	// ageSteps: WireGuard renews a session that is used after 120 s and drops it after 180 s.
	ageSteps = []Step{{Color: "green"}, {135, "yellow"}, {180, "red"}}
)
