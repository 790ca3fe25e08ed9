package host

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// SettingError says that a kernel setting is not what it must be and could not be changed.
type SettingError struct {
	// Key as sysctl(8) writes it.
	Key string
	// Have is the value now, Want the one it must have.
	Have, Want string
	Err        error
}

func (e *SettingError) Error() string {
	return fmt.Sprintf("setting %s is %s and must be %s: %v", e.Key, e.Have, e.Want, e.Err)
}

func (e *SettingError) Unwrap() error { return e.Err }

// settingKey turns a path below /proc/sys into what sysctl(8) takes: a dot in a device name becomes a slash.
func settingKey(path string) string {
	return strings.NewReplacer("/", ".", ".", "/").Replace(path)
}

// readSetting reads a setting by system calls of its own: os.ReadFile would have each file watched for readiness, which takes longer than to
// read it, and there are several for each device.
func readSetting(path string) (string, error) {
	name := filepath.Join("/proc/sys", path)
	fd, err := unix.Open(name, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return "", &os.PathError{Op: "open", Path: name, Err: err}
	}
	defer unix.Close(fd)
	var b [64]byte // no setting that we know is longer
	n, err := unix.Read(fd, b[:])
	if err != nil {
		return "", &os.PathError{Op: "read", Path: name, Err: err}
	}
	return strings.TrimSpace(string(b[:n])), nil
}

// setSetting writes a setting unless it has the value. One that the kernel does not have (no IPv6) is left out.
func setSetting(path, want string) error {
	have, err := readSetting(path)
	switch {
	case errors.Is(err, os.ErrNotExist) || err == nil && have == want:
		return nil
	case err == nil:
		err = os.WriteFile(filepath.Join("/proc/sys", path), []byte(want), 0o644)
	}
	if err != nil {
		return &SettingError{Key: settingKey(path), Have: have, Want: want, Err: err}
	}
	return nil
}

// Problem is a setting of the whole machine that keeps it from being a router.
type Problem struct {
	Key  string `json:"key"`
	Have string `json:"have"`
	Want string `json:"want"`
	// Why it matters, in one clause.
	Why string `json:"why"`
}

// String says what to do about it.
func (p Problem) String() string {
	return fmt.Sprintf("%s is %s: %s (sysctl -w %s=%s)", p.Key, p.Have, p.Why, p.Key, p.Want)
}

// Report lists what is wrong; empty is good.
type Report []Problem

var forwarding = []struct{ path, want, why string }{
	{"net/ipv4/ip_forward", "1", "IPv4 packets are not forwarded"},
	{"net/ipv6/conf/all/forwarding", "1", "IPv6 packets are not forwarded"},
	{"net/ipv4/conf/all/rp_filter", "0", "the reverse path filter of all devices applies to tunnels too and drops asymmetric traffic"},
}

// Forwarding looks at the settings of the whole machine that a router needs, and changes nothing: they are the administrator's.
func (h *Host) Forwarding(ctx context.Context) (Report, error) {
	var out Report
	for _, s := range forwarding {
		if err := ctx.Err(); err != nil {
			return nil, fmt.Errorf("forwarding: %w", err)
		}
		have, err := readSetting(s.path)
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("forwarding: %w", err)
		}
		if have != s.want {
			out = append(out, Problem{Key: settingKey(s.path), Have: have, Want: s.want, Why: s.why})
		}
	}
	return out, nil
}

// EnableForwarding changes what Forwarding reports. Only for when the operator has agreed to it; nothing ever changes it back.
func (h *Host) EnableForwarding(ctx context.Context) error {
	problems, err := h.Forwarding(ctx)
	if err != nil {
		return err
	}
	var errs []error
	for _, p := range problems {
		if err := setSetting(strings.ReplaceAll(p.Key, ".", "/"), p.Want); err != nil {
			errs = append(errs, err)
			continue
		}
		h.log.Info("setting changed", "key", p.Key, "from", p.Have, "to", p.Want)
	}
	return errors.Join(errs...)
}

// nexthopCompat is the setting that has the kernel pretend, in notifications and listings, that routes with nexthop objects
// have none.
const nexthopCompat = "net/ipv4/nexthop_compat_mode"

// NexthopCompat sets the setting for nexthop objects to 0, which the operator must have agreed to: it is that of the whole
// namespace, and nothing changes it back.
func (h *Host) NexthopCompat() error {
	have, err := readSetting(nexthopCompat)
	switch {
	case errors.Is(err, os.ErrNotExist):
		return nil // a kernel before 5.8 behaves as with 1
	case err != nil:
		return fmt.Errorf("setting %s: %w", settingKey(nexthopCompat), err)
	case have == "0":
		return nil
	}
	if err := setSetting(nexthopCompat, "0"); err != nil {
		return err
	}
	h.log.Info("setting changed", "key", settingKey(nexthopCompat), "from", have, "to", "0")
	return nil
}
