package metrics

import (
	"context"
	"log/slog"
	"sync/atomic"
)

// LogCounter is a slog.Handler that counts the messages which it passes on, by level. Handlers that WithAttrs and
// WithGroup return count together with it.
type LogCounter struct {
	next   slog.Handler
	counts *[4]atomic.Uint64 // in the order of levels
}

// NewLogCounter counts what goes to next.
func NewLogCounter(next slog.Handler) *LogCounter {
	return &LogCounter{next: next, counts: new([4]atomic.Uint64)}
}

// Enabled implements slog.Handler. Messages below the level of the log are neither made nor counted.
func (l *LogCounter) Enabled(ctx context.Context, level slog.Level) bool {
	return l.next.Enabled(ctx, level)
}

// Handle implements slog.Handler. A message counts even if it could not be written.
func (l *LogCounter) Handle(ctx context.Context, r slog.Record) error {
	i := 0
	switch {
	case r.Level >= slog.LevelError:
		i = 3
	case r.Level >= slog.LevelWarn:
		i = 2
	case r.Level >= slog.LevelInfo:
		i = 1
	}
	l.counts[i].Add(1)
	return l.next.Handle(ctx, r)
}

// WithAttrs implements slog.Handler.
func (l *LogCounter) WithAttrs(attrs []slog.Attr) slog.Handler {
	return &LogCounter{next: l.next.WithAttrs(attrs), counts: l.counts}
}

// WithGroup implements slog.Handler.
func (l *LogCounter) WithGroup(name string) slog.Handler {
	return &LogCounter{next: l.next.WithGroup(name), counts: l.counts}
}

// Counts returns the messages so far by level ("debug", "info", "warn", "error"). Levels between count as the one below.
func (l *LogCounter) Counts() map[string]uint64 {
	out := make(map[string]uint64, len(l.counts))
	for i, name := range levels() {
		out[name] = l.counts[i].Load()
	}
	return out
}
