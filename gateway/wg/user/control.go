package user

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// ControlDir is where wg(8) looks for userspace devices.
const ControlDir = "/var/run/wireguard"

// answerTime is how long another process may take to accept a connection before its socket counts as in use anyway.
const answerTime = time.Second

// control serves the userspace API on DIR/NAME.sock, for wg(8). The library's own listener is not used: it takes an
// inotify instance per device, of which a user has 128 by default, and changes the umask of the whole process.
type control struct {
	listener *net.UnixListener
	path     string
	id       os.FileInfo // of the socket we made, to remove no other one

	mu    sync.Mutex
	conns map[net.Conn]struct{} // nil: closed
	wait  sync.WaitGroup
}

// listenControl takes over a socket that nobody answers on, such as one left by a killed process, and no other file.
func listenControl(dir, name string, handle func(net.Conn)) (_ *control, err error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	path := filepath.Join(dir, name+".sock")
	if err := stale(path); err != nil {
		return nil, err
	}
	// Bound in a private directory and moved into place: nobody can connect before the mode is set, and there is no
	// moment without a socket.
	private, err := os.MkdirTemp(dir, ".sitewire-")
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, os.Remove(private)) }()
	tmp := filepath.Join(private, "s")
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: tmp, Net: "unix"})
	if err != nil {
		return nil, err
	}
	l.SetUnlinkOnClose(false)
	c := &control{listener: l, path: path, conns: map[net.Conn]struct{}{}}
	if err := c.publish(tmp); err != nil {
		return nil, errors.Join(err, l.Close())
	}
	c.wait.Go(func() { c.serve(handle) })
	return c, nil
}

func (c *control) publish(tmp string) (err error) {
	defer func() {
		if err != nil {
			err = errors.Join(err, os.Remove(tmp))
		}
	}()
	if err := os.Chmod(tmp, 0o600); err != nil {
		return err
	}
	if c.id, err = os.Lstat(tmp); err != nil {
		return err
	}
	return os.Rename(tmp, c.path)
}

// stale returns nil if path may be replaced.
func stale(path string) error {
	info, err := os.Lstat(path)
	switch {
	case errors.Is(err, os.ErrNotExist):
		return nil
	case err != nil:
		return err
	case info.Mode().Type() != os.ModeSocket:
		return fmt.Errorf("%s is not a socket", path)
	}
	conn, err := net.DialTimeout("unix", path, answerTime)
	switch {
	case err == nil:
		return errors.Join(fmt.Errorf("%s: another process answers on it", path), conn.Close())
	case errors.Is(err, unix.ECONNREFUSED), errors.Is(err, os.ErrNotExist):
		return nil
	}
	return err
}

func (c *control) serve(handle func(net.Conn)) {
	for {
		conn, err := c.listener.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil { // out of descriptors: they come back
			time.Sleep(poll)
			continue
		}
		if !c.add(conn) {
			_ = conn.Close()
			return
		}
		c.wait.Go(func() {
			handle(conn) // closes conn
			c.mu.Lock()
			delete(c.conns, conn)
			c.mu.Unlock()
		})
	}
}

func (c *control) add(conn net.Conn) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.conns == nil {
		return false
	}
	c.conns[conn] = struct{}{}
	return true
}

// close removes the socket, ends every connection and waits for their goroutines.
func (c *control) close() error {
	if c == nil {
		return nil
	}
	var errs []error
	if now, err := os.Lstat(c.path); err == nil && os.SameFile(now, c.id) {
		errs = append(errs, os.Remove(c.path))
	}
	errs = append(errs, c.listener.Close())
	c.mu.Lock()
	for conn := range c.conns {
		_ = conn.Close()
	}
	c.conns = nil
	c.mu.Unlock()
	c.wait.Wait()
	return errors.Join(errs...)
}
