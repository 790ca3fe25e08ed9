package topologies

import (
	"os"
	"slices"
	"testing"

	"github.com/goccy/go-yaml"
)

// The workflow runs every lab, and only those that there are.
func TestWorkflow(t *testing.T) {
	text, err := os.ReadFile("../.github/workflows/containerlab.yml")
	if err != nil {
		t.Fatal(err)
	}
	var v struct {
		Jobs map[string]struct {
			Strategy struct {
				Matrix struct {
					Containerlab, Lab []string
				}
			}
		}
	}
	if err := yaml.Unmarshal(text, &v); err != nil {
		t.Fatal(err)
	}
	m := v.Jobs["labs"].Strategy.Matrix
	var names []string
	for _, e := range Entries() {
		names = append(names, e.Name)
	}
	if !slices.Equal(m.Lab, names) {
		t.Errorf("it runs %q, there are %q", m.Lab, names)
	}
	if len(m.Containerlab) < 2 || m.Containerlab[0] != "0.60.0" {
		t.Errorf("it runs with containerlab %q, not with the oldest that the labs are made for and a late one", m.Containerlab)
	}
}
