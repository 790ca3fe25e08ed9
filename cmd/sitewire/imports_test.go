package main

import (
	"encoding/json"
	"errors"
	"io"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

// mayImport is the table of who may import whom within the module. Packages that are missing may import nothing of it.
// "*" is everything.
var mayImport = map[string][]string{
	"cmd/sitewire":           {"*"},
	"cmd/sitewire/e2e":       {"*"},
	"gateway":                {"gateway/config", "gateway/host", "gateway/probe", "gateway/wg", "bgp", "bgp/policy", "bgp/rpki", "routes"},
	"gateway/host":           {"gateway/wg"},
	"gateway/config":         {"gateway/wg", "bgp/policy"},
	"gateway/config/wgquick": {"gateway/config", "gateway/wg"}, // writes the configuration that config reads, and the other way round
	"gateway/probe":          {"routes"},
	"gateway/wg/kernel":      {"gateway/wg"},
	"gateway/wg/user":        {"gateway/wg"},
	"gateway/wg/wgtest":      {"gateway/wg"},
	// The suite of drivers that have a link needs namespaces with links.
	"gateway/wg/wgtest/tunneltest": {"gateway/wg", "gateway/wg/wgtest", "topologies/netns", "topologies/netns/nstest"},
	"bgp":                          {"routes", "routes/prefixmap", "bgp/bfd", "bgp/policy", "bgp/rpki"},
	"bgp/rpki":                     {"bgp/policy"},
	"bgp/bgptest":                  {},
	"bgp/bgptest/parts":            {"routes", "routes/fib"}, // a program to measure beside: the parts of a gateway, and nothing between them
	"bgp/bgptest/plain":            {},
	"routes":                       {"routes/prefixmap"}, // a container, as bart is
	"routes/fib":                   {"routes"},
	"routes/routestest":            {"routes"},
	"metrics":                      {"gateway/probe", "gateway/wg", "bgp", "bgp/bfd", "bgp/rpki", "routes"},
	"topologies":                   {"gateway/config", "gateway/wg"}, // wg for keys
	"topologies/check":             {"topologies"},
	"topologies/clabtest":          {"topologies", "topologies/clabfile", "topologies/netns", "topologies/netns/peers"},
	"topologies/docker":            {"topologies", "topologies/clabfile", "topologies/netns", "topologies/netns/peers"},
	"topologies/guest":             {"topologies/guest/line", "topologies/netns", "topologies/netns/nstest"}, // runs tests, skips as they do
	"topologies/guest/init":        {"topologies/guest/line"},
	"topologies/lab":               {"topologies", "topologies/netns", "topologies/netns/peers"},
	"topologies/netns/nstest":      {"topologies/netns"},
	"topologies/netns/peers":       {"topologies/netns"},
}

// onlyImporter says which packages alone may import a foreign module, tests included where the table says so.
var onlyImporter = map[string][]string{
	"github.com/osrg/gobgp/":               {"bgp", "bgp/bgptest", "bgp/bgptest/parts", "bgp/bgptest/plain"}, // plain is GoBGP alone, to measure beside
	"github.com/prometheus/client_golang/": {"metrics"},
	"golang.zx2c4.com/wireguard/":          {"gateway/wg/user", "bgp/bgptest/parts"},
	"github.com/vishvananda/":              {"gateway/host", "gateway/wg/user", "gateway/wg/kernel", "gateway/wg/wgtest/tunneltest", "routes/fib", "topologies/netns", "topologies/netns/nstest", "topologies/netns/peers"},
	"github.com/google/nftables":           {"gateway/host", "topologies/netns"},
}

type listed struct {
	ImportPath string
	Imports    []string
}

// TestImportTable holds the architecture: data goes one way, drivers stay at the edge.
func TestImportTable(t *testing.T) {
	out, err := exec.Command("go", "list", "-json=ImportPath,Imports", "sitewire/...").Output()
	if err != nil {
		t.Fatal(err)
	}
	seen := 0
	for d := json.NewDecoder(strings.NewReader(string(out))); ; {
		var p listed
		if err := d.Decode(&p); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		seen++
		name := strings.TrimPrefix(p.ImportPath, "sitewire/")
		allowed := mayImport[name]
		for _, imp := range p.Imports {
			if own, ok := strings.CutPrefix(imp, "sitewire/"); ok && !slices.Contains(allowed, own) && !slices.Contains(allowed, "*") {
				t.Errorf("%s imports %s, which the table does not allow", name, own)
			}
			for module, who := range onlyImporter {
				if strings.HasPrefix(imp+"/", module) || strings.HasPrefix(imp, module) {
					if !slices.Contains(who, name) {
						t.Errorf("%s imports %s: only %v may", name, imp, who)
					}
				}
			}
		}
	}
	if seen < 15 {
		t.Fatalf("go list named only %d packages", seen)
	}
	for name, may := range map[string][]string{"gateway/wg": nil, "bgp/policy": nil, "routes": {"routes/prefixmap"}, "routes/prefixmap": nil} {
		if !slices.Equal(mayImport[name], may) {
			t.Errorf("%s must stay free of other packages than %v", name, may)
		}
	}
}
