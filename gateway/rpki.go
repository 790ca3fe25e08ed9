package gateway

import (
	"fmt"
	"slices"
	"time"

	"sitewire/bgp"
	"sitewire/bgp/policy"
	"sitewire/bgp/rpki"
	"sitewire/gateway/config"
	"sitewire/gateway/wg"
)

// rpkiConfig is where payloads come from.
func rpkiConfig(c *config.Config) rpki.Config {
	out := rpki.Config{Refresh: c.RPKI.Refresh, Expire: c.RPKI.Expire}
	for _, s := range c.RPKI.Sources {
		out.Sources = append(out.Sources, rpki.Source(s))
	}
	return out
}

// speech is what the speaker is told as things are now.
func (g *Gateway) speech(cfg *config.Config, ts []wg.Tunnel) bgp.Config {
	c := speakerConfig(cfg, ts)
	c.Origins = g.origins.Snapshot().Origins
	return c
}

// RPKI lists the sources of payloads, and the tables that they fill.
type RPKI struct {
	APIVersion string         `json:"api_version"`
	Sources    []rpki.Status  `json:"sources"`
	Tables     map[string]int `json:"tables"` // payloads by table, without repetitions
}

// RPKI answers /v1/rpki.
func (g *Gateway) RPKI() RPKI {
	s := g.Origins()
	out := RPKI{APIVersion: APIVersion, Sources: append([]rpki.Status{}, s.Sources...), Tables: map[string]int{}}
	for _, x := range s.Sources {
		if t := s.Origins.Table(x.Table); t != nil {
			out.Tables[x.Table] = t.Len()
		}
	}
	return out
}

// OriginInfo is the validity of a path's origin in one table, and the payloads that decide on it.
type OriginInfo struct {
	Table    string          `json:"table"`
	Validity policy.Validity `json:"validity"`
	Payloads []string        `json:"payloads,omitempty"`
}

// maxPayloads is how many payloads an explanation lists for a path.
const maxPayloads = 8

// originInfo judges the origins of a route's paths, as import policy did.
func originInfo(s *rpki.Snapshot, r *RouteInfo, asn uint32) {
	var tables []string
	for _, x := range s.Sources {
		if !slices.Contains(tables, x.Table) {
			tables = append(tables, x.Table)
		}
	}
	slices.Sort(tables)
	for i := range r.Paths {
		p := &r.Paths[i]
		if p.Attrs == nil || p.Neighbour == ownPath {
			continue
		}
		route := policy.Route{ASPath: p.Attrs.ASPath, ASSet: p.Rejected == bgp.ASSet}
		origin := route.Origin(&policy.Context{LocalASN: asn})
		for _, name := range tables {
			v, ok := s.Origins.Validate(name, r.Prefix, origin)
			if !ok {
				continue
			}
			info := OriginInfo{Table: name, Validity: v}
			for _, payload := range s.Origins.Table(name).Covering(r.Prefix) {
				if len(info.Payloads) < maxPayloads {
					info.Payloads = append(info.Payloads, payload.String())
				}
			}
			p.Origins = append(p.Origins, info)
		}
	}
}

// staleFile is the age at which a file that nobody renews is worth a look: the generators write theirs every hour or so.
const staleFile = 24 * time.Hour

// rpkiProblems names sources that do not do their part.
func rpkiProblems(s *rpki.Snapshot, started, now time.Time) (out []Problem) {
	const grace = 30 * time.Second // to connect for the first time
	for _, x := range s.Sources {
		subject, fix := "rpki "+x.Name, "sitewire rpki; is "+x.Target+" there?"
		because := ""
		if x.LastError != "" {
			because = ": " + x.LastError
		}
		switch {
		case x.Expired:
			out = append(out, Problem{subject, fmt.Sprintf("its payloads have expired at %s: what only they covered counts as not-found%s", x.Expires.Format(time.RFC3339), because), fix})
		case !x.Up && x.Updated.IsZero():
			if x.LastError != "" || now.Sub(started) > grace {
				out = append(out, Problem{subject, "has given no payloads yet: what only it covers counts as not-found" + because, fix})
			}
		case !x.Up && x.Kind == "server":
			out = append(out, Problem{subject, fmt.Sprintf("does not answer since %s; its payloads are in use until %s%s", x.Since.Format(time.RFC3339), x.Expires.Format(time.RFC3339), because), fix})
		case !x.Up:
			out = append(out, Problem{subject, fmt.Sprintf("could not be read since %s; what it said before is in use%s", x.Since.Format(time.RFC3339), because), fix})
		case x.Kind == "file" && now.Sub(x.Updated) > staleFile:
			out = append(out, Problem{subject, fmt.Sprintf("was last written at %s", x.Updated.Format(time.RFC3339)), "see why nobody renews " + x.Target})
		}
	}
	return out
}
