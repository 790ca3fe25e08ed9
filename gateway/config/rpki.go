package config

import (
	"cmp"
	"maps"
	"slices"
	"time"

	"sitewire/bgp/policy"
)

// RPKI says where validated ROA payloads come from.
type RPKI struct {
	// Sources by name.
	Sources []RPKISource
	// Refresh is the time between queries to a cache; 0 is what the cache says. Expire is how long payloads of a cache that
	// is silent stay in use; likewise.
	Refresh, Expire time.Duration
}

// RPKISource is a cache (Address, host:port) or a file (Path) that fills a table.
type RPKISource struct {
	Name, Address, Path, Table string
}

type rawRPKI struct {
	RPKI
	servers, files []entry[*RPKISource]
}

// Limits of timers. RFC 8210 section 6 wants 600 s at least before payloads expire; an operator may want less.
const (
	maxRPKIRefresh = 24 * time.Hour
	minRPKIExpire  = 5 * time.Second
	maxRPKIExpire  = 7 * 24 * time.Hour
)

func rpkiObject() object[rawRPKI] {
	return object[rawRPKI]{name: "rpki", fields: []field[rawRPKI]{
		key("servers", named("caches", rpkiServerKind()), func(r *rawRPKI) *[]entry[*RPKISource] { return &r.servers }, "none", "Caches that speak RTR over TCP (RFC 8210, RFC 6810)."),
		key("files", named("files", rpkiFileKind()), func(r *rawRPKI) *[]entry[*RPKISource] { return &r.files }, "none", "JSON files as caches and the generators of dn42 write them; read again when they change."),
		key("refresh", seconds(time.Second, maxRPKIRefresh), func(r *rawRPKI) *time.Duration { return &r.Refresh }, "what the cache says, at most 1h", "Time between queries to a cache that does not notify."),
		key("expire", seconds(minRPKIExpire, maxRPKIExpire), func(r *rawRPKI) *time.Duration { return &r.Expire }, "what the cache says, else 2h", "How long the payloads of a cache that is silent stay in use. Files do not expire."),
	}}
}

func rpkiTable(at func(*RPKISource) *string) field[RPKISource] {
	return key("table", nameKind("the name of a table"), at, policy.DefaultTable, "Table that it fills. Payloads for AS 0 that mark flapping prefixes belong into one of their own.")
}

func rpkiServerObject() object[RPKISource] {
	return object[RPKISource]{name: "a cache", fields: []field[RPKISource]{
		key("address", rpkiAddressKind(), func(s *RPKISource) *string { return &s.Address }, "", "Where it listens.").must(),
		rpkiTable(func(s *RPKISource) *string { return &s.Table }),
	}}
}

func rpkiFileObject() object[RPKISource] {
	return object[RPKISource]{name: "a file", fields: []field[RPKISource]{
		key("path", pathKind(), func(s *RPKISource) *string { return &s.Path }, "", "The file.").must(),
		rpkiTable(func(s *RPKISource) *string { return &s.Table }),
	}}
}

func rpkiAddressKind() kind[string] {
	return text("a host name or address, and a TCP port: rtr.example.net:8282, [2001:db8::1]:8282", pattern(`^.+:[0-9]{1,5}$`), func(s string) (string, error) {
		e, err := ParseEndpoint(s)
		return e.String(), err
	})
}

func rpkiServerKind() kind[*RPKISource] {
	return orShort(rpkiAddressKind(), rpkiServerObject(), func(s *RPKISource) *string { return &s.Address })
}

func rpkiFileKind() kind[*RPKISource] {
	return orShort(pathKind(), rpkiFileObject(), func(s *RPKISource) *string { return &s.Path })
}

// orShort lets a single value stand for a mapping with one key.
func orShort[T, V any](short kind[V], full object[T], at func(*T) *V) kind[*T] {
	return kind[*T]{
		want:   short.want + ", or a mapping",
		schema: schema{"anyOf": []any{short.schema, full.schema()}},
		read: func(d *decoder, n *node) (*T, bool) {
			to := new(T)
			if n.form == mapping {
				full.into(d, n, to)
				return to, !d.bad[to] && d.usable(at(to))
			}
			v, ok := short.read(d, n)
			*at(to) = v
			return to, ok
		},
	}
}

// resolveRPKI sorts the sources and fills in their table.
func (r *raw) resolveRPKI(d *decoder) {
	seen := map[string]*node{}
	for _, e := range slices.Concat(r.rpki.servers, r.rpki.files) {
		if other := seen[e.name]; other != nil {
			d.errorf(e.at, "rpki: the name %s is that of a server and of a file (%s)", e.name, other.place())
			continue
		}
		seen[e.name] = e.at
		s := *e.v
		s.Name, s.Table = e.name, cmp.Or(s.Table, policy.DefaultTable)
		r.rpki.Sources = append(r.rpki.Sources, s)
	}
	slices.SortFunc(r.rpki.Sources, func(a, b RPKISource) int { return cmp.Compare(a.Name, b.Name) })
	r.RPKI = r.rpki.RPKI
}

// checkRPKI warns of rules that ask a table which nothing fills: they match nothing. The rule of built-in policies is meant
// to.
func (r *raw) checkRPKI(d *decoder) {
	tables := map[string]bool{}
	for _, s := range r.RPKI.Sources {
		tables[s.Table] = true
	}
	for _, e := range r.policies {
		for i := range e.v.imports {
			m := &e.v.imports[i].Match
			if t := m.Table(); t != "" && !tables[t] && d.usable(&m.RPKITable) {
				hint := "give the table a source under rpki"
				if len(tables) > 0 {
					hint = alternatives(t, slices.Sorted(maps.Keys(tables)), "rpki")
				}
				d.warnf(d.at(&m.RPKITable, &m.RPKI, e.at), "rule %s of policy %s asks the table %q, which nothing fills: it matches nothing (%s)", e.v.imports[i].Name, e.name, t, hint)
			}
		}
	}
}
