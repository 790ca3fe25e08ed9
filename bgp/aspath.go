package bgp

import (
	"fmt"
	"regexp"
	"regexp/syntax"
	"slices"
	"strconv"
	"strings"
)

// GoBGP asks export policies after it has put our own ASN in front of the path for an eBGP neighbour, whereas our
// policies (like filters of BIRD and route-maps of FRR) see the path without it. behindOwn rewrites a regular
// expression over the path so that it matches "OWN path" exactly where the original matches "path".

// pathSeparator is what GoBGP and package policy put in place of `_`.
const pathSeparator = `(^|[,{}() ]|$)`

// oneASN are the forms that GoBGP matches without a regular expression, and on numbers instead of text.
var oneASN = regexp.MustCompile(`^[_^]([0-9]+)[_$]$`)

// behindOwn returns the expression for GoBGP. It contains no `_`.
func behindOwn(expr string, own uint32) (string, error) {
	re, err := syntax.Parse(strings.ReplaceAll(expr, "_", pathSeparator), syntax.Perl)
	if err != nil {
		return "", fmt.Errorf("as_path %q: %w", expr, err)
	}
	first, err := atStart([]*syntax.Regexp{re})
	if err != nil {
		return "", fmt.Errorf("as_path %q: %w", expr, err)
	}
	return fmt.Sprintf(`^%d(?: |$)(?:%s|(?s:.)+(?:%s))`, own, first, pastStart(re)), nil
}

// plainPath returns an import expression for GoBGP. A single ASN that is none would be clipped by GoBGP, not refused.
func plainPath(expr string) string {
	if m := oneASN.FindStringSubmatch(expr); m != nil {
		if _, err := strconv.ParseUint(m[1], 10, 32); err != nil {
			return "(?:" + expr + ")"
		}
	}
	return expr
}

// atStart rewrites a sequence for a match that begins where the path begins: `^` holds until something is consumed.
func atStart(seq []*syntax.Regexp) (*syntax.Regexp, error) {
	if len(seq) == 0 {
		return &syntax.Regexp{Op: syntax.OpEmptyMatch}, nil
	}
	head, tail := seq[0], seq[1:]
	switch head.Op {
	case syntax.OpBeginText, syntax.OpBeginLine, syntax.OpEmptyMatch:
		return atStart(tail)
	case syntax.OpNoMatch:
		return head, nil
	case syntax.OpEndText, syntax.OpEndLine:
		rest, err := atStart(tail)
		return concat(head, rest), err
	case syntax.OpLiteral, syntax.OpCharClass, syntax.OpAnyChar, syntax.OpAnyCharNotNL:
		return concat(append([]*syntax.Regexp{head}, allPast(tail)...)...), nil
	case syntax.OpCapture, syntax.OpConcat:
		return atStart(append(append([]*syntax.Regexp{}, head.Sub...), tail...))
	case syntax.OpAlternate:
		return alternatives(head.Sub, tail)
	case syntax.OpQuest:
		return alternatives([]*syntax.Regexp{{Op: syntax.OpEmptyMatch}, head.Sub[0]}, tail)
	case syntax.OpStar, syntax.OpPlus, syntax.OpRepeat:
		return repeatAtStart(head, tail)
	}
	return nil, fmt.Errorf("%v is not supported for export", head)
}

// repeatAtStart: nothing consumed leaves us at the start, anything consumed does not come back to it.
func repeatAtStart(head *syntax.Regexp, tail []*syntax.Regexp) (*syntax.Regexp, error) {
	sub := head.Sub[0]
	if canBeEmpty(sub) || looksBack(sub) {
		return nil, fmt.Errorf("%v: a repetition that can be empty, or begins with ^ or _, is not supported for export", head)
	}
	once := *head
	optional := false
	switch head.Op {
	case syntax.OpStar:
		once.Op, optional = syntax.OpPlus, true
	case syntax.OpRepeat:
		if head.Max == 0 {
			return atStart(tail)
		}
		if head.Min == 0 {
			once.Min, optional = 1, true
		}
	}
	some := concat(append([]*syntax.Regexp{&once}, allPast(tail)...)...)
	if !optional {
		return some, nil
	}
	none, err := atStart(tail)
	if err != nil {
		return nil, err
	}
	return &syntax.Regexp{Op: syntax.OpAlternate, Sub: []*syntax.Regexp{some, none}}, nil
}

func alternatives(subs, tail []*syntax.Regexp) (*syntax.Regexp, error) {
	out := &syntax.Regexp{Op: syntax.OpAlternate}
	for _, s := range subs {
		alt, err := atStart(append([]*syntax.Regexp{s}, tail...))
		if err != nil {
			return nil, err
		}
		out.Sub = append(out.Sub, alt)
	}
	return out, nil
}

// pastStart rewrites an expression for a match that begins later in the path: `^` never holds.
func pastStart(re *syntax.Regexp) *syntax.Regexp {
	switch re.Op {
	case syntax.OpBeginText, syntax.OpBeginLine:
		return &syntax.Regexp{Op: syntax.OpNoMatch}
	}
	if len(re.Sub) == 0 {
		return re
	}
	out := *re
	out.Sub = allPast(re.Sub)
	out.Sub0 = [1]*syntax.Regexp{}
	return &out
}

func allPast(list []*syntax.Regexp) []*syntax.Regexp {
	out := make([]*syntax.Regexp, len(list))
	for i, re := range list {
		out[i] = pastStart(re)
	}
	return out
}

func concat(list ...*syntax.Regexp) *syntax.Regexp {
	return &syntax.Regexp{Op: syntax.OpConcat, Sub: list}
}

// canBeEmpty reports whether the expression can match without consuming anything.
func canBeEmpty(re *syntax.Regexp) bool {
	switch re.Op {
	case syntax.OpLiteral, syntax.OpCharClass, syntax.OpAnyChar, syntax.OpAnyCharNotNL, syntax.OpNoMatch:
		return false
	case syntax.OpCapture, syntax.OpPlus:
		return canBeEmpty(re.Sub[0])
	case syntax.OpRepeat:
		return re.Min == 0 || canBeEmpty(re.Sub[0])
	case syntax.OpConcat:
		return !slices.ContainsFunc(re.Sub, func(s *syntax.Regexp) bool { return !canBeEmpty(s) })
	case syntax.OpAlternate:
		return slices.ContainsFunc(re.Sub, canBeEmpty)
	}
	return true
}

// looksBack reports whether the match depends on what precedes it.
func looksBack(re *syntax.Regexp) bool {
	switch re.Op {
	case syntax.OpBeginText, syntax.OpBeginLine, syntax.OpWordBoundary, syntax.OpNoWordBoundary:
		return true
	}
	return slices.ContainsFunc(re.Sub, looksBack)
}
