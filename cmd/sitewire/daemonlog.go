package main

import (
	"io"
	"io/fs"
	"log/slog"
	"math"
	"os"
	"path"
	"runtime/debug"
	"strconv"
	"strings"

	"sitewire/gateway/config"
)

// newLogHandler writes in the configured form. The journal has its own clock, so lines for it carry none.
func newLogHandler(w io.Writer, c config.Log, journal bool) slog.Handler {
	opts := &slog.HandlerOptions{Level: c.Level}
	if journal {
		opts.ReplaceAttr = func(groups []string, at slog.Attr) slog.Attr {
			if len(groups) == 0 && at.Key == slog.TimeKey {
				return slog.Attr{}
			}
			return at
		}
	}
	if c.Format == "json" {
		return slog.NewJSONHandler(w, opts)
	}
	return slog.NewTextHandler(w, opts)
}

// limitMemory tells the garbage collector about the cgroup's limit, so that a full table makes it work harder before the kernel kills the
// process. GOMEMLIMIT, if set, wins; without a limit nothing changes.
func (d *process) limitMemory() {
	const headroom = 10 // percent, for what is not on the heap
	if os.Getenv("GOMEMLIMIT") != "" {
		return
	}
	limit := cgroupLimit(os.DirFS("/"))
	if limit == math.MaxInt64 {
		return
	}
	limit -= limit / 100 * headroom
	debug.SetMemoryLimit(limit)
	d.log.Info("memory limit follows the cgroup", "bytes", limit)
}

// cgroupLimit is the memory limit of this process' cgroup (version 2) in bytes; math.MaxInt64 if there is none.
func cgroupLimit(root fs.FS) int64 {
	b, err := fs.ReadFile(root, "proc/self/cgroup")
	if err != nil {
		return math.MaxInt64
	}
	limit := int64(math.MaxInt64)
	for line := range strings.Lines(string(b)) {
		group, ok := strings.CutPrefix(strings.TrimSpace(line), "0::/")
		if !ok {
			continue
		}
		// The limits of the groups above hold too.
		for dir := group; ; dir = path.Dir(dir) {
			b, err := fs.ReadFile(root, path.Join("sys/fs/cgroup", dir, "memory.max"))
			if n, convErr := strconv.ParseInt(strings.TrimSpace(string(b)), 10, 64); err == nil && convErr == nil {
				limit = min(limit, n)
			}
			if dir == "." || dir == "" {
				break
			}
		}
	}
	return limit
}
