package netns

import (
	"context"
	"fmt"
	"time"
)

// WaitFor calls f until it returns nil, at once and then every so often, and gives up when ctx ends. The error then says what was waited
// for, how long, and what f said last. Set a deadline on ctx; there is no default.
func WaitFor(ctx context.Context, every time.Duration, what string, f func() error) error {
	start := time.Now()
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		err := f()
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("waited %v for %s (%w): %w", time.Since(start).Round(time.Millisecond), what, context.Cause(ctx), err)
		case <-tick.C:
		}
	}
}
