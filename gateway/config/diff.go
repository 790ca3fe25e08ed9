package config

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
)

// Action of a Change.
type Action string

// Actions.
const (
	Added   Action = "added"
	Removed Action = "removed"
	Changed Action = "changed"
)

// Change is one difference between two configurations.
type Change struct {
	// Object is "peer NAME", "neighbour NAME", "policy NAME", "announce PREFIX", or empty for the gateway itself.
	Object string `json:"object,omitempty"`
	Action Action `json:"action"`
	// Key and the values say what changed; empty where the whole object came or went. Secrets are hidden.
	Key string `json:"key,omitempty"`
	Old string `json:"old,omitempty"`
	New string `json:"new,omitempty"`
}

// String is one line: "peer nyc: endpoint a:1 -> b:1", "peer x: added".
func (c Change) String() string {
	head := ""
	if c.Object != "" {
		head = c.Object + ": "
	}
	switch {
	case c.Key == "":
		return head + string(c.Action)
	case c.Old == hidden || c.New == hidden:
		return head + c.Key + " " + string(c.Action)
	}
	absent := "none"
	if c.Old == "true" || c.New == "true" {
		absent = "false"
	}
	return fmt.Sprintf("%s%s %s -> %s", head, c.Key, cmp.Or(c.Old, absent), cmp.Or(c.New, absent))
}

// Diff returns what changes from one configuration to the other: the gateway's own values first, then whole objects
// that come, go or change, sorted by object. Nil means that nothing does. Either may be nil, for none at all.
func Diff(old, new *Config) []Change {
	a, b := index(old), index(new)
	objects := maps.Clone(a)
	maps.Copy(objects, b)
	var out []Change
	for _, object := range slices.Sorted(maps.Keys(objects)) {
		before, after := a[object], b[object]
		switch {
		case before == nil && object != "":
			out = append(out, Change{Object: object, Action: Added})
			continue
		case after == nil && object != "":
			out = append(out, Change{Object: object, Action: Removed})
			continue
		}
		for _, key := range keysInOrder(before, after) {
			x, inOld := find(before, key)
			y, inNew := find(after, key)
			if x.value == y.value && x.secret == y.secret {
				continue
			}
			c := Change{Object: object, Action: Changed, Key: key, Old: x.value, New: y.value}
			if !inOld {
				c.Action = Added
			} else if !inNew {
				c.Action = Removed
			}
			out = append(out, c)
		}
	}
	return out
}

// RestartKeys names the keys, such as metrics.listen, that differ between two configurations and that a running daemon cannot change.
// A reload is refused for their sake.
func RestartKeys(old, new *Config) (out []string) {
	fixed := fixedKeys()
	for _, c := range Diff(old, new) {
		if c.Object == "" && slices.Contains(fixed, c.Key) {
			out = append(out, c.Key)
		}
	}
	return out
}

// fixedKeys are the keys marked with atStart.
func fixedKeys() []string {
	return slices.Concat(
		fixedOf("", topObject()), fixedOf("log.", logObject()), fixedOf("metrics.", metricsObject()), fixedOf("wireguard.", wireguardObject()),
		fixedOf("probe.", probeObject()), fixedOf("bgp.", bgpObject()), fixedOf("rpki.", rpkiObject()), fixedOf("routes.", routesObject()))
}

func fixedOf[T any](section string, o object[T]) (out []string) {
	for _, f := range o.fields {
		if f.fixed {
			out = append(out, section+f.name)
		}
	}
	return out
}

func index(c *Config) map[string][]setting {
	m := map[string][]setting{}
	if c != nil {
		for _, s := range c.settings() {
			m[s.object] = append(m[s.object], s)
		}
	}
	return m
}

// keysInOrder returns the keys of both, those of the first in its order and then the rest.
func keysInOrder(a, b []setting) []string {
	var keys []string
	for _, s := range slices.Concat(a, b) {
		if !slices.Contains(keys, s.key) {
			keys = append(keys, s.key)
		}
	}
	return keys
}

func find(list []setting, key string) (setting, bool) {
	i := slices.IndexFunc(list, func(s setting) bool { return s.key == key })
	if i < 0 {
		return setting{}, false
	}
	return list[i], true
}
