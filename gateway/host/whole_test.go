package host

import (
	"errors"
	"fmt"
	"testing"

	"github.com/vishvananda/netlink"
)

// TestWhole: a list that was interrupted is read again, and never taken for the whole; any other error ends it at once.
func TestWhole(t *testing.T) {
	list := func(interrupted int, after error) (calls int, out []int, err error) {
		out, err = whole(func() ([]int, error) {
			if calls++; calls <= interrupted {
				return []int{1}, fmt.Errorf("list: %w", netlink.ErrDumpInterrupted)
			}
			return []int{1, 2}, after
		})
		return calls, out, err
	}
	if calls, out, err := list(3, nil); calls != 4 || len(out) != 2 || err != nil {
		t.Errorf("interrupted three times: %d calls, %v, %v", calls, out, err)
	}
	refused := errors.New("refused")
	if calls, _, err := list(0, refused); calls != 1 || !errors.Is(err, refused) {
		t.Errorf("refused: %d calls, %v", calls, err)
	}
	if calls, _, err := list(1<<20, nil); calls > 100 || !errors.Is(err, netlink.ErrDumpInterrupted) {
		t.Errorf("always interrupted: %d calls, %v", calls, err)
	}
}
