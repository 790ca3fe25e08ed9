package metrics

import (
	"bytes"
	"log/slog"
	"maps"
	"strings"
	"testing"
)

func TestLogCounter(t *testing.T) {
	var out bytes.Buffer
	c := NewLogCounter(slog.NewTextHandler(&out, &slog.HandlerOptions{Level: slog.LevelInfo}))
	log := slog.New(c)
	if got := c.Counts(); !maps.Equal(got, map[string]uint64{"debug": 0, "info": 0, "warn": 0, "error": 0}) {
		t.Errorf("at the start: %v", got)
	}
	log.Debug("not logged, not counted")
	log.Info("one")
	log.With("peer", "nyc").WithGroup("g").Warn("two", "k", "v")
	log.Log(t.Context(), slog.LevelError+4, "three")
	log.Log(t.Context(), slog.LevelInfo+2, "four")
	want := map[string]uint64{"debug": 0, "info": 2, "warn": 1, "error": 1}
	if got := c.Counts(); !maps.Equal(got, want) {
		t.Errorf("counted %v, want %v", got, want)
	}
	if text := out.String(); strings.Count(text, "\n") != 4 || !strings.Contains(text, "peer=nyc g.k=v") {
		t.Errorf("passed on:\n%s", text)
	}
}
