package fib

import (
	"errors"
	"maps"
	"sync"

	"golang.org/x/sys/unix"

	"sitewire/routes"
)

// ErrorKey is what errors are counted by.
type ErrorKey struct {
	Op    routes.OpKind
	Errno string // "ENODEV", or "conflict" for a ConflictError
}

// Stats are counters since New.
type Stats struct {
	// Replaces and Deletes are the requests that went to the kernel: those that put a route, and those that delete one, also to clean up after
	// a change.
	Replaces, Deletes uint64
	// Switches are the Divert and Restore operations.
	Switches uint64
	// Errors by operation and reason. "Exists" and "not found" are none.
	Errors map[ErrorKey]uint64
	// Overruns of the notification socket, and Resyncs of the view that followed.
	Overruns, Resyncs uint64
}

type counters struct {
	mu sync.Mutex
	s  Stats
}

func (c *counters) add(f func(*Stats)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	f(&c.s)
}

// Stats returns a copy of the counters.
func (f *FIB) Stats() Stats {
	f.stats.mu.Lock()
	defer f.stats.mu.Unlock()
	s := f.stats.s
	s.Errors = maps.Clone(s.Errors)
	return s
}

func (c *counters) requested(reqs []request) {
	var deletes uint64
	for i := range reqs {
		if reqs[i].del {
			deletes++
		}
	}
	c.add(func(s *Stats) {
		s.Deletes += deletes
		s.Replaces += uint64(len(reqs)) - deletes
	})
}

func (c *counters) failed(kind routes.OpKind, err error) {
	name := "other"
	if _, ok := errors.AsType[*ConflictError](err); ok {
		name = "conflict"
	} else if errno, ok := errors.AsType[unix.Errno](err); ok {
		name = unix.ErrnoName(errno)
	}
	c.add(func(s *Stats) {
		if s.Errors == nil {
			s.Errors = map[ErrorKey]uint64{}
		}
		s.Errors[ErrorKey{kind, name}]++
	})
}
