package netns

import (
	"testing"
	"time"
)

// drain takes out what is due at each millisecond until the queue is empty, and says when each packet came (by its first byte).
func drain(t *testing.T, q *delayQueue, from time.Time) (order []byte, at []time.Duration) {
	t.Helper()
	for now := from; now.Before(from.Add(time.Minute)); now = now.Add(time.Millisecond) {
		for {
			data, wait := q.next(now)
			if data == nil {
				if wait < 0 {
					return order, at
				}
				break
			}
			order, at = append(order, data[0]), append(at, now.Sub(from))
		}
	}
	t.Fatal("the queue is never empty")
	return nil, nil
}

func packet(n, length int) []byte {
	b := make([]byte, length)
	b[0] = byte(n)
	return b
}

func TestDelayQueue(t *testing.T) {
	start := time.Unix(1000, 0)
	t.Run("delay keeps the order", func(t *testing.T) {
		q := delayQueue{i: Impairment{Delay: 40 * time.Millisecond, Jitter: 30 * time.Millisecond}}
		for n := range 200 {
			q.put(start, packet(n, 100))
		}
		order, at := drain(t, &q, start)
		if len(order) != 200 || q.bytes != 0 || q.dropped != 0 {
			t.Fatalf("%d packets came out, %d bytes stayed, %d dropped", len(order), q.bytes, q.dropped)
		}
		for n := range order {
			if int(order[n]) != n {
				t.Fatalf("packet %d came as number %d", order[n], n)
			}
			if at[n] < 10*time.Millisecond || at[n] > 71*time.Millisecond {
				t.Errorf("packet %d came after %v", n, at[n])
			}
		}
		if at[0] == at[199] {
			t.Error("no jitter at all")
		}
	})
	t.Run("jitter is around the delay", func(t *testing.T) {
		q := delayQueue{i: Impairment{Delay: 40 * time.Millisecond, Jitter: 20 * time.Millisecond}}
		var sum time.Duration
		for n := range 500 {
			now := start.Add(time.Duration(n) * time.Second)
			q.put(now, packet(n, 100))
			_, wait := q.next(now)
			if wait < 20*time.Millisecond || wait > 60*time.Millisecond {
				t.Fatalf("a packet has to wait %v", wait)
			}
			sum += wait
			q.next(now.Add(wait))
		}
		if mean := sum / 500; mean < 37*time.Millisecond || mean > 43*time.Millisecond { // 3 sigma is 1.5 ms
			t.Errorf("packets have to wait %v on average", mean)
		}
	})
	t.Run("reorder", func(t *testing.T) {
		q := delayQueue{i: Impairment{Delay: 10 * time.Millisecond, Reorder: 25}}
		early := 0
		for n := range 200 {
			q.put(start, packet(n, 100))
		}
		order, at := drain(t, &q, start)
		for n := range order {
			if at[n] == 0 {
				early++
			}
		}
		if len(order) != 200 || early < 20 || early > 80 { // 50 +- 5 sigma
			t.Errorf("%d of %d packets came early", early, len(order))
		}
	})
	t.Run("duplicate", func(t *testing.T) {
		q := delayQueue{i: Impairment{Duplicate: 50}}
		for n := range 200 {
			q.put(start, packet(n, 100))
		}
		if order, _ := drain(t, &q, start); len(order) < 265 || len(order) > 335 {
			t.Errorf("%d packets came of 200", len(order))
		}
	})
	t.Run("rate", func(t *testing.T) {
		q := delayQueue{i: Impairment{Rate: 8_000_000}} // a packet of 1000 bytes is a millisecond
		for n := range 300 {
			q.put(start, packet(n, 1000))
		}
		order, at := drain(t, &q, start)
		if len(order) != 101 || q.dropped != 199 {
			t.Fatalf("%d packets came, %d were dropped: the queue is not %v long", len(order), q.dropped, rateQueue)
		}
		if at[0] != time.Millisecond || at[100] != 101*time.Millisecond {
			t.Errorf("the first packet came after %v, the last one after %v", at[0], at[100])
		}
		q.put(start.Add(time.Second), packet(1, 1000))
		if _, wait := q.next(start.Add(time.Second)); wait != time.Millisecond {
			t.Errorf("an idle line takes %v for a packet", wait)
		}
	})
	t.Run("bounded", func(t *testing.T) {
		q := delayQueue{i: Impairment{Delay: time.Second}}
		for range 2*maxHeld/60000 + 1 {
			q.put(start, packet(0, 60000))
		}
		if q.bytes > maxHeld || q.dropped == 0 {
			t.Errorf("the queue holds %d bytes, dropped %d packets", q.bytes, q.dropped)
		}
	})
}

func TestImpairmentCheck(t *testing.T) {
	for _, c := range []struct {
		i    Impairment
		good bool
	}{
		{Impairment{}, true},
		{Impairment{Rate: 20e6, Delay: 40 * time.Millisecond, Jitter: 5 * time.Millisecond, Loss: 0.5, Reorder: 1, Duplicate: 1, Hole: 1280}, true},
		{Impairment{Loss: 101}, false},
		{Impairment{Loss: -1}, false},
		{Impairment{Reorder: 1}, false},
		{Impairment{Duplicate: 200}, false},
		{Impairment{Jitter: 1}, false},
		{Impairment{Delay: time.Hour}, false},
		{Impairment{Rate: 20}, false},
		{Impairment{Hole: -1}, false},
	} {
		if err := c.i.Check(); (err == nil) != c.good {
			t.Errorf("%+v: %v", c.i, err)
		}
	}
}
