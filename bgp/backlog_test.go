package bgp

import (
	"log/slog"
	"testing"
	"testing/synctest"
	"time"
)

// Who reads UPDATEs waits for callbacks that are behind: until they have caught up, the queue is empty, or the time is over.
func TestBacklogWait(t *testing.T) {
	const late = 2 * backlogMost
	for _, test := range []struct {
		name   string
		events func(b *backlog) // while somebody waits
		want   time.Duration
	}{
		{"in time", nil, 0},
		{"caught up", func(b *backlog) {
			for range 6 {
				time.Sleep(2 * time.Millisecond)
				b.handled(time.Now().Add(-late), time.Now())
			}
			time.Sleep(2 * time.Millisecond)
			b.handled(time.Now(), time.Now())
		}, 14 * time.Millisecond},
		{"the last event was late", func(*backlog) {}, backlogStill},
		{"never catches up", func(b *backlog) {
			for range 100 {
				time.Sleep(time.Millisecond)
				b.handled(time.Now().Add(-late), time.Now())
			}
		}, backlogWait},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var b backlog
				b.handled(time.Now(), time.Now())
				if test.events != nil {
					b.handled(time.Now().Add(-late), time.Now())
					go test.events(&b)
				}
				begin := time.Now()
				b.wait()
				if got := time.Since(begin); got < test.want || got > test.want+backlogLook {
					t.Errorf("waited %v, want %v", got, test.want)
				}
				time.Sleep(time.Second) // the events end
			})
		})
	}
}

// GoBGP is made to wait where it asks whether to log an UPDATE, whatever its logger was derived from, and nowhere else.
func TestBacklogHoldsReaders(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var b backlog
		b.handled(time.Now().Add(-time.Second), time.Now())
		log := slog.New(newQuiet(slog.New(slog.DiscardHandler), &b)).With("Key", "192.0.2.1").WithGroup("peer")
		begin := time.Now()
		log.Info("Peer Up")
		if got := time.Since(begin); got != 0 {
			t.Errorf("Info took %v", got)
		}
		log.Debug("received update")
		if got := time.Since(begin); got < backlogStill {
			t.Errorf("waited %v, want %v", got, backlogStill)
		}
	})
}
