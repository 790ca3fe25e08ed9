package main

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"golang.org/x/sys/unix"

	"sitewire/gateway/config"
	"sitewire/gateway/host"
	"sitewire/gateway/wg/kernel"
)

// wellFiles are those of a machine that is as it should be.
func wellFiles() fstest.MapFS {
	return fstest.MapFS{
		"proc/sys/net/ipv4/nexthop_compat_mode":   {Data: []byte("0\n")},
		"proc/sys/net/core/rmem_max":              {Data: []byte("212992\n")},
		"proc/sys/net/core/wmem_max":              {Data: []byte("212992\n")},
		"proc/self/cgroup":                        {Data: []byte("0::/\n")},
		"proc/meminfo":                            {Data: []byte("MemTotal:       16000000 kB\nMemFree: 1 kB\n")},
		"etc/iproute2/rt_protos":                  {Data: []byte("#\n12\tbird\n")},
		"etc/iproute2/rt_protos.d/sitewire.conf":  {Data: []byte("83 sitewire\n")},
		"proc/self/ns/net":                        {Data: []byte("net:[1]"), Mode: fs.ModeSymlink},
		"proc/1/ns/net":                           {Data: []byte("net:[1]"), Mode: fs.ModeSymlink},
		"proc/sys/net/ipv4/conf/all/rp_filter":    {Data: []byte("0\n")},
		"proc/sys/net/ipv6/conf/all/forwarding":   {Data: []byte("1\n")},
		"proc/sys/net/ipv4/ip_unprivileged_start": {Data: []byte("1024\n")},
	}
}

// well is a patient that lacks nothing.
func well() *patient {
	return &patient{
		root: wellFiles(), now: now,
		capabilities: func() (uint64, error) { return 1<<unix.CAP_NET_ADMIN | 1<<unix.CAP_NET_BIND_SERVICE, nil },
		kernelWG:     func(context.Context) error { return nil },
		tunFeatures:  func() (uint32, error) { return unix.IFF_TUN | unix.IFF_VNET_HDR, nil },
		tables:       func() error { return nil },
		settings:     func(context.Context) (host.Report, error) { return nil, nil },
		countRoutes:  func(uint8, int, int) (host.RouteCount, error) { return host.RouteCount{}, nil },
		unsynced:     func() (bool, error) { return false, nil },
		fileLimit:    func() (uint64, error) { return 65536, nil },
	}
}

func TestDoctor(t *testing.T) {
	put := func(p *patient, file, text string) { p.root.(fstest.MapFS)[file] = &fstest.MapFile{Data: []byte(text)} }
	noWireGuard := func(p *patient) {
		p.kernelWG = func(context.Context) error {
			return &kernel.Unavailable{Why: "the kernel (5.4.0) has no WireGuard", Fix: "modprobe wireguard", Err: unix.ENOENT}
		}
	}
	withConfig := func(p *patient, edit func(*config.Config)) {
		cfg := &config.Config{ASN: 64512}
		cfg.Routes = config.Routes{Protocol: 83, Table: 254, Metric: 512, NexthopObjects: true}
		cfg.BGP.Port = 179
		edit(cfg)
		p.cfg = cfg
	}
	peers := func(n int, shared bool) func(*config.Config) {
		return func(c *config.Config) {
			for range n {
				c.Peers = append(c.Peers, &config.Peer{Shared: shared, Sessions: []*config.Session{{}}})
			}
		}
	}
	for name, x := range map[string]struct {
		ail   func(*patient)
		check string
		want  severity
		found string // part of it
	}{
		"well":         {func(*patient) {}, "", "", ""},
		"no rights":    {func(p *patient) { p.capabilities = func() (uint64, error) { return 0, nil } }, "rights", isError, "CAP_NET_ADMIN"},
		"no wireguard": {noWireGuard, "wireguard", isNote, "(5.4.0)"},
		"no wireguard, wanted": {func(p *patient) {
			noWireGuard(p)
			withConfig(p, func(c *config.Config) { c.WireGuard.Backend = config.BackendKernel })
		}, "wireguard", isError, "wants it"},
		"no tun, kernel's": {func(p *patient) { p.tunFeatures = func() (uint32, error) { return 0, os.ErrNotExist } }, "tun", isOK, "needs none"},
		"no tun":           {func(p *patient) { noWireGuard(p); p.tunFeatures = func() (uint32, error) { return 0, os.ErrNotExist } }, "tun", isError, "file does not exist"},
		"no offload":       {func(p *patient) { p.tunFeatures = func() (uint32, error) { return unix.IFF_TUN, nil } }, "tun", isWarning, "IFF_VNET_HDR"},
		"no nftables":      {func(p *patient) { p.tables = func() error { return unix.EPROTONOSUPPORT } }, "nftables", isWarning, "not guarded"},
		"no forwarding": {func(p *patient) {
			p.settings = func(context.Context) (host.Report, error) {
				return host.Report{{Key: "net.ipv4.ip_forward", Have: "0", Want: "1", Why: "IPv4 packets are not forwarded"}}, nil
			}
		}, "forwarding", isWarning, "net.ipv4.ip_forward is 0"},
		"compat": {func(p *patient) { put(p, "proc/sys/net/ipv4/nexthop_compat_mode", "1\n") }, "nexthop objects", isNote, "50 ms for each 100,000"},
		"compat, to be set": {func(p *patient) {
			put(p, "proc/sys/net/ipv4/nexthop_compat_mode", "1\n")
			withConfig(p, func(c *config.Config) { c.Routes.NexthopCompatOff = true })
		}, "nexthop objects", isOK, "the daemon sets it to 0"},
		"no objects":       {func(p *patient) { withConfig(p, func(c *config.Config) { c.Routes.NexthopObjects = false }) }, "nexthop objects", isNote, "one by one"},
		"old kernel":       {func(p *patient) { delete(p.root.(fstest.MapFS), "proc/sys/net/ipv4/nexthop_compat_mode") }, "nexthop objects", isNote, "older than 5.8"},
		"small buffers":    {func(p *patient) { p.capabilities = func() (uint64, error) { return 0, nil } }, "socket buffers", isNote, "net.core.rmem_max is 212992, net.core.wmem_max is 212992"},
		"no name":          {func(p *patient) { delete(p.root.(fstest.MapFS), "etc/iproute2/rt_protos.d/sitewire.conf") }, "route protocol", isNote, "83 has no name"},
		"another's number": {func(p *patient) { withConfig(p, func(c *config.Config) { c.Routes.Protocol = 12 }) }, "route protocol", isWarning, "calls 12 bird"},
		"left routes": {func(p *patient) {
			p.countRoutes = func(uint8, int, int) (host.RouteCount, error) { return host.RouteCount{Ours: 7}, nil }
		}, "routes", isNote, "7 routes with our protocol number 83"},
		"own routes": {func(p *patient) {
			p.running = true
			p.countRoutes = func(uint8, int, int) (host.RouteCount, error) { return host.RouteCount{Ours: 7}, nil }
		}, "routes", isOK, ""},
		"another's metric": {func(p *patient) {
			p.countRoutes = func(uint8, int, int) (host.RouteCount, error) {
				return host.RouteCount{Others: map[uint8]int{12: 3}}, nil
			}
		}, "routes", isWarning, "3 routes with protocol 12 have our metric 512 in table 254"},
		"routes not read": {func(p *patient) {
			p.countRoutes = func(uint8, int, int) (host.RouteCount, error) { return host.RouteCount{}, errors.New("refused") }
		}, "routes", isNote, "not found out: refused"},
		"clock of 1970":   {func(p *patient) { p.now = oldest.AddDate(-56, 0, 0) }, "clock", isError, "1970-01-01"},
		"clock runs free": {func(p *patient) { p.unsynced = func() (bool, error) { return true, nil } }, "clock", isNote, "nothing keeps"},
		"few files": {func(p *patient) {
			withConfig(p, peers(1000, false))
			p.fileLimit = func() (uint64, error) { return 1024, nil }
		}, "open files", isError, "1000 devices with 1000 sessions need about 10064"},
		"files, shared device": {func(p *patient) {
			withConfig(p, peers(400, true))
			p.fileLimit = func() (uint64, error) { return 1024, nil }
		}, "open files", isOK, "1 device with 400 sessions"},
		"little memory":          {func(p *patient) { put(p, "sys/fs/cgroup/memory.max", "67108864\n") }, "memory", isWarning, "the control group's limit is 64.00 MiB"},
		"memory for the machine": {func(*patient) {}, "memory", isOK, "the machine's memory is 15.26 GiB"},
		"container":              {func(p *patient) { put(p, ".dockerenv", "") }, "place", isNote, "this is a container"},
		"namespace": {func(p *patient) {
			p.root.(fstest.MapFS)["proc/1/ns/net"] = &fstest.MapFile{Data: []byte("net:[2]"), Mode: fs.ModeSymlink}
		}, "place", isNote, "not that of the machine"},
	} {
		t.Run(name, func(t *testing.T) {
			p := well()
			x.ail(p)
			d := diagnose(p, p.look(t.Context()))
			if x.check == "" {
				if d.Errors+d.Warnings > 0 {
					t.Errorf("a machine that lacks nothing: %+v", d.Findings)
				}
				return
			}
			var seen []finding
			for _, f := range d.Findings {
				if f.Check == x.check {
					seen = append(seen, f)
				}
			}
			if len(seen) == 0 || seen[0].Severity != x.want || !strings.Contains(seen[0].Found, x.found) {
				t.Fatalf("%s: %+v, want a %s with %q", x.check, seen, x.want, x.found)
			}
			if (x.want == isError || x.want == isWarning) && seen[0].Fix == "" {
				t.Errorf("%+v does not say what to do", seen[0])
			}
		})
	}
}

// ailing is what doctor finds on a machine with a few things wrong.
func ailing(ctx context.Context) diagnosis {
	p := well()
	p.tables = func() error { return unix.EPROTONOSUPPORT }
	p.fileLimit = func() (uint64, error) { return 100, nil }
	p.root.(fstest.MapFS)["proc/sys/net/ipv4/nexthop_compat_mode"] = &fstest.MapFile{Data: []byte("1\n")}
	p.cfg = &config.Config{Path: defaultConfig}
	p.cfg.Routes = config.Routes{Protocol: 83, Table: 254, Metric: 512, NexthopObjects: true}
	for range 5 {
		p.cfg.Peers = append(p.cfg.Peers, &config.Peer{Sessions: []*config.Session{{}}})
	}
	return diagnose(p, p.look(ctx))
}

// TestDoctorSees: the questions to this machine's kernel are answered, whatever the answers are.
func TestDoctorSees(t *testing.T) {
	p := newPatient("/nonexistent.sock", "/nonexistent.yaml", time.Now())
	d := examine(t.Context(), p)
	if d.Errors == 0 {
		t.Error("a configuration that was named and is not there is no error")
	}
	seen := map[string]bool{}
	for _, f := range d.Findings {
		seen[f.Check] = true
		if strings.HasPrefix(f.Found, "not found out") {
			t.Errorf("%+v", f)
		}
	}
	for _, check := range []string{"configuration", "rights", "wireguard", "tun", "nftables", "forwarding", "nexthop objects", "route protocol", "routes", "clock", "open files", "memory"} {
		if !seen[check] {
			t.Errorf("nothing about %s", check)
		}
	}
}
