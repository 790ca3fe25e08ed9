package main

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// Commands in prose and in examples, up to what the shell takes for itself.
var runbookCommand = regexp.MustCompile("(?m)(?:^\\$ |`)sitewire ([^`|>\n]*)")

// TestRunbookCommands holds the runbooks to the command line: at night nobody wants to learn that a command is called otherwise.
func TestRunbookCommands(t *testing.T) {
	pages, err := filepath.Glob(filepath.Join("..", "..", "docs", "runbooks", "*.md"))
	if err != nil {
		t.Fatal(err)
	}
	seen := map[string]int{}
	for _, page := range pages {
		text, err := os.ReadFile(page)
		if err != nil {
			t.Fatal(err)
		}
		for _, match := range runbookCommand.FindAllStringSubmatch(string(text), -1) {
			name, err := parsesAsCommand(strings.Fields(match[1]))
			if err != nil {
				t.Errorf("%s: sitewire %s: %v", page, match[1], err)
			}
			seen[name]++
		}
	}
	for _, name := range []string{"status", "peers", "bgp", "routes", "explain", "check", "reload"} {
		if seen[name] == 0 {
			t.Errorf("no runbook uses sitewire %s: are they read at all?", name)
		}
	}
}

func TestRunbookCommandsAreChecked(t *testing.T) {
	for command, good := range map[string]bool{
		"status": true, "peers NAME": true, "routes --peer NAME --rejected": true, "status --fail": true,
		"physician": false, "bgp reset NAME": false, "routes --conflicts": false, "explain": false, "peers NAME NAME": false,
	} {
		if _, err := parsesAsCommand(strings.Fields(command)); good != (err == nil) {
			t.Errorf("sitewire %s: %v", command, err)
		}
	}
}

// parsesAsCommand returns the name of the sub-command that takes these arguments, or why there is none.
func parsesAsCommand(args []string) (string, error) {
	cmd, rest, err := newRoot(newApp()).Find(args)
	if err == nil {
		err = cmd.ParseFlags(rest)
	}
	if err == nil {
		err = cmd.ValidateArgs(cmd.Flags().Args())
	}
	return cmd.Name(), err
}
