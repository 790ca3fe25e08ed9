package host

import (
	"errors"
	"fmt"
	"net"

	"golang.org/x/sys/unix"
)

// ErrTaken says that another gateway works in this network namespace: the two would undo each other's rules and routes.
var ErrTaken = errors.New("another sitewire runs in this network namespace: stop it first")

// Lock makes sure that this process is the only gateway of its network namespace. It returns what releases the lock, or
// ErrTaken. The lock is a socket in the abstract namespace (unix(7)): that belongs to the network namespace, needs no
// file, and ends with the process, however it ends.
func Lock() (release func() error, err error) {
	c, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: "@sitewire-gateway", Net: "unixgram"})
	switch {
	case errors.Is(err, unix.EADDRINUSE):
		return nil, ErrTaken
	case err != nil:
		return nil, fmt.Errorf("lock of the network namespace: %w", err)
	}
	return c.Close, nil
}
