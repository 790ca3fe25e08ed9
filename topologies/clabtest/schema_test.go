package clabtest

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/goccy/go-yaml"
	"github.com/santhosh-tekuri/jsonschema/v6"

	"sitewire/topologies"
	"sitewire/topologies/netns"
	"sitewire/topologies/netns/nstest"
)

// schemaEnv names files with containerlab's JSON schema of topology files, of one or more of its versions. It is containerlab's, so it is
// fetched where it is needed (.github/workflows/containerlab.yml says how) and not kept here.
const schemaEnv = "SITEWIRE_CLAB_SCHEMA"

// Every committed lab is valid by containerlab's own schema.
func TestSchema(t *testing.T) {
	list := filepath.SplitList(os.Getenv(schemaEnv))
	nstest.Need(t, nstest.Requirement{Kind: "schema", Name: "clab.schema.json", Check: func() error {
		if len(list) == 0 {
			return &netns.Unavailable{
				What: "containerlab's schema", Why: schemaEnv + " is not set",
				Fix: "set it to schemas/clab.schema.json of one or more releases of containerlab, with colons between them",
			}
		}
		return nil
	}})
	for _, schema := range list {
		compiled, err := jsonschema.NewCompiler().Compile(schema)
		if err != nil {
			t.Fatal(err)
		}
		each(t, func(t *testing.T, _ *topologies.Network, file string) {
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			var v any
			if err := yaml.Unmarshal(text, &v); err != nil {
				t.Fatal(err)
			}
			if err := compiled.Validate(plain(v)); err != nil {
				t.Errorf("by %s: %v", schema, err)
			}
		})
		bad := map[string]any{"name": 1, "topology": map[string]any{}}
		if _, ok := errors.AsType[*jsonschema.ValidationError](compiled.Validate(bad)); !ok {
			t.Errorf("%s takes anything", schema)
		}
	}
}

// plain gives numbers the types that encoding/json would.
func plain(v any) any {
	switch v := v.(type) {
	case map[string]any:
		for k := range v {
			v[k] = plain(v[k])
		}
	case []any:
		for i := range v {
			v[i] = plain(v[i])
		}
	case uint64:
		return float64(v)
	case int64:
		return float64(v)
	}
	return v
}
