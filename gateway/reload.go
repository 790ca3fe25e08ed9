package gateway

import (
	"fmt"
	"maps"
	"sync"
	"time"

	"sitewire/gateway/config"
)

// ReloadCount tells how loads of the configuration ended.
type ReloadCount struct {
	Reloads, Failures map[string]uint64 // by trigger: start, sighup, api
	LastOK            bool
	LastSuccess       time.Time
}

// reloadCounters is guarded by its mutex: reloads come from signals and from the API.
type reloadCounters struct {
	mu sync.Mutex
	c  ReloadCount
}

func (r *reloadCounters) count(trigger string, ok bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.c.Reloads == nil {
		r.c.Reloads, r.c.Failures = map[string]uint64{}, map[string]uint64{}
	}
	r.c.Reloads[trigger]++
	r.c.LastOK = ok
	if ok {
		r.c.LastSuccess = time.Now()
	} else {
		r.c.Failures[trigger]++
	}
}

func (r *reloadCounters) load() ReloadCount {
	r.mu.Lock()
	defer r.mu.Unlock()
	out := r.c
	out.Reloads, out.Failures = maps.Clone(r.c.Reloads), maps.Clone(r.c.Failures)
	return out
}

// hash names a configuration in twelve hexadecimal digits; secrets are not part of it.
func hash(c *config.Config) string { return fmt.Sprintf("%012x", c.Hash()) }

// changeLines lists what distinguishes two configurations, one line each.
func changeLines(old, cfg *config.Config) []string {
	out := []string{}
	for _, c := range config.Diff(old, cfg) {
		out = append(out, c.String())
	}
	return out
}
