package main

import (
	"cmp"
	"encoding/json"
	"fmt"
	"image/color"
	"math"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/grafana/grafana-foundation-sdk/go/timeseries"
	"gonum.org/v1/plot"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/vg"
	vgdraw "gonum.org/v1/plot/vg/draw"

	"sitewire/metrics/tools/board"
)

// line is a series as it is drawn.
type line struct {
	name   string
	colour color.Color
	xys    plotter.XYs
	below  bool
	last   float64
	max    float64
}

// timeseries draws lines, bars or stacked areas over time, with a legend below.
func (p *page) timeseries(panel *board.Panel, answers []answer, v view) error {
	d := &panel.FieldConfig.Defaults
	var custom timeseries.FieldConfig
	if err := convert(d.Custom, &custom); err != nil {
		return err
	}
	lines, err := graphLines(panel, answers)
	if err != nil {
		return err
	}
	stacked := custom.Stacking != nil && custom.Stacking.Mode != nil && *custom.Stacking.Mode == "normal"
	bars := custom.DrawStyle != nil && *custom.DrawStyle == "bars"
	log := custom.ScaleDistribution != nil && custom.ScaleDistribution.Type == "log"

	g := plot.New()
	g.X.Min, g.X.Max = float64(v.from.Unix()), float64(v.to.Unix())
	g.X.Tick.Marker = plot.TimeTicks{Format: "15:04", Time: func(t float64) time.Time { return time.Unix(int64(t), 0) }}
	g.Y.Tick.Marker = unitTicks{*d.Unit, log}
	g.Add(plotter.NewGrid())
	low, high := math.Inf(1), math.Inf(-1)
	base := map[bool]map[float64]float64{false: {}, true: {}}
	for _, l := range lines {
		bottom := make(plotter.XYs, len(l.xys))
		for i, xy := range l.xys {
			bottom[i] = plotter.XY{X: xy.X}
			if stacked && finite(xy.Y) {
				bottom[i].Y = base[l.below][xy.X]
				l.xys[i].Y += bottom[i].Y
				base[l.below][xy.X] = l.xys[i].Y
			}
			if y := l.xys[i].Y; finite(y) && (!log || y > 0) {
				low, high = min(low, l.xys[i].Y), max(high, l.xys[i].Y)
			}
		}
		if err := addLine(g, l, bottom, stacked || bars, bars, log); err != nil {
			return err
		}
	}
	if math.IsInf(low, 0) { // there are points, and none that can be drawn
		p.noData(panel)
		return nil
	}
	if d.Min != nil && !log {
		low = min(low, *d.Min)
	}
	if custom.ThresholdsStyle != nil && custom.ThresholdsStyle.Mode != "off" {
		for _, s := range d.Thresholds.Steps {
			if s.Value == nil {
				continue
			}
			if *s.Value < high*3 {
				high = max(high, *s.Value*1.05)
			}
			f := plotter.NewFunction(func(float64) float64 { return *s.Value })
			f.Color, f.Dashes = colours[s.Color], []vg.Length{4, 3}
			g.Add(f)
		}
	}
	g.Y.Min, g.Y.Max = low, high
	if g.Y.Min >= g.Y.Max {
		g.Y.Max = g.Y.Min + 1
		if log {
			g.Y.Min, g.Y.Max = g.Y.Min/2, g.Y.Min*2
		}
	}
	if log {
		g.Y.Scale = plot.LogScale{}
	}
	right := p.w > 20*cellWidth
	area := vgdraw.Crop(p.canvas, 8, -12, 0, -titleHeight)
	if right {
		area.Max.X -= 420
	} else {
		area.Min.Y += vg.Length(p.h) * .3
	}
	g.Draw(area)
	p.legend(lines, *d.Unit, decimals(d), right)
	return nil
}

// addLine adds a series to the graph; what is not a number interrupts the line.
func addLine(g *plot.Plot, l line, bottom plotter.XYs, filled, bars, log bool) error {
	if bars {
		for i, xy := range l.xys {
			if !finite(xy.Y) || xy.Y == bottom[i].Y {
				continue
			}
			pl, err := plotter.NewLine(plotter.XYs{bottom[i], xy})
			if err != nil {
				return err
			}
			pl.Color, pl.Width = l.colour, 3
			g.Add(pl)
		}
		return nil
	}
	for _, part := range parts(l.xys, log) {
		if filled {
			outline := append(plotter.XYs{}, l.xys[part.from:part.to]...)
			for i := part.to - 1; i >= part.from; i-- {
				outline = append(outline, bottom[i])
			}
			poly, err := plotter.NewPolygon(outline)
			if err != nil {
				return err
			}
			r, gr, b, _ := l.colour.RGBA()
			poly.Color, poly.LineStyle.Width = color.NRGBA{uint8(r >> 8), uint8(gr >> 8), uint8(b >> 8), 100}, 0
			g.Add(poly)
		}
		pl, points, err := plotter.NewLinePoints(l.xys[part.from:part.to])
		if err != nil {
			return err
		}
		pl.Color, pl.Width = l.colour, 1.4
		g.Add(pl)
		if part.to-part.from < 3 { // a lone value would be invisible as a line
			points.Color, points.Shape = l.colour, vgdraw.CircleGlyph{}
			g.Add(points)
		}
	}
	return nil
}

type span struct{ from, to int }

// parts are the stretches without a gap.
func parts(xys plotter.XYs, log bool) (out []span) {
	from := -1
	for i := 0; i <= len(xys); i++ {
		ok := i < len(xys) && finite(xys[i].Y) && (!log || xys[i].Y > 0)
		gap := ok && from >= 0 && i >= from+2 && xys[i].X-xys[i-1].X > 1.5*(xys[from+1].X-xys[from].X)
		if from >= 0 && (!ok || gap) {
			out = append(out, span{from, i})
			from = -1
		}
		if ok && from < 0 {
			from = i
		}
	}
	return out
}

// graphLines names and colours the series, and turns those around that the panel wants below the axis.
func graphLines(panel *board.Panel, answers []answer) (out []line, err error) {
	var below *regexp.Regexp
	fixed := map[string]string{}
	for _, o := range panel.FieldConfig.Overrides {
		name, _ := o.Matcher.Options.(string)
		for _, prop := range o.Properties {
			switch prop.Id {
			case "custom.transform":
				if below, err = regexp.Compile(strings.Trim(name, "/")); err != nil {
					return nil, err
				}
			case "color":
				var c struct{ FixedColor string }
				if err := convert(prop.Value, &c); err != nil {
					return nil, err
				}
				fixed[name] = c.FixedColor
			}
		}
	}
	for _, a := range answers {
		for _, s := range a.series {
			l := line{name: s.name(a.legend), colour: palette[len(out)%len(palette)], last: math.NaN(), max: math.Inf(-1)}
			if c := fixed[l.name]; c != "" {
				l.colour = colours[c]
			}
			l.below = below != nil && below.MatchString(l.name)
			for _, pt := range s.Values {
				if !math.IsNaN(pt.v) {
					l.last, l.max = pt.v, max(l.max, pt.v)
				}
				y := pt.v
				if l.below {
					y = -y
				}
				l.xys = append(l.xys, plotter.XY{X: pt.t, Y: y})
			}
			out = append(out, l)
		}
	}
	return out, nil
}

// legend lists the series with their last and largest value.
func (p *page) legend(lines []line, unit string, decimals int, right bool) {
	slices.SortStableFunc(lines, func(a, b line) int { return cmp.Compare(b.max, a.max) })
	x, y, width, height := 8.0, float64(p.h)*.7, float64(p.w-16), float64(p.h)*.29-8
	if right {
		x, y, width, height = float64(p.w-415), titleHeight, 405, float64(p.h-titleHeight)
	}
	room := int(height/15) - 1
	p.text(x+width-150, y, 70, 10, color.Gray{90}, "last")
	p.text(x+width-75, y, 70, 10, color.Gray{90}, "max")
	for i, l := range lines {
		y += 15
		if i >= room && len(lines) > room+1 {
			p.text(x+18, y, width-180, 11, color.Gray{90}, fmt.Sprintf("and %d more", len(lines)-i))
			return
		}
		p.rect(x, y+4, 12, 4, l.colour)
		p.text(x+18, y, width-175, 11, color.Black, l.name)
		p.text(x+width-150, y, 70, 11, color.Black, format(l.last, unit, decimals))
		p.text(x+width-75, y, 70, 11, color.Black, format(l.max, unit, decimals))
	}
}

// unitTicks labels the axis in the panel's unit.
type unitTicks struct {
	unit string
	log  bool
}

// Ticks implements plot.Ticker.
func (u unitTicks) Ticks(low, high float64) []plot.Tick {
	var ticks []plot.Tick
	if u.log {
		ticks = plot.LogTicks{}.Ticks(low, high)
	} else {
		ticks = plot.DefaultTicks{}.Ticks(low, high)
	}
	for i := range ticks {
		if ticks[i].Label != "" {
			ticks[i].Label = format(math.Abs(ticks[i].Value), u.unit, -1)
		}
	}
	return ticks
}

func finite(v float64) bool { return !math.IsNaN(v) && !math.IsInf(v, 0) }

// convert reads a loosely typed part of a dashboard into a type.
func convert(from, into any) error {
	text, err := json.Marshal(from)
	if err != nil {
		return err
	}
	return json.Unmarshal(text, into)
}
