package user

import (
	"fmt"
	"os"
	"runtime"

	"golang.org/x/sys/unix"
)

// currentNamespace opens the network namespace of the calling thread.
func currentNamespace() (*os.File, error) {
	f, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		return nil, fmt.Errorf("network namespace of this thread: %w", err)
	}
	return f, nil
}

// within runs fn on a thread that is in the network namespace ns. A thread that cannot be brought back is not used again. Where the thread
// is there already nothing is entered: that would take CAP_SYS_ADMIN all the same (setns(2)), which a gateway with one namespace need not have.
func within(ns *os.File, fn func() error) error {
	runtime.LockOSThread()
	before, err := currentNamespace()
	if err != nil {
		runtime.UnlockOSThread()
		return err
	}
	defer before.Close()
	if same(before, ns) {
		defer runtime.UnlockOSThread()
		return fn()
	}
	if err := setns(ns); err != nil {
		runtime.UnlockOSThread()
		return err
	}
	err = fn()
	if back := setns(before); back != nil {
		// Locked for good: the runtime ends the thread with this goroutine instead of running others in a foreign namespace.
		return fmt.Errorf("return from network namespace %s: %w", ns.Name(), back)
	}
	runtime.UnlockOSThread()
	return err
}

// same tells whether two files are the same namespace; what cannot be asked is not.
func same(a, b *os.File) bool {
	x, errX := a.Stat()
	y, errY := b.Stat()
	return errX == nil && errY == nil && os.SameFile(x, y)
}

// setns uses SyscallConn instead of Fd, which would make the descriptor blocking.
func setns(ns *os.File) error {
	rc, err := ns.SyscallConn()
	if err != nil {
		return fmt.Errorf("network namespace %s: %w", ns.Name(), err)
	}
	var errno error
	if err := rc.Control(func(fd uintptr) { errno = unix.Setns(int(fd), unix.CLONE_NEWNET) }); err != nil {
		errno = err
	}
	if errno != nil {
		return fmt.Errorf("enter network namespace %s: %w", ns.Name(), errno)
	}
	return nil
}
