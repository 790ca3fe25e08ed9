package user

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"time"

	"golang.zx2c4.com/wireguard/device"
)

// logEvery is the shortest time between two records about one kind of trouble.
const logEvery = 30 * time.Second

// badOperation is wireguard-go's message about a UAPI line that is no operation. Its argument is that line, which a client
// that lost its place in the protocol can make a key.
const badOperation = "invalid UAPI operation: %v"

// limiter lets one record through per interval and counts the rest. The zero value is ready.
type limiter struct {
	mu         sync.Mutex
	next       time.Time
	suppressed int
}

func (l *limiter) warn(log *slog.Logger, msg string, args ...any) {
	l.mu.Lock()
	now, n := time.Now(), l.suppressed
	if now.Before(l.next) {
		l.suppressed++
		l.mu.Unlock()
		return
	}
	l.next, l.suppressed = now.Add(logEvery), 0
	l.mu.Unlock()
	if n > 0 {
		args = append(args, "suppressed", n)
	}
	log.Warn(msg, args...)
}

// deviceLogger adapts log for wireguard-go. Its errors are warnings, one per message format and interval, since a peer
// that is away makes one every few seconds; its chatter is debugging. Formats are constants in the library, so the
// number of limiters is bounded.
func deviceLogger(log *slog.Logger) *device.Logger {
	var mu sync.Mutex
	limiters := map[string]*limiter{}
	return &device.Logger{
		Verbosef: func(format string, args ...any) {
			// One line per allowed-IP would drown everything else; the caller logs its own changes.
			if !log.Enabled(context.Background(), slog.LevelDebug) || strings.Contains(format, "UAPI:") {
				return
			}
			log.Debug(fmt.Sprintf(format, redact(args)...))
		},
		Errorf: func(format string, args ...any) {
			if waiting(args) {
				log.Debug(fmt.Sprintf(format, args...))
				return
			}
			mu.Lock()
			l := limiters[format]
			if l == nil {
				l = new(limiter)
				limiters[format] = l
			}
			mu.Unlock()
			if format == badOperation {
				args = []any{"(not shown)"}
			}
			l.warn(log, fmt.Sprintf(format, redact(args)...))
		},
	}
}

// noEndpoint is wireguard-go's error for a peer that nobody can call yet.
const noEndpoint = "no known endpoint for peer"

// waiting tells whether the trouble is only that a peer without an endpoint has not called: its tunnel's state says so.
func waiting(args []any) bool {
	for _, a := range args {
		if err, ok := a.(error); ok && err.Error() == noEndpoint {
			return true
		}
	}
	return false
}

// redact replaces UAPI errors by their number: their text can quote a line that holds a key.
func redact(args []any) []any {
	out := make([]any, len(args))
	for i, a := range args {
		out[i] = a
		if err, ok := a.(error); ok {
			if ipc, ok := errors.AsType[*device.IPCError](err); ok {
				out[i] = ipcErrno(ipc)
			}
		}
	}
	return out
}
