package config

import (
	"fmt"
	"slices"
	"strings"
)

// decoder collects the mistakes of one Load, and remembers where values came from.
type decoder struct {
	opts     Options
	sources  []*source
	errs     Errors
	warnings []Warning
	// where maps the address of a value to the node that it was read from; bad holds those that could not be read, so
	// that one mistake is reported once.
	where map[any]*node
	bad   map[any]bool
}

// at returns the node that the value behind the pointer was read from, or the nearest one that was given.
func (d *decoder) at(pointers ...any) *node {
	for _, p := range pointers {
		if n, ok := p.(*node); ok {
			return n
		}
		if n := d.where[p]; n != nil {
			return n
		}
	}
	return &node{src: d.sources[0]}
}

// given reports whether the file sets the value behind the pointer, rightly or not.
func (d *decoder) given(pointer any) bool { return d.where[pointer] != nil }

// usable reports whether all values behind the pointers may be checked further.
func (d *decoder) usable(pointers ...any) bool {
	return !slices.ContainsFunc(pointers, func(p any) bool { return d.bad[p] })
}

// kind reads values of one type and knows how to describe them.
type kind[V any] struct {
	want   string // completes "want …"
	schema schema
	read   func(d *decoder, n *node) (V, bool)
}

// field is a key of an object of type T.
type field[T any] struct {
	name, doc string
	fallback  string // the default, as documentation says it
	required  bool
	fixed     bool // for the life of the process
	want      string
	schema    schema
	read      func(d *decoder, n *node, to *T)
}

// key makes the field that stores into *at(T).
func key[T, V any](name string, k kind[V], at func(*T) *V, fallback, doc string) field[T] {
	return field[T]{
		name: name, doc: doc, fallback: fallback, want: k.want, schema: k.schema,
		read: func(d *decoder, n *node, to *T) {
			p := at(to)
			d.where[p] = n
			v, ok := k.read(d, n)
			if !ok {
				d.bad[p] = true
				return
			}
			*p = v
		},
	}
}

func (f field[T]) must() field[T] {
	f.required = true
	return f
}

// atStart is for what is read when the daemon starts, and then no more.
func (f field[T]) atStart() field[T] {
	f.fixed = true
	f.doc += " Changing this key needs a restart."
	return f
}

// object is a mapping with known keys.
type object[T any] struct {
	name   string // for messages: "a peer"
	doc    string
	fields []field[T]
}

func (o object[T]) names() []string {
	names := make([]string, len(o.fields))
	for i, f := range o.fields {
		names[i] = f.name
	}
	return names
}

// into reads the keys of a mapping into *to, which holds the defaults.
func (o object[T]) into(d *decoder, n *node, to *T) {
	d.where[to] = n
	switch n.form {
	case mapping:
	case empty:
	default:
		d.errorf(n, "%s is a mapping (keys with values), this is %v", o.name, n.form)
		d.bad[to] = true
		return
	}
	for _, p := range n.pairs {
		i := slices.IndexFunc(o.fields, func(f field[T]) bool { return f.name == p.key.text })
		if i < 0 {
			o.unknown(d, p.key)
			continue
		}
		o.fields[i].read(d, p.value, to)
	}
	for _, f := range o.fields {
		if f.required && n.get(f.name) == nil {
			d.hintf(n, f.name+": "+f.want, "%s needs %s", o.name, f.name)
			d.bad[to] = true
		}
	}
}

func (o object[T]) unknown(d *decoder, key *node) {
	names := o.names()
	name := key.text
	if secretish(name, nil) && len(name) > 24 { // a secret in the place of a key
		name = hidden
	}
	if better, ok := suggest(key.text, names); ok {
		d.hintf(key, fmt.Sprintf("did you mean %s?", better), "%s has no key %q", o.name, name)
		return
	}
	d.hintf(key, "known keys: "+strings.Join(names, ", "), "%s has no key %q", o.name, name)
}

// kind reads the object into a T that begins as fresh() makes it.
func (o object[T]) kind(fresh func() *T) kind[*T] {
	return kind[*T]{
		want:   "a mapping",
		schema: o.schema(),
		read: func(d *decoder, n *node) (*T, bool) {
			to := fresh()
			o.into(d, n, to)
			return to, !d.bad[to]
		},
	}
}

// section is a field whose value is an object that lives inside T.
func section[T, S any](name string, o object[S], at func(*T) *S, doc string) field[T] {
	return field[T]{
		name: name, doc: doc, want: "a mapping", schema: o.schema(),
		read: func(d *decoder, n *node, to *T) { o.into(d, n, at(to)) },
	}
}

// entry is a named value of a mapping whose keys are names.
type entry[V any] struct {
	name string
	at   *node // the name
	v    V
}

// named reads a mapping from names to values. Entries with a mistake inside are left out.
func named[V any](what string, k kind[V]) kind[[]entry[V]] {
	return kind[[]entry[V]]{
		want:   "a mapping from names to " + what,
		schema: schema{"type": []string{"object", "null"}, "propertyNames": schema{"pattern": namePattern.String()}, "additionalProperties": k.schema},
		read: func(d *decoder, n *node) ([]entry[V], bool) {
			if n.form != mapping && n.form != empty {
				d.errorf(n, "want a mapping from names to %s, this is %v", what, n.form)
				return nil, false
			}
			var out []entry[V]
			for _, p := range n.pairs {
				if !namePattern.MatchString(p.key.text) {
					d.hintf(p.key, "a name is letters, digits, '-', '_' and '.', at most 63, and begins with a letter or digit", "%q is not a name", p.key.text)
				}
				if v, ok := k.read(d, p.value); ok {
					out = append(out, entry[V]{p.key.text, p.key, v})
				}
			}
			return out, true
		},
	}
}

// list reads a list of values; a single value stands for a list of one.
func list[V any](k kind[V]) kind[[]V] {
	return kind[[]V]{
		want:   "a list: " + k.want,
		schema: schema{"anyOf": []any{k.schema, schema{"type": "array", "items": k.schema}}},
		read: func(d *decoder, n *node) ([]V, bool) {
			items := n.items
			if n.form != sequence {
				items = []*node{n}
			}
			out, good := make([]V, 0, len(items)), true
			for _, item := range items {
				v, ok := k.read(d, item)
				good = good && ok
				out = append(out, v)
			}
			return out, good
		},
	}
}

// located is a value with its place, for lists whose members are checked against each other.
type located[V any] struct {
	v  V
	at *node
}

func withPlace[V any](k kind[V]) kind[located[V]] {
	return kind[located[V]]{k.want, k.schema, func(d *decoder, n *node) (located[V], bool) {
		v, ok := k.read(d, n)
		return located[V]{v, n}, ok
	}}
}

// text reads a scalar. Its parse function gets the expanded text; its error, if it is not empty, is shown unless it
// might quote something that came from another file.
func text[V any](want string, s schema, parse func(string) (V, error)) kind[V] {
	return textKind(want, s, false, parse)
}

// secretText reads a scalar that is never quoted, and whose file must be private.
func secretText[V any](want string, s schema, parse func(string) (V, error)) kind[V] {
	return textKind(want, s, true, parse)
}

func textKind[V any](want string, s schema, secret bool, parse func(string) (V, error)) kind[V] {
	return kind[V]{want, orExpansion(s), func(d *decoder, n *node) (v V, ok bool) {
		switch n.form {
		case scalar:
		case empty:
			d.hintf(n, "want "+want, "no value")
			return v, false
		default:
			d.hintf(n, "want "+want, "one value expected, this is %v", n.form)
			return v, false
		}
		value, expanded, ok := d.expand(n, secret)
		if !ok || secret && expanded && d.opts.WithoutSecrets {
			return v, ok
		}
		v, err := parse(value)
		switch {
		case err == nil:
			if secret && !expanded {
				d.inlineSecret(n)
			}
			return v, true
		case secret:
			d.hintf(n, "want "+want, "not a valid value (not shown, because it is a secret)")
		case expanded:
			d.hintf(n, "want "+want, "what %s stands for is not valid here", n.text)
		case err == errWant:
			d.hintf(n, "want "+want, "%q is not valid here", n.text)
		default:
			hint := "want " + want
			if strings.Contains(err.Error(), "want ") {
				hint = ""
			}
			d.hintf(n, hint, "%v", err)
		}
		return v, false
	}}
}
