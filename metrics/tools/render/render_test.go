package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"image/png"
	"math"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"gonum.org/v1/plot/plotter"
)

// fakePrometheus answers every query with one series, except for those that contain empty.
func fakePrometheus(t *testing.T, value, empty string) *httptest.Server {
	t.Helper()
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		answer := func(data any) {
			if err := json.NewEncoder(w).Encode(map[string]any{"status": "success", "data": data}); err != nil {
				t.Error(err)
			}
		}
		if strings.HasSuffix(r.URL.Path, "/values") {
			answer([]string{"fra", "n.c"})
			return
		}
		query := r.FormValue("query")
		if strings.Contains(query, "$") {
			t.Errorf("%s was sent with a variable", query)
		}
		labels := map[string]string{"instance": "fra", "peer": "nyc", "le": "0.5", "site": "nyc"}
		result := []any{}
		switch {
		case empty != "" && strings.Contains(query, empty):
		case strings.HasSuffix(r.URL.Path, "query_range"):
			start, _ := strconv.ParseFloat(r.FormValue("start"), 64)
			result = append(result, map[string]any{"metric": labels, "values": [][]any{{start, value}, {start + 60, value}}})
		default:
			result = append(result, map[string]any{"metric": labels, "value": []any{1e9, value}})
		}
		answer(map[string]any{"resultType": "matrix", "result": result})
	}))
	t.Cleanup(s.Close)
	return s
}

// Every panel of every dashboard can be drawn, whatever the values, and those without data are named.
func TestRender(t *testing.T) {
	for _, c := range []struct{ value, empty, want string }{
		{"1", "", ""},
		{"0", "", ""},
		{"NaN", "", "no data: sitewire-tunnel: Is a tunnel broken? / Worst loss"},
		{"+Inf", "", ""},
		{"-3e12", "sitewire_bfd_session_up", "no data: sitewire-bgp: BFD (only for sessions that have it) / State of BFD"},
	} {
		t.Run(c.value, func(t *testing.T) {
			dir := t.TempDir()
			var out bytes.Buffer
			if err := run(t.Context(), []string{"-prometheus", fakePrometheus(t, c.value, c.empty).URL, "-dashboards", "../../grafana", "-out", dir}, &out); err != nil {
				t.Fatal(err)
			}
			if got := out.String(); !strings.Contains(got, c.want) || c.want == "" && got != "" {
				t.Errorf("got %q, want %q", got, c.want)
			}
			files, err := filepath.Glob(filepath.Join(dir, "sitewire-*.png"))
			if err != nil || len(files) < 100 {
				t.Fatalf("%d images: %v", len(files), err)
			}
			page, err := os.ReadFile(filepath.Join(dir, "index.html"))
			if err != nil {
				t.Fatal(err)
			}
			for _, file := range files {
				if !strings.Contains(string(page), filepath.Base(file)) {
					t.Errorf("%s is not on the page", file)
				}
			}
			f, err := os.Open(files[0])
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			if img, err := png.Decode(f); err != nil || img.Bounds().Dx() < 3*cellWidth {
				t.Errorf("%s: %v", files[0], err)
			}
		})
	}
}

// Queries get the intervals that Grafana computes.
func TestIntervals(t *testing.T) {
	v := view{from: time.Unix(0, 0), to: time.Unix(6*3600, 0), scrape: 15 * time.Second}
	got := v.intervals(720)
	for name, want := range map[string]string{"__interval": "30s", "__rate_interval": "60s", "__range": "21600s"} {
		if got[name] != want {
			t.Errorf("%s is %s, want %s", name, got[name], want)
		}
	}
	if got := v.intervals(72)["__rate_interval"]; got != "315s" {
		t.Errorf("with wide steps: %s", got)
	}
}

func TestTransformations(t *testing.T) {
	f := merge(frames([]answer{
		{letter: "A", series: []series{{Labels: map[string]string{"i": "a", "p": "x", "site": "s"}, Values: []point{{0, 1}}}, {Labels: map[string]string{"i": "a", "p": "y", "site": "s"}, Values: []point{{0, 2}}}}},
		{letter: "B", series: []series{{Labels: map[string]string{"i": "a", "p": "y"}, Values: []point{{0, 3}}}, {Labels: map[string]string{"i": "b", "p": "y"}, Values: []point{{0, 4}}}}},
	}))
	got := f.organize(map[string]int{"p": 0, "Value #A": 1, "Value #B": 2, "i": 3, "site": 4}, map[string]string{"p": "peer"})
	if want := "[peer Value #A Value #B i site] [map[Value #A:1 Value #B:<nil> i:a peer:x site:s] map[Value #A:2 Value #B:3 i:a peer:y site:s] map[Value #A:<nil> Value #B:4 i:b peer:y site:<nil>]]"; fmt.Sprint(got.names, " ", got.rows) != want {
		t.Errorf("merge: got  %v %v\nwant %s", got.names, got.rows, want)
	}
	m := frame{names: []string{"i", "p", "Value"}, rows: []map[string]any{{"i": "b", "p": "x", "Value": 1.0}, {"i": "a", "p": "y", "Value": 2.0}}}.matrix("i", "p", "Value")
	if want := `[i\p x y] [map[i\p:a y:2] map[i\p:b x:1]]`; fmt.Sprint(m.names, " ", m.rows) != want {
		t.Errorf("matrix: got  %v %v\nwant %s", m.names, m.rows, want)
	}
}

// Cumulative buckets are taken apart; +Inf is the last.
func TestBuckets(t *testing.T) {
	all := []series{
		{Labels: map[string]string{"le": "+Inf"}, Values: []point{{0, 7}}}, {Labels: map[string]string{"le": "0.5"}, Values: []point{{0, 5}}}, {Labels: map[string]string{"le": "0.1"}, Values: []point{{0, 2}}},
	}
	var got []float64
	for _, b := range buckets(all) {
		got = append(got, b.le, b.counts[0])
	}
	if want := []float64{.1, 2, .5, 3, math.Inf(1), 2}; !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

// Lines are interrupted where there is no value.
func TestParts(t *testing.T) {
	xys := plotter.XYs{{X: 0, Y: 1}, {X: 1, Y: 1}, {X: 2, Y: math.NaN()}, {X: 3, Y: 1}, {X: 4, Y: 1}, {X: 9, Y: 0}}
	if got := fmt.Sprint(parts(xys, false)); got != "[{0 2} {3 5} {5 6}]" {
		t.Errorf("got %s", got)
	}
	if got := fmt.Sprint(parts(xys, true)); got != "[{0 2} {3 5}]" {
		t.Errorf("on a logarithmic axis: got %s", got)
	}
}

func TestFormat(t *testing.T) {
	for _, c := range []struct {
		v        float64
		unit     string
		decimals int
		want     string
	}{
		{0.00095, "s", -1, "950 µs"}, {125, "s", -1, "2.1 min"}, {0, "s", 0, "0 s"}, {90000, "s", -1, "1.0 d"},
		{0.034, "percentunit", -1, "3.4 %"}, {2080, "bps", -1, "2.08 kb/s"}, {1 << 20, "bytes", -1, "1 MiB"}, {7.01, "none", 0, "7"},
		{4242420001, "none", -1, "4242420001"}, {1500, "pps", -1, "1.5 kp/s"}, {math.NaN(), "s", -1, "–"}, {math.Inf(1), "none", -1, "∞"},
	} {
		if got := format(c.v, c.unit, c.decimals); got != c.want {
			t.Errorf("%v %s: got %q, want %q", c.v, c.unit, got, c.want)
		}
	}
}
