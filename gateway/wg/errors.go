package wg

import "errors"

var (
	// ErrNoPeer says that a delta names a peer which the device does not have. A driver that can tell without
	// reading the whole device returns it for Allow; the kernel ignores such entries silently. Neither creates the peer.
	ErrNoPeer = errors.New("no such peer")
	// ErrClosed says that the device was closed, or that its interface was deleted under it.
	ErrClosed = errors.New("device is closed")
	// ErrLinkExists says that a link with the device's name exists and is not ours to take.
	ErrLinkExists = errors.New("a link of that name exists")
)
