package board

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

const folder = "../../grafana"

// Every dashboard is one that Grafana's own types accept, with nothing unknown in it.
func TestStrict(t *testing.T) {
	files, err := filepath.Glob(filepath.Join(folder, "*.json"))
	if err != nil || len(files) == 0 {
		t.Fatalf("no dashboards: %v", err)
	}
	for _, file := range files {
		b, err := Load(file)
		if err != nil {
			t.Error(err)
			continue
		}
		if len(b.Flat) < 10 {
			t.Errorf("%s: only %d panels were read", file, len(b.Flat))
		}
	}
}

// What Grafana would silently ignore or refuse is found.
func TestBroken(t *testing.T) {
	text, err := os.ReadFile(filepath.Join(folder, "sitewire-tunnel.json"))
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ name, old, new string }{
		{"an unknown field of the board", `"schemaVersion"`, `"schemaversion": 1, "schemaVersion"`},
		{"an unknown field of an option", `"graphMode": "none"`, `"graphMode": "none", "grahpMode": "none"`},
		{"an unknown field of the field configuration", `"lineWidth": 1`, `"lineWidth": 1, "lineWith": 1`},
		{"an unknown type of panel", `"type": "timeseries"`, `"type": "graph"`},
		{"a number for a text", `"refId": "A"`, `"refId": 1`},
		{"a panel that is wider than the grid", `"w": 4`, `"w": 25`},
		{"a panel without a height", `"h": 4`, `"h": 0`},
	} {
		broken := strings.Replace(string(text), c.old, c.new, 1)
		if broken == string(text) {
			t.Fatalf("%s: %s is not in the file", c.name, c.old)
		}
		if _, err := Decode([]byte(broken)); err == nil {
			t.Errorf("%s is accepted", c.name)
		}
	}
}

func TestExpand(t *testing.T) {
	got := Expand(`rate(x{job=~"$job",a="${peer}",b="$unknown"}[$__rate_interval]) / ${__range} / $__interval`,
		map[string]string{"job": "a|b", "peer": ".+", "__rate_interval": "60s", "__range": "1h", "__interval": "15s"})
	if want := `rate(x{job=~"a|b",a=".+",b="$unknown"}[60s]) / 1h / 15s`; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}
