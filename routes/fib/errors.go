package fib

import (
	"fmt"
	"net/netip"

	"golang.org/x/sys/unix"
)

// Error is the kernel's refusal of one request. It unwraps to the error number, so errors.Is(err, unix.ENODEV) works.
type Error struct {
	Errno unix.Errno
	// Text is the kernel's own explanation ("Nexthop has invalid gateway"); often empty.
	Text string
}

func (e *Error) Error() string {
	s := e.Errno.Error()
	if e.Text != "" {
		s += " (" + e.Text + ")"
	}
	if e.Errno == unix.EPERM {
		s += ": changing routes needs CAP_NET_ADMIN"
	}
	return s
}

func (e *Error) Unwrap() error { return e.Errno }

// DeviceError says that a route needs a device that is not there (yet). It unwraps to ENODEV.
type DeviceError struct{ Device string }

func (e *DeviceError) Error() string { return fmt.Sprintf("no device %q", e.Device) }
func (e *DeviceError) Unwrap() error { return unix.ENODEV }

// ConflictError says that another program has a route where ours would go. The kernel would replace it without asking; we leave it alone.
type ConflictError struct {
	Prefix   netip.Prefix
	Table    uint32
	Metric   uint32
	Protocol uint8 // whose route it is; see /etc/iproute2/rt_protos
}

func (e *ConflictError) Error() string {
	return fmt.Sprintf("%s metric %d in table %d belongs to a route of protocol %d; use another metric or table", e.Prefix, e.Metric, e.Table, e.Protocol)
}

// Unwrap gives EEXIST, which is what the kernel would say if it were asked not to replace.
func (e *ConflictError) Unwrap() error { return unix.EEXIST }
