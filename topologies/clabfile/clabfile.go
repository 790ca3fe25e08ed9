// Package clabfile reads the containerlab files of this repository, so that tests can deploy what is committed without containerlab.
//
// Job: NAME.clab.yml to values.
// Owner: nobody; values only.
// Inputs: the part of containerlab's format that the committed files use.
// Outputs: a File, with defaults and variables put in.
// Invariants: what is not known here is an error, never ignored.
package clabfile

import (
	"errors"
	"fmt"
	"os"
	"regexp"
	"strings"

	"github.com/goccy/go-yaml"
)

// File is a lab.
type File struct {
	Name     string `yaml:"name"`
	Topology struct {
		Defaults Node             `yaml:"defaults"`
		Nodes    map[string]*Node `yaml:"nodes"`
		Links    []Link           `yaml:"links"`
	} `yaml:"topology"`
}

// Node is a container.
type Node struct {
	Kind        string `yaml:"kind"`
	NetworkMode string `yaml:"network-mode"`
	Image       string `yaml:"image"`
	// Cmd and Exec are command lines as Words takes them: the container's own, and those that are run in it once its cables are plugged in.
	Cmd     string            `yaml:"cmd"`
	Exec    []string          `yaml:"exec"`
	Env     map[string]string `yaml:"env"`
	Sysctls map[string]string `yaml:"sysctls"`
	// Binds are FILE:PATH:ro, FILE relative to the directory that the lab's file is in.
	Binds []string `yaml:"binds"`
}

// Link is a cable.
type Link struct {
	// Endpoints are NODE:INTERFACE.
	Endpoints [2]string `yaml:"endpoints"`
	MTU       int       `yaml:"mtu"` // bytes
}

// variable is ${NAME:=default}. The files have no other form.
var variable = regexp.MustCompile(`\$\{(\w+):=([^}]*)\}`)

// Read reads a file. Variables have their defaults.
func Read(name string) (*File, error) {
	text, err := os.ReadFile(name)
	if err != nil {
		return nil, err
	}
	var f File
	if err := yaml.UnmarshalWithOptions(variable.ReplaceAll(text, []byte("$2")), &f, yaml.Strict()); err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	d := f.Topology.Defaults
	for node, n := range f.Topology.Nodes {
		if n.Kind == "" {
			n.Kind = d.Kind
		}
		if n.NetworkMode == "" {
			n.NetworkMode = d.NetworkMode
		}
		if n.Kind != "linux" || n.NetworkMode != "none" {
			return nil, fmt.Errorf("%s: %s is of kind %q with network-mode %q; only linux and none are known here", name, node, n.Kind, n.NetworkMode)
		}
	}
	return &f, nil
}

// Words splits a command as a shell would: at blanks that are not within quotes. There is no expansion and no escaping.
func Words(line string) ([]string, error) {
	var out []string
	var word strings.Builder
	var quote rune
	inWord := false
	for _, r := range line {
		switch {
		case quote != 0 && r == quote:
			quote = 0
		case quote == 0 && (r == '"' || r == '\''):
			quote, inWord = r, true
		case quote == 0 && r == ' ':
			if inWord {
				out = append(out, word.String())
				word.Reset()
				inWord = false
			}
		default:
			word.WriteRune(r)
			inWord = true
		}
	}
	if quote != 0 {
		return nil, errors.New("a quote is not closed")
	}
	if inWord {
		out = append(out, word.String())
	}
	return out, nil
}
