package bgp

import (
	"slices"
	"testing"
	"time"
)

// An inquiry is made at its pace while there are events, once more if one came right before, else at its rest.
func TestInquiry(t *testing.T) {
	const pace, rest = 5 * time.Second, 30 * time.Second
	var q inquiry
	events, now := uint64(0), time.Unix(1_000_000_000, 0)
	var last time.Time
	var got []int
	for second := range 150 {
		at := now.Add(time.Duration(second) * time.Second)
		switch second {
		case 42, 43, 44, 100, 103:
			events, last = events+1, at
		}
		if q.due(at, events, rest) {
			q.asked(at, events, last, pace)
			got = append(got, second)
		}
	}
	// 42 and 100: events long after the last question; 47 and 105: more of them, and what follows from the first.
	want := []int{0, 30, 42, 47, 77, 100, 105, 135}
	if !slices.Equal(got, want) {
		t.Errorf("asked at %v, want %v", got, want)
	}
}
