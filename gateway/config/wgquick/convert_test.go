package wgquick

import (
	"errors"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"sitewire/gateway/config"
)

var update = flag.Bool("update", false, "rewrite golden files")

// parseDir reads all files of a directory of testdata.
func parseDir(t testing.TB, dir string) (files []*File) {
	t.Helper()
	names, err := filepath.Glob(filepath.Join(dir, "*.conf"))
	if err != nil || len(names) == 0 {
		t.Fatalf("%s: no files: %v", dir, err)
	}
	for _, name := range names {
		f, err := Parse(filepath.Base(name), strings.TrimSuffix(filepath.Base(name), ".conf"), read(t, name))
		if err != nil {
			t.Fatal(err)
		}
		files = append(files, f)
	}
	return files
}

func read(t testing.TB, name string) string {
	t.Helper()
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// load writes a result to a directory, with its keys, and has it read as the daemon would.
func load(t testing.TB, r *Result) (*config.Config, error) {
	t.Helper()
	dir := t.TempDir()
	for _, k := range r.Keys {
		if err := os.WriteFile(filepath.Join(dir, k.Name), []byte(k.Secret.Reveal()+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	path := filepath.Join(dir, "sitewire.yaml")
	if err := os.WriteFile(path, r.YAML, 0o600); err != nil {
		t.Fatal(err)
	}
	return config.Load(path, config.Options{})
}

// TestConvert compares what files become with a golden, and has the configuration read.
func TestConvert(t *testing.T) {
	for name, c := range map[string]struct {
		options Options
		lacks   string // of the error: what only people can add
	}{
		"dn42":   {Options{Site: "fra", ASN: 4242420001}, ""},
		"hub":    {Options{Site: "hq"}, ""},
		"tunnel": {Options{Site: "on"}, ""},
		"keys":   {Options{Site: "keys", ASN: 65001}, "/etc/wireguard/a.key"},
	} {
		t.Run(name, func(t *testing.T) {
			files := parseDir(t, filepath.Join("testdata", name))
			r, err := Convert(files, c.options)
			if err != nil {
				t.Fatal(err)
			}
			var got strings.Builder
			got.Write(r.YAML)
			for _, k := range r.Keys {
				got.WriteString("\n-- " + k.Name + " --")
			}
			got.WriteString("\n-- notes --\n")
			for _, n := range r.Notes {
				got.WriteString(n.String() + "\n")
				if !strings.Contains(string(r.YAML), n.Text) {
					t.Errorf("not in the YAML: %v", n)
				}
			}
			for _, f := range files {
				if !f.PrivateKey.IsZero() && strings.Contains(got.String(), f.PrivateKey.Reveal()) {
					t.Error("a private key is shown")
				}
				for _, p := range f.Peers {
					if !p.PresharedKey.IsZero() && strings.Contains(got.String(), p.PresharedKey.Reveal()) {
						t.Error("a preshared key is shown")
					}
				}
			}
			golden := filepath.Join("testdata", name+".golden")
			if *update {
				if err := os.WriteFile(golden, []byte(got.String()), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			if want := read(t, golden); got.String() != want {
				t.Errorf("got:\n%s\nwant:\n%s", got.String(), want)
			}
			_, err = load(t, r)
			switch errs, _ := errors.AsType[config.Errors](err); {
			case c.lacks == "" && err != nil:
				t.Errorf("the configuration is not valid: %v", err)
			case c.lacks != "" && (len(errs) == 0 || !strings.Contains(err.Error(), c.lacks)):
				t.Errorf("error %v, want %s", err, c.lacks)
			}
		})
	}
}
