package user

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"os"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"sitewire/topologies/netns"
	"sitewire/topologies/netns/nstest"
)

func TestMain(m *testing.M) { nstest.Main(m) }

// logBuffer collects log records of any level.
type logBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *logBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *logBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

func (l *logBuffer) logger() *slog.Logger {
	return slog.New(slog.NewTextHandler(l, &slog.HandlerOptions{Level: slog.LevelDebug}))
}

// noLeak fails the test if goroutines of this package or of wireguard-go are still there when it ends.
func noLeak(t *testing.T) {
	t.Helper()
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second) // the test's own is over
		defer cancel()
		err := netns.WaitFor(ctx, 5*time.Millisecond, "goroutines to end", func() error {
			stacks := make([]byte, 1<<20)
			stacks = stacks[:runtime.Stack(stacks, true)]
			for _, g := range strings.Split(string(stacks), "\n\n")[1:] {
				if strings.Contains(g, "golang.zx2c4.com/wireguard") || strings.Contains(g, "wg/user.(*") {
					return fmt.Errorf("still running: %s", g)
				}
			}
			return nil
		})
		if err != nil {
			t.Error(err)
		}
	})
}

// openNamespace opens the file of a namespace for a BindOptions.
func openNamespace(t testing.TB, ns *netns.NS) *os.File {
	t.Helper()
	f, err := os.Open(ns.Path())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = f.Close() })
	return f
}
