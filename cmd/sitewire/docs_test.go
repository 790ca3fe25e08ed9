package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestDocs holds the examples of docs/cli.md to the goldens: what the page shows is what the program prints.
func TestDocs(t *testing.T) {
	file := filepath.Join("..", "..", "docs", "cli.md")
	page, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	text := string(page)
	for command, golden := range map[string]string{
		"status": "status", "peers nyc": "peer", "bgp": "bgp", "routes": "routes", "routes 172.20.2.0/24": "route", "explain 172.20.2.10": "explain",
		"doctor": "doctor",
	} {
		want, err := os.ReadFile(filepath.Join("testdata", "golden", golden+".txt"))
		if err != nil {
			t.Fatal(err)
		}
		before, rest, ok := strings.Cut(text, "$ sitewire "+command+"\n")
		shown, after, closed := strings.Cut(rest, "```\n")
		if !ok || !closed {
			t.Errorf("%s has no example of `sitewire %s`", file, command)
			continue
		}
		if shown == string(want) {
			continue
		}
		if *update {
			text = before + "$ sitewire " + command + "\n" + string(want) + "```\n" + after
			continue
		}
		t.Errorf("%s shows for `sitewire %s` what it does not print (-update rewrites it)", file, command)
	}
	for _, c := range newRoot(newApp()).Commands() {
		if !c.Hidden && c.Name() != "help" && !strings.Contains(text, c.Name()) {
			t.Errorf("%s does not mention `sitewire %s`", file, c.Name())
		}
	}
	if *update {
		if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}
