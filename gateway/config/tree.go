package config

import (
	"cmp"
	"errors"
	"fmt"
	"regexp"
	"strings"
	"unicode/utf8"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/parser"
	"github.com/goccy/go-yaml/token"
)

// Limits of a file. They are far above any use and keep a broken generator from exhausting the daemon.
const (
	maxFileSize = 8 << 20
	maxDepth    = 16
)

// form is what a node of the file is.
type form uint8

const (
	empty form = iota // a key without a value, or null
	scalar
	mapping
	sequence
)

func (f form) String() string {
	return [...]string{"nothing", "a single value", "a mapping (keys with values)", "a list"}[f]
}

// node is a value of the file with its place. The tree is our own, so that nothing but this file knows the library.
type node struct {
	form         form
	text         string // of a scalar, as written, without quotes
	quoted       bool
	pairs        []pair  // of a mapping, in the order of the file
	items        []*node // of a sequence
	src          *source
	line, column int
}

type pair struct {
	key   *node // scalar
	value *node
}

// parse reads one file into a tree. Mistakes go to the decoder; nil is a file that cannot be read further.
func (d *decoder) parse(src *source, data []byte) *node {
	top := &node{form: empty, src: src, line: 1, column: 1}
	if depth := nesting(data); depth > 4*maxDepth {
		d.errorAt(src, 0, 0, "the file is nested too deeply", "")
		return nil
	}
	file, err := parseYAML(data)
	if err != nil {
		d.syntaxError(src, err)
		return nil
	}
	var docs []ast.Node
	for _, doc := range file.Docs {
		if doc.Body != nil {
			docs = append(docs, doc.Body)
		}
	}
	if len(docs) == 0 {
		return top
	}
	if len(docs) > 1 {
		at := docs[1].GetToken().Position
		d.errorAt(src, at.Line, 1, "a second document (after ---): the file is one document", "put further parts into conf.d")
	}
	return d.convert(src, docs[0], 0)
}

// parseYAML keeps a panic of the library from ending the daemon: a file that does that is a file with an error.
func parseYAML(data []byte) (f *ast.File, err error) {
	defer func() {
		if r := recover(); r != nil {
			f, err = nil, errors.New("the YAML library cannot read this file")
		}
	}()
	return parser.ParseBytes(data, 0, parser.AllowDuplicateMapKey())
}

func (d *decoder) syntaxError(src *source, err error) {
	if e, ok := errors.AsType[yaml.Error](err); ok && e.GetToken() != nil {
		at := e.GetToken().Position
		hint := ""
		if strings.Contains(src.excerpt(at.Line), "{") {
			hint = `values with braces need quotes: "10.0.0.0/8{15,24}"`
		}
		d.errorAt(src, at.Line, at.Column, "not YAML: "+maskQuoted(e.GetMessage()), hint)
		return
	}
	d.errorAt(src, 0, 0, "not YAML", "")
}

// quotedText is what the library cites from the file in its messages.
var quotedText = regexp.MustCompile(`"[^"]{12,}"|` + "`[^`]{12,}`" + `|'[^']{12,}'`)

func maskQuoted(s string) string { return quotedText.ReplaceAllString(s, hidden) }

// nesting estimates the depth of flow collections, and of dashes and question marks in a row, which nest as well. It
// does not know quotes: a text with very many open brackets counts too.
func nesting(data []byte) int {
	depth, row, deepest := 0, 0, 0
	for i, c := range data {
		switch {
		case c == '[', c == '{':
			depth++
		case c == ']', c == '}':
			depth = max(0, depth-1)
		}
		switch {
		case c == ' ', c == '\t':
		case (c == '-' || c == '?' || c == ':') && i+1 < len(data) && (data[i+1] == ' ' || data[i+1] == '\t'):
			row++
		default:
			row = 0
		}
		deepest = max(deepest, depth, row)
	}
	return deepest
}

// convert turns the library's tree into ours.
func (d *decoder) convert(src *source, n ast.Node, depth int) *node {
	out := &node{src: src}
	if n == nil || n.GetToken() == nil {
		return out
	}
	at := n.GetToken().Position
	out.line, out.column = at.Line, at.Column
	if depth > maxDepth {
		d.errorf(out, "nested too deeply")
		return out
	}
	switch v := n.(type) {
	case *ast.MappingNode:
		out.form = mapping
		for _, kv := range v.Values {
			d.addPair(out, kv, depth)
		}
		if len(out.pairs) > 0 && !v.IsFlowStyle {
			out.line, out.column = out.pairs[0].key.line, out.pairs[0].key.column
		}
	case *ast.MappingValueNode:
		out.form = mapping
		d.addPair(out, v, depth)
	case *ast.SequenceNode:
		out.form = sequence
		for _, item := range v.Values {
			if whole := plainScalar(src, item); whole != nil {
				out.items = append(out.items, whole)
				continue
			}
			out.items = append(out.items, d.convert(src, item, depth+1))
		}
	case *ast.NullNode:
	case *ast.LiteralNode:
		out.form, out.text, out.quoted = scalar, v.Value.Value, true
	case *ast.StringNode:
		out.form, out.text = scalar, v.Value
		out.quoted = v.Token.Type == token.SingleQuoteType || v.Token.Type == token.DoubleQuoteType
	case *ast.BoolNode, *ast.IntegerNode, *ast.FloatNode, *ast.InfinityNode, *ast.NanNode:
		out.form, out.text = scalar, n.GetToken().Value
	case *ast.AnchorNode, *ast.AliasNode, *ast.MergeKeyNode:
		d.errorf(out, "anchors, aliases and merge keys are not used in this file")
	case *ast.TagNode:
		d.errorf(out, "tags (%s) are not used in this file", v.Start.Value)
	default:
		d.errorf(out, "this kind of YAML is not used in this file")
	}
	return out
}

// plainScalar puts together what the library takes apart: in a list inside a flow mapping it reads the plain scalar
// 64511:3 as a mapping, although no white space follows the colon (YAML 1.2 section 7.3.3). Nil is any other item.
func plainScalar(src *source, n ast.Node) *node {
	m, ok := n.(*ast.MappingNode)
	if !ok || len(m.Values) != 1 || m.IsFlowStyle {
		return nil
	}
	k, colon, v := m.Values[0].Key.GetToken(), m.Values[0].Start, m.Values[0].Value.GetToken()
	quoted := func(t *token.Token) bool {
		return t.Type == token.SingleQuoteType || t.Type == token.DoubleQuoteType
	}
	switch m.Values[0].Value.(type) {
	case *ast.StringNode, *ast.IntegerNode, *ast.FloatNode, *ast.BoolNode:
	default:
		return nil
	}
	if quoted(k) || quoted(v) || k.Position.Line != v.Position.Line || v.Position.Column != colon.Position.Column+1 ||
		colon.Position.Column != k.Position.Column+utf8.RuneCountInString(k.Value) {
		return nil
	}
	return &node{form: scalar, text: k.Value + ":" + v.Value, src: src, line: k.Position.Line, column: k.Position.Column}
}

func (d *decoder) addPair(to *node, kv *ast.MappingValueNode, depth int) {
	key := d.convert(to.src, kv.Key, depth+1)
	if key.form != scalar {
		if _, ok := kv.Key.(*ast.MergeKeyNode); !ok {
			d.errorf(key, "a key must be a plain word")
		}
		return
	}
	value := d.convert(to.src, kv.Value, depth+1)
	if value.form == empty {
		value.line, value.column = key.line, key.column
	}
	to.add(d, pair{key, value})
}

// add appends a pair unless its key is there already.
func (n *node) add(d *decoder, p pair) {
	for _, old := range n.pairs {
		if old.key.text == p.key.text {
			d.hintf(p.key, "keep one of the two", "%q is given twice; the first is at %s", p.key.text, old.key.place())
			return
		}
	}
	n.pairs = append(n.pairs, p)
}

// place prints where a node is.
func (n *node) place() string {
	return strings.TrimSuffix(position(n.src.path, n.line, n.column), ": ")
}

// merge adds the top-level keys of another file. Sections that both files have are joined key by key: a key that both
// give is an error, whatever the values, and so is a peer that two files define.
func (n *node) merge(d *decoder, other *node) {
	if n.form == empty {
		n.form = other.form
	}
	if n.form != mapping || other.form != mapping {
		return
	}
	for _, p := range other.pairs {
		mine := n.get(p.key.text)
		switch {
		case mine != nil && mine.form == empty:
			*mine = *p.value
		case mine != nil && mine.form == mapping && p.value.form == mapping:
			for _, q := range p.value.pairs {
				mine.add(d, q)
			}
		case mine != nil && p.value.form == empty:
		default:
			n.add(d, p)
		}
	}
}

func (n *node) get(key string) *node {
	for _, p := range n.pairs {
		if p.key.text == key {
			return p.value
		}
	}
	return nil
}

// compareErrors sorts by file, in the order of reading, and by place.
func (d *decoder) compareErrors(a, b *Error) int {
	return cmp.Or(cmp.Compare(d.order(a.File), d.order(b.File)), cmp.Compare(a.Line, b.Line), cmp.Compare(a.Column, b.Column))
}

func (d *decoder) order(path string) int {
	for _, s := range d.sources {
		if s.path == path {
			return s.order
		}
	}
	return -1
}

func (d *decoder) errorAt(src *source, line, column int, message, hint string) {
	d.errs = append(d.errs, &Error{
		File: src.path, Line: line, Column: column, Message: message, Excerpt: src.excerpt(line), Hint: hint,
	})
}

func (d *decoder) errorf(n *node, format string, args ...any) { d.hintf(n, "", format, args...) }

func (d *decoder) hintf(n *node, hint, format string, args ...any) {
	d.errorAt(n.src, n.line, n.column, fmt.Sprintf(format, args...), hint)
}

func (d *decoder) warnf(n *node, format string, args ...any) {
	d.warnings = append(d.warnings, Warning{File: n.src.path, Line: n.line, Column: n.column, Message: fmt.Sprintf(format, args...)})
}
