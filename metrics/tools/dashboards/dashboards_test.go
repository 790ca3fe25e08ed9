package dashboards

import (
	"flag"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "write the dashboards and their documentation")

const repository = "../../.."

// The files in metrics/grafana and docs are what the values say, and there are no others.
func TestFiles(t *testing.T) {
	want := map[string]string{"docs/dashboards.md": Docs(All())}
	for _, b := range All() {
		text, err := b.JSON()
		if err != nil {
			t.Fatal(err)
		}
		want["metrics/grafana/"+b.UID+".json"] = string(text)
	}
	for _, path := range slices.Sorted(maps.Keys(want)) {
		path, text := filepath.Join(repository, path), want[path]
		if *update {
			if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		have, err := os.ReadFile(path)
		if err != nil {
			t.Fatalf("%v\nto write it: go test ./dashboards -update", err)
		}
		if string(have) != text {
			t.Errorf("%s is not what the values say; to write it: go test ./dashboards -update", path)
		}
	}
	files, err := filepath.Glob(filepath.Join(repository, "metrics/grafana/*.json"))
	if err != nil {
		t.Fatal(err)
	}
	if len(files) != len(All()) {
		t.Errorf("%v: %d dashboards are made", files, len(All()))
	}
}

// Every panel says what it is for, every value that a table is made of is shown, and links lead to boards that exist.
func TestPanels(t *testing.T) {
	uids := map[string]bool{}
	for _, b := range All() {
		uids[b.UID] = true
	}
	for _, b := range All() {
		for _, row := range b.Rows {
			for _, p := range row.Panels {
				name := b.UID + ": " + p.Title
				for what, text := range map[string]string{"title": p.Title, "question": p.Question, "normal": p.Normal, "do": p.Do, "unit": p.Unit, "noValue": p.NoValue} {
					if text == "" {
						t.Errorf("%s has no %s", name, what)
					}
				}
				if !strings.HasSuffix(p.Question, "?") {
					t.Errorf("%s: %q is no question", name, p.Question)
				}
				if len(p.Steps) == 0 || p.W < 1 || p.W > columns || p.H < 1 || len(p.Queries) == 0 || len(p.Queries) > 26 {
					t.Errorf("%s: thresholds, size or queries are wrong", name)
				}
				if p.Link != "" && !uids[p.Link] {
					t.Errorf("%s links to %s, which is no board", name, p.Link)
				}
				for _, q := range p.Queries {
					if (p.Kind == TimeSeries || p.Kind == StateTimeline || p.Kind == Heatmap) == (q.Legend == "") {
						t.Errorf("%s: legend %q", name, q.Legend)
					}
				}
				if p.Kind == Table && p.Matrix == nil {
					checkColumns(t, name, &p, uids)
				}
			}
		}
	}
}

func checkColumns(t *testing.T, name string, p *Panel, uids map[string]bool) {
	fields, names := map[string]bool{}, map[string]bool{}
	for _, c := range p.Columns {
		if fields[c.Field] || names[c.Name] {
			t.Errorf("%s: column %s twice", name, c.Name)
		}
		fields[c.Field], names[c.Name] = true, true
		if c.Link != "" && !uids[c.Link] {
			t.Errorf("%s links to %s, which is no board", name, c.Link)
		}
		if letter, ok := strings.CutPrefix(c.Field, "Value #"); ok && (len(p.Queries) == 1 || int(letter[0]-'A') >= len(p.Queries)) {
			t.Errorf("%s: no query for column %s", name, c.Name)
		}
	}
	if p.SortBy != "" && !names[p.SortBy] {
		t.Errorf("%s is sorted by %s, which is no column", name, p.SortBy)
	}
}
