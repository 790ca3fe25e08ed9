package main

import (
	"fmt"
	"image/color"
	"maps"
	"math"
	"slices"
	"strconv"
	"time"

	"github.com/grafana/grafana-foundation-sdk/go/dashboard"
	"github.com/grafana/grafana-foundation-sdk/go/table"

	"sitewire/metrics/tools/board"
)

const titleHeight = 26

// panel draws what a panel shows, and says whether it has no data.
func (p *page) panel(panel *board.Panel, answers []answer, v view) (empty bool, err error) {
	if !anything(answers) {
		p.noData(panel)
		return true, nil
	}
	switch panel.Type {
	case "stat":
		return false, p.stat(panel, answers)
	case "table":
		f, err := transform(panel, frames(answers))
		if err != nil {
			return false, err
		}
		return false, p.table(panel, f)
	case "state-timeline":
		return false, p.timeline(panel, answers, v)
	case "heatmap":
		return false, p.heatmap(panel, answers, v)
	case "timeseries":
		return false, p.timeseries(panel, answers, v)
	}
	return false, fmt.Errorf("panels of type %s are not drawn", panel.Type)
}

// anything says whether there is a number in the answers.
func anything(answers []answer) bool {
	for _, a := range answers {
		for _, s := range a.series {
			for _, pt := range s.Values {
				if !math.IsNaN(pt.v) {
					return true
				}
			}
		}
	}
	return false
}

func (p *page) noData(panel *board.Panel) {
	p.text(12, float64(p.h)/2, float64(p.w)-24, 14, color.Gray{120}, *panel.FieldConfig.Defaults.NoValue)
}

func decimals(d *dashboard.FieldConfig) int {
	if d.Decimals == nil {
		return -1
	}
	return int(*d.Decimals)
}

// threshold is the colour of a value.
func threshold(t *dashboard.ThresholdsConfig, v float64) color.Color {
	c := "transparent"
	for _, s := range t.Steps {
		if s.Value == nil || v >= *s.Value {
			c = s.Color
		}
	}
	return colours[c]
}

// mapped is the word and the colour that a value is shown as.
func mapped(all []dashboard.ValueMapping, v any) (string, color.Color, bool) {
	key := fmt.Sprint(v)
	if f, ok := v.(float64); ok {
		key = strconv.FormatFloat(f, 'f', -1, 64)
	}
	for _, m := range all {
		if m.ValueMap == nil {
			continue
		}
		if r, ok := m.ValueMap.Options[key]; ok {
			return *r.Text, colours[*r.Color], true
		}
	}
	return "", nil, false
}

// stat draws one big value, as Grafana with one series and the last value.
func (p *page) stat(panel *board.Panel, answers []answer) error {
	d := &panel.FieldConfig.Defaults
	if n := len(answers); n != 1 || len(answers[0].series) != 1 {
		return fmt.Errorf("a single value is made of %d queries, the first with %d series", n, len(answers[0].series))
	}
	v := answers[0].series[0].Values[0].v
	if math.IsNaN(v) {
		p.noData(panel)
		return nil
	}
	p.rect(1, titleHeight, float64(p.w-2), float64(p.h-titleHeight-1), threshold(d.Thresholds, v))
	p.text(14, titleHeight+28, float64(p.w-28), 38, color.White, format(v, *d.Unit, decimals(d)))
	return nil
}

// column is how a column of a table is shown.
type column struct {
	unit       string
	decimals   int
	thresholds *dashboard.ThresholdsConfig
	mappings   []dashboard.ValueMapping
	colour     bool
	link       bool
}

func (p *page) table(panel *board.Panel, f frame) error {
	d := &panel.FieldConfig.Defaults
	if o, ok := panel.Options.(*table.Options); ok && len(o.SortBy) > 0 {
		f.sort(o.SortBy[0].DisplayName, o.SortBy[0].Desc != nil && *o.SortBy[0].Desc)
	}
	matrix := len(panel.Transformations) > 0 && panel.Transformations[0].Id == "groupingToMatrix"
	const line = 24
	widths := tableWidths(f, float64(p.w-16))
	x := 8.0
	for i, name := range f.names {
		c := column{unit: *d.Unit, decimals: decimals(d), thresholds: d.Thresholds, mappings: d.Mappings, colour: matrix && i > 0}
		if err := c.override(panel, name); err != nil {
			return err
		}
		y := float64(titleHeight)
		p.text(x+4, y+5, widths[i]-8, 12, color.RGBA{0x1f, 0x60, 0xc4, 255}, name)
		for _, row := range f.rows {
			y += line
			if y+line > float64(p.h) {
				break
			}
			s, back := c.cell(row[name])
			if back != nil {
				p.rect(x, y, widths[i]-2, line-1, back)
			}
			ink := color.Color(color.Black)
			if c.link {
				ink = color.RGBA{0x00, 0x30, 0xa0, 255}
			}
			p.text(x+4, y+5, widths[i]-8, 12, ink, s)
		}
		x += widths[i]
	}
	if hidden := len(f.rows) - (p.h-titleHeight-line)/line; hidden > 0 {
		p.text(float64(p.w-150), 8, 140, 11, color.Gray{120}, fmt.Sprintf("%d rows below", hidden))
	}
	return nil
}

// tableWidths shares the width by the length of what is in the columns.
func tableWidths(f frame, width float64) []float64 {
	need, sum := make([]float64, len(f.names)), 0.0
	for i, name := range f.names {
		need[i] = float64(len(name))
		for _, row := range f.rows {
			if s, ok := row[name].(string); ok {
				need[i] = max(need[i], float64(len(s)))
			}
		}
		need[i] = min(max(need[i], 7), 40)
		sum += need[i]
	}
	for i := range need {
		need[i] *= width / sum
	}
	return need
}

func (c *column) override(panel *board.Panel, name string) error {
	for _, o := range panel.FieldConfig.Overrides {
		if o.Matcher.Id != "byName" || o.Matcher.Options != name {
			continue
		}
		for _, prop := range o.Properties {
			switch prop.Id {
			case "unit":
				c.unit, _ = prop.Value.(string)
			case "thresholds":
				c.thresholds = new(dashboard.ThresholdsConfig)
				if err := convert(prop.Value, c.thresholds); err != nil {
					return err
				}
			case "mappings":
				if err := convert(prop.Value, &c.mappings); err != nil {
					return err
				}
			case "custom.cellOptions":
				c.colour = true
			case "links":
				c.link = true
			}
		}
	}
	return nil
}

func (c *column) cell(v any) (string, color.Color) {
	if word, back, ok := mapped(c.mappings, v); ok {
		return word, back
	}
	f, ok := v.(float64)
	if !ok {
		if v == nil {
			return "", nil
		}
		return fmt.Sprint(v), nil
	}
	if math.IsNaN(f) {
		return "", nil
	}
	var back color.Color
	if c.colour {
		back = threshold(c.thresholds, f)
	}
	return format(f, c.unit, c.decimals), back
}

// timeline draws a bar of states for each series.
func (p *page) timeline(panel *board.Panel, answers []answer, v view) error {
	d := &panel.FieldConfig.Defaults
	const names, axis = 150, 46
	var all []series
	legend := answers[0].legend
	for _, a := range answers {
		all = append(all, a.series...)
	}
	area := float64(p.h - titleHeight - axis)
	line := min(area/float64(len(all)), 40)
	width := float64(p.w - names - 12)
	from, span := float64(v.from.Unix()), v.to.Sub(v.from).Seconds()
	step := v.step(p.w).Seconds()
	seen := map[string]color.Color{}
	for i, s := range all {
		y := titleHeight + float64(i)*line
		p.text(6, y+line/2-6, names-10, 11, color.Black, s.name(legend))
		for _, pt := range s.Values {
			word, c, ok := mapped(d.Mappings, pt.v)
			if !ok {
				word, c = format(pt.v, *d.Unit, -1), threshold(d.Thresholds, pt.v)
			}
			seen[word] = c
			x := (pt.t - from) / span * width
			p.rect(names+max(x, 0), y+line*.05, min(step/span*width+.5, width-x), line*.9, c)
		}
	}
	p.times(names, width, v)
	p.swatches(seen)
	return nil
}

// times writes the times below a graph.
func (p *page) times(x, width float64, v view) {
	for i := range 6 {
		t := v.from.Add(v.to.Sub(v.from) * time.Duration(i) / 5)
		p.text(x+width*float64(i)/5-14, float64(p.h-42), 60, 11, color.Gray{90}, t.Format("15:04"))
	}
}

// swatches explains the colours of states.
func (p *page) swatches(seen map[string]color.Color) {
	x := 8.0
	for _, word := range slices.Sorted(maps.Keys(seen)) {
		p.rect(x, float64(p.h-18), 12, 8, seen[word])
		x += 18 + p.text(x+16, float64(p.h-21), 200, 11, color.Black, word) + 10
	}
}

// heatmap draws how many values fell into each bucket.
func (p *page) heatmap(panel *board.Panel, answers []answer, v view) error {
	d := &panel.FieldConfig.Defaults
	buckets := buckets(answers[0].series)
	const names, axis = 70, 46
	width, area := float64(p.w-names-12), float64(p.h-titleHeight-axis)
	line := area / float64(len(buckets))
	from, span := float64(v.from.Unix()), v.to.Sub(v.from).Seconds()
	step := max(v.step(p.w), v.to.Sub(v.from)/60).Seconds()
	top := 0.0
	for _, b := range buckets {
		for _, n := range b.counts {
			top = max(top, n)
		}
	}
	for i, b := range buckets {
		y := titleHeight + area - float64(i+1)*line
		if every := len(buckets)/12 + 1; i%every == 0 {
			p.text(6, y-2, names-8, 11, color.Black, format(b.le, *d.Unit, -1))
		}
		for t, n := range b.counts {
			if n <= 1e-9 {
				continue
			}
			heat := uint8(230 - 200*math.Sqrt(n/top))
			x := (t - from) / span * width
			p.rect(names+max(x, 0), y, min(step/span*width-1, width-x), line-1, color.RGBA{0xff, heat, heat / 2, 255})
		}
	}
	p.times(names, width, v)
	p.text(8, float64(p.h-21), 300, 11, color.Black, fmt.Sprintf("darkest: %s", format(top, "none", -1)))
	return nil
}

// bucket has the counts of one bucket alone, by time.
type bucket struct {
	le     float64
	counts map[float64]float64
}

// buckets takes apart the cumulative buckets of a classic histogram, as Grafana does for the format heatmap.
func buckets(all []series) []bucket {
	var out []bucket
	for _, s := range all {
		le, err := strconv.ParseFloat(s.Labels["le"], 64)
		if err != nil {
			continue
		}
		b := bucket{le: le, counts: map[float64]float64{}}
		for _, pt := range s.Values {
			b.counts[pt.t] = pt.v
		}
		out = append(out, b)
	}
	slices.SortFunc(out, func(a, b bucket) int { return compare(a.le, b.le) })
	for i := len(out) - 1; i > 0; i-- {
		for t := range out[i].counts {
			out[i].counts[t] = max(out[i].counts[t]-out[i-1].counts[t], 0)
		}
	}
	return out
}
