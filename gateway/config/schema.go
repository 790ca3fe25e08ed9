package config

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// schema is a JSON Schema (2020-12) or a part of one.
type schema map[string]any

// orExpansion allows ${…} where the value itself has another form.
func orExpansion(s schema) schema {
	return schema{"anyOf": []any{s, schema{"$ref": "#/$defs/expansion"}}}
}

func (o object[T]) schema() schema {
	properties, required := schema{}, []string{}
	for _, f := range o.fields {
		s := maps.Clone(f.schema)
		s["description"] = f.doc
		if f.fallback != "" {
			s["description"] = fmt.Sprintf("%s Default: %s.", f.doc, f.fallback)
		}
		properties[f.name] = s
		if f.required {
			required = append(required, f.name)
		}
	}
	s := schema{"type": "object", "additionalProperties": false, "properties": properties}
	if len(required) > 0 {
		s["required"] = required
	} else {
		s["type"] = []string{"object", "null"}
	}
	return s
}

// Schema returns the JSON Schema (draft 2020-12) of the file. It knows forms, not meanings: Load finds more mistakes.
// A file of conf.d may leave out what the main file has, so that the required keys at the top are not in it.
func Schema() []byte {
	s := topObject().schema()
	delete(s, "required")
	s["type"] = []string{"object", "null"}
	s["$schema"] = "https://json-schema.org/draft/2020-12/schema"
	s["title"] = "sitewire.yaml"
	s["$defs"] = schema{"expansion": schema{
		"type": "string", "pattern": `\$\{(file|cred|env):[^}]+\}`,
		"description": "${file:PATH}, ${cred:NAME}, ${env:NAME} or ${env:NAME:-DEFAULT}",
	}}
	b, err := json.MarshalIndent(s, "", "  ")
	if err != nil {
		panic(err) // the schema is made of maps, lists and texts
	}
	return append(b, '\n')
}

// knownKeys returns every key that occurs anywhere in the file format.
func knownKeys(s any) (keys []string) {
	switch v := s.(type) {
	case schema:
		if properties, ok := v["properties"].(schema); ok {
			keys = slices.AppendSeq(keys, maps.Keys(properties))
		}
		for _, part := range v {
			keys = append(keys, knownKeys(part)...)
		}
	case []any:
		for _, part := range v {
			keys = append(keys, knownKeys(part)...)
		}
	}
	return keys
}

// Reference returns the tables of keys in docs/configuration.md, as Markdown.
func Reference() string {
	var b strings.Builder
	table(&b, "The top", topObject())
	table(&b, "`announce`, in the long form", announceObject())
	table(&b, "`log`", logObject())
	table(&b, "`metrics`", metricsObject())
	table(&b, "`wireguard`", wireguardObject())
	table(&b, "`probe`", probeObject())
	table(&b, "`bgp`", bgpObject())
	table(&b, "`rpki`", rpkiObject())
	table(&b, "`rpki.servers.NAME`", rpkiServerObject())
	table(&b, "`rpki.files.NAME`", rpkiFileObject())
	table(&b, "`routes`", routesObject())
	table(&b, "`peers.NAME`", peerObject())
	table(&b, "`peers.NAME.tunnel`", tunnelObject())
	table(&b, "`peers.NAME.bgp`", sessionObject())
	table(&b, "`neighbours.NAME`", neighbourObject())
	table(&b, "`policies.NAME`", policyObject())
	table(&b, "Rules, in `import` and `export`", ruleObject())
	table(&b, "`match` of a rule", ruleMatch())
	table(&b, "`set` of a rule", ruleSet())
	return b.String()
}

func table[T any](b *strings.Builder, title string, o object[T]) {
	fmt.Fprintf(b, "### %s\n\n| key | value | default | meaning |\n|---|---|---|---|\n", title)
	cell := func(s string) string { return strings.ReplaceAll(s, "|", "\\|") }
	for _, f := range o.fields {
		fallback := f.fallback
		if f.required {
			fallback = "**required**"
		}
		fmt.Fprintf(b, "| `%s` | %s | %s | %s |\n", f.name, cell(f.want), cell(fallback), cell(f.doc))
	}
	b.WriteByte('\n')
}
