// Package board reads dashboard JSON the way Grafana imports it.
//
// Job: decode the classic model strictly and make a flat list of panels of it, with everything that has a query.
// Owner: nothing. Inputs: a file. Outputs: a Board.
// Invariants: an unknown or missing field, a wrong type or an impossible value is an error, never ignored.
package board

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"sync"

	"github.com/grafana/grafana-foundation-sdk/go/cog"
	"github.com/grafana/grafana-foundation-sdk/go/common"
	"github.com/grafana/grafana-foundation-sdk/go/dashboard"
	"github.com/grafana/grafana-foundation-sdk/go/heatmap"
	"github.com/grafana/grafana-foundation-sdk/go/prometheus"
	"github.com/grafana/grafana-foundation-sdk/go/stat"
	"github.com/grafana/grafana-foundation-sdk/go/statetimeline"
	"github.com/grafana/grafana-foundation-sdk/go/table"
	"github.com/grafana/grafana-foundation-sdk/go/timeseries"
)

// Board is a dashboard as Grafana sees it.
type Board struct {
	File string
	dashboard.Dashboard
	Flat []Panel // panels in the order of the page, those of closed rows included, without the rows
	Rows []dashboard.RowPanel
}

// Panel is a panel with its queries.
type Panel struct {
	dashboard.Panel
	Row     string // heading under which it stands
	Queries []prometheus.Dataquery
}

// register makes the types of panels and queries known that a board may have. A panel of another type cannot be decoded.
var register = sync.OnceFunc(func() {
	r := cog.NewRuntime()
	r.RegisterDataqueryVariant(prometheus.VariantConfig())
	r.RegisterPanelcfgVariant(heatmap.VariantConfig())
	r.RegisterPanelcfgVariant(stat.VariantConfig())
	r.RegisterPanelcfgVariant(statetimeline.VariantConfig())
	r.RegisterPanelcfgVariant(table.VariantConfig())
	r.RegisterPanelcfgVariant(timeseries.VariantConfig())
})

// Load reads a board from a file.
func Load(file string) (*Board, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	b, err := Decode(text)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	b.File = file
	return b, nil
}

// Decode reads a board from its JSON.
func Decode(text []byte) (*Board, error) {
	register()
	b := &Board{}
	//lint:ignore SA1019 its successor is for Grafana 12 and later; this one is for all
	if err := found(new(dashboard.Dashboard).UnmarshalJSONStrict(text)); err != nil {
		return nil, err
	}
	if err := json.Unmarshal(text, &b.Dashboard); err != nil {
		return nil, err
	}
	if err := found(b.Validate()); err != nil {
		return nil, err
	}
	if err := lossless(text, &b.Dashboard); err != nil {
		return nil, err
	}
	row := ""
	for _, p := range b.Panels {
		if p.RowPanel != nil {
			b.Rows = append(b.Rows, *p.RowPanel)
			row = value(p.RowPanel.Title)
			for _, inner := range p.RowPanel.Panels {
				if err := b.add(inner, row); err != nil {
					return nil, err
				}
			}
			continue
		}
		if err := b.add(*p.Panel, row); err != nil {
			return nil, err
		}
	}
	return b, nil
}

func (b *Board) add(p dashboard.Panel, row string) error {
	flat := Panel{Panel: p, Row: row}
	if err := options(&p); err != nil {
		return fmt.Errorf("panel %q: %w", value(p.Title), err)
	}
	if err := again(&p, new(dashboard.Panel)); err != nil {
		return fmt.Errorf("panel %q: %w", value(p.Title), err)
	}
	for _, t := range p.Targets {
		switch q := t.(type) {
		case prometheus.Dataquery:
			flat.Queries = append(flat.Queries, q)
		case *prometheus.Dataquery:
			flat.Queries = append(flat.Queries, *q)
		default:
			return fmt.Errorf("panel %q: a query of type %s", value(p.Title), t.DataqueryType())
		}
	}
	b.Flat = append(b.Flat, flat)
	return nil
}

// found is the error of a generated function. They return a list that may be empty, which is not the same as nil.
func found(err error) error {
	if list, ok := errors.AsType[cog.BuildErrors](err); ok && len(list) == 0 {
		return nil
	}
	return err
}

// strict is what the generated types can do.
type strict interface {
	UnmarshalJSONStrict([]byte) error
}

// options decodes what belongs to the panel's type strictly; Grafana's common type leaves it open.
func options(p *dashboard.Panel) error {
	var opts, custom strict
	switch p.Type {
	case "stat":
		opts = new(stat.Options)
	case "timeseries":
		opts, custom = new(timeseries.Options), new(timeseries.FieldConfig)
	case "table":
		opts, custom = new(table.Options), new(table.FieldConfig)
	case "state-timeline":
		opts, custom = new(statetimeline.Options), new(statetimeline.FieldConfig)
	case "heatmap":
		opts = new(heatmap.Options)
	default:
		return fmt.Errorf("type %q is not known", p.Type)
	}
	if err := again(p.Options, opts); err != nil {
		return fmt.Errorf("options: %w", err)
	}
	if custom == nil {
		return nil
	}
	if p.FieldConfig == nil {
		return errors.New("no field configuration")
	}
	if err := again(p.FieldConfig.Defaults.Custom, custom); err != nil {
		return fmt.Errorf("field configuration: %w", err)
	}
	return nil
}

// again decodes a part strictly. It is done part by part, since a strict decoder of the generated types gives up on what it holds
// without an error (v0.0.18: it takes the empty list of errors of an inner decoder for an error).
func again(part any, into strict) error {
	text, err := json.Marshal(part)
	if err != nil {
		return err
	}
	return found(into.UnmarshalJSONStrict(text))
}

// lossless compares the text with what was understood of it: what is not the same was unknown or of another type.
func lossless(text []byte, understood any) error {
	var have, want any
	again, err := json.Marshal(understood)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(text, &want); err != nil {
		return err
	}
	if err := json.Unmarshal(again, &have); err != nil {
		return err
	}
	return differ("", want, have)
}

// differ names the first place at which two JSON values are not the same.
func differ(path string, want, have any) error {
	switch w := want.(type) {
	case map[string]any:
		h, ok := have.(map[string]any)
		if !ok {
			break
		}
		for _, key := range slices.Sorted(maps.Keys(w)) {
			if _, ok := h[key]; !ok {
				return fmt.Errorf("%s.%s is not known to Grafana", path, key)
			}
			if err := differ(path+"."+key, w[key], h[key]); err != nil {
				return err
			}
		}
		return nil
	case []any:
		h, ok := have.([]any)
		if !ok || len(h) != len(w) {
			break
		}
		for i := range w {
			if err := differ(fmt.Sprintf("%s[%d]", path, i), w[i], h[i]); err != nil {
				return err
			}
		}
		return nil
	default:
		if want == have {
			return nil
		}
	}
	return fmt.Errorf("%s: %v is read as %v", path, want, have)
}

func value(s *string) string {
	if s == nil {
		return ""
	}
	return *s
}

// Name of the panel, for people.
func (p *Panel) Name() string { return value(p.Title) }

// Source is the UID of a data source reference, empty if there is none.
func Source(ref *common.DataSourceRef) string {
	if ref == nil {
		return ""
	}
	return value(ref.Uid)
}

// VariableQuery returns the query of a variable, empty if it has none.
func VariableQuery(v *dashboard.VariableModel) string {
	if v.Query == nil || v.Type != dashboard.VariableTypeQuery {
		return ""
	}
	if v.Query.String != nil {
		return *v.Query.String
	}
	s, _ := v.Query.Map["query"].(string)
	return s
}

// Expand puts values in the place of a query's variables, as Grafana does; a value that has several parts is their alternation.
func Expand(expr string, values map[string]string) string {
	for _, name := range []string{"__rate_interval", "__interval", "__range"} { // no name is a prefix of one before it
		if v, ok := values[name]; ok {
			expr = strings.ReplaceAll(expr, "${"+name+"}", v)
			expr = strings.ReplaceAll(expr, "$"+name, v)
		}
	}
	return variable(expr, values)
}

// variable replaces $name and ${name}; names that are not known stay, so that a check can find them.
func variable(expr string, values map[string]string) string {
	return os.Expand(expr, func(name string) string {
		if v, ok := values[name]; ok {
			return v
		}
		return "$" + name
	})
}
