// Package clabfile reads the containerlab files of this repository, so that tests can deploy what is committed without containerlab.
//
// Job: NAME.clab.yml to values, and what makes a file one that every containerlab from 0.60 to 0.81 takes.
// Owner: nobody; values only.
// Inputs: the part of containerlab's format that the committed files use.
// Outputs: a File, with defaults and variables put in.
// Invariants: what is not known here is an error, never ignored.
package clabfile

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/goccy/go-yaml"
)

// File is a topology file, as far as labs may use it: keys that mean the same from containerlab 0.60 to 0.81. Left out on purpose are groups
// (0.69), extras (until 0.80), CLAB_* variables, cap-add and privileged (0.78), addresses of links, restart policies, stages.
type File struct {
	Name     string   `yaml:"name"`
	Mgmt     *Mgmt    `yaml:"mgmt"`
	Topology Topology `yaml:"topology"`
}

// Mgmt is the management network.
type Mgmt struct {
	Network    string `yaml:"network"`
	IPv4Subnet string `yaml:"ipv4-subnet"`
}

// Topology is what the lab consists of.
type Topology struct {
	Defaults Node             `yaml:"defaults"`
	Nodes    map[string]*Node `yaml:"nodes"`
	Links    []Link           `yaml:"links"`
}

// Node is a container.
type Node struct {
	Kind        string            `yaml:"kind"`
	Image       string            `yaml:"image"`
	NetworkMode string            `yaml:"network-mode"`
	User        string            `yaml:"user"`
	Cmd         string            `yaml:"cmd"`
	Env         map[string]string `yaml:"env"`
	Sysctls     map[string]string `yaml:"sysctls"`
	Binds       []string          `yaml:"binds"`
	Ports       []string          `yaml:"ports"`
	Exec        []string          `yaml:"exec"`
}

// Link is a cable, in the short form.
type Link struct {
	// Endpoints are NODE:INTERFACE.
	Endpoints [2]string `yaml:"endpoints"`
	MTU       int       `yaml:"mtu"` // bytes
}

// variable is ${NAME:=default}, the only form of a variable that is used.
var variable = regexp.MustCompile(`\$\{([A-Z][A-Z0-9_]*):=([^${}]*)\}`)

// Read reads a topology file and checks it. Variables have the values of env, or their defaults.
func Read(file string, env map[string]string) (*File, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	f, err := Parse(string(text), env)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	return f, nil
}

// Parse is Read for a text; binds are then relative to nowhere.
func Parse(text string, env map[string]string) (*File, error) {
	text = variable.ReplaceAllStringFunc(text, func(s string) string {
		m := variable.FindStringSubmatch(s)
		if v := env[m[1]]; v != "" {
			return v
		}
		return m[2]
	})
	if i := strings.Index(text, "$"); i >= 0 {
		return nil, fmt.Errorf("%q: only ${NAME:=default} is a variable that every version takes", line(text, i))
	}
	f := &File{}
	if err := yaml.UnmarshalWithOptions([]byte(text), f, yaml.DisallowUnknownField()); err != nil {
		return nil, err
	}
	for name, n := range f.Topology.Nodes {
		if n == nil {
			return nil, fmt.Errorf("node %s: nothing is said of it", name)
		}
		n.inherit(f.Topology.Defaults)
	}
	return f, f.check()
}

// inherit fills in what the node does not say.
func (n *Node) inherit(d Node) {
	if n.Kind == "" {
		n.Kind = d.Kind
	}
	if n.Image == "" {
		n.Image = d.Image
	}
}

var (
	labName   = regexp.MustCompile(`^[a-z][a-z0-9_]*$`) // a dash would make clab-LAB-NODE ambiguous
	nodeName  = regexp.MustCompile(`^[a-z][a-z0-9-]*$`)
	interfac  = regexp.MustCompile(`^eth[1-9][0-9]*$`) // eth0 is for management
	published = regexp.MustCompile(`^[0-9]+:[0-9]+$`)
	managed   = "" // the network mode of a node that is on the management network: its name may not be written
)

// check finds what the types let through.
func (f *File) check() error {
	var errs []error
	bad := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	if !labName.MatchString(f.Name) {
		bad("the lab's name %q is not made of small letters, digits and underscores", f.Name)
	}
	if d := f.Topology.Defaults; len(d.Env)+len(d.Sysctls)+len(d.Binds)+len(d.Ports)+len(d.Exec) > 0 || d.Cmd+d.User+d.NetworkMode != "" {
		bad("defaults say more than kind and image: versions differ in how lists are inherited")
	}
	for name, n := range f.Topology.Nodes {
		at := func(format string, args ...any) { bad("node "+name+": "+format, args...) }
		if !nodeName.MatchString(name) {
			at("not a name of small letters, digits and dashes")
		}
		if n.Kind != "linux" {
			at("kind %q, not linux", n.Kind)
		}
		if n.NetworkMode == managed && f.Mgmt == nil {
			at("is on the management network, whose own addresses lie in dn42: say mgmt")
		}
		if n.Image == "" {
			at("no image")
		}
		for k := range n.Env {
			if strings.HasPrefix(k, "CLAB_") {
				at("variable %s means something else from 0.80 on", k)
			}
		}
		if x, ok := strings.CutPrefix(n.NetworkMode, "container:"); ok {
			if _, ok := f.Topology.Nodes[x]; !ok {
				at("shares the network of %q, which is no node", x)
			}
		} else if n.NetworkMode != "none" && n.NetworkMode != managed {
			at("network-mode %q, not none", n.NetworkMode)
		}
		if (n.NetworkMode == managed) != (len(n.Ports) > 0) {
			at("has to be on the management network if it publishes ports, and must not if not: it is a second way to other nodes")
		}
		for _, p := range n.Ports {
			if !published.MatchString(p) {
				at("port %q is not OUTSIDE:INSIDE", p)
			}
		}
		for _, b := range n.Binds {
			if w := strings.Split(b, ":"); len(w) != 3 || w[2] != "ro" || filepath.IsAbs(w[0]) || !filepath.IsAbs(w[1]) {
				at("bind %q is not RELATIVE:ABSOLUTE:ro", b)
			}
		}
		for _, e := range n.Exec {
			if argv, err := Words(e); err != nil || len(argv) == 0 {
				at("exec %q is not a command: %w", e, err)
			}
		}
	}
	if len(f.Topology.Links) == 0 {
		bad("no links")
	}
	var ends []string
	for _, l := range f.Topology.Links {
		for _, e := range l.Endpoints {
			node, port, _ := strings.Cut(e, ":")
			if n, ok := f.Topology.Nodes[node]; !ok || strings.HasPrefix(n.NetworkMode, "container:") || !interfac.MatchString(port) {
				bad("link's end %q is not NODE:ethN of a node with a network of its own", e)
			}
			if slices.Contains(ends, e) {
				bad("%s is on two links", e)
			}
			ends = append(ends, e)
		}
		if l.MTU != 1500 {
			bad("link %q: MTU %d; containerlab's own is 9500, which no internet has: say 1500", l.Endpoints, l.MTU)
		}
	}
	return errors.Join(errs...)
}

// Words splits a command as containerlab does: at blanks, with quotes, without anything else of a shell.
func Words(s string) ([]string, error) {
	var out []string
	var b strings.Builder
	inside, quote := false, rune(0)
	for _, r := range s {
		switch {
		case quote != 0 && r == quote:
			quote = 0
		case quote != 0:
			b.WriteRune(r)
		case r == '"' || r == '\'':
			quote, inside = r, true
		case r == '\\':
			return nil, errors.New("a backslash: write it without")
		case r == ' ':
			if inside {
				out = append(out, b.String())
				b.Reset()
			}
			inside = false
		default:
			b.WriteRune(r)
			inside = true
		}
	}
	if quote != 0 {
		return nil, errors.New("a quote is not closed")
	}
	if inside {
		out = append(out, b.String())
	}
	return out, nil
}

// line is the line of a text that has the byte at i.
func line(text string, i int) string {
	start := strings.LastIndexByte(text[:i], '\n') + 1
	end := strings.IndexByte(text[i:], '\n')
	if end < 0 {
		return text[start:]
	}
	return text[start : i+end]
}
