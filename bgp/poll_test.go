package bgp

import (
	"slices"
	"testing"
	"time"
)

// An inquiry is made at its pace while there are events and once more after the last, else at its rest.
func TestInquiry(t *testing.T) {
	const pace, rest = 5 * time.Second, 30 * time.Second
	var q inquiry
	events, now := uint64(0), time.Unix(1_000_000_000, 0)
	var got []int
	for second := range 150 {
		switch second {
		case 42, 43, 44, 100:
			events++
		}
		if at := now.Add(time.Duration(second) * time.Second); q.due(at, events, rest) {
			q.asked(at, events, pace)
			got = append(got, second)
		}
	}
	// 42: an event long after the last question; 47: more of them; 52 and 105: what follows from them.
	want := []int{0, 30, 42, 47, 52, 82, 100, 105, 135}
	if !slices.Equal(got, want) {
		t.Errorf("asked at %v, want %v", got, want)
	}
}
