package user

import (
	"sync/atomic"

	"golang.zx2c4.com/wireguard/device"
	"golang.zx2c4.com/wireguard/tun"
)

// wireguard-go's message buffers are 64 KiB each and begin at a page, so the headers of all packets under way compete for
// the same few sets of the processor's first-level cache, which it picks by the place within a page. Ours begin at
// different cache lines of the first half of a page: an ordinary packet still touches one page.
const (
	bufferSpread = 2048
	bufferLine   = 64
)

// newBuffers makes a pool of buffers that begin at different cache lines.
func newBuffers() *device.WaitPool {
	var n atomic.Uint32
	return device.NewWaitPool(device.PreallocatedBuffersPerPool, func() any {
		at := n.Add(1) * bufferLine % bufferSpread
		return (*[device.MaxMessageSize]byte)(make([]byte, device.MaxMessageSize+bufferSpread)[at:])
	})
}

// gate is a tun.Device that holds the goroutines of a new device.Device back until its pool of buffers is exchanged. The
// one that reads the TUN asks for the batch size before it takes a buffer; the one that reads events can set the device
// up, and so start the others that take buffers. NewDevice itself asks for neither.
type gate struct {
	tun.Device
	ready chan struct{}
}

// BatchSize implements tun.Device.
func (g *gate) BatchSize() int {
	<-g.ready
	return g.Device.BatchSize()
}

// Events implements tun.Device.
func (g *gate) Events() <-chan tun.Event {
	<-g.ready
	return g.Device.Events()
}
