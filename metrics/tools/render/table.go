package main

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"

	"sitewire/metrics/tools/board"
)

// frame is a table: columns with a name, rows of values that are text, numbers or nil.
type frame struct {
	names []string
	rows  []map[string]any
}

// frames turns the answers of instant queries into tables as Grafana does: a column for each label, one for the value.
func frames(answers []answer) (out []frame) {
	for _, a := range answers {
		value := "Value"
		if len(answers) > 1 {
			value = "Value #" + a.letter
		}
		labels := map[string]bool{}
		f := frame{}
		for _, s := range a.series {
			row := map[string]any{value: s.Values[len(s.Values)-1].v}
			for name, text := range s.Labels {
				labels[name] = true
				row[name] = text
			}
			f.rows = append(f.rows, row)
		}
		if len(f.rows) == 0 {
			continue
		}
		f.names = append(slices.Sorted(maps.Keys(labels)), value)
		out = append(out, f)
	}
	return out
}

// transform applies a panel's transformations. An unknown one is an error: the picture would not be what Grafana shows.
func transform(panel *board.Panel, all []frame) (frame, error) {
	for _, t := range panel.Transformations {
		text, err := json.Marshal(t.Options)
		if err != nil {
			return frame{}, err
		}
		switch t.Id {
		case "merge":
			all = []frame{merge(all)}
		case "filterFieldsByName":
			var o struct{ Include struct{ Names []string } }
			if err := json.Unmarshal(text, &o); err != nil {
				return frame{}, err
			}
			for i := range all {
				all[i].names = slices.DeleteFunc(all[i].names, func(n string) bool { return !slices.Contains(o.Include.Names, n) })
			}
		case "organize":
			var o struct {
				IndexByName  map[string]int
				RenameByName map[string]string
			}
			if err := json.Unmarshal(text, &o); err != nil {
				return frame{}, err
			}
			for i := range all {
				all[i] = all[i].organize(o.IndexByName, o.RenameByName)
			}
		case "groupingToMatrix":
			var o struct{ RowField, ColumnField, ValueField string }
			if err := json.Unmarshal(text, &o); err != nil {
				return frame{}, err
			}
			for i := range all {
				all[i] = all[i].matrix(o.RowField, o.ColumnField, o.ValueField)
			}
		default:
			return frame{}, fmt.Errorf("transformation %s is not known here", t.Id)
		}
	}
	switch len(all) {
	case 0:
		return frame{}, nil
	case 1:
		return all[0], nil
	}
	return frame{}, fmt.Errorf("%d tables are left: Grafana would show one of them", len(all))
}

// merge puts rows together whose values agree in the columns that all frames have.
func merge(all []frame) frame {
	if len(all) == 0 {
		return frame{}
	}
	var out frame
	keys := slices.Clone(all[0].names)
	for _, f := range all {
		keys = slices.DeleteFunc(keys, func(n string) bool { return !slices.Contains(f.names, n) })
		for _, n := range f.names {
			if !slices.Contains(out.names, n) {
				out.names = append(out.names, n)
			}
		}
	}
	for _, f := range all {
		for _, row := range f.rows {
			i := slices.IndexFunc(out.rows, func(have map[string]any) bool {
				for n, v := range row {
					if old, ok := have[n]; ok && old != v {
						return false
					}
				}
				for _, k := range keys {
					if have[k] != row[k] {
						return false
					}
				}
				return true
			})
			if i < 0 {
				out.rows = append(out.rows, maps.Clone(row))
				continue
			}
			maps.Copy(out.rows[i], row)
		}
	}
	return out
}

func (f frame) organize(index map[string]int, rename map[string]string) frame {
	slices.SortStableFunc(f.names, func(a, b string) int { return index[a] - index[b] })
	out := frame{}
	for _, n := range f.names {
		out.names = append(out.names, renamed(rename, n))
	}
	for _, row := range f.rows {
		r := map[string]any{}
		for _, n := range f.names {
			r[renamed(rename, n)] = row[n]
		}
		out.rows = append(out.rows, r)
	}
	return out
}

func renamed(rename map[string]string, name string) string {
	if n := rename[name]; n != "" {
		return n
	}
	return name
}

func (f frame) matrix(row, column, value string) frame {
	corner := row + `\` + column
	out := frame{names: []string{corner}}
	var columns []string
	for _, r := range f.rows {
		c, _ := r[column].(string)
		if !slices.Contains(columns, c) {
			columns = append(columns, c)
		}
		i := slices.IndexFunc(out.rows, func(have map[string]any) bool { return have[corner] == r[row] })
		if i < 0 {
			out.rows = append(out.rows, map[string]any{corner: r[row]})
			i = len(out.rows) - 1
		}
		out.rows[i][c] = r[value]
	}
	slices.Sort(columns)
	out.names = append(out.names, columns...)
	slices.SortFunc(out.rows, func(a, b map[string]any) int { return strings.Compare(fmt.Sprint(a[corner]), fmt.Sprint(b[corner])) })
	return out
}

// sort orders the rows by a column as Grafana's table does.
func (f frame) sort(column string, descending bool) {
	slices.SortStableFunc(f.rows, func(a, b map[string]any) int {
		c := compare(a[column], b[column])
		if descending {
			return -c
		}
		return c
	})
}

func compare(a, b any) int {
	x, xok := a.(float64)
	y, yok := b.(float64)
	switch {
	case xok && yok && x < y:
		return -1
	case xok && yok && x > y:
		return 1
	case xok && yok:
		return 0
	}
	return strings.Compare(fmt.Sprint(a), fmt.Sprint(b))
}
