package bgp

import (
	"context"
	"log/slog"
	"sync/atomic"
)

// quiet is GoBGP's log handler. It makes GoBGP's Info our Debug, and drops its Debug: that alone doubles the cost of
// an UPDATE, because its text is made for every route.
type quiet struct {
	slog.Handler
	// closing makes everything Debug: a stop that we asked for is no error.
	closing *atomic.Bool
}

func newQuiet(log *slog.Logger) *quiet {
	return &quiet{Handler: log.With("component", "gobgp").Handler(), closing: new(atomic.Bool)}
}

func (q *quiet) level(l slog.Level) slog.Level {
	if l <= slog.LevelInfo || q.closing.Load() {
		return slog.LevelDebug
	}
	return l
}

// Enabled implements slog.Handler.
func (q *quiet) Enabled(ctx context.Context, l slog.Level) bool {
	return l >= slog.LevelInfo && q.Handler.Enabled(ctx, q.level(l))
}

// Handle implements slog.Handler.
func (q *quiet) Handle(ctx context.Context, r slog.Record) error {
	c := r.Clone()
	c.Level = q.level(r.Level)
	return q.Handler.Handle(ctx, c)
}

// WithAttrs implements slog.Handler.
func (q *quiet) WithAttrs(attrs []slog.Attr) slog.Handler {
	return &quiet{Handler: q.Handler.WithAttrs(attrs), closing: q.closing}
}

// WithGroup implements slog.Handler.
func (q *quiet) WithGroup(name string) slog.Handler {
	return &quiet{Handler: q.Handler.WithGroup(name), closing: q.closing}
}
