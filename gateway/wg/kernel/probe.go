package kernel

import (
	"context"
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// Unavailable says that kernel WireGuard cannot be used here, and what to do about it.
type Unavailable struct {
	// Why in a few words, such as "the kernel (6.1.0) has no WireGuard".
	Why string
	// Fix is what the reader can do.
	Fix string
	// Err is the kernel's answer: ENOENT for a kernel without the module, EPROTONOSUPPORT or EAFNOSUPPORT for one without generic netlink, EPERM or
	// EACCES for a process without the right.
	Err error
}

func (e *Unavailable) Error() string { return e.Why + " (" + e.Err.Error() + "): " + e.Fix }

func (e *Unavailable) Unwrap() error { return e.Err }

// Probe tells whether a Device can be opened in the network namespace of the calling thread: whether the kernel has WireGuard, which it may
// load as a module for that, and whether this process may use it. It creates nothing. The error is an *Unavailable, or says what else failed.
func Probe(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	c, err := dial()
	if err != nil {
		return err
	}
	defer c.close()
	// Every namespace has a loopback device, and none is a WireGuard one. Who lacks the right does not even hear that.
	err = c.dump(getNamed("lo"), func([]byte) error { return nil })
	switch {
	case errors.Is(err, unix.EOPNOTSUPP), errors.Is(err, unix.ENODEV):
		return nil
	case err == nil:
		return errors.New("kernel WireGuard: the loopback device answers as a WireGuard device")
	}
	return unavailable(err)
}

// unavailable explains what the family's absence or refusal means. Other errors stay as they are.
func unavailable(err error) error {
	switch {
	case errors.Is(err, unix.ENOENT):
		return &Unavailable{
			Why: "the kernel" + release() + " has no WireGuard",
			Fix: "run `modprobe wireguard` (on the host, if this is a container), or install a kernel that has the module (Linux 5.6 or later; Debian: linux-image-amd64), or use the userspace backend",
			Err: err,
		}
	case errors.Is(err, unix.EPROTONOSUPPORT), errors.Is(err, unix.EAFNOSUPPORT):
		return &Unavailable{
			Why: "the kernel" + release() + " has no generic netlink",
			Fix: "use another kernel (sandboxes such as gVisor have their own), or the userspace backend",
			Err: err,
		}
	case errors.Is(err, unix.EPERM), errors.Is(err, unix.EACCES):
		return &Unavailable{
			Why: "this process may not use the kernel's WireGuard",
			Fix: "run it as root or give it CAP_NET_ADMIN in the network namespace of the tunnels (systemd: AmbientCapabilities=CAP_NET_ADMIN; containers: --cap-add NET_ADMIN)",
			Err: err,
		}
	}
	return fmt.Errorf("kernel WireGuard: %w", err)
}

func release() string {
	var u unix.Utsname
	if unix.Uname(&u) != nil {
		return ""
	}
	return " (Linux " + unix.ByteSliceToString(u.Release[:]) + ")"
}
