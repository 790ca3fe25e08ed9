package host

import (
	"errors"
	"maps"
	"slices"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

// Request is a kind of request to the kernel.
type Request struct {
	Subsystem string // "rtnetlink" or "nftables"
	Operation string // "rule_add"
}

// Failure is a kind of request and the number that it failed with, by name ("EPERM"); "other" if there was none.
type Failure struct {
	Request
	Errno string
}

// Stats are counters since New. The maps are the caller's.
type Stats struct {
	// Requests that went to the kernel; each kind is there from the start.
	Requests map[Request]uint64
	// Failures among them. One that found things as wanted is none.
	Failures map[Failure]uint64
	// Mended counts what others had broken and a Set put right.
	Mended Mended
}

// Mended counts repairs.
type Mended struct {
	// Rules of ours that were missing, the firewall's table among them.
	Rules uint64
	// Devices that were not as SetLink had left them: MTU, group, state, addresses.
	Devices uint64
}

const (
	rtnetlink = "rtnetlink"
	nfTables  = "nftables"
)

// operations of the two subsystems.
func operations() []Request {
	var out []Request
	for _, op := range []string{
		"address_add", "address_delete", "address_list", "link_delete", "link_get", "link_list", "link_set", "route_add", "route_delete", "route_get",
		"route_list", "route_replace", "rule_add", "rule_delete", "rule_list",
	} {
		out = append(out, Request{rtnetlink, op})
	}
	for _, op := range []string{"table_delete", "table_list", "table_replace"} {
		out = append(out, Request{nfTables, op})
	}
	return out
}

// counters behind Stats; the mutex guards them.
type counters struct {
	mu sync.Mutex
	s  Stats
}

func newCounters() *counters {
	c := &counters{s: Stats{Requests: map[Request]uint64{}, Failures: map[Failure]uint64{}}}
	for _, r := range operations() {
		c.s.Requests[r] = 0
	}
	return c
}

// Stats returns the counters.
func (h *Host) Stats() Stats {
	h.counters.mu.Lock()
	defer h.counters.mu.Unlock()
	s := h.counters.s
	s.Requests, s.Failures = maps.Clone(s.Requests), maps.Clone(s.Failures)
	return s
}

// count counts a request to rtnetlink, or to nftables where the operation is about a table, and returns its error. Errors
// that say that things are as wanted are no failures.
func (h *Host) count(operation string, err error, wanted ...unix.Errno) error {
	r := Request{rtnetlink, operation}
	if strings.HasPrefix(operation, "table_") {
		r.Subsystem = nfTables
	}
	h.counters.mu.Lock()
	defer h.counters.mu.Unlock()
	h.counters.s.Requests[r]++
	if err != nil && !slices.ContainsFunc(wanted, func(w unix.Errno) bool { return errors.Is(err, w) }) {
		name := "other"
		if errno, ok := errors.AsType[unix.Errno](err); ok {
			name = unix.ErrnoName(errno)
		}
		h.counters.s.Failures[Failure{r, name}]++
	}
	return err
}

// mended counts and logs what others had broken.
func (h *Host) mended(count func(*Mended), what string, args ...any) {
	h.counters.mu.Lock()
	count(&h.counters.s.Mended)
	h.counters.mu.Unlock()
	h.log.Warn(what+", put right", args...)
}
