package user

import (
	"log/slog"
	"testing"
	"unsafe"

	"golang.zx2c4.com/wireguard/tun/tuntest"
)

// The buffers of a device begin at different cache lines, and an ordinary packet in one of them lies in one page.
func TestBuffersOfDevice(t *testing.T) {
	const page, ordinary, many, want = 4096, 1500, 1000, bufferSpread / bufferLine
	d := newDevice("wg0", tuntest.NewChannelTUN().TUN(), NewBind(BindOptions{}), slog.New(slog.DiscardHandler))
	defer d.Close(true)
	lines := map[uintptr]int{}
	for range many { // the device's own goroutines take some as well
		if len(lines) == want {
			break
		}
		b := d.dev.GetMessageBuffer() // and never given back, so each is another one
		at := uintptr(unsafe.Pointer(b)) % page
		lines[at]++
		if at%bufferLine != 0 || at+ordinary > page {
			t.Errorf("a buffer begins at byte %d of a page", at)
		}
	}
	if len(lines) != want {
		t.Errorf("%d buffers begin at %d different lines, want %d", many, len(lines), want)
	}
}
