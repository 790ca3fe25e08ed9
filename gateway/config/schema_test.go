package config

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/goccy/go-yaml"
)

// validate is as much of JSON Schema as our schema uses; an unknown keyword is an error.
func validate(root, s map[string]any, v any, at string) error {
	for word, arg := range s {
		switch word {
		case "$schema", "title", "description", "$defs":
		case "$ref":
			name := strings.TrimPrefix(arg.(string), "#/$defs/")
			if err := validate(root, root["$defs"].(map[string]any)[name].(map[string]any), v, at); err != nil {
				return err
			}
		case "type":
			var types []any
			if one, ok := arg.(string); ok {
				types = []any{one}
			} else {
				types = arg.([]any)
			}
			if !slices.ContainsFunc(types, func(t any) bool { return isType(v, t.(string)) }) {
				return fmt.Errorf("%s: %v is not %v", at, v, types)
			}
		case "enum":
			if !slices.Contains(arg.([]any), v) {
				return fmt.Errorf("%s: %v is not one of %v", at, v, arg)
			}
		case "const":
			if arg != v {
				return fmt.Errorf("%s: %v is not %v", at, v, arg)
			}
		case "pattern":
			if text, ok := v.(string); ok && !regexp.MustCompile(arg.(string)).MatchString(text) {
				return fmt.Errorf("%s: %q does not match %s", at, text, arg)
			}
		case "minimum", "maximum":
			if n, ok := v.(float64); ok && (word == "minimum" && n < arg.(float64) || word == "maximum" && n > arg.(float64)) {
				return fmt.Errorf("%s: %v is out of range (%s %v)", at, v, word, arg)
			}
		case "anyOf":
			var errs []string
			for _, one := range arg.([]any) {
				err := validate(root, one.(map[string]any), v, at)
				if err == nil {
					errs = nil
					break
				}
				errs = append(errs, err.Error())
			}
			if errs != nil {
				return fmt.Errorf("%s: none of: %s", at, strings.Join(errs, "; "))
			}
		case "items":
			list, _ := v.([]any)
			for i, item := range list {
				if err := validate(root, arg.(map[string]any), item, fmt.Sprintf("%s[%d]", at, i)); err != nil {
					return err
				}
			}
		case "required":
			if m, ok := v.(map[string]any); ok {
				for _, k := range arg.([]any) {
					if _, ok := m[k.(string)]; !ok {
						return fmt.Errorf("%s: %v is missing", at, k)
					}
				}
			}
		case "properties", "additionalProperties", "propertyNames":
		default:
			return fmt.Errorf("the schema uses %s, which this test does not know", word)
		}
	}
	m, ok := v.(map[string]any)
	if !ok {
		return nil
	}
	properties, _ := s["properties"].(map[string]any)
	for k, value := range m {
		where := at + "." + k
		if names, ok := s["propertyNames"].(map[string]any); ok {
			if err := validate(root, names, k, where); err != nil {
				return err
			}
		}
		sub, known := properties[k].(map[string]any)
		switch other := s["additionalProperties"].(type) {
		case bool:
			if !known && !other {
				return fmt.Errorf("%s: unknown", where)
			}
		case map[string]any:
			if !known {
				sub, known = other, true
			}
		}
		if known {
			if err := validate(root, sub, value, where); err != nil {
				return err
			}
		}
	}
	return nil
}

func isType(v any, name string) bool {
	switch v := v.(type) {
	case nil:
		return name == "null"
	case bool:
		return name == "boolean"
	case string:
		return name == "string"
	case float64:
		return name == "number" || name == "integer" && v == float64(int64(v))
	case []any:
		return name == "array"
	case map[string]any:
		return name == "object"
	}
	return false
}

func schemaOf(t *testing.T) map[string]any {
	t.Helper()
	var s map[string]any
	if err := json.Unmarshal(Schema(), &s); err != nil {
		t.Fatal(err)
	}
	return s
}

// conforms checks a YAML text against the schema, by way of JSON, as editors do.
func conforms(t *testing.T, s map[string]any, text string) error {
	t.Helper()
	var v any
	b, err := yaml.YAMLToJSON([]byte(text))
	if err != nil {
		return err
	}
	if err := json.NewDecoder(bytes.NewReader(b)).Decode(&v); err != nil {
		return err
	}
	return validate(s, s, v, "")
}

func TestSchemaAcceptsExamples(t *testing.T) {
	s := schemaOf(t)
	files, err := filepath.Glob("testdata/good/*.yaml")
	if err != nil || len(files) == 0 {
		t.Fatal(files, err)
	}
	for _, f := range files {
		// The library misreads 64511:3 in a list inside {…} (see plainScalar), here and not in editors.
		text := regexp.MustCompile(`\b64511:\d+`).ReplaceAllString(read(t, f), `"$0"`)
		if err := conforms(t, s, text); err != nil {
			t.Errorf("%s: %v", f, err)
		}
	}
}

func TestSchemaRefuses(t *testing.T) {
	s := schemaOf(t)
	for _, text := range []string{
		"sitee: a\n", "asn: none\n", "asn: 0\n", "peers: {a: {}}\n", "peers: {-a: {public_key: x}}\n", "announce: 10\n", "log: {level: loud}\n",
		"routes: {metric: 0}\n", "bgp: {hold_time: 2}\n", "wireguard: {mtu: 1000}\n", "neighbours: {a: {address: 10.0.0.1}}\n",
		"policies: {a: {import: [{action: maybe}]}}\n", "policies: {a: {import: [{match: {}}]}}\n", "wireguard: {device: name-of-seventeen}\n",
	} {
		if err := conforms(t, s, text); err == nil {
			t.Errorf("the schema accepts %q", text)
		} else if strings.Contains(err.Error(), "does not know") {
			t.Error(err)
		}
	}
	if err := conforms(t, s, "site: ${env:X}\nasn: ${file:asn}\nwireguard: {private_key: \"${cred:x}\", mtu: auto, fwmark: off}\n"); err != nil {
		t.Error(err)
	}
}

const (
	docFile  = "../../docs/configuration.md"
	docBegin = "<!-- generated: go test ./gateway/config -update -->\n"
	docEnd   = "<!-- end of generated part -->\n"
)

// TestDocumentation keeps the tables of the page equal to the tables of the program, and loads every example in it.
func TestDocumentation(t *testing.T) {
	text := read(t, docFile)
	head, rest, ok := strings.Cut(text, docBegin)
	_, tail, ok2 := strings.Cut(rest, docEnd)
	if !ok || !ok2 {
		t.Fatalf("%s has lost its marks", docFile)
	}
	want := head + docBegin + "\n" + Reference() + docEnd + tail
	if *update {
		if err := os.WriteFile(docFile, []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
	} else if want != text {
		t.Errorf("%s differs from the program: go test -update rewrites it", docFile)
	}
	s := schemaOf(t)
	examples := regexp.MustCompile("(?s)```yaml\n(.*?)```").FindAllStringSubmatch(text, -1)
	if len(examples) < 3 {
		t.Fatalf("%d examples", len(examples))
	}
	for _, e := range examples {
		if err := conforms(t, s, e[1]); err != nil {
			t.Errorf("schema: %v\n%s", err, e[1])
		}
		if !strings.Contains(e[1], "site:") {
			continue // a part of a file
		}
		if c, err := load(t, e[1]); err != nil || len(c.Warnings) > 0 {
			t.Errorf("%v %v\n%s", err, c, e[1])
		}
	}
}
