package main

import (
	"cmp"
	"fmt"
	"runtime"
	"runtime/debug"

	"github.com/spf13/cobra"
)

// version is for package builders: go build -ldflags "-X main.version=v1.2.3". Empty means what the Go linker recorded.
var version string

// build says what this program was made from.
type build struct {
	APIVersion string `json:"api_version"`
	Version    string `json:"version"`
	Revision   string `json:"revision,omitempty"`
	Modified   bool   `json:"modified,omitempty"` // from a tree with uncommitted changes
	Go         string `json:"go"`
	Platform   string `json:"platform"`
	GoBGP      string `json:"gobgp,omitempty"`
	WireGuard  string `json:"wireguard,omitempty"`
}

// readBuild reads what the Go linker and the package's builder recorded.
func readBuild() build {
	b := build{APIVersion: "v1", Version: cmp.Or(version, "devel"), Go: runtime.Version(), Platform: runtime.GOOS + "/" + runtime.GOARCH}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return b
	}
	if v := info.Main.Version; version == "" && v != "" && v != "(devel)" {
		b.Version = v
	}
	for _, s := range info.Settings {
		switch s.Key {
		case "vcs.revision":
			b.Revision = s.Value
		case "vcs.modified":
			b.Modified = s.Value == "true"
		}
	}
	for _, m := range info.Deps {
		switch m.Path {
		case "github.com/osrg/gobgp/v4":
			b.GoBGP = m.Version
		case "golang.zx2c4.com/wireguard":
			b.WireGuard = m.Version
		}
	}
	return b
}

func newVersion(a *app) *cobra.Command {
	var out output
	cmd := &cobra.Command{
		Use:   "version",
		Short: "Version of this program and of what is built into it",
		Args:  cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			b := readBuild()
			if out.json {
				return a.printValue(b)
			}
			e := &errWriter{w: a.stdout}
			e.printf("sitewire %s\n", b.Version)
			for _, line := range [][2]string{{"revision", b.Revision}, {"go", b.Go + " " + b.Platform}, {"gobgp", b.GoBGP}, {"wireguard", b.WireGuard}} {
				if line[1] != "" {
					e.printf("  %-10s %s\n", line[0], line[1])
				}
			}
			return e.err
		},
	}
	out.flags(cmd, false)
	return cmd
}

// versionText is the version in one word with its revision, for logs and the API.
func (b build) versionText() string {
	if b.Revision == "" || b.Version != "devel" {
		return b.Version
	}
	return fmt.Sprintf("%s-%.12s", b.Version, b.Revision)
}
