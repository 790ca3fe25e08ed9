package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"math"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"sitewire/gateway/config"
	"sitewire/gateway/host"
	"sitewire/gateway/wg/kernel"
)

// one is a check with a single finding.
func one(check string, s severity, found, fix string) []finding {
	return []finding{{check, s, found, fix}}
}

// unread is a check that could not be made.
func unread(check string, err error) []finding {
	return one(check, isNote, "not found out: "+err.Error(), "")
}

// backend is what the configuration asks for; auto without one.
func (p *patient) backend() config.Backend {
	if p.cfg == nil || p.cfg.WireGuard.Backend == "" {
		return config.BackendAuto
	}
	return p.cfg.WireGuard.Backend
}

// setting reads one below /proc/sys; ok is false where the kernel, or this namespace, has none.
func (p *patient) setting(key string) (value int, ok bool) {
	b, err := fs.ReadFile(p.root, "proc/sys/"+key)
	if err != nil {
		return 0, false
	}
	value, err = strconv.Atoi(strings.TrimSpace(string(b)))
	return value, err == nil
}

// place says from where all this is seen.
func (p *patient) place(context.Context) []finding {
	const check = "place"
	for _, mark := range []string{".dockerenv", "run/.containerenv"} {
		if _, err := fs.Stat(p.root, mark); err == nil {
			return one(check, isNote, "this is a container: net.* settings are its own, unless it shares the host's network; modules, the clock and memory are the host's", "")
		}
	}
	own, err1 := fs.ReadLink(p.root, "proc/self/ns/net")
	first, err2 := fs.ReadLink(p.root, "proc/1/ns/net")
	if err1 == nil && err2 == nil && own != first {
		return one(check, isNote, "this network namespace is not that of the machine: net.* settings are its own", "")
	}
	return nil
}

func (p *patient) rights(context.Context) []finding {
	const check = "rights"
	caps, err := p.capabilities()
	if err != nil {
		return unread(check, err)
	}
	const how = "run as root, or with AmbientCapabilities=CAP_NET_ADMIN CAP_NET_BIND_SERVICE in the unit; in a container --cap-add NET_ADMIN"
	var list []finding
	if caps&(1<<unix.CAP_NET_ADMIN) == 0 {
		list = append(list, finding{check, isError, "CAP_NET_ADMIN is missing in this process: devices, addresses and routes cannot be made", how})
	}
	if caps&(1<<unix.CAP_NET_BIND_SERVICE) == 0 && (p.cfg == nil || p.cfg.ASN != 0 && p.cfg.BGP.Port > 0 && p.cfg.BGP.Port < firstFreePort()) {
		list = append(list, finding{check, isError, "CAP_NET_BIND_SERVICE is missing in this process: BGP cannot listen on its port", how})
	}
	if list == nil {
		list = one(check, isOK, "CAP_NET_ADMIN and what BGP's port needs", "")
	}
	return list
}

func (p *patient) wireguard(ctx context.Context) []finding {
	const check = "wireguard"
	err := p.kernelWG(ctx)
	missing, known := errors.AsType[*kernel.Unavailable](err)
	switch {
	case err == nil:
		return one(check, isOK, "the kernel has WireGuard", "")
	case !known:
		return unread(check, err)
	case p.backend() == config.BackendKernel:
		return one(check, isError, missing.Why+", and the configuration wants it", missing.Fix)
	case p.backend() == config.BackendUserspace:
		return one(check, isOK, "the configuration wants userspace WireGuard", "")
	}
	return one(check, isNote, missing.Why+": tunnels run in userspace, and end with the daemon", missing.Fix)
}

func (p *patient) tun(ctx context.Context) []finding {
	const check = "tun"
	needed := p.backend() == config.BackendUserspace || p.backend() == config.BackendAuto && p.kernelWG(ctx) != nil
	features, err := p.tunFeatures()
	switch {
	case err != nil && needed:
		return one(check, isError, "userspace WireGuard needs TUN devices: "+err.Error(),
			"modprobe tun; in a container --device /dev/net/tun; in a systemd unit no PrivateDevices=, or DeviceAllow=/dev/net/tun")
	case err != nil:
		return one(check, isOK, "no TUN devices, and the kernel's WireGuard needs none", "")
	case features&unix.IFF_VNET_HDR == 0:
		return one(check, isWarning, "TUN devices have no segmentation offload (IFF_VNET_HDR): tunnels in userspace will be slow", "use a kernel with a current tun module")
	}
	return one(check, isOK, "TUN devices can be made, with segmentation offload", "")
}

func (p *patient) nft(context.Context) []finding {
	const check = "nftables"
	if err := p.tables(); err != nil {
		return one(check, isWarning, "the kernel's nftables cannot be used ("+err.Error()+"): BGP's port is not guarded, and TCP's segment size is not clamped in tunnels",
			"modprobe nf_tables; a firewall of another kind has to do both")
	}
	return one(check, isOK, "the kernel's nftables can be used", "")
}

func (p *patient) forwarding(ctx context.Context) []finding {
	const check = "forwarding"
	report, err := p.settings(ctx)
	if err != nil {
		return unread(check, err)
	}
	var list []finding
	for _, s := range report {
		list = append(list, finding{check, isWarning, fmt.Sprintf("%s is %s: %s", s.Key, s.Have, s.Why),
			fmt.Sprintf("sysctl -w %s=%s, and a line in /etc/sysctl.d; in a container --sysctl %s=%s", s.Key, s.Want, s.Key, s.Want)})
	}
	if list == nil {
		list = one(check, isOK, "packets of both families are forwarded, and no reverse path filter is in the way", "")
	}
	return list
}

// nexthops tells what the loss of a tunnel costs; the figures are those of docs/performance.md.
func (p *patient) nexthops(context.Context) []finding {
	const check = "nexthop objects"
	if p.cfg != nil && !p.cfg.Routes.NexthopObjects {
		return one(check, isNote, "switched off: when a tunnel is lost, its routes are written one by one, 0.2 s and more for each 100,000", "routes.nexthop_objects: true")
	}
	mode, ok := p.setting("net/ipv4/nexthop_compat_mode")
	switch {
	case !ok:
		return one(check, isNote, "there is no net.ipv4.nexthop_compat_mode: the kernel is older than 5.8", "")
	case mode == 0:
		return one(check, isOK, "net.ipv4.nexthop_compat_mode is 0: the loss of a tunnel is one write, however many routes it had", "")
	case p.cfg != nil && p.cfg.Routes.NexthopCompatOff:
		return one(check, isOK, "net.ipv4.nexthop_compat_mode is 1, and the daemon sets it to 0 when it starts (routes.nexthop_compat_off)", "")
	}
	return one(check, isNote, "net.ipv4.nexthop_compat_mode is 1: when a tunnel is lost packets move at once, but the kernel is then busy with notifications, "+
		"about 50 ms for each 100,000 IPv4 routes and 200 ms for each 100,000 IPv6 routes",
		"sysctl -w net.ipv4.nexthop_compat_mode=0, or routes.nexthop_compat_off: true; `ip route` then shows ids in place of devices")
}

// socketBuffer is what userspace tunnels ask for, in bytes; see package user.
const socketBuffer = 7 << 20

func (p *patient) buffers(ctx context.Context) []finding {
	const check = "socket buffers"
	if caps, err := p.capabilities(); err == nil && caps&(1<<unix.CAP_NET_ADMIN) != 0 {
		return one(check, isOK, "CAP_NET_ADMIN lifts the limits of net.core.rmem_max and wmem_max", "")
	}
	var small []string
	for _, key := range []string{"rmem_max", "wmem_max"} {
		if have, ok := p.setting("net/core/" + key); ok && have < socketBuffer {
			small = append(small, fmt.Sprintf("net.core.%s is %d", key, have))
		}
	}
	if small == nil {
		return nil
	}
	return one(check, isNote, fmt.Sprintf("%s: tunnels in userspace ask for %d, and lose packets in bursts with less", strings.Join(small, ", "), socketBuffer),
		fmt.Sprintf("give the daemon CAP_NET_ADMIN, or sysctl -w net.core.rmem_max=%d net.core.wmem_max=%d", socketBuffer, socketBuffer))
}

// ours is how routes are marked: by the configuration, or by default.
func (p *patient) ours() (protocol uint8, table, metric int) {
	if p.cfg == nil {
		const mainTable, usualMetric = 254, 512
		return host.DefaultProtocol, mainTable, usualMetric
	}
	r := p.cfg.Routes
	return r.Protocol, int(r.Table), int(r.Metric)
}

// protocolName looks for our number where iproute2 does.
func (p *patient) protocolName(context.Context) []finding {
	const check = "route protocol"
	protocol, _, _ := p.ours()
	var files []string
	for _, dir := range []string{"etc/iproute2", "usr/share/iproute2", "usr/lib/iproute2"} {
		files = append(files, dir+"/rt_protos")
		more, _ := fs.Glob(p.root, dir+"/rt_protos.d/*.conf")
		files = append(files, more...)
	}
	for _, file := range files {
		b, err := fs.ReadFile(p.root, file)
		if err != nil {
			continue
		}
		for line := range strings.Lines(string(b)) {
			f := strings.Fields(line)
			if len(f) < 2 {
				continue
			}
			number, err := strconv.ParseUint(f[0], 0, 8)
			switch {
			case err != nil || uint8(number) != protocol:
			case f[1] == "sitewire":
				return one(check, isOK, fmt.Sprintf("%d is called sitewire in /%s", protocol, file), "")
			default:
				return one(check, isWarning, fmt.Sprintf("/%s calls %d %s: another program's routes may be taken for ours", file, protocol, f[1]), "set routes.protocol to a number that nobody uses")
			}
		}
	}
	return one(check, isNote, fmt.Sprintf("%d has no name: `ip route` shows the number", protocol),
		fmt.Sprintf("mkdir -p /etc/iproute2/rt_protos.d && echo \"%d sitewire\" > /etc/iproute2/rt_protos.d/sitewire.conf", protocol))
}

// writers looks for routes of others that would be taken for ours or replaced by ours.
func (p *patient) writers(context.Context) []finding {
	const check = "routes"
	protocol, table, metric := p.ours()
	n, err := p.countRoutes(protocol, table, metric)
	if err != nil {
		return unread(check, err)
	}
	var list []finding
	for _, other := range slices.Sorted(maps.Keys(n.Others)) {
		list = append(list, finding{check, isWarning,
			fmt.Sprintf("%s with protocol %d have our metric %d in table %d: ours to the same prefixes would replace them", plural(n.Others[other], "route"), other, metric, table),
			"set routes.metric to a number that nobody uses in that table"})
	}
	switch {
	case n.Ours > 0 && !p.running:
		list = append(list, finding{check, isNote,
			fmt.Sprintf("%s with our protocol number %d, and no daemon answers: an earlier run left them, or another program uses the number", plural(n.Ours, "route"), protocol),
			"the next start takes them over, and removes what it does not need"})
	case list == nil:
		list = one(check, isOK, fmt.Sprintf("no other program writes routes with our number %d, or with our metric %d in table %d", protocol, metric, table), "")
	}
	return list
}

// oldest is before every build of this program.
var oldest = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

// clockSet: a peer ignores handshakes that are older than the last one it saw (WireGuard's time stamps), until the clock has caught up.
func (p *patient) clockSet(context.Context) []finding {
	const check = "clock"
	const fix = "run chrony, systemd-timesyncd or another client of NTP, and start sitewire after time-sync.target"
	if p.now.Before(oldest) {
		return one(check, isError, "it is "+p.now.UTC().Format(time.RFC3339)+" here: peers refuse handshakes from before the last one that they saw", fix)
	}
	unsynced, err := p.unsynced()
	if err != nil {
		return unread(check, err)
	}
	if unsynced {
		return one(check, isNote, "the kernel says that nothing keeps the clock right; if it is ever set back, peers refuse handshakes until it has caught up", fix)
	}
	return one(check, isOK, "something keeps the clock right", "")
}

// Files that a gateway has open: a device of its own in userspace has a TUN, two UDP sockets, a control socket and its watch, and a namespace; a session
// has one connection, and may have another for a moment.
const filesAlways, filesDevice, filesSession = 64, 8, 2

func (p *patient) openFiles(context.Context) []finding {
	const check = "open files"
	limit, err := p.fileLimit()
	if err != nil {
		return unread(check, err)
	}
	if p.cfg == nil {
		if limit >= 1024 {
			return one(check, isOK, fmt.Sprintf("the limit is %d: enough for about %d tunnels on devices of their own", limit, (limit-filesAlways)/(filesDevice+filesSession)), "")
		}
		return one(check, isWarning, fmt.Sprintf("the limit is %d", limit), "LimitNOFILE=65536 in the unit")
	}
	devices, sessions := p.size()
	need := filesAlways + filesDevice*devices + filesSession*sessions
	found := fmt.Sprintf("the limit is %d, and %s with %s need about %d", limit, plural(devices, "device"), plural(sessions, "session"), need)
	if uint64(need) > limit {
		return one(check, isError, found, fmt.Sprintf("LimitNOFILE=%d in the unit; in a container --ulimit nofile=%d", 2*need, 2*need))
	}
	return one(check, isOK, found, "")
}

// size of what is configured.
func (p *patient) size() (devices, sessions int) {
	shared := false
	for _, peer := range p.cfg.Peers {
		sessions += len(peer.Sessions)
		if peer.Shared {
			shared = true
		} else {
			devices++
		}
	}
	if shared {
		devices++
	}
	return devices, sessions + len(p.cfg.Neighbours)
}

// Memory in bytes: of a gateway without anything, for each session, for each device in userspace, and for each route at the peak, while a table is
// learned. They are the figures of docs/performance.md, rounded up.
const memoryAlways, memorySession, memoryDevice, memoryRoute = 64 << 20, 1 << 20, 2 << 20, 4 << 10

func (p *patient) memory(context.Context) []finding {
	const check = "memory"
	limit, of := cgroupLimit(p.root), "the control group's limit"
	if limit == math.MaxInt64 {
		limit, of = p.installed(), "the machine's memory"
	}
	if limit == 0 {
		return nil
	}
	need, what := int64(memoryAlways), "a gateway"
	if p.cfg != nil {
		devices, sessions := p.size()
		need += int64(devices)*memoryDevice + int64(sessions)*memorySession
		what = fmt.Sprintf("%s and %s", plural(devices, "device"), plural(sessions, "session"))
	}
	room := (limit - need) / memoryRoute
	found := fmt.Sprintf("%s is %s: after about %s for %s, there is room for %d routes", of, bytesText(uint64(limit)), bytesText(uint64(need)), what, max(room, 0))
	const few = 10000
	if room < few {
		return one(check, isWarning, found, "raise MemoryMax= or the container's limit; 1,000,000 routes take about 4 GiB at the peak")
	}
	return one(check, isOK, found, "")
}

// installed is the memory of the machine, in bytes; 0 if it is not told.
func (p *patient) installed() int64 {
	b, err := fs.ReadFile(p.root, path.Join("proc", "meminfo"))
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(b)) {
		if f := strings.Fields(line); len(f) == 3 && f[0] == "MemTotal:" {
			n, err := strconv.ParseInt(f[1], 10, 64)
			if err == nil {
				return n << 10
			}
		}
	}
	return 0
}
