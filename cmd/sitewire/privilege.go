package main

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"sitewire/gateway/config"
)

// privileged says, before anything is touched, which privilege the daemon lacks and how to get it. Unavailable is why the kernel's WireGuard
// cannot be had, nil if it can.
func privileged(cfg *config.Config, backend config.Backend, unavailable error) error {
	caps, err := capabilities()
	if err != nil {
		return err
	}
	has := func(c int) bool { return caps&(1<<c) != 0 }
	var errs []error
	if !has(unix.CAP_NET_ADMIN) {
		errs = append(errs, errors.New("CAP_NET_ADMIN is missing: devices, addresses and routes cannot be made\n"+
			"run as root, or with AmbientCapabilities=CAP_NET_ADMIN CAP_NET_BIND_SERVICE in the unit; to try sitewire without: sitewire demo"))
	}
	if p := cfg.BGP.Port; cfg.ASN != 0 && p > 0 && p < firstFreePort() && !has(unix.CAP_NET_BIND_SERVICE) {
		errs = append(errs, fmt.Errorf("CAP_NET_BIND_SERVICE is missing: BGP cannot listen on port %d\n"+
			"add it to AmbientCapabilities= in the unit, or set bgp.port to one above 1023 here and at the neighbours", p))
	}
	if len(cfg.Peers) > 0 && backend == config.BackendUserspace {
		f, err := os.OpenFile("/dev/net/tun", os.O_RDWR, 0)
		if err != nil {
			errs = append(errs, fmt.Errorf("userspace WireGuard needs TUN devices: %w\n"+
				"modprobe tun; in a container --device /dev/net/tun; in a systemd unit no PrivateDevices=, or DeviceAllow=/dev/net/tun", err))
			if unavailable != nil {
				errs = append(errs, fmt.Errorf("and the kernel's WireGuard needs none, but: %w", unavailable))
			}
		} else {
			f.Close()
		}
	}
	return errors.Join(errs...)
}

// capabilities returns this process' effective set.
func capabilities() (uint64, error) {
	hdr := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if err := unix.Capget(&hdr, &data[0]); err != nil {
		return 0, fmt.Errorf("read capabilities: %w", err)
	}
	return uint64(data[1].Effective)<<32 | uint64(data[0].Effective), nil
}

// firstFreePort is the first port that needs no privilege here.
func firstFreePort() int {
	const usual = 1024
	b, err := os.ReadFile("/proc/sys/net/ipv4/ip_unprivileged_port_start")
	if err != nil {
		return usual
	}
	n, err := strconv.Atoi(strings.TrimSpace(string(b)))
	if err != nil {
		return usual
	}
	return n
}
