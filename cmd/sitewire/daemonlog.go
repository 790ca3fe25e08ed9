package main

import (
	"io"
	"log/slog"

	"sitewire/gateway/config"
)

// newLogHandler writes in the configured form, from a level on that may change. The journal has its own clock, so lines for it carry none.
func newLogHandler(w io.Writer, c config.Log, level slog.Leveler, journal bool) slog.Handler {
	opts := &slog.HandlerOptions{Level: level}
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
