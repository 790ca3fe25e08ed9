package dashboards

import (
	"github.com/grafana/grafana-foundation-sdk/go/common"
	"github.com/grafana/grafana-foundation-sdk/go/dashboard"
	"github.com/grafana/grafana-foundation-sdk/go/heatmap"
	"github.com/grafana/grafana-foundation-sdk/go/stat"
	"github.com/grafana/grafana-foundation-sdk/go/statetimeline"
	"github.com/grafana/grafana-foundation-sdk/go/table"
	"github.com/grafana/grafana-foundation-sdk/go/timeseries"
)

// Names of the annotations.
const (
	restarts     = "Restarts"
	reloads      = "Reloads"
	sessionDowns = "BGP sessions that fell"
)

// annotations mark moments. Their queries return times, so that an event is marked once and exactly, however long the step is.
func (b *Board) annotations() []dashboard.AnnotationQuery {
	all := []struct{ name, expr, text, color string }{
		{restarts, `1000 * process_start_time_seconds{gw}`, "{{instance}} started", "purple"},
		{reloads, `1000 * sitewire_config_last_reload_success_timestamp_seconds{gw}`, "{{instance}} loaded its configuration", "blue"},
		{sessionDowns, `1000 * sitewire_bgp_session_last_down_timestamp_seconds{gw} > 0`, "{{instance}} → {{session}} fell", "red"},
	}
	var out []dashboard.AnnotationQuery
	for _, a := range all {
		on := false
		for _, name := range b.Annotations {
			on = on || name == a.name
		}
		out = append(out, dashboard.AnnotationQuery{
			Name: a.name, Datasource: source(), Enable: on, IconColor: a.color,
			Expr: new(matchers.Replace(a.expr)), TitleFormat: new(a.name), TextFormat: new(a.text), TagKeys: new("instance"),
			Step: new("30s"), UseValueForTime: new(true),
		})
	}
	return out
}

// variables are what the reader chooses. Job and peer have no "all" value: all of them are listed in the query then. For jobs because
// metrics such as up exist in jobs that are not ours, for peers because choosing a site must leave that site's peers only.
func (b *Board) variables() []dashboard.VariableModel {
	prom := "prometheus"
	out := []dashboard.VariableModel{{
		Type: dashboard.VariableTypeDatasource, Name: "datasource", Label: new("Data source"),
		Query: &dashboard.StringOrMap{String: &prom}, Refresh: new(dashboard.VariableRefreshOnDashboardLoad),
		Current: &dashboard.VariableOption{Text: text("default"), Value: text("default")},
	}}
	add := func(name, label, query, all string) {
		query = "label_values(" + matchers.Replace(query) + ", " + name + ")"
		v := dashboard.VariableModel{
			Type: dashboard.VariableTypeQuery, Name: name, Label: &label, Datasource: source(), Definition: &query,
			Query:   &dashboard.StringOrMap{Map: map[string]any{"query": query, "refId": "PrometheusVariableQueryEditor-VariableQuery"}},
			Refresh: new(dashboard.VariableRefreshOnTimeRangeChanged), Sort: new(dashboard.VariableSortAlphabeticalAsc),
			Multi: new(true), IncludeAll: new(true),
			Current: &dashboard.VariableOption{Selected: new(true), Text: texts("All"), Value: texts("$__all")},
		}
		if all != "" {
			v.AllValue = &all
		}
		out = append(out, v)
	}
	add("job", "Job", `sitewire_build_info`, "")
	add("instance", "Gateway", `sitewire_build_info{job=~"$job"}`, ".+")
	for _, name := range b.Variables {
		switch name {
		case "site":
			add(name, "Site", `{__name__=~"sitewire_tunnel_info|sitewire_bgp_peer_info",`+gateway+`}`, ".+")
		case "peer":
			add(name, "Peer", `{__name__=~"sitewire_tunnel_info|sitewire_bgp_peer_info",`+gateway+`,site=~"$site"}`, "")
		case "family":
			add(name, "Family", `sitewire_fib_routes{gw}`, ".+")
		}
	}
	return out
}

func text(s string) dashboard.StringOrArrayOfString {
	return dashboard.StringOrArrayOfString{String: &s}
}

func texts(s string) dashboard.StringOrArrayOfString {
	return dashboard.StringOrArrayOfString{ArrayOfString: []string{s}}
}

// custom is the part of the field configuration that belongs to the panel's type.
func (p *Panel) custom() any {
	switch p.Kind {
	case TimeSeries:
		return p.graph()
	case StateTimeline:
		return statetimeline.FieldConfig{FillOpacity: new(uint32(80)), LineWidth: new(uint32(0))}
	case Table:
		return table.FieldConfig{Align: common.FieldTextAlignmentAuto}
	default:
		return nil
	}
}

func (p *Panel) graph() timeseries.FieldConfig {
	out := timeseries.FieldConfig{
		DrawStyle: new(common.GraphDrawStyleLine), LineInterpolation: new(common.LineInterpolationLinear), LineWidth: new(1.0), FillOpacity: new(5.0),
		ShowPoints: new(common.VisibilityModeAuto), PointSize: new(4.0), SpanNulls: &common.BoolOrFloat64{Bool: new(false)},
		ScaleDistribution: &common.ScaleDistributionConfig{Type: common.ScaleDistributionLinear},
		ThresholdsStyle:   &common.GraphThresholdsStyleConfig{Mode: common.GraphThresholdsStyleModeOff},
		Stacking:          &common.StackingConfig{Mode: new(common.StackingModeNone), Group: new("A")},
	}
	if p.Bars {
		out.DrawStyle, out.FillOpacity, out.ShowPoints = new(common.GraphDrawStyleBars), new(80.0), new(common.VisibilityModeNever)
	}
	if p.Stack {
		out.Stacking.Mode, out.FillOpacity = new(common.StackingModeNormal), new(40.0)
	}
	if p.Lines {
		out.ThresholdsStyle.Mode = common.GraphThresholdsStyleModeDashed
	}
	if p.Log {
		out.ScaleDistribution = &common.ScaleDistributionConfig{Type: common.ScaleDistributionLog, Log: new(10.0)}
	}
	return out
}

// options are those of the panel's type.
func (p *Panel) options() any {
	legend := common.VizLegendOptions{
		DisplayMode: common.LegendDisplayModeTable, Placement: common.LegendPlacementBottom, ShowLegend: true, Calcs: []string{"lastNotNull", "max"},
		SortBy: new("Max"), SortDesc: new(true), // the many that are 0 come last
	}
	if p.W == columns {
		legend.Placement = common.LegendPlacementRight
	}
	tooltip := common.VizTooltipOptions{Mode: common.TooltipDisplayModeMulti, Sort: common.SortOrderDescending}
	switch p.Kind {
	case Stat:
		return stat.Options{
			GraphMode: common.BigValueGraphModeNone, ColorMode: common.BigValueColorModeBackground, JustifyMode: common.BigValueJustifyModeAuto,
			TextMode: common.BigValueTextModeValue, WideLayout: true, Orientation: common.VizOrientationAuto,
			PercentChangeColorMode: common.PercentChangeColorModeStandard,
			ReduceOptions:          common.ReduceDataOptions{Values: new(false), Calcs: []string{"lastNotNull"}, Fields: new("")},
		}
	case TimeSeries:
		return timeseries.Options{Legend: legend, Tooltip: tooltip}
	case StateTimeline:
		return statetimeline.Options{
			ShowValue: common.VisibilityModeNever, RowHeight: 0.9, MergeValues: new(true), PerPage: new(20.0), Tooltip: tooltip,
			Legend: common.VizLegendOptions{DisplayMode: common.LegendDisplayModeList, Placement: common.LegendPlacementBottom, ShowLegend: true, Calcs: []string{}},
		}
	case Table:
		out := table.Options{ShowHeader: true, CellHeight: new(common.TableCellHeightSm)}
		if p.SortBy != "" {
			out.SortBy = []common.TableSortByFieldState{{DisplayName: p.SortBy, Desc: new(p.worstIsHigh())}}
		}
		return out
	case Heatmap:
		return heatmap.Options{
			Calculate: new(false), CellGap: new(uint8(1)), ShowValue: common.VisibilityModeNever,
			Color: heatmap.HeatmapColorOptions{
				Mode: new(heatmap.HeatmapColorModeScheme), Scheme: "Oranges", Fill: "dark-orange", Exponent: 0.5, Steps: 64,
				Scale: new(heatmap.HeatmapColorScaleExponential),
			},
			FilterValues: &heatmap.FilterValueRange{Le: new(float32(1e-9))},
			RowsFrame:    &heatmap.RowsHeatmapOptions{Layout: new(common.HeatmapCellLayoutAuto)},
			YAxis:        heatmap.YAxisConfig{Unit: &p.Unit, AxisPlacement: new(common.AxisPlacementLeft)},
			Legend:       heatmap.HeatmapLegend{Show: true},
			Tooltip:      heatmap.HeatmapTooltip{Mode: common.TooltipDisplayModeSingle, YHistogram: new(true)},
			Exemplars:    heatmap.ExemplarConfig{Color: "rgba(255,0,255,0.7)"},
		}
	}
	return nil
}

// worstIsHigh says in which direction the column by which the table is sorted gets worse: words such as critical sort upwards, states
// too (0 is down), counts downwards.
func (p *Panel) worstIsHigh() bool {
	for i := range p.Columns {
		if p.Columns[i].Name == p.SortBy {
			return p.Columns[i].States == nil
		}
	}
	return false
}
