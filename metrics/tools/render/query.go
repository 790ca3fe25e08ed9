package main

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"math"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"sitewire/metrics/tools/board"
)

// prometheus is a client of the HTTP API.
type prometheus struct{ address string }

// series has one point for an instant query.
type series struct {
	Labels map[string]string `json:"metric"`
	Value  *point            `json:"value"`
	Values []point           `json:"values"`
}

// point is a pair of Unix time and value.
type point struct{ t, v float64 }

// UnmarshalJSON reads [1435781430.781, "1"].
func (p *point) UnmarshalJSON(text []byte) error {
	var value string
	pair := []any{&p.t, &value}
	if err := json.Unmarshal(text, &pair); err != nil {
		return err
	}
	var err error
	p.v, err = strconv.ParseFloat(value, 64)
	return err
}

func (p *prometheus) get(ctx context.Context, path string, query url.Values, into any) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, p.address+path+"?"+query.Encode(), nil)
	if err != nil {
		return err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	var answer struct {
		Status, Error string
		Data          json.RawMessage
	}
	if err := json.NewDecoder(resp.Body).Decode(&answer); err != nil {
		return fmt.Errorf("%s: %s: %w", path, resp.Status, err)
	}
	if answer.Status != "success" {
		return fmt.Errorf("%s: %s", query.Get("query"), answer.Error)
	}
	return json.Unmarshal(answer.Data, into)
}

// view is the time that is shown.
type view struct {
	from, to time.Time
	scrape   time.Duration
}

// step is the distance of the points of a graph of a width in pixels.
func (v view) step(width int) time.Duration {
	step := v.to.Sub(v.from) / time.Duration(max(width, 1))
	return max(step.Round(time.Second), v.scrape, time.Second)
}

// intervals are the variables that Grafana computes from time, width and the data source's scrape interval.
func (v view) intervals(width int) map[string]string {
	step := v.step(width)
	return map[string]string{
		"__interval":      seconds(step),
		"__rate_interval": seconds(max(step+v.scrape, 4*v.scrape)),
		"__range":         seconds(v.to.Sub(v.from)),
	}
}

func seconds(d time.Duration) string { return fmt.Sprintf("%ds", int(math.Ceil(d.Seconds()))) }

// instant asks for the values at the end of the time, ranged for those in it.
func (p *prometheus) instant(ctx context.Context, expr string, v view) ([]series, error) {
	return p.query(ctx, "/api/v1/query", url.Values{"query": {expr}, "time": {unix(v.to)}})
}

func (p *prometheus) ranged(ctx context.Context, expr string, v view, step time.Duration) ([]series, error) {
	// Grafana aligns the ends with the step, so that a refresh does not shift the points.
	from, to := v.from.Truncate(step), v.to.Truncate(step)
	return p.query(ctx, "/api/v1/query_range", url.Values{"query": {expr}, "start": {unix(from)}, "end": {unix(to)}, "step": {seconds(step)}})
}

func unix(t time.Time) string { return strconv.FormatInt(t.Unix(), 10) }

func (p *prometheus) query(ctx context.Context, path string, query url.Values) ([]series, error) {
	var data struct {
		ResultType string
		Result     []series
	}
	if err := p.get(ctx, path, query, &data); err != nil {
		return nil, err
	}
	for i := range data.Result {
		if s := &data.Result[i]; s.Value != nil {
			s.Values = []point{*s.Value}
		}
	}
	return data.Result, nil
}

var labelValues = regexp.MustCompile(`^label_values\((.+), *(\w+)\)$`)

// variables chooses "all" for each variable of a board, in their order, since later ones depend on earlier ones.
func (p *prometheus) variables(ctx context.Context, b *board.Board, v view) (map[string]string, error) {
	values := map[string]string{}
	for i := range b.Templating.List {
		model := &b.Templating.List[i]
		query := board.VariableQuery(model)
		if query == "" {
			continue
		}
		m := labelValues.FindStringSubmatch(query)
		if m == nil {
			return nil, fmt.Errorf("variable %s: %q is not label_values(selector, label)", model.Name, query)
		}
		if model.AllValue != nil {
			values[model.Name] = *model.AllValue
			continue
		}
		var names []string
		if err := p.get(ctx, "/api/v1/label/"+m[2]+"/values",
			url.Values{"match[]": {board.Expand(m[1], values)}, "start": {unix(v.from)}, "end": {unix(v.to)}}, &names); err != nil {
			return nil, err
		}
		for i := range names {
			names[i] = strings.ReplaceAll(regexp.QuoteMeta(names[i]), `\`, `\\`)
		}
		values[model.Name] = strings.Join(names, "|")
	}
	return values, nil
}

// answer is what a query of a panel returned.
type answer struct {
	letter string
	legend string
	series []series
}

// ask sends all queries of a panel that is so many pixels wide.
func (p *prometheus) ask(ctx context.Context, panel *board.Panel, values map[string]string, v view, width int) ([]answer, error) {
	if panel.Interval != nil {
		least, err := time.ParseDuration(*panel.Interval)
		if err != nil {
			return nil, fmt.Errorf("panel %q: %w", panel.Name(), err)
		}
		width = min(width, int(v.to.Sub(v.from)/least))
	}
	values = maps.Clone(values)
	maps.Copy(values, v.intervals(width))
	var out []answer
	for _, q := range panel.Queries {
		expr := board.Expand(q.Expr, values)
		a := answer{letter: *q.RefId}
		if q.LegendFormat != nil {
			a.legend = *q.LegendFormat
		}
		var err error
		if q.Instant != nil && *q.Instant {
			a.series, err = p.instant(ctx, expr, v)
		} else {
			step := v.step(width)
			if panel.Type == "heatmap" {
				step = max(step, v.to.Sub(v.from)/60)
			}
			a.series, err = p.ranged(ctx, expr, v, step)
		}
		if err != nil {
			return nil, fmt.Errorf("panel %q: %w", panel.Name(), err)
		}
		slices.SortFunc(a.series, func(x, y series) int { return strings.Compare(x.name(a.legend), y.name(a.legend)) })
		out = append(out, a)
	}
	return out, nil
}

var placeholder = regexp.MustCompile(`\{\{\s*([A-Za-z_]\w*)\s*\}\}`)

// name fills a legend with the labels of the series.
func (s *series) name(legend string) string {
	return placeholder.ReplaceAllStringFunc(legend, func(m string) string {
		return s.Labels[placeholder.FindStringSubmatch(m)[1]]
	})
}
