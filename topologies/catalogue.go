package topologies

//go:generate go test . -update
//go:generate go test ./clabtest -run TestDeploy -update

import (
	"fmt"
	"slices"
	"strings"
)

// Entry is a network that Build knows.
type Entry struct {
	Name, Title string
	// Sites is the usual number of sites where it can be chosen, and MaxSites the largest; 0 where it cannot.
	Sites, MaxSites int
	build           func(sites int) *Network
}

// Entries lists the networks, the simplest first.
func Entries() []Entry {
	entries := []Entry{
		{Name: "pair", build: pair},
		{Name: "triangle", build: triangle},
		{Name: "hub-spoke", Sites: 4, MaxSites: 200, build: hubSpoke},
		{Name: "dual-hub", Sites: 2, MaxSites: 50, build: dualHub},
		{Name: "dn42", build: dn42},
		{Name: "lan-core", build: lanCore},
		{Name: "mixed", build: mixed},
		{Name: "observe", build: observe},
	}
	for i := range entries {
		entries[i].Title = entries[i].build(entries[i].Sites).Title
	}
	return entries
}

// Build makes a network. Sites is how many spokes or branches it has, 0 for the usual number; a network that has no such number takes 0
// only.
func Build(name string, sites int) (*Network, error) {
	entries := Entries()
	i := slices.IndexFunc(entries, func(e Entry) bool { return e.Name == name })
	if i < 0 {
		var names []string
		for _, e := range entries {
			names = append(names, e.Name)
		}
		return nil, fmt.Errorf("no network is called %q; there are %s", name, strings.Join(names, ", "))
	}
	e := entries[i]
	switch {
	case sites == 0:
		sites = e.Sites
	case e.MaxSites == 0:
		return nil, fmt.Errorf("%s has a fixed number of sites", name)
	case sites < 1 || sites > e.MaxSites:
		return nil, fmt.Errorf("%s can have 1 to %d sites, not %d", name, e.MaxSites, sites)
	}
	w := e.build(sites)
	w.Show, w.Try = tours()[name].show, tours()[name].try
	return w, nil
}
