package config

import (
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"sitewire/gateway/wg"
)

// TestMask says which lines of a file errors may show, and how.
func TestMask(t *testing.T) {
	known := knownKeys(topObject().schema())
	in := `private_key: SECRET
  endpoint: a:1
public_key: OAFNGbXRwvUgCQX6AWStGeMmhQJXz2smTsVt3R/NTkM=
peers: {a: {passive: true, preshared_key: SECRET}}
- password: |
    SECRET
    SECRET

    SECRET
  next: 1
PrivateKey: SECRET
psk: SECRET
"pre_shared_key" : SECRET
pasword: SECRET
private_key: ${file:/x}
private_key: ${env:X:-SECRET}
junk OAFNGbXRwvUgCQX6AWStGeMmhQJXz2smTsVt3R/NTkM= junk
port: 1`
	want := `private_key: ***
  ***
public_key: OAFNGbXRwvUgCQX6AWStGeMmhQJXz2smTsVt3R/NTkM=
peers: {a: {passive: true, preshared_key: ***
- password: ***
    ***
    ***

    ***
  next: 1
PrivateKey: ***
psk: ***
"pre_shared_key" : ***
pasword: ***
private_key: ${file:/x}
private_key: ***
junk *** junk
port: 1`
	if got := strings.Join(maskLines(in, known), "\n"); got != want {
		t.Errorf("got:\n%s", got)
	}
}

func TestSuggest(t *testing.T) {
	for _, tt := range []struct{ word, want string }{
		{"endpont", "endpoint"}, {"endpiont", "endpoint"}, {"as", "asn"}, {"Policy", "policy"}, {"xyz", ""}, {"colour", ""},
	} {
		if got, _ := suggest(tt.word, []string{"endpoint", "asn", "policy", "description"}); got != tt.want {
			t.Errorf("%s: %q, want %q", tt.word, got, tt.want)
		}
	}
}

// TestHugeFiles says that no file, however broken, keeps the daemon busy or ends it.
func TestHugeFiles(t *testing.T) {
	for name, text := range map[string]string{
		"brackets":  "site: " + strings.Repeat("[", 1_000_000),
		"braces":    strings.Repeat("{a: ", 200_000),
		"dashes":    strings.Repeat("- ", 500_000),
		"questions": strings.Repeat("? ", 500_000),
		"indent":    deep(300),
		"too large": strings.Repeat("# comment\n", maxFileSize/9),
	} {
		start := time.Now()
		_, err := load(t, text)
		if _, ok := errors.AsType[Errors](err); !ok {
			t.Errorf("%s: %v", name, err)
		}
		t.Logf("%s: %v", name, time.Since(start))
	}
}

// TestRulers says that lines of dashes are comments, and not nesting.
func TestRulers(t *testing.T) {
	ruler := "# " + strings.Repeat("-", 200) + "\n"
	if _, err := load(t, ruler+"site: fra # "+strings.Repeat("- ", 40)+"\n"+ruler); err != nil {
		t.Error(err)
	}
}

func deep(n int) string {
	var b strings.Builder
	for i := range n {
		b.WriteString(strings.Repeat(" ", i) + "a:\n")
	}
	return b.String()
}

func FuzzLoad(f *testing.F) {
	for _, pattern := range []string{"testdata/good/*.yaml", "testdata/bad/*.yaml"} {
		files, err := filepath.Glob(pattern)
		if err != nil {
			f.Fatal(err)
		}
		for _, name := range files {
			f.Add(read(f, name))
		}
	}
	dir := site(f)
	f.Fuzz(func(t *testing.T, text string) {
		path := filepath.Join(t.TempDir(), "sitewire.yaml")
		write(t, path, strings.ReplaceAll(text, "/etc/sitewire/", dir+"/"), 0o600)
		c, err := Load(path, Options{LookupEnv: env(dir)})
		if err != nil {
			errs, ok := errors.AsType[Errors](err)
			if !ok || len(errs) == 0 {
				t.Fatalf("error of type %T: %v", err, err)
			}
			if s := err.Error(); strings.Contains(s, password) && !strings.Contains(text, password) || strings.Contains(s, ownPrivate) && !strings.Contains(text, ownPrivate) {
				t.Fatalf("a secret is in the error: %s", s)
			}
			return
		}
		c.Canonical()
		if d := Diff(c, c); d != nil {
			t.Fatalf("differs from itself: %v", d)
		}
	})
}

// BenchmarkLoad reads a hub's configuration with a thousand branches.
func BenchmarkLoad(b *testing.B) {
	var text strings.Builder
	text.WriteString("site: hq\nasn: 65000\nrouter_id: 10.0.0.1\nwireguard:\n  private_key: ${file:/etc/sitewire/private.key}\n  device: wg0\npeers:\n")
	for i := range 1000 {
		key := wg.PublicKey{9, byte(i), byte(i >> 8)}
		fmt.Fprintf(&text, "  branch-%d:\n    public_key: %v\n    asn: %d\n    policy: hub\n", i, key, 64600+i%900)
	}
	dir := site(b)
	path := filepath.Join(dir, "sitewire.yaml")
	write(b, path, strings.ReplaceAll(text.String(), "/etc/sitewire/", dir+"/"), 0o600)
	for b.Loop() {
		if _, err := Load(path, Options{}); err != nil {
			b.Fatal(err)
		}
	}
}
