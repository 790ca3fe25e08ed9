package policy

import (
	"errors"
	"fmt"
	"slices"
)

// Values of Match.Family and Match.Source.
const (
	FamilyIPv4 = "ipv4"
	FamilyIPv6 = "ipv6"

	SourceOwn    = "own"
	SourceTunnel = "tunnel"
	SourceLAN    = "lan"
)

// DefaultMaxASPath and DefaultWarnAt are what the zero values of a Policy mean.
const (
	DefaultMaxASPath = 64
	DefaultWarnAt    = 80
)

func (a Action) String() string {
	switch a {
	case Reject:
		return "reject"
	case Accept:
		return "accept"
	case Next:
		return "next"
	}
	return fmt.Sprintf("Action(%d)", a)
}

// MarshalText implements encoding.TextMarshaler.
func (a Action) MarshalText() ([]byte, error) { return []byte(a.String()), nil }

// UnmarshalText implements encoding.TextUnmarshaler.
func (a *Action) UnmarshalText(text []byte) error {
	for _, v := range []Action{Reject, Accept, Next} {
		if v.String() == string(text) {
			*a = v
			return nil
		}
	}
	return fmt.Errorf("%q is not an action: want accept, reject or next", text)
}

// program is a policy in the form in which it runs.
type program struct{ imports, exports []step }

// step is one compiled rule. Nil parts of a match hold for every route.
type step struct {
	rule        *Rule
	prefixes    *prefixSet
	communities []communityPattern
	path        *ASPathMatcher
	add         []string // canonical
	remove      []communityPattern
}

// Compile checks the policy (see Validate) and prepares it for evaluation. It must be called again after a change,
// and not while another goroutine evaluates. An evaluation of a policy that was not compiled compiles it each time.
func (p *Policy) Compile() error {
	prog, err := p.program()
	if err != nil {
		return err
	}
	p.compiled = prog
	return nil
}

// Validate returns every mistake in the policy, joined; nil if there is none.
func (p *Policy) Validate() error {
	_, err := p.program()
	return err
}

func (p *Policy) program() (*program, error) {
	var prog program
	var errs []error
	fail := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	for _, n := range []struct {
		name  string
		value int
	}{
		{"max_as_path", p.MaxASPath}, {"max_prefixes_ipv4", p.MaxPrefixes4}, {"max_prefixes_ipv6", p.MaxPrefixes6},
	} {
		if n.value < 0 {
			fail("%s: must not be negative", n.name)
		}
	}
	if p.WarnAt < 0 || p.WarnAt > 100 {
		fail("warn_at: is a share in percent, from 1 to 100")
	}
	compile := func(direction string, rules []Rule, steps *[]step) {
		for i := range rules {
			s, err := newStep(&rules[i])
			if err != nil {
				fail("%s rule %d (%s): %w", direction, i+1, rules[i].Name, err)
			}
			*steps = append(*steps, s)
		}
	}
	compile("import", p.Import, &prog.imports)
	compile("export", p.Export, &prog.exports)
	for i := range p.Export {
		if m := &p.Export[i].Match; len(m.RPKI) > 0 || m.RPKITable != "" {
			fail("export rule %d (%s): rpki is for import: what is refused there goes to nobody", i+1, p.Export[i].Name)
		}
	}
	if tables := p.RPKITables(); len(tables) > maxTables {
		fail("import rules ask %d tables of rpki: at most %d", len(tables), maxTables)
	}
	if err := errors.Join(errs...); err != nil {
		return nil, fmt.Errorf("policy %s: %w", p.Name, err)
	}
	return &prog, nil
}

func newStep(r *Rule) (step, error) {
	s := step{rule: r}
	var errs []error
	try := func(err error) {
		if err != nil {
			errs = append(errs, err)
		}
	}
	if slices.Contains(Reasons(), r.Name) {
		try(fmt.Errorf("the name %q is that of a fixed refusal", r.Name))
	}
	for _, pr := range r.Match.Prefixes {
		try(pr.Validate())
	}
	if r.Match.Prefixes != nil {
		s.prefixes = newPrefixSet(slices.DeleteFunc(slices.Clone(r.Match.Prefixes), func(pr PrefixRange) bool { return pr.Validate() != nil }))
	}
	patterns := func(list []string) (out []communityPattern) {
		for _, c := range list {
			p, err := parsePattern(c)
			try(err)
			out = append(out, p)
		}
		return out
	}
	s.communities, s.remove = patterns(r.Match.Communities), patterns(r.Set.RemoveCommunities)
	for _, c := range r.Set.AddCommunities {
		v, err := ParseCommunity(c)
		try(err)
		s.add = append(s.add, v)
	}
	if r.Match.ASPath != "" {
		m, err := CompileASPath(r.Match.ASPath)
		try(err)
		s.path = m
	}
	m := r.Match
	if m.ASPathMin < 0 || m.ASPathMax < 0 || m.ASPathMax > 0 && m.ASPathMin > m.ASPathMax {
		try(fmt.Errorf("as_path_min %d and as_path_max %d: no path is that long", m.ASPathMin, m.ASPathMax))
	}
	if !slices.Contains([]string{"", FamilyIPv4, FamilyIPv6}, m.Family) {
		try(fmt.Errorf("family %q: want ipv4 or ipv6", m.Family))
	}
	if !slices.Contains([]string{"", SourceOwn, SourceTunnel, SourceLAN}, m.Source) {
		try(fmt.Errorf("source %q: want own, tunnel or lan", m.Source))
	}
	if m.RPKITable != "" && len(m.RPKI) == 0 {
		try(fmt.Errorf("rpki_table %q needs rpki: valid, invalid or not-found", m.RPKITable))
	}
	if slices.ContainsFunc(m.RPKI, func(v Validity) bool { return v > Invalid }) {
		try(fmt.Errorf("rpki: want valid, invalid or not-found"))
	}
	if r.Set.Prepend < 0 || r.Set.Prepend > 32 {
		try(fmt.Errorf("prepend %d: want 0 to 32", r.Set.Prepend))
	}
	if r.Action > Next {
		try(fmt.Errorf("unknown action %v", r.Action))
	}
	return s, errors.Join(errs...)
}
