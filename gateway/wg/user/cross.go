package user

import (
	"bytes"
	"encoding/binary"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.zx2c4.com/wireguard/conn"
	"golang.zx2c4.com/wireguard/device"
)

// Two initiations that cross on their way ruin both handshakes: each end drops its own state when it answers the other's, takes the
// answer to its own for an invalid one, and neither may send before the other has. Both try again after REKEY_TIMEOUT (5 s) plus at
// most a third of a second, and may cross again; an end whose retry comes less than 5 s after its answer does not even try.
// Worse, wireguard-go has several handshake workers and does not look at the state again before it takes over what an answer gave: an
// initiation handled in between leaves a session with the keys of one handshake and the index of the other. What the peer sends then is
// dropped until the next rekeying, for up to 120 s, although both ends show a fresh handshake.
// So one of them has to wait: an initiation that comes from where one of ours is under way is held back, and dropped when the answer
// to ours arrives, or else handed on after a time. Both ends see both messages: the one whose ephemeral key is the greater waits longer,
// so two ends that do this never both give in. An end that does not do this answers at once, and its answer arrives in the shorter time.
const (
	shortHold = 300 * time.Millisecond
	longHold  = time.Second
)

// Offsets in the messages (WireGuard paper, section 5.4.2 and 5.4.3). All have the type, a little-endian word, in front.
const (
	senderAt    = 4 // the sender's index in an initiation
	ephemeralAt = 8 // the ephemeral key in an initiation
	receiverAt  = 8 // the index of an initiation in the answer to it
)

// initiation is a handshake that this end began and that was not answered yet.
type initiation struct {
	at        time.Time
	sender    uint32
	ephemeral [device.NoisePublicKeySize]byte
	held      *held
}

// held is an initiation that waits.
type held struct {
	socket   *socket
	data     []byte
	endpoint conn.Endpoint
	due      time.Time
}

// crossing holds back initiations that cross one of ours. It is safe for concurrent use.
type crossing struct {
	count atomic.Int32 // of sent: nothing is to be done while it is 0
	mu    sync.Mutex
	sent  map[netip.AddrPort]*initiation
	swept time.Time
}

// messageType returns the type of a message; 0 for what is none.
func messageType(data []byte) uint32 {
	if len(data) < 4 {
		return 0
	}
	return binary.LittleEndian.Uint32(data)
}

// sending notes an initiation that is on its way out.
func (c *crossing) sending(data []byte, to netip.AddrPort) {
	if len(data) != device.MessageInitiationSize || messageType(data) != device.MessageInitiationType {
		return
	}
	now := time.Now()
	c.mu.Lock()
	defer c.mu.Unlock()
	if now.Sub(c.swept) > longHold {
		c.swept = now
		for a, i := range c.sent {
			if i.held == nil && now.Sub(i.at) > longHold {
				delete(c.sent, a)
			}
		}
	}
	if c.sent == nil {
		c.sent = map[netip.AddrPort]*initiation{}
	}
	i := &initiation{at: now, sender: binary.LittleEndian.Uint32(data[senderAt:])}
	copy(i.ephemeral[:], data[ephemeralAt:])
	if old := c.sent[to]; old != nil {
		i.held = old.held
	}
	c.sent[to] = i
	c.count.Store(int32(len(c.sent)))
}

// received takes from a batch the initiations that have to wait: their size becomes 0, which wireguard-go ignores. The socket is
// woken when their time has come.
func (c *crossing) received(s *socket, bufs [][]byte, sizes []int, endpoints []conn.Endpoint) {
	if c.count.Load() == 0 {
		return
	}
	for n, size := range sizes {
		data := bufs[n][:size]
		switch e, ok := endpoints[n].(*Endpoint); {
		case !ok:
		case size == device.MessageInitiationSize && messageType(data) == device.MessageInitiationType:
			if c.hold(s, data, e) {
				sizes[n] = 0
			}
		case size == device.MessageResponseSize && messageType(data) == device.MessageResponseType:
			c.answered(e.dst, binary.LittleEndian.Uint32(data[receiverAt:]))
		}
	}
}

// hold keeps an initiation back if one of ours to the same end has no answer and is young. Only one is kept for each.
func (c *crossing) hold(s *socket, data []byte, e *Endpoint) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	own := c.sent[e.dst]
	if own == nil || own.held != nil {
		return false
	}
	wait := shortHold
	if bytes.Compare(own.ephemeral[:], data[ephemeralAt:ephemeralAt+len(own.ephemeral)]) > 0 {
		wait = longHold
	}
	due := own.at.Add(wait)
	left := time.Until(due)
	if left <= 0 {
		return false
	}
	own.held = &held{s, slices.Clone(data), e, due}
	time.AfterFunc(left, s.wake)
	return true
}

// answered forgets the initiation with that index, and what waited for its answer.
func (c *crossing) answered(from netip.AddrPort, index uint32) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if i := c.sent[from]; i != nil && i.sender == index {
		c.forget(from)
	}
}

// due hands out what came through the socket and has waited long enough: at most as many as fit. more says that some did not.
func (c *crossing) due(s *socket, bufs [][]byte, sizes []int, endpoints []conn.Endpoint) (n int, more bool) {
	now := time.Now()
	c.mu.Lock()
	defer c.mu.Unlock()
	for from, i := range c.sent {
		h := i.held
		if h == nil || h.socket != s || h.due.After(now) {
			continue
		}
		if n == len(bufs) {
			return n, true
		}
		sizes[n], endpoints[n] = copy(bufs[n], h.data), h.endpoint
		n++
		c.forget(from)
	}
	return n, false
}

func (c *crossing) forget(from netip.AddrPort) {
	delete(c.sent, from)
	c.count.Store(int32(len(c.sent)))
}

// clear forgets everything, since the sockets are closed.
func (c *crossing) clear() {
	c.mu.Lock()
	defer c.mu.Unlock()
	clear(c.sent)
	c.count.Store(0)
}
