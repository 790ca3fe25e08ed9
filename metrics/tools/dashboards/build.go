package dashboards

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/grafana/grafana-foundation-sdk/go/cog/variants"
	"github.com/grafana/grafana-foundation-sdk/go/common"
	"github.com/grafana/grafana-foundation-sdk/go/dashboard"
	"github.com/grafana/grafana-foundation-sdk/go/prometheus"
)

// schemaVersion of the classic model. Grafana 10 reads it as it is; later ones migrate it when they load it.
const schemaVersion = 39

// columns of Grafana's grid.
const columns = 24

// JSON renders the board as Grafana's classic model, for provisioning.
func (b *Board) JSON() ([]byte, error) {
	text, err := json.MarshalIndent(b.build(), "", "  ")
	if err != nil {
		return nil, fmt.Errorf("dashboard %s: %w", b.UID, err)
	}
	return append(text, '\n'), nil
}

//lint:ignore SA1019 its successor is for Grafana 12 and later; this one is for all
func (b *Board) build() dashboard.Dashboard {
	//lint:ignore SA1019 as above
	out := dashboard.Dashboard{
		Uid:           &b.UID,
		Title:         &b.Title,
		Description:   &b.Purpose,
		Tags:          []string{"sitewire", "wireguard", "bgp"},
		Timezone:      new(string),
		Editable:      new(bool),
		GraphTooltip:  new(dashboard.DashboardCursorSyncCrosshair),
		Time:          &dashboard.DashboardDashboardTime{From: "now-6h", To: "now"},
		Refresh:       new("30s"),
		SchemaVersion: schemaVersion,
		Templating:    dashboard.DashboardDashboardTemplating{List: b.variables()},
		Annotations:   dashboard.AnnotationContainer{List: b.annotations()},
		Links: []dashboard.DashboardLink{{
			Title: "sitewire", Type: dashboard.DashboardLinkTypeDashboards, Icon: "external link", Tags: []string{"sitewire"},
			IncludeVars: true, KeepTime: true,
		}},
	}
	id, y := uint32(0), uint32(0)
	next := func() uint32 { id++; return id }
	for i := range b.Rows {
		row := &b.Rows[i]
		heading := dashboard.RowPanel{
			Type: "row", Title: &row.Title, Collapsed: row.Collapsed, Id: next(),
			GridPos: &dashboard.GridPos{H: 1, W: columns, Y: y}, Panels: []dashboard.Panel{},
		}
		y++
		panels, height := row.layout(y, next)
		if row.Collapsed {
			heading.Panels = panels
		} else {
			y += height
		}
		out.Panels = append(out.Panels, dashboard.PanelOrRowPanel{RowPanel: &heading})
		if !row.Collapsed {
			for i := range panels {
				out.Panels = append(out.Panels, dashboard.PanelOrRowPanel{Panel: &panels[i]})
			}
		}
	}
	return out
}

// layout places the panels of a row from left to right and says how high they are together.
func (r *Row) layout(y uint32, next func() uint32) (panels []dashboard.Panel, height uint32) {
	x, line := uint32(0), uint32(0)
	for i := range r.Panels {
		p := &r.Panels[i]
		if x+uint32(p.W) > columns {
			x, height, line = 0, height+line, 0
		}
		built := p.build()
		built.Id = new(next())
		built.GridPos = &dashboard.GridPos{H: uint32(p.H), W: uint32(p.W), X: x, Y: y + height}
		panels = append(panels, built)
		x += uint32(p.W)
		line = max(line, uint32(p.H))
	}
	return panels, height + line
}

func (p *Panel) build() dashboard.Panel {
	out := dashboard.Panel{
		Type:            string(p.Kind),
		Title:           &p.Title,
		Description:     new(p.Description()),
		Datasource:      source(),
		Transformations: p.transformations(),
		Options:         p.options(),
		FieldConfig: &dashboard.FieldConfigSource{
			Defaults: dashboard.FieldConfig{
				Unit: &p.Unit, Decimals: p.Decimals, Min: p.Min, Max: p.Max, NoValue: &p.NoValue,
				Mappings:   mappings(p.States),
				Thresholds: thresholds(p.Steps),
				Color:      p.color(),
				Custom:     p.custom(),
			},
			Overrides: p.overrides(),
		},
	}
	if p.Bars {
		// A bar counts the events of its step: with steps shorter than $__rate_interval one event would show in several.
		out.Interval = new("1m")
	}
	for i, q := range p.Queries {
		target := prometheus.Dataquery{
			RefId: new(letter(i)), Datasource: source(), Expr: matchers.Replace(q.Expr),
			Instant: new(q.Instant), Range: new(!q.Instant), EditorMode: new(prometheus.QueryEditorModeCode),
		}
		if q.Legend != "" {
			target.LegendFormat = new(q.Legend)
		}
		switch p.Kind {
		case Table:
			target.Format = new(prometheus.PromQueryFormatTable)
		case Heatmap:
			target.Format = new(prometheus.PromQueryFormatHeatmap)
		default:
			target.Format = new(prometheus.PromQueryFormatTimeSeries)
		}
		out.Targets = append(out.Targets, variants.Dataquery(target))
	}
	return out
}

// letter names the i-th query as Grafana does.
func letter(i int) string { return string(rune('A' + i)) }

// source is the Prometheus that the reader chose.
func source() *common.DataSourceRef {
	return &common.DataSourceRef{Type: new("prometheus"), Uid: new("${datasource}")}
}

func thresholds(steps []Step) *dashboard.ThresholdsConfig {
	out := &dashboard.ThresholdsConfig{Mode: dashboard.ThresholdsModeAbsolute}
	for i, s := range steps {
		t := dashboard.Threshold{Color: s.Color}
		if i > 0 {
			t.Value = new(s.Value)
		}
		out.Steps = append(out.Steps, t)
	}
	return out
}

func mappings(states []State) []dashboard.ValueMapping {
	if len(states) == 0 {
		return nil
	}
	options := map[string]dashboard.ValueMappingResult{}
	for i, s := range states {
		options[s.Value] = dashboard.ValueMappingResult{Text: new(s.Text), Color: new(s.Color), Index: new(int32(i))}
	}
	return []dashboard.ValueMapping{{ValueMap: &dashboard.ValueMap{Type: dashboard.MappingTypeValueToText, Options: options}}}
}

func (p *Panel) color() *dashboard.FieldColor {
	if p.Kind == TimeSeries {
		return &dashboard.FieldColor{Mode: dashboard.FieldColorModeIdPaletteClassicByName}
	}
	return &dashboard.FieldColor{Mode: dashboard.FieldColorModeIdThresholds}
}

// transformations make one table of the queries, with the columns that are asked for.
func (p *Panel) transformations() []dashboard.DataTransformerConfig {
	if p.Kind != Table {
		return nil
	}
	if p.Matrix != nil {
		return []dashboard.DataTransformerConfig{{Id: "groupingToMatrix", Options: map[string]any{
			"rowField": p.Matrix.Row, "columnField": p.Matrix.Column, "valueField": "Value", "emptyValue": "null",
		}}}
	}
	var out []dashboard.DataTransformerConfig
	if len(p.Queries) > 1 {
		out = append(out, dashboard.DataTransformerConfig{Id: "merge", Options: map[string]any{}})
	}
	names, index, rename := []string{}, map[string]int{}, map[string]string{}
	for i, c := range p.Columns {
		names = append(names, c.Field)
		index[c.Field] = i
		rename[c.Field] = c.Name
	}
	return append(out,
		dashboard.DataTransformerConfig{Id: "filterFieldsByName", Options: map[string]any{"include": map[string]any{"names": names}}},
		dashboard.DataTransformerConfig{Id: "organize", Options: map[string]any{"excludeByName": map[string]bool{}, "indexByName": index, "renameByName": rename}},
	)
}

// overrides colour single series and format single columns.
func (p *Panel) overrides() []dashboard.DashboardFieldConfigSourceOverrides {
	out := []dashboard.DashboardFieldConfigSourceOverrides{}
	add := func(matcher, name string, properties ...dashboard.DynamicConfigValue) {
		if len(properties) > 0 {
			out = append(out, dashboard.DashboardFieldConfigSourceOverrides{
				Matcher: dashboard.MatcherConfig{Id: matcher, Options: name}, Properties: properties,
			})
		}
	}
	if p.Below != "" {
		add("byRegexp", "/"+p.Below+"/", dashboard.DynamicConfigValue{Id: "custom.transform", Value: "negative-Y"})
	}
	if p.Link != "" {
		add("byRegexp", "/.*/", link(p.Link, "${instance:queryparam}&${peer:queryparam}"))
	}
	for _, name := range slices.Sorted(maps.Keys(p.Series)) {
		add("byName", name, dashboard.DynamicConfigValue{Id: "color", Value: map[string]string{"mode": "fixed", "fixedColor": p.Series[name]}})
	}
	if p.Matrix != nil {
		add("byRegexp", "/^(?!"+p.Matrix.Row+").*/", background())
		return out
	}
	for i := range p.Columns {
		add("byName", p.Columns[i].Name, p.Columns[i].properties(p.Columns)...)
	}
	return out
}

func background() dashboard.DynamicConfigValue {
	return dashboard.DynamicConfigValue{Id: "custom.cellOptions", Value: map[string]string{"type": "color-background", "mode": "basic"}}
}

func (c *Column) properties(row []Column) (out []dashboard.DynamicConfigValue) {
	if c.Unit != "" {
		out = append(out, dashboard.DynamicConfigValue{Id: "unit", Value: c.Unit})
	}
	if c.Steps != nil {
		out = append(out, dashboard.DynamicConfigValue{Id: "thresholds", Value: thresholds(c.Steps)}, background())
	}
	if c.States != nil {
		out = append(out, dashboard.DynamicConfigValue{Id: "mappings", Value: mappings(c.States)}, background())
	}
	if c.Width > 0 {
		out = append(out, dashboard.DynamicConfigValue{Id: "custom.width", Value: c.Width})
	}
	if c.Link != "" {
		var preset []string
		for _, label := range []string{"instance", "peer"} {
			if slices.ContainsFunc(row, func(c Column) bool { return c.Field == label }) {
				preset = append(preset, "var-"+label+"=${__data.fields."+label+"}")
			}
		}
		out = append(out, link(c.Link, strings.Join(preset, "&")))
	}
	return out
}

// link leads to another board of ours, at the same time and with the variables that the query string sets.
func link(uid, query string) dashboard.DynamicConfigValue {
	return dashboard.DynamicConfigValue{Id: "links", Value: []map[string]string{{
		"title": "Open " + uid,
		"url":   "/d/" + uid + "?${datasource:queryparam}&${job:queryparam}&" + query + "&${__url_time_range}",
	}}}
}
